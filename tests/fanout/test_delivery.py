"""Tail, router, fan-out and catch-up together, over real sockets with tiny buffers, against the naive model.

Each session must get exactly what its user may see after its start, each event once, ascending, whatever blocked,
was evicted, joined, left, was cut and resumed on the way.
"""

from __future__ import annotations

import pytest

from tests.fanout.world import World


def random_world(
    seed: int, steps: int, users: int = 5, payload_max: int = 3000, events_max: int = 12, **limits: int
) -> World:
    world = World(seed, **limits)
    draw = world.random
    for _ in range(steps):
        roll = draw.random()
        if roll < 0.3:
            world.commit(world.random_events(users, payload_max, events_max))
        elif roll < 0.4 and len(world.sessions) < 12:
            world.connect(draw.randrange(1, users + 1), draw.randrange(2))
        elif roll < 0.45 and world.sessions:
            outlet = draw.choice(world.sessions)
            world.connect(outlet.user, draw.randrange(2), world.cut(outlet))
        elif roll < 0.6 and world.sessions:
            draw.choice(world.sessions).read(draw.choice([100, 1000, 10_000]))
        elif roll < 0.7:
            world.writable()
        else:
            world.step()
    world.settle()
    for outlet in world.sessions:
        world.check(outlet, len(world.log.events))
    return world


@pytest.mark.parametrize("seed", range(40))
def test_everybody_gets_exactly_what_they_may_see(seed: int) -> None:
    random_world(seed, 400)


@pytest.mark.parametrize("seed", range(6))
def test_with_frames_as_large_as_the_ring_allows(seed: int) -> None:
    random_world(seed, 100, payload_max=65_000, events_max=80)


@pytest.mark.parametrize("encoding", [0, 1])
def test_evicted_sessions_read_the_log(encoding: int) -> None:
    """One block overtakes the ring before anybody is flushed: whoever refers to it finds its entries gone."""
    world = World(1)
    group = {"kind": "group", "title": "", "history": False, "members": [[1, "owner"], [2, "member"]]}
    world.commit([(1, "conversation.created", 1, group)])
    world.step()
    first, second = world.connect(1, encoding), world.connect(2, encoding)
    world.commit([(1, "message", 1, bytes(60_000)) for _ in range(12)])
    world.settle()
    assert world.fanout.counters()["ring_evictions"] == 2
    world.check(first, 13)
    world.check(second, 13)


def test_an_outbox_over_its_limit_reads_the_log() -> None:
    """How much the kernel takes at once is its own affair: in one world alone it may never come to that."""
    worlds = [random_world(seed, 300, ranges_max=1) for seed in range(6)]
    assert sum(world.fanout.counters()["outbox_overflows"] for world in worlds) > 0
