"""The saved state: one LMDB environment beside the log, and its rows as values.

Written by the saver alone (state/saver.py), read by admission's loader and by every view in short transactions.
Each save is one transaction that also moves `position`, the last sequence folded in: a crash leaves the state of one
position or of the next, and opening folds what follows it. Layouts of rows are listed in ext/saving.pxd.

Invariants: rows describe synced events only; position never exceeds the log; a row's changed_at is the last sequence
that changed it. Cost: a read is one transaction of a few microseconds and a look-up per row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import lmdb

from engine import private
from engine.errors import EngineUnable, LogVersion, StateDamaged
from engine.lmdbfile import cut_off, make_whole
from ext import saving

FORMAT_VERSION: Final = 2
FORMAT_WITHOUT_KEYS: Final = 1  # as version 2, but for the database `keys`: it has none, and no event had a key
LMDB_ENGINE: Final = 0  # the 0.9 series; its files and those of 1.0 can't read each other
MAP_BYTES: Final = 1 << 40
READERS_MAX: Final = 1024
DATABASES: Final = (
    b"meta",
    b"heads",
    b"conversations",
    b"dialogs",
    b"members",
    b"member_index",
    b"windows",
    b"tombstones",
    b"keys",
)

_CONVERSATION = struct.Struct("<BBHIQQQQ")
_MEMBERSHIP = struct.Struct("<BBHIQ")
_PAIR = struct.Struct("<QQ")
_KEY2 = struct.Struct(">QQ")
_CLOSED, _HISTORY = 1, 2


Made = TypeVar("Made")
Intervals = tuple[tuple[int, int | None], ...]


class ConversationRow(NamedTuple):
    """A conversation without its head. `first` and `second` are 0 unless it is a dialog."""

    kind: int
    closed: bool
    history: bool
    member_count: int
    created: int
    changed_at: int
    first: int
    second: int
    title: str


class MembershipRow(NamedTuple):
    """A user in a conversation; role 0 = out. An open interval ends with None."""

    role: int
    kind: int
    intervals: Intervals
    changed_at: int


def key1(number: int) -> bytes:
    """Key of one number."""
    return number.to_bytes(8, "big")


def key2(first: int, second: int) -> bytes:
    """Key of two numbers."""
    return _KEY2.pack(first, second)


def pack_conversation(row: ConversationRow) -> bytes:
    """Stored bytes of a conversation."""
    flags = (_CLOSED if row.closed else 0) | (_HISTORY if row.history else 0)
    fixed = _CONVERSATION.pack(row.kind, flags, 0, row.member_count, row.created, row.changed_at, row.first, row.second)
    return fixed + row.title.encode()


def unpack_conversation(data: bytes) -> ConversationRow:
    """The conversation of stored bytes."""
    kind, flags, _, count, created, changed_at, first, second = _CONVERSATION.unpack_from(data)
    title = data[_CONVERSATION.size :].decode()
    closed, history = bool(flags & _CLOSED), bool(flags & _HISTORY)
    return ConversationRow(kind, closed, history, count, created, changed_at, first, second, title)


def pack_membership(row: MembershipRow) -> bytes:
    """Stored bytes of a membership."""
    fixed = _MEMBERSHIP.pack(row.role, row.kind, 0, len(row.intervals), row.changed_at)
    return fixed + b"".join(_PAIR.pack(first, last or 0) for first, last in row.intervals)


def unpack_membership(data: bytes) -> MembershipRow:
    """The membership of stored bytes."""
    role, kind, _, _, changed_at = _MEMBERSHIP.unpack_from(data)
    intervals = tuple((first, last or None) for first, last in _PAIR.iter_unpack(data[_MEMBERSHIP.size :]))
    return MembershipRow(role, kind, intervals, changed_at)


class SavedReader:
    """One short read transaction. Rows are copies."""

    def __init__(self, txn: Any, databases: dict[bytes, Any]) -> None:
        self._txn = txn
        self._databases = databases

    def get(self, database: bytes, key: bytes) -> bytes | None:
        """One stored value."""
        value: bytes | None = self._txn.get(key, db=self._databases[database])
        return value

    def get_many(self, database: bytes, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """(key, value) of those keys that there are."""
        with self._txn.cursor(self._databases[database]) as cursor:
            rows: list[tuple[bytes, bytes]] = cursor.getmulti(keys)
        return rows

    def number(self, name: bytes) -> int:
        """A number of the meta database; 0 if it was never set."""
        return int.from_bytes(self.get(b"meta", name) or b"", "big")

    def range(self, database: bytes, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) from `start` on while keys have the prefix."""
        with self._txn.cursor(self._databases[database]) as cursor:
            if not cursor.set_range(start):
                return
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value

    def all_rows(self, database: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of a whole database, ascending; none where an older version has it not."""
        handle = self._databases.get(database)
        return iter(()) if handle is None else iter(self._txn.cursor(handle))

    def conversation(self, conversation: int) -> ConversationRow | None:
        """A conversation's row."""
        data = self.get(b"conversations", key1(conversation))
        return None if data is None else unpack_conversation(data)

    def head(self, conversation: int) -> tuple[int, int]:
        """(head, conversation sequence); (0, 0) if unknown."""
        slab = self.get(b"heads", key1(conversation // saving.HEADS_PER_SLAB))
        return (0, 0) if slab is None else saving.slab_head(slab, conversation)

    def heads(self, conversations: list[int]) -> list[int]:
        """The heads of several, quickest where they ascend; 0 if unknown."""
        found: list[int] = []
        number, slab = -1, None
        for conversation in conversations:
            if conversation // saving.HEADS_PER_SLAB != number:
                number = conversation // saving.HEADS_PER_SLAB
                slab = self.get(b"heads", key1(number))
            found.append(0 if slab is None else saving.slab_head(slab, conversation)[0])
        return found

    def membership(self, user: int, conversation: int) -> MembershipRow | None:
        """A membership's row."""
        data = self.get(b"members", key2(user, conversation))
        return None if data is None else unpack_membership(data)

    def memberships(self, user: int) -> Iterator[tuple[int, MembershipRow]]:
        """(conversation, row) of a user, ascending."""
        prefix = key1(user)
        for key, value in self.range(b"members", prefix, prefix):
            yield int.from_bytes(key[8:], "big"), unpack_membership(value)

    def memberships_as(self, made: type[Made], user: int, kinds: dict[int, str], roles: dict[int, str]) -> list[Made]:
        """All of a user, ascending, as tuples (user, conversation, kind, role, intervals, changed_at) of a class."""
        with self._txn.cursor(self._databases[b"members"]) as cursor:
            rows: Iterable[tuple[bytes, bytes]] = cursor if cursor.set_range(key1(user)) else ()
            found: list[Made] = saving.memberships(rows, user, made, kinds, roles)
        return found

    def members(self, conversation: int, after: int) -> Iterator[tuple[int, int]]:
        """(user, role) of the current members above `after`, ascending; not for dialogs."""
        for key, value in self.range(b"member_index", key2(conversation, after + 1), key1(conversation)):
            yield int.from_bytes(key[8:], "big"), value[0]

    def dialog(self, first: int, second: int) -> int:
        """The dialog of two users, 0 if none."""
        return int.from_bytes(self.get(b"dialogs", key2(first, second)) or b"", "big")

    def window(self, user: int, device: int) -> bytes | None:
        """A device's window as stored."""
        return self.get(b"windows", key2(user, device))

    def tombstone(self, sequence: int) -> int:
        """The deletion of a message, 0 if it stands."""
        return int.from_bytes(self.get(b"tombstones", key1(sequence)) or b"", "big")

    def tombstones(self, sequences: list[int]) -> list[int]:
        """Those of the messages that were deleted."""
        rows = self.get_many(b"tombstones", map(key1, sequences))
        return [int.from_bytes(key, "big") for key, deletion in rows if any(deletion)]


class SavedState:
    """The environment. One object in a process: LMDB must not be opened twice."""

    def __init__(self, env: lmdb.Environment, databases: dict[bytes, Any]) -> None:
        self.env = env
        self.databases = databases

    @classmethod
    def open(cls, path: Path, *, shard: int, read_only: bool = False) -> SavedState:
        """Opens or makes the environment; LogVersion if it is another's."""
        if not read_only:
            private.make_folder(path)
        try:
            if not read_only:
                make_whole(path / "data.mdb", LMDB_ENGINE)
            env = lmdb.open(
                str(path),
                map_size=MAP_BYTES,
                max_dbs=len(DATABASES),
                max_readers=READERS_MAX,
                max_spare_txns=4,
                readonly=read_only,
                create=not read_only,
                mode=private.FILE_MODE,
                lib_version=LMDB_ENGINE,
            )
        except lmdb.ReadonlyError as error:  # EACCES, EROFS: nothing is said against the state
            raise EngineUnable(
                f"the state in {path} can't be opened: permission denied; LMDB must write its lock file there",
                hint="run this as the user of the server, or give this user write permission in the directory",
            ) from error
        except lmdb.Error as error:
            raise StateDamaged(f"the state in {path} can't be opened: {error}") from error
        if words := cut_off(env, path / "data.mdb"):
            env.close()
            raise StateDamaged(words)
        try:
            env.reader_check()
            databases = _handles(env) if read_only else {}
            with env.begin(write=not read_only) as txn:
                if not read_only:
                    databases = {name: env.open_db(name, txn=txn) for name in DATABASES}
                _check_meta(txn, databases[b"meta"], path, shard, read_only)
        except lmdb.Error as error:
            env.close()
            raise StateDamaged(f"the state in {path} can't be read: {error}") from error
        except BaseException:
            env.close()
            raise
        return cls(env, databases)

    @contextmanager
    def read(self) -> Iterator[SavedReader]:
        """A short read transaction; nothing read outlives it but copies."""
        with self.env.begin() as txn:
            yield SavedReader(txn, self.databases)

    def position(self) -> int:
        """The last sequence folded into what is saved."""
        with self.read() as reader:
            return reader.number(b"position")

    def close(self) -> None:
        """Lets go of the environment; no transaction may be open."""
        self.env.close()


def _handles(env: lmdb.Environment) -> dict[bytes, Any]:
    """Those of the databases that there are. A handle opened inside a read transaction ends with it; outside, each has
    a transaction of its own."""
    handles = {name: env.open_db(name, create=False) for name in DATABASES if name != b"keys"}
    with env.begin() as txn:
        version = txn.get(b"format", db=handles[b"meta"])
    if version != key1(FORMAT_WITHOUT_KEYS):
        handles[b"keys"] = env.open_db(b"keys", create=False)
    return handles


def _check_meta(txn: Any, meta: Any, path: Path, shard: int, read_only: bool) -> None:
    """Whose state it is; a new one, and one without keys, gets this version's number. Raises LogVersion."""
    for name, number in {b"format": FORMAT_VERSION, b"shard": shard}.items():
        value = txn.get(name, db=meta)
        is_older = name == b"format" and value == key1(FORMAT_WITHOUT_KEYS)
        if (value is None or is_older) and not read_only:
            txn.put(name, key1(number), db=meta)
        elif value != key1(number) and not is_older:
            found = "nothing" if value is None else int.from_bytes(value, "big")
            raise LogVersion(f"the state in {path} has {name.decode()} {found}, not {number}")
