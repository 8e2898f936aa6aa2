"""Picks: places in blocks, what they show, pack and decode; the other end reads the same, and bad input is named."""

from __future__ import annotations

import gc
import struct
import tracemalloc
from array import array
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.picks import SHARES, Picks, share_of, unpack
from ext.record import Record
from tests.support.naive_block import block_bytes
from tests.support.naive_log import record_bytes
from tests.support.naive_select import share_of as naive_share_of

U64 = st.integers(0, (1 << 64) - 1)
TYPES = st.sampled_from(["message", "message.edited", "member.added", "a", "ж" * 30])
ROW = st.tuples(U64, U64, U64, U64, U64, U64, U64, TYPES, st.binary(max_size=60))
FIRST = 40
SHARES_OF_SOME = [193, 206, 237, 149, 207]


class Given(NamedTuple):
    """As a consumer gets an event."""

    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int
    time: int
    sender: int
    device: int
    counter: int
    type: str
    payload: bytes
    deliveries: int = 1
    away: tuple[int, ...] = ()


Row = tuple[int, int, int, int, int, int, int, str, bytes]


def written(rows: list[Row], first: int = FIRST) -> tuple[list[Record], list[bytes], bytes]:
    """The fields, the records, and the block of them."""
    fields = [Record(first + number, *row) for number, row in enumerate(rows)]
    records = [record_bytes(*one) for one in fields]
    return fields, records, block_bytes(records, first)


def row(number: int, payload: bytes = b"") -> Row:
    """One of conversation `number`."""
    return (number, 2, 3, 4, 5, 6, 7, "message", payload)


def some(count: int) -> Picks:
    """So many events of 91 bytes from 40 on."""
    picks = Picks()
    picks.add(
        written([row(number + 1, b"kept") for number in range(count)])[2], array("Q", range(FIRST, FIRST + count))
    )
    return picks


@given(st.lists(ROW, min_size=1, max_size=12), st.lists(ROW, min_size=1, max_size=12), st.data())
def test_what_was_picked_comes_out_in_every_form(one: list[Row], other: list[Row], data: st.DataObject) -> None:
    """Of two blocks; picked by sequence, some of which lie in neither. A range of them is what slicing says."""
    fields, records, block = written(one)
    more, more_records, next_block = written(other, FIRST + len(one))
    fields, records = fields + more, records + more_records
    last = FIRST + len(fields)
    asked = sorted(data.draw(st.sets(st.integers(FIRST - 3, last + 3))))
    indexes = [sequence - FIRST for sequence in asked if FIRST <= sequence < last]
    picks = Picks()
    sequences = array("Q", asked)
    start = picks.add(block, sequences)
    assert start == sum(sequence < FIRST + len(one) for sequence in asked)
    assert picks.add(next_block, sequences, start) == sum(sequence < last for sequence in asked)
    del block, next_block
    wanted = [fields[i] for i in indexes]
    assert len(picks) == len(wanted) and picks.bytes == sum(len(records[i]) for i in indexes)
    assert list(picks.sequences()) == [event.sequence for event in wanted]
    assert list(picks.conversations()) == [event.conversation for event in wanted]
    assert list(picks.senders()) == [event.sender for event in wanted]
    assert list(picks.shares()) == [naive_share_of(event.conversation) for event in wanted]
    stop = data.draw(st.integers(0, len(wanted)))
    begin = data.draw(st.integers(0, stop))
    chosen = [records[i] for i in indexes[begin:stop]]
    assert picks.records(begin, stop) == chosen
    packed = b"".join(struct.pack("<IH", len(record), 1) + record for record in chosen)
    assert picks.packed(begin, stop) == packed
    events = [Given(*event) for event in wanted[begin:stop]]
    assert picks.decoded(Given, begin, stop) == unpack(packed, Given) == events
    assert picks.records() == [records[i] for i in indexes] and len(picks.packed()) == picks.bytes + 6 * len(picks)
    assert [type(event) for event in picks.decoded(Given)] == [Given] * len(wanted)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(0, 3_000), st.data())
def test_fit_is_the_largest_stop_that_does(sizes: list[int], bytes_max: int, data: st.DataObject) -> None:
    picks = Picks()
    picks.add(written([row(1, bytes(size)) for size in sizes])[2], array("Q", range(FIRST, FIRST + len(sizes))))
    start = data.draw(st.integers(0, len(sizes)))
    stop = picks.fit(start, bytes_max)
    assert start <= stop <= len(sizes) and (stop > start or start == len(sizes))
    assert stop <= start + 1 or len(picks.packed(start, stop)) <= bytes_max
    assert stop == len(sizes) or len(picks.packed(start, stop + 1)) > bytes_max


def test_fit_counts_heads_too() -> None:
    """Of events of 91 bytes and a head of 6."""
    picks = some(3)
    assert [picks.fit(0, bytes_max) for bytes_max in (193, 194, 290, 291)] == [1, 2, 2, 3]


@given(st.binary(max_size=8))
def test_keep_throws_out_what_is_not_kept(wanted: bytes) -> None:
    picks = some(len(wanted)) if wanted else Picks()
    picks.keep(wanted)
    assert list(picks.sequences()) == [FIRST + i for i, byte in enumerate(wanted) if byte]
    assert picks.bytes == 91 * len(picks)


@given(U64)
def test_shares_are_those_of_the_naive_splitmix(conversation: int) -> None:
    assert share_of(conversation) == naive_share_of(conversation)


