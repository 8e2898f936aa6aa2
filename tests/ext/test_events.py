"""Events of a block: what an object, a copy and a tuple say of each is what the naive encoder wrote."""

from __future__ import annotations

import gc
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.events import BlockEvents
from ext.record import Record, decode
from tests.support.naive_block import block_bytes
from tests.support.naive_log import record_bytes

U64 = st.integers(0, (1 << 64) - 1)
TYPES = st.sampled_from(["message", "message.edited", "member.added", "a", "ж" * 30])
ROWS = st.lists(st.tuples(U64, U64, U64, U64, U64, U64, U64, TYPES, st.binary(max_size=60)), min_size=1, max_size=12)
FIRST = 40


def written(rows: list[tuple[int, int, int, int, int, int, int, str, bytes]]) -> tuple[list[Record], bytes]:
    """The fields, and the block of them from sequence 40 on."""
    fields = [Record(FIRST + number, *row) for number, row in enumerate(rows)]
    return fields, block_bytes([record_bytes(*one) for one in fields], FIRST, epoch=3)


@given(ROWS, st.integers(0, 14))
def test_every_way_to_read_them_says_the_same(
    rows: list[tuple[int, int, int, int, int, int, int, str, bytes]], passed: int
) -> None:
    fields, block = written(rows)
    after = FIRST - 2 + passed
    wanted = [one for one in fields if one.sequence > after]
    events = list(BlockEvents(block, after))
    for name in Record._fields:
        assert [getattr(event, name) for event in events] == [getattr(one, name) for one in wanted]
    assert [event.decoded() for event in events] == BlockEvents(block, after).decoded() == wanted
    assert [event.record for event in events] == BlockEvents(block, after).records()
    assert [tuple(msgpack.unpackb(event.record)) for event in events] == wanted
    assert [len(event) for event in events] == [len(event.record) for event in events]
    assert len(BlockEvents(block, after)) == len(wanted)


def test_a_position_moves_with_what_was_given() -> None:
    fields, block = written([(n, n, n, n, n, n, n, "message", b"x" * n) for n in range(5)])
    events = BlockEvents(block, FIRST)
    assert (events.position, len(events), events.epoch, events.block) == (FIRST, 4, 3, block)
    assert next(events).sequence == FIRST + 1
    assert (events.position, len(events)) == (FIRST + 1, 3)
    assert events.decoded() == fields[2:]
    assert (events.position, len(events)) == (FIRST + 4, 0)
    assert not list(events) and not events.records() and not events.decoded()
    assert BlockEvents(block, FIRST + 100).position == FIRST + 4


def test_an_event_outlives_its_iterator_and_holds_the_bytes() -> None:
    """No copy is made: the block lives as long as one of its events."""
    _, block = written([(1, 2, 3, 4, 5, 6, 7, "message", b"kept")])
    event = next(BlockEvents(bytes(bytearray(block))))
    gc.collect()
    assert event.payload == b"kept"
    assert repr(event) == "<Event 40: message in 1, 91 bytes>"


def test_decoded_tuples_are_freed() -> None:
    """They are made natively, and unknown to the collector: each reference must be let go by hand."""
    _, block = written([(1 << 60, 2, 3, 4, 5, 6, 7, "message", bytes(1_000))] * 100)
    events = BlockEvents(block).decoded()
    assert not any(gc.is_tracked(event) for event in events)
    assert hash(events[0]) and events[0] == decode(BlockEvents(block).records()[0])
    del events
    tracemalloc.start()
    try:
        for _ in range(3):
            BlockEvents(block).decoded()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            BlockEvents(block).decoded()
        assert tracemalloc.get_traced_memory()[0] < before + 5_000
    finally:
        tracemalloc.stop()


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="79 bytes are no block"):
        BlockEvents(bytes(79))
