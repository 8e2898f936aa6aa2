"""The tail: reads what was committed and hands it to the router, block by block.

After engine/log, before engine/router. Level-triggered: a wake-up means "look again after `sequence`", never "here is
event N", so wake-ups may be lost or merged without any event being lost. The next process over (a worker that gets
its wake-ups through a socket) changes nothing here.

Invariants: what is handed on is gapless and ascending; no read transaction outlives a call; one block is in memory
at a time, and may take several calls; while the fan-out is congested nothing is read, because what is read now would
only push frames out of the ring that sessions still wait for.
Cost: one look-up of the log and one copy a block.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from engine.errors import LogDamaged
from engine.ports import LogReader
from ext.sift import block_span


class Routes(Protocol):
    """What the tail feeds."""

    @property
    def congested(self) -> bool:
        """Whether to wait until more has been flushed."""
        ...

    def route(self, block: bytes, start: int) -> Iterator[None]:
        """Takes the records of a block from index `start` on, step by step."""
        ...


class Tail:
    """Follows the log from `sequence`, which is the last sequence handed on."""

    def __init__(self, reader: LogReader, router: Routes, sequence: int) -> None:
        self._reader = reader
        self._router = router
        self.sequence = sequence
        self._steps: Iterator[None] | None = None  # of the block that is being routed
        self._last = sequence  # its last sequence

    def advance(self, budget_us: int) -> bool:
        """Hands on what is there, for about that long and at least one step; True if there may be more."""
        until = time.monotonic_ns() + budget_us * 1_000
        while not self._router.congested:
            if self._steps is None and not self._begin():
                return False
            try:
                for _ in self._steps or ():
                    if time.monotonic_ns() >= until:
                        return True
            except BaseException:
                self._steps = None  # the next look begins at the same block, and fails the same way
                raise
            self._steps, self.sequence = None, self._last
            if time.monotonic_ns() >= until:
                return True
        return True

    def _begin(self) -> bool:
        """The next block; False if there is none."""
        blocks = self._reader.blocks_after(self.sequence, 1)
        if not blocks:
            return False
        block = blocks[0]
        first, count = block_span(block)
        last = first + count - 1
        if not first <= self.sequence + 1 <= last:
            raise LogDamaged(f"after sequence {self.sequence} the log gave the block {first} to {last}")
        self._steps, self._last = self._router.route(block, self.sequence + 1 - first), last
        return True
