"""The table of keys against a plain list: what is known, what is too old, what is saved, however it grows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.flat import seeds_from
from ext.keys import KeyTable, row_time_us
from tests.support.naive_keys import NaiveKeys

KEEP_US = 1_000
STEPS = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from((0, 0, 1, 7, 40, 500, 1_000, 1_001, 5_000))), max_size=400
)


def key(number: int) -> bytes:
    """Keys that differ in one half only, or in both."""
    return number.to_bytes(8, "big") + bytes(8) if number % 3 else bytes(8) + number.to_bytes(8, "little")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(STEPS)
def test_what_is_known_is_what_a_list_knows(steps: list[tuple[int, int]]) -> None:
    """Goal: KeyTable = naive, as admission uses it: what is too old goes before each question."""
    table, naive, time_us = KeyTable(KEEP_US), NaiveKeys(KEEP_US), 0
    for sequence, (number, later) in enumerate(steps, 1):
        time_us += later
        table.forget(time_us)
        assert table.known(key(number)) == naive.known(key(number), time_us)
        if table.known(key(number)) is None:
            table.note(key(number), sequence, time_us)
            naive.note(key(number), sequence, time_us)
        assert len(table) == table.count == len(naive.kept(time_us))
    for number in range(1, 91):
        assert table.known(key(number)) == naive.known(key(number), time_us)
    rows = table.saved_rows(0, 1 << 20)
    assert rows == [
        (event.sequence.to_bytes(8, "big"), event.time_us.to_bytes(8, "little") + event.key)
        for event in naive.kept(time_us)
    ]
    assert [row_time_us(value) for _, value in rows] == [event.time_us for event in naive.kept(time_us)]
    assert [row for at in range(0, len(rows), 7) for row in table.saved_rows(at, 7)] == rows
    again = KeyTable(KEEP_US)
    again.load(rows)
    assert again.saved_rows(0, 1 << 20) == rows
    assert all(again.known(event.key) == event[1:] for event in naive.kept(time_us))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(STEPS)
def test_of_two_events_with_one_key_the_first_counts_while_it_is_kept(steps: list[tuple[int, int]]) -> None:
    """A log that admission has not written: no row is lost, and one that goes leaves nothing in the index."""
    table, naive, time_us = KeyTable(KEEP_US), NaiveKeys(KEEP_US), 0
    for sequence, (number, later) in enumerate(steps, 1):
        time_us += later
        table.note(key(number % 20 + 1), sequence, time_us)
        naive.note(key(number % 20 + 1), sequence, time_us)
        table.forget(time_us)
        kept = naive.kept(time_us)
        assert [int.from_bytes(found, "big") for found, _ in table.saved_rows(0, 500)] == [e.sequence for e in kept]
        for event in kept[:1] + kept[-1:]:
            known = table.known(event.key)
            assert known is None or known[0] in [e.sequence for e in kept if e.key == event.key]
    table.forget(time_us + KEEP_US + 1)
    assert len(table) == 0
    for number in range(1, 21):
        assert table.known(key(number)) is None


def test_keys_that_all_meet_in_one_place() -> None:
    """Any order of going and coming, in an index whose seed is known: long runs, and runs over its end."""
    draw = random.Random(7)
    before = seeds_from(lambda size: bytes(size))
    try:
        table, naive = KeyTable(KEEP_US), NaiveKeys(KEEP_US)
    finally:
        seeds_from(before)
    time_us = 0
    for sequence in range(1, 6_000):
        time_us += draw.choice((1, 1, 30, 100)) if sequence % 700 < 600 else 0
        wanted = draw.randbytes(15) + b"\x01"
        table.forget(time_us)
        table.note(wanted, sequence, time_us)
        naive.note(wanted, sequence, time_us)
        if sequence % 50 == 0:
            naive.events = naive.kept(time_us)
            assert [table.known(event.key) for event in naive.events] == [event[1:] for event in naive.events]
            assert table.known(draw.randbytes(16)) is None


def test_memory_is_that_of_the_power_of_two_above() -> None:
    """40 bytes a place; nothing before the first key."""
    table = KeyTable(KEEP_US)
    assert table.bytes == 0
    assert table.known(key(1)) is None
    for number, places in ((1, 64), (64, 64), (65, 128), (1_000, 1_024)):
        while len(table) < number:
            table.note(key(len(table) + 1), len(table) + 1, 5)
        assert table.bytes == 40 * places


@pytest.mark.parametrize("bad", [b"", b"x" * 15, b"x" * 17, bytes(16)])
def test_what_is_no_key(bad: bytes) -> None:
    """Sixteen bytes, not all zero."""
    table = KeyTable(KEEP_US)
    for ask in (table.known, lambda data: table.note(data, 1, 1)):
        with pytest.raises(ValueError, match="a key of"):
            ask(bad)


@pytest.mark.parametrize("row", [(b"", bytes(24)), (bytes(8), bytes(23)), (bytes(8), b""), (bytes(9), bytes(24))])
def test_rows_that_are_none(row: tuple[bytes, bytes]) -> None:
    """Named by their key."""
    with pytest.raises(ValueError, match="of a publish's key has"):
        KeyTable(KEEP_US).load([row])
    if len(row[1]) != 24:
        with pytest.raises(ValueError, match="of a publish's key has"):
            row_time_us(row[1])
