"""One seed of the simulation of subscriptions, from its steps to the judgement; as a program, all of them.

`python -m tests.support.subscription_seeds [SEEDS]` ends at the first seed that finds a fault, with exit code 1 and its
name: what the tests of mutants run over a program that is broken on purpose.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Final

from tests.support.subscription_world import World

STEPS: Final = 400
SEEDS: Final = 12
FILTERS: Final[tuple[tuple[str, ...], ...]] = ((), ("poll.vote",))  # the second: of most blocks nothing is wanted
WEIGHTS: Final = {
    "publish": 8,
    "take": 20,
    "ack": 10,
    "ack_up_to": 8,
    "retry": 3,
    "park": 1,
    "join": 3,
    "leave": 2,
    "stale": 2,
    "wait": 8,
    "commit": 10,
    "kill": 1,
}


async def live_through(world: World) -> None:
    """Steps by chance, then an end in peace."""
    for _ in range(STEPS):
        match world.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]:
            case "take":
                await world.take()
            case "commit":
                world.commit(dies=world.random.choices(["", "before", "after"], [8, 1, 1])[0])
            case step:
                getattr(world, step)()
    await world.drain()


def tried(path: Path, kind: str, seed: int, types: tuple[str, ...] = ()) -> str:
    """What a seed has seen; AssertionError where something was skipped, or came again without a reason."""
    world = World(path, kind, seed, types=types)
    assert world.store is not None
    try:
        asyncio.run(live_through(world))
        wanted = {event.sequence for event in world.log.events if world.wanted(event.type)}
        parked = {row.event.sequence for row in world.store.parked("world")}
        assert wanted == world.acked | parked, f"{sorted(wanted - world.acked - parked)} were skipped"
        assert world.aside <= parked <= world.aside | world.was_aside, f"{sorted(parked ^ world.aside)} parked or not"
        assert set(world.delivered) <= wanted
        assert world.live.cursor() == len(world.log.events)
        assert world.live.machine.in_flight() == 0
        assert not world.store.counts("world"), "counts of events that are settled"
    finally:
        world.store.close()
    happened = f"{world.kills} kills, {world.fenced} fenced words, {world.slept} blocks slept through"
    return f"{kind}: {len(wanted)} events, {world.doubles} doubles, {happened}"


def main() -> None:
    """All seeds of both kinds, with a filter and without."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    with tempfile.TemporaryDirectory() as folder:
        for seed, kind, types in product(range(seeds), ("ordered", "competing"), FILTERS):
            try:
                print(tried(Path(folder) / f"{kind}{seed}{len(types)}", kind, seed, types), flush=True)
            except Exception as error:
                sys.exit(f"{kind}: seed {seed}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
