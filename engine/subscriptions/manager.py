"""`Subscriptions`: all subscriptions of a shard in one process, the EventSource of those who are in it.

Follows the log as a tail does (a wake-up means "look again"): each new block is folded once into the state, then into
the registry, and whoever waits for events is stirred. Administrative acts are events: they are posted, and take effect
when they are read back from the log. What runs is in live.py; what it keeps, in store.py.

Invariants: engine/SUBSCRIPTIONS.md, M1 to M4. Cost: a block is read once; a subscription without consumers costs
nothing; each tick looks at those that have something due.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import schema
from engine.conversations import system_conversation
from engine.errors import BadArgument, EngineError, EngineUnable, LogDamaged
from engine.log.reader import Reader
from engine.subscriptions.clock import SystemClock
from engine.subscriptions.definition import (
    AT_LAST,
    DEFAULTS,
    EVERYTHING,
    Definition,
    Filter,
    Kind,
    Settings,
    Start,
    check_name,
    checked,
)
from engine.subscriptions.feed import Feed, Found
from engine.subscriptions.floor import Floor
from engine.subscriptions.handles import LocalSubscription
from engine.subscriptions.known import Conversations, Poster, Presence
from engine.subscriptions.live import Context, Live, Tally
from engine.subscriptions.places import after_restore, cursor_of, position_of, system_events
from engine.subscriptions.ports import (
    LimitReached,
    OnReached,
    ParkedEvent,
    Standing,
    StoredEvent,
    UnknownSubscription,
    exists,
)
from engine.subscriptions.reading import read_on
from engine.subscriptions.registry import Change, Registry
from engine.subscriptions.store import APPLIED_KEY, GENERATION_KEY, SETTLED_KEY, Batch, Commits, DefinitionRow, Store
from engine.subscriptions.turns import Turns
from engine.subscriptions.watch import Watch
from ext.picks import Picks
from ext.record import decode
from ext.select import KindTable, Selection

SUBSCRIPTIONS_MAX: Final = 10_000
TICK_S: Final = 0.1
SLOW_TICKS: Final = 50  # in so many, each place that moved without an ack is written, and the registry of readers is
SLICE_S: Final = 0.001
IDLE_US: Final = 60_000_000  # without consumers, after which a subscription is let go of
FOLDER: Final = "subscriptions"
CLOCK: Final = SystemClock()

_log = logging.getLogger(__name__)


class Subscriptions:
    """See the module. Use `Subscriptions.open`; one loop."""

    def __init__(
        self,
        data: Path,
        store: Store,
        feed: Feed,
        conversations: Conversations,
        poster: Poster,
        away: Presence,
        shard: int,
    ) -> None:
        self.feed = feed
        self.kinds = KindTable()
        self.lives: dict[str, Live] = {}
        self.random: Callable[[], float] = random.random
        self._store, self.poster = store, poster
        self._watch = Watch(feed.last)
        self._conversations = conversations
        shared = feed, store, self.kinds, conversations, away
        self._context = Context(*shared, CLOCK.monotonic_us, CLOCK.time_us, Tally(), Turns(SLICE_S), self._watch)
        self._registry = Registry(store.definitions(), store.number(APPLIED_KEY), store.number(SETTLED_KEY))
        self._batch = Batch()
        self._dirty: set[Live] = set()
        self._generation = store.number(GENERATION_KEY)
        self.commits = Commits(store, self._gather)
        store.coming = lambda: (self.commits.kept, self._batch)
        self._floors = {name: cursor_of(store, row.definition) for name, row in self._registry.rows.items()}
        self._parked = dict.fromkeys(self._registry.rows, 0)
        self._system = system_conversation(shard)
        self._system_events = Selection(types=[b"subscription."], conversations=[self._system])
        self._picks = Picks()
        self._woken = asyncio.Event()
        self._moved: set[asyncio.Future[None]] = set()  # of those who wait for the log to go on
        self._floor = Floor(data)
        self._telling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self.failure: EngineError | None = None

    @classmethod
    async def open(
        cls,
        data: Path,
        *,
        new_reader: Callable[[], Reader],
        conversations: Conversations,
        poster: Poster,
        away: Presence,
        shard: int,
        epochs: list[tuple[int, int]],
    ) -> Subscriptions:
        """Opens what is kept in a data directory, folds what came since, and begins to follow. `epochs` as the log has
        them. Raises StateDamaged, LogVersion, LogDamaged."""
        store = Store.open(data / FOLDER)
        feed = Feed(new_reader, conversations.sequence)
        try:
            if cut := after_restore(store, epochs):
                _log.warning("the log was restored: %d rows of subscriptions were cut back to it", cut)
            made = cls(data, store, feed, conversations, poster, away, shard)
            await made._begin()
        except BaseException:
            feed.close()
            store.close()
            raise
        return made

    async def _begin(self) -> None:
        head, applied = self._conversations.head_of(self._system), self._registry.applied
        for record in await self.feed.run(lambda reader: system_events(reader, self._system, head, applied)):
            self._fold_one(record)
        self._registry.applied = max(applied, self.feed.last)
        await self._catch_up()
        for name in self._registry.rows:
            rows = self._store.parked(name)
            self._parked[name] = len(rows)
            if any(not row.told for row in rows):
                self._load(name)
        await self.commits.synced()
        await self._floor.note(self._floors)
        for work in (self._follow(), self._tick()):
            self._start(work)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- following the log -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be more in the log: look again. Wake-ups merge."""
        self._woken.set()

    async def _follow(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._catch_up()
                self.failure = None
            except LogDamaged as error:
                if self.failure is None:
                    _log.error("subscriptions stop at %d: %s", self.feed.last, error)
                self.failure = error
            except Exception as error:  # a file can't be opened, memory lacks: what passes must not end it for good
                if self.failure is None:
                    _log.exception("subscriptions stop at %d", self.feed.last)
                self.failure = EngineUnable(f"subscriptions stop at {self.feed.last}: {type(error).__name__}")
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._woken.wait()

    async def _catch_up(self) -> None:
        """Folds what there is."""
        while (found := await self.feed.fetch(self.feed.last)) is not None:
            until = time.monotonic() + SLICE_S
            for _ in self._conversations.fold(found.block):
                if time.monotonic() >= until:
                    await asyncio.sleep(0)
                    until = time.monotonic() + SLICE_S
            self._fold_system(found)
            self.feed.last = found.last
            self._watch.came(found)
            for future in self._moved:
                if not future.done():
                    future.set_result(None)

    def _fold_system(self, found: Found) -> None:
        self._picks.clear()
        self._system_events.pick(found.block, self._registry.applied, found.last, self._picks)
        for data in self._picks.records():
            self._fold_one(decode(data))
        self._picks.clear()
        self._registry.applied = max(self._registry.applied, found.last)

    def _fold_one(self, record: Any) -> None:
        if (change := self._registry.fold(record, self._batch)) is not None:
            self._apply(change)

    def _apply(self, change: Change) -> None:
        name, row = change.name, change.row
        if row is None:
            if (gone := self.lives.pop(name, None)) is not None:
                self._watch.forget(gone)
                gone.machine.clear()
                gone.stir()
            self._floors.pop(name, None)
            self._parked.pop(name, None)
            return
        if change.is_new:
            self._floors[name], self._parked[name] = row.definition.position, 0
            return
        live = self.lives.get(name)
        if change.position is not None or change.replay or change.drop:
            live = self._load(name)
        if live is None:
            return
        if live.paused != row.paused:
            live.paused = row.paused
            live.stir()
        if change.position is not None:
            live.reset(change.position)
        live.replay(change.replay)
        live.drop(change.drop)
        self.changed(live)

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def _load(self, name: str) -> Live:
        live = self.lives.get(name)
        if live is None:
            row = self._row(name)
            live = self.lives[name] = Live(self._context, row.definition, paused=row.paused)
            self._watch.follow(live)
        return live

    def changed(self, live: Live) -> None:
        """Something of it is to be written with the next commit."""
        self._dirty.add(live)
        live.due_us = 0

    async def synced(self, live: Live) -> None:
        """Writes it."""
        self.changed(live)
        await self.commits.synced()

    def _gather(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        dirty, self._dirty = self._dirty, set()
        for live in dirty:
            if self.lives.get(live.name) is live:
                self._floors[live.name] = live.gather(batch)
                self._parked[live.name] = live.machine.parked
        batch.rows[GENERATION_KEY] = self._generation.to_bytes(8, "little")
        batch.rows[APPLIED_KEY] = self._registry.applied.to_bytes(8, "little")
        return batch

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            try:
                now_us = CLOCK.monotonic_us()
                lives = list(self.lives.values())
                for live in lives:
                    if live.due_us <= now_us:
                        live.tick(now_us)
                    if live.untold and live.name not in self._telling:
                        self._telling.add(live.name)
                        self._start(self._tell(live))
                # Places move without an ack too; each in its turn, so that no tick has them all.
                self._dirty.update(live for live in lives[ticks % SLOW_TICKS :: SLOW_TICKS] if live.machine.consumers())
                if self._dirty:
                    await self.commits.synced()
                if ticks % SLOW_TICKS == 0:
                    await self._slow_tick(now_us)
                self._say("")
            except EngineError as error:
                self._say(str(error))
            except OSError as error:
                self._say(f"the registry of readers can't be written: {error}")
            except Exception as error:
                if self._trouble != (trouble := f"a tick failed: {type(error).__name__}"):
                    _log.exception("a tick failed, time goes on")
                    self._trouble = trouble

    def _say(self, trouble: str) -> None:
        """To the operator, once a change."""
        if trouble and trouble != self._trouble:
            _log.error("subscriptions: %s", trouble)
        self._trouble = trouble

    async def _slow_tick(self, now_us: int) -> None:
        await self.feed.first()
        floors = dict(self._floors)  # of commits that came before the one that is waited for here
        await self.commits.synced()
        await self._floor.note(self._floors, floors)
        for live in list(self.lives.values()):
            is_idle = not live.machine.consumers() and live not in self._dirty and not live.untold
            if is_idle and live.machine.is_at_rest() and now_us - live.used_us > IDLE_US:
                del self.lives[live.name]
                self._watch.forget(live)

    async def _tell(self, live: Live) -> None:
        """Makes events of what was parked; what fails comes again with a later tick."""
        try:
            while live.untold and self.lives.get(live.name) is live:
                row = live.untold[0]
                event = row.event
                payload = schema.SubscriptionParked(live.name, event.sequence, event.deliveries, event.reason)
                if event.type != schema.SUBSCRIPTION_PARKED:  # else who parks all it gets would feed itself for ever
                    await self.poster.post(schema.SUBSCRIPTION_PARKED, msgspec.to_builtins(payload), row.by)
                live.untold.pop(0)
                live.told(row)
                await self.synced(live)
        except EngineError as error:
            _log.warning("subscription %s: an event is parked, and that can't be told yet: %s", live.name, error)
        finally:
            self._telling.discard(live.name)

    # ---- EventSource -----------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        kind: Kind,
        *,
        start: Start = AT_LAST,
        filter: Filter = EVERYTHING,
        settings: Settings = DEFAULTS,
        team: str = "",
    ) -> LocalSubscription:
        """As ports.py says."""
        wanted = checked(Definition(name=name, kind=kind, team=team, position=0, filter=filter, settings=settings))
        if name not in self._registry.rows:
            if len(self._registry.rows) >= SUBSCRIPTIONS_MAX:
                raise LimitReached(f"there are {len(self._registry.rows):,} subscriptions, the limit")
            position = await self.place_of(start)
            payload = schema.SubscriptionCreated(name, kind, team, filter, position, settings)
            size = len(schema.pack(payload))
            if size > schema.PAYLOAD_BYTES_MAX:
                raise BadArgument(
                    f"a definition of {size:,} bytes: at most {schema.PAYLOAD_BYTES_MAX:,}",
                    hint="name fewer conversations or senders in the filter",
                )
            await self.act(schema.SUBSCRIPTION_CREATED, payload)
            if self._floor.is_above(position):
                await self._floor.note(self._floors)
        found = self._row(name).definition
        if msgspec.structs.replace(found, position=0) != wanted:
            raise exists(found, team)
        return LocalSubscription(self, name)

    async def subscription(self, name: str) -> LocalSubscription:
        """As ports.py says."""
        self._row(check_name(name))
        return LocalSubscription(self, name)

    def names_of(self, team: str) -> Set[str]:
        """Of a team's subscriptions."""
        return self._registry.teams.get(team, frozenset())

    async def subscriptions(self, team: str | None = None) -> list[Standing]:
        """As ports.py says; of all teams or of one."""
        found, until = list[Standing](), time.monotonic() + SLICE_S
        for name in sorted(self._registry.rows if team is None else self.names_of(team)):
            if name in self._registry.rows:  # it may have been deleted since
                found.append(self.standing(name))
            if time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE_S
        return found

    async def delete(self, name: str) -> None:
        """As ports.py says."""
        self._row(name)
        await self.act(schema.SUBSCRIPTION_DELETED, schema.SubscriptionDeleted(name))

    def read(
        self,
        *,
        after: int,
        filter: Filter = EVERYTHING,
        live: bool = False,
        on_reached: OnReached | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """As ports.py says."""
        return read_on(self._context, after, filter, live, self._moved, on_reached or (lambda position: None))

    # ---- for handles -----------------------------------------------------------------------------------------------

    def _row(self, name: str) -> DefinitionRow:
        row = self._registry.rows.get(name)
        if row is None:
            raise UnknownSubscription(f"there is no subscription {name!r}")
        return row

    def live(self, name: str) -> Live:
        """What runs of a subscription. Raises UnknownSubscription."""
        self._row(name)
        return self._load(name)

    async def next_generation(self) -> int:
        """For a consumer that joins: higher than any before, on the disk before it is used."""
        self._generation += 1
        generation = self._generation
        await self.commits.synced()
        return generation

    async def place_of(self, start: Start) -> int:
        """The sequence behind which a start begins. Raises BadArgument, Trimmed."""
        return await self.feed.run(lambda reader: position_of(reader, start, CLOCK.time_us()))

    def standing(self, name: str) -> Standing:
        """As ports.py says. Raises UnknownSubscription."""
        row, live = self._row(name), self.lives.get(name)
        cursor = self._floors[name] if live is None else live.cursor()
        return Standing(
            definition=row.definition,
            paused=row.paused,
            created=row.created,
            cursor=cursor,
            lag_events=max(0, self.feed.last - cursor),
            oldest_unacked_s=0.0 if live is None else live.oldest_unacked_s(),
            in_flight=0 if live is None else live.machine.in_flight(),
            parked=self._parked[name] if live is None else live.machine.parked,
            consumers=() if live is None else tuple(live.machine.consumers()),
        )

    async def parked(self, name: str, after: int, limit: int) -> list[ParkedEvent]:
        """Those behind a sequence, ascending."""
        self._row(name)
        await self.commits.synced()  # what was parked just now is read from the disk too
        return [row.event for row in self._store.parked(name, after, limit)]

    def stats(self) -> dict[str, float]:
        """Counters for the metrics; what is said of each subscription is in its standing."""
        return {
            "subscriptions": len(self._registry.rows),
            "subscriptions_live": len(self.lives),
            "subscriptions_asleep": self._watch.asleep,
            "subscriptions_deliveries": self._context.tally.deliveries,
            "subscriptions_doubles": self._context.tally.doubles,
            "subscriptions_lost_events": sum(live.lost_events for live in self.lives.values()),
            "subscriptions_commits": self.commits.commits,
            "subscriptions_commit_failures": self.commits.failures,
            "feed_sequence": self.feed.last,
            "feed_read_bytes": self.feed.read_bytes,
            "feed_read_blocks": self.feed.read_blocks,
            "feed_cached_bytes": self.feed.cached_bytes,
            "feed_damaged_events": self.feed.damaged_events,
        }

    async def close(self) -> None:
        """Writes what has changed and lets go; consumers are over."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._dirty.update(self.lives.values())
        try:
            await self.commits.close()
        finally:
            for live in self.lives.values():
                live.machine.clear()
                live.stir()
            await asyncio.to_thread(self.feed.close)
            self._store.close()

    async def act(self, type_name: str, payload: schema.SystemPayload) -> None:
        """Posts an administrative event, and returns when it has taken effect, on the disk too."""
        sequence = await self.poster.post(type_name, msgspec.to_builtins(payload), self.poster.acting())
        self.wake()
        while self.feed.last < sequence:
            if self.failure is not None:
                raise EngineUnable(f"{type_name} is in the log, and can't be read back: {self.failure}")
            moved = asyncio.get_running_loop().create_future()
            self._moved.add(moved)
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await moved
            self._moved.discard(moved)
        await self.commits.synced()
