"""Where a projection's state lies: SQLite or LMDB, with the position of the events in it in the same transaction.

Under projections.py. A store is one file; `commit` folds a batch of events into it, or nothing of it. The position is
read inside the transaction that moves it, so whoever else has the file open can't fold the same events a second time.

Invariants: state and position are committed and synced together; events at or below the position are passed over; what
the fold raises leaves all as it was. Cost: one synced commit a batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol, TypeVar

import lmdb

from engine import private
from engine.errors import BadArgument, EngineUnable
from engine.lmdbfile import make_whole, sync_path
from engine.log.format import LMDB_ENGINE
from engine.subscriptions.ports import StoredEvent

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Fold = Callable[[T, StoredEvent], None]
"""Changes a state for one event. It must do nothing else: it may be called again for an event whose batch failed."""

SQLITE_FILE: Final = "state.sqlite"
LMDB_FOLDER: Final = "state.lmdb"
POSITION_TABLE: Final = "gonets_position"
POSITION_KEY: Final = b"position"
BUSY_S: Final = 30.0
MAP_BYTES: Final = 1 << 36  # of address space, not of disk


class Store(Protocol[T_co]):
    """One state on disk. One thread at a time may commit."""

    @property
    def state(self) -> T_co:
        """For looking at it."""

    def position(self) -> int:
        """Sequence of the last event in it."""

    def commit(self, events: Sequence[StoredEvent], fold: Fold[T_co]) -> int:
        """Folds those behind the position, all or none; how many."""

    def close(self) -> None:
        """Lets go of the file."""


class SqliteStore:
    """A database of one's own tables, beside one table for the position. The fold is given the connection."""

    def __init__(self, folder: Path, prepare: Callable[[sqlite3.Connection], None]) -> None:
        """`prepare` makes the tables, in the transaction that makes the state."""
        private.make_folder(folder)
        path = folder / SQLITE_FILE
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN IMMEDIATE")
            if not self._is_made():
                prepare(self._db)
                self._db.execute(f"CREATE TABLE {POSITION_TABLE} (sequence INTEGER NOT NULL)")
                self._db.execute(f"INSERT INTO {POSITION_TABLE} VALUES (0)")
            self._db.execute("COMMIT")
            path.chmod(private.FILE_MODE)
            sync_path(folder)
        except BaseException:
            self._db.close()
            raise

    @property
    def state(self) -> sqlite3.Connection:
        """The connection; queries see what is committed."""
        return self._db

    def position(self) -> int:
        """Sequence of the last event in it."""
        return _sqlite_position(self._db)

    def commit(self, events: Sequence[StoredEvent], fold: Fold[sqlite3.Connection]) -> int:
        """Folds those behind the position, all or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            fresh = behind(events, self.position())
            for event in fresh:
                fold(self._db, event)
            if fresh:
                self._db.execute(f"UPDATE {POSITION_TABLE} SET sequence = ?", (fresh[-1].sequence,))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return len(fresh)

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def _is_made(self) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._db.execute(query, (POSITION_TABLE,)).fetchone() is not None


def sqlite_position(folder: Path) -> int:
    """How far a state in SQLite is that somebody else may have open; 0 if there is none."""
    path = folder / SQLITE_FILE
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as db:
        return _sqlite_position(db)


def _sqlite_position(db: sqlite3.Connection) -> int:
    return int(db.execute(f"SELECT sequence FROM {POSITION_TABLE}").fetchone()[0])


class LmdbState:
    """What a fold, or who looks, is given of an LMDB state: its databases by name, inside one transaction."""

    def __init__(self, transaction: lmdb.Transaction, databases: dict[str, lmdb._Database]) -> None:
        self.transaction, self.databases = transaction, databases

    def get(self, database: str, key: bytes) -> bytes | None:
        """The value of a key."""
        found = self.transaction.get(key, db=self.databases[database])
        return None if found is None else bytes(found)

    def put(self, database: str, key: bytes, value: bytes) -> None:
        """Sets the value of a key."""
        self.transaction.put(key, value, db=self.databases[database])

    def delete(self, database: str, key: bytes) -> bool:
        """Whether there was one."""
        return bool(self.transaction.delete(key, db=self.databases[database]))


_OPEN: Final[dict[Path, LmdbStore]] = {}  # LMDB can't bear a file that one process opens twice


class LmdbStore:
    """An environment with databases of one's own, and one for the position. Open once in a process."""

    def __init__(self, folder: Path, databases: Sequence[str], map_bytes: int = MAP_BYTES) -> None:
        path = (folder / LMDB_FOLDER).resolve()
        if path in _OPEN:
            raise BadArgument(f"the state in {folder} is open in this process already")
        private.make_folder(path)
        make_whole(path / "data.mdb", LMDB_ENGINE)
        self._path, self._map_bytes = path, map_bytes
        self._env = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=len(databases) + 1,
            mode=private.FILE_MODE,
            lib_version=LMDB_ENGINE,
        )
        try:
            self._env.reader_check()
            self._position = self._env.open_db(POSITION_TABLE.encode())
            self._databases = {name: self._env.open_db(name.encode()) for name in databases}
        except BaseException:
            self._env.close()
            raise
        _OPEN[path] = self

    @property
    def state(self) -> LmdbState:
        """As it is committed now; `with store.state.transaction:` ends it."""
        return LmdbState(self._env.begin(), self._databases)

    def position(self) -> int:
        """Sequence of the last event in it."""
        with self._env.begin() as transaction:
            return self._position_in(transaction)

    def commit(self, events: Sequence[StoredEvent], fold: Fold[LmdbState]) -> int:
        """Folds those behind the position, all or none."""
        try:
            with self._env.begin(write=True) as transaction:
                fresh = behind(events, self._position_in(transaction))
                state = LmdbState(transaction, self._databases)
                for event in fresh:
                    fold(state, event)
                if fresh:
                    transaction.put(POSITION_KEY, fresh[-1].sequence.to_bytes(8, "big"), db=self._position)
        except lmdb.MapFullError as error:
            hint = "give the projection more map_bytes"
            raise EngineUnable(f"{self._path} is full at {self._map_bytes} bytes", hint=hint) from error
        return len(fresh)

    def close(self) -> None:
        """Lets go of the file."""
        _OPEN.pop(self._path, None)
        self._env.close()

    def _position_in(self, transaction: lmdb.Transaction) -> int:
        found = transaction.get(POSITION_KEY, db=self._position)
        return 0 if found is None else int.from_bytes(found, "big")


def lmdb_position(folder: Path) -> int:
    """How far a state in LMDB is that somebody else may have open; 0 if there is none."""
    path = (folder / LMDB_FOLDER).resolve()
    if path in _OPEN:
        return _OPEN[path].position()
    if not (path / "data.mdb").exists():
        return 0
    with lmdb.open(str(path), max_dbs=1, readonly=True, mode=private.FILE_MODE, lib_version=LMDB_ENGINE) as env:
        with env.begin() as transaction:
            found = transaction.get(POSITION_KEY, db=env.open_db(POSITION_TABLE.encode(), transaction, create=False))
            return 0 if found is None else int.from_bytes(found, "big")


def behind(events: Sequence[StoredEvent], position: int) -> list[StoredEvent]:
    """Those that are not in a state at this position. They ascend, or what follows here would be wrong."""
    fresh = []
    for event in events:
        if event.sequence > position:
            position = event.sequence
            fresh.append(event)
    return fresh
