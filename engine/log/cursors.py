"""Delivered and read marks of users in conversations: not events, the highest wins, written every few seconds.

Moved by gateway/cursors.py on the loop; a thread writes what has moved in one transaction an interval. A crash loses
at most that interval, which is allowed: clients say their marks again after hello. Several workers may write the same
file: what is written is the higher of what is there and what is new. Marks that another worker has taken (`hear`) are
remembered until that one has written them.

Invariants: a mark that `put` has taken is what `get` gives, before and after it is written, and when writing has
failed, or a higher one; reads never see half an interval; a stored mark never falls; beyond MARKS_MAX that wait to be
written `put` refuses. Cost: a dictionary entry per mark that moved; a look-up in LMDB for one that did not.
"""

from __future__ import annotations

import logging
import struct
import threading
from pathlib import Path
from typing import Any, Final

import lmdb

from engine import private
from engine.errors import StateDamaged
from engine.lmdbfile import open_beside

FORMAT_VERSION: Final = 1
MARKS_MAX: Final = 250_000  # that are not written yet: only a disk that takes none lets so many gather
LMDB_ENGINE: Final = 0
MAP_BYTES: Final = 1 << 38
HEARD_MAX: Final = 100_000  # marks of other workers in an interval; those beyond are seen once they are written
_KEY = struct.Struct(">QQ")  # conversation, user
_VALUE = struct.Struct("<QQ")  # delivered, read: conversation sequences

_log = logging.getLogger(__name__)

Key = tuple[int, int]


class CursorStore:
    """`get` and `put` from one thread (the loop); the writer's thread is its own."""

    def __init__(self, env: lmdb.Environment, path: Path, interval_s: float) -> None:
        self._env: lmdb.Environment | None = env
        self._path, self._interval_s = path, interval_s
        self._lock = threading.Lock()
        self._moved: dict[Key, tuple[int, int]] = {}
        self._writing: dict[Key, tuple[int, int]] = {}
        self._heard: dict[Key, tuple[int, int]] = {}  # in this interval of ours
        self._heard_before: dict[Key, tuple[int, int]] = {}  # in the two before it: theirs is over by then
        self._heard_long: dict[Key, tuple[int, int]] = {}
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="cursors", daemon=True)

    @classmethod
    def open(cls, path: Path, *, interval_s: float) -> CursorStore:
        """Opens or makes the environment in a directory, and begins to write. Raises LogVersion, StateDamaged."""
        env = open_beside(
            path,
            lambda: _open(path, write=True),
            engine=LMDB_ENGINE,
            version=FORMAT_VERSION,
            what="cursors",
            hint="move the directory away: clients say their marks again",
        )
        store = cls(env, path, interval_s)
        store._thread.start()
        return store

    def get(self, conversation: int, user: int) -> tuple[int, int]:
        """(delivered, read) as conversation sequences; (0, 0) if there is no mark."""
        key = (conversation, user)
        with self._lock:  # also around the look-up: a failed environment is changed for another
            found = self._moved.get(key) or self._writing.get(key)
            heard = self._heard.get(key) or self._heard_before.get(key) or self._heard_long.get(key)
            data = None
            if found is None and self._env is not None:
                with self._env.begin() as txn:
                    data = txn.get(_KEY.pack(conversation, user))
        if found is None:
            delivered, read = _VALUE.unpack(data) if data is not None else (0, 0)
            found = delivered, read
        return found if heard is None else _higher(found, heard)

    def put(self, conversation: int, user: int, delivered: int, read: int) -> bool:
        """The newest word on a mark, no lower than what `get` gives; False, and it is not taken, if too many wait to be
        written."""
        key, mark = (conversation, user), (delivered, read)
        with self._lock:
            if len(self._moved) + len(self._writing) >= MARKS_MAX and key not in self._moved:
                return False
            self._moved[key] = _higher(mark, self._moved.get(key) or self._writing.get(key) or mark)
        return True

    def hear(self, conversation: int, user: int, delivered: int, read: int) -> None:
        """A mark that another worker has taken, and writes."""
        key, mark = (conversation, user), (delivered, read)
        with self._lock:
            if len(self._heard) < HEARD_MAX:
                self._heard[key] = _higher(mark, self._heard.get(key, mark))

    def write(self) -> int:
        """Writes what has moved since the last call; how many marks. What can't be written stays in memory."""
        with self._lock:
            self._writing, self._moved = self._moved, {}
            self._heard, self._heard_before, self._heard_long = {}, self._heard, self._heard_before
        count = len(self._writing)
        try:
            if count:
                self._write(sorted(self._writing.items()))
        except BaseException:
            with self._lock:
                self._moved = {**self._writing, **self._moved}  # put has seen to it that these are higher
                self._writing = {}
            raise
        with self._lock:
            self._writing = {}
        return count

    def _write(self, marks: list[tuple[Key, tuple[int, int]]]) -> None:
        keys = [_KEY.pack(*key) for key, _ in marks]
        assert self._env is not None
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            there = {key: _VALUE.unpack(value) for key, value in cursor.getmulti(keys)}
            rows: list[Any] = [
                (key, _VALUE.pack(*_higher(value, there.get(key, value))))
                for key, (_, value) in zip(keys, marks, strict=True)
            ]
            consumed, _ = cursor.putmulti(rows)
            if consumed != len(rows):
                raise StateDamaged(f"{consumed} of {len(rows)} cursors were taken")

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.write()
                self.failure = None
            except (lmdb.DiskError, lmdb.MapFullError) as error:  # aborted: the next interval tries again
                if self.failure is None:
                    _log.error("no space to write cursors: they are kept in memory until there is (%s)", error)
                self.failure = error
            except Exception as error:  # marks are no promise: the engine goes on without storing them
                self.failure = error
                _log.exception("cursors can't be written any more; they are kept in memory")
                self._read_on()
                return

    def _read_on(self) -> None:
        """After a failed write LMDB may refuse even reads: another environment, for reading only."""
        with self._lock:
            assert self._env is not None
            self._env.close()
            try:
                self._env = _open(self._path, write=False)
            except lmdb.Error:
                self._env = None
                _log.exception("nor can they be read: what isn't in memory counts as unread")

    def close(self) -> None:
        """Writes what is left and ends."""
        self._stop.set()
        self._thread.join()
        try:
            if self.failure is None:
                self.write()
        finally:
            if self._env is not None:
                self._env.close()


def _higher(mark: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    return max(mark[0], other[0]), max(mark[1], other[1])


def _open(path: Path, *, write: bool) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=MAP_BYTES,
        max_spare_txns=2,
        readonly=not write,
        mode=private.FILE_MODE,
        lib_version=LMDB_ENGINE,
    )
