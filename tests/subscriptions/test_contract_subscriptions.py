"""The contract of EventSource and Subscription: made, found, paused, reset, deleted, and what is told of it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine.conversations import ENGINE_ITSELF
from engine.errors import BadArgument
from engine.subscriptions.definition import EVERYTHING, Filter, Kind, Settings, Start
from engine.subscriptions.ports import BeyondEnd, Fenced, Paused, SubscriptionExists, UnknownSubscription
from tests.subscriptions.contract import (
    FIRST,
    MESSAGES,
    SERVICE,
    World,
    contract,
    for_both_kinds,
    for_each_kind,
    group,
    nothing,
    publish,
    read,
    sequences,
    subscribe,
    taken,
)


@contract
async def test_it_begins_where_it_is_told(world: World) -> None:
    """With what comes from now on, with the first event, behind a sequence, or with a time."""
    conversation = await group(world)
    published = await publish(world, conversation, 2)
    await world.pass_time(0.01)
    receipt = await world.publisher.publish("message", b"at a time", conversation=conversation)
    starts = {
        "now": (Start(), []),
        "first": (Start(first=True), [*published, receipt.sequence]),
        "sequence": (Start(sequence=published[0]), [published[1], receipt.sequence]),
        "zero": (Start(sequence=0), [*published, receipt.sequence]),
        "time": (Start(time=receipt.time), [receipt.sequence]),
        "late": (Start(time=receipt.time + 30 * 10**6), []),
    }
    for name, (start, _) in starts.items():
        await world.source.create(name, "ordered", start=start, filter=MESSAGES)
    last = await publish(world, conversation, 1)
    for name, (_, expected) in starts.items():
        consumer = await (await world.source.subscription(name)).join()
        assert sequences(await taken(consumer, len(expected) + 1)) == expected + last, name
        await nothing(world, consumer)
    for far in (Start(time=receipt.time + 10**9), Start(time=2**53 - 1)):
        with pytest.raises(BadArgument, match=f"start time {far.time}, .*; at most 60 s ahead"):
            await world.source.create("far", "ordered", start=far, filter=MESSAGES)
        with pytest.raises(BadArgument, match=f"start time {far.time}, .*; at most 60 s ahead"):
            await (await world.source.subscription("now")).reset(far)
    for seconds in (receipt.time // 10**6, receipt.time // 1_000):
        with pytest.raises(BadArgument, match=f"start time {seconds}: must be µs since 1970, UTC"):
            await world.source.create("far", "ordered", start=Start(time=seconds), filter=MESSAGES)
    assert "far" not in [standing.definition.name for standing in await world.source.subscriptions()]


@contract
async def test_nothing_begins_beyond_the_log(world: World) -> None:
    """Where a reader of a log that was begun anew stands; what a receipt names is never beyond."""
    conversation = await group(world)
    subscription = await world.source.create("mail", "ordered", filter=MESSAGES)
    for _ in range(20):
        (last,) = await publish(world, conversation, 1)
        assert await read(world, after=last) == []
    await subscription.reset(Start(sequence=last))
    (last,) = await publish(world, conversation, 1)
    beyond = Start(sequence=last + 1_000)
    for refused in (
        world.source.create("far", "ordered", start=beyond, filter=MESSAGES),
        subscription.reset(beyond),
        read(world, after=last + 1_000),
        anext(aiter(world.source.read(after=last + 1_000, live=True))),
    ):
        with pytest.raises(BeyondEnd, match=rf"{last + 1_000}: the log ends at \d+.*begin at 0") as error:
            await refused
        assert not error.value.retryable


@contract
async def test_bad_definitions_are_refused(world: World) -> None:
    """And nothing is made."""
    create = world.source.create
    for name in ("", "Upper", "-first", "a" * 65, "a b"):
        with pytest.raises(BadArgument):
            await create(name, "ordered")
    for start in (Start(first=True, sequence=1), Start(sequence=-1), Start(time=1, sequence=1)):
        with pytest.raises(BadArgument):
            await create("bad", "ordered", start=start)
    for settings in (
        Settings(ack_timeout_s=0.5),
        Settings(ack_timeout_s=50_000.0),
        Settings(deliveries_max=-1),
        Settings(deliveries_max=1_001),
        Settings(retry_min_s=-1.0),
        Settings(retry_min_s=5.0, retry_max_s=4.0),
        Settings(retry_max_s=50_000.0),
        Settings(in_flight_max=0),
        Settings(in_flight_max=1_000_001),
    ):
        with pytest.raises(BadArgument):
            await create("bad", "ordered", settings=settings)
    for filter in (
        Filter(types=("Message",)),
        Filter(types=("",)),
        Filter(types=tuple(f"t{number}" for number in range(65))),
        Filter(kinds=("party",)),
        Filter(conversations=(0,)),
        Filter(senders=(2**53,)),
        Filter(senders=tuple(range(1, 10_002))),
    ):
        with pytest.raises(BadArgument):
            await create("bad", "ordered", filter=filter)
    with pytest.raises(BadArgument):
        await create("bad", "both")  # type: ignore[arg-type]  # that is what is tried
    assert await world.source.subscriptions() == []


@contract
async def test_the_same_definition_again_is_the_same_subscription(world: World) -> None:
    """It keeps its place, so that a program may create it at each start; another definition is refused."""
    conversation = await group(world)
    subscription = await world.source.create("same", "ordered", filter=MESSAGES)
    published = await publish(world, conversation, 2)
    consumer = await subscription.join()
    await consumer.ack(sequences(await taken(consumer, 2)))
    again = await world.source.create("same", "ordered", filter=MESSAGES)
    assert (await again.standing()).cursor >= published[-1]
    await nothing(world, await again.join())
    for kind, filter, settings in (
        ("competing", MESSAGES, Settings()),
        ("ordered", EVERYTHING, Settings()),
        ("ordered", MESSAGES, Settings(deliveries_max=3)),
    ):
        with pytest.raises(SubscriptionExists):
            await world.source.create("same", kind, filter=filter, settings=settings)  # type: ignore[arg-type]


@contract
async def test_all_are_listed_by_name(world: World) -> None:
    """A team knows of its own alone."""
    for name in ("b", "a", "c"):
        await subscribe(world, name, "competing")
    assert [one.definition.name for one in await world.source.subscriptions()] == ["a", "b", "c"]
    others = world.source_of("others")
    assert await others.subscriptions() == []
    with pytest.raises(UnknownSubscription):
        await others.subscription("a")
    with pytest.raises(UnknownSubscription):
        await others.delete("a")
    with pytest.raises(SubscriptionExists):
        await others.create("a", "competing", start=FIRST, filter=MESSAGES)
    with pytest.raises(UnknownSubscription):
        await world.source.subscription("d")


@for_each_kind  # its lag counts what all others publish
async def test_a_standing_says_how_it_stands(world: World, kind: Kind) -> None:
    """Definition, cursor, lag, in flight, parked, consumers."""
    conversation = await group(world)
    settings, mine = Settings(in_flight_max=50), Filter(types=("message",), conversations=(conversation,))
    subscription = await subscribe(world, f"standing-{kind}", kind, settings, mine)
    before = await subscription.standing()
    definition = before.definition
    assert (definition.name, definition.kind, definition.team) == (f"standing-{kind}", kind, "team")
    assert (definition.filter, definition.settings, definition.position) == (mine, settings, 0)
    assert (before.paused, before.in_flight, before.parked, before.consumers) == (False, 0, 0, ())
    assert before.oldest_unacked_s == 0
    await publish(world, conversation, 4)
    consumer = await subscription.join("one")
    events = await taken(consumer, 4)
    await consumer.park(events[0].sequence)
    await world.pass_time(0.05)
    standing = await subscription.standing()
    assert (standing.in_flight, standing.parked, standing.consumers) == (len(events) - 1, 1, ("one",))
    assert standing.cursor < events[1].sequence and standing.oldest_unacked_s >= 0.05
    await consumer.ack_up_to(events[-1].sequence)
    await asyncio.sleep(1.5 * world.look_s)  # what was parked is told a little later
    standing = await subscription.standing()
    assert standing.cursor >= events[-1].sequence and standing.in_flight == 0
    last = [event.sequence async for event in world.source.read(after=0)][-1]
    assert standing.lag_events == last - standing.cursor
    await world.source.delete(definition.name)


@for_both_kinds
async def test_a_pause_hands_nothing_out(world: World, kind: Kind) -> None:
    """What is in flight may be answered; after it, all goes on."""
    conversation = await group(world)
    subscription = await subscribe(world, f"pause-{kind}", kind, filter=Filter(conversations=(conversation,)))
    consumer = await subscription.join()
    events = await taken(consumer, 1)
    await subscription.pause()
    published = await publish(world, conversation, 1)
    with pytest.raises(Paused):
        await consumer.take(wait_s=1.5)
    assert (await subscription.standing()).paused
    await consumer.ack(sequences(events))
    await subscription.pause()  # is paused already
    await subscription.resume()
    assert sequences(await taken(consumer, 1)) == published


@for_both_kinds
async def test_a_reset_moves_the_cursor(world: World, kind: Kind) -> None:
    """Back or forward; what is in flight is fenced."""
    conversation = await group(world)
    mine = Filter(types=("message",), conversations=(conversation,))
    subscription = await subscribe(world, f"reset-{kind}", kind, filter=mine)
    published = await publish(world, conversation, 4)
    consumer = await subscription.join()
    await consumer.ack(sequences(await taken(consumer, 4))[:3])
    await subscription.reset(Start(sequence=published[1]))
    with pytest.raises(Fenced):
        await consumer.ack(published[3:])
    consumer = await subscription.join()
    assert sequences(await taken(consumer, 2)) == published[2:]
    await subscription.reset(Start())
    with pytest.raises(Fenced):
        await consumer.take(wait_s=0.0)
    consumer = await subscription.join()
    await nothing(world, consumer)
    more = await publish(world, conversation, 1)
    assert sequences(await taken(consumer, 1)) == more
    with pytest.raises(BadArgument):
        await subscription.reset(Start(first=True, sequence=3))


@for_both_kinds
async def test_a_deleted_one_is_gone(world: World, kind: Kind) -> None:
    """With its cursor: one of the same name begins anew."""
    conversation, name = await group(world), f"gone-{kind}"
    filter = Filter(types=("message",), conversations=(conversation,))
    subscription = await subscribe(world, name, kind, filter=filter)
    published = await publish(world, conversation, 2)
    consumer = await subscription.join()
    await consumer.ack(sequences(await taken(consumer, 2)))
    await world.source.delete(name)
    with pytest.raises(Fenced):
        await consumer.take(wait_s=0.0)
    for call in (subscription.standing, subscription.join, subscription.pause, subscription.parked):
        with pytest.raises(UnknownSubscription):
            await call()
    with pytest.raises(UnknownSubscription):
        await world.source.delete(name)
    again = await subscribe(world, name, kind, filter=filter)
    assert sequences(await taken(await again.join(), 2)) == published
    await world.source.delete(name)


@contract
async def test_what_is_done_to_it_is_told(world: World) -> None:
    """As events of the engine's own, in the shard's system conversation, by the service that did it."""
    conversation = await group(world)
    subscription = await subscribe(world, "told", "competing")
    published = await publish(world, conversation, 2)
    consumer = await subscription.join()
    for event in await taken(consumer, 2):
        await consumer.park(event.sequence, reason="no account")
    await subscription.replay(published[:1])
    await subscription.drop(published[1:])
    await subscription.drop(published[1:])  # was dropped already
    await subscription.pause()
    await subscription.resume()
    await subscription.reset(Start(sequence=0))
    standing = await subscription.standing()
    await asyncio.sleep(1.5 * world.look_s)  # what was parked is told a little later
    await world.source.delete("told")
    record = Filter(types=("subscription.",), kinds=("system",))
    events = [event async for event in world.source.read(after=0, filter=record)]
    told = [(event.type.removeprefix("subscription."), msgspec.msgpack.decode(event.payload)) for event in events]
    acts = [(what, fields) for what, fields in told if what != "parked"]
    assert [what for what, _ in acts] == [
        "created", "replayed", "dropped", "paused", "resumed", "reset", "deleted"]  # fmt: skip
    assert all(fields["name"] == "told" for _, fields in told)
    fields = acts[0][1]
    assert (fields["kind"], fields["team"], fields["start"]) == ("competing", "team", 0)
    assert fields["filter"]["types"] == ["message"] and fields["settings"]["ack_timeout_s"] == 30.0
    parked = [(what["sequence"], what["deliveries"], what["reason"]) for kind, what in told if kind == "parked"]
    assert parked == [(sequence, 1, "no account") for sequence in published]
    assert acts[1][1]["sequences"] == published[:1] and acts[2][1]["sequences"] == published[1:]
    assert acts[5][1]["position"] == 0
    assert standing.created == events[0].sequence
    assert {event.sender for event in events} == {SERVICE}
    assert len({event.conversation for event in events}) == 1


@contract
async def test_what_the_engine_parks_by_its_rule_is_told_as_its_own(world: World) -> None:
    """No service asked for it."""
    conversation = await group(world)
    subscription = await subscribe(world, "rule", "competing", settings=Settings(deliveries_max=1))
    (published,) = await publish(world, conversation, 1)
    consumer = await subscription.join()
    (event,) = await taken(consumer, 1)
    await consumer.retry(event.sequence, delay_s=0)
    assert await consumer.take(wait_s=world.look_s) == []
    await asyncio.sleep(1.5 * world.look_s)
    record = Filter(types=("subscription.parked",), kinds=("system",))
    (told,) = [event async for event in world.source.read(after=0, filter=record)]
    assert told.sender == ENGINE_ITSELF and msgspec.msgpack.decode(told.payload)["sequence"] == published
