"""`gonets log check`: every invariant of log and state derived again from the bytes; says where one doesn't hold.

Reads all of the log once. The state is checked by folding the log into an empty one and comparing every row at the
position that was saved. Changes nothing; can be used while a server runs (it then sees what is synced at each look).
The numbers L1 to L9 and S1 to S5 are those of LOG_FORMAT.md and STATE_FORMAT.md.

Invariants: a damaged block doesn't end the check: its other records are judged by their own checksums, and what
points into the damage is not called wrong. Cost: about a second for a million events, and the memory of their state.
"""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_right
from pathlib import Path
from typing import Any, Final

import lmdb

from engine.errors import DataUntrusted
from engine.log import format as fmt
from engine.log.format import SegmentHeader
from engine.log.reader import Reader
from engine.log.segments import Segments
from engine.log.verbs import opened
from engine.state.saved import DATABASES, SavedState
from engine.state.saver import Saver
from ext import block as blocks
from ext.verify import DISAGREEMENTS, Verifier

PROBLEMS_MAX: Final = 1_000
PREVIOUS_AT: Final = slice(29, 37)
READ_BLOCKS: Final = 16  # in one transaction, which is short

Problem = dict[str, Any]


def check_log(data: Path) -> dict[str, Any]:
    """What was looked at, and `problems`: rows of segment, block, events, problem. Raises EngineError."""
    with opened(data) as segments:
        check = _Check(segments)
        check.run()
        state = _check_state(data, segments, check) if not check.problems else "not compared: mend the log first"
        return {
            "data": str(data), "shard": check.shard, "segments": len(segments.firsts), "blocks": check.blocks,
            "events": check.events, "first_sequence": segments.firsts[0], "last_sequence": check.last,
            "conversations": check.conversations, "state": state,
            "problems_left_out": max(0, check.problem_count - PROBLEMS_MAX), "problems": check.problems,
        }


