"""The replay must pass a good server and fail a bad one, for the right count.

The bad servers are the fake of tests/support with one thing wrong at a time; what the real one must stand, sockets cut
and processes killed, is in test_replay_end_to_end.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import replay, trace
from bench.replay_drive import ReplayError
from bench.replay_plan import Cast, waves
from gateway.auth import DEVELOPMENT_KEY, development_key
from tests.support.fake_gateway import FakeGateway, Session

COUNTS = ("missing", "duplicated", "out_of_order", "corrupted")
Tamper = Callable[[Session, dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture
def fake() -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        yield gateway


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(2):
        (folder / f"day {number}.log").write_bytes(trace.generate(number, "", 50, 8))
    return folder


def run(fake: FakeGateway, path: Path, speed: float | None = None, devices: int = 2) -> dict[str, Any]:
    key = path.parent / "key"
    development_key(key)
    return replay.run(path, fake.url, speed, devices, False, 1, key / DEVELOPMENT_KEY)


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in COUNTS if report[name]}


def test_a_good_server_passes(fake: FakeGateway, logs: Path) -> None:
    report = run(fake, logs)
    assert set(report) == {
        "events",
        "expected",
        "deliveries",
        *COUNTS,
        "publish_to_deliver_ms",
        "seconds",
        "durability",
        "filesystem",
    }
    assert set(report["publish_to_deliver_ms"]) == {"p50", "p99", "p999", "max"}
    assert replay.passed(report) and report["events"] == len(fake.events)
    plans = [trace.plan(one) for one in trace.load(logs)[0]]
    said = [step.text for plan in plans for step in plan.steps if step.kind == "say"]
    assert sorted(e["payload"] for e in fake.events if e["type"] == "message") == sorted(said)
    expected = 0
    for event in fake.events:
        members = {
            user
            for (conversation, user), _ in fake.intervals.items()
            if conversation == event["conversation"] and fake._sees(user, event)
        }
        keeper = next(e["sender"] for e in fake.events if e["conversation"] == event["conversation"])
        expected += 2 * len(members) - (keeper in members)
    assert report["deliveries"] == expected
    encodings = [hello["device"] for hello in fake.hellos]
    assert len(encodings) == len({(h["token"], h["device"]) for h in fake.hellos})


@pytest.mark.parametrize("kind", ["join", "say"])
def test_order_of_each_file_is_kept(fake: FakeGateway, logs: Path, kind: str) -> None:
    run(fake, logs, devices=1)
    for plan in [trace.plan(one) for one in trace.load(logs)[0]]:
        said = [step.text for step in plan.steps if step.kind == "say"]
        first = next(e for e in fake.events if e["type"] == "conversation.created" and e["data"]["title"] == plan.name)
        stored = [e for e in fake.events if e["conversation"] == first["conversation"]][1:]
        names = {"message": "say", "member.added": "join", "member.left": "leave"}
        assert [names[e["type"]] for e in stored] == [step.kind for step in plan.steps]
        assert [e["payload"] for e in stored if e["type"] == "message"] == said


def once(change: Tamper, skip: int = 40) -> Tamper:
    """Applies a change to one delivery of a message, somewhere in the middle."""
    number = itertools.count()

    def tamper(session: Session, event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["type"] == "message" and event["payload"] and next(number) == skip:
            return change(session, event)
        return [event]

    return tamper


def other(event: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**event, **fields}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda session, event: [], {"missing": 1}),
        (lambda session, event: [event, event], {"duplicated": 1}),
        (lambda session, event: [other(event, payload=event["payload"] + b"!")], {"corrupted": 1}),
        (lambda session, event: [other(event, payload=event["payload"][:-1])], {"corrupted": 1}),
        (lambda session, event: [other(event, sender=event["sender"] + 1)], {"corrupted": 1}),
        (lambda session, event: [other(event, previous=event["previous"] + 1)], {"corrupted": 1}),
        (lambda session, event: [other(event, time=event["time"] + 1)], {"corrupted": 1}),
        (lambda session, event: [other(event, conversation=event["conversation"] + 7)], {"corrupted": 1}),
    ],
)
@pytest.mark.parametrize("skip", [0, 41])
def test_one_bad_delivery_is_found(
    fake: FakeGateway, logs: Path, change: Tamper, verdict: dict[str, int], skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STALL_S", 0.5)
    fake.tamper = once(change, skip)
    report = run(fake, logs)
    assert not replay.passed(report)
    found = counts(report)
    assert set(found) == set(verdict)
    assert skip == 0 or found == verdict  # where the first of all is wrong, all that follow differ from it


def test_swapped_deliveries_are_found(fake: FakeGateway, logs: Path) -> None:
    held: list[tuple[Session, dict[str, Any]]] = []
    number = itertools.count()

    def swap(session: Session, event: dict[str, Any]) -> list[dict[str, Any]]:
        if held and held[0][0] is session:
            return [event, held.pop()[1]]
        if next(number) == 50:
            held.append((session, event))
            return []
        return [event]

    fake.tamper = swap
    assert counts(run(fake, logs)) == {"out_of_order": 1} and not held


def test_a_leak_is_found(fake: FakeGateway, logs: Path) -> None:
    """Somebody who has left goes on receiving."""
    sees = fake._sees
    fake._sees = lambda user, event: (  # type: ignore[method-assign]
        sees(user, event)
        or (any(last < event["sequence"] for _, last in fake.intervals.get((event["conversation"], user), ())))
    )
    report = run(fake, logs)
    assert report["corrupted"] > 0 and report["deliveries"] > report["expected"]


def test_a_write_stored_twice_is_found(fake: FakeGateway, logs: Path) -> None:
    store, number = fake._store, itertools.count()

    def twice(session: Session, command: dict[str, Any]) -> dict[str, Any]:
        if command["op"] == "publish" and next(number) == 20:
            store(session, command)
        return store(session, command)

    fake._store = twice  # type: ignore[method-assign]
    report = run(fake, logs)
    assert report["duplicated"] > 0 and not replay.passed(report)


def test_breaks_refusals_and_gaps_are_lived_through(fake: FakeGateway, logs: Path) -> None:
    number = itertools.count()
    fake.swallow = lambda command: next(number) % 30 == 29
    fake.refuse = lambda command: ("rate_limited", 5) if next(number) % 17 == 0 else None
    fake.gap_over = 3
    report = run(fake, logs)
    assert replay.passed(report), report
    assert len(fake.hellos) > len({(hello["token"], hello["device"]) for hello in fake.hellos})


def test_pauses_are_scaled(fake: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"[10:00] <a> 1\n[10:02] <b> 2\n[10:03] <a> 3\n")
    assert 1.0 <= run(fake, path, speed=180)["seconds"] < 10  # of three minutes
    assert run(fake, path)["seconds"] < 1.0


def test_waves_hold_the_limit_of_sessions(fake: FakeGateway, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = Cast([trace.plan(one) for one in trace.load(logs)[0]], 2, 1)
    largest = max(len(group.devices) for group in cast.groups)
    assert len(waves(cast.groups, largest)) == 2
    with pytest.raises(trace.TraceError, match="ulimit"):
        waves(cast.groups, largest - 1)
    monkeypatch.setattr(replay, "SESSIONS_MAX", largest)
    assert replay.passed(run(fake, logs))


def test_groups_too_large_are_refused() -> None:
    crowd = trace.parse(b"".join(b"[10:00] <n%d> x\n" % n for n in range(5_000)))
    with pytest.raises(trace.TraceError, match="5000 people at once"):
        Cast([trace.plan(crowd)], 1, 1)
    large = trace.parse(b"".join(b"[10:00] <n%d> x\n" % n for n in range(3_000)))
    steps = Cast([trace.plan(large)], 1, 1).groups[0].steps
    assert len(steps[0].group.start) == 1_000 and [step.kind for step in steps[1:2_001]] == ["join"] * 2_000


def test_command_line(fake: FakeGateway, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = logs.parent / "key"
    development_key(key)
    replay.replay(trace=logs, url=fake.url, as_json=True, token_key=key / DEVELOPMENT_KEY)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and json.loads(out)["missing"] == 0
    fake.tamper = once(lambda session, event: [event, event])
    with pytest.raises(SystemExit) as ended:
        replay.replay(trace=logs, url=fake.url, as_json=True, token_key=key / DEVELOPMENT_KEY)
    assert ended.value.code == 1 and json.loads(capsys.readouterr().out)["duplicated"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ws://127.0.0.1:1/v1"}, "--token-key"),
        ({"speed": "fast"}, "--speed fast"),
        ({"speed": "0"}, "--speed 0"),
        ({"devices_per_user": 0}, "1 to 16"),
        ({"url": "ws://x", "chaos": True}, "--chaos"),
        ({"trace": Path("/nowhere")}, "/nowhere can't be read"),
        ({"url": "http://x/", "token_key": Path(__file__)}, "ws://"),
        ({"url": "ws://127.0.0.1:1/v1", "token_key": Path(__file__)}, "no private key"),
        ({"token_key": Path("/nowhere")}, "--token-key '/nowhere' can't be read: No such file"),
        ({"token_key": Path("/")}, "--token-key '/' can't be read: Is a directory"),
    ],
)
def test_bad_options_are_one_clear_line(
    options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        replay.replay(**options)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_final_close_ends_the_replay(fake: FakeGateway, logs: Path) -> None:
    fake.fail = lambda command: {"code": "bad_field", "message": "m", "hint": "h", "retryable": False}
    with pytest.raises(ReplayError, match="bad_field"):
        run(fake, logs)
