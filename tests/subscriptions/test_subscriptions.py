"""`Subscriptions` over a real log: what ports.py promises, and what a restart leaves of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.errors import BadArgument, Trimmed
from engine.log.readers import readers
from engine.subscriptions.definition import Filter, Kind, Settings, Start
from engine.subscriptions.ports import (
    BeyondEnd,
    Fenced,
    NotInFlight,
    Paused,
    StoredEvent,
    SubscriptionExists,
    UnknownSubscription,
)
from tests.support.subscription_rig import START_US, STEP_US, EventRig, with_rig

FIRST = Start(first=True)
MESSAGES = Filter(types=("message",))
KINDS: tuple[Kind, Kind] = ("ordered", "competing")
both = pytest.mark.parametrize("kind", KINDS)


def numbers(events: list[StoredEvent]) -> list[int]:
    """Their sequences."""
    return [event.sequence for event in events]


@both
def test_what_was_acked_stays_acked_over_a_restart(tmp_path: Path, kind: Kind) -> None:
    """S2: and what was not comes again, counted."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, start=FIRST)
        last = rig.say(20)
        await rig.read_back()
        consumer = await subscription.join("one")
        events = await consumer.take(events_max=100)
        assert numbers(events) == list(range(1, last + 1))  # its own creation is an event as any other
        assert events[5].payload == b"4" and events[5].deliveries == 1
        await consumer.ack(numbers(events)[:10])
        await consumer.ack_up_to(events[14].sequence)
        subscription = await (await rig.restarted()).subscription("push")
        standing = await subscription.standing()
        assert (standing.cursor, standing.in_flight, standing.consumers) == (15, 0, ())
        with pytest.raises(Fenced):
            await consumer.ack([16])
        consumer = await subscription.join("two")
        again: list[StoredEvent] = []
        while events := await consumer.take(events_max=100, wait_s=0.2):  # share by share: their cursors differ
            again += events
        again.sort()
        assert numbers(again) == list(range(16, last + 1))

    with_rig(tmp_path, story)


def test_acks_in_any_order_survive(tmp_path: Path) -> None:
    """C1: the holes below the place are stored."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", "competing", filter=MESSAGES)
        rig.say(9)
        await rig.read_back()
        consumer = await subscription.join()
        events = numbers(await consumer.take())
        await consumer.ack(events[1::2])
        assert (await subscription.standing()).cursor == events[0] - 1
        subscription = await (await rig.restarted()).subscription("push")
        assert (await subscription.standing()).cursor == events[0] - 1
        again = await (await subscription.join()).take()
        assert numbers(again) == events[::2]
        assert {event.deliveries for event in again} == {2}

    with_rig(tmp_path, story)


@both
def test_an_event_that_kills_its_consumers_is_parked_and_only_that(tmp_path: Path, kind: Kind) -> None:
    """S6, M4: the others that each of them held are delivered; counts survive a restart."""

    async def story(rig: EventRig) -> None:
        settings = Settings(deliveries_max=4)
        subscription = await rig.subscriptions.create("push", kind, filter=MESSAGES, settings=settings)
        last = rig.say(10, conversations=1)
        await rig.read_back()
        poison, acked, deaths = last - 6, [], 0
        for _ in range(40):
            consumer = await subscription.join("worker")
            while events := await consumer.take(events_max=5, wait_s=0):
                for event in events:
                    if event.sequence == poison:
                        break
                    acked.append(event.sequence)
                    await consumer.ack([event.sequence])
                else:
                    continue
                deaths += 1
                await consumer.leave()
                if deaths == 3:
                    subscription = await (await rig.restarted()).subscription("push")
                break
            else:
                break
        assert sorted(set(acked)) == [one for one in range(last - 9, last + 1) if one != poison]
        assert len(acked) == len(set(acked))
        (parked,) = await subscription.parked()
        assert (parked.sequence, parked.deliveries, parked.type, parked.conversation) == (poison, 4, "message", 1)
        assert deaths == 4
        while "subscription.parked" not in rig.posted:
            await asyncio.sleep(0.01)
        assert (await subscription.standing()).parked == 1
        # People look, and send it once more: it is acked this time.
        assert await subscription.replay([poison, 1]) == 1
        consumer = await subscription.join("worker")
        found = await consumer.take(wait_s=5)
        while poison not in numbers(found):
            await consumer.ack(numbers(found))
            found = await consumer.take(wait_s=5)
        await consumer.ack(numbers(found))
        assert await subscription.parked() == []
        assert (await (await rig.restarted()).subscription("push")).name == "push"
        assert await (await rig.subscriptions.subscription("push")).parked() == []

    with_rig(tmp_path, story)


@both
def test_retry_waits_and_is_counted(tmp_path: Path, kind: Kind) -> None:
    """And of an ordered share what lies behind it comes behind it."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, filter=MESSAGES)
        last = rig.say(3, conversations=1)
        await rig.read_back()
        consumer = await subscription.join()
        events = await consumer.take()
        assert numbers(events) == [last - 2, last - 1, last]
        await consumer.ack([last - 2])
        await consumer.retry(last - 1, delay_s=0.2)
        with pytest.raises(NotInFlight):
            await consumer.retry(last - 1)
        if kind == "competing":
            await consumer.ack([last])
        assert await consumer.take(wait_s=0) == []
        again = await consumer.take(wait_s=5)
        wanted = [last - 1, last] if kind == "ordered" else [last - 1]
        assert numbers(again) == wanted and {event.deliveries for event in again} == {2}
        await consumer.ack_up_to(again[-1].sequence)
        assert (await subscription.standing()).cursor >= last

    with_rig(tmp_path, story)


