"""The event stream in memory: a double for tests of those who consume and publish, with the contract of ports.py.

    memory = EngineInMemory(clock)
    source, publisher = memory.source(), memory.publisher(user=7)

Small and real: it refuses what the engine refuses (memory_log.py), and delivers by the same rules (memory_group.py);
the tests of the contract run against it, the engine and the remote client alike. It keeps nothing when it goes.

Invariants: one event loop; time passes only by the clock that is given, so with `HandClock` a test says when.
Cost: scans; some thousands of events, not millions.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from engine import errors, schema
from engine.errors import BadArgument
from engine.subscriptions.clock import Clock, SystemClock
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
    check_time,
    check_unit,
    checked,
)
from engine.subscriptions.memory_group import Group, Member, check_count
from engine.subscriptions.memory_log import MemoryLog
from engine.subscriptions.ports import (
    EventSource,
    OnReached,
    Packed,
    ParkedEvent,
    Publisher,
    Receipt,
    Standing,
    StoredEvent,
    UnknownSubscription,
    check_end,
    exists,
)
from engine.subscriptions.refusals import check_plain, check_target, refusal
from ext.record import encode

EVENTS_MAX: Final = 100_000  # of one take
PACKED_HEAD: Final = struct.Struct("<IH")  # before each packed record, as ext/picks has it: size, deliveries
DAY_S: Final = 86_400.0


class EngineInMemory:
    """One log and its subscriptions. `live`: users with a session now; `trim` lets go of the oldest events."""

    def __init__(self, clock: Clock | None = None, *, shard: int = 0) -> None:
        self.clock = SystemClock() if clock is None else clock
        self.log = MemoryLog(self.clock.time_us, shard)
        self.groups: dict[str, Group] = {}
        self.live = self.log.live

    def source(self, *, team: str = "backend", user: int = 1) -> EventSource:
        """The event stream as a team sees it; `user`: the service that acts."""
        return _Source(self, team, user)

    def publisher(self, *, user: int = 1) -> Publisher:
        """Writes as a service."""
        return _Publisher(self.log, user)

    def trim(self, first: int) -> None:
        """From now on `first` is the first event kept."""
        self.log.trim(first)

    def group(self, name: str, team: str) -> Group:
        """A subscription's machine, if it is this team's. Raises UnknownSubscription."""
        group = self.groups.get(name)
        if group is None or group.definition.team != team:
            raise UnknownSubscription(f"subscription {name!r}")
        return group

    def names_of(self, team: str) -> set[str]:
        """Of a team's subscriptions."""
        return {name for name, group in self.groups.items() if group.definition.team == team}

    def position(self, start: Start) -> int:
        """The sequence behind which a start begins. Raises BadArgument, Trimmed."""
        given = (start.first, start.sequence is not None, start.time is not None)
        if sum(given) > 1:
            raise BadArgument(f"{start}: give one of first, sequence, time, or none")
        if start.first:
            return self.log.first - 1
        if start.time is not None:
            check_unit(start.time)
            if (position := self.log.at_time(start.time)) == self.log.last:
                check_time(start.time, self.clock.time_us())
            return position
        if start.sequence is None:
            return self.log.last
        check_end(start.sequence, self.log.last, "start sequence")
        return self.log.check(start.sequence)

    async def wait(self, until_us: int) -> None:
        """Until something has changed, or the clock says so."""
        changed = asyncio.ensure_future(self.log.changed())
        slept = asyncio.ensure_future(self.clock.sleep((until_us - self.clock.monotonic_us()) / 1e6))
        try:
            await asyncio.wait((changed, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            slept.cancel()


class _Source:
    """An EventSource of one team."""

    def __init__(self, memory: EngineInMemory, team: str, user: int) -> None:
        self._memory, self._team, self._user = memory, team, user

    async def create(
        self,
        name: str,
        kind: Kind,
        *,
        start: Start = AT_LAST,
        filter: Filter = EVERYTHING,
        settings: Settings = DEFAULTS,
    ) -> _Subscription:
        """Creates it, or gives the one that is defined alike."""
        memory = self._memory
        position = memory.position(start)
        definition = checked(
            Definition(name=name, kind=kind, team=self._team, position=position, filter=filter, settings=settings)
        )
        known = memory.groups.get(name)
        if known is not None:
            same = known.definition
            if (same.kind, same.team, same.filter, same.settings) != (kind, self._team, filter, settings):
                raise exists(same, self._team)
            return _Subscription(memory, self._team, self._user, name)
        fields = {
            "name": name,
            "kind": kind,
            "team": self._team,
            "filter": msgspec.to_builtins(filter),
            "start": definition.position,
            "settings": msgspec.to_builtins(settings),
        }
        created = self._note("subscription.created", fields)
        memory.groups[name] = Group(definition, created, memory.log)
        return _Subscription(memory, self._team, self._user, name)

    async def subscription(self, name: str) -> _Subscription:
        """One that there is."""
        self._memory.group(name, self._team)
        return _Subscription(self._memory, self._team, self._user, name)

    async def subscriptions(self) -> list[Standing]:
        """This team's, by name."""
        now_us = self._memory.clock.monotonic_us()
        groups = sorted(self._memory.groups.items())
        return [group.standing(now_us) for _, group in groups if group.definition.team == self._team]

    async def delete(self, name: str) -> None:
        """It and all it knows."""
        group = self._memory.group(name, self._team)
        del self._memory.groups[name]
        group.fence_all("the subscription was deleted", self._memory.clock.monotonic_us())
        self._note("subscription.deleted", {"name": name})

    async def read(
        self,
        *,
        after: int,
        filter: Filter = EVERYTHING,
        live: bool = False,
        on_reached: OnReached | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Events behind a sequence."""
        log = self._memory.log
        check_end(log.check(after), log.last)
        while True:
            changed = log.changed()
            for event in log.after(after):
                after = event.sequence
                away = log.away(event) if filter.recipient_away else ()
                if log.wants(filter, event) and (away or not filter.recipient_away):
                    yield event._replace(away=away)
                if on_reached is not None:
                    on_reached(after)
            if not live:
                return
            await changed

    def _note(self, type: str, fields: dict[str, Any]) -> int:
        return self._memory.log.note(self._user, type, fields)


class _Subscription:
    """A handle."""

    def __init__(self, memory: EngineInMemory, team: str, user: int, name: str) -> None:
        self.name = name
        self._memory, self._team, self._user = memory, team, user
        self._joined = 0

    async def standing(self) -> Standing:
        """As it stands now."""
        return self._group().standing(self._now_us())

    async def join(self, consumer: str = "", *, in_flight_max: int | None = None) -> _Consumer:
        """A consumer begins."""
        if in_flight_max is not None:
            check_count("in_flight_max", in_flight_max, 1_000_000)
        group = self._group()
        name = check_name(consumer) if consumer else f"consumer-{group.generation + 1}"
        member = group.join(name, self._user, in_flight_max, self._now_us())
        self._memory.log.ring()
        return _Consumer(self._memory, group, member)

    async def pause(self) -> None:
        """Nothing is handed out until `resume`."""
        self._pause(True)

    async def resume(self) -> None:
        """Goes on."""
        self._pause(False)

    async def reset(self, start: Start) -> None:
        """The cursor goes there."""
        group, position = self._group(), self._memory.position(start)
        group.reset(position, self._now_us())
        self._note("subscription.reset", {"name": self.name, "position": position})

    async def parked(self, *, after: int = 0, limit: int = 100) -> list[ParkedEvent]:
        """Those behind a sequence, ascending."""
        return self._group().parked(after, check_count("limit", limit, 10_000))

    async def replay(self, sequences: Sequence[int]) -> int:
        """Parked events are delivered again."""
        return self._unpark(sequences, replay=True)

    async def drop(self, sequences: Sequence[int]) -> int:
        """Parked events are forgotten."""
        return self._unpark(sequences, replay=False)

    def _pause(self, paused: bool) -> None:
        group = self._group()
        if group.paused is not paused:
            group.paused = paused
            self._note("subscription.paused" if paused else "subscription.resumed", {"name": self.name})

    def _unpark(self, sequences: Sequence[int], *, replay: bool) -> int:
        found = self._group().unpark(sequences, replay=replay)
        if found:
            type = "subscription.replayed" if replay else "subscription.dropped"
            self._note(type, {"name": self.name, "sequences": found})
        return len(found)

    def _group(self) -> Group:
        return self._memory.group(self.name, self._team)

    def _note(self, type: str, fields: dict[str, Any]) -> int:
        return self._memory.log.note(self._user, type, fields)

    def _now_us(self) -> int:
        return self._memory.clock.monotonic_us()


class _Consumer:
    """One generation."""

    def __init__(self, memory: EngineInMemory, group: Group, member: Member) -> None:
        self.name, self.generation = member.name, member.generation
        self._memory, self._group, self._member = memory, group, member

    async def take_packed(self, *, events_max: int = 1_000, bytes_max: int = 262_144, wait_s: float = 30.0) -> Packed:
        """As `take`, as the log holds them."""
        if self._group.definition.filter.recipient_away:
            raise BadArgument("members who are away are not in the record: use take()")
        check_count("bytes_max", bytes_max, 1 << 30)
        events = await self._take(events_max, wait_s, bytes_max)
        parts = []
        for event in events:
            record = encode(*event[:10])
            parts += [PACKED_HEAD.pack(len(record), event.deliveries), record]
        last, deliveries = (events[-1].sequence, events[0].deliveries) if events else (0, 0)
        return Packed(len(events), last, deliveries, b"".join(parts))

    async def take(self, *, events_max: int = 1_000, wait_s: float = 30.0) -> list[StoredEvent]:
        """The next events, in order; [] if none came in time."""
        return await self._take(events_max, wait_s, 0)

    async def _take(self, events_max: int, wait_s: float, bytes_max: int) -> list[StoredEvent]:
        """`bytes_max`: packed, so of at most so many bytes and all delivered equally often; 0 if not."""
        check_count("events_max", events_max, EVENTS_MAX)
        if not 0 <= wait_s <= DAY_S:
            raise BadArgument(f"wait_s {wait_s}: must be 0 to {DAY_S:,.0f}")
        if self._member.taking:
            raise BadArgument(f"consumer {self.name!r}: one task at a time may take")
        self._member.taking = True
        try:
            await asyncio.sleep(0)  # whoever never has to wait lets others run too
            until_us = self._now_us() + round(wait_s * 1e6)
            while True:
                now_us = self._now_us()
                events = self._group.take(self._member, now_us, events_max, bytes_max)
                if events or now_us >= until_us:
                    return events
                await self._memory.wait(min(until_us, self._group.next_us(now_us) or until_us))
        finally:
            self._member.taking = False
            self._member.heard_us = self._now_us()

    async def ack(self, sequences: Sequence[int]) -> None:
        """They are handled."""
        await asyncio.sleep(0)
        try:
            self._group.ack(self._member, sequences, self._now_us())
        finally:
            self._memory.log.ring()

    async def ack_up_to(self, sequence: int) -> None:
        """Everything delivered up to a sequence."""
        await asyncio.sleep(0)
        self._group.ack_up_to(self._member, sequence, self._now_us())
        self._memory.log.ring()

    async def retry(self, sequence: int, *, delay_s: float | None = None) -> None:
        """Deliver it again after a delay."""
        if delay_s is not None and not 0 <= delay_s <= DAY_S:
            raise BadArgument(f"delay_s {delay_s}: must be 0 to {DAY_S:,.0f}")
        await asyncio.sleep(0)
        self._group.retry(self._member, sequence, delay_s, self._now_us())
        self._memory.log.ring()

    async def extend(self, sequences: Sequence[int], extend_s: float) -> None:
        """They need longer."""
        if not 0 < extend_s <= DAY_S / 2:
            raise BadArgument(f"extend_s {extend_s}: must be above 0, to {DAY_S / 2:,.0f}")
        await asyncio.sleep(0)
        self._group.extend(self._member, sequences, extend_s, self._now_us())

    async def park(self, sequence: int, *, reason: str = "") -> None:
        """Put it aside."""
        await asyncio.sleep(0)
        self._group.park(self._member, sequence, reason, self._now_us())
        self._memory.log.ring()

    async def leave(self) -> None:
        """Gives everything back at once."""
        self._group.leave(self._member, self._now_us())
        self._memory.log.ring()

    def _now_us(self) -> int:
        return self._memory.clock.monotonic_us()


class _Publisher:
    """A Publisher of one service."""

    def __init__(self, log: MemoryLog, user: int) -> None:
        self._log, self._user = log, user

    async def publish(
        self,
        type: str,
        payload: bytes,
        *,
        conversation: int = 0,
        person: int = 0,
        key: str = "",
        expected: int | None = None,
    ) -> Receipt:
        """One event."""
        check_target(conversation, person)
        check_plain(type)
        await asyncio.sleep(0)
        return self._log.publish(self._user, type, payload, conversation, person, key, expected)

    async def command(self, type: str, conversation: int, fields: dict[str, Any], *, key: str = "") -> Receipt:
        """A control event."""
        kind: Any = schema.SCHEMA.get(type)
        if type not in schema.CONTROL:
            raise refusal(errors.BAD_TYPE, f"type {type!r} is no command")
        if unknown := sorted(set(fields) - set(kind.__struct_fields__)):
            raise schema.BadPayload(f"{type}: unknown field {unknown[0]!r}")
        try:
            payload = schema.pack(msgspec.convert(fields, kind))
        except msgspec.ValidationError as error:
            raise schema.BadPayload(f"{type}: {error}") from None
        if (conversation == 0) != (type == schema.CREATED):
            raise refusal(errors.BAD_ID, f"conversation {conversation}: 0 for {schema.CREATED}, else one that there is")
        await asyncio.sleep(0)
        return self._log.publish(self._user, type, payload, conversation, 0, key, None)