class _Check:
    """One pass over all segments."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self.problems: list[Problem] = []
        self.problem_count = self.blocks = self.last = self.shard = 0
        self._verifier: Verifier | None = None
        self._hash: bytes | None = fmt.NO_HASH  # of the last block; None: unknown, because it was damaged
        self._epochs: tuple[tuple[int, int], ...] = ()
        self._holes: list[tuple[int, int]] = []  # sequences that can't be read
        self.last_key = 0

    @property
    def events(self) -> int:
        """Events that could be read."""
        return self._verifier.events if self._verifier is not None else 0

    @property
    def conversations(self) -> int:
        """Conversations that have events."""
        return self._verifier.conversations() if self._verifier is not None else 0

    def run(self) -> None:
        """All segments, in order."""
        self.last = self._segments.firsts[0] - 1
        if self.last:  # trimmed: what came before is in no block
            self._holes.append((1, self.last))
            self._hash = None
        for first in list(self._segments.firsts):
            try:
                self._segment(first)
            except DataUntrusted as error:
                self._note(first, None, "", error.detail)

    def _note(self, first: int, key: int | None, events: str, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append({"segment": self._segments.path(first).name, "block": key, "events": events,
                                  "problem": problem})

    def _segment(self, first: int) -> None:
        header = self._segments.header(first)
        if self._verifier is None:
            self.shard = header.shard
            self._verifier = Verifier(header.shard)
        self._join(first, header)
        key, more = -1, True
        while more:
            found, more = self._read(first, key)
            for key, value in found:
                self._block(first, key, value)

    def _join(self, first: int, header: SegmentHeader) -> None:
        """L3, L4, L6: a segment goes on where the last one ended."""
        if first != self.last + 1:
            self._note(first, None, f"{self.last + 1}–{first - 1}", f"L3: the segment before it ends with {self.last}")
            self._lose(self.last + 1, first - 1)
        if self._hash is not None and header.previous_hash != self._hash:
            self._note(first, None, "", "L4: its header does not name the hash of the last block before it")
        if header.shard != self.shard:
            self._note(first, None, "", f"L6: it is of shard {header.shard}, those before it of {self.shard}")
        firsts = [first_sequence for _, first_sequence in header.epochs]
        numbers = [epoch for epoch, _ in header.epochs]
        if (not numbers or header.epochs[:len(self._epochs)] != self._epochs or sorted(firsts) != firsts
                or sorted(set(numbers)) != numbers):
            self._note(first, None, "", "L6: its list of epochs does not go on from the one before")
        self._epochs = header.epochs

    def _read(self, first: int, after: int) -> tuple[list[tuple[int, bytes]], bool]:
        """Copies of the next blocks after a key, and whether there are more."""
        found: list[tuple[int, bytes]] = []
        with self._segments.reading(first) as txn:
            cursor = txn.cursor()
            there = cursor.set_range(fmt.key_of(after + 1))
            while there and len(found) < READ_BLOCKS:
                found.append((int.from_bytes(cursor.key(), "big"), bytes(cursor.value())))
                there = cursor.next()
        return found, bool(there)

    def _block(self, first: int, key: int, block: bytes) -> None:
        """L1 to L8 of one block."""
        assert self._verifier is not None
        self.blocks += 1
        if key != self.last + 1:
            self._note(first, key, f"{self.last + 1}–{key - 1}", f"L3: the block before it ends with {self.last}")
            self._lose(self.last + 1, key - 1)
        fault, index = blocks.check(block)
        if fault:
            self._note(first, key, str(key + index), f"L1: {blocks.FAULTS[fault]}")
            self._salvage(first, key, block)
            self._hash = None
            return
        head = blocks.header(block)
        if head.first_sequence != key:
            self._note(first, key, str(key), f"L3: it says that it begins with {head.first_sequence}")
        if self._hash is not None and head.previous_hash != self._hash:
            self._note(first, key, "", "L4: it does not name the hash of the block before it")
        if head.shard != self.shard or head.epoch != self._epoch_at(key):
            self._note(first, key, "", f"L6: it is of shard {head.shard} and epoch {head.epoch}, not {self.shard} and"
                                       f" {self._epoch_at(key)}")
        for index, disagreement in self._verifier.block(block):
            self._disagreement(first, key, index, disagreement, blocks.find(block, key + index)[0])
        self.last, self._hash = key + head.count - 1, hashlib.sha256(block).digest()

    def _epoch_at(self, sequence: int) -> int:
        """The epoch of an event, by the segment's list."""
        place = bisect_right([first for _, first in self._epochs], sequence)
        return self._epochs[place - 1][0] if place else 0

    def _disagreement(self, first: int, key: int, index: int, disagreement: int, record: bytes | None) -> None:
        """L5, L7, L8: told unless what it misses was lost in damage."""
        if record is not None and self._lost(int.from_bytes(record[PREVIOUS_AT], "big")):
            return
        self._note(first, key, str(key + index), f"L5/L7/L8: {DISAGREEMENTS[disagreement]}")

    def _salvage(self, first: int, key: int, block: bytes) -> None:
        """What can still be read of a damaged block, record by record; the rest becomes a hole."""
        assert self._verifier is not None
        following = self._following(first, key)
        count = following - key if following else self._count_of(block)
        good = 0
        for sequence in range(key, key + count):
            record, _ = blocks.find(block, sequence)
            if record is None:
                self._lose(sequence, sequence)
                continue
            good += 1
            disagreement = self._verifier.record(record)
            if disagreement:
                self._disagreement(first, key, sequence - key, disagreement, record)
        self.last = key + count - 1
        lost = count - good
        self._note(first, key, f"{key}–{self.last}", f"{lost} of its {count} events can't be read, the others can")

    @staticmethod
    def _count_of(block: bytes) -> int:
        """How many events a damaged last block may have held."""
        if len(block) < blocks.HEADER_SIZE:
            return 1
        return max(1, min(int(blocks.header(block).count), len(block) // 88))

    def _following(self, first: int, key: int) -> int | None:
        """Where the block after this one begins."""
        found, _ = self._read(first, key)
        return found[0][0] if found else self._segments.after(first)

    def _lose(self, first: int, last: int) -> None:
        if first > last:
            return
        if self._holes and self._holes[-1][1] == first - 1:
            self._holes[-1] = (self._holes[-1][0], last)
        else:
            self._holes.append((first, last))

    def _lost(self, sequence: int) -> bool:
        return any(first <= sequence <= last for first, last in self._holes)


class _Until:
    """A reader that ends at a sequence."""

    def __init__(self, reader: Reader, last: int) -> None:
        self._reader, self._last = reader, last

    def last_sequence(self) -> int:
        """The end."""
        return self._last

    def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
        """As a reader of a log that ends there."""
        found = self._reader.blocks_after(sequence, limit_bytes) if sequence < self._last else []
        return [block for block in found if blocks.header(block).first_sequence <= self._last]


def _check_state(data: Path, segments: Segments, check: _Check) -> str:
    """S1, S2: the saved state equals a replay of the log up to its position."""
    if not (data / "state" / "data.mdb").exists():
        return "none saved"
    if segments.firsts[0] != 1:
        return "not compared: the log was trimmed, its beginning is in a snapshot only"
    with tempfile.TemporaryDirectory(prefix="gonets-check-") as folder:
        try:
            saved = _copy_of_state(data / "state", Path(folder) / "saved", check.shard)
        except (DataUntrusted, lmdb.Error) as error:
            check._note(segments.firsts[-1], None, "", f"the saved state can't be opened: {error}")
            return "can't be opened"
        try:
            position = saved.position()
            if position > check.last:
                check._note(segments.firsts[-1], None, "", f"S1: the state was saved at {position}, the log ends at"
                                                           f" {check.last}")
                return f"ahead of the log: {position}"
            replayed = SavedState.open(Path(folder) / "replayed", shard=check.shard)
            try:
                Saver(replayed, _Until(Reader(segments), position), events_max=1_000_000, interval_s=1).catch_up()
                _compare(saved, replayed, check, segments.firsts[-1])
            finally:
                replayed.close()
        finally:
            saved.close()
    return f"equal to a replay up to {position}" if not check.problems else f"not equal to a replay up to {position}"


def _copy_of_state(source: Path, target: Path, shard: int) -> SavedState:
    """The state of one moment, so that a running server's saves don't move it."""
    target.mkdir()
    saved = SavedState.open(source, shard=shard, read_only=True)
    try:
        saved.env.copy(str(target))
    finally:
        saved.close()
    return SavedState.open(target, shard=shard)


def _compare(saved: SavedState, replayed: SavedState, check: _Check, segment: int) -> None:
    """Every row of both."""
    for name in DATABASES:
        with saved.env.begin(db=saved.databases[name]) as one, replayed.env.begin(db=replayed.databases[name]) as two:
            rows, others = iter(one.cursor()), iter(two.cursor())
            row, other = next(rows, None), next(others, None)
            while row is not None or other is not None:
                if row == other:
                    row, other = next(rows, None), next(others, None)
                    continue
                key = min(found[0] for found in (row, other) if found is not None)
                is_saved, is_replayed = row is not None and row[0] == key, other is not None and other[0] == key
                words = "differs from" if is_saved and is_replayed else "is not in" if is_saved else "is only in"
                check._note(segment, None, "", f"S2: row {key.hex()} of {name.decode()} {words} the replay")
                row = next(rows, None) if is_saved else row
                other = next(others, None) if is_replayed else other
