"""The double under a seed: consumers that join, die, answer late, retry and park, against what must hold anyway.

At least once and never skipped: in the end every wanted event is acked or parked. Of an ordered subscription the first
deliveries of a conversation come in order, and no conversation is in flight with two at once. How many doubles there
were is bounded: an event is delivered again only after somebody lost or gave back it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict

import pytest

from engine.subscriptions.definition import Kind, Settings
from engine.subscriptions.ports import Consumer, Fenced, NotInFlight, StoredEvent
from tests.subscriptions.contract import group, publish, subscribe
from tests.subscriptions.worlds import MemoryWorld

SETTINGS = Settings(ack_timeout_s=10.0, deliveries_max=6, retry_min_s=1.0, retry_max_s=4.0, in_flight_max=20)


class Story:
    """One run of many steps."""

    def __init__(self, seed: int, kind: Kind) -> None:
        self.random, self.kind = random.Random(seed), kind
        self.world = MemoryWorld()
        self.held: dict[str, tuple[Consumer, dict[int, StoredEvent]]] = {}
        self.deliveries: Counter[int] = Counter()
        self.excused: Counter[int] = Counter()  # given back, lost or late: may be delivered again
        self.first_seen: dict[int, list[int]] = defaultdict(list)
        self.published: list[int] = []

    async def begin(self) -> None:
        """Conversations and the subscription."""
        self.subscription = await subscribe(self.world, "story", self.kind, SETTINGS)
        self.conversations = [await group(self.world) for _ in range(6)]

    async def step(self) -> None:
        """Something happens."""
        name = self.random.choice(("one", "two", "three"))
        act = self.random.choices(
            (self.publish, self.join, self.take, self.answer, self.leave, self.die, self.wait),
            (3, 1, 6, 8, 0.3, 0.3, 1.5),
        )[0]
        await act(name)

    async def publish(self, name: str) -> None:
        """Some messages somewhere."""
        self.published += await publish(self.world, self.random.choice(self.conversations), self.random.randint(1, 4))

    async def join(self, name: str) -> None:
        """Also where one of the name is there already."""
        self.lose(name)
        self.held[name] = (await self.subscription.join(name), {})

    async def take(self, name: str) -> None:
        """What is delivered is noted, and checked."""
        if name not in self.held:
            return
        consumer, mine = self.held[name]
        try:
            events = await consumer.take(events_max=self.random.randint(1, 8), wait_s=0.0)
        except Fenced:
            self.lose(name)
            return
        for event in events:
            if not self.deliveries[event.sequence]:
                self.first_seen[event.conversation].append(event.sequence)
            self.deliveries[event.sequence] += 1
            mine[event.sequence] = event

    async def answer(self, name: str) -> None:
        """Acks some, gives one back, parks one, or extends."""
        if name not in self.held or not self.held[name][1]:
            return
        consumer, mine = self.held[name]
        some = self.random.sample(sorted(mine), self.random.randint(1, len(mine)))
        what = self.random.choices(("ack", "up to", "retry", "park", "extend"), (8, 3, 2, 0.3, 1))[0]
        try:
            if what == "ack":
                await consumer.ack(some)
            elif what == "up to":
                await consumer.ack_up_to(some[0])
                some = [sequence for sequence in mine if sequence <= some[0]]
            elif what == "retry":
                some = some[:1]
                await consumer.retry(some[0])
                self.excused.update(sequence for sequence in mine if sequence >= some[0])  # those behind it come too
            elif what == "park":
                some = some[:1]
                await consumer.park(some[0])
            else:
                await consumer.extend(some, 10.0)
                some = []
        except NotInFlight:  # too late with at least one of them: each may have come to somebody else
            self.excused.update(some)
        except Fenced:
            self.lose(name)
            return
        for sequence in some:
            mine.pop(sequence, None)

    async def leave(self, name: str) -> None:
        """In good order."""
        if name in self.held:
            await self.held[name][0].leave()
            self.lose(name)

    async def die(self, name: str) -> None:
        """Without a word."""
        self.lose(name)

    async def wait(self, name: str) -> None:
        """Time goes by, for some of what is held too much."""
        await self.world.pass_time(self.random.choice((0.5, 3.0, 11.0)))
        for _, mine in self.held.values():
            self.excused.update(list(mine))

    def lose(self, name: str) -> None:
        """What it held may be delivered again."""
        _, mine = self.held.pop(name, (None, {}))
        self.excused.update(list(mine))

    async def finish(self) -> None:
        """One consumer that acks everything, until nothing is left."""
        for name in list(self.held):
            await self.leave(name)
        await self.world.pass_time(60.0)
        await self.join("last")
        consumer, mine = self.held["last"]
        for _ in range(1_000):
            await self.take("last")
            if mine:
                await consumer.ack(sorted(mine))
                mine.clear()
            elif (await self.subscription.standing()).cursor >= self.published[-1]:
                return
            else:
                await self.world.pass_time(5.0)
                await consumer.extend([], 1.0)
        raise AssertionError("it never came to an end")


@pytest.mark.parametrize("kind", ["ordered", "competing"])
@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_skipped(seed: int, kind: Kind) -> None:
    """Whatever they do."""

    async def check() -> None:
        story = Story(seed, kind)
        await story.begin()
        await story.publish("")
        for _ in range(250):
            await story.step()
        await story.finish()
        parked = {one.sequence for one in await story.subscription.parked(limit=10_000)}
        delivered = set(story.deliveries)
        assert delivered == set(story.published), f"seed {seed}: skipped {set(story.published) - delivered}"
        standing = await story.subscription.standing()
        assert standing.in_flight == 0 and standing.parked == len(parked), f"seed {seed}"
        doubles = sum(story.deliveries.values()) - len(story.published)
        for sequence, count in story.deliveries.items():
            assert count <= 1 + story.excused[sequence], f"seed {seed}: {sequence} came {count} times"
        print(f"seed {seed}, {kind}: {len(story.published)} events, {doubles} doubles, {len(parked)} parked")
        if kind == "ordered":
            for conversation, sequences in story.first_seen.items():
                assert sequences == sorted(sequences), f"seed {seed}: conversation {conversation}"

    asyncio.run(check())
