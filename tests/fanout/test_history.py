"""History pages against the model: any start, hidden intervals, channels, tombstones, trimmed logs."""

from __future__ import annotations

import random

import pytest

from engine.backlog import sequence_of
from engine.errors import BadArgument
from engine.history import HistoryPage, ask, finish, read
from engine.readers import Again
from tests.fanout.world import World


def page(world: World, user: int, conversation: int, before: int | None, limit: int) -> HistoryPage | None:
    question = ask(world.view, user, conversation, before, limit)
    if question is None:
        return None
    found = read(world.log, question)
    while isinstance(found, Again):
        found = found.job(world.log)
    assert isinstance(found, HistoryPage)
    return finish(world.view, found)


@pytest.mark.parametrize("seed", range(12))
def test_paging_back_shows_all_and_only_what_may_be_seen(seed: int) -> None:
    world = World(seed)
    draw = random.Random(seed)
    for _ in range(80):
        world.commit(world.random_events(4, 100, 12))
    world.settle()
    for conversation in world.conversations:
        for user in range(1, 5):
            visible = [
                event.sequence
                for event in reversed(world.log.events)
                if event.conversation == conversation and world.view.sees(user, event)
            ]
            if (user, conversation) not in world.view.members:
                assert page(world, user, conversation, None, 10) is None
                continue
            before = draw.choice([None, draw.randrange(1, world.view.sequence + 50)])
            got: list[int] = []
            following: int | None = before
            limit = draw.choice([1, 3, 50])
            for _ in range(1000):
                found = page(world, user, conversation, following, limit)
                assert found is not None
                assert len(found.events) <= limit
                assert not found.trimmed
                got += [sequence_of(record) for record in found.events]
                following = found.next
                if following is None:
                    break
            assert got == [sequence for sequence in visible if before is None or sequence < before]


def test_a_trimmed_log_says_so() -> None:
    world = World(1)
    group = {"kind": "group", "title": "", "history": False, "members": [[1, "owner"]]}
    world.commit([(1, "conversation.created", 1, group)])
    world.commit([(1, "message", 1, b"x")] * 20)
    world.settle()
    world.log.trimmed_below = 15
    found = page(world, 1, 1, None, 100)
    assert found is not None
    assert [sequence_of(record) for record in found.events] == list(range(21, 14, -1))
    assert found.trimmed
    assert found.next is None
    world.log.trimmed_below, world.log.damaged = 1, {10}
    found = page(world, 1, 1, 13, 100)
    assert found is not None
    assert [sequence_of(record) for record in found.events] == [12, 11]
    assert found.damaged
    assert not found.trimmed


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_a_search_that_meets_what_is_trimmed_loses_nothing_before_it(limit: int, damaged: bool) -> None:
    """The search for a `before` that is no event walks past it to the break: what it found there is for more pages.
    History goes on beneath damage, and ends at what is trimmed."""
    world = World(1)
    group = {"kind": "group", "title": "", "history": False, "members": [[1, "owner"]]}
    world.commit([(1, "conversation.created", 1, group), (2, "conversation.created", 1, group)])
    for _ in range(10):
        world.commit([(1, "message", 1, b"x"), (2, "message", 1, b"y")])
    world.settle()
    if damaged:
        world.log.damaged = {7}
    else:
        world.log.trimmed_below = 9
    got: list[int] = []
    told: list[tuple[bool, bool]] = []
    following: int | None = 18  # an event of the other conversation
    while following is not None:
        found = page(world, 1, 1, following, limit)
        assert found is not None and len(found.events) <= limit
        got += [sequence_of(record) for record in found.events]
        following = found.next
        told.append((found.trimmed, found.damaged))
    assert got == [17, 15, 13, 11, 9] + ([5, 3, 1] if damaged else [])
    assert told.count((not damaged, damaged)) == 1 and set(told) <= {(False, False), (not damaged, damaged)}
    assert damaged or told[-1] == (True, False)


def test_a_start_that_is_no_event_and_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import engine.history

    monkeypatch.setattr(engine.history, "SEARCH_HOPS_MAX", 10)
    monkeypatch.setattr(engine.history, "WALK_RECORDS", 5)
    world = World(1)
    group = {"kind": "group", "title": "", "history": False, "members": [[1, "owner"]]}
    world.commit([(1, "conversation.created", 1, group), (2, "conversation.created", 1, group)])
    world.commit([(1, "message", 1, b"x")] * 40)
    world.settle()
    with pytest.raises(BadArgument, match="before = 2"):
        page(world, 1, 1, 2, 10)


def test_a_page_ends_where_the_view_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The saved state, and with it a head, may be ahead: what was not routed yet is not in a page."""
    world = World(1)
    group = {"kind": "group", "title": "", "history": False, "members": [[1, "owner"]]}
    world.commit([(1, "conversation.created", 1, group), (1, "message", 1, b"x")])
    world.settle()
    world.commit([(1, "message", 1, b"y")])
    monkeypatch.setattr(world.view, "head", lambda conversation: (3, 3))
    found = page(world, 1, 1, None, 10)
    assert found is not None
    assert [sequence_of(record) for record in found.events] == [2, 1]
