"""Sleepers at the tail: woken by what they may want and by nothing else, and taken past what they don't."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.subscriptions.definition import Filter, Kind
from engine.subscriptions.feed import Feed, Found
from engine.subscriptions.watch import Watch
from ext.select import Selection
from tests.support.naive_block import block_bytes
from tests.support.naive_log import record_bytes
from tests.support.subscription_rig import EventRig, with_rig


@dataclass(eq=False)
class Sleeper:
    """Notes what it is told."""

    selection: Selection
    passed: list[tuple[int, int]] = field(default_factory=list)
    stirred: int = 0

    def pass_over(self, after: int, upto: int) -> None:
        """As watch.py says."""
        self.passed.append((after, upto))

    def stir(self) -> None:
        """As watch.py says."""
        self.stirred += 1


def block(first: int, conversations: list[int]) -> Found:
    """Events of these, one each."""
    records = [record_bytes(first + at, one, 1, 0, 5, 9, 1, 1, "message", b"") for at, one in enumerate(conversations)]
    return Found(first, first + len(records) - 1, block_bytes(records, first))


def test_a_sleeper_is_woken_by_what_it_wants_and_passes_over_the_rest() -> None:
    """One wants conversation 5, one has not lain down, one has gone."""
    watch = Watch(10)
    sleeper, awake, gone = (Sleeper(Selection(conversations=[5])) for _ in range(3))
    for one in (sleeper, awake, gone):
        watch.follow(one)
    watch.lie_down(sleeper)
    watch.lie_down(gone)
    watch.forget(gone)
    watch.came(block(11, [1, 2, 3]))
    watch.came(block(14, [4]))
    assert (sleeper.stirred, sleeper.passed, awake.stirred, watch.asleep) == (0, [], 2, 1)
    watch.catch_up(sleeper)
    watch.catch_up(sleeper)
    assert (sleeper.passed, watch.asleep) == ([(10, 14)], 1)
    watch.came(block(15, [6, 7]))
    watch.came(block(17, [1, 5]))
    assert (sleeper.stirred, sleeper.passed, watch.asleep) == (1, [(10, 14), (14, 16)], 0)
    watch.get_up(sleeper)
    watch.came(block(19, [1]))
    assert (sleeper.stirred, sleeper.passed, awake.passed, gone.stirred) == (2, [(10, 14), (14, 16)], [], 0)


@pytest.mark.parametrize("kind", ["ordered", "competing"])
def test_a_subscription_sleeps_through_what_it_does_not_want(tmp_path: Path, kind: Kind) -> None:
    """Its cursor goes on all the same, on the disk too; what it wants comes, and nothing is skipped."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", kind, filter=Filter(conversations=(77,)))
        consumer = await subscription.join()
        assert await consumer.take(wait_s=0.01) == []
        for _ in range(20):
            last = rig.say(3)
            await rig.read_back()
        assert rig.subscriptions.stats()["subscriptions_asleep"] == 1
        standing = await subscription.standing()
        assert (standing.cursor, standing.lag_events) == (last, 0)
        last = rig.append(*((77, "message", 1, b"x") for _ in range(5)))
        await rig.read_back()
        assert rig.subscriptions.stats()["subscriptions_asleep"] == 0
        events = await consumer.take(events_max=100)
        assert [event.sequence for event in events] == list(range(last - 4, last + 1))
        await consumer.ack_up_to(last)
        assert await consumer.take(wait_s=0.01) == []
        last = rig.say(4)
        await rig.read_back()
        await consumer.leave()
        subscription = await (await rig.restarted()).subscription("push")
        assert (await subscription.standing()).cursor == last

    with_rig(tmp_path, story)


def test_skipping_ends_where_memory_does() -> None:
    """A gap, the tail, and a place that nothing is known of."""
    feed = Feed(lambda: pytest.fail("nothing is to be read"), 30)
    blocks = [block(1, [1] * 5), block(6, [2] * 5), block(21, [3] * 5), block(26, [4] * 5)]
    for one in blocks:
        feed._keep(one)
    try:
        wants_two, wants_none = Selection(conversations=[2]), Selection(conversations=[9])
        assert feed.skip(wants_two, 0, 100) == (blocks[1], 5)
        assert feed.skip(wants_two, 7, 100) == (blocks[1], 7)
        assert feed.skip(wants_none, 2, 100) == (None, 10)
        assert feed.skip(wants_none, 10, 100) == (None, 10)
        assert feed.skip(wants_none, 22, 28) == (None, 28)
        assert feed.skip(wants_none, 22, 100) == (None, 30)
        assert feed.skip(wants_none, 30, 100) == (None, 30)
        feed.last = 25
        assert feed.skip(Selection(conversations=[4]), 20, 100) == (None, 25), "what isn't folded isn't given"
    finally:
        feed.close()
