"""The contract of several consumers: an ordered subscription splits conversations, a competing one events."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from engine.subscriptions.definition import Settings
from engine.subscriptions.ports import Consumer, StoredEvent
from tests.subscriptions.contract import World, contract, group, publish, sequences, subscribe, taken


async def all_of(world: World, consumer: Consumer) -> list[StoredEvent]:
    """What there is for it now."""
    found: list[StoredEvent] = []
    while more := await consumer.take(wait_s=world.look_s):
        found += more
    return found


@contract
async def test_a_conversation_has_one_consumer(world: World) -> None:
    """Each has some, all are somebody's, and nobody else gets events of them."""
    conversations = [await group(world) for _ in range(40)]
    subscription = await subscribe(world, "split", "ordered")
    first, second = await subscription.join("first"), await subscription.join("second")
    holders: dict[int, set[str]] = defaultdict(set)
    numbers: dict[int, list[int]] = defaultdict(list)
    for _ in range(3):
        for conversation in conversations:
            await publish(world, conversation, 1)
        for consumer in (first, second):
            events = await all_of(world, consumer)
            for event in events:
                holders[event.conversation].add(consumer.name)
                numbers[event.conversation].append(event.conversation_sequence)
            await consumer.ack(sequences(events))
    assert set(numbers) == set(conversations) and all(found == [2, 3, 4] for found in numbers.values())
    assert all(len(names) == 1 for names in holders.values())
    assert {name for names in holders.values() for name in names} == {"first", "second"}


@contract
async def test_a_share_moves_without_a_gap(world: World) -> None:
    """Only once what is in flight of it is acked: no conversation is at two consumers at a time, none skips."""
    conversations = [await group(world) for _ in range(40)]
    subscription = await subscribe(world, "move", "ordered")
    first = await subscription.join("first")
    for conversation in conversations:
        await publish(world, conversation, 2)
    held = await taken(first, 40)
    second = await subscription.join("second")
    early = await all_of(world, second)
    in_flight = {event.conversation for event in held}
    assert not in_flight & {event.conversation for event in early}
    await second.ack(sequences(early))
    await first.ack(sequences(held))
    numbers: dict[int, list[int]] = defaultdict(list)
    for event in held + early:
        numbers[event.conversation].append(event.conversation_sequence)
    names = set()
    for _ in range(3):
        for consumer in (first, second):
            events = await all_of(world, consumer)
            names |= {consumer.name} if events else set()
            for event in events:
                numbers[event.conversation].append(event.conversation_sequence)
            await consumer.ack(sequences(events))
    assert all(numbers[conversation] == [2, 3] for conversation in conversations)
    assert "second" in names or early
    await second.leave()
    last = [(await publish(world, conversation, 1))[0] for conversation in conversations]
    assert sequences(await taken(first, 40)) == last


@contract
async def test_what_follows_a_retried_event_waits(world: World) -> None:
    """Of its conversation nothing is handed out until its delay is over, then it comes before them."""
    conversation, other = await group(world), await group(world)
    subscription = await subscribe(world, "wait", "ordered")
    published = await publish(world, conversation, 1)
    consumer = await subscription.join()
    await taken(consumer, 1)
    await consumer.retry(published[0], delay_s=0.5)
    published += await publish(world, conversation, 2)
    elsewhere = await publish(world, other, 1)
    await asyncio.sleep(0)
    early = sequences(await all_of(world, consumer))
    assert early in ([], elsewhere)  # it may be of the same share
    await world.pass_time(0.6)
    mine = [event.sequence for event in await taken(consumer, 4 - len(early)) if event.conversation == conversation]
    assert mine == published
    assert (await subscription.standing()).in_flight == 4


@contract
async def test_what_was_delivered_behind_a_retried_event_comes_behind_it(world: World) -> None:
    """Again, and it isn't parked for that."""
    conversation = await group(world)
    subscription = await subscribe(world, "behind", "ordered", Settings(deliveries_max=3))
    published = await publish(world, conversation, 3)
    consumer = await subscription.join()
    for number in range(3):
        found = await taken(consumer, 1)
        assert (found[0].sequence, found[0].deliveries) == (published[0], number + 1)
        if number == 0:
            found += await taken(consumer, 2)
        await consumer.retry(published[0], delay_s=0.1)
        await world.pass_time(0.2)
    for sequence in published[1:]:
        assert sequences(await taken(consumer, 1)) == [sequence]
        await consumer.ack([sequence])
    assert [one.sequence for one in await subscription.parked()] == published[:1]
    assert (await subscription.standing()).cursor >= published[2]


@contract
async def test_any_consumer_takes_the_next_event(world: World) -> None:
    """Of a competing subscription; each event is with one of them."""
    conversation = await group(world)
    subscription = await subscribe(world, "compete", "competing")
    published = await publish(world, conversation, 6)
    consumers = [await subscription.join() for _ in range(3)]
    found = [await consumer.take(events_max=2, wait_s=world.look_s) for consumer in consumers]
    assert sorted(event.sequence for events in found for event in events) == published
    for consumer, events in zip(reversed(consumers), reversed(found), strict=True):
        assert len(events) == 2
        await consumer.ack(sequences(events))
    assert (await subscription.standing()).cursor >= published[-1]


@contract
async def test_a_retried_event_holds_up_nobody(world: World) -> None:
    """Of a competing subscription: the others go on, and anybody may get it next."""
    conversation = await group(world)
    subscription = await subscribe(world, "go-on", "competing")
    published = await publish(world, conversation, 3)
    first, second = await subscription.join(), await subscription.join()
    await first.take(events_max=1)
    await first.retry(published[0], delay_s=1.5)
    assert sequences(await all_of(world, second)) == published[1:]
    await second.ack(published[1:])
    await first.leave()
    await world.pass_time(1.6)
    (event,) = await taken(second, 1)
    assert (event.sequence, event.deliveries) == (published[0], 2)


@contract
async def test_the_limit_of_a_competing_subscription_is_of_all_together(world: World) -> None:
    """Its consumers share it; that of an ordered one each has."""
    for kind, expected in (("competing", 4), ("ordered", 8)):
        conversations = [await group(world) for _ in range(30)]
        subscription = await world.source.create(kind, kind, settings=Settings(in_flight_max=4))  # type: ignore[arg-type]
        first, second = await subscription.join(), await subscription.join()
        for conversation in conversations:
            await publish(world, conversation, 2)
        assert len(await all_of(world, first) + await all_of(world, second)) == expected
        assert (await subscription.standing()).in_flight == expected
        await world.source.delete(kind)
