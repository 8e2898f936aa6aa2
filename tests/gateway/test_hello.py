"""From connect to live: tokens, versions, devices that replace each other, resume, refresh, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import ENCODINGS, Device, GatewayProcess, running
from tests.support.tokens import Issuer

NewUser = Callable[[], int]
both_encodings = pytest.mark.parametrize("encoding", ENCODINGS)


@both_encodings
def test_welcome_says_what_a_client_needs(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    user = new_user()
    device = gateway.device(user, 42, encoding)
    welcome = device.welcome
    assert (welcome["user"], welcome["device"], welcome["protocol"], welcome["counter"]) == (user, 42, 1, 0)
    assert welcome["durability"] and welcome["server"] and welcome["ping_interval_s"] == 30
    assert abs(welcome["time"] / 1e6 - time.time()) < 60 and welcome["expires"] > time.time()
    assert welcome["limits"]["payload_bytes_max"] == 65_536 and welcome["limits"]["unanswered_max"] == 64
    (shard,) = welcome["shards"]
    assert set(shard) == {"shard", "epoch", "sequence"}
    assert device.expect("live")["positions"][0]["epoch"] == shard["epoch"]


@both_encodings
def test_resume_gives_exactly_what_was_missed(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    a, b = new_user(), new_user()
    sender, receiver = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    group = sender.group(b)
    sender.write("publish", conversation=group, text="seen")
    last = receiver.expect("event", type="message")["sequence"]
    positions = [{**receiver.welcome["shards"][0], "sequence": last}]
    receiver.close()
    missed = [sender.write("publish", conversation=group, text=str(n))["sequence"] for n in range(40)]
    missed.append(sender.write("publish", user=b, text="dialog")["sequence"])
    back = gateway.device(b, 1, encoding, positions)
    live = back.expect("live")
    events = [push for push in back.backlog if push["op"] == "event"]
    assert [event["sequence"] for event in events if event["type"] == "message"] == missed
    assert len(events) == len(missed) + 1  # and the dialog's creation
    assert [event["sequence"] for event in events] == sorted(event["sequence"] for event in events)
    assert live["positions"][0]["sequence"] >= missed[-1]
    back.backlog.clear()
    receipt = sender.write("publish", conversation=group, text="live")
    assert back.expect("event")["sequence"] == receipt["sequence"]


@both_encodings
def test_a_removed_member_resumes_to_the_removal_and_no_further(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b = new_user(), new_user()
    sender, receiver = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    group = sender.group(b)
    receiver.expect("event", type="conversation.created")
    positions = receiver.expect("live")["positions"]
    receiver.close()
    sender.write("publish", conversation=group, text="1")
    removal = sender.write("remove", conversation=group, user=b)["sequence"]
    sender.write("publish", conversation=group, text="hidden")
    sender.write("add", conversation=group, user=b)
    sender.write("publish", conversation=group, text="2")
    back = gateway.device(b, 1, encoding, positions)
    back.expect("live")
    events = [push for push in back.backlog if push["op"] == "event"]
    assert [event["type"] for event in events if event["sequence"] > positions[0]["sequence"]] == [
        event["type"] for event in events
    ]
    assert [(event["type"], event.get("payload")) for event in events if event["type"] != "conversation.created"] == [
        ("message", b"1"),
        ("member.removed", None),
        ("member.added", None),
        ("message", b"2"),
    ]
    assert removal in [event["sequence"] for event in events]
    back.send("history", conversation=group, limit=100)
    texts = [event.get("payload") for event in back.expect("history")["events"]]
    assert b"hidden" not in texts and b"1" in texts and b"2" in texts


@both_encodings
def test_too_much_missed_is_a_gap_that_history_fills(data: Path, encoding: str) -> None:
    with running(
        data,
        **{
            "fanout.resume_events_max": 20,
            "fanout.gap_newest_events": 5,
            "gateway.rate_per_s": 10_000,
            "gateway.rate_burst": 10_000,
        },
    ) as gateway:
        sender, receiver = gateway.device(1, 1, encoding), gateway.device(2, 1, encoding)
        group = sender.group(2)
        positions = [receiver.welcome["shards"][0]]
        receiver.close()
        sequences = [sender.write("publish", conversation=group, text=str(n))["sequence"] for n in range(60)]
        dialog = sender.write("publish", user=2, text="small")["sequence"]
        back = gateway.device(2, 1, encoding, positions)
        back.expect("live")
        gap = next(push for push in back.backlog if push["op"] == "gap")
        assert gap["conversation"] == group
        newest = [event["sequence"] for event in gap["newest"]]
        assert newest == sequences[-1 : -len(newest) - 1 : -1] and newest
        found, before = list(newest), gap["next"]
        while before is not None:
            back.send("history", conversation=group, before=before, limit=100)
            page = back.expect("history")
            found += [event["sequence"] for event in page["events"] if gap["after"] < event["sequence"] < gap["before"]]
            before = page["next"]
        assert found[:-1] == sequences[::-1]  # the last one is the creation
        assert dialog in [push["sequence"] for push in back.backlog if push["op"] == "event"]


@both_encodings
def test_a_position_of_another_history_is_reset(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    user = new_user()
    shard = gateway.device(user, 1, encoding).welcome["shards"][0]
    beyond = gateway.device(user, 1, encoding, [{**shard, "sequence": 10**12}])
    reset = beyond.expect("reset")
    assert (reset["shard"], reset["epoch"]) == (shard["shard"], shard["epoch"]) and reset["sequence"] < 10**12
    assert beyond.expect("live")["positions"][0]["sequence"] >= reset["sequence"]
    foreign = gateway.device(user, 1, encoding, [{**shard, "epoch": 77, "sequence": 3}])
    assert foreign.expect("reset")["sequence"] == 0
    foreign.expect("live")


@both_encodings
def test_positions_that_can_not_be_are_named_and_hello_may_be_said_again(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    user = new_user()
    one = {"shard": 0, "epoch": 1, "sequence": 0}
    device = Device(gateway.url, encoding)
    for positions in ([one, one], [{**one, "shard": 9}]):
        device.send("hello", token=gateway.token(user), device=1, protocol=1, positions=positions)
        assert device.expect("error")["code"] == "bad_position"
    device.hello(gateway.token(user))
    device.expect("live")


@both_encodings
def test_a_device_that_reconnects_replaces_its_session(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    user = new_user()
    first, other = gateway.device(user, 1, encoding), gateway.device(user, 2, encoding)
    second = gateway.device(user, 1, encoding)
    assert first.closed() == (4500, "replaced")
    receipt = second.write("publish", user=new_user(), text="x")
    for device in (second, other):
        assert device.expect("event", type="message")["sequence"] == receipt["sequence"]


@both_encodings
def test_sessions_of_a_user_are_limited(data: Path, encoding: str) -> None:
    with running(data, **{"gateway.sessions_per_user_max": 2}) as gateway:
        kept = [gateway.device(1, device, encoding) for device in (1, 2)]
        third = Device(gateway.url, encoding)
        third.send("hello", token=gateway.token(1), device=3, protocol=1)
        assert third.expect("error")["code"] == "too_many_sessions"
        assert third.closed() == (4504, "too_many_sessions")
        again = gateway.device(1, 2, encoding)
        assert kept[1].closed()[0] == 4500
        kept[0].close()
        again.settled()
        deadline = time.monotonic() + 5
        while True:  # the server may learn of the closing a moment later
            fourth = Device(gateway.url, encoding)
            fourth.send("hello", token=gateway.token(1), device=4, protocol=1)
            if fourth.receive()["op"] == "welcome":
                break
            assert time.monotonic() < deadline


ISSUER = Issuer()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway with a key file."""
    base = tmp_path_factory.mktemp("keyed")
    with running(base / "data", **{"auth.keys": ISSUER.write(base / "keys.json")}) as gateway:
        yield gateway
        log = gateway.log()
        assert "Traceback" not in log and "eyJ" not in log  # no token in a log line


