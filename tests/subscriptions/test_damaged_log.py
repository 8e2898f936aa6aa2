"""A log that is damaged under a subscription: it passes over what can't be read, counts it, and skips nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.subscriptions.definition import Filter, Kind, Start
from engine.subscriptions.ports import Consumer
from tests.support.log_rig import rewrite, segment_files
from tests.support.subscription_rig import EventRig, with_rig

BLOCKS, EACH = 8, 10
BEGIN = 2  # behind subscription.created
TOTAL = BLOCKS * EACH
LAST = BEGIN + TOTAL - 1
UNACKED = range(BEGIN + EACH, LAST + 1)
FLIPPED = 33  # one event, whose bytes aren't what they were
SMASHED = range(52, 62)  # a block, of which nothing can be read
BROKEN = {FLIPPED, *SMASHED}
READABLE = [one for one in UNACKED if one not in BROKEN]
MESSAGES = Filter(types=("message",))

both = pytest.mark.parametrize("kind", ["ordered", "competing"])


def damage(data: Path) -> None:
    """As a disk that rots."""

    def change(rows: dict[bytes, bytes]) -> None:
        for key, block in rows.items():
            first = int.from_bytes(key, "big")
            if b"event 33 of" in block:
                rows[key] = block.replace(b"event 33 of", b"event 34 of")
            if first == SMASHED[0]:
                rows[key] = b"\xff" * len(block)

    (path,) = segment_files(data)
    rewrite(path, change)


async def grown(rig: EventRig, kind: Kind) -> Consumer:
    """A log, and a consumer that has acked the first block."""
    subscription = await rig.subscriptions.create("push", kind, start=Start(first=True), filter=MESSAGES)
    for block in range(BLOCKS):
        numbers = range(BEGIN + block * EACH, BEGIN + (block + 1) * EACH)
        rig.append(*((1 + one % 7, "message", 1, b"event %d of many" % one) for one in numbers))
    await rig.read_back()
    consumer = await subscription.join()
    taken = await consumer.take(events_max=EACH)
    await consumer.ack([event.sequence for event in taken])
    return consumer


async def rotten(rig: EventRig) -> None:
    """Damaged while nobody looks, and opened again."""
    await rig.subscriptions.close()
    rig.log.close()
    damage(rig.data)
    rig.log = type(rig.log).open(rig.data)
    await rig.open()


async def all_there_is(consumer: Consumer) -> list[int]:
    """Taken and acked until nothing comes."""
    found: list[int] = []
    while events := await consumer.take(events_max=7, wait_s=0.2):
        await consumer.ack([event.sequence for event in events])
        found += [event.sequence for event in events]
    return found


@both
def test_what_is_damaged_is_passed_over_and_counted(tmp_path: Path, kind: Kind) -> None:
    """The cursor reaches the end and goes on with what is new; each event that can be read has come, once."""

    async def story(rig: EventRig) -> None:
        await grown(rig, kind)
        await rotten(rig)
        subscription = await rig.subscriptions.subscription("push")
        consumer = await subscription.join()
        assert sorted(await all_there_is(consumer)) == READABLE
        assert rig.subscriptions.stats()["feed_damaged_events"] == len(BROKEN)
        assert (await subscription.standing()).cursor == LAST
        last = rig.say(EACH)
        await rig.read_back()
        assert sorted(await all_there_is(consumer)) == list(range(LAST + 1, last + 1))
        assert (await subscription.standing()).cursor == last
        assert rig.subscriptions.failure is None

    with_rig(tmp_path, story)


@both
def test_what_rots_while_it_is_in_flight_holds_nothing_up(tmp_path: Path, kind: Kind) -> None:
    """Delivered without an ack, so that it is to come again, twice; the events around it come, and are counted on."""

    async def story(rig: EventRig) -> None:
        consumer = await grown(rig, kind)
        for _ in range(2):
            held = set[int]()
            while events := await consumer.take(events_max=TOTAL, wait_s=0.2):  # in as many slices as it takes
                held.update(event.sequence for event in events)
            assert held == set(UNACKED)
            await consumer.leave()
            consumer = await (await rig.subscriptions.subscription("push")).join()
        await rotten(rig)
        subscription = await rig.subscriptions.subscription("push")
        consumer = await subscription.join()
        events = await consumer.take(events_max=TOTAL, wait_s=1)
        while more := await consumer.take(events_max=TOTAL, wait_s=0.2):
            events += more
        assert sorted(event.sequence for event in events) == READABLE
        assert {event.deliveries for event in events} == {3}
        await consumer.ack([event.sequence for event in events])
        assert (await subscription.standing()).cursor == LAST
        await rig.restarted()
        (standing,) = await rig.subscriptions.subscriptions()
        assert (standing.cursor, standing.in_flight, standing.parked) == (LAST, 0, 0)

    with_rig(tmp_path, story)


def test_reading_without_a_subscription_passes_over_it_too(tmp_path: Path) -> None:
    """As pages and streams of server-sent events do."""

    async def story(rig: EventRig) -> None:
        await grown(rig, "ordered")
        await rotten(rig)
        found = [event.sequence async for event in rig.subscriptions.read(after=BEGIN + EACH - 1)]
        assert found == READABLE

    with_rig(tmp_path, story)