def test_shares_move_with_joins_and_leaves(tmp_path: Path) -> None:
    """O1, O2, O4: three consumers, each conversation with one of them, in order, without a gap."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", "ordered")
        seen: dict[int, list[int]] = {}
        consumers = [await subscription.join("a")]
        for turn in range(30):
            rig.say(100, conversations=40)
            await rig.read_back()
            if turn in (5, 10):
                consumers.append(await subscription.join(f"later-{turn}"))
            if turn == 20:
                await consumers.pop(0).leave()
            owners: dict[int, set[str]] = {}
            for consumer in consumers:
                taken: list[int] = []
                for event in await consumer.take(wait_s=0):
                    seen.setdefault(event.conversation, []).append(event.sequence)
                    owners.setdefault(event.conversation, set()).add(consumer.name)
                    taken.append(event.sequence)
                await consumer.ack(taken)
            assert all(len(names) == 1 for names in owners.values())
        await asyncio.sleep(0.05)
        for consumer in consumers:
            while events := await consumer.take(wait_s=0.2):
                for event in events:
                    seen.setdefault(event.conversation, []).append(event.sequence)
                await consumer.ack_up_to(events[-1].sequence)
        everything = [one for conversation in range(1, 41) for one in seen[conversation]]
        assert len(everything) == len(set(everything)) == 3_000
        assert all(seen[conversation] == sorted(seen[conversation]) for conversation in seen)

    with_rig(tmp_path, story)


@both
def test_a_consumer_of_the_same_name_fences_the_one_before(tmp_path: Path, kind: Kind) -> None:
    """S3; and generations rise over restarts."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, filter=MESSAGES)
        last = rig.say(3)
        await rig.read_back()
        one = await subscription.join("same")
        assert len(await one.take()) == 3
        waiting = asyncio.create_task(one.take(wait_s=30))
        await asyncio.sleep(0.01)
        other = await subscription.join("same")
        with pytest.raises(Fenced):
            await waiting
        for answer in (one.ack([last]), one.ack_up_to(last), one.retry(last), one.park(last), one.extend([last], 5)):
            with pytest.raises(Fenced):
                await answer
        assert [event.deliveries for event in await other.take()] == [2, 2, 2]
        assert other.generation > one.generation
        third = await (await (await rig.restarted()).subscription("push")).join("same")
        assert third.generation > other.generation

    with_rig(tmp_path, story)


