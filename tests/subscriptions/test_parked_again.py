"""Parked events that are delivered in order again: after a reset an event can be parked, and be on its way."""

from __future__ import annotations

from pathlib import Path

from engine.subscriptions.definition import Filter, Start
from tests.support.subscription_rig import EventRig, with_rig

FIRST = Start(first=True)
MESSAGES = Filter(types=("message",))


def test_what_is_parked_twice_counts_once_and_what_comes_as_it_is_is_not_replayed(tmp_path: Path) -> None:
    """After a reset a parked event is delivered in order again: parked anew it has one row, and a replay meanwhile
    leaves the row to people instead of promising what the machine has not taken."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", "competing", start=FIRST, filter=MESSAGES)
        rig.say(3)
        await rig.read_back()
        for _ in range(2):
            consumer = await subscription.join("one")
            parked, *_ = await consumer.take()
            await consumer.park(parked.sequence)
            await subscription.reset(FIRST)
        assert ((await subscription.standing()).parked, len(await subscription.parked())) == (1, 1)
        consumer = await subscription.join("one")
        events = [one.sequence for one in await consumer.take()]
        await subscription.replay([parked.sequence])
        await consumer.ack(events)
        assert [one.sequence for one in await subscription.parked()] == [parked.sequence]
        subscription = await (await rig.restarted()).subscription("push")
        consumer = await subscription.join("one")
        assert await consumer.take(wait_s=0.05) == []
        await subscription.replay([parked.sequence])
        assert [one.sequence for one in await consumer.take()] == [parked.sequence]

    with_rig(tmp_path, story)
