"""A state of one's own, folded from events: a search index, counts, a table of who is where.

    index = sqlite_projection(Path("index"), fold, prepare)
    await index.follow(subscription)

State and position are committed together (projection_stores.py), and events at or below the position are passed over:
what is delivered twice takes effect once. That needs events that ascend, so the input is an ordered subscription with
this as its one consumer, which neither retries nor parks (`follow` looks), or `EventSource.read`. Never a competing
subscription: there a lower sequence may come after a higher one, and would be taken for a repeat.

Another fold is another `version`: a state beside the old one, which goes on being followed and looked at. `build` folds
everything into it, also over several starts; `switch` makes it the current one by one rename, once it is as far.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic

from engine import private
from engine.errors import BadArgument, EngineError
from engine.lmdbfile import sync_path
from engine.projection_stores import (
    MAP_BYTES,
    Fold,
    LmdbState,
    LmdbStore,
    SqliteStore,
    Store,
    T,
    lmdb_position,
    sqlite_position,
)
from engine.subscriptions.clock import Clock, SystemClock
from engine.subscriptions.definition import EVERYTHING, Filter
from engine.subscriptions.ports import Consumer, EventSource, Standing, StoredEvent, Subscription

CURRENT: Final = "current"
BATCH_EVENTS: Final = 1_000
BUILD_BATCH_EVENTS: Final = 10_000
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 15.0
TAKE_WAIT_S: Final = 20.0


class Projection(Generic[T]):
    """One version of a state in a folder. `sqlite_projection` and `lmdb_projection` make one."""

    def __init__(
        self, folder: Path, version: int, fold: Fold[T], store: Store[T], position_in: Callable[[Path], int]
    ) -> None:
        self._folder, self._version, self._fold, self._position_in = folder, version, fold, position_in
        self._store = store
        self._lock = threading.Lock()  # commits, which run in threads
        if not current_version(folder):
            _point(folder, version)

    @property
    def state(self) -> T:
        """What was folded, for looking at it."""
        return self._store.state

    @property
    def position(self) -> int:
        """Sequence of the last event in it."""
        with self._lock:
            return self._store.position()

    @property
    def is_current(self) -> bool:
        """Whether this version is the one to be looked at."""
        return current_version(self._folder) == self._version

    def apply(self, events: Sequence[StoredEvent]) -> int:
        """Folds ascending events, all or none; how many were new. What the fold raises comes out, and nothing is in."""
        with self._lock:
            return self._store.commit(events, self._fold)

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._store.close()

    async def follow(
        self,
        subscription: Subscription,
        *,
        name: str = "projection",
        batch_events: int = BATCH_EVENTS,
        clock: Clock | None = None,
    ) -> None:
        """Folds what a subscription delivers, until it is cancelled or another version has become the current one;
        joins again when it was fenced or cut off.

        Raises what the fold raises, and BadArgument for a subscription that can't keep the order, or has another
        consumer besides.
        """
        clock, pause_s = SystemClock() if clock is None else clock, PAUSE_S_MIN
        while self.is_current:
            try:
                await _check_kind(subscription)
                consumer, last = await subscription.join(name), 0
                try:
                    _check_alone(consumer, await subscription.standing())
                    while self.is_current:
                        if (reached := await self._step(consumer, batch_events, last)) > last:
                            last, pause_s = reached, PAUSE_S_MIN
                finally:
                    with suppress(EngineError, OSError):
                        await consumer.leave()
            except (EngineError, OSError) as error:
                if isinstance(error, EngineError) and not error.retryable:
                    raise
                await clock.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    async def _step(self, consumer: Consumer, batch_events: int, last: int) -> int:
        """One batch behind the last event that this consumer has folded; the last one now."""
        events = await consumer.take(events_max=batch_events, wait_s=TAKE_WAIT_S)
        if not events:
            return last
        if events[0].sequence <= last:  # what comes back from another would be passed over as a repeat, and lost
            raise _shared(consumer.name)
        await asyncio.to_thread(self.apply, events)
        await consumer.ack_up_to(events[-1].sequence)
        return events[-1].sequence

    async def build(
        self, source: EventSource, *, filter: Filter = EVERYTHING, batch_events: int = BUILD_BATCH_EVENTS
    ) -> int:
        """Folds everything from its position to the end of the log, whether or not it is current; how many events.

        `filter`: that of the subscription that it will follow. Raises Trimmed where the log no longer goes back so far.
        """
        count = 0
        batch: list[StoredEvent] = []
        async for event in source.read(after=self.position, filter=filter):
            batch.append(event)
            if len(batch) == batch_events:
                count += await asyncio.to_thread(self.apply, batch)
                batch = []
        return count + await asyncio.to_thread(self.apply, batch)

    def switch(self) -> None:
        """From here on this version is the current one, for everybody who looks. Raises BadArgument, and nothing
        happens, if it is not as far as the one that is: then `build` some more."""
        current = current_version(self._folder)
        reached, wanted = self.position, self._position_in(self._folder / str(current))
        if reached < wanted:
            raise BadArgument(
                f"version {self._version} has reached {reached}, version {current} is at {wanted}",
                hint="build it up to there, then switch",
            )
        _point(self._folder, self._version)

    def remove_old(self) -> int:
        """Removes all versions but this and the current one; how many. None of them may be being built."""
        kept = {self._version, current_version(self._folder)}
        old = [path for path in self._folder.iterdir() if path.name.isdigit() and int(path.name) not in kept]
        for path in old:
            shutil.rmtree(path)
        return len(old)


def sqlite_projection(
    folder: Path,
    fold: Fold[sqlite3.Connection],
    prepare: Callable[[sqlite3.Connection], None],
    *,
    version: int = 1,
) -> Projection[sqlite3.Connection]:
    """A state in SQLite; `prepare` makes its tables. Neither it nor the fold begins or ends transactions."""
    store = SqliteStore(_place(folder, version), prepare)
    return Projection(folder, version, fold, store, sqlite_position)


def lmdb_projection(
    folder: Path, fold: Fold[LmdbState], databases: Sequence[str], *, version: int = 1, map_bytes: int = MAP_BYTES
) -> Projection[LmdbState]:
    """A state in LMDB, in databases of these names."""
    store = LmdbStore(_place(folder, version), databases, map_bytes)
    return Projection(folder, version, fold, store, lmdb_position)


def current_version(folder: Path) -> int:
    """Which version of a state is to be looked at; 0 if there is none yet."""
    try:
        return int((folder / CURRENT).read_text())
    except FileNotFoundError:
        return 0


def _place(folder: Path, version: int) -> Path:
    if version < 1:
        raise BadArgument(f"version {version}: must be 1 or more")
    private.make_folder(folder / str(version))
    sync_path(folder)
    return folder / str(version)


async def _check_kind(subscription: Subscription) -> None:
    definition = (await subscription.standing()).definition
    if definition.kind != "ordered" or definition.settings.deliveries_max:
        raise BadArgument(
            f"subscription {definition.name!r} is {definition.kind} with deliveries_max"
            f" {definition.settings.deliveries_max}: a projection needs an ordered one with 0, which never parks"
        )


def _check_alone(consumer: Consumer, standing: Standing) -> None:
    if set(standing.consumers) - {consumer.name}:
        raise _shared(consumer.name)


def _shared(name: str) -> BadArgument:
    return BadArgument(
        f"{name!r} is not the one consumer of its subscription: what another has had comes behind later events",
        hint="a subscription of its own for each projection; what came to the other is not in this one: build it anew",
    )


def _point(folder: Path, version: int) -> None:
    """Names the current version: the old or the new one, whatever happens."""
    new = folder / f"{CURRENT}.new"
    private.write_file(new, f"{version}\n".encode())
    sync_path(new)
    os.rename(new, folder / CURRENT)
    sync_path(folder)