@both
def test_who_never_acks_is_given_up(tmp_path: Path, kind: Kind) -> None:
    """Its events go to somebody else; a late ack of a competing one still counts while nobody has it."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, filter=MESSAGES, settings=Settings(ack_timeout_s=1))
        last = rig.say(2)
        await rig.read_back()
        silent = await subscription.join("silent")
        assert len(await silent.take()) == 2
        await silent.extend([last], 40)
        await asyncio.sleep(1.3)
        if kind == "ordered":
            with pytest.raises(Fenced):
                await silent.ack([last])
        else:
            await silent.ack([last - 1])
            await silent.ack([last])
            assert (await subscription.standing()).cursor >= last
            return
        other = await subscription.join("other")
        assert numbers(await other.take()) == [last - 1, last]

    with_rig(tmp_path, story)


def test_filters_and_kinds(tmp_path: Path) -> None:
    """Types at a dot, kinds that are looked up once, conversations, senders."""

    async def story(rig: EventRig) -> None:
        rig.kinds = {1: "dialog", 2: "channel", 3: "group"}
        for at in range(30):
            rig.append((1 + at % 3, ["message", "message.edited", "messages", "poll.vote"][at % 4], 1 + at % 5, b""))
            await rig.read_back()
        events = [event async for event in rig.subscriptions.read(after=0)]
        assert len(events) == 30

        async def found(wanted: Filter) -> list[int]:
            return [event.sequence async for event in rig.subscriptions.read(after=0, filter=wanted)]

        async def equals(wanted: Filter, expected: list[StoredEvent]) -> None:
            assert await found(wanted) == numbers(expected)

        await equals(Filter(types=("message",)), [e for e in events if e.type in ("message", "message.edited")])
        await equals(Filter(kinds=("dialog", "channel")), [e for e in events if e.conversation in (1, 2)])
        await equals(
            Filter(conversations=(3,), senders=(1, 2)), [e for e in events if e.conversation == 3 and e.sender < 3]
        )
        assert await found(Filter(types=("nothing.like.it",))) == []
        asked = len(rig.asked)
        await found(Filter(kinds=("group",)))
        assert len(rig.asked) == asked == 3

    with_rig(tmp_path, story)


@both
def test_recipients_who_are_away(tmp_path: Path, kind: Kind) -> None:
    """Only where a member other than the sender is away, who is named."""

    async def story(rig: EventRig) -> None:
        rig.members = {1: [1, 2, 3], 2: [1, 4], 3: [1]}
        rig.gone = {1, 3}
        subscription = await rig.subscriptions.create(
            "push", kind, filter=Filter(recipient_away=True, types=("message",))
        )
        last = rig.append(
            (1, "message", 1, b""), (2, "message", 1, b""), (3, "message", 1, b""), (2, "message", 4, b"")
        )
        consumer = await subscription.join()
        events = await consumer.take()
        assert [(event.sequence, event.away) for event in events] == [(last - 3, (3,)), (last, (1,))]
        await consumer.ack(numbers(events))
        assert (await subscription.standing()).cursor >= last

    with_rig(tmp_path, story)


def test_starts(tmp_path: Path) -> None:
    """First, last, a position, a time; two at once are refused."""

    async def story(rig: EventRig) -> None:
        last = rig.say(50)
        await rig.read_back()
        create = rig.subscriptions.create
        starts = {
            "first": (Start(first=True), 0),
            "position": (Start(sequence=17), 17),
            "time": (Start(time=START_US + 30 * STEP_US), 29),
            "between": (Start(time=START_US + 30 * STEP_US + 1), 30),
            "future": (Start(time=time.time_ns() // 1_000 + 30_000_000), None),
            "past": (Start(time=0), 0),
        }
        for name, (start, position) in starts.items():
            end = rig.log.last_sequence
            found = (await (await create(name, "competing", start=start)).standing()).definition.position
            assert found == (end if position is None else position), name
        with pytest.raises(BadArgument, match="several"):
            await create("both", "ordered", start=Start(first=True, sequence=3))
        with pytest.raises(BadArgument, match="at most 60 s ahead"):
            await create("far", "ordered", start=Start(time=time.time_ns() // 1_000 + 120_000_000))
        with pytest.raises(BeyondEnd, match="the log ends at"):
            await create("beyond", "ordered", start=Start(sequence=last + 1_000))

    with_rig(tmp_path, story)


@both
def test_pause_reset_delete(tmp_path: Path, kind: Kind) -> None:
    """Each is an event, and holds after a restart."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, start=FIRST)
        assert (await rig.subscriptions.create("push", kind, start=FIRST)).name == "push"
        with pytest.raises(SubscriptionExists):
            await rig.subscriptions.create("push", kind, filter=Filter(types=("message",)))
        last = rig.say(5)
        await rig.read_back()
        consumer = await subscription.join()
        waiting = asyncio.create_task(consumer.take(events_max=3))
        assert len(await waiting) == 3
        await subscription.pause()
        with pytest.raises(Paused):
            await consumer.take()
        await consumer.ack([1])  # what is in flight may be answered
        subscription = await (await rig.restarted()).subscription("push")
        assert (await subscription.standing()).paused
        await subscription.resume()
        await subscription.resume()
        consumer = await subscription.join()
        assert (await consumer.take(events_max=1))[0].sequence == 2
        await subscription.reset(Start(sequence=last - 1))
        with pytest.raises(Fenced):
            await consumer.ack([2])
        consumer = await subscription.join()
        assert numbers(await consumer.take(events_max=1)) == [last]
        await rig.subscriptions.delete("push")
        with pytest.raises(Fenced):
            await consumer.take()
        for act in (subscription.standing(), subscription.pause(), subscription.join(), subscription.parked()):
            with pytest.raises(UnknownSubscription):
                await act
        again = await rig.subscriptions.create("push", kind, start=FIRST)
        assert (await again.standing()).cursor == 0  # nothing is left of the one before
        assert rig.posted == [
            f"subscription.{one}" for one in ("created", "paused", "resumed", "reset", "deleted", "created")
        ]

    with_rig(tmp_path, story)


