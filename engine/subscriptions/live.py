"""A subscription that somebody consumes: its machine, what it selects, and the consumers that wait.

Between feed.py and the machine: asks the machine what to read, picks that out of the block behind it, and gives what
the machine hands out. manager.py makes one when the first consumer joins and lets go of it some time after the last.

Invariants: between `next_read` and `hand` nothing else happens, and what is handed out was taken note of in the same
step; a parked event's row and the cursor that passes it are of one commit; one step takes about a millisecond.
Cost: nothing while no consumer waits; else a pass over each new block.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from msgspec import structs

from engine import schema
from engine.conversations import ENGINE_ITSELF, KIND_BY_NAME
from engine.errors import Trimmed
from engine.subscriptions.competing import competing_from
from engine.subscriptions.definition import AWAY_MAX, Definition
from engine.subscriptions.feed import Feed, Found
from engine.subscriptions.group import Group
from engine.subscriptions.known import Conversations, Presence
from engine.subscriptions.machine import PARKED_MAX, Counts, Parked, Read
from engine.subscriptions.ordered import ordered_from
from engine.subscriptions.ports import LimitReached, ParkedEvent, Paused
from engine.subscriptions.store import COUNT, CURSORS, PARKED, Batch, ParkedRow, Store, encode, named, numbered
from engine.subscriptions.turns import Turns
from engine.subscriptions.watch import Watch
from ext import block as blocks
from ext.picks import Picks, share_of
from ext.record import decode
from ext.select import KindTable, Selection

SLICE_S: Final = 0.001
BATCH_BYTES_MAX: Final = 1 << 20
NO_KIND: Final = 15  # of a conversation that nothing is known of
COUNT_BYTES: Final = 2


class Handout(NamedTuple):
    """What a consumer gets: records with their counts as ext/picks packs them, and who is away by sequence, where the
    filter asks for that."""

    packed: bytes
    events: int
    first: int
    last: int
    away: dict[int, tuple[int, ...]]


class _Out:
    """A handout that is being put together. `has_seen_all`: without an answer or more log nothing comes."""

    def __init__(self) -> None:
        self.has_seen_all = False
        self.parts: list[bytes] = []
        self.events = self.bytes = self.first = self.last = 0
        self.away: dict[int, tuple[int, ...]] = {}

    def add(self, picks: Picks) -> None:
        """What is to go out."""
        if not len(picks):
            return
        sequences = picks.sequences()
        self.parts.append(picks.packed())
        self.first, self.last = self.first or sequences[0], sequences[-1]
        self.events += len(sequences)
        self.bytes += len(self.parts[-1])

    def handout(self) -> Handout:
        """The whole."""
        return Handout(b"".join(self.parts), self.events, self.first, self.last, self.away)


class Tally:
    """What was handed out, of all subscriptions together, and how much of it not for the first time."""

    def __init__(self) -> None:
        self.deliveries = self.doubles = 0


class Context(NamedTuple):
    """What all subscriptions share."""

    feed: Feed
    store: Store
    kinds: KindTable
    conversations: Conversations
    away: Presence
    now_us: Callable[[], int]
    """Monotonic."""
    time_us: Callable[[], int]
    """Since 1970."""
    tally: Tally
    turns: Turns
    watch: Watch


class Live:
    """One subscription. On the loop."""

    def __init__(self, context: Context, definition: Definition, *, paused: bool) -> None:
        store, name = context.store, definition.name
        stored = store.value(named(CURSORS, name)) or definition.position.to_bytes(8, "little")
        make = ordered_from if definition.kind == "ordered" else competing_from
        self.machine: Group = make(definition.settings, stored, Counts(store.counts(name)))
        self.definition = definition
        self.name = name
        self.paused = paused
        self.untold: list[ParkedRow] = []
        self.lost_events = 0
        self.used_us = context.now_us()
        self.due_us = 0  # before that a tick changes nothing
        self._taking: dict[int, int] = {}  # consumers that wait, and how often
        self._context = context
        self.selection = selection_of(definition, context.kinds)
        self._asks_away = definition.filter.recipient_away
        self._is_narrow = definition.filter.is_narrow
        self._picks = Picks()
        self._away_known: tuple[Read, dict[int, tuple[int, ...]]] | None = None
        self._stored = stored
        self._parked: dict[bytes, ParkedRow | None] = {}  # to be written
        self._replaying: set[int] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        rows = store.parked(name)
        self.machine.parked = len(rows)
        self.untold += [row for row in rows if not row.told]
        self._replay([row.event for row in rows if row.replaying])

    def now_us(self) -> int:
        """Monotonic."""
        return self._context.now_us()

    def join(self, generation: int, name: str, in_flight_max: int) -> None:
        """A new consumer."""
        self.used_us = self.now_us()
        self.machine.join(generation, name, in_flight_max, self.used_us)
        self.stir()  # one of its name is over, and others may have less

    # ---- taking ----------------------------------------------------------------------------------------------------

    async def take(
        self, generation: int, events_max: int, wait_s: float, bytes_max: int = BATCH_BYTES_MAX
    ) -> Handout | None:
        """What comes next, as soon as there is something; None if nothing came in time. Raises Fenced, Paused,
        Trimmed."""
        until = time.monotonic() + wait_s
        while True:
            if self.paused:
                raise Paused(f"subscription {self.name!r} is paused")
            self.machine.heard(generation, self._context.now_us())
            stirred = asyncio.get_running_loop().create_future()
            self._waiting.add(stirred)
            self._context.watch.get_up(self)
            self._taking[generation] = self._taking.get(generation, 0) + 1
            try:
                out = await self._hand_out(generation, events_max, bytes_max)
                if out.events:
                    return out.handout()
                if out.has_seen_all and not stirred.done():  # else there is more already
                    self._context.watch.lie_down(self)
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await stirred
            except TimeoutError:
                return None
            finally:
                self._waiting.discard(stirred)
                self._taking[generation] -= 1
                if not self._taking[generation]:
                    del self._taking[generation]

    def tick(self, now_us: int) -> None:
        """What time brings."""
        self.used_us = now_us if self.machine.consumers() else self.used_us
        for generation in self._taking:
            if not self.machine.is_over(generation):
                self.machine.heard(generation, now_us)
        if self.machine.tick(now_us):
            self.stir()
        self.due_us = self.machine.next_us()

    def pass_over(self, after: int, upto: int) -> None:
        """As watch.py says."""
        self.machine.pass_over(after, upto)

    def cursor(self) -> int:
        """All wanted events up to it are acked or parked."""
        self._context.watch.catch_up(self)
        return self.machine.cursor()

    def stir(self) -> None:
        """There may be something for those who wait: look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _hand_out(self, generation: int, events_max: int, bytes_max: int) -> _Out:
        """Steps until there is enough, or nothing more, or a step's time is over with something in hand."""
        out = _Out()
        begin = time.monotonic()
        while out.events < events_max and out.bytes < bytes_max:
            await self._context.turns.take()
            if self.paused:
                break
            step = time.monotonic()
            read = self.machine.next_read(generation, self._context.now_us(), events_max - out.events)
            if read is None or read.after >= self._context.feed.last:
                out.has_seen_all = True
                break
            found = self._context.feed.cached(read.after)
            if found is None:
                if out.events or not await self._fetch(read):
                    break
                continue
            found, reached, lacking = self._pick(read, found, bytes_max - out.bytes, step + SLICE_S)
            if lacking:
                self._learn_kinds(read, found)
            elif self._asks_away and len(self._picks) and not self._keep_away(read, out.away):
                if out.events:
                    break
                await self._learn_away(read)
            else:
                for parked in self.machine.hand(generation, read, self._picks, reached, self._context.now_us()):
                    self._park_found(parked, found)
                out.add(self._picks)
                self._context.tally.deliveries += len(self._picks)
                if read.again is not None:
                    self._context.tally.doubles += len(self._picks)
            if out.events and time.monotonic() >= begin + SLICE_S:
                break
        self._picks.clear()
        return out

    async def _fetch(self, read: Read) -> bool:
        """Whether there is something behind it now."""
        try:
            return await self._context.feed.fetch(read.after) is not None
        except Trimmed as error:
            first = await self._context.feed.first()
            if read.again is not None:
                self.lost_events += self.machine.lose_below(first)
                return True
            raise Trimmed(
                f"subscription {self.name!r} stands at {read.after}, and the log begins at {first}",
                hint=f"reset it to a position of at least {first - 1}",
                first_available=first,
            ) from error

    def _pick(self, read: Read, found: Found, bytes_max: int, until: float) -> tuple[Found, int, int]:
        """What the read wants of a block, into `_picks`, or of a later one that is in memory if it has nothing: which,
        how far that reaches, and a conversation whose kind lacks."""
        picks = self._picks
        picks.clear()
        if read.again is not None:
            picks.add(found.block, read.again)
            return found, found.last, 0
        after = read.after
        while True:
            if self._is_narrow:
                wanted, after = self._context.feed.skip(self.selection, after, read.upto)
                if wanted is None:
                    return found, after, 0
                found = wanted
            upto = min(read.upto, found.last)
            limits = {"events_max": read.events_max, "bytes_max": bytes_max}
            reached, lacking = self.selection.pick(found.block, after, upto, picks, shares=read.shares, **limits)
            if lacking and not len(picks) and reached > read.after:
                return found, reached, 0  # so far nothing lacks
            if lacking or len(picks):
                break
            after = upto
            following = self._context.feed.cached(after) if after < read.upto else None
            if following is None or time.monotonic() >= until:
                return found, after, 0
            found = following
        if not lacking and len(picks) < read.events_max and picks.bytes < bytes_max:
            reached = upto  # where damage lies before the block too
        return found, max(reached, after), lacking

    def _learn_kinds(self, read: Read, found: Found) -> None:
        """Of a block's conversations, for about a step; then everything is asked again."""
        until = time.monotonic() + SLICE_S
        for conversation in self.selection.unknown(found.block, read.after, min(read.upto, found.last)):
            self._context.kinds.put(conversation, self._context.conversations.kind_of(conversation) or NO_KIND)
            if time.monotonic() >= until:
                break

    async def _learn_away(self, read: Read) -> None:
        """Who is away of those whom the picked events are for; then everything is asked again."""
        about = zip(self._picks.sequences(), self._picks.conversations(), self._picks.senders(), strict=True)
        members: dict[int, list[int]] = {}
        recipients: dict[int, list[int]] = {}
        for sequence, conversation, sender in about:
            if conversation not in members:
                members[conversation] = self._context.conversations.members_of(conversation, AWAY_MAX + 1)
            recipients[sequence] = [user for user in members[conversation] if user != sender][:AWAY_MAX]
        users = sorted({user for these in recipients.values() for user in these})
        gone = await self._context.away(users) if users else set()
        known = {sequence: tuple(user for user in these if user in gone) for sequence, these in recipients.items()}
        self._away_known = (read, known)

    def _keep_away(self, read: Read, away: dict[int, tuple[int, ...]]) -> bool:
        """Throws out of the picks what is for nobody who is away; False if that isn't known of all of them."""
        if self._away_known is None or self._away_known[0] != read:
            return False
        known, sequences = self._away_known[1], self._picks.sequences()
        if any(sequence not in known for sequence in sequences):
            return False
        self._away_known = None
        self._picks.keep(bytes(bool(known[sequence]) for sequence in sequences))
        away.update((sequence, users) for sequence, users in known.items() if users)
        return True

    # ---- parked ----------------------------------------------------------------------------------------------------

    def _park_found(self, parked: Parked, found: Found) -> None:
        record, _ = blocks.find(found.block, parked.sequence)
        assert record is not None  # it was picked out of this block
        self.park(record, parked.deliveries, f"delivered {parked.deliveries} times without an ack")

    def park(self, record: bytes, deliveries: int, reason: str, by: int = ENGINE_ITSELF) -> None:
        """Puts an event aside for a service, or by the engine's own rule; the machine holds it for acked."""
        event = decode(record)
        row = ParkedRow(
            event=ParkedEvent(
                sequence=event.sequence,
                conversation=event.conversation,
                type=event.type,
                deliveries=deliveries,
                reason=reason[: schema.REASON_CHARACTERS_MAX],
                time=self._context.time_us(),
            ),
            by=by,
        )
        self._replaying.discard(event.sequence)
        self.machine.parked += not self._rows_of([event.sequence])  # after a reset it may be parked already
        self._parked[numbered(PARKED, self.name, event.sequence)] = row
        self.untold.append(row)

    def told(self, row: ParkedRow) -> None:
        """Its event is in the log."""
        key = numbered(PARKED, self.name, row.event.sequence)
        for now in self._rows_of([row.event.sequence]):
            self._parked[key] = structs.replace(now, told=True)

    def replay(self, sequences: Sequence[int]) -> None:
        """Parked events are to be delivered again; those that are not parked, or come as it is, are passed over."""
        rows = self._rows_of(sequences)
        self._replay([row.event for row in rows])
        for row in rows:
            if row.event.sequence in self._replaying:
                key = numbered(PARKED, self.name, row.event.sequence)
                self._parked[key] = structs.replace(row, replaying=True)
        self.stir()

    def _replay(self, events: list[ParkedEvent]) -> None:
        found = [event for event in events if event.sequence not in self._replaying]
        sequences, shares = [event.sequence for event in found], [share_of(event.conversation) for event in found]
        self._replaying.update(self.machine.replay(sequences, shares))

    def drop(self, sequences: Sequence[int]) -> None:
        """Parked events are forgotten."""
        rows = self._rows_of(sequences)
        self.machine.drop([row.event.sequence for row in rows])
        for row in rows:
            self._forget_parked(row.event.sequence)

    def _forget_parked(self, sequence: int) -> None:
        self._parked[numbered(PARKED, self.name, sequence)] = None
        self._replaying.discard(sequence)
        self.machine.parked -= 1

    def parked_among(self, sequences: Sequence[int]) -> list[int]:
        """Those of these that are parked, each once."""
        return [row.event.sequence for row in self._rows_of(sequences)]

    def check_parked(self) -> None:
        """Raises LimitReached where no more can be parked."""
        if self.machine.parked >= PARKED_MAX:
            raise LimitReached(
                f"subscription {self.name!r} has {self.machine.parked:,} parked events, the limit",
                hint="replay or drop some",
            )

    def _rows_of(self, sequences: Sequence[int]) -> list[ParkedRow]:
        """Those of these that are parked, written yet or not."""
        found = []
        for sequence in dict.fromkeys(sequences):
            key = numbered(PARKED, self.name, sequence)
            row = self._parked[key] if key in self._parked else self._context.store.parked_row(key)
            if row is not None:
                found.append(row)
        return found

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def reset(self, position: int) -> None:
        """Goes on behind a place."""
        self.machine.reset(position)
        self.stir()

    def gather(self, batch: Batch) -> int:
        """Puts what has changed since the last time; the cursor."""
        for sequence in self.machine.replayed:
            if sequence in self._replaying:
                self._forget_parked(sequence)
        self.machine.replayed.clear()
        for sequence, deliveries in self.machine.counts.take_moved():
            value = deliveries.to_bytes(COUNT_BYTES, "little") if deliveries else None
            batch.rows[numbered(COUNT, self.name, sequence)] = value
        for key, row in self._parked.items():
            batch.rows[key] = None if row is None else encode(row)
        self._parked.clear()
        self._context.watch.catch_up(self)
        stored = self.machine.stored()
        if stored != self._stored:
            self._stored = batch.rows[named(CURSORS, self.name)] = stored
        return self.machine.cursor()

    def oldest_unacked_s(self) -> float:
        """How long the event that waits longest for its ack has been out, give or take its extensions."""
        deadline_us = self.machine.oldest_us()
        if deadline_us is None:
            return 0.0
        timeout_us = int(self.definition.settings.ack_timeout_s * 1e6)
        return max(0.0, (self._context.now_us() - (deadline_us - timeout_us)) / 1e6)


def selection_of(definition: Definition, kinds: KindTable) -> Selection:
    """The filter as native code takes it."""
    wanted = definition.filter
    mask = sum(1 << KIND_BY_NAME[kind].number for kind in set(wanted.kinds))
    return Selection(
        types=[prefix.encode() for prefix in wanted.types],
        kinds_mask=mask,
        conversations=array("Q", wanted.conversations),
        senders=array("Q", wanted.senders),
        kinds=kinds,
    )
