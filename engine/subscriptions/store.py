"""What subscriptions keep beside the log: definitions as folded, cursors, counts of deliveries, parked events.

One LMDB environment, `data/subscriptions`, written by one thread in group commits: whatever has changed when the
thread is free goes into one transaction, and `synced` returns once everything that had changed before it was called is
on the disk. Keys and values with their bytes: engine/SUBSCRIPTIONS.md.

Invariants: a commit holds the cursor, the counts and the parked events of one moment, and how far the log was folded
with what that changed; what could not be written is kept and tried again with the next commit; what is still to be
written is read as if it were: who takes a deleted one's name does not get its cursor.
Cost: a sync a commit, shared by all that wait; a read is a look-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec
from msgspec import Struct

from engine import private
from engine.conversations import ENGINE_ITSELF
from engine.errors import EngineUnable, StateDamaged
from engine.lmdbfile import open_beside
from engine.subscriptions.definition import Definition
from engine.subscriptions.ports import ParkedEvent

FORMAT_VERSION: Final = 1
LMDB_ENGINE: Final = 0
MAP_BYTES: Final = 1 << 38
APPLIED_KEY: Final = b"applied"
SETTLED_KEY: Final = b"settled"
GENERATION_KEY: Final = b"generation"
EPOCH_KEY: Final = b"epoch"
DEFINITION, CURSORS, COUNT, PARKED = b"d:", b"c:", b"n:", b"p:"
SEQUENCE_BYTES: Final = 8
MOVE_AWAY: Final = "move data/subscriptions away: definitions are folded from the log again, and begin where they began"

Row = TypeVar("Row")


class DefinitionRow(Struct, frozen=True, kw_only=True):
    """A subscription as the log says. `created`: the sequence of its `subscription.created`."""

    definition: Definition
    created: int
    paused: bool = False


class ParkedRow(Struct, frozen=True, kw_only=True):
    """A parked event. `by`: the service whose consumer put it aside. `told`: its `subscription.parked` is in the log.
    `replaying`: it is to be delivered again, and stays until it is acked."""

    event: ParkedEvent
    by: int = ENGINE_ITSELF
    told: bool = False
    replaying: bool = False


def encode(row: DefinitionRow | ParkedRow) -> bytes:
    """As it is stored."""
    return msgspec.msgpack.encode(row)


def named(kind: bytes, name: str) -> bytes:
    """The key of a subscription's one row of a kind."""
    return kind + name.encode()


def numbered(kind: bytes, name: str, sequence: int) -> bytes:
    """The key of its row about an event; with those of others in order of sequence."""
    return kind + name.encode() + b"\0" + sequence.to_bytes(SEQUENCE_BYTES, "big")


