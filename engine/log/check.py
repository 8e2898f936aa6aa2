"""`gonets log check`: every invariant of log and state derived again from the bytes; says where one doesn't hold.

Reads all of the log once. The state is checked by folding the log, from its beginning or from a snapshot, up to the
position that was saved, and comparing every row. Changes nothing; can be used while a server runs: the state is copied
first, so that the log can only be ahead of it. The numbers L1 to L9 and S1, S2 are those of LOG_FORMAT.md and
STATE_FORMAT.md.

`gonets log verify` gives it a directory to work in (engine/log/resume.py), in which it goes on where it was cut short.

Invariants: a damaged block doesn't end the check: its other records are judged by their own checksums; one fault is
told once: what points into damage, or hashes it, is not called wrong.
Cost: about a second for a million events, and the memory of their state.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from engine import private
from engine.errors import DataUntrusted
from engine.lmdbfile import system_error
from engine.log import format as fmt
from engine.log.files import require_space
from engine.log.format import SegmentHeader
from engine.log.reader import Reader
from engine.log.resume import Point, Work, seen
from engine.log.segments import Segments
from engine.log.structure import look
from engine.log.verbs import opened
from engine.ports import OnProgress
from engine.state.keys import KEEP_US
from engine.state.replay import differences, replay
from engine.state.saved import SavedState
from engine.state.snapshot import DATA, newest
from ext import block as blocks
from ext.verify import DISAGREEMENTS, Verifier

PROBLEMS_MAX: Final = 1_000
PREVIOUS_AT: Final = slice(29, 37)
READ_BLOCKS: Final = 16  # in one transaction, which is short
EVENTS_MAX: Final = (16 << 20) // 89  # that a block can hold
BAD_RECORD, BAD_SEQUENCE = 6, 8  # ext/block.pxd, Fault: from the first on, header and table are right
INVARIANTS: Final = ("", "L5", "L5", "L7", "L6", "L8", "L5", "L8")  # of ext/verify.pxd, Disagreement
STRAYED: Final = (2, 4, 6)  # what disagrees so may not be of its conversation at all
SKIPPED: Final = 6
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)

Problem = dict[str, Any]


def check_log(
    data: Path, work: Work | None = None, on_progress: OnProgress = lambda what, done, total: None
) -> dict[str, Any]:
    """What was looked at, and `problems`: rows of segment, block, events, problem. Raises EngineError."""
    with opened(data) as segments, _folder_of(work) as folder:
        check = _Check(segments, on_progress)
        with _copied_state(data, folder, check) as saved:
            segments.scan()  # the state may have been saved behind what was there at the first look
            resumed_after = check.run(work)
            state = _check_state(data, folder, segments, check, saved, on_progress)
        return {
            "data": str(data),
            **({} if work is None else {"resumed_after": resumed_after}),
            "shard": check.shard,
            "segments": len(segments.firsts),
            "blocks": check.blocks,
            "events": check.events,
            "first_sequence": segments.firsts[0],
            "last_sequence": check.last,
            "conversations": check.conversations,
            "state": state,
            "problems_left_out": max(0, check.problem_count - PROBLEMS_MAX),
            "problems": check.problems,
        }


@contextmanager
def _folder_of(work: Work | None) -> Iterator[Path]:
    if work is not None:
        yield work.folder
        return
    with tempfile.TemporaryDirectory(prefix="gonets-check-") as name:
        yield Path(name)


class _Check:
    """One pass over all segments."""

    def __init__(self, segments: Segments, on_progress: OnProgress) -> None:
        self._segments, self._on_progress = segments, on_progress
        self._total_bytes = self._read_bytes = self._kept_bytes = 0
        self.problems: list[Problem] = []
        self.problem_count = self.blocks = self.last = 0
        self.shard = self._any_shard()
        self._verifier = Verifier(self.shard, KEEP_US)
        self._hash: bytes | None = fmt.NO_HASH  # of the last block; None: not known, or not to be asked any more
        self._epochs: tuple[tuple[int, int], ...] = ()
        self._holes: list[tuple[int, int]] = []  # sequences that can't be read or believed, ascending
        self.position = 0  # of the saved state
        self.is_position_an_end = True

    def _any_shard(self) -> int:
        """The shard of the first segment that says one."""
        for first in self._segments.firsts:
            try:
                return self._segments.header(first).shard
            except DataUntrusted:
                continue
        return 0

    @property
    def events(self) -> int:
        """Events that could be read."""
        return self._verifier.events

    @property
    def conversations(self) -> int:
        """Conversations that have events."""
        return self._verifier.conversations()

    def run(self, work: Work | None = None) -> int:
        """All segments, in order; the sequence up to which an earlier run had looked at them, 0 if none had."""
        firsts = list(self._segments.firsts)
        paths = [self._segments.path(first) for first in firsts]
        self._total_bytes = sum(size for _, size, _ in seen(paths))
        self.last = firsts[0] - 1
        if self.last:  # trimmed: what came before is in no block
            self._lose(1, self.last)
            self._hash = None
        self.is_position_an_end = self.position in (0, self.last)
        done = self._go_on(work, paths) if work is not None else 0
        resumed_after = self.last if done else 0
        for place, first in enumerate(firsts[done:], done + 1):
            following = firsts[place] if place < len(firsts) else None
            self._segment(first, following)
            if work is not None and work.is_kept and following is not None:
                self._keep(work, paths[:place])
        self._on_progress("check", self._total_bytes, self._total_bytes)
        return resumed_after

    # An earlier run.

    def _keep(self, work: Work, paths: list[Path]) -> None:
        """A point to go on from, once as much has been read since the last one as the tables have."""
        if self._read_bytes - self._kept_bytes < self._verifier.table_bytes():
            return
        self._kept_bytes = self._read_bytes
        point = Point(
            seen=seen(paths),
            last=self.last,
            hash=self._hash,
            epochs=self._epochs,
            holes=self._holes,
            problems=self.problems,
            problem_count=self.problem_count,
            blocks=self.blocks,
            position=self.position,
            is_position_an_end=self.is_position_an_end,
        )
        work.save(point, self._verifier.parts())

    def _go_on(self, work: Work, paths: list[Path]) -> int:
        """Takes over what an earlier run had found; how many segments that were."""
        kept = work.load(paths)
        if kept is None or kept[0].position != self.position:
            return 0
        point, parts = kept
        for part in parts:
            self._verifier.load(part)
        self.last, self._hash, self._epochs, self._holes = point.last, point.hash, point.epochs, point.holes
        self.problems, self.problem_count, self.blocks = point.problems, point.problem_count, point.blocks
        self.is_position_an_end = point.is_position_an_end
        self._read_bytes = self._kept_bytes = sum(size for _, size, _ in point.seen)
        return len(point.seen)

    def note(self, first: int | None, key: int | None, events: str, problem: str) -> None:
        """One problem; `first` None: of the state."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            segment = "state" if first is None else self._segments.path(first).name
            self.problems.append({"segment": segment, "block": key, "events": events, "problem": problem})

    # Segments.

    def _segment(self, first: int, following: int | None) -> None:
        if not self._structure(first, following):
            return
        try:
            header = self._segments.header(first)
            self._join(first, header)
        except DataUntrusted as error:
            self.note(first, None, "", f"L1: {error.detail}")
            if not self._goes_on(first):
                self._pass_over(following)
                return
        try:
            key, more = -1, True
            while more:
                found, more = self._read(first, key)
                for key, value in found:
                    self._block(first, key, value)
        except DataUntrusted as error:
            self.note(first, None, "", f"L1: {error.detail}")
            self._pass_over(following)

    def _structure(self, first: int, following: int | None) -> bool:
        """Whether LMDB can be let read a segment: its pages are judged before it has to believe them."""
        path = self._segments.path(first)
        try:
            with self._segments.reading(first, believe=True):  # what a writer may not use again meanwhile
                problem = look(path)
        except DataUntrusted as error:
            problem = error.detail
        except OSError as error:
            problem = f"it can't be read: {error.strerror}"
        if not problem:
            return True
        events = f"from {self.last + 1} on" if following is None else f"{self.last + 1}–{following - 1}"
        self.note(first, None, events, f"L1: {problem}")
        self._pass_over(following)
        return False

    def _goes_on(self, first: int) -> bool:
        """Whether a segment whose header can't be read has the blocks that are due."""
        try:
            found, _ = self._read(first, -1)
        except DataUntrusted:
            return False
        return bool(found) and found[0][0] == first == self.last + 1

    def _pass_over(self, following: int | None) -> None:
        """The rest of a segment can't be read."""
        self._hash = None
        if following is not None:
            self._lose(self.last + 1, following - 1)
            self.last = following - 1

    def _join(self, first: int, header: SegmentHeader) -> None:
        """L3, L4, L6: a segment goes on where the last one ended."""
        if first != self.last + 1:
            self._gap(first, None, first, "segment")
        if self._hash is not None and header.previous_hash != self._hash:
            self.note(first, None, "", "L4: its header does not name the hash of the last block before it")
            self._hash = None
        if header.shard != self.shard:
            self.note(first, None, "", f"L6: it is of shard {header.shard}, the log of {self.shard}")
        firsts = [first_sequence for _, first_sequence in header.epochs]
        numbers = [epoch for epoch, _ in header.epochs]
        is_longer = header.epochs[: len(self._epochs)] == self._epochs
        if numbers and is_longer and sorted(firsts) == firsts and sorted(set(numbers)) == numbers:
            self._epochs = header.epochs
        else:
            self.note(first, None, "", "L6: its list of epochs does not go on from the one before")

    def _gap(self, first: int, key: int | None, begins: int, what: str) -> None:
        """L3: events are missing before a block or segment, or are there twice."""
        if begins > self.last + 1:
            events, words = f"{self.last + 1}–{begins - 1}", f"the {what} before it ends with {self.last}"
            self._lose(self.last + 1, begins - 1)
            self.last = begins - 1
        else:
            events, words = f"{begins}–{self.last}", f"the {what} before it ends only with {self.last}"
        self.note(first, key, events, f"L3: {words}")
        self._hash = None

    def _read(self, first: int, after: int) -> tuple[list[tuple[int, bytes]], bool]:
        """Copies of the next blocks after a key, and whether there are more."""
        found: list[tuple[int, bytes]] = []
        with self._segments.reading(first, believe=True) as txn:
            cursor = txn.cursor()
            there = cursor.set_range(fmt.key_of(after + 1))
            while there and len(found) < READ_BLOCKS:
                found.append((int.from_bytes(cursor.key(), "big"), bytes(cursor.value())))
                there = cursor.next()
        return found, bool(there)

    # Blocks.

    def _block(self, first: int, key: int, block: bytes) -> None:
        """L1 to L8 of one block."""
        self.blocks += 1
        self._read_bytes += len(block)
        self._on_progress("check", min(self._read_bytes, self._total_bytes), self._total_bytes)
        fault, _ = blocks.check(block)
        is_headed = fault == 0 or fault >= BAD_RECORD
        begins = blocks.header(block).first_sequence if is_headed else key
        if begins != key:
            self.note(first, key, str(begins), f"L2: it begins with {begins}")
            if begins != self.last + 1:
                if key == self.last + 1:  # another block in the place of the one that is due
                    self._pass_over(key + self._count_of(first, key, block))
                return
        if begins != self.last + 1:
            self._gap(first, key, begins, "block")
            if begins <= self.last:
                return
        before = self.problem_count
        if fault:
            count = self._salvage(first, key, block, fault, is_headed)
        else:
            count = self._judge(first, key, block)
        self.last += count
        # Whose bytes are not what they were when they were hashed would break the chain once more behind it.
        is_as_written = self.problem_count == before and begins == key
        self._hash = hashlib.sha256(block).digest() if is_as_written else None
        self.is_position_an_end |= self.last == self.position

    def _judge(self, first: int, key: int, block: bytes) -> int:
        """L4 to L8 of a block whose checksums are right; how many events it has."""
        head = blocks.header(block)
        if self._hash is not None and head.previous_hash != self._hash:
            self.note(first, key, "", "L4: it does not name the hash of the block before it")
        epoch = self._epoch_at(head.first_sequence)
        if head.shard != self.shard or (epoch and head.epoch != epoch):
            self.note(
                first, key, "", f"L6: it is of shard {head.shard} and epoch {head.epoch}, not {self.shard} and {epoch}"
            )
        for index, disagreement in self._verifier.block(block):
            sequence = head.first_sequence + index
            self._disagreement(first, key, sequence, disagreement, blocks.find(block, sequence)[0])
        return head.count

    def _epoch_at(self, sequence: int) -> int:
        """The epoch of an event, by the segments' list; 0 if that can't be read."""
        place = bisect_right([first for _, first in self._epochs], sequence)
        return self._epochs[place - 1][0] if place else 0

    def _disagreement(self, first: int, key: int, sequence: int, disagreement: int, record: bytes | None) -> None:
        """L5 to L8: told unless what it misses was lost in damage."""
        if disagreement == SKIPPED and record is not None and self._lost(int.from_bytes(record[PREVIOUS_AT], "big")):
            return
        self.note(first, key, str(sequence), f"{INVARIANTS[disagreement]}: {DISAGREEMENTS[disagreement]}")
        if disagreement in STRAYED:  # the event after it in its own conversation will miss it
            self._lose(sequence, sequence)

    def _salvage(self, first: int, key: int, block: bytes, fault: int, is_headed: bool) -> int:
        """What can still be read of a damaged block, record by record; how many events it had."""
        begins = self.last + 1
        count = blocks.header(block).count if is_headed else self._count_of(first, key, block)
        lost: list[int] = []
        disagreements = []
        for sequence in range(begins, begins + count):
            record, _ = blocks.find(block, sequence)
            if record is None:
                lost.append(sequence)
                self._lose(sequence, sequence)
            elif disagreement := self._verifier.record(record):
                disagreements.append((sequence, disagreement, record))
        events = _ranges(lost) if lost else f"{begins}–{begins + count - 1}"
        number = "L3" if fault == BAD_SEQUENCE else "L1"
        rest = f"{len(lost)} of its {count} events can't be read"
        self.note(first, key, events, f"{number}: {blocks.FAULTS[fault]}; {rest}")
        for sequence, disagreement, record in disagreements:
            self._disagreement(first, key, sequence, disagreement, record)
        return count

    def _count_of(self, first: int, key: int, block: bytes) -> int:
        """How many events a block had whose header can't be believed: up to the next block, else what fits."""
        fits = len(block) // 88
        if len(block) >= blocks.HEADER_SIZE:
            fits = min(fits, blocks.header(block).count)
        with self._segments.reading(first, believe=True) as txn:
            cursor = txn.cursor()
            is_there = cursor.set_range(fmt.key_of(key + 1))
            following = int.from_bytes(cursor.key(), "big") if is_there else self._segments.after(first)
        return following - key if following and following - key <= EVENTS_MAX else max(1, fits)

    # What is lost.

    def _lose(self, first: int, last: int) -> None:
        if self._holes and self._holes[-1][0] <= first <= self._holes[-1][1] + 1:
            self._holes[-1] = (self._holes[-1][0], max(last, self._holes[-1][1]))
        else:
            insort(self._holes, (first, last))

    def _lost(self, sequence: int) -> bool:
        place = bisect_right(self._holes, (sequence, 1 << 64)) - 1
        return place >= 0 and sequence <= self._holes[place][1]

    def can_position_be_an_end(self) -> bool:
        """Whether a block ends where the state was saved, as far as can be read."""
        return self.is_position_an_end or self._lost(self.position) or self._lost(self.position + 1)


