"""ConsumerLoop over the double: every outcome of a handler, order, stops, fences and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from engine.errors import BadArgument
from engine.subscriptions.clock import HandClock
from engine.subscriptions.definition import DEFAULTS, Kind, Settings
from engine.subscriptions.loop import ConsumerLoop, Park, Retry
from engine.subscriptions.ports import Consumer, Standing, StoredEvent, Subscription, UnknownSubscription
from tests.subscriptions.contract import group, publish, subscribe
from tests.subscriptions.worlds import MemoryWorld

Handle = Callable[[StoredEvent], Awaitable[None]]


class Rig:
    """A subscription of the double, and a loop over it in a task."""

    def __init__(self, world: MemoryWorld, subscription: Subscription, handle: Handle, **how: Any) -> None:
        self.world, self.subscription = world, subscription
        self.troubles: list[str] = []
        self.loop = ConsumerLoop(
            subscription, handle, clock=world.clock, on_trouble=lambda doing, _: self.troubles.append(doing), **how
        )
        self.task = asyncio.ensure_future(self.loop.run())

    async def settle(self, delay_s: float = 0.2) -> None:
        """Lets it go on until it waits for time alone."""
        await self.world.clock.advance(delay_s)

    async def stop(self) -> Standing:
        """Stops it; how the subscription stands then."""
        self.loop.stop()
        await self.settle()
        await asyncio.wait_for(self.task, 10)
        return await self.subscription.standing()


async def made(kind: Kind = "ordered", settings: Settings = DEFAULTS) -> tuple[MemoryWorld, Subscription, int]:
    """A world, a subscription to all messages, and a conversation."""
    world = MemoryWorld()
    return world, await subscribe(world, "loop", kind, settings), await group(world)


def run(check: Callable[[], Awaitable[None]]) -> None:
    """In a loop of asyncio, which may not take long."""

    async def limited() -> None:
        await asyncio.wait_for(check(), 20)

    asyncio.run(limited())


@pytest.mark.parametrize("kind", ["ordered", "competing"])
def test_what_returns_is_acked(kind: Kind) -> None:
    """Many at a time, with few acks."""

    async def check() -> None:
        world, subscription, conversation = await made(kind)
        published = await publish(world, conversation, 300)
        seen: list[int] = []

        async def handle(event: StoredEvent) -> None:
            seen.append(event.sequence)

        rig = Rig(world, subscription, handle)
        await rig.settle()
        assert sorted(seen) == published
        standing = await rig.stop()
        assert standing.cursor >= published[-1] and standing.consumers == ()
        stats = rig.loop.stats()
        assert (stats["taken_events"], stats["acked_events"], stats["joins"]) == (300, 300, 1)
        assert not rig.troubles and stats["held_events"] == stats["running_events"] == 0

    run(check)


def test_a_conversation_keeps_its_order_whatever_fails() -> None:
    """One that failed is tried again before what follows it, with others at work beside it."""

    async def check() -> None:
        world, subscription, first = await made()
        others = [await group(world) for _ in range(8)]
        seen: dict[int, list[int]] = {}
        at_work: set[int] = set()

        async def handle(event: StoredEvent) -> None:
            assert event.conversation not in at_work
            at_work.add(event.conversation)
            await asyncio.sleep(0)
            at_work.discard(event.conversation)
            if event.conversation_sequence == 3 and event.deliveries < 3:
                raise Retry(1.0) if event.deliveries == 1 else ValueError("again")
            seen.setdefault(event.conversation, []).append(event.conversation_sequence)

        for _ in range(5):
            for conversation in (first, *others):
                await publish(world, conversation, 1)
        rig = Rig(world, subscription, handle)
        await rig.settle(0.5)
        assert seen[first] == [2]
        await rig.settle(10.0)
        standing = await rig.stop()
        assert all(seen[conversation] == [2, 3, 4, 5, 6] for conversation in (first, *others)), seen
        assert standing.lag_events == 0 and standing.parked == 0
        counters = rig.loop.counters
        assert (counters.retried_events, counters.failed_events, counters.acked_events) == (18, 9, 45)
        assert len(rig.troubles) == 9 and counters.stale_answers == 0

    run(check)


def test_a_handler_parks_or_the_subscription_does() -> None:
    """And the conversation goes on behind it."""

    async def check() -> None:
        world, subscription, conversation = await made(settings=Settings(deliveries_max=2, retry_min_s=0.1))
        published = await publish(world, conversation, 4)
        seen: list[int] = []

        async def handle(event: StoredEvent) -> None:
            if event.sequence == published[0]:
                raise Park("no account")
            if event.sequence == published[2]:
                raise ValueError("always")
            seen.append(event.sequence)

        rig = Rig(world, subscription, handle)
        await rig.settle(5.0)
        standing = await rig.stop()
        assert seen == [published[1], published[3]] and standing.parked == 2 and standing.cursor >= published[3]
        assert [(one.sequence, one.reason) for one in await subscription.parked()][:1] == [(published[0], "no account")]
        assert rig.loop.counters.parked_events == 1

    run(check)


def test_no_more_at_work_than_allowed() -> None:
    """Nor held; and what is at work while another can't be taken is no dead end."""

    async def check() -> None:
        world, subscription, conversation = await made("competing")
        published = await publish(world, conversation, 50)
        now, most, held = 0, 0, 0

        async def handle(event: StoredEvent) -> None:
            nonlocal now, most, held
            now += 1
            most, held = max(most, now), max(held, rig.loop.stats()["held_events"])
            await world.clock.sleep(0.01)
            now -= 1

        rig = Rig(world, subscription, handle, concurrency=3, held_events_max=4)
        await rig.settle(5.0)
        standing = await rig.stop()
        assert standing.cursor >= published[-1] and (most, held) == (3, 4)

    run(check)


