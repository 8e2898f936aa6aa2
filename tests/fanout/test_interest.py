"""Interest against a dict of sets; its memory; and mass disconnects of a broadcast."""

from __future__ import annotations

import random
from array import array

import pytest

from ext.interest import Interest
from ext.session_table import SessionTable
from ext.sessionprobe import probe_close, probe_open


def sessions(table: SessionTable, count: int) -> list[int]:
    return [probe_open(table, -1, 1, 0, 0, True) & 0xFFFFFFFF for _ in range(count)]


@pytest.mark.parametrize(
    ("seed", "conversations", "spread"), [(1, 2000, 0.5), (2, 40, 0.5), (3, 3, 1.0), (4, 100_000, 0.3)]
)
def test_equals_a_dict_of_sets(seed: int, conversations: int, spread: float) -> None:
    draw = random.Random(seed)
    table = SessionTable(400)
    interest = Interest(table)
    places = sessions(table, 300)
    model: dict[int, set[int]] = {}
    for step in range(20_000):
        session = draw.choice(places)
        conversation = 1 + (int(draw.paretovariate(spread)) % conversations << draw.choice([0, 0, 40]))
        roll = draw.random()
        followers = model.setdefault(conversation, set())
        if roll < 0.6:
            assert interest.add(conversation, session) == (session not in followers)
            followers.add(session)
        elif roll < 0.998:
            assert interest.remove(conversation, session) == (session in followers)
            followers.discard(session)
        else:
            assert interest.drop(session) == sum(session in others for others in model.values())
            for others in model.values():
                others.discard(session)
        if step % 4000 == 3999:
            assert interest.entries == sum(map(len, model.values()))
            assert interest.conversations == sum(1 for others in model.values() if others)
            for followed, others in model.items():
                assert sorted(interest.sessions_of(followed)) == sorted(others)
            one = draw.choice(places)
            assert sorted(interest.followed_by(one)) == sorted(c for c, others in model.items() if one in others)
    for session in places:
        interest.drop(session)
    assert interest.entries == interest.conversations == 0


def test_a_slot_and_a_list_stay_within_sixteen_bytes_an_entry() -> None:
    table = SessionTable(5000)
    places = sessions(table, 4000)
    alone, pairs = Interest(table), Interest(table)
    for number, session in enumerate(places):
        alone.add_all(session, range(1 + number * 250, 1 + number * 250 + 250))
    assert alone.entries == 1_000_000
    assert alone.memory_bytes() <= 16 * alone.entries
    wanted = array("Q", range(1, 2_000_001, 7))
    assert alone.count_found(wanted) == sum(1 for conversation in wanted if conversation <= 1_000_000)
    for session in places:
        alone.drop(session)
    for number, session in enumerate(places):
        first = 1 + number // 2 * 100
        pairs.add_all(session, range(first, first + 100))
    assert pairs.memory_bytes() <= 16 * pairs.entries


def work_of_leaving(count: int, order: str) -> float:
    """Seconds that `count` sessions take to leave one broadcast."""
    import time

    table = SessionTable(count + 10)
    interest = Interest(table)
    places = sessions(table, count)
    for session in places:
        interest.add(7, session)
    assert len(interest.sessions_of(7)) == count
    if order == "descending":
        places.reverse()
    elif order == "random":
        random.Random(5).shuffle(places)
    begin = time.process_time()
    for session in places:
        assert interest.drop(session) == 1
    return time.process_time() - begin


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_leaving_a_broadcast_is_not_quadratic(order: str) -> None:
    """Were it quadratic, 100,000 would take 64 times as long as 12,500 instead of 8 (a list took seconds)."""
    small = min(work_of_leaving(12_500, order) for _ in range(3))
    assert work_of_leaving(100_000, order) < 32 * small + 0.05


def test_sets_walk_nearly_ascending() -> None:
    """The flush meets sockets in the order in which they were made."""
    table = SessionTable(20_000)
    interest = Interest(table)
    places = sessions(table, 10_000)
    shuffled = places[:]
    random.Random(1).shuffle(shuffled)
    for session in shuffled:
        interest.add(9, session)
    assert interest.sessions_of(9) == places


def test_closed_sessions_and_bad_ids_are_refused() -> None:
    table = SessionTable(10)
    interest = Interest(table)
    origin = probe_open(table, -1, 1, 0, 0, True)
    with pytest.raises(ValueError, match="conversation 0"):
        interest.add(0, origin)
    assert interest.add(5, origin)
    interest.drop(origin)
    probe_close(table, origin)
    with pytest.raises(KeyError, match="not open"):
        interest.add(5, origin)
    assert interest.drop(origin) == 0
    later = probe_open(table, -1, 2, 0, 0, True)
    assert later & 0xFFFFFFFF == origin & 0xFFFFFFFF
    assert not interest.remove(5, origin)
    assert interest.followed_by(later) == []
