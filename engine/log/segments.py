"""The segments of a log as open LMDB environments, found by sequence, opened when needed, closed when many are.

Between the files and everyone who reads or writes them: writer, readers, verbs. One object a process and log, since
LMDB must not be opened twice in a process; all threads share it.

Invariants: an environment is not closed while anybody reads in it, the writer's not before the writer lets go of it;
what a read transaction gives is not looked at after its end; no block of a segment is given before its header was
found right. A rolled-over segment is found by whoever knows only the one before it: `after` looks at the directory
again, or, in the writer's process, waits for the writer to adopt it (a segment that has its name is the writer's to
open first). A segment whose file trimming has removed is Trimmed as soon as anybody has to open it; what is open
stays readable until `drop_trimmed` has looked: every second, and with each question for the first one kept. Cost: a
lock and a dictionary look-up a transaction.
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

from engine.errors import EngineClosed, EngineUnable, LogDamaged, LogVersion, Trimmed
from engine.lmdbfile import cut_off
from engine.log import format as fmt
from engine.log.damage import Damage
from engine.log.format import SegmentHeader
from engine.log.structure import Broken, Pages
from engine.private import FILE_MODE

OPEN_MAX: Final = 64  # environments kept open beside those in use: four descriptors each
READERS_MAX: Final = 1024
SPARE_TRANSACTIONS: Final = 8
CLOCK_TICK_NS: Final = 100_000_000
META_MAGIC: Final = 0xBEEFC0DE.to_bytes(4, "little")
META_AT: Final = (16, 24)  # where LMDB 0.9 has its magic and data format, and where 1.0 has them
META_VERSION: Final = 1
META_BYTES: Final = 32


def open_environment(path: Path, *, write: bool, map_bytes: int = 0, create: bool = False) -> lmdb.Environment:
    """One segment's file with LMDB's default syncs; LogVersion, LogDamaged. A map of 0 is as large as the file says."""
    if not create:
        look_for_foreign(path)
        try:
            pages_of(path).glance()
        except Broken as broken:
            raise LogDamaged(f"segment {path} can't be opened: {broken}") from None
    try:
        env = lmdb.open(
            str(path),
            subdir=False,
            map_size=map_bytes,
            readonly=not write,
            create=create,
            mode=FILE_MODE,
            max_readers=READERS_MAX,
            max_spare_txns=SPARE_TRANSACTIONS,
            lib_version=fmt.LMDB_ENGINE,
        )
    except lmdb.ReadonlyError as error:  # EACCES, EROFS: of the file, or of the lock file that even readers write
        raise not_permitted(f"segment {path}") from error
    except lmdb.Error as error:
        if "already open in this process" in str(error):  # LMDB's locks are a process's: a second one would break them
            raise EngineUnable(
                f"segment {path} is open in this process already", hint="read over the engine's log.reader()"
            ) from error
        raise LogDamaged(f"segment {path} can't be opened: {error}") from error
    if words := cut_off(env, path):
        env.close()
        raise LogDamaged(f"segment {words}")
    env.reader_check()
    return env


def not_permitted(what: str) -> EngineUnable:
    """The refusal of a file that the process may not open: nothing is said against the data."""
    return EngineUnable(
        f"{what} can't be opened: permission denied; LMDB must write its lock file beside it, even to read",
        hint="run this as the user of the server, or give this user write permission in the directory",
    )


def look_for_foreign(path: Path) -> None:
    """What LMDB can't be asked: an empty file it takes for a new one and fills, another engine's it calls damaged."""
    try:
        with path.open("rb") as file:
            begin = file.read(META_BYTES)
    except PermissionError as error:
        raise not_permitted(f"segment {path}") from error
    except OSError as error:
        raise LogDamaged(f"segment {path} can't be opened: {error.strerror}") from error
    if not begin:
        raise LogDamaged(f"segment {path} is an empty file")
    for at in META_AT:
        magic, version = begin[at : at + 4], int.from_bytes(begin[at + 4 : at + 8], "little")
        is_other = magic == META_MAGIC and (at, version) != (META_AT[0], META_VERSION)
        if is_other and not pages_of(path).is_second_ours():  # else it is damage of one page
            raise LogVersion(
                f"segment {path} was written by another engine of LMDB (data format {version}); this program"
                f" reads and writes data format {META_VERSION}"
            )


def pages_of(path: Path) -> Pages:
    """A segment's pages as they lie in its file. Raises LogDamaged."""
    try:
        return Pages(path)
    except PermissionError as error:
        raise not_permitted(f"segment {path}") from error
    except OSError as error:
        raise LogDamaged(f"segment {path} can't be opened: {error.strerror}") from error