def test_what_takes_long_is_extended() -> None:
    """For as long as it is at work, or waits behind what is."""

    async def check() -> None:
        world, subscription, conversation = await made(settings=Settings(ack_timeout_s=3.0))
        published = await publish(world, conversation, 2)
        seen: list[tuple[int, int]] = []

        async def handle(event: StoredEvent) -> None:
            seen.append((event.sequence, event.deliveries))
            await world.clock.sleep(20.0)

        rig = Rig(world, subscription, handle)
        await rig.settle(50.0)
        standing = await rig.stop()
        assert seen == [(published[0], 1), (published[1], 1)] and standing.cursor >= published[1]
        assert rig.loop.counters.extended_events >= 10 and rig.loop.counters.fenced == 0

    run(check)


def test_a_handler_that_never_ends_is_cancelled() -> None:
    """Its event comes again."""

    async def check() -> None:
        world, subscription, conversation = await made(settings=Settings(retry_min_s=0.0))
        await publish(world, conversation, 1)
        deliveries: list[int] = []

        async def handle(event: StoredEvent) -> None:
            deliveries.append(event.deliveries)
            if event.deliveries == 1:
                await asyncio.sleep(3600)

        rig = Rig(world, subscription, handle, handle_s_max=0.02)
        await rig.settle()
        await asyncio.sleep(0.05)
        await rig.settle()
        standing = await rig.stop()
        assert deliveries == [1, 2] and standing.lag_events == 0 and rig.loop.counters.failed_events == 1

    run(check)


def test_a_stop_finishes_what_runs_and_gives_the_rest_back() -> None:
    """Another consumer gets the rest at once, and nothing that was finished."""

    async def check() -> None:
        world, subscription, conversation = await made()
        published = await publish(world, conversation, 10)
        finished: list[int] = []

        async def handle(event: StoredEvent) -> None:
            await world.clock.sleep(1.0)
            finished.append(event.sequence)

        rig = Rig(world, subscription, handle)
        await rig.settle(1.5)
        rig.loop.stop()
        await rig.settle(0.1)
        assert not rig.task.done()
        standing = await rig.stop() if finished == published[:2] else None
        await rig.settle(1.0)
        standing = await rig.stop()
        assert finished == published[:2] and standing.consumers == () and standing.in_flight == 0
        assert rig.loop.counters.dropped_events == 8
        other = await subscription.join()
        assert [event.sequence for event in await other.take(wait_s=0)] == published[2:]

    run(check)