def test_shares_stay_what_they_are() -> None:
    """Cursors are stored by share: these numbers are part of the format of data/subscriptions."""
    assert SHARES == 256
    assert [share_of(conversation) for conversation in (1, 2, 3, (1 << 40) - 1, 1 << 53)] == SHARES_OF_SOME
    found = [share_of(conversation) for conversation in range(1, 25_601)]
    assert all(60 < found.count(share) < 145 for share in range(256))


@given(st.lists(ROW, min_size=1, max_size=3), st.data())
def test_damaged_packed_bytes_are_refused_or_read_as_they_are(rows: list[Row], data: st.DataObject) -> None:
    """Never outside of them: a cut is always refused, a changed byte only where it isn't a value."""
    picks = Picks()
    picks.add(written(rows)[2], array("Q", range(FIRST, FIRST + len(rows))))
    good = picks.packed()
    cut = data.draw(st.integers(0, len(good) - 1))
    ends = {len(picks.packed(0, stop)) for stop in range(len(rows) + 1)}
    if cut in ends:
        assert unpack(good[:cut], Given) == picks.decoded(Given)[: sorted(ends).index(cut)]
    else:
        with pytest.raises(ValueError, match=rf"byte \d+ of {cut}"):
            unpack(good[:cut], Given)
    at, byte = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    changed = good[:at] + bytes([byte]) + good[at + 1 :]
    try:
        events = unpack(changed, Given)
    except ValueError:
        return
    assert 1 <= len(events) <= len(rows)


def test_packed_bytes_that_are_none_are_named() -> None:
    assert unpack(b"", Given) == [] and unpack(memoryview(some(2).packed()), Given)[1].sequence == FIRST + 1
    with pytest.raises(ValueError, match="end at byte 97 of 100, within a head of 6 bytes"):
        unpack(some(1).packed() + b"abc", Given)
    with pytest.raises(ValueError, match="at byte 97 of 103 is no record of 4294967295 bytes"):
        unpack(some(1).packed() + b"\xff" * 6, Given)
    with pytest.raises(ValueError, match="at byte 0 of 20 is no record of 14 bytes"):
        unpack(struct.pack("<IH", 14, 1) + bytes(14), Given)


def test_only_a_plain_named_tuple_can_be_filled() -> None:
    class Short(NamedTuple):
        sequence: int

    class Weighed(Given):
        weight = 1

    for wrong in (Short, Record, list, Weighed, 12):
        with pytest.raises(TypeError, match="a NamedTuple of 12 fields is wanted"):
            unpack(b"", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a NamedTuple of 12 fields is wanted"):
            Picks().decoded(wrong)  # type: ignore[arg-type]


def test_ranges_and_lengths_out_of_bounds_are_named() -> None:
    picks = some(3)
    for start, stop in ((-1, 2), (2, 1), (0, 4), (4, -1), (0, -2)):
        with pytest.raises(ValueError, match=f"picks {start} to "):
            picks.records(start, stop)
        with pytest.raises(ValueError, match="there are 3"):
            picks.packed(start, stop)
        with pytest.raises(ValueError, match="there are 3"):
            picks.decoded(Given, start, stop)
    with pytest.raises(ValueError, match="there are 3"):
        picks.fit(4, 100)
    with pytest.raises(ValueError, match="2 bytes for 3 picks"):
        picks.keep(b"\1\1")
    with pytest.raises(ValueError, match="79 bytes are no block"):
        picks.add(bytes(79), array("Q", [1]))
    with pytest.raises(ValueError, match="from -1 on"):
        picks.add(written([row(1)])[2], array("Q", [1]), -1)
    assert len(picks) == 3 and picks.fit(3, 0) == 3
    picks.clear()
    assert len(picks) == picks.bytes == 0 and picks.packed() == b"" and picks.records() == []


def test_few_records_do_not_hold_their_large_blocks() -> None:
    """One out of each of 10 blocks of 80 KB holds a hundred bytes; all of a block hold the block, uncopied."""
    tracemalloc.start()
    try:
        sparse, dense = Picks(), Picks()
        for number in range(10):
            first = FIRST + 5 * number
            block = written([row(1, bytes(20_000)) for _ in range(4)] + [row(1)], first)[2]
            sparse.add(block, array("Q", [first + 4]))
            del block
        assert len(sparse) == 10 and len(set(sparse.records())) == 10
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 50_000
        block = written([row(1, bytes(20_000)) for _ in range(4)])[2]
        before = tracemalloc.get_traced_memory()[0]
        dense.add(block, array("Q", range(FIRST, FIRST + 4)))
        assert tracemalloc.get_traced_memory()[0] < before + 10_000
    finally:
        tracemalloc.stop()


def test_decoded_tuples_are_freed() -> None:
    """They are made natively, and unknown to the collector: each reference must be let go by hand."""
    picks = Picks()
    picks.add(written([row(1 << 60, bytes(1_000))] * 100)[2], array("Q", range(FIRST, FIRST + 100)))
    packed = picks.packed()
    assert not any(gc.is_tracked(event) for event in picks.decoded(Given))
    tracemalloc.start()
    try:
        for _ in range(3):
            picks.decoded(Given), unpack(packed, Given)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            picks.decoded(Given), unpack(packed, Given)
        assert tracemalloc.get_traced_memory()[0] < before + 5_000
    finally:
        tracemalloc.stop()
