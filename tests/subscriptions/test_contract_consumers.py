"""The contract of Consumer, for both kinds: taking, answering, time that runs out, what is parked."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import BadArgument
from engine.subscriptions.definition import DEFAULTS, Filter, Kind, Settings
from engine.subscriptions.ports import Consumer, Fenced, NotInFlight, StoredEvent, Subscription
from ext.picks import unpack
from tests.subscriptions.contract import (
    BRIEF,
    BRIEF_S,
    World,
    contract,
    for_both_kinds,
    group,
    later,
    nothing,
    publish,
    sequences,
    subscribe,
    taken,
    taken_again,
)


async def begun(
    world: World, kind: Kind, count: int, settings: Settings = DEFAULTS
) -> tuple[Subscription, Consumer, list[int]]:
    """A subscription to one conversation of so many messages, a consumer, and their sequences."""
    conversation = await group(world)
    filter = Filter(types=("message",), conversations=(conversation,))
    subscription = await subscribe(world, f"{kind}-{conversation}", kind, settings, filter)
    published = await publish(world, conversation, count)
    return subscription, await subscription.join("one"), published


@for_both_kinds
async def test_events_come_in_order(world: World, kind: Kind) -> None:
    """At most so many at a time, each once; none when there is none; and those that are published while it waits."""
    subscription, consumer, published = await begun(world, kind, 5)
    first = await consumer.take(events_max=2)
    assert sequences(first) == published[:2] and {event.deliveries for event in first} == {1}
    assert sequences(await taken(consumer, 3)) == published[2:]
    await nothing(world, consumer)
    assert await later(world, 0.2, asyncio.ensure_future(consumer.take(wait_s=0.1))) == []
    waiting = asyncio.ensure_future(consumer.take(wait_s=20.0))
    await asyncio.sleep(0.05)
    more = await publish(world, first[0].conversation, 1)
    assert sequences(await asyncio.wait_for(waiting, 10)) == more
    for bad in ({"events_max": 0}, {"wait_s": -1.0}):
        with pytest.raises(BadArgument):
            await consumer.take(**bad)
    assert (await subscription.standing()).consumers == ("one",)


@for_both_kinds
async def test_packed_events_are_the_records(world: World, kind: Kind) -> None:
    """One behind the other, each behind its size."""
    _, consumer, published = await begun(world, kind, 4)
    events: list[StoredEvent] = []
    while len(events) < 3:
        packed = await consumer.take_packed(events_max=3 - len(events))
        events += unpack(packed.data, StoredEvent)
        assert (packed.count, packed.last) == (len(unpack(packed.data, StoredEvent)), events[-1].sequence)
    assert sequences(events) == published[:3]
    assert [event.payload for event in events] == [b"word 0", b"word 1", b"word 2"]
    assert {event.deliveries for event in events} == {1}
    alone = await consumer.take_packed(bytes_max=1)
    assert (alone.count, alone.last) == (1, published[3])
    empty = await consumer.take_packed(wait_s=0.0)
    assert (empty.count, empty.last, empty.data) == (0, 0, b"")


@for_both_kinds
async def test_the_cursor_moves_over_contiguous_acks(world: World, kind: Kind) -> None:
    """And never beyond what isn't acked."""
    subscription, consumer, published = await begun(world, kind, 5)
    await taken(consumer, 5)
    await consumer.ack([published[1], published[3]])
    assert (await subscription.standing()).cursor < published[0]
    await consumer.ack([published[0]])
    assert published[1] <= (await subscription.standing()).cursor < published[2]
    await consumer.ack([published[4], published[2]])
    standing = await subscription.standing()
    assert standing.cursor >= published[4] and standing.in_flight == 0
    await nothing(world, consumer)


