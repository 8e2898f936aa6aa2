"""The tail: level-triggered, gapless, and it waits while the flush is behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.errors import LogDamaged
from engine.tail import Tail
from tests.support.naive_log import NaiveLog


class Taker:
    """Takes blocks like the router."""

    def __init__(self) -> None:
        self.congested = False
        self.taken: list[tuple[bytes, int]] = []
        self.steps = 0

    def route(self, block: bytes, start: int) -> Iterator[None]:
        self.taken.append((block, start))
        for _ in range(3):
            yield
            self.steps += 1


def test_wake_ups_may_be_lost_or_merged() -> None:
    log, taker = NaiveLog(), Taker()
    tail = Tail(log, taker, 0)
    assert not tail.advance(1000)
    blocks = [log.append([(1, "message", 1, b"x")] * count) for count in (1, 3, 2)]
    assert not tail.advance(1_000_000)
    assert taker.taken == [(block, 0) for block in blocks]
    assert tail.sequence == 6
    assert not tail.advance(1000)


def test_a_block_may_take_several_calls_and_nothing_overtakes_it() -> None:
    log, taker = NaiveLog(), Taker()
    tail = Tail(log, taker, 0)
    blocks = [log.append([(1, "message", 1, b"x")] * 2) for _ in range(2)]
    for call in range(1, 4):
        assert tail.advance(0)
        assert (tail.sequence, taker.steps, len(taker.taken)) == (0, call - 1, 1)
    assert tail.advance(0) and (tail.sequence, taker.steps) == (2, 3)
    assert not tail.advance(1_000_000)
    assert tail.sequence == 4 and taker.taken == [(block, 0) for block in blocks]


def test_a_start_inside_a_block_begins_there() -> None:
    log, taker = NaiveLog(), Taker()
    block = log.append([(1, "message", 1, b"x")] * 5)
    tail = Tail(log, taker, 3)
    tail.advance(1000)
    assert taker.taken == [(block, 3)]
    assert tail.sequence == 5


def test_a_gap_in_what_the_log_gives_is_an_error() -> None:
    class Gappy(NaiveLog):
        def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
            return super().blocks_after(sequence + 2, limit_bytes)

    log = Gappy()
    for _ in range(5):
        log.append([(1, "message", 1, b"x")])
    with pytest.raises(LogDamaged, match="after sequence 0"):
        Tail(log, Taker(), 0).advance(1000)


def test_nothing_is_read_while_the_flush_is_behind() -> None:
    log, taker = NaiveLog(), Taker()
    tail = Tail(log, taker, 0)
    log.append([(1, "message", 1, b"x")])
    taker.congested = True
    assert tail.advance(1000)
    assert taker.taken == []
    taker.congested = False
    assert not tail.advance(1000)
    assert tail.sequence == 1