class _Open:
    """An environment, how many are reading in it, and what is known of it."""

    __slots__ = ("believed", "env", "leaving", "pages", "pins")

    def __init__(self, env: lmdb.Environment, pins: int, pages: Pages) -> None:
        self.env, self.pins, self.pages = env, pins, pages
        self.believed = False  # its header has been found right
        self.leaving = False  # closes as soon as nobody reads in it


class Segments:
    """Any thread."""

    def __init__(self, folder: Path, *, shard: int | None, written_here: bool) -> None:
        self._written_here = written_here
        self.folder, self.shard = folder, shard
        self.damage = Damage()  # that readers have met
        self.firsts: list[int] = []  # ascending; replaced or grown, never shrunk in place
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._written: set[int] = set()  # segments whose environments are the writer's
        self._lock = threading.Lock()
        self._unpinned = threading.Condition(self._lock)  # somebody waits to close and the last reader has gone
        self._closed = False
        self._seen_ns = 0  # when the directory had changed last at the last look, 0 = look again

    # What there is.

    def scan(self) -> None:
        """Looks at the directory, if it may have changed."""
        changed_ns = os.stat(self.folder).st_mtime_ns
        if changed_ns == self._seen_ns:
            return
        # A listing may lack what was made while it went on, and have what was made after that; the next one has both.
        newest = max(self._listed(), default=0)
        self.firsts = [first for first in self._listed() if first <= newest]
        with self._lock:
            self._close_dropped()
        # The clock of files ticks slowly: what is renamed right after this look may bear the same time.
        self._seen_ns = changed_ns if time.time_ns() - changed_ns > CLOCK_TICK_NS else 0

    def _listed(self) -> list[int]:
        found = (fmt.first_of_name(entry.name) for entry in self.folder.iterdir())
        return sorted(first for first in found if first is not None)

    def drop_trimmed(self) -> int:
        """Forgets segments at the log's beginning whose files are gone, and gives their space back; how many."""
        with self._lock:
            return self._drop_trimmed()

    def first_kept(self) -> int:
        """The first sequence that is kept now: another process may have trimmed. A look at one file's name."""
        if len(self.firsts) > 1 and not self.path(self.firsts[0]).exists():
            self.drop_trimmed()
        return self.firsts[0]

    def path(self, first: int) -> Path:
        """The file of a segment."""
        return self.folder / fmt.segment_name(first)

    def at(self, sequence: int) -> int:
        """The first sequence of the segment in which a sequence lies, or would lie. Raises Trimmed."""
        firsts = self.firsts  # another thread may replace it
        place = bisect_right(firsts, sequence)
        if not place:
            kept = firsts[0] if firsts else 1
            raise Trimmed(f"sequence {sequence} is not kept any more: the log begins at {kept}", first_available=kept)
        return firsts[place - 1]

    def after(self, first: int) -> int | None:
        """The segment that follows, if there is one by now."""
        firsts = self.firsts
        place = bisect_right(firsts, first)
        if place == len(firsts) and not self._written_here:
            self.scan()
            firsts = self.firsts
            place = bisect_right(firsts, first)
        return firsts[place] if place < len(firsts) else None

    # Environments.

    def adopt(self, first: int, env: lmdb.Environment) -> None:
        """The writer's environment of a segment that it has made or opened: everybody reads in it, it stays open."""
        with self._lock:
            self._close_some()
            self._open[first] = _Open(env, 1, pages_of(self.path(first)))
            self._written.add(first)
            if first not in self.firsts:
                insort(self.firsts, first)

    def disown(self, first: int) -> None:
        """The writer is done with a segment: it closes like any other."""
        with self._lock:
            self._written.remove(first)
            self._unpin(self._open[first])

    def reap_readers(self) -> None:
        """Clears the reader slots of processes that are gone, in every environment that is open."""
        with self._lock:
            for held in self._open.values():
                held.env.reader_check()

    def surrender(self) -> None:
        """The writer has failed, and its environments with it (LMDB may refuse even reads): each is closed once nobody
        reads in it, and the next reader opens its own."""
        with self._lock:
            for first in self._written:
                self._open[first].pins -= 1
                self._leave(first)
            self._written.clear()

    @contextmanager
    def reading(self, first: int, *, believe: bool = False) -> Iterator[Any]:
        """A short read transaction in a segment; its buffers are the map itself and end with it. `believe`: without
        asking its header first."""
        held, txn = self._begin(first)
        try:
            with txn:
                if not (held.believed or believe):
                    self._unpacked(first, txn)
                    held.believed = True
                yield txn
        except lmdb.Error as error:
            raise LogDamaged(f"segment {self.path(first)} can't be read: {error}") from error
        finally:
            with self._lock:
                self._unpin(held)

    def seek(self, first: int, sequence: int) -> tuple[int | None, int | None]:
        """Inside `reading`: the key up to a sequence, whose way there LMDB can be let go (0: the header's), and the
        next key. May show a block that the transaction does not. Raises LogDamaged."""
        try:
            return self._open[first].pages.seek(sequence)
        except Broken as broken:
            raise LogDamaged(f"segment {self.path(first).name}: {broken}") from None

    def header(self, first: int) -> SegmentHeader:
        """The checked header of a segment."""
        with self.reading(first, believe=True) as txn:
            return self._unpacked(first, txn)

    def _unpacked(self, first: int, txn: Any) -> SegmentHeader:
        self.seek(first, 0)
        data = txn.get(fmt.HEADER_KEY)
        return fmt.unpack_header(None if data is None else bytes(data), self.path(first), self.shard)

    def _begin(self, first: int) -> tuple[_Open, Any]:
        """A pinned environment and a transaction in it. A map that the writer's file has outgrown is made anew."""
        for is_last in (False, True):
            held = self._pin(first)
            try:
                return held, held.env.begin(buffers=True)
            except lmdb.Error as error:
                with self._lock:
                    self._unpin(held)
                    if isinstance(error, lmdb.MapResizedError) and not is_last and self._open.get(first) is held:
                        self._leave(first)
                        continue
                raise LogDamaged(f"segment {self.path(first)} can't be read: {error}") from error
        raise AssertionError

    def _pin(self, first: int) -> _Open:
        with self._lock:
            while True:
                if self._closed:
                    raise EngineClosed("the log has been closed")
                held = self._open.get(first)
                if held is None or not held.leaving:
                    break
                self._unpinned.wait()
            if held is None:
                self._close_some()
                env, pages = self._opened(first)
                held = self._open[first] = _Open(env, 0, pages)
            self._open.move_to_end(first)
            held.pins += 1
            return held

    # With the lock held.

    def _opened(self, first: int) -> tuple[lmdb.Environment, Pages]:
        """Another reader's environment. Raises Trimmed where the file is gone, and all before it."""
        try:
            pages = pages_of(self.path(first))
            env = open_environment(self.path(first), write=False)
            try:
                words = pages.hidden()
            except Broken as broken:
                env.close()
                raise LogDamaged(f"segment {self.path(first)} can't be opened: {broken}") from None
            if words:
                self.damage.note(LogDamaged(f"segment {self.path(first).name}: {words}"))
            return env, pages
        except LogDamaged:
            self._drop_trimmed()
            if first not in self.firsts:
                raise Trimmed(
                    f"segment {fmt.segment_name(first)} is not kept any more: the log begins at {self.firsts[0]}",
                    first_available=self.firsts[0],
                ) from None
            raise

    def _drop_trimmed(self) -> int:
        """Only from the beginning, and never the newest: a file that lacks elsewhere was not trimmed, it is lost."""
        firsts, gone = self.firsts, 0
        while gone < len(firsts) - 1 and not self.path(firsts[gone]).exists():
            gone += 1
        if gone:
            self.firsts = firsts[gone:]
        self._close_dropped()
        return gone

    def _close_dropped(self) -> None:
        """Environments of files that are gone, whose space is free only then; those in use at the next look."""
        kept = self.firsts[0] if self.firsts else 0
        for first in [first for first, held in self._open.items() if first < kept and not held.pins]:
            if not self._open[first].leaving:
                self._open.pop(first).env.close()

    def _unpin(self, held: _Open) -> None:
        held.pins -= 1
        if not held.pins and (held.leaving or self._closed):
            self._unpinned.notify_all()

    def _leave(self, first: int) -> None:
        """Closes an environment once nobody reads in it; who wants to read there waits so long."""
        held = self._open[first]
        held.leaving = True
        self._unpinned.wait_for(lambda: not held.pins)
        if self._open.get(first) is held:
            del self._open[first]
            held.env.close()
        self._unpinned.notify_all()

    def _close_some(self) -> None:
        """Makes room for one more: the longest unused ones go."""
        for first in [first for first, held in self._open.items() if not held.pins and not held.leaving]:
            if len(self._open) < OPEN_MAX:
                return
            self._open.pop(first).env.close()

    def close(self) -> None:
        """Closes all, once nobody reads any more: transactions are short, and none begins after this."""
        with self._lock:
            self._closed = True
            for first in self._written:
                self._open[first].pins -= 1
            self._written.clear()
            self._unpinned.notify_all()
            self._unpinned.wait_for(lambda: not any(held.pins for held in self._open.values()))
            while self._open:
                self._open.popitem()[1].env.close()
