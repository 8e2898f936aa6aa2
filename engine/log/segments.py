"""The segments of a log as open LMDB environments, found by sequence, opened when needed, closed when many are.

Between the files and everyone who reads or writes them: writer, readers, verbs. One object a process and log, since
LMDB must not be opened twice in a process; all threads share it.

Invariants: an environment is not closed while anybody reads in it, and the writer's is never; what a read transaction
gives is not looked at after its end. A rolled-over segment is found by whoever knows only the one before it: `after`
looks at the directory again, or, in the writer's process, waits for the writer to adopt it (a segment that has its
name is the writer's to open first). Cost: a lock and a dictionary look-up a transaction.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from engine.errors import LogDamaged, LogVersion, Trimmed
from engine.log import format as fmt
from engine.log.format import SegmentHeader

OPEN_MAX: Final = 64  # environments kept open beside those in use: three descriptors each
READERS_MAX: Final = 1024
SPARE_TRANSACTIONS: Final = 8
CLOCK_TICK_NS: Final = 100_000_000


def open_environment(path: Path, map_bytes: int, *, write: bool, create: bool = False) -> lmdb.Environment:
    """One segment's file with LMDB's default syncs; LogVersion, LogDamaged."""
    try:
        env = lmdb.open(
            str(path), subdir=False, map_size=map_bytes, readonly=not write, create=create, max_readers=READERS_MAX,
            max_spare_txns=SPARE_TRANSACTIONS, lib_version=fmt.LMDB_ENGINE,
        )
    except lmdb.VersionMismatchError as error:
        raise LogVersion(f"segment {path} was written by another engine of LMDB: {error}") from error
    except lmdb.Error as error:
        raise LogDamaged(f"segment {path} can't be opened: {error}") from error
    env.reader_check()
    return env


class _Open:
    """An environment and how many are reading in it."""

    __slots__ = ("env", "pins")

    def __init__(self, env: lmdb.Environment, pins: int) -> None:
        self.env, self.pins = env, pins


class Segments:
    """Any thread."""

    def __init__(self, folder: Path, *, shard: int | None, map_bytes: int, written_here: bool) -> None:
        self._written_here = written_here
        self.folder, self.shard, self.map_bytes = folder, shard, map_bytes
        self.firsts: list[int] = []  # ascending; replaced or grown, never shrunk in place
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._seen_ns = 0  # when the directory had changed last at the last look, 0 = look again

    # What there is.

    def scan(self) -> None:
        """Looks at the directory, if it may have changed."""
        changed_ns = os.stat(self.folder).st_mtime_ns
        if changed_ns == self._seen_ns:
            return
        found = (fmt.first_of_name(entry.name) for entry in self.folder.iterdir())
        self.firsts = sorted(first for first in found if first is not None)
        # The clock of files ticks slowly: what is renamed right after this look may bear the same time.
        self._seen_ns = changed_ns if time.time_ns() - changed_ns > CLOCK_TICK_NS else 0

    def path(self, first: int) -> Path:
        """The file of a segment."""
        return self.folder / fmt.segment_name(first)

    def at(self, sequence: int) -> int:
        """The first sequence of the segment in which a sequence lies, or would lie. Raises Trimmed."""
        place = bisect_right(self.firsts, sequence)
        if not place:
            kept = self.firsts[0] if self.firsts else 1
            raise Trimmed(f"sequence {sequence} is not kept any more: the log begins at {kept}")
        return self.firsts[place - 1]

    def after(self, first: int) -> int | None:
        """The segment that follows, if there is one by now."""
        place = bisect_right(self.firsts, first)
        if place == len(self.firsts) and not self._written_here:
            self.scan()
            place = bisect_right(self.firsts, first)
        return self.firsts[place] if place < len(self.firsts) else None

    # Environments.

    def adopt(self, first: int, env: lmdb.Environment) -> None:
        """The writer's environment of a segment that it has made or opened: everybody reads in it, it stays open."""
        with self._lock:
            self._open[first] = _Open(env, 1)
            if first not in self.firsts:
                insort(self.firsts, first)

    def disown(self, first: int) -> None:
        """The writer is done with a segment: it closes like any other."""
        with self._lock:
            self._open[first].pins -= 1

    @contextmanager
    def reading(self, first: int) -> Iterator[Any]:
        """A short read transaction in a segment; its buffers are the map itself and end with it."""
        held = self._pin(first)
        try:
            with held.env.begin(buffers=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise LogDamaged(f"segment {self.path(first)} can't be read: {error}") from error
        finally:
            with self._lock:
                held.pins -= 1

    def header(self, first: int) -> SegmentHeader:
        """The checked header of a segment."""
        with self.reading(first) as txn:
            data = txn.get(fmt.HEADER_KEY)
            return fmt.unpack_header(None if data is None else bytes(data), self.path(first), self.shard)

    def _pin(self, first: int) -> _Open:
        with self._lock:
            if self._closed:
                raise LogDamaged("the log has been closed", hint="open it again")
            held = self._open.get(first)
            if held is None:
                self._close_some()
                held = self._open[first] = _Open(open_environment(self.path(first), self.map_bytes, write=False), 0)
            self._open.move_to_end(first)
            held.pins += 1
            return held

    def _close_some(self) -> None:
        """Makes room for one more: the longest unused ones go."""
        for first in [first for first, held in self._open.items() if not held.pins]:
            if len(self._open) < OPEN_MAX:
                return
            self._open.pop(first).env.close()

    def close(self) -> None:
        """Closes all; nobody may be reading."""
        with self._lock:
            self._closed = True
            while self._open:
                self._open.popitem()[1].env.close()