def test_a_stop_does_not_wait_for_ever() -> None:
    """A handler that goes on is cancelled, and its event comes to somebody else."""

    async def check() -> None:
        world, subscription, conversation = await made()
        published = await publish(world, conversation, 1)

        async def handle(event: StoredEvent) -> None:
            await asyncio.sleep(3600)

        rig = Rig(world, subscription, handle, concurrency=1, stop_s_max=0.05)
        await rig.settle()
        rig.loop.stop()
        await asyncio.wait_for(rig.task, 10)
        other = await subscription.join()
        assert [event.sequence for event in await other.take(wait_s=0)] == published

    run(check)


def test_fenced_it_joins_again() -> None:
    """What runs is finished first, though its ack counts for nothing."""

    async def check() -> None:
        world, subscription, conversation = await made()
        published = await publish(world, conversation, 3)
        seen: list[int] = []

        async def handle(event: StoredEvent) -> None:
            seen.append(event.sequence)
            await world.clock.sleep(0.5)

        rig = Rig(world, subscription, handle, name="one")
        await rig.settle(0.2)
        thief = await subscription.join("one")
        await thief.leave()
        await rig.settle(10.0)
        standing = await rig.stop()
        assert seen == [published[0], *published] and standing.cursor >= published[-1]
        counters = rig.loop.counters
        assert (counters.joins, counters.fenced) == (2, 1)

    run(check)


class Cut:
    """A consumer whose connection can be lost, around one of the double."""

    def __init__(self, inner: Consumer, world: MemoryWorld) -> None:
        self._inner, self._world = inner, world
        self.name, self.generation = inner.name, inner.generation
        self.lost = False

    def __getattr__(self, method: str) -> Any:
        async def call(*given: Any, **named: Any) -> Any:
            work = asyncio.ensure_future(getattr(self._inner, method)(*given, **named))
            while not work.done():
                if self.lost:
                    work.cancel()
                await asyncio.wait((work, asyncio.ensure_future(self._world.memory.log.changed())), timeout=0.01)
            if self.lost:
                raise ConnectionResetError("cut")
            return work.result()

        return call


class CutSubscription:
    """A subscription whose consumers can lose their connections."""

    def __init__(self, inner: Subscription, world: MemoryWorld) -> None:
        self._inner, self._world = inner, world
        self.consumers: list[Cut] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def join(self, consumer: str = "", *, in_flight_max: int | None = None) -> Consumer:
        """One that can."""
        self.consumers.append(Cut(await self._inner.join(consumer, in_flight_max=in_flight_max), self._world))
        return self.consumers[-1]


def test_an_ack_that_is_under_way_at_a_stop_is_said_again() -> None:
    """What was handled is acked, though the first word of it never arrived."""

    async def check() -> None:
        world, inner, conversation = await made()
        subscription = CutSubscription(inner, world)
        published = await publish(world, conversation, 20)
        seen: list[int] = []
        acking = asyncio.Event()

        async def handle(event: StoredEvent) -> None:
            seen.append(event.sequence)

        async def unheard(sequences: Sequence[int]) -> None:
            vars(subscription.consumers[0]).pop("ack")
            acking.set()
            await asyncio.Event().wait()

        rig = Rig(world, subscription, handle)
        while not subscription.consumers:
            await asyncio.sleep(0)
        vars(subscription.consumers[0])["ack"] = unheard
        while not acking.is_set():
            await rig.settle()
        rig.loop.stop()
        while not rig.task.done():
            await asyncio.sleep(0.01)
            await rig.settle()
        assert seen == published
        assert (rig.loop.counters.acked_events, rig.loop.counters.dropped_events) == (20, 0)
        assert (await inner.standing()).cursor >= published[-1]

    run(check)


