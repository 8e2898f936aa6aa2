"""Every shape of workload against a real server with workers, by several processes of clients; faults on purpose."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hdrh.histogram import HdrHistogram

from bench import drive, summary, tokens
from bench.drive import Options, Stage, Stopped
from bench.harness import BenchError
from bench.run import Runs
from bench.schema import Run, Tick
from bench.workload import Workload, parsed
from tests.support.fake_gateway import FakeGateway
from tests.support.made_reports import report
from tests.support.wide_gateway import wide_gateway

MIX: dict[str, Any] = {
    "name": "mix",
    "title": "everything at once",
    "run": {"warmup_s": 0.3, "window_s": 2.0, "drain_s": 20.0, "deadline_s": 50.0},
    "sessions": {"count": 60, "conversations": 2, "ping_interval_s": 1.0, "slow_share": 0.1, "slow_bytes_per_s": 200},
    "streams": [
        {"name": "dialogs", "shape": "dialog", "conversations": 20, "rate_per_s": 60.0},
        {
            "name": "groups",
            "shape": "group",
            "conversations": 10,
            "members": {"zipf_exponent": 1.8, "min": 3, "max": 40},
            "rate_per_s": 40.0,
            "arrivals": "pauses",
            "pauses_ms": [[0, 10], [0.5, 50], [1, 1_000]],
            "sizes_bytes": [[40, 1], [2_000, 1]],
        },
        {
            "name": "channel",
            "shape": "channel",
            "conversations": 1,
            "members": {"fixed": 60},
            "rate_per_s": 10.0,
            "arrivals": "even",
            "profile": [[0, 0.5], [1, 2.0]],
        },
    ],
    "storm": {"at_s": 1.0, "share": 0.4, "away_s": 0.2},
}
PLAIN: dict[str, Any] = {
    "name": "plain",
    "title": "two groups of ten",
    "run": {"warmup_s": 0.1, "window_s": 0.8, "drain_s": 0.6, "deadline_s": 20.0},
    "sessions": {"count": 10},
    "streams": [{"name": "g", "shape": "group", "conversations": 2, "members": {"fixed": 10}, "rate_per_s": 50.0}],
}
NONE = dict.fromkeys(("doubled", "disordered", "corrupted", "unmatched", "lost", "unanswered", "disconnected"), 0)


class Heard:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.ticks: list[Tick] = []
        self.on_phase: Callable[[str], None] = lambda name: None

    def phase(self, name: str, seconds: float = 0.0) -> None:
        """Noted, and told on."""
        self.phases.append(name.split(maxsplit=1)[0])
        self.on_phase(name)

    def tick(self, tick: Tick, server_cpu_cores: float | None = None) -> None:
        """Noted."""
        self.ticks.append(tick)


def changed(base: dict[str, Any], **more: Any) -> Workload:
    return parsed(base | more, "test")


def test_all_shapes_at_once_by_two_processes_against_two_workers(tmp_path: Path) -> None:
    """Dialogs, groups with bursts and sizes, a channel with a profile, slow readers, pings, and a storm in the midst:
    nothing is lost, doubled or out of order, and the figures fit together."""
    heard = Heard()
    run = drive.run(changed(MIX), Options(workers=2, generators=2, folder=tmp_path), heard)
    assert run.faults == NONE and run.counts["dropped"] == run.counts["resumes"] == 24
    assert set(run.latencies) >= {"hello", "deliver", "receipt", "late", "resume", "deliver channel", "deliver groups"}
    assert run.latencies["hello"].count == 60 and run.latencies["resume"].count == 24
    assert HdrHistogram.decode(run.latencies["deliver"].histogram).get_total_count() == run.latencies["deliver"].count
    assert run.offered_per_s is not None and run.offered_per_s == pytest.approx(100 + 10 * 1.625)
    assert run.rates_per_s["published"] == pytest.approx(run.offered_per_s, rel=0.35)
    assert run.counts["deliveries"] > 3 * run.counts["published"] > 0
    assert heard.phases == ["start", "create", "sign", "connect", "follow", "warm-up", "window", "drain"]
    within = [tick for tick in run.ticks if 0.5 < tick.at_s < 2.5][:2]
    assert [round(tick.at_s) for tick in within] == [1, 2] and sum(
        tick.rates_per_s["resumes"] for tick in run.ticks
    ) > 0
    assert any(tick.heat and tick.p50_ms and tick.p99_ms >= tick.p50_ms for tick in within if tick.p99_ms)
    roles = sorted(process.role for process in run.processes)
    assert roles == ["generator"] * 2 + ["sequencer", "supervisor", "worker", "worker"]
    assert run.generator.processes == 2 and run.saturated and run.values["resumes_per_s"] > 0
    assert not list(tmp_path.iterdir())  # its folder is gone


def test_a_worker_is_killed_and_its_sessions_resume(tmp_path: Path) -> None:
    """kill -9 of one of two: some sessions break, come back, and lack nothing. Then again on the same stage."""
    workload = changed(
        PLAIN,
        run=PLAIN["run"] | {"drain_s": 20.0, "window_s": 1.5, "deadline_s": 40.0},
        sessions={"count": 40},
        storm={"at_s": 0.7, "share": 1.0, "away_s": 0.2},
    )
    options = Options(workers=2, generators=2, folder=tmp_path, kill_worker=True)
    with Stage(workload, options) as stage:
        assert stage.data is not None and stage.data.is_dir() and stage.target.workers == 2
        run = stage.run(workload)
        assert run.faults == NONE and 0 < run.counts["dropped"] == run.counts["resumes"] < 40
        calm = msgspec.structs.replace(workload, storm=None).scaled(rate_per_s=20.0)
        again = stage.run(calm)
    assert again.faults == NONE and again.counts["dropped"] == 0
    assert again.counts["published"] == pytest.approx(30, abs=25)


def test_idle_sessions_cost_memory_and_get_one_broadcast(tmp_path: Path) -> None:
    """Nobody writes; in the end everybody has one event."""
    workload = parsed(
        {
            "name": "idle",
            "title": "idle",
            "run": {"warmup_s": 0.1, "window_s": 0.5, "drain_s": 10.0, "deadline_s": 40.0},
            "sessions": {"count": 150, "conversations": 3, "idle": True},
        },
        "test",
    )
    run = drive.run(workload, Options(workers=0, generators=2, folder=tmp_path))
    assert run.faults == NONE and run.offered_per_s is None
    assert run.values["broadcast_sessions"] == run.latencies["deliver"].count == 150
    assert 0 < run.values["broadcast_p50_ms"] <= run.values["broadcast_last_ms"]
    assert run.values["connects_per_s"] > 0 and {"session_user_bytes", "session_kernel_bytes"} <= run.values.keys()


# --- faults on purpose ------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """A naive one."""
    with wide_gateway() as server:
        yield server


def key_in(folder: Path) -> Path:
    path = folder / "key.pem"
    path.write_bytes(tokens.new_key())
    return path


def against(server: FakeGateway, folder: Path, workload: Workload, heard: Heard | None = None) -> Run:
    options = Options(target=server.url, token_key=key_in(folder), generators=2, folder=folder)
    return drive.run(workload, options, heard)


def once(change: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Callable[[Any, dict[str, Any]], Any]:
    """Of what user 3 gets, the fifth message."""
    seen: list[int] = []

    def tamper(session: Any, event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["type"] != "message" or session.user != 3:
            return [event]
        seen.append(event["sequence"])
        return change(event) if len(seen) == 5 else [event]

    return tamper


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("lost", lambda event: []),
        ("doubled", lambda event: [event, event]),
        ("corrupted", lambda event: [{**event, "payload": event["payload"][:-1] + b"?"}]),
        ("corrupted", lambda event: [{**event, "payload": event["payload"][:-1]}]),
        ("corrupted", lambda event: [{**event, "counter": event["counter"] + 1}]),
    ],
)
def test_a_fault_of_the_server_is_counted(
    gateway: FakeGateway, tmp_path: Path, fault: str, change: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    """One, of one event at one session, although its writer is in another process; and nothing else."""
    gateway.tamper = once(change)
    run = against(gateway, tmp_path, changed(PLAIN))
    assert run.faults == NONE | {fault: 1}


def test_disorder_and_refusals_are_told_apart(gateway: FakeGateway, tmp_path: Path) -> None:
    """Two events of different conversations change places: one is out of order, and none is lost but it."""
    held: list[dict[str, Any]] = []

    def tamper(session: Any, event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["type"] != "message" or session.user != 3:
            return [event]
        held.append(event)
        if len(held) == 5:
            return []
        return [event, held[4]] if len(held) == 6 else [event]

    gateway.tamper = tamper
    gateway.refuse = lambda said: ("limited", 0) if said["op"] == "publish" and said["counter"] % 7 == 0 else None
    run = against(gateway, tmp_path, changed(PLAIN))
    assert run.faults["disordered"] + run.faults["doubled"] == run.faults["lost"] == 1
    assert run.counts["refused"] > 0 and run.latencies["refused"].count == run.counts["refused"]


def test_a_server_that_ends_everybody_leaves_a_partial_run(gateway: FakeGateway, tmp_path: Path) -> None:
    """Said with the server's own words; what was measured until then is there."""
    heard = Heard()
    heard.on_phase = lambda name: (
        threading.Timer(0.5, lambda: gateway.close_all(4001, "going down")).start() if name == "window" else None
    )
    workload = changed(PLAIN, run=PLAIN["run"] | {"window_s": 10.0})
    with pytest.raises(Stopped, match=r"ended all 10 sessions.*4001.*going down") as stopped:
        against(gateway, tmp_path, workload, heard)
    run = stopped.value.run
    assert run is not None and run.counts["published"] > 0 and run.latencies["deliver"].count > 0
    assert run.faults["disconnected"] == 10 and 0 < run.window_s < 5