@for_both_kinds
async def test_an_ack_that_comes_twice_is_passed_over(world: World, kind: Kind) -> None:
    """One of an event that was never sent says so, and the others count."""
    subscription, consumer, published = await begun(world, kind, 3)
    await taken(consumer, 2)
    await consumer.ack(published[:1])
    await consumer.ack(published[:1])
    with pytest.raises(NotInFlight):
        await consumer.ack([published[1], published[2]])
    assert published[1] <= (await subscription.standing()).cursor < published[2]
    assert sequences(await taken(consumer, 1)) == published[2:]


@for_both_kinds
async def test_acks_up_to_a_sequence(world: World, kind: Kind) -> None:
    """But for what is to come again or was parked."""
    subscription, consumer, published = await begun(world, kind, 6)
    await taken(consumer, 5)
    await consumer.park(published[0])
    await consumer.retry(published[2], delay_s=0.3)
    await consumer.ack_up_to(published[1])
    standing = await subscription.standing()
    assert published[1] <= standing.cursor < published[2] and standing.parked == 1
    await world.pass_time(0.4)
    behind = published[3:5] if kind == "ordered" else []  # it comes again behind the one that was retried
    assert sequences(await taken(consumer, 2 + len(behind))) == [published[2], *behind, published[5]]
    await consumer.ack_up_to(published[5])
    assert (await subscription.standing()).cursor >= published[5]


@for_both_kinds
async def test_what_nobody_answers_comes_again(world: World, kind: Kind) -> None:
    """After ack_timeout_s, and it says how often it was delivered."""
    subscription, consumer, published = await begun(world, kind, 2, BRIEF)
    await taken(consumer, 2)
    await consumer.ack(published[:1])
    await world.pass_time(BRIEF_S)
    consumer, (event,) = await taken_again(subscription, consumer, 1)
    assert (event.sequence, event.deliveries) == (published[1], 2)
    await consumer.ack([event.sequence])
    assert (await subscription.standing()).cursor >= published[1]


@for_both_kinds
async def test_a_late_ack_counts_for_nothing(world: World, kind: Kind) -> None:
    """Once the event was delivered elsewhere."""
    subscription, late, published = await begun(world, kind, 1, BRIEF)
    await taken(late, 1)
    await world.pass_time(BRIEF_S)
    other = await subscription.join("two")
    await taken(other, 1, 20.0)
    with pytest.raises((Fenced, NotInFlight)):
        await late.ack(published)
    assert (await subscription.standing()).in_flight == 1
    await other.ack(published)
    assert (await subscription.standing()).cursor >= published[0]


@for_both_kinds
async def test_whoever_waits_is_not_away(world: World, kind: Kind) -> None:
    """Not for longer than ack_timeout_s either."""
    _, consumer, published = await begun(world, kind, 1, BRIEF)
    await consumer.ack(sequences(await taken(consumer, 1)))
    assert await later(world, 3.0, asyncio.ensure_future(consumer.take(wait_s=2.5))) == []
    assert published
    await nothing(world, consumer)


@for_both_kinds
async def test_extending_gives_time(world: World, kind: Kind) -> None:
    """As much as it says, from now on."""
    subscription, consumer, published = await begun(world, kind, 1, BRIEF)
    await taken(consumer, 1)
    await world.pass_time(0.5)
    await consumer.extend(published, 30.0)
    await world.pass_time(BRIEF_S)
    await nothing(world, consumer)
    await consumer.ack(published)
    assert (await subscription.standing()).cursor >= published[0]
    with pytest.raises(NotInFlight):
        await consumer.extend(published, 30.0)
    with pytest.raises(BadArgument):
        await consumer.extend(published, -1.0)
    with pytest.raises(BadArgument):
        await consumer.extend(published, 43_201.0)


