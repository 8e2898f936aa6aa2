"""One subscription of the double in memory: who holds what, until when, and what comes again.

Under memory.py; a state machine without I/O or clock: `now_us` is given, and a step is whole when its method returns.
An event that is wanted is an entry from the moment at which it is looked at until it is acked or parked: free (and
not before `until_us`), or in flight with a member (until `until_us`). Ordered: a share has one member; an event of it
that is tried again takes what was delivered behind it with it, uncounted, and nothing is handed out of the share until
then; a member whose time for an event is over is fenced.

Invariants: no wanted event behind the cursor lacks an entry, is acked and parked at once, or is in flight twice; a
share changes its member only while nothing of it is in flight; from half of `deliveries_max` on an event goes out
alone, so that a crash is counted for what crashed. Cost: a walk over all entries a step; for tests.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Final

from engine.conversations import ENGINE_ITSELF
from engine.errors import BadArgument, Trimmed
from engine.subscriptions.definition import Definition
from engine.subscriptions.memory_log import MemoryLog
from engine.subscriptions.ports import Fenced, NotInFlight, ParkedEvent, Paused, Standing, StoredEvent

SHARES: Final = 256
RECORD_BYTES: Final = 100  # of a packed record beside type and payload, from above
_WORD: Final = (1 << 64) - 1


class Member:
    """A consumer of a service from join to leave. `heard_us`: when it last called; one that is inside `take` isn't
    silent."""

    __slots__ = ("alone", "generation", "gone", "heard_us", "in_flight_max", "name", "taking", "user")

    def __init__(self, name: str, user: int, generation: int, in_flight_max: int, now_us: int) -> None:
        self.name, self.user, self.generation = name, user, generation
        self.in_flight_max, self.heard_us = in_flight_max, now_us
        self.taking = False
        self.alone = False  # what it holds was delivered often: nothing beside it
        self.gone = ""  # why it is fenced


class _Entry:
    __slots__ = ("deliveries", "event", "holder", "share", "until_us")

    def __init__(self, event: StoredEvent) -> None:
        self.event, self.share = event, share_of(event.conversation)
        self.deliveries, self.until_us = 0, 0
        self.holder: Member | None = None


class Group:
    """A subscription's machine."""

    def __init__(self, definition: Definition, created: int, log: MemoryLog) -> None:
        self.definition, self.created, self.paused = definition, created, False
        self.members: list[Member] = []
        self._log = log
        self._ordered = definition.kind == "ordered"
        self._timeout_us = round(definition.settings.ack_timeout_s * 1e6)
        most = definition.settings.deliveries_max
        self._alone_from = max(1, most // 2) if most else sys.maxsize
        self._looked = definition.position  # everything up to here is an entry, acked, parked or unwanted
        self._entries: dict[int, _Entry] = {}  # ascending
        self._replays: dict[int, _Entry] = {}  # parked once; they don't hold the cursor
        self._acked: set[int] = set()
        self._parked: dict[int, tuple[_Entry, ParkedEvent]] = {}
        self.generation = 0  # the newest
        self._owners: list[Member | None] = [None] * SHARES
        self._targets: list[Member | None] = [None] * SHARES  # who gets it once nothing of it is in flight

    # Joining and leaving.

    def join(self, name: str, user: int, in_flight_max: int | None, now_us: int) -> Member:
        """A new generation; one of the same name is fenced."""
        for member in self.members:
            if member.name == name:
                self._part(member, f"another consumer has joined as {name!r}", now_us)
                break
        self.generation += 1
        most = self.definition.settings.in_flight_max
        member = Member(name, user, self.generation, min(most, in_flight_max or most), now_us)
        self.members.append(member)
        self._share_out()
        return member

    def leave(self, member: Member, now_us: int) -> None:
        """What it holds is free at once."""
        self._part(member, "it has left", now_us)

    def fence_all(self, why: str, now_us: int) -> None:
        """Everybody has to join again."""
        for member in list(self.members):
            self._part(member, why, now_us)

    def _part(self, member: Member, why: str, now_us: int) -> None:
        if member.gone:
            return
        member.gone = why
        self.members.remove(member)
        for entry in self._held(member):
            self._give_back(entry, now_us)
        self._share_out()

    def _share_out(self) -> None:
        """Who shall have each share: what is nobody's goes to the poorest, then the richest gives to the poorest."""
        shares: dict[Member, list[int]] = {member: [] for member in self.members}
        for share, target in enumerate(self._targets):
            if target is not None and target in shares:
                shares[target].append(share)
            else:
                self._targets[share] = None
        if not shares:
            return
        free = [share for share, target in enumerate(self._targets) if target is None]
        while True:
            rich = max(shares, key=lambda member: len(shares[member]))
            poor = min(shares, key=lambda member: len(shares[member]))
            if not free and len(shares[rich]) - len(shares[poor]) <= 1:
                return
            share = free.pop() if free else shares[rich].pop()
            shares[poor].append(share)
            self._targets[share] = poor

    def _settle(self) -> None:
        """Shares change their member, but for those of which something is in flight or waits to be tried again."""
        busy = {entry.share for entry in self._entries.values() if entry.holder is not None or entry.deliveries}
        for share, target in enumerate(self._targets):
            owner = self._owners[share]
            if share not in busy or owner is None or owner.gone:
                self._owners[share] = target

    # Taking.

    def take(self, member: Member, now_us: int, events_max: int, bytes_max: int = 0) -> list[StoredEvent]:
        """The next events for a member, ascending; [] if there is nothing for it now. `bytes_max` above 0: as one pack,
        of at most so many bytes (or one event), all delivered equally often. Raises Fenced, Paused."""
        self._look()
        self._expire(now_us)
        self._check(member, now_us)
        if self.paused:
            raise Paused(f"subscription {self.definition.name!r} is paused")
        self._settle()
        fitting = min(events_max, self._fitting(member))
        taken: list[StoredEvent] = []
        size = 0
        for entry in self._ready(member, now_us):
            alone = entry.deliveries >= self._alone_from
            if len(taken) == fitting or (alone and (taken or self._held(member))):
                break
            size += RECORD_BYTES + len(entry.event.type) + len(entry.event.payload)
            if bytes_max and taken and (size > bytes_max or entry.deliveries + 1 != taken[0].deliveries):
                break
            if (event := self._hand_out(entry, member, now_us)) is not None:
                taken.append(event)
                member.alone = alone
                if alone:
                    break
        return sorted(taken)

    def _ready(self, member: Member, now_us: int) -> Iterator[_Entry]:
        """What a member may get now, in order."""
        held: set[int] = set()
        for entry in list(self._all()):
            if entry.holder is not None:
                continue
            if entry.until_us > now_us:
                held.add(entry.share)
            elif not self._ordered or (entry.share not in held and self._has(member, entry)):
                yield entry

    def _has(self, member: Member, entry: _Entry) -> bool:
        """Its share is the member's; of one that is to move it gets what it had before, so that it can."""
        to_stay = self._targets[entry.share] is member
        return self._owners[entry.share] is member and (to_stay or entry.deliveries > 0)

    def _hand_out(self, entry: _Entry, member: Member, now_us: int) -> StoredEvent | None:
        away: tuple[int, ...] = ()
        if self.definition.filter.recipient_away:
            away = self._log.away(entry.event)
            if not away:
                self._drop_entry(entry)
                return None
        entry.holder, entry.deliveries, entry.until_us = member, entry.deliveries + 1, now_us + self._timeout_us
        return entry.event._replace(deliveries=entry.deliveries, away=away)

    def next_us(self, now_us: int) -> int | None:
        """When time alone changes what `take` gives; None: never."""
        return min((entry.until_us for entry in self._all() if entry.until_us > now_us), default=None)

    def _fitting(self, member: Member) -> int:
        """How many more may be in flight: of a member, and, competing, of all together."""
        held = len(self._held(member))
        mine = 0 if member.alone and held else member.in_flight_max - held
        if self._ordered:
            return max(mine, 0)
        flying = sum(entry.holder is not None for entry in self._all())
        return max(min(mine, self.definition.settings.in_flight_max - flying), 0)

    def _look(self) -> None:
        for event in self._log.after(self._looked):
            if self._log.wants(self.definition.filter, event):
                self._entries[event.sequence] = _Entry(event)
            self._looked = event.sequence

    def _expire(self, now_us: int) -> None:
        """What is in flight for too long is free, and, ordered, its member fenced; so is one that is silent."""
        for entry in [entry for entry in self._all() if entry.holder and entry.until_us <= now_us]:
            if self._ordered and entry.holder is not None:
                self._part(entry.holder, "its time for an event is over", now_us)
            elif entry.holder is not None:
                self._give_back(entry, now_us)
        for member in list(self.members):
            if not member.taking and member.heard_us + self._timeout_us <= now_us and not self._held(member):
                self._part(member, "it was away for longer than ack_timeout_s", now_us)

    # Answers.

    def ack(self, member: Member, sequences: Iterable[int], now_us: int) -> None:
        """Those that are in flight with it are acked; raises for the others afterwards."""
        self._answering(member, now_us)
        lost = []
        for sequence in sequences:
            if (entry := self._find(sequence, member)) is not None:
                self._drop_entry(entry)
            elif sequence not in self._acked:
                lost.append(sequence)
        if lost:
            raise self._not_in_flight(member, lost)

    def ack_up_to(self, member: Member, sequence: int, now_us: int) -> None:
        """All that is in flight with it, up to there."""
        self._answering(member, now_us)
        for entry in self._held(member):
            if entry.event.sequence <= sequence:
                self._drop_entry(entry)

    def retry(self, member: Member, sequence: int, delay_s: float | None, now_us: int) -> None:
        """Free again after a delay; of its share, with what was delivered behind it."""
        entry = self._one(member, sequence, now_us)
        settings = self.definition.settings
        if delay_s is None:
            delay_s = min(settings.retry_max_s, settings.retry_min_s * 2.0 ** (entry.deliveries - 1))
        for later in self._held(member) if self._ordered and sequence in self._entries else ():
            if later.share == entry.share and later.event.sequence > sequence and later.event.sequence in self._entries:
                later.holder, later.until_us, later.deliveries = None, 0, later.deliveries - 1
        self._give_back(entry, now_us, round(delay_s * 1e6))

    def extend(self, member: Member, sequences: Iterable[int], extend_s: float, now_us: int) -> None:
        """In flight until then."""
        self._answering(member, now_us)
        lost = []
        for sequence in sequences:
            if (entry := self._find(sequence, member)) is not None:
                entry.until_us = now_us + round(extend_s * 1e6)
            else:
                lost.append(sequence)
        if lost:
            raise self._not_in_flight(member, lost)

    def park(self, member: Member, sequence: int, reason: str, now_us: int) -> None:
        """Put aside."""
        self._park(self._one(member, sequence, now_us), reason, member.user)

    def _one(self, member: Member, sequence: int, now_us: int) -> _Entry:
        self._answering(member, now_us)
        entry = self._find(sequence, member)
        if entry is None:
            raise self._not_in_flight(member, [sequence])
        return entry

    def _answering(self, member: Member, now_us: int) -> None:
        self._expire(now_us)
        self._check(member, now_us)

    def _check(self, member: Member, now_us: int) -> None:
        if member.gone:
            raise Fenced(f"consumer {member.name!r}, generation {member.generation}: {member.gone}")
        member.heard_us = now_us

    def _find(self, sequence: int, member: Member) -> _Entry | None:
        entry = self._entries.get(sequence) or self._replays.get(sequence)
        return entry if entry is not None and entry.holder is member else None

    def _not_in_flight(self, member: Member, sequences: list[int]) -> NotInFlight:
        named = ", ".join(map(str, sequences[:10])) + (", …" if len(sequences) > 10 else "")
        return NotInFlight(f"not in flight with consumer {member.name!r}: {named}")

    def _give_back(self, entry: _Entry, now_us: int, delay_us: int = 0) -> None:
        """Free after a delay, or parked if it was delivered often enough."""
        most = self.definition.settings.deliveries_max
        entry.holder, entry.until_us = None, now_us + delay_us if delay_us else 0
        if most and entry.deliveries >= most:
            self._park(entry, f"delivered {entry.deliveries} times without an ack")

    def _drop_entry(self, entry: _Entry) -> None:
        sequence = entry.event.sequence
        self._acked.add(sequence)
        self._entries.pop(sequence, None)
        self._replays.pop(sequence, None)

    # Parked events, and the whole.

    def _park(self, entry: _Entry, reason: str, by: int = ENGINE_ITSELF) -> None:
        sequence, event = entry.event.sequence, entry.event
        self._entries.pop(sequence, None)
        self._replays.pop(sequence, None)
        fields = {"name": self.definition.name, "sequence": sequence, "deliveries": entry.deliveries, "reason": reason}
        if event.type != "subscription.parked":  # else who parks all it gets would feed itself for ever
            self._log.note(by, "subscription.parked", fields)
        parked = ParkedEvent(
            sequence=sequence,
            conversation=event.conversation,
            type=event.type,
            deliveries=entry.deliveries,
            reason=reason,
            time=self._log.time_us(),
        )
        entry.holder = None
        self._parked[sequence] = entry, parked

    def parked(self, after: int, limit: int) -> list[ParkedEvent]:
        """Those behind a sequence, ascending."""
        found = sorted(sequence for sequence in self._parked if sequence > after)
        return [self._parked[sequence][1] for sequence in found[:limit]]

    def unpark(self, sequences: Iterable[int], *, replay: bool) -> list[int]:
        """Those of them that were parked are no more; with `replay` they are delivered again, counted anew."""
        found = [sequence for sequence in sequences if sequence in self._parked]
        for sequence in found:
            entry, _ = self._parked.pop(sequence)
            if replay:
                entry.deliveries, entry.until_us = 0, 0
                self._replays[sequence] = entry
            else:
                self._acked.add(sequence)
        return found

    def reset(self, position: int, now_us: int) -> None:
        """From there on everything is delivered again, or what lies before it never; everybody is fenced."""
        self.fence_all("the subscription was reset", now_us)
        self._entries.clear()
        self._acked.clear()
        self._looked = position

    def standing(self, now_us: int) -> Standing:
        """As it stands now."""
        with suppress(Trimmed):  # `take` says it
            self._look()
        self._expire(now_us)
        delivered = [entry for entry in self._entries.values() if entry.deliveries]
        cursor = next(iter(self._entries), self._looked + 1) - 1
        oldest_us = self._log.time_us() - delivered[0].event.time if delivered else 0
        return Standing(
            definition=self.definition,
            paused=self.paused,
            created=self.created,
            cursor=cursor,
            lag_events=self._log.last - cursor,
            oldest_unacked_s=oldest_us / 1e6,
            in_flight=sum(entry.holder is not None for entry in self._all()),
            parked=len(self._parked),
            consumers=tuple(member.name for member in self.members),
        )

    def _all(self) -> Iterable[_Entry]:
        return chain(self._replays.values(), self._entries.values())

    def _held(self, member: Member) -> list[_Entry]:
        return [entry for entry in self._all() if entry.holder is member]


def share_of(conversation: int) -> int:
    """The share of a conversation: the low byte of splitmix64."""
    word = (conversation + 0x9E3779B97F4A7C15) & _WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return (word ^ word >> 31) & (SHARES - 1)


def check_count(what: str, value: int, most: int) -> int:
    """A number of things from 1 to `most`. Raises BadArgument."""
    if not 1 <= value <= most:
        raise BadArgument(f"{what} {value}: must be 1 to {most}")
    return value
