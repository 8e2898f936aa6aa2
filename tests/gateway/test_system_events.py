"""Clients and the engine's own events: none can be written, none is seen, and where they are looks like nowhere.

The log has a system conversation before the gateway starts; whatever a client asks of it is asked of an id that
isn't there too, and the answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from engine import schema
from engine.answers import pack_proposal
from engine.conversations import system_conversation
from engine.log.check import check_log
from tests.support.engine_rig import EngineRig
from tests.support.gateway import ENCODINGS, Device, GatewayProcess

SYSTEM = system_conversation(0)
NOWHERE = 10**12
PAUSED = schema.pack(schema.SubscriptionPaused("mail"))
BOTH = pytest.mark.parametrize("encoding", ENCODINGS)
SERVICE = 7  # the user whose service wrote into it


@pytest.fixture(name="gateway", scope="module")
def _gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    data = tmp_path_factory.mktemp("system") / "data"
    rig = EngineRig(data)
    own = pack_proposal(SERVICE, 0, 0, 0, schema.SUBSCRIPTION_PAUSED, PAUSED, system=True)
    assert [answer.sequence for answer in rig.ask(own)] == [2]
    rig.close()
    with GatewayProcess(data) as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]
    report = check_log(data)
    assert report["problems"] == []
    assert _own_events(data) == 2, "a client has written where it can't"


def _own_events(data: Path) -> int:
    rig = EngineRig(data)
    conversation_sequence: int = rig.engine.view().head(SYSTEM)[1]
    rig.close()
    return conversation_sequence


@BOTH
@pytest.mark.parametrize("where", [{"conversation": SYSTEM}, {"user": 5}, "group"])
def test_its_types_are_refused(gateway: GatewayProcess, encoding: str, where: Any) -> None:
    """In every shape of a publish: the native path's, and those that Python decodes."""
    device = gateway.device(SERVICE, 1, encoding)
    target = {"conversation": device.group()} if where == "group" else where
    for name in sorted(schema.SYSTEM | {"admin.refused", "subscription.", "admin.", "subscription.x"}):
        for more in ({"payload": PAUSED}, {"text": "x"}, {"payload": PAUSED, "expected": 2}, {"target": 2}):
            receipt = device.write("publish", type=name, **target, **more)
            assert (receipt["status"], receipt["conversation"], receipt["sequence"]) == ("bad_type", 0, 0), receipt
    assert [push["type"] for push in device.settled() if push["op"] == "event"] in ([], ["conversation.created"])
    device.close()


def _receipt(device: Device, op: str, conversation: int, **fields: Any) -> dict[str, Any]:
    receipt = device.write(op, conversation=conversation, **fields)
    return {name: value for name, value in receipt.items() if name != "counter"}


@BOTH
@pytest.mark.parametrize("user", [1, SERVICE])
def test_no_command_reaches_its_conversation(gateway: GatewayProcess, encoding: str, user: int) -> None:
    """Every write, with the receipt of an id that isn't there; of its writer too."""
    device = gateway.device(user, 2, encoding)
    writes: list[tuple[str, dict[str, Any]]] = [
        ("publish", {"text": "x"}),
        ("publish", {"payload": b"x", "expected": 2}),
        ("publish", {"type": "message.edited", "target": 2, "text": "x"}),
        ("publish", {"type": "message.deleted", "target": 2}),
        ("publish", {"type": "message.reaction", "target": 2, "text": "x"}),
        ("add", {"user": 5}),
        ("add", {"user": user, "role": "owner"}),
        ("remove", {"user": SERVICE}),
        ("leave", {}),
        ("role", {"user": user, "role": "owner"}),
        ("rename", {"title": "mine"}),
        ("close", {}),
        ("follow", {}),
        ("unfollow", {}),
    ]
    for op, fields in writes:
        receipt = _receipt(device, op, SYSTEM, **fields)
        assert receipt["status"] == "unknown_conversation", (op, receipt)
        assert receipt == _receipt(device, op, NOWHERE, **fields)
    device.close()


def _answer(device: Device, op: str, conversation: int, **fields: Any) -> dict[str, Any]:
    device.send(op, conversation=conversation, id="q", **fields)
    error = device.expect("error")
    return {**error, "message": error["message"].replace(str(conversation), "…")}


@BOTH
@pytest.mark.parametrize("user", [1, SERVICE])
def test_no_question_shows_it(gateway: GatewayProcess, encoding: str, user: int) -> None:
    """Neither by its id, nor in a list, nor in a resume from the log's beginning."""
    device = gateway.device(user, 3, encoding)
    questions: list[tuple[str, dict[str, Any]]] = [
        ("history", {}),
        ("history", {"before": 3, "limit": 1}),
        ("members", {}),
        ("delivered", {"conversation_sequence": 1}),
        ("read", {"conversation_sequence": 2}),
    ]
    for op, fields in questions:
        error = _answer(device, op, SYSTEM, **fields)
        assert error["code"] == "unknown_conversation"
        assert error == _answer(device, op, NOWHERE, **fields)
    for conversation in (SYSTEM, NOWHERE):
        device.send("typing", conversation=conversation)
        device.send("presence", conversation=conversation, status="away")
    device.send("conversations", id="c", former=True)
    assert SYSTEM not in [item["conversation"] for item in device.expect("conversations", id="c")["items"]]
    assert [push for push in device.settled() if push["op"] == "error"] == []
    device.close()
    resumed = gateway.device(user, 3, encoding, positions=[{"shard": 0, "epoch": 1, "sequence": 0}])
    resumed.expect("live")
    assert [push for push in resumed.settled() if push.get("conversation") == SYSTEM] == []
    resumed.close()


@BOTH
def test_a_client_can_create_none(gateway: GatewayProcess, encoding: str) -> None:
    """The kind has no command."""
    device = gateway.device(1, 4, encoding)
    device.send("create", counter=900, kind="system", title="mine", id="q")
    error = device.expect("error", id="q")
    assert error["code"] == "bad_field" and "kind" in error["message"]
    device.close()


def test_what_is_no_field_of_a_publish_changes_nothing(gateway: GatewayProcess) -> None:
    """Flags, a device or a sender that a client makes up are passed over: the proposal is its own."""
    device = gateway.device(1, 5)
    made_up = {"flags": 4, "system": True, "device": 0, "sender": SERVICE, "origin": 1, "key": b"k" * 16}
    device.socket.send(msgpack.packb({"op": "publish", "counter": 1, "user": 6, "payload": b"x", **made_up}))
    assert device.expect("receipt", counter=1)["status"] == "appended"
    event = device.expect("event", type="message")
    assert (event["sender"], event["device"], event["counter"]) == (1, 5, 1)
    device.socket.send(
        msgpack.packb({"op": "publish", "counter": 2, "conversation": 0, "type": "subscription.paused", **made_up})
    )
    assert device.expect("error")["code"] == "bad_field"
    device.close()