@for_both_kinds
async def test_retried_after_a_delay(world: World, kind: Kind) -> None:
    """Not before, and counted."""
    _, consumer, published = await begun(world, kind, 1)
    await taken(consumer, 1)
    await consumer.retry(published[0], delay_s=0.4)
    await nothing(world, consumer)
    await world.pass_time(0.5)
    (event,) = await taken(consumer, 1)
    assert (event.sequence, event.deliveries) == (published[0], 2)
    await consumer.retry(published[0], delay_s=0.0)
    assert (await taken(consumer, 1))[0].deliveries == 3
    for delay_s in (-1.0, 86_401.0):
        with pytest.raises(BadArgument):
            await consumer.retry(published[0], delay_s=delay_s)
    await consumer.retry(published[0], delay_s=86_400.0)


@for_both_kinds
async def test_the_back_off_doubles(world: World, kind: Kind) -> None:
    """From retry_min_s to retry_max_s, less up to a half."""
    settings = Settings(retry_min_s=1.0, retry_max_s=2.0, deliveries_max=0)
    _, consumer, published = await begun(world, kind, 1, settings)
    for delay_s in (1.0, 2.0, 2.0):
        await taken(consumer, 1)
        await consumer.retry(published[0])
        await world.pass_time(delay_s * 0.5 - 0.4)
        await nothing(world, consumer)
        await world.pass_time(delay_s * 0.5 + 0.5)
    await taken(consumer, 1)


@for_both_kinds
async def test_delivered_too_often_it_is_parked(world: World, kind: Kind) -> None:
    """And counts as acked: what follows goes on."""
    subscription, consumer, published = await begun(world, kind, 2, Settings(deliveries_max=2))
    for deliveries in (1, 2):
        event = (await taken(consumer, 1))[0]
        assert (event.sequence, event.deliveries) == (published[0], deliveries)
        await consumer.retry(event.sequence, delay_s=0.0)
    assert sequences(await taken(consumer, 1)) == published[1:]
    await consumer.ack(published[1:])
    (parked,) = await subscription.parked()
    assert (parked.sequence, parked.deliveries, parked.type) == (published[0], 2, "message")
    assert parked.reason
    standing = await subscription.standing()
    assert standing.parked == 1 and standing.cursor >= published[1]


@for_both_kinds
async def test_parked_events_are_looked_at_replayed_and_dropped(world: World, kind: Kind) -> None:
    """By sequence; those that aren't parked are not counted."""
    subscription, consumer, published = await begun(world, kind, 4)
    for event in await taken(consumer, 4):
        await consumer.park(event.sequence, reason=f"reason {event.sequence}")
    parked = await subscription.parked()
    assert [one.sequence for one in parked] == published
    assert parked[0].reason == f"reason {published[0]}" and parked[0].deliveries == 1 and parked[0].time > 0
    assert [one.sequence for one in await subscription.parked(after=published[0], limit=2)] == published[1:3]
    assert (await subscription.standing()).cursor >= published[-1]
    assert await subscription.replay([published[1], published[3], published[3] + 1_000]) == 2
    assert await subscription.drop(published[:1]) == 1 and await subscription.drop(published[:1]) == 0
    events = await taken(consumer, 2)
    assert sequences(events) == [published[1], published[3]]
    assert {event.deliveries for event in events} == {1}
    await consumer.ack(sequences(events))
    assert [one.sequence for one in await subscription.parked()] == [published[2]]
    await nothing(world, consumer)


@for_both_kinds
async def test_only_what_is_in_flight_can_be_answered(world: World, kind: Kind) -> None:
    """What was acked, parked, or never sent can't be retried or parked."""
    _, consumer, published = await begun(world, kind, 3)
    await taken(consumer, 2)
    await consumer.ack(published[:1])
    await consumer.park(published[1])
    for sequence in published:
        with pytest.raises(NotInFlight):
            await consumer.retry(sequence)
        with pytest.raises(NotInFlight):
            await consumer.park(sequence)