def test_a_target_that_dies_is_not_said_to_have_ended_sessions(gateway: FakeGateway, tmp_path: Path) -> None:
    """All connections break without a close frame; the summary has faults in words, and no server's processes."""
    heard = Heard()
    heard.on_phase = lambda name: threading.Timer(0.5, gateway.break_all).start() if name == "window" else None
    workload = changed(PLAIN, run=PLAIN["run"] | {"window_s": 10.0})
    with pytest.raises(Stopped, match="all 10 connections broke without a close frame: the server died") as stopped:
        against(gateway, tmp_path, workload, heard)
    run = stopped.value.run
    assert run is not None
    runs = Runs(workload, Options(target=gateway.url), 1)
    runs.runs.append(run)
    assert "10 disconnected" in runs.conclusions()[0] and "{" not in runs.conclusions()[0]
    assert "server not watched (--target)" in dict(summary.lines(report("run", runs=[run])))["processes"]


def test_a_process_of_clients_that_dies_ends_the_run(gateway: FakeGateway, tmp_path: Path) -> None:
    """Named; the other one's figures are kept."""
    workload = changed(PLAIN, run=PLAIN["run"] | {"window_s": 10.0})
    options = Options(target=gateway.url, token_key=key_in(tmp_path), generators=2, folder=tmp_path)
    heard = Heard()
    with Stage(workload, options, heard) as stage:

        def kill() -> None:
            os.kill(stage.watched()[1].pid, signal.SIGKILL)

        heard.on_phase = lambda name: threading.Timer(0.4, kill).start() if name == "window" else None
        with pytest.raises(Stopped, match=r"generator 2 died \(exit -9\)") as stopped:
            stage.run(workload)
    assert stopped.value.run is not None and stopped.value.run.counts["published"] > 0


