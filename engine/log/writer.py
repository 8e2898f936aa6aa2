"""The log with its one writer: opens and verifies the tail, appends blocks, rolls segments, fences itself.

The committer's thread of engine/sequencer.py calls `append`; everything else reads through `reader()`. A block is
durable when append returns, and not before: LMDB's default syncs, one transaction a block.

States: open → fenced (the first failure of a write or sync, or a last block that is not ours: nothing is tried again,
readers go on) → closed; open → closed.
Invariants: one writer a log (a lock file, and a look at the last block in each transaction); a segment is created,
synced and named before its first block, and never changed after it was rolled over; nothing is ever deleted in one.
Cost: one transaction and one copy of the block into the map's pages by the kernel.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import lmdb

from engine.errors import BadArgument, EngineClosed, EngineUnable, LogDamaged, LogFenced, LogInUse, Trimmed
from engine.log import format as fmt
from engine.log.before import refuse_backup
from engine.log.damage import Damage
from engine.log.format import SegmentHeader
from engine.log.place import RESTORING, durability_of, filesystem_of, make_directory, sync_directory
from engine.log.reader import LAST, Reader
from engine.log.segments import Segments, look_for_foreign, open_environment
from engine.log.structure import Broken, Pages, look, mend
from engine.private import FILE_MODE
from ext import block as blocks

SEGMENT_BYTES: Final = 1 << 30
MAP_SPARE_BYTES: Final = 64 << 20
SETTLE_BYTES: Final = 64 << 10  # a full segment opens too, and opening commits
MEND_HINT: Final = "nothing was changed; `gonets log check` names the damage; restore a backup into another directory"

_log = logging.getLogger(__name__)


class Log:
    """Use `Log.open`. Attributes: folder, shard, epochs, last_sequence (synced), durability, filesystem."""

    def __init__(self, folder: Path, shard: int, segment_bytes: int) -> None:
        self.folder, self.shard = folder, shard
        self._segment_bytes = segment_bytes
        self._segments = Segments(folder, shard=shard, written_here=True)
        self._lock_descriptor = -1
        self._env: Any = None
        self._first = 0  # of the segment that is written
        self._used_bytes = 0  # of its file
        self._last_key: bytes | None = None  # of its last block; None while it has none
        self._last_header = b""
        self.epochs: list[tuple[int, int]] = []
        self.last_sequence = 0
        self.filesystem = filesystem_of(folder)
        self.durability = durability_of(self.filesystem)
        self.failure: BaseException | None = None

    @classmethod
    def open(cls, path: Path, *, shard: int = 0, segment_bytes: int = SEGMENT_BYTES) -> Log:
        """The log of a data directory, made if there is none. Raises LogInUse, LogVersion, LogDamaged, and
        BadArgument for a backup."""
        folder = path / fmt.FOLDER
        if (path / RESTORING).exists():
            raise EngineUnable(
                f"{path} is half restored: {RESTORING} is in it", hint="let `gonets log restore` end, or run it again"
            )
        refuse_backup(path)
        make_directory(folder)
        log = cls(folder, shard, segment_bytes)
        try:
            log._take_lock()
            log._recover()
        except BaseException:
            log.close()
            raise
        return log

    # Opening.

    def _take_lock(self) -> None:
        self._lock_descriptor = os.open(self.folder / fmt.LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock_descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LogInUse(f"the log in {self.folder} is in use by process {owner}") from None
        os.ftruncate(self._lock_descriptor, 0)
        os.pwrite(self._lock_descriptor, f"{os.getpid()}\n".encode(), 0)

    def _recover(self) -> None:
        """Finds the end, believing nothing that isn't checked; what was never named is thrown away."""
        self._segments.scan()
        if not self._segments.firsts:
            self._remove_unnamed()
            self._create(SegmentHeader(self.shard, 1, fmt.NO_HASH, ((1, 1),)))
        self._first = self._segments.firsts[-1] if self._segments.firsts else 1
        hidden = self._judge_pages()
        header = self._take_segment()
        self._take_stock()
        self.epochs = list(header.epochs)
        if not self.epochs:
            raise LogDamaged(f"segment {self._segments.path(self._first)} names no epoch")
        last = self._last_block(self._first)
        if last is not None:
            self._remember(last)
        else:
            self.last_sequence = self._first - 1
        self._check_join(header)
        if hidden:
            self._append_hidden(hidden)
        self._settle()
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        """Segments in the making, which have no block; once the log is believed: what is refused stays as it is."""
        for left in self.folder.glob(f"[0-9]*{fmt.SUFFIX}{fmt.MAKING_SUFFIX}*"):
            left.unlink()

    def _judge_pages(self) -> bytes:
        """What LMDB would believe of its own pages; a free list that names a page in use would have it written over. A
        block that LMDB would go on before, if it has to be appended once more."""
        path = self._segments.path(self._first)
        look_for_foreign(path)
        hidden = b""
        try:
            done, hidden = mend(path)
            if done:
                _log.warning("segment %s: %s; the last commit would have been hidden", path.name, done)
            problem = look(path, though_hidden=bool(hidden))
        except Broken as broken:
            problem = str(broken)
        except OSError as error:
            raise EngineUnable(f"segment {path} can't be read or mended: {error.strerror}") from error
        if problem:
            raise LogDamaged(f"segment {path} can't be opened: {problem}", hint=MEND_HINT)
        return hidden

    def _append_hidden(self, block: bytes) -> None:
        """Once more, by the protocol that the other processes go by."""
        head = blocks.header(block) if not blocks.check(block)[0] else None
        if head is None or head.first_sequence != self.last_sequence + 1 or head.previous_hash != self.last_hash:
            raise LogDamaged(
                f"segment {self._segments.path(self._first)}: the commit that LMDB hides does not go on from"
                f" {self.last_sequence}",
                hint=MEND_HINT,
            )
        self.append(block)

    def _take_segment(self) -> SegmentHeader:
        """Opens the newest segment for writing."""
        path = self._segments.path(self._first)
        map_bytes = max(map_bytes_of(self._segment_bytes), path.stat().st_size + SETTLE_BYTES)
        self._env = open_environment(path, map_bytes=map_bytes, write=True)
        self._segments.adopt(self._first, self._env)
        self._used_bytes = used_bytes(self._env)
        self._last_key, self._last_header = None, b""
        return self._segments.header(self._first)

    def _take_stock(self) -> None:
        """Makes what an earlier writer has left durable, and lets LMDB show it.

        One that was killed behind its meta page, while others had the file open, has left a block that LMDB shows once
        somebody begins to write. Then it must be on the disk: a repeat of it is answered at once.
        """
        path = self._segments.path(self._first)
        try:
            self._env.sync(True)
            with self._env.begin(write=True) as txn:
                number = txn.id()
                txn.abort()
            due = Pages(path).newest_transaction() + 1
        except lmdb.Error as error:
            raise self._not_synced(error) from error
        except Broken as broken:
            raise LogDamaged(f"segment {path} can't be opened: {broken}", hint=MEND_HINT) from None
        if number != due:
            raise EngineUnable(
                f"segment {path} is open in another process, which does not know its last commit",
                hint="end the readers of this log (its workers, `gonets log` verbs), then open it again",
            )
        self._used_bytes = used_bytes(self._env)

    def _settle(self) -> None:
        """L10: a commit of our own, which says what is there once more.

        What LMDB shows may be named by a meta page whose sync has failed, in a process that was killed before it could
        take it back: the kernel calls that page clean, and the sync above has said nothing of it.
        """
        try:
            with self._env.begin(write=True) as txn:
                txn.put(fmt.HEADER_KEY, txn.get(fmt.HEADER_KEY))
        except lmdb.Error as error:
            raise self._not_synced(error) from error

    def _not_synced(self, error: lmdb.Error) -> EngineUnable:
        return EngineUnable(
            f"segment {self._segments.path(self._first)} can't be synced: {error}",
            hint="look at the disk and the kernel's messages; `gonets log check` verifies what is there",
        )

    def _last_block(self, first: int) -> bytes | None:
        """The last block of a segment, wholly checked."""
        name = self._segments.path(first).name
        with self._segments.reading(first) as txn:
            self._segments.seek(first, LAST)
            cursor = txn.cursor()
            if not cursor.last() or bytes(cursor.key()) == fmt.HEADER_KEY:
                return None
            key = int.from_bytes(cursor.key(), "big")
            block, fault, index = blocks.copy_checked(cursor.value())
        if block is None:
            raise LogDamaged(fmt.fault_text(name, key, fault, index))
        head = blocks.header(block)
        if head.first_sequence != key or head.shard != self.shard:
            raise LogDamaged(
                f"segment {name}, block {key}: it says that it is of shard {head.shard} and begins with"
                f" {head.first_sequence}"
            )
        return block

    def _check_join(self, header: SegmentHeader) -> None:
        """Each segment goes on where the one before it ends; one look at a header and a last block each. One that is
        damaged is named and passed over: nothing is written there any more."""
        for older, newer in pairwise(self._segments.firsts):
            try:
                block = self._last_block(older)
                previous_hash = (header if newer == self._first else self._segments.header(newer)).previous_hash
            except Trimmed:  # by another process, since the look at the directory
                continue
            except LogDamaged as error:
                self._segments.damage.note(error)
                continue
            names = self._segments.path(older).name, self._segments.path(newer).name
            if block is None or _last_of(block) + 1 != newer:
                ends = "nowhere" if block is None else _last_of(block)
                raise LogDamaged(f"segment {names[1]} begins with {newer}, but {names[0]} ends with {ends}")
            if hashlib.sha256(block).digest() != previous_hash:
                raise LogDamaged(f"the hash chain is broken between segments {names[0]} and {names[1]}")

    @property
    def epoch(self) -> int:
        """The epoch of new events."""
        return self.epochs[-1][0]

    @property
    def last_hash(self) -> bytes:
        """The hash that the next block names: SHA-256 of the last block, zeros before the first."""
        block = self._last_block(self._first) if self._last_key is not None else None
        return hashlib.sha256(block).digest() if block is not None else self._segments.header(self._first).previous_hash

    def reader(self) -> Reader:
        """A reader for one thread."""
        return Reader(self._segments)

    @property
    def damage(self) -> Damage:
        """What this process has met of it."""
        return self._segments.damage

    def drop_trimmed(self) -> int:
        """Notices segments that trimming has removed, and frees their space; how many."""
        return self._segments.drop_trimmed()

    def reap_readers(self) -> None:
        """Frees what processes that were killed while reading have left; else LMDB keeps their pages for ever."""
        self._segments.reap_readers()

    # Writing.

    def append(self, block: bytes) -> None:
        """Writes and syncs one block; when it returns the block is durable.

        Any failure raises LogFenced, then and ever after; BadArgument for a block that does not follow the last one.
        """
        if self.failure is not None:
            raise LogFenced(f"the writer stopped earlier: {self.failure}")
        if self._env is None:
            raise EngineClosed("the log is closed")
        head = blocks.header(block)
        if head.first_sequence != self.last_sequence + 1 or head.epoch != self.epoch or head.shard != self.shard:
            raise BadArgument(
                f"a block of shard {head.shard}, epoch {head.epoch} from sequence {head.first_sequence};"
                f" shard {self.shard}, epoch {self.epoch}, sequence {self.last_sequence + 1} is next"
            )
        try:
            self._append(block, head)
        except BaseException as error:
            self.failure = error
            self._env = None
            self._segments.surrender()  # readers go on with environments of their own
            raise LogFenced(
                f"block {head.first_sequence} of segment {self._segments.path(self._first).name} could not"
                f" be written and synced: {error or type(error).__name__}"
            ) from error

    def _append(self, block: bytes, head: blocks.Header) -> None:
        if self._used_bytes >= self._segment_bytes and self._last_key is not None:
            self._roll(head)
        try:
            self._commit(block)
        except lmdb.MapFullError:
            if self._last_key is None:
                raise  # one block alone doesn't fit
            self._roll(head)
            self._commit(block)
        self._used_bytes = used_bytes(self._env)
        self._remember(block)

    def _commit(self, block: bytes) -> None:
        """One transaction; LMDB syncs the pages, then the meta page that names them."""
        with self._env.begin(write=True, buffers=True) as txn:
            self._check_last(txn)
            if not txn.put(fmt.key_of(self.last_sequence + 1), block, append=True):
                raise LogDamaged(f"a block with sequence {self.last_sequence + 1} is there already")

    def _check_last(self, txn: Any) -> None:
        """Somebody else's block behind ours means that there are two writers, whatever the lock file says."""
        cursor = txn.cursor()
        cursor.last()
        key = bytes(cursor.key())
        mine = fmt.HEADER_KEY if self._last_key is None else self._last_key
        if key != mine or (self._last_key is not None and cursor.value()[: blocks.HEADER_SIZE] != self._last_header):
            raise LogDamaged(
                f"the last block of {self._segments.path(self._first).name} is not the one that this process"
                " wrote: another writer is at work",
                hint="stop both, then run `gonets log check`",
            )

    def _remember(self, block: bytes) -> None:
        head = blocks.header(block)
        self._last_header = block[: blocks.HEADER_SIZE]
        self._last_key = fmt.key_of(head.first_sequence)
        self.last_sequence = head.first_sequence + head.count - 1

    # Rolling.

    def _roll(self, head: blocks.Header) -> None:
        """Begins the next segment, whose first block will be the one with this header."""
        self._create(SegmentHeader(self.shard, head.first_sequence, head.previous_hash, tuple(self.epochs)))
        sealed, self._first = self._first, head.first_sequence
        self._take_segment()
        self._segments.disown(sealed)

    def _create(self, header: SegmentHeader) -> None:
        create_segment(self.folder, header, map_bytes_of(self._segment_bytes))

    def close(self) -> None:
        """Lets go of files and lock, once those who are reading have read."""
        self._env = None
        self._segments.close()
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1


def create_segment(folder: Path, header: SegmentHeader, map_bytes: int) -> None:
    """A segment with its header and no block: synced under another name (by the commit), renamed, the directory
    synced."""
    path = folder / fmt.segment_name(header.first_sequence)
    making = path.with_name(path.name + fmt.MAKING_SUFFIX)
    env = open_environment(making, map_bytes=map_bytes, write=True, create=True)
    try:
        with env.begin(write=True) as txn:
            txn.put(fmt.HEADER_KEY, fmt.pack_header(header))
    finally:
        env.close()
    os.rename(making, path)
    making.with_name(making.name + fmt.LMDB_LOCK_SUFFIX).unlink()
    sync_directory(folder)


def map_bytes_of(segment_bytes: int) -> int:
    """Address space of a segment: fixed well above the size at which it is rolled over."""
    return 2 * segment_bytes + MAP_SPARE_BYTES


def used_bytes(env: lmdb.Environment) -> int:
    """Bytes of an environment's file that are in use."""
    return (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])


def _last_of(block: bytes) -> int:
    head = blocks.header(block)
    return int(head.first_sequence + head.count - 1)
