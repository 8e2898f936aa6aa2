"""Admission without threads, clock or disk log: a log of blocks in memory around the real Admitter, saver and loader.

One proposal or batch at a time goes in, its answers come out; `save`, `shed` and `restart` do what time does to a
running engine. `unpacked` are the records of all blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from engine.admitter import Admitter
from engine.answers import Answer, fill_repeats, unpack_answers
from engine.loader import load
from engine.state.keys import KEYS_MAX
from engine.state.saved import SavedState
from engine.state.saver import Saver
from engine.state.view import View, block_last
from ext.record import Record, decode

HEADER_BYTES, ENTRY_BYTES = 80, 8


def records_of(block: bytes) -> list[bytes]:
    """The records of a block, by the layout of its table."""
    count = int.from_bytes(block[8:12], "little")
    area = HEADER_BYTES + count * ENTRY_BYTES
    starts = [int.from_bytes(block[at : at + 4], "little") for at in range(HEADER_BYTES, area, ENTRY_BYTES)]
    return [
        block[area + start : area + end] for start, end in zip(starts, [*starts[1:], len(block) - area], strict=True)
    ]


class MemoryLog:
    """Blocks in a list, read like a log."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def last_sequence(self) -> int:
        """The newest sequence."""
        return block_last(self.blocks[-1]) if self.blocks else 0

    def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
        """Blocks above a sequence, as many as fit."""
        out: list[bytes] = []
        for block in self.blocks:
            if block_last(block) > sequence and sum(map(len, out)) < limit_bytes:
                out.append(block)
        return out

    def record(self, sequence: int) -> bytes | None:
        """One record."""
        for block in self.blocks:
            first = int.from_bytes(block[16:24], "little")
            if first <= sequence <= block_last(block):
                return records_of(block)[sequence - first]
        return None


class Driver:
    """See the module."""

    def __init__(
        self,
        path: Path,
        *,
        shard: int = 0,
        group_members_max: int = 5_000,
        block_events_max: int = 1 << 16,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self.path, self.keys_max = path, keys_max
        self.shard, self.group_members_max, self.block_events_max = shard, group_members_max, block_events_max
        self.log = MemoryLog()
        self.time_us = 1_000_000
        self.saved = SavedState.open(path, shard=shard)
        self.views: list[View] = []
        self._begin()

    def _begin(self) -> None:
        self.saver = Saver(self.saved, self.log, events_max=1_000_000, interval_s=3600)
        self.saver.catch_up()
        last_hash = hashlib.sha256(self.log.blocks[-1]).digest() if self.log.blocks else bytes(32)
        self.admitter = Admitter(
            self.saved,
            shard=self.shard,
            epoch=1,
            sequence=self.log.last_sequence(),
            number=self.saver.number,
            last_hash=last_hash,
            block_events_max=self.block_events_max,
            group_members_max=self.group_members_max,
            keys_max=self.keys_max,
        )

    def submit(self, batch: bytes) -> list[Answer]:
        """Admits a batch to its end, loading what it lacks; its answers in the order they were given."""
        self.time_us += 1
        answers: list[Answer] = []
        work: list[bytes] = [batch]
        while work:
            answers += self._walk(work.pop(0))
            if self.admitter.lacks():
                deferred, missing = self.admitter.take_missing()
                self.admitter.take_loaded(load(self.saved, self.log, missing))
                work.insert(0, deferred)
        return answers + self._commit()

    def _walk(self, batch: bytes) -> list[Answer]:
        answers: list[Answer] = []
        done, position = self.admitter.walk(batch, 0, self.time_us)
        while not done:
            answers += self._commit()
            done, position = self.admitter.walk(batch, position, self.time_us)
        return answers + self._commit()

    def _commit(self) -> list[Answer]:
        cut = self.admitter.cut()
        if cut.block is not None:
            self.log.blocks.append(cut.block)
            for view in self.views:
                view.apply(cut.block)
        return unpack_answers(fill_repeats(cut.answers, self.log.record))

    def save(self) -> None:
        """Saves the state."""
        self.saver.catch_up()

    def shed(self) -> None:
        """Drops everything that the saved state holds."""
        self.admitter.overlay.shed(self.saver.position, slices=256, keep_used=False)

    def restart(self) -> None:
        """As after a crash: what was not saved is folded again, admission begins cold."""
        self.saved.close()
        self.saved = SavedState.open(self.path, shard=self.shard)
        self._begin()

    def view(self) -> View:
        """A view that follows every block from now on."""
        view = View(self.saved)
        for block in self.log.blocks_after(view.sequence, 1 << 40):
            view.apply(block)
        self.views.append(view)
        return view

    @property
    def records(self) -> list[Record]:
        """All records of the log."""
        return [decode(data) for block in self.log.blocks for data in records_of(block)]

    def close(self) -> None:
        """Lets go of the state."""
        self.saved.close()


def answers_of(answers: Sequence[Answer]) -> list[tuple[int, int, int, int]]:
    """What the model gives: (status, conversation, sequence, conversation sequence)."""
    return [(answer.status, answer.conversation, answer.sequence, answer.conversation_sequence) for answer in answers]
