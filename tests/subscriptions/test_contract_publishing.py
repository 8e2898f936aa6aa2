"""The contract of Publisher and of EventSource.read: what is published is there, once, and refusals say why."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import BadArgument, CallerError
from engine.subscriptions.definition import Filter
from engine.subscriptions.ports import KeyReused
from tests.subscriptions.contract import (
    MESSAGES,
    OTHER,
    SERVICE,
    World,
    contract,
    group,
    nothing,
    publish,
    read,
    sequences,
)


async def refusal(world: World, type: str, payload: bytes = b"", **where: int | None) -> CallerError:
    """Why a publish is refused."""
    with pytest.raises(CallerError) as refused:
        await world.publisher.publish(type, payload, **where)  # type: ignore[arg-type]  # the test names what it gives
    assert not refused.value.retryable
    return refused.value


@contract
async def test_a_receipt_says_where_the_event_is(world: World) -> None:
    """And reading gives it with all that was said."""
    conversation = await group(world)
    receipt = await world.publisher.publish("message", b"hello", conversation=conversation)
    assert (receipt.conversation, receipt.conversation_sequence, receipt.repeat) == (conversation, 2, False)
    (event,) = await read(world)
    assert event.sequence == receipt.sequence and event.time == receipt.time
    assert (event.conversation, event.conversation_sequence) == (conversation, 2)
    assert event.previous == receipt.sequence - 1  # its creation
    assert (event.sender, event.device, event.counter) == (SERVICE, 0, 0)
    assert (event.type, event.payload, event.deliveries, event.away) == ("message", b"hello", 1, ())


@contract
async def test_a_key_makes_a_repeat_harmless(world: World) -> None:
    """It returns where the first one is, and nothing is appended, whatever else has become of it."""
    conversation = await group(world)
    first = await world.publisher.publish("message", b"once", conversation=conversation, key="order 7")
    await world.publisher.publish("message", b"between", conversation=conversation)
    again = await world.publisher.publish("message", b"other", conversation=conversation, key="order 7")
    assert again == first._replace(repeat=True)
    other = await world.publisher.publish("message", b"two", conversation=conversation, key="order 8")
    assert [event.payload for event in await read(world)] == [b"once", b"between", b"two"]
    assert other.sequence > first.sequence and not other.repeat
    fields = {"kind": "group", "title": "twice"}
    made = await world.publisher.command("conversation.created", 0, fields, key="make")
    assert (await world.publisher.command("conversation.created", 0, fields, key="make")).sequence == made.sequence


@contract
async def test_a_key_of_another_conversation_is_refused(world: World) -> None:
    """Nothing is appended, and the answer says nothing of the other one."""
    first, second = await group(world), await group(world)
    receipt = await world.publisher.publish("message", b"once", conversation=first, key="order 7")
    with pytest.raises(KeyReused, match=f"another conversation than {second}") as refused:
        await world.publisher.publish("message", b"lost", conversation=second, key="order 7")
    assert refused.value.code == "key_reused" and str(receipt.sequence) not in str(refused.value)
    with pytest.raises(KeyReused):
        await world.publisher.command("member.added", second, {"user": 5, "role": "member"}, key="order 7")
    assert [event.payload for event in await read(world)] == [b"once"]


@contract
async def test_a_publish_may_name_what_it_expects(world: World) -> None:
    """A mismatch is refused with the actual conversation sequence."""
    conversation = await group(world)
    await world.publisher.publish("message", b"fits", conversation=conversation, expected=1)
    error = await refusal(world, "message", conversation=conversation, expected=1)
    assert (error.code, getattr(error, "actual", None)) == ("conflict", 2)
    assert "expected was 1, the last conversation sequence is 2" in error.detail
    await world.publisher.publish("message", b"fits again", conversation=conversation, expected=2)


@contract
async def test_the_first_message_to_a_person_makes_the_dialog(world: World) -> None:
    """Later ones go there too."""
    first = await world.publisher.publish("message", b"good day", person=77)
    second = await world.publisher.publish("message", b"it is", person=77)
    assert first.conversation == second.conversation
    events = await read(world, Filter(conversations=(first.conversation,)))
    assert [event.type for event in events] == ["conversation.created", "message", "message"]
    assert sequences(events)[1:] == [first.sequence, second.sequence]


@contract
async def test_refusals_say_why(world: World) -> None:
    """By the names of the statuses."""
    conversation = await group(world)
    assert (await refusal(world, "message", conversation=conversation + 1)).code == "unknown_conversation"
    assert (await refusal(world, "message", person=SERVICE)).code == "bad_id"
    for type in ("Message", "message.", "member.promoted", "subscription.created", "x" * 65):
        assert (await refusal(world, type, conversation=conversation)).code == "bad_type", type
    assert (await refusal(world, "message", bytes(65_537), conversation=conversation)).code == "payload_too_large"
    await world.publisher.command("conversation.closed", conversation, {})
    assert (await refusal(world, "message", conversation=conversation)).code == "closed"
    assert (await refusal(world, "message")).code == "bad_id"
    assert (await refusal(world, "message", conversation=conversation, person=7)).code == "bad_id"
    assert await read(world) == []


@contract
async def test_commands_are_control_events(world: World) -> None:
    """Their fields are the schema's; what doesn't fit is refused."""
    command = world.publisher.command
    conversation = await group(world, [5])
    await command("member.added", conversation, {"user": 6})
    await command("member.role", conversation, {"user": 6, "role": "admin"})
    await command("conversation.renamed", conversation, {"title": "another"})
    await command("member.removed", conversation, {"user": 5})
    found = await read(world, Filter(conversations=(conversation,)))
    assert [event.type for event in found] == [
        "conversation.created", "member.added", "member.role", "conversation.renamed", "member.removed"]  # fmt: skip
    for type, fields, code in (
        ("member.added", {"user": 6}, "unchanged"),
        ("member.added", {"user": "six"}, "bad_payload"),
        ("member.added", {}, "bad_payload"),
        ("message", {}, "bad_type"),
        ("conversation.created", {"kind": 7}, "bad_payload"),
        ("conversation.renamed", {"title": "x", "colour": "red"}, "bad_payload"),
    ):
        where = 0 if type == "conversation.created" else conversation
        with pytest.raises(CallerError) as refused:
            await command(type, where, fields)
        assert refused.value.code == code, (type, fields)
    with pytest.raises(CallerError) as refused:
        await command("member.added", conversation + 1, {"user": 7})
    assert refused.value.code == "unknown_conversation"


@contract
async def test_reading_goes_on_from_a_sequence(world: World) -> None:
    """Events behind it, ascending, to the end of the log; every event there is when nothing is filtered."""
    conversation = await group(world)
    published = await publish(world, conversation, 5)
    assert sequences(await read(world, after=published[1])) == published[2:]
    assert await read(world, after=published[-1]) == []
    everything = [event async for event in world.source.read(after=0)]
    assert sequences(everything) == list(range(1, published[-1] + 1))
    with pytest.raises(BadArgument):
        await read(world, after=-1)


@contract
async def test_reading_says_how_far_it_has_come(world: World) -> None:
    """Also where a filter lets little through; never beyond an event that has still to come."""
    conversation = await group(world)
    published = await publish(world, conversation, 5)
    for filter in (MESSAGES, Filter(types=("rare",))):
        reached, given = [0], [0]
        async for event in world.source.read(after=0, filter=filter, on_reached=reached.append):
            assert reached[-1] < event.sequence
            given.append(event.sequence)
        assert reached == sorted(reached) and reached[-1] >= published[-1]
        assert given == ([0, *published] if filter is MESSAGES else [0])


@contract
async def test_reading_live_goes_on_and_on(world: World) -> None:
    """What is published while it waits comes too."""
    conversation = await group(world)
    (first,) = await publish(world, conversation, 1)
    stream = aiter(world.source.read(after=0, filter=MESSAGES, live=True))
    assert (await anext(stream)).sequence == first
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    (second,) = await publish(world, conversation, 1)
    assert (await asyncio.wait_for(waiting, 10)).sequence == second


@contract
async def test_a_filter_is_what_is_wanted(world: World) -> None:
    """Prefixes end at dots; what is named in several fields must hold together."""
    here, there = await group(world), await group(world)
    dialog = (await world.publisher.publish("message", b"", person=77)).conversation
    for type in ("message", "messages", "order.placed", "order.placed.twice", "orders.placed"):
        await world.publisher.publish(type, b"", conversation=here)
    await world.publisher.publish("order.placed", b"", conversation=there)

    async def types(**fields: object) -> list[tuple[str, int]]:
        found = await read(world, Filter(**fields))  # type: ignore[arg-type]  # the test names what it gives
        return [(event.type, event.conversation) for event in found]

    assert await types(types=("message",)) == [("message", dialog), ("message", here)]
    assert await types(types=("order.",), conversations=(here,)) == [
        ("order.placed", here), ("order.placed.twice", here)]  # fmt: skip
    assert await types(types=("order",), conversations=(there,)) == [("order.placed", there)]
    assert await types(types=("order.placed.twice", "messages")) == [("messages", here), ("order.placed.twice", here)]
    assert await types(kinds=("dialog",)) == [("conversation.created", dialog), ("message", dialog)]
    assert await types(kinds=("dialog", "group"), types=("message",)) == [("message", dialog), ("message", here)]
    assert await types(senders=(OTHER,)) == []
    assert len(await types(senders=(SERVICE,), kinds=("group",))) == 8


@contract
async def test_only_for_people_who_are_away(world: World) -> None:
    """Which members other than the sender have no live session comes with the event, as of its hand-out."""
    conversation = await group(world, [5, 6])
    away = Filter(types=("message",), recipient_away=True)
    subscription = await world.source.create("away", "ordered", filter=away)
    published = await publish(world, conversation, 1)
    await world.connect(5)
    consumer = await subscription.join()
    (event,) = await consumer.take()
    assert (event.sequence, event.away) == (published[0], (6,))
    await consumer.ack(published)
    await world.connect(6)
    await publish(world, conversation, 1)
    await nothing(world, consumer)
    await world.disconnect(5)
    published = await publish(world, conversation, 1)
    (event,) = await consumer.take()
    assert (event.sequence, event.away) == (published[0], (5,))
    with pytest.raises(BadArgument):
        await consumer.take_packed(wait_s=0.0)
