"""What one may not know any more, or never: former members, followers of a channel. And texts that were cut."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.gateway import ENCODINGS, GatewayProcess

NewUser = Callable[[], int]
encodings = pytest.mark.parametrize("encoding", ENCODINGS)


@encodings
def test_a_former_member_learns_nothing_of_what_came_after(
    gateway: GatewayProcess, new_user: NewUser, encoding: str
) -> None:
    a, b, c = new_user(), new_user(), new_user()
    owner, gone = gateway.device(a, 1, encoding), gateway.device(b, 1, encoding)
    group = owner.group(b, title="before")
    removal = owner.write("remove", conversation=group, user=b)
    owner.write("rename", conversation=group, title="after")
    owner.write("add", conversation=group, user=c)
    owner.write("close", conversation=group)
    gone.send("conversations", former=True)
    (item,) = gone.expect("conversations")["items"]
    assert (item["role"], item["head"]) == ("former", removal["sequence"])
    assert (item["title"], item["member_count"], item["closed"]) == ("", 0, False)


@encodings
def test_a_channel_begins_without_followers(gateway: GatewayProcess, new_user: NewUser, encoding: str) -> None:
    """Its first event would show them to everybody who follows later."""
    a, b, c = new_user(), new_user(), new_user()
    owner = gateway.device(a, 1, encoding)
    owner.send("create", counter=1, kind="channel", title="news", members=[b])
    refusal = owner.expect("error")
    assert (refusal["code"], refusal["counter"]) == ("bad_field", 1)
    assert "follow" in refusal["message"]
    channel = owner.group(kind="channel", title="news")
    assert owner.write("add", conversation=channel, user=b)["status"] == "appended"
    stranger = gateway.device(c, 1, encoding)
    stranger.write("follow", conversation=channel)
    stranger.send("history", conversation=channel)
    events = stranger.expect("history")["events"]
    assert str(b) not in json.dumps([event.get("data") for event in events])


def test_half_a_character_is_a_mistake_in_a_text(gateway: GatewayProcess, new_user: NewUser) -> None:
    """As browsers write a text that was cut inside an emoji: refused by name, and the session goes on."""
    a, b = new_user(), new_user()
    device = gateway.device(a, 1, "json")
    device.socket.send(f'{{"op":"publish","counter":1,"user":{b},"text":"\\ud83d cut"}}')
    refusal = device.expect("error")
    assert (refusal["code"], refusal["counter"]) == ("bad_field", 1)
    assert "surrogate" in refusal["message"]
    assert device.write("publish", user=b, text="whole", counter=1)["status"] == "appended"