@both_encodings
@pytest.mark.parametrize(
    ("fields", "code", "close"),
    [
        ({"token": ISSUER.token(5, exp=int(time.time()) - 99)}, "token_expired", 4003),
        ({"token": ISSUER.token(5, aud="elsewhere")}, "bad_token", 4501),
        ({"token": Issuer().token(5)}, "bad_token", 4501),
        ({"token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiI1In0."}, "bad_token", 4501),
        ({"token": ""}, "bad_token", 4501),
        ({"token": ISSUER.token(5, device=9)}, "bad_token", 4501),
        ({"protocol": 0}, "client_too_old", 4502),
        ({"device": 0}, "bad_field", 4503),
        ({"device": "1"}, "bad_field", 4503),
        ({"token": 7}, "bad_field", 4503),
        ({"client": "x" * 129}, "bad_field", 4503),
        ({"positions": [{"shard": 0, "epoch": 1}]}, "bad_field", 4503),
        ({"op": "ping"}, "hello_first", 4503),
        ({"op": "publish", "counter": 1, "user": 6, "text": "x"}, "hello_first", 4503),
        ({"op": "publish", "counter": 1, "user": 6, "payload": b"x"}, "hello_first", 4503),
        ({"op": "read", "conversation": 1, "conversation_sequence": 1}, "hello_first", 4503),
        ({"op": "typing", "conversation": 1}, "hello_first", 4503),
        ({"op": "dance"}, "hello_first", 4503),
    ],
)
def test_a_bad_beginning_ends_with_its_reason_and_nobody_notices(
    keyed: GatewayProcess, encoding: str, fields: dict[str, Any], code: str, close: int
) -> None:
    witness = Device(keyed.url, encoding)
    witness.hello(ISSUER.token(1))
    device = Device(keyed.url, encoding)
    device.send(**{"op": "hello", "token": ISSUER.token(5, "ec"), "device": 1, "protocol": 1, **fields})
    ended, reason = device.closed()
    (error,) = device.backlog
    assert (error["op"], error["code"], ended) == ("error", code, close), (error, ended, reason)
    assert reason.split(";")[0] and error["hint"]
    if code == "bad_field":
        assert next(iter(fields)) in error["message"], error
    assert {push["op"] for push in witness.settled()} <= {"live"}
    witness.close()