@for_both_kinds
async def test_leaving_gives_back_at_once(world: World, kind: Kind) -> None:
    """And whoever has left has nothing to say."""
    subscription, first, published = await begun(world, kind, 3)
    await taken(first, 3)
    await first.ack(published[:1])
    second = await subscription.join("two")
    await first.leave()
    assert sequences(await taken(second, 2)) == published[1:]
    for call in (
        lambda: first.take(wait_s=0.0),
        lambda: first.ack(published),
        lambda: first.ack_up_to(published[2]),
        lambda: first.retry(published[1]),
        lambda: first.park(published[1]),
        lambda: first.extend(published, 5.0),
    ):
        with pytest.raises(Fenced):
            await call()
    await first.leave()
    assert (await subscription.standing()).consumers == ("two",)


@for_both_kinds
async def test_a_name_is_one_consumer(world: World, kind: Kind) -> None:
    """The next one of the name fences the one before, and generations rise."""
    subscription, first, published = await begun(world, kind, 2)
    await taken(first, 2)
    second = await subscription.join("one")
    assert second.name == first.name and second.generation > first.generation
    with pytest.raises(Fenced):
        await first.ack(published)
    assert sequences(await taken(second, 2)) == published
    third = await subscription.join()
    assert third.name not in ("", "one") and third.generation > second.generation
    for bad in ("Upper", "a" * 65):
        with pytest.raises(BadArgument):
            await subscription.join(bad)
    with pytest.raises(BadArgument):
        await subscription.join("two", in_flight_max=0)


@for_both_kinds
async def test_a_fenced_consumer_that_waits_is_told(world: World, kind: Kind) -> None:
    """It doesn't wait on for what it will never get."""
    subscription, first, _ = await begun(world, kind, 0)
    waiting = asyncio.ensure_future(first.take(wait_s=20.0))
    await asyncio.sleep(0.05)
    await subscription.join("one")
    with pytest.raises(Fenced):
        await asyncio.wait_for(waiting, 10)


@for_both_kinds
async def test_no_more_in_flight_than_allowed(world: World, kind: Kind) -> None:
    """Of the settings, or of the consumer where that is less; an ack makes it go on."""
    subscription, consumer, published = await begun(world, kind, 8, Settings(in_flight_max=4))
    assert sequences(await taken(consumer, 4)) == published[:4]
    await nothing(world, consumer)
    await consumer.ack(published[:2])
    assert sequences(await taken(consumer, 2)) == published[4:6]
    await nothing(world, consumer)
    await consumer.leave()
    small = await subscription.join("small", in_flight_max=2)
    assert sequences(await taken(small, 2)) == published[2:4]
    await nothing(world, small)


@for_both_kinds
async def test_a_crash_is_counted_for_what_crashed(world: World, kind: Kind) -> None:
    """Consumers that die of one event, again and again: it is parked, and what was beside it is not."""
    subscription, consumer, published = await begun(world, kind, 4, Settings(deliveries_max=4))
    for _ in range(20):
        events = await consumer.take(wait_s=world.look_s)
        if not events:
            break
        for event in events:
            if event.sequence == published[1]:
                consumer = await subscription.join("one")  # it died: another one of its name begins
                break
            await consumer.ack([event.sequence])
    else:
        raise AssertionError("after 20 crashes it still comes")
    assert [one.sequence for one in await subscription.parked()] == [published[1]]
    assert (await subscription.standing()).cursor >= published[3]


@contract
async def test_an_ack_of_what_another_has_meanwhile_counts_for_nothing_and_says_so(world: World) -> None:
    """Nor does it let the count be forgotten: that event is on its way to be parked."""
    subscription, first, published = await begun(world, "competing", 3)
    await taken(first, 3)
    await first.ack([published[0], published[2]])
    other = await subscription.join("other")
    await first.retry(published[1], delay_s=0.0)
    ((again, deliveries),) = [(one.sequence, one.deliveries) for one in await taken(other, 1)]
    assert (again, deliveries) == (published[1], 2)
    with pytest.raises(NotInFlight):
        await first.ack([published[1]])
    await first.ack([published[0]])  # acked before: passed over
    await other.leave()
    assert [(one.sequence, one.deliveries) for one in await taken(first, 1)] == [(published[1], 3)]
