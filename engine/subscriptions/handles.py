"""A subscription and its consumers as callers in the process hold them: the in-process half of ports.py.

Thin: finds what runs (manager.py, live.py) by name each time, so that a handle outlives whatever it names. A consumer
of a subscription that is gone is fenced. An answer returns once the store has synced it.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine import schema
from engine.errors import BadArgument
from engine.subscriptions.definition import ID_MAX, Start, check_name
from engine.subscriptions.live import BATCH_BYTES_MAX, Handout, Live
from engine.subscriptions.machine import SECOND_US, backoff_us
from engine.subscriptions.ports import (
    Fenced,
    NotInFlight,
    Packed,
    ParkedEvent,
    Standing,
    StoredEvent,
    UnknownSubscription,
)
from ext.block import find
from ext.picks import unpack

if TYPE_CHECKING:
    from engine.subscriptions.manager import Subscriptions

EXTEND_S_MAX: Final = 43_200
DELAY_S_MAX: Final = 86_400
EVENTS_MAX: Final = 100_000  # of one take
PARKED_LIMIT_MAX: Final = 10_000
NOTHING: Final = Packed(0, 0, 0, b"")
NAMED_MAX: Final = 5  # refused sequences that an error names


class LocalSubscription:
    """A handle. Fits `Subscription` of ports.py."""

    def __init__(self, subscriptions: Subscriptions, name: str) -> None:
        self._subscriptions = subscriptions
        self.name = name

    async def standing(self) -> Standing:
        """As ports.py says."""
        return self._subscriptions.standing(self.name)

    async def join(self, consumer: str = "", *, in_flight_max: int | None = None) -> LocalConsumer:
        """As ports.py says."""
        name = check_name(consumer or f"c-{secrets.token_hex(8)}")
        wanted = self._subscriptions.live(self.name).definition
        limit = wanted.settings.in_flight_max
        if in_flight_max is not None and not 1 <= in_flight_max <= limit:
            raise BadArgument(f"in_flight_max {in_flight_max}: must be 1 to {limit}, the subscription's own")
        generation = await self._subscriptions.next_generation()
        live = self._subscriptions.live(self.name)
        if live.definition != wanted:  # deleted meanwhile, and another took its name: perhaps another team's
            raise UnknownSubscription(f"there is no subscription {self.name!r} as it was")
        live.join(generation, name, in_flight_max or limit)
        self._subscriptions.changed(live)
        return LocalConsumer(self._subscriptions, live, name, generation)

    def consumer(self, name: str, generation: int) -> LocalConsumer:
        """One that has joined, for whoever knows it by its numbers (a door without a connection). Raises Fenced."""
        live = self._subscriptions.live(self.name)
        if live.machine.of(generation).name != name:
            raise Fenced(f"generation {generation} of {self.name!r} is another consumer's")
        return LocalConsumer(self._subscriptions, live, name, generation)

    async def pause(self) -> None:
        """As ports.py says."""
        await self._turn(schema.SUBSCRIPTION_PAUSED, True)

    async def resume(self) -> None:
        """As ports.py says."""
        await self._turn(schema.SUBSCRIPTION_RESUMED, False)

    async def _turn(self, type_name: str, paused: bool) -> None:
        """An event only where it changes something."""
        if self._subscriptions.standing(self.name).paused != paused:
            kind = schema.SubscriptionPaused if paused else schema.SubscriptionResumed
            await self._subscriptions.act(type_name, kind(self.name))

    async def reset(self, start: Start) -> None:
        """As ports.py says."""
        self._subscriptions.standing(self.name)
        position = await self._subscriptions.place_of(start)
        await self._subscriptions.act(schema.SUBSCRIPTION_RESET, schema.SubscriptionReset(self.name, position))

    async def parked(self, *, after: int = 0, limit: int = 100) -> list[ParkedEvent]:
        """As ports.py says."""
        if not 0 <= after <= ID_MAX or not 1 <= limit <= PARKED_LIMIT_MAX:
            raise BadArgument(f"after {after}, limit {limit}: a sequence, and 1 to {PARKED_LIMIT_MAX:,}")
        return await self._subscriptions.parked(self.name, after, limit)

    async def replay(self, sequences: Sequence[int]) -> int:
        """As ports.py says."""
        there = self._parked_among(sequences)
        first = await self._subscriptions.feed.first()
        kept = [sequence for sequence in there if sequence >= first]
        for part in _parts(kept):
            await self._subscriptions.act(schema.SUBSCRIPTION_REPLAYED, schema.SubscriptionReplayed(self.name, part))
        return len(kept)

    async def drop(self, sequences: Sequence[int]) -> int:
        """As ports.py says."""
        there = self._parked_among(sequences)
        for part in _parts(there):
            await self._subscriptions.act(schema.SUBSCRIPTION_DROPPED, schema.SubscriptionDropped(self.name, part))
        return len(there)

    def _parked_among(self, sequences: Sequence[int]) -> list[int]:
        return self._subscriptions.live(self.name).parked_among([_sequence(one) for one in sequences])


class LocalConsumer:
    """A consumer. Fits `Consumer` of ports.py."""

    def __init__(self, subscriptions: Subscriptions, live: Live, name: str, generation: int) -> None:
        self._subscriptions, self._live = subscriptions, live
        self.name = name
        self.generation = generation
        self._by = subscriptions.poster.acting()

    async def take(self, *, events_max: int = 1_000, wait_s: float = 30.0) -> list[StoredEvent]:
        """As ports.py says."""
        handout = await self._take(events_max, wait_s)
        if handout is None:
            return []
        events = unpack(handout.packed, StoredEvent)
        if handout.away:
            events = [event._replace(away=handout.away.get(event.sequence, ())) for event in events]
        return events

    async def take_packed(
        self, *, events_max: int = 1_000, bytes_max: int = BATCH_BYTES_MAX, wait_s: float = 30.0
    ) -> Packed:
        """As ports.py says."""
        if self._live.definition.filter.recipient_away:
            raise BadArgument(
                f"subscription {self._live.name!r} asks who is away, which packed events do not say",
                hint="take them one by one: over HTTP by pull, over a WebSocket as JSON",
            )
        handout = await self._take(events_max, wait_s, bytes_max)
        return NOTHING if handout is None else Packed(handout.events, handout.last, 0, handout.packed)

    async def _take(self, events_max: int, wait_s: float, bytes_max: int = BATCH_BYTES_MAX) -> Handout | None:
        if not 1 <= events_max <= EVENTS_MAX:
            raise BadArgument(f"events_max {events_max}: must be 1 to {EVENTS_MAX:,}")
        if not 0 <= wait_s <= 3_600:
            raise BadArgument(f"wait_s {wait_s:g}: must be 0 to 3,600")
        return await self._live.take(self.generation, events_max, wait_s, min(bytes_max, BATCH_BYTES_MAX))

    async def ack(self, sequences: Sequence[int]) -> None:
        """As ports.py says."""
        refused = self._live.machine.ack(self.generation, _sequences(sequences))
        await self._answered()
        _refuse(refused, self.name)

    async def ack_up_to(self, sequence: int) -> None:
        """As ports.py says."""
        self._live.machine.ack_up_to(self.generation, _sequence(sequence))
        await self._answered()

    async def retry(self, sequence: int, *, delay_s: float | None = None) -> None:
        """As ports.py says."""
        machine, settings = self._live.machine, self._live.definition.settings
        if delay_s is not None and not 0 <= delay_s <= DELAY_S_MAX:
            raise BadArgument(f"delay_s {delay_s:g}: must be 0 to {DELAY_S_MAX:,}")
        deliveries = machine.deliveries_of(self.generation, _sequence(sequence))
        jitter = self._subscriptions.random()
        delay_us = backoff_us(settings, deliveries, jitter) if delay_s is None else int(delay_s * SECOND_US)
        if not machine.retry(self.generation, sequence, self._live.now_us() + delay_us):
            _refuse([sequence], self.name)
        await self._answered()

    async def extend(self, sequences: Sequence[int], extend_s: float) -> None:
        """As ports.py says."""
        if not 0 < extend_s <= EXTEND_S_MAX:
            raise BadArgument(f"extend_s {extend_s:g}: must be above 0, at most {EXTEND_S_MAX:,}")
        now_us = self._live.now_us()
        self._live.machine.heard(self.generation, now_us)
        until_us = now_us + int(extend_s * SECOND_US)
        _refuse(self._live.machine.extend(self.generation, _sequences(sequences), until_us), self.name)

    async def park(self, sequence: int, *, reason: str = "") -> None:
        """As ports.py says."""
        machine = self._live.machine
        if not machine.deliveries_of(self.generation, _sequence(sequence)):
            _refuse([sequence], self.name)
        self._live.check_parked()
        found = await self._subscriptions.feed.fetch(sequence - 1)
        record = None if found is None else find(found.block, sequence)[0]
        deliveries = machine.deliveries_of(self.generation, sequence)  # it may have been answered meanwhile
        if not deliveries or record is None:
            _refuse([sequence], self.name)
        else:
            machine.ack(self.generation, _sequences([sequence]))
            self._live.park(record, deliveries, reason, self._by)
            await self._answered()

    async def leave(self) -> None:
        """As ports.py says."""
        self._live.machine.leave(self.generation)
        self._live.stir()
        await self._subscriptions.synced(self._live)

    async def _answered(self) -> None:
        """Others may go on, and it is on the disk. Raises Fenced, EngineUnable."""
        self._live.machine.heard(self.generation, self._live.now_us())
        self._live.stir()
        await self._subscriptions.synced(self._live)


def _sequence(value: int) -> int:
    if not 1 <= value <= ID_MAX:
        raise BadArgument(f"sequence {value}: must be 1 to {ID_MAX} (2^53-1)")
    return value


def _sequences(values: Sequence[int]) -> array[int]:
    return array("Q", (_sequence(value) for value in values))


def _parts(sequences: list[int]) -> list[list[int]]:
    """As many as one event tells of."""
    most = schema.SEQUENCES_MAX
    return [sequences[at : at + most] for at in range(0, len(sequences), most)]


def _refuse(refused: Sequence[int], name: str) -> None:
    if refused:
        more = f" and {len(refused) - NAMED_MAX} more" if len(refused) > NAMED_MAX else ""
        raise NotInFlight(f"not in flight with {name!r}: {', '.join(map(str, refused[:NAMED_MAX]))}{more}")
