"""At least once, never skipped, in order: a seeded simulation of consumers and a server that die at any moment.

Each run takes some hundred steps of tests/support/subscription_world.py, whose model knows at each moment which events
may come again and why; at the end one consumer takes all that is left. The count of doubles is printed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.subscription_world import World

STEPS = 400
SEEDS = 12


async def live_through(world: World) -> None:
    """Steps by chance, then an end in peace."""
    for _ in range(STEPS):
        match world.random.choices(
            [
                "publish",
                "take",
                "ack",
                "ack_up_to",
                "retry",
                "park",
                "join",
                "leave",
                "stale",
                "wait",
                "commit",
                "kill",
            ],
            [8, 20, 10, 8, 3, 1, 3, 2, 2, 8, 10, 1],
        )[0]:
            case "take":
                await world.take()
            case "commit":
                world.commit(dies=world.random.choices(["", "before", "after"], [8, 1, 1])[0])
            case step:
                getattr(world, step)()
    await world.drain()


@pytest.mark.parametrize("types", [(), ("poll.vote",)], ids=["all", "filtered"])
@pytest.mark.parametrize("kind", ["ordered", "competing"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_at_least_once_and_never_skipped(tmp_path: Path, kind: str, seed: int, types: tuple[str, ...]) -> None:
    """S1 to S4, O1, O2, C1, C2, and the bound on doubles: only what was in flight or unsynced came twice."""
    world = World(tmp_path / "store", kind, seed, types=types)
    asyncio.run(live_through(world))
    wanted = {event.sequence for event in world.log.events if world.wanted(event.type)}
    assert world.store is not None
    parked = {row.event.sequence for row in world.store.parked("world")}
    assert wanted == world.acked | parked, f"seed {seed}: {sorted(wanted - world.acked - parked)} were skipped"
    assert set(world.delivered) <= wanted
    assert world.live.cursor() == len(world.log.events)
    assert world.live.machine.in_flight() == 0
    assert not world.store.counts("world"), "counts of events that are settled"
    happened = f"{world.kills} kills, {world.fenced} fenced words, {world.slept} blocks slept through"
    print(f"{kind}: {len(wanted)} events, {world.doubles} doubles, {happened}")
    world.store.close()
