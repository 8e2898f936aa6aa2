"""Every command over a real socket, in both encodings: what comes back, and what the others get."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.gateway import ENCODINGS, Device, GatewayProcess

NewUser = Callable[[], int]
both_encodings = pytest.mark.parametrize("encoding", ENCODINGS)


def types(device: Device) -> list[str]:
    """Types of the events that have come."""
    return [push["type"] for push in device.settled() if push["op"] == "event"]


@both_encodings
def test_the_first_message_makes_the_dialog_and_reaches_both(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b = new_user(), new_user()
    sender, receiver = gateway.device(a, 7, encoding), gateway.device(b, 8, encoding)
    payload = b"\x00\xffnot text"
    receipt = sender.write("publish", user=b, payload=payload)
    assert receipt["status"] == "appended" and receipt["counter"] == 1 and receipt["extra"] == 0
    for device in (sender, receiver):
        created = device.expect("event")
        assert created["type"] == "conversation.created" and created["data"]["kind"] == "dialog"
        assert [member[0] for member in created["data"]["members"]] == sorted((a, b))
        event = device.expect("event")
        assert event["payload"] == payload and event["type"] == "message"
        assert (event["sender"], event["device"], event["counter"]) == (a, 7, 1)
        assert event["sequence"] == receipt["sequence"] == created["sequence"] + 1
        assert event["conversation"] == receipt["conversation"]
        assert event["conversation_sequence"] == receipt["conversation_sequence"] == 2
        assert event["previous"] == created["sequence"]
        assert event["time"] == receipt["time"] and abs(event["time"] / 1e6 - time.time()) < 60
    answer = receiver.write("publish", user=a, text="привет")
    assert answer["conversation"] == receipt["conversation"]
    assert sender.expect("event")["payload"] == "привет".encode()


@both_encodings
def test_a_repeat_returns_the_first_position(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    a, b = new_user(), new_user()
    device = gateway.device(a, 1, encoding)
    first = device.write("publish", user=b, text="once")
    again = device.write("publish", user=b, text="once", counter=1)
    assert again["status"] == "repeat"
    assert all(again[name] == first[name] for name in ("sequence", "conversation", "conversation_sequence"))
    other = device.write("publish", conversation=first["conversation"], text="different", counter=1)
    assert other["status"] == "repeat" and other["sequence"] == first["sequence"]
    device.close()
    back = gateway.device(a, 1, encoding)
    assert back.welcome["counter"] == 1
    assert back.write("publish", user=b, text="once", counter=1)["sequence"] == first["sequence"]


@both_encodings
def test_counters_that_jump_or_run_backwards(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    a, b = new_user(), new_user()
    device = gateway.device(a, 1, encoding)
    jump = device.write("publish", user=b, text="x", counter=70_000)
    assert (jump["status"], jump["extra"]) == ("counter_jump", 65_536)
    assert device.write("publish", user=b, text="x", counter=65_000)["status"] == "appended"
    assert device.write("publish", user=b, text="x", counter=64_936)["status"] == "too_old"
    assert device.write("publish", user=b, text="x", counter=64_937)["status"] == "appended"


@both_encodings
def test_a_conditional_publish_names_the_actual_sequence(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    device = gateway.device(new_user(), 1, encoding)
    group = device.group(new_user())
    assert device.write("publish", conversation=group, text="a", expected=1)["status"] == "appended"
    refused = device.write("publish", conversation=group, text="b", expected=1)
    assert (refused["status"], refused["conversation_sequence"]) == ("conflict", 2)
    assert device.write("publish", conversation=group, text="b", expected=2)["status"] == "appended"


@both_encodings
def test_a_group_lives_through_all_its_commands(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    a, b, c = new_user(), new_user(), new_user()
    owner, member, late = (gateway.device(user, 1, encoding) for user in (a, b, c))
    group = owner.group(b, title="Ход", history=False)
    assert member.expect("event", type="conversation.created")["data"]["title"] == "Ход"
    assert owner.write("publish", conversation=group, text="before")["status"] == "appended"
    assert member.write("rename", conversation=group, title="no")["status"] == "forbidden"
    assert owner.write("rename", conversation=group, title="Новое")["status"] == "appended"
    assert owner.write("add", conversation=group, user=c)["status"] == "appended"
    assert owner.write("add", conversation=group, user=c)["status"] == "unchanged"
    assert owner.write("role", conversation=group, user=c, role="admin")["status"] == "appended"
    assert late.write("publish", conversation=group, text="hello")["status"] == "appended"
    assert owner.write("remove", conversation=group, user=c)["status"] == "appended"
    assert late.write("publish", conversation=group, text="still?")["status"] == "unknown_conversation"
    assert member.write("leave", conversation=group)["status"] == "appended"
    assert owner.write("publish", conversation=group, text="alone")["status"] == "appended"
    assert owner.write("close", conversation=group)["status"] == "appended"
    assert owner.write("publish", conversation=group, text="late")["status"] == "closed"
    seen = {
        name: [push["type"] for push in device.settled() if push["op"] == "event"]
        for name, device in (("owner", owner), ("member", member), ("late", late))
    }
    assert seen["owner"] == [
        "conversation.created",
        "message",
        "conversation.renamed",
        "member.added",
        "member.role",
        "message",
        "member.removed",
        "member.left",
        "message",
        "conversation.closed",
    ]
    assert seen["member"] == [
        "message",
        "conversation.renamed",
        "member.added",
        "member.role",
        "message",
        "member.removed",
        "member.left",
    ]
    assert seen["late"] == ["member.added", "member.role", "message", "member.removed"]


@both_encodings
def test_followers_of_a_channel_are_not_told_of_each_other(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b, c = new_user(), new_user(), new_user()
    owner, first, second = (gateway.device(user, 1, encoding) for user in (a, b, c))
    channel = owner.group(kind="channel", title="news")
    for device in (first, second):
        assert device.write("follow", conversation=channel)["status"] == "appended"
        assert device.write("publish", conversation=channel, text="no")["status"] == "forbidden"
    assert owner.write("publish", conversation=channel, text="news")["status"] == "appended"
    assert second.write("unfollow", conversation=channel)["status"] == "appended"
    assert owner.write("publish", conversation=channel, text="more")["status"] == "appended"
    assert types(first) == ["member.added", "message", "message"]
    assert types(second) == ["member.added", "message", "member.left"]
    first.send("members", conversation=channel, id=1)
    assert first.expect("error", id=1)["code"] == "forbidden"
    owner.send("members", conversation=channel, id=1)
    assert [item["user"] for item in owner.expect("members", id=1)["items"]] == [a, b]


@both_encodings
def test_edit_delete_react_and_the_tombstone_in_history(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b = new_user(), new_user()
    one, two = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    first = one.write("publish", user=b, text="tpyo")
    conversation, target = first["conversation"], first["sequence"]
    for op in ({"type": "message.edited", "payload": b"typo"}, {"type": "message.reaction", "text": "+1"}):
        assert one.write("publish", conversation=conversation, target=target, **op)["status"] == "appended"
    two.expect("event", type="message")
    assert two.expect("event", type="message.edited")["data"] == {"target": target, "body": b"typo"}
    assert two.expect("event", type="message.reaction")["data"] == {"target": target, "body": b"+1"}
    deletion = {"conversation": conversation, "type": "message.deleted", "target": target}
    assert two.write("publish", **deletion)["status"] == "forbidden"
    assert one.write("publish", **deletion)["status"] == "appended"
    assert two.expect("event", type="message.deleted")["data"] == {"target": target}
    two.send("history", conversation=conversation, id="h")
    page = two.expect("history", id="h")
    assert [event["type"] for event in page["events"]] == [
        "message.deleted",
        "message.reaction",
        "message.tombstone",
        "message.tombstone",
        "conversation.created",
    ]
    assert page["events"][3]["sequence"] == target and page["events"][3]["payload"] == b""
    assert (page["next"], page["trimmed"]) == (None, False)


@both_encodings
def test_mistakes_in_a_publish_are_named(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    a, b = new_user(), new_user()
    device = gateway.device(a, 1, encoding)
    target = device.write("publish", user=b, text="x")
    group = target["conversation"]
    for fields, status in (
        ({"conversation": group, "type": "Message"}, "bad_type"),
        ({"conversation": group, "type": "a..b"}, "bad_type"),
        ({"conversation": group, "type": "x" * 65}, "bad_type"),
        ({"conversation": group, "type": "conversation.closed"}, "bad_type"),
        ({"conversation": group, "type": "member.added", "payload": b"\x81\xa4user\x05"}, "bad_type"),
        ({"conversation": group, "type": "message.pinned"}, "bad_type"),
        ({"conversation": group, "type": "subscription.created"}, "bad_type"),
        ({"conversation": group, "type": "admin.refused"}, "bad_type"),
        ({"conversation": group, "type": "message.edited"}, "bad_target"),
        ({"conversation": group, "type": "message.edited", "target": 10**15}, "bad_target"),
        ({"conversation": group, "payload": b"x" * 65_537}, "payload_too_large"),
        ({"conversation": 10**15, "text": "x"}, "unknown_conversation"),
        ({"user": a, "text": "to myself"}, "bad_id"),
    ):
        receipt = device.write("publish", **fields)
        assert receipt["status"] == status, (fields, receipt)
        assert receipt["sequence"] == 0
    for fields, word in (
        ({"conversation": group, "user": b, "text": "x"}, "either"),
        ({"text": "x"}, "either"),
        ({"conversation": group, "text": "x", "payload": b"x"}, "either"),
        ({"conversation": 0, "text": "x"}, "conversation"),
        ({"conversation": 2**53, "text": "x"}, "conversation"),
        ({"user": 0, "text": "x"}, "user"),
        ({"user": b, "text": "x", "counter": 0}, "counter"),
        ({"user": b, "text": "x", "counter": -1}, "counter"),
        ({"user": b, "text": "x", "counter": 2**53}, "counter"),
    ):
        device.send("publish", **{"counter": 500, "id": "q", **fields})
        error = device.expect("error")
        assert error["code"] == "bad_field" and word in error["message"] and error["id"] == "q", error
    nothing = device.write("publish", conversation=group, target=target["sequence"])
    assert nothing["status"] == "appended"  # a target means nothing to a plain message
    assert device.expect("event", sequence=nothing["sequence"])["payload"] == b""
    biggest = device.write("publish", conversation=group, payload=b"y" * 65_536)
    assert biggest["status"] == "appended"
    assert len(device.expect("event", sequence=biggest["sequence"])["payload"]) == 65_536
    assert device.write("publish", conversation=group, type="x.y_2.z", text="mine")["status"] == "appended"


@both_encodings
def test_someone_elses_conversation_looks_like_none(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    owner, stranger = gateway.device(new_user(), 1, encoding), gateway.device(new_user(), 1, encoding)
    group = owner.group()
    for number, conversation in enumerate((group, 10**12)):
        assert stranger.write("publish", conversation=conversation, text="x")["status"] == "unknown_conversation"
        assert stranger.write("add", conversation=conversation, user=5)["status"] == "unknown_conversation"
        for op, more in (("history", {}), ("members", {}), ("read", {"conversation_sequence": 1})):
            stranger.send(op, conversation=conversation, id=number, **more)
            assert stranger.expect("error")["code"] == "unknown_conversation"
        stranger.send("typing", conversation=conversation)
    assert [push for push in owner.settled() if push["op"] not in ("event", "live")] == []


@both_encodings
def test_a_new_device_finds_conversations_heads_unread_members_and_pages(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b, c = new_user(), new_user(), new_user()
    old = gateway.device(a, 1, encoding)
    dialog = old.write("publish", user=b, text="1")["conversation"]
    group = old.group(b, c, title="g")
    for number in range(7):
        head = old.write("publish", conversation=group, text=str(number))["sequence"]
    peer = gateway.device(b, 1, encoding)
    peer.send("read", conversation=group, conversation_sequence=3)
    peer.settled()
    new = gateway.device(b, 2, encoding)
    new.send("conversations", id=9)
    page = new.expect("conversations", id=9)
    assert page["next"] is None
    first, second = sorted(page["items"], key=lambda item: item["kind"])
    assert first == {
        "conversation": dialog,
        "kind": "dialog",
        "title": "",
        "role": "member",
        "member_count": 2,
        "peer": a,
        "head": first["head"],
        "conversation_sequence": 2,
        "unread": 2,
        "delivered": 0,
        "read": 0,
        "history": True,
        "closed": False,
    }
    assert second == {
        "conversation": group,
        "kind": "group",
        "title": "g",
        "role": "member",
        "member_count": 3,
        "head": head,
        "conversation_sequence": 8,
        "unread": 5,
        "delivered": 3,
        "read": 3,
        "history": True,
        "closed": False,
    }
    new.send("conversations", limit=1)
    paged = new.expect("conversations")
    new.send("conversations", after=paged["next"], limit=1)
    assert [paged["items"][0], new.expect("conversations")["items"][0]] == page["items"]
    new.send("members", conversation=group, limit=2)
    members = new.expect("members")
    assert members["items"] == [
        {"user": a, "role": "owner", "delivered": 0, "read": 0},
        {"user": b, "role": "member", "delivered": 3, "read": 3},
    ]
    new.send("members", conversation=group, after=members["next"])
    assert [item["user"] for item in new.expect("members")["items"]] == [c]
    new.send("history", conversation=group, limit=3)
    history = new.expect("history")
    assert [event["payload"] for event in history["events"]] == [b"6", b"5", b"4"]
    new.send("history", conversation=group, limit=100, before=history["next"])
    rest = new.expect("history")
    assert [event["type"] for event in rest["events"]] == ["message"] * 4 + ["conversation.created"]
    assert rest["next"] is None


@both_encodings
def test_cursors_move_forward_only_and_reach_the_others(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b = new_user(), new_user()
    one, two, two_other = (gateway.device(*who, encoding) for who in ((a, 1), (b, 1), (b, 2)))
    conversation = one.write("publish", user=b, text="x")["conversation"]
    two.expect("event", type="message")
    two.send("delivered", conversation=conversation, conversation_sequence=2)
    for device in (one, two_other):
        assert device.expect("cursor") == {
            "op": "cursor",
            "conversation": conversation,
            "user": b,
            "delivered": 2,
            "read": 0,
        }
    two.send("read", conversation=conversation, conversation_sequence=1)
    assert one.expect("cursor")["read"] == 1
    two.send("delivered", conversation=conversation, conversation_sequence=1)
    two.send("read", conversation=conversation, conversation_sequence=3, id="far")
    assert two.expect("error")["code"] == "bad_cursor"
    two.send("read", conversation=conversation, conversation_sequence=2)
    assert one.expect("cursor") == {"op": "cursor", "conversation": conversation, "user": b, "delivered": 2, "read": 2}
    assert [push for push in one.settled() if push["op"] == "cursor"] == []
    assert [push for push in two.settled() if push["op"] == "cursor"] == []


@both_encodings
def test_typing_and_presence_reach_the_others_and_are_never_stored(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b = new_user(), new_user()
    one, two = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    conversation = one.write("publish", user=b, text="x")["conversation"]
    two.expect("event", type="message")
    one.send("typing", conversation=conversation)
    assert two.expect("typing") == {"op": "typing", "conversation": conversation, "user": a}
    one.send("presence", conversation=conversation, status="в пути")
    assert two.expect("presence") == {"op": "presence", "conversation": conversation, "user": a, "status": "в пути"}
    assert {push["op"] for push in one.settled()} == {"event", "live"}
    one.send("conversations")
    assert one.expect("conversations")["items"][0]["conversation_sequence"] == 2


@both_encodings
def test_own_messages_reach_ones_other_devices(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    a, b = new_user(), new_user()
    phone, tablet = gateway.device(a, 1, encoding), gateway.device(a, 2, encoding)
    receipt = phone.write("publish", user=b, text="from the phone")
    event = tablet.expect("event", type="message")
    assert (event["sequence"], event["sender"], event["device"]) == (receipt["sequence"], a, 1)


def test_commands_and_pushes_of_both_encodings_meet(gateway: GatewayProcess, new_user: NewUser) -> None:
    a, b = new_user(), new_user()
    binary, text = gateway.device(a, 1, "msgpack"), gateway.device(b, 1, "json")
    binary.write("publish", user=b, payload=b"\xff\x00")
    received = text.expect("event", type="message")
    assert received == binary.expect("event", type="message")
    text.write("publish", user=a, text="and back")
    assert binary.expect("event", sender=b) == text.expect("event", sender=b)


@both_encodings
def test_unknown_ops_and_fields(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    device: Device = gateway.device(new_user(), 1, encoding)
    device.send("dance", id="q", partner=3)
    error = device.expect("error")
    assert (error["code"], error["id"], error["retryable"]) == ("unknown_op", "q", False) and error["hint"]
    device.send("ping", id=5, later={"a": [1, {"b": None}]})
    assert device.expect("pong")["id"] == 5
    receipt = device.write("create", kind="group", title="x", members=[], colour="red")
    assert receipt["status"] == "appended"


@both_encodings
def test_the_last_owner_may_go_and_nobody_becomes_owner_after(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b, c = new_user(), new_user(), new_user()
    owner, admin = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    group = owner.group(b, c)
    assert owner.write("role", conversation=group, user=b, role="admin")["status"] == "appended"
    assert owner.write("leave", conversation=group)["status"] == "appended"
    assert admin.write("role", conversation=group, user=b, role="owner")["status"] == "forbidden"
    assert admin.write("close", conversation=group)["status"] == "forbidden"
    assert admin.write("add", conversation=group, user=a)["status"] == "appended"
    assert admin.write("rename", conversation=group, title="ours")["status"] == "appended"
    assert owner.write("role", conversation=group, user=a, role="owner")["status"] == "forbidden"


@both_encodings
def test_a_conversation_that_one_left_is_listed_up_to_the_leaving(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b = new_user(), new_user()
    owner, member = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    group = owner.group(b)
    owner.write("publish", conversation=group, text="seen")
    left = member.write("leave", conversation=group)
    assert owner.write("publish", conversation=group, text="unseen")["conversation_sequence"] == 4
    member.send("conversations", former=True)
    (item,) = member.expect("conversations")["items"]
    assert (item["role"], item["head"], item["conversation_sequence"], item["unread"]) == (
        "former",
        left["sequence"],
        3,
        0,
    )