def _ranges(sequences: list[int]) -> str:
    """Ascending numbers for people: 3, 7–9."""
    parts: list[list[int]] = []
    for sequence in sequences:
        if parts and parts[-1][1] == sequence - 1:
            parts[-1][1] = sequence
        else:
            parts.append([sequence, sequence])
    return ", ".join(str(begin) if begin == end else f"{begin}–{end}" for begin, end in parts)


# The state.


@contextmanager
def _copied_state(data: Path, folder: Path, check: _Check) -> Iterator[SavedState | None]:
    """The state of one moment, so that a running server's saves don't move it; None if there is none to be read."""
    source, target = data / "state", folder / "saved"
    if not (source / DATA).exists():
        yield None
        return
    try:
        if not target.exists():
            require_space(folder, 2 * (source / DATA).stat().st_size, "the check")  # the copy, and its replay
            with _whole(target) as making:
                running = SavedState.open(source, shard=check.shard, read_only=True)
                try:
                    private.copy_environment(running.env, making, compact=False)
                finally:
                    running.close()
        saved = SavedState.open(target, shard=check.shard, read_only=True)
    except (DataUntrusted, lmdb.Error) as error:
        refused = system_error(error) if isinstance(error, lmdb.Error) else None
        if refused is not None and refused.errno in NO_ROOM:  # for the copy: nothing is said against the state
            raise refused from error
        check.note(None, None, "", f"the saved state can't be opened: {error}")
        yield None
        return
    try:
        check.position = saved.position()
        yield saved
    finally:
        saved.close()


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A directory that has its name once it is complete: an earlier run may have been killed over it."""
    making = target.with_name(target.name + fmt.MAKING_SUFFIX)
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(private.DIRECTORY_MODE)
    yield making
    os.rename(making, target)


def _check_state(
    data: Path, folder: Path, segments: Segments, check: _Check, saved: SavedState | None, on_progress: OnProgress
) -> str:
    """L9, S1, S2: the state is not ahead of the log, and equals a replay of the log up to its position."""
    if saved is None:
        return "can't be opened" if (data / "state" / DATA).exists() else "none saved"
    position, first = check.position, segments.firsts[0]
    is_clean = not check.problems
    if position > check.last:
        check.note(None, None, "", f"L9, S1: the state was saved at {position}, the log ends at {check.last}")
        return f"ahead of the log: {position}"
    if position < first - 1:
        check.note(None, None, "", f"L9: the state was saved at {position}, the log begins at {first}")
        return f"behind what the log keeps: {position}"
    if not check.can_position_be_an_end():
        check.note(None, None, "", f"L9: the state was saved at {position}, where no block ends")
        return f"inside a block: {position}"
    if not is_clean:
        return "not compared: mend the log first"
    base = newest(data, check.shard, first - 1, position) if first > 1 else None
    if first > 1 and base is None:
        return "not compared: the log was trimmed, and no snapshot reaches up to what is kept"
    if not (folder / "replayed").exists():
        with _whole(folder / "replayed") as making:
            if base is not None:
                private.copy_file(Path(base.path) / DATA, making / DATA)
    replayed = replay(Reader(segments), position, folder / "replayed", check.shard, on_progress)
    try:
        for difference in differences(saved, replayed):
            check.note(None, None, "", f"S2: {difference}")
    finally:
        replayed.close()
    return f"{'not ' if check.problems else ''}equal to a replay up to {position}"