@dataclass
class Batch:
    """What one commit writes: `erased` subscriptions go with all their rows first; a value None takes a row away."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)

    def erase(self, name: str) -> None:
        """All rows of a subscription, those put before too."""
        self.erased.add(name)
        ends = {named(kind, name) for kind in (DEFINITION, CURSORS)}
        starts = tuple(named(kind, name) + b"\0" for kind in (COUNT, PARKED))
        self.rows = {key: value for key, value in self.rows.items() if key not in ends and not key.startswith(starts)}

    def follow(self, later: Batch) -> None:
        """What changed after it."""
        for name in later.erased:
            self.erase(name)
        self.rows.update(later.rows)


class Store:
    """`write` from one thread, reads from another. Use `Store.open`. `coming`: what is still to be written, oldest
    first."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env
        self.coming: Callable[[], tuple[Batch, ...]] = lambda: ()

    @classmethod
    def open(cls, path: Path) -> Store:
        """Opens or makes the environment in a directory. Raises LogVersion, StateDamaged."""
        env = open_beside(
            path,
            lambda: lmdb.open(
                str(path), map_size=MAP_BYTES, max_spare_txns=2, mode=private.FILE_MODE, lib_version=LMDB_ENGINE
            ),
            engine=LMDB_ENGINE,
            version=FORMAT_VERSION,
            what="subscriptions",
            hint=MOVE_AWAY,
        )
        return cls(env)

    def value(self, key: bytes) -> bytes | None:
        """One row."""
        for batch in reversed(self.coming()):
            if key in batch.rows:
                return batch.rows[key]
            if _name_of(key) in batch.erased:
                return None
        with _believed(), self._env.begin() as txn:
            found = txn.get(key)
            return None if found is None else bytes(found)

    def number(self, key: bytes) -> int:
        """One row that is a number, 0 if there is none."""
        return int.from_bytes(self.value(key) or b"", "little")

    def definitions(self) -> list[DefinitionRow]:
        """All, by name."""
        return [_decoded(value, DefinitionRow) for _, value in self._rows(DEFINITION)]

    def counts(self, name: str) -> dict[int, int]:
        """Deliveries by sequence."""
        rows = self._rows(named(COUNT, name) + b"\0")
        return {int.from_bytes(key, "big"): int.from_bytes(value, "little") for key, value in rows}

    def parked_row(self, key: bytes) -> ParkedRow | None:
        """One parked event."""
        value = self.value(key)
        return None if value is None else _decoded(value, ParkedRow)

    def parked(self, name: str, after: int = 0, limit: int = 1 << 62) -> list[ParkedRow]:
        """Those behind a sequence, ascending."""
        prefix = named(PARKED, name) + b"\0"
        start = prefix + (after + 1).to_bytes(SEQUENCE_BYTES, "big")
        found: list[ParkedRow] = []
        for _, value in self._rows(prefix, start):
            if len(found) >= limit:
                break
            found.append(_decoded(value, ParkedRow))
        return found

    def _rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key behind the prefix, value) in order."""
        coming, name = self.coming(), _name_of(prefix)
        if any(name in batch.erased for batch in coming):
            return iter(_rows_since(coming, name, prefix, start))
        found = []
        with _believed(), self._env.begin() as txn, txn.cursor() as cursor:
            more = cursor.set_range(start or prefix)
            while more and (key := bytes(cursor.key())).startswith(prefix):
                found.append((key[len(prefix) :], bytes(cursor.value())))
                more = cursor.next()
        return iter(found)

    def write(self, batch: Batch) -> None:
        """One transaction, synced when it returns. Raises lmdb.Error, and nothing was written."""
        with self._env.begin(write=True) as txn:
            for name in batch.erased:
                _erase(txn, name)
            for key in sorted(batch.rows):
                value = batch.rows[key]
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)

    def close(self) -> None:
        """Once nobody writes or reads."""
        self._env.close()


def _name_of(key: bytes) -> str:
    """Whose row it is; "" for those that are nobody's."""
    return key[2:].partition(b"\0")[0].decode() if key[1:2] == b":" else ""


def _rows_since(coming: tuple[Batch, ...], name: str, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
    """Of a subscription that is being erased: what was put for the next one of its name."""
    rows: dict[bytes, bytes | None] = {}
    for batch in coming:
        if name in batch.erased:
            rows.clear()
        rows.update((key, value) for key, value in batch.rows.items() if key.startswith(prefix) and key >= start)
    return [(key[len(prefix) :], value) for key, value in sorted(rows.items()) if value is not None]


def _erase(txn: Any, name: str) -> None:
    for kind in (DEFINITION, CURSORS):
        txn.delete(named(kind, name))
    with txn.cursor() as cursor:
        for kind in (COUNT, PARKED):
            prefix = named(kind, name) + b"\0"
            more = cursor.set_range(prefix)
            while more and bytes(cursor.key()).startswith(prefix):
                more = cursor.delete()


@contextmanager
def _believed() -> Iterator[None]:
    """While something is read."""
    try:
        yield
    except lmdb.Error as error:
        raise StateDamaged(f"what subscriptions keep can't be read: {error}", hint=MOVE_AWAY) from error


def _decoded(value: bytes, kind: type[Row]) -> Row:
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise StateDamaged(f"a row of the subscriptions can't be read: {error}", hint=MOVE_AWAY) from error


class Commits:
    """The group commits of a store, for one loop. `gather` gives what has changed since it was last asked."""

    def __init__(self, store: Store, gather: Callable[[], Batch]) -> None:
        self._store = store
        self._gather = gather
        self.kept = Batch()  # gathered, and not written: it is being, or the last commit failed
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "gonets-subscriptions")
        self.commits = 0
        self.failures = 0

    async def synced(self) -> None:
        """Everything that has changed until now is on the disk. Raises EngineUnable: it isn't yet, and is kept."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            error: BaseException | None = None
            try:
                self.kept.follow(self._gather())
                if self.kept.rows or self.kept.erased:
                    await loop.run_in_executor(self._thread, self._store.write, self.kept)
                    self.commits += 1
                    self.kept = Batch()
            except lmdb.Error as failed:
                self.failures += 1
                error = EngineUnable(f"what subscriptions keep can't be written: {failed}", hint="look at the disk")
            except BaseException as failed:
                error = failed
            for future in waiting:
                if future.done():
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    async def close(self) -> None:
        """Writes what has changed and ends the thread."""
        try:
            await self.synced()
        finally:
            self._thread.shutdown()