def test_definitions_are_a_projection_of_the_log(tmp_path: Path) -> None:
    """M1: without the store they are folded again, and begin where they began."""

    async def story(rig: EventRig) -> None:
        kept = await rig.subscriptions.create("kept", "ordered", filter=Filter(types=("message",)))
        await rig.subscriptions.create("gone", "competing")
        await rig.subscriptions.delete("gone")
        await kept.pause()
        before = await kept.standing()
        await rig.subscriptions.close()
        for path in (rig.data / "subscriptions").iterdir():
            path.unlink()
        await rig.open()
        (after,) = await rig.subscriptions.subscriptions()
        assert (after.definition, after.created, after.paused) == (before.definition, before.created, True)

    with_rig(tmp_path, story)


@both
def test_older_than_what_is_kept(tmp_path: Path, kind: Kind) -> None:
    """M3: trimming waits for subscriptions; forced, they say where the log begins, and a reset goes on."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, start=FIRST)
        while len(list((rig.data / "log").glob("*.lmdb"))) < 3:
            rig.append(*((1, "message", 1, b"x" * 500) for _ in range(50)))
            await rig.read_back()
        (row,) = readers(rig.data)
        assert (row.name, row.kind, row.position, row.detail) == ("subscriptions", "subscription", 0, "push")
        first = sorted(int(path.stem) for path in (rig.data / "log").glob("*.lmdb"))[1]
        await rig.subscriptions.close()
        (rig.data / "log" / f"{1:020}.lmdb").unlink()
        rig.log.close()
        rig.log = type(rig.log).open(rig.data, segment_bytes=64 << 10)
        await rig.open()
        subscription = await rig.subscriptions.subscription("push")
        consumer = await subscription.join()
        with pytest.raises(Trimmed, match=f"begins at {first}"):
            await consumer.take()
        with pytest.raises(Trimmed, match=f"begins at {first}"):
            await subscription.reset(Start(sequence=first - 2))
        with pytest.raises(Trimmed, match=f"begins at {first}"):
            await anext(rig.subscriptions.read(after=3))
        await subscription.reset(FIRST)
        consumer = await subscription.join()
        assert (await consumer.take(events_max=1))[0].sequence == first

    with_rig(tmp_path, story, segment_bytes=64 << 10)


def test_a_hundred_subscriptions_read_the_log_once(tmp_path: Path) -> None:
    """Bytes read from the log don't grow with them."""

    async def story(rig: EventRig) -> None:
        names = [f"s-{number}" for number in range(100)]
        consumers = [await (await rig.subscriptions.create(name, "ordered")).join() for name in names]
        before, size = rig.subscriptions.feed.read_bytes, 0
        for _ in range(5):
            rig.say(1_000)
            await rig.read_back()
        taken = await asyncio.gather(*(consumer.take(events_max=5_000, wait_s=10) for consumer in consumers))
        reader = rig.log.reader()
        size = sum(map(len, reader.blocks_after(rig.log.last_sequence - 5_000, 1 << 24)))
        assert all(taken)
        assert rig.subscriptions.feed.read_bytes - before <= 1.1 * size

    with_rig(tmp_path, story)


def test_nothing_more_than_in_flight_max_is_handed_out(tmp_path: Path) -> None:
    """S5: of a consumer, and of a competing subscription in all."""

    async def story(rig: EventRig) -> None:
        for kind in KINDS:
            subscription = await rig.subscriptions.create(
                kind, kind, filter=MESSAGES, settings=Settings(in_flight_max=10)
            )
            rig.say(40, conversations=40)
            await rig.read_back()
            one, other = await subscription.join("one"), await subscription.join("other")
            got = [await consumer.take(wait_s=0.1) for consumer in (one, other)]
            assert [len(events) for events in got] == ([10, 10] if kind == "ordered" else [10, 0])
            assert await one.take(wait_s=0) == []
            await one.ack(numbers(got[0])[5:])  # out of order: of these, nothing is free yet
            assert (await subscription.standing()).in_flight == (15 if kind == "ordered" else 5)
            await one.ack(numbers(got[0]))
            assert len(await one.take(wait_s=1)) > 0

    with_rig(tmp_path, story)


@both
def test_who_parks_all_that_there_is_does_not_feed_itself(tmp_path: Path, kind: Kind) -> None:
    """M4: what is told of a parked event is an event, and parked in its turn; that is not told."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create(
            "audit", kind, filter=Filter(types=("message", "subscription.parked"))
        )
        rig.say(3)
        consumer, parked = await subscription.join("one"), 0
        while events := await consumer.take(wait_s=1):
            for event in events:
                await consumer.park(event.sequence)
            parked += len(events)
            assert parked <= 6
        assert rig.posted.count("subscription.parked") == 3 and parked == 6
        assert (await subscription.standing()).parked == 6

    with_rig(tmp_path, story)