def test_a_lost_connection_is_survived() -> None:
    """It joins again, and handles what nobody acked."""

    async def check() -> None:
        world, inner, conversation = await made()
        subscription = CutSubscription(inner, world)
        published = await publish(world, conversation, 3)
        seen: list[int] = []

        async def handle(event: StoredEvent) -> None:
            seen.append(event.sequence)

        rig = Rig(world, subscription, handle, name="one")
        await rig.settle(0.2)
        await asyncio.sleep(0.05)
        await rig.settle(0.2)
        subscription.consumers[0].lost = True
        published += await publish(world, conversation, 2)
        for _ in range(20):
            await asyncio.sleep(0.02)
            await rig.settle(0.2)
        assert sorted(set(seen)) == published and len(subscription.consumers) >= 2
        assert rig.loop.counters.disconnected >= 1
        rig.loop.stop()
        for _ in range(10):
            await asyncio.sleep(0.02)
            await rig.settle(0.2)
        await asyncio.wait_for(rig.task, 10)
        assert (await inner.standing()).cursor >= published[-1]

    run(check)


def test_paused_it_waits() -> None:
    """And goes on by itself."""

    async def check() -> None:
        world, subscription, conversation = await made()
        seen: list[int] = []

        async def handle(event: StoredEvent) -> None:
            seen.append(event.sequence)

        rig = Rig(world, subscription, handle)
        await rig.settle()
        await subscription.pause()
        published = await publish(world, conversation, 2)
        await rig.settle(5.0)
        assert seen == []
        await subscription.resume()
        await rig.settle(2.0)
        assert seen == published
        await rig.stop()
        assert rig.loop.counters.joins == 1

    run(check)


def test_what_can_not_be_mended_is_raised() -> None:
    """A subscription that was deleted, limits that make no sense."""

    async def check() -> None:
        world, subscription, _ = await made()

        async def handle(event: StoredEvent) -> None:
            pass

        rig = Rig(world, subscription, handle)
        await rig.settle()
        await world.source.delete("loop")
        await rig.settle(5.0)
        with pytest.raises(UnknownSubscription):
            await asyncio.wait_for(rig.task, 10)
        for bad in ({"concurrency": 0}, {"concurrency": 5, "held_events_max": 4}, {"handle_s_max": 0.0}):
            with pytest.raises(BadArgument):
                ConsumerLoop(subscription, handle, **bad)

    run(check)


def test_cancelled_it_gives_back() -> None:
    """Ctrl-C: the next consumer needn't wait for the time of this one to be over."""

    async def check() -> None:
        world, subscription, conversation = await made()
        published = await publish(world, conversation, 2)

        async def handle(event: StoredEvent) -> None:
            await asyncio.sleep(3600)

        rig = Rig(world, subscription, handle)
        await rig.settle()
        rig.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rig.task
        other = await subscription.join()
        assert [event.sequence for event in await other.take(wait_s=0)] == published

    run(check)


def test_a_clock_moved_by_hand_wakes_in_order() -> None:
    """Sleepers run at their time, however far it is moved at once."""

    async def check() -> None:
        clock, woken = HandClock(), list[tuple[float, int]]()

        async def sleeper(delay_s: float, again: Sequence[float] = ()) -> None:
            for more_s in (delay_s, *again):
                await clock.sleep(more_s)
                woken.append((more_s, clock.monotonic_us()))

        tasks = [asyncio.ensure_future(sleeper(2.0)), asyncio.ensure_future(sleeper(0.5, (1.0, 4.0)))]
        await clock.advance(3.0)
        assert woken == [(0.5, 500_000), (1.0, 1_500_000), (2.0, 2_000_000)]
        await clock.advance(3.0)
        assert woken[-1] == (4.0, 5_500_000) and clock.monotonic_us() == 6_000_000
        await asyncio.gather(*tasks)

    run(check)