@both_encodings
def test_refresh_inside_the_connection(keyed: GatewayProcess, encoding: str) -> None:
    device = Device(keyed.url, encoding)
    now = int(time.time())
    device.hello(ISSUER.token(20, "rsa", exp=now + 60))
    device.expect("live")
    device.send("refresh", token=ISSUER.token(20, "ec", exp=now + 600), id="r")
    assert device.expect("refreshed") == {"op": "refreshed", "expires": now + 630, "id": "r"}
    device.send("hello", token=ISSUER.token(20), device=1, protocol=1)
    assert device.expect("error")["code"] == "hello_again"
    device.send("refresh", token=ISSUER.token(21))
    assert device.closed()[0] == 4501


@both_encodings
def test_a_session_ends_with_its_token_unless_refreshed(tmp_path: Path, encoding: str) -> None:
    keys = ISSUER.write(tmp_path / "keys.json")
    with running(tmp_path / "data", **{"auth.keys": keys, "auth.leeway_s": 0}) as gateway:
        now = int(time.time())
        short, refreshed = Device(gateway.url, encoding), Device(gateway.url, encoding)
        short.hello(ISSUER.token(1, exp=now + 3))
        refreshed.hello(ISSUER.token(2, exp=now + 3))
        refreshed.send("refresh", token=ISSUER.token(2, exp=now + 900))
        refreshed.expect("refreshed")
        assert short.closed() == (4003, "token_expired")
        time.sleep(1.5)
        refreshed.settled()


def test_a_changed_key_file_is_taken_while_running(tmp_path: Path) -> None:
    keys, other = ISSUER.write(tmp_path / "keys.json"), Issuer()
    with running(tmp_path / "data", **{"auth.keys": keys}) as gateway:
        kept = Device(gateway.url)
        kept.hello(ISSUER.token(1))
        other.write(keys)
        deadline = time.monotonic() + 10
        while gateway.metric("gonets_token_keys") and time.monotonic() < deadline:
            device = Device(gateway.url)
            device.send("hello", token=other.token(2), device=1, protocol=1)
            if device.receive()["op"] == "welcome":
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the new keys were not taken")
        kept.settled()
        keys.write_text("{")
        time.sleep(1.5)
        late = Device(gateway.url)
        late.hello(other.token(3))
        assert "unusable" in gateway.log()


@both_encodings
def test_no_positions_in_a_list_are_none_and_the_version_in_force_is_told(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    device = Device(gateway.url, encoding)
    device.send("hello", token=gateway.token(new_user()), device=1, protocol=9, client="x" * 128, positions=[])
    welcome = device.expect("welcome")
    assert welcome["protocol"] == 1
    assert device.expect("live")["positions"] == welcome["shards"]


def test_a_service_s_token_opens_no_session(gateway: GatewayProcess) -> None:
    """What its scope allows, only the backends' door asks: here it would be its user, who may everything."""
    device = Device(gateway.url)
    device.send("hello", token=gateway.service_token("read:order"), device=1, protocol=1)
    code, reason = device.closed()
    assert code == 4501 and "bad_token" in reason