def test_a_server_of_ours_that_dies_is_named(tmp_path: Path) -> None:
    """By its last words."""
    workload = changed(PLAIN, run=PLAIN["run"] | {"window_s": 10.0})
    heard = Heard()
    with Stage(workload, Options(workers=0, folder=tmp_path), heard) as stage:
        pid = stage.watched()[0].pid
        heard.on_phase = lambda name: (
            threading.Timer(0.3, lambda: os.kill(pid, signal.SIGKILL)).start() if name == "window" else None
        )
        began = time.monotonic()
        with pytest.raises(Stopped, match=r"the server has ended by itself|all 10 connections broke") as stopped:
            stage.run(workload)
        assert stopped.value.run is not None and time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls": True}, r"slow_share = 0.1 over TLS"),
        ({"workers": 1}, r"--workers 1 can't hold 100,000 sessions.*at least --workers 7"),
        ({"generators": 2}, r"--generators 2: must be 6 to 220 for 100,000 sessions"),
        ({"generators": 500}, r"--generators 500: must be 6 to 220"),
    ],
)
def test_what_can_t_be_is_refused_before_anything_starts(options: dict[str, Any], words: str) -> None:
    """With what would do."""
    with pytest.raises(BenchError, match=words):
        Stage(changed(PLAIN, sessions={"count": 100_000, "slow_share": 0.1}), Options(**options))


@pytest.mark.parametrize(
    ("target", "key", "words"),
    [
        ("http://127.0.0.1:1", True, "must be ws://HOST:PORT"),
        ("ws://127.0.0.1", True, "must be ws://HOST:PORT"),
        ("ws://127.0.0.1:1/v1", False, "--token-key PATH"),
        ("ws://127.0.0.1:1/v1", True, "nobody answers"),
        ("ws://nowhere.invalid:1/v1", True, "nowhere.invalid"),
    ],
)
def test_targets_that_can_t_be_are_refused(tmp_path: Path, target: str, key: bool, words: str) -> None:
    """One line that says what is wanted."""
    options = Options(target=target, token_key=key_in(tmp_path) if key else None, folder=tmp_path)
    with pytest.raises(BenchError, match=words):
        Stage(changed(PLAIN), options).__enter__()
