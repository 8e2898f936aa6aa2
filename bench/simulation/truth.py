"""The naive model's half that remembers: every event of the log, and who was what when, as plain lists.

Fed with the blocks of the log itself, decoded by the format page (engine/LOG_FORMAT.md) and nothing of the engine's;
asked by judge.py (was this answer right?) and verdicts.py (was this delivery right?). Nothing is ever overwritten:
each fact is kept with the sequence from which it holds, so that any question can be asked of any moment.

Invariants that are checked with each event: sequences and conversation sequences are gapless, `previous` chains, time
never runs backwards, a device's counter is stored once, a service's key once a day.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

MEMBER_EVENTS = ("member.added", "member.removed", "member.left", "member.role")
WITH_DATA = (
    *MEMBER_EVENTS,
    "conversation.created",
    "conversation.renamed",
    "conversation.closed",
    "message.edited",
    "message.deleted",
    "message.reaction",
)
HEADER_BYTES, ENTRY_BYTES = 80, 8
DAY_US = 86_400_000_000
_NUMBER = struct.Struct("<I")


class Wrong(Exception):
    """The engine did what the model says it may not; the text says both."""


class Event(NamedTuple):
    """One stored event; `data` is the payload's map where the engine has a schema for it."""

    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int
    time: int
    sender: int
    device: int
    counter: int
    type: str
    payload: bytes
    data: dict[str, Any]
    record: bytes
    key: bytes

    @property
    def is_making(self) -> bool:
        """Whether the engine added it, in front of a dialog's first message."""
        return not self.counter and not self.key


class Stay:
    """One time of somebody in a conversation: visible from `first` to `last` (None: still in), joined at `joined`."""

    __slots__ = ("first", "joined", "last")

    def __init__(self, first: int, joined: int) -> None:
        self.first, self.joined = first, joined
        self.last: int | None = None


class Talk:
    """One conversation; lists of (sequence, what holds from there on)."""

    def __init__(self, kind: str, history: bool, created: int) -> None:
        self.kind, self.history, self.created = kind, history, created
        self.events: list[Event] = []
        self.titles: list[tuple[int, Any]] = []
        self.counts: list[tuple[int, Any]] = []
        self.closed: list[tuple[int, Any]] = []
        self.roles: dict[int, list[tuple[int, Any]]] = {}
        self.stays: dict[int, list[Stay]] = {}

    def role(self, user: int, moment: int) -> str:
        """ "" = out."""
        return str(at(self.roles.get(user, ()), moment, ""))

    def length(self, moment: int) -> int:
        """Conversation sequence of the last event."""
        count = len(self.events)
        while count and self.events[count - 1].sequence > moment:
            count -= 1
        return count

    def sees(self, user: int, event: Event) -> bool:
        """The rule of access, written again from PROTOCOL.md."""
        return any(self._in(stay, user, event) for stay in self.stays.get(user, ()))

    def owed(self, user: int, event: Event, baseline: int) -> bool:
        """Whether a push is owed: what was said before one joined only if one had joined at the hello (`baseline`)."""
        return any(
            self._in(stay, user, event) and stay.joined <= max(event.sequence, baseline)
            for stay in self.stays.get(user, ())
        )

    def _in(self, stay: Stay, user: int, event: Event) -> bool:
        if event.sequence < stay.first or (stay.last is not None and event.sequence > stay.last):
            return False
        hidden = self.kind == "channel" and event.type in MEMBER_EVENTS
        return not hidden or user in (event.sender, event.data["user"])


def at(history: Any, moment: int, default: Any) -> Any:
    """What held at a moment."""
    for since, value in reversed(history):
        if since <= moment:
            return value
    return default


def records_of(block: bytes) -> list[bytes]:
    """The records of a block, by the layout of its table."""
    count = _NUMBER.unpack_from(block, 8)[0]
    area = HEADER_BYTES + count * ENTRY_BYTES
    starts = [_NUMBER.unpack_from(block, place)[0] for place in range(HEADER_BYTES, area, ENTRY_BYTES)]
    ends = [*starts[1:], len(block) - area]
    return [block[area + start : area + end] for start, end in zip(starts, ends, strict=True)]


def event_of(record: bytes) -> Event:
    """A record decoded."""
    fields = msgspec.msgpack.decode(record)
    data = msgspec.msgpack.decode(fields[9]) if fields[8] in WITH_DATA else {}
    return Event._make((*fields[:10], data, record, fields[10] if len(fields) > 10 else b""))


class Truth:
    """The log as it is now."""

    def __init__(self) -> None:
        self.events: list[Event] = []  # all that there ever were
        self.first = 1  # below it the log holds none any more: trimmed
        self.talks: dict[int, Talk] = {}
        self.talks_of: dict[int, set[int]] = {}
        self.dialogs: dict[tuple[int, int], int] = {}
        self.counters: dict[tuple[int, int], dict[int, int]] = {}
        self.keys: dict[bytes, list[Event]] = {}
        self.deletions: dict[int, int] = {}
        self.tops: dict[tuple[int, int], list[tuple[int, Any]]] = {}  # the highest counter of a device

    @property
    def end(self) -> int:
        """The last sequence."""
        return len(self.events)

    def talk(self, conversation: int, moment: int) -> Talk | None:
        """The conversation, if there was one by then."""
        talk = self.talks.get(conversation)
        return talk if talk is not None and talk.created <= moment else None

    def take(self, block: bytes) -> list[Event]:
        """Takes a committed block in."""
        events = [event_of(record) for record in records_of(block)]
        for event in events:
            self._take(event)
        return events

    def _take(self, event: Event) -> None:
        last = self.events[-1] if self.events else None
        if event.sequence != self.end + 1:
            raise Wrong(f"the log goes on with sequence {event.sequence} after {self.end}")
        if last is not None and event.time < last.time:
            raise Wrong(f"time runs backwards at sequence {event.sequence}: {last.time}, then {event.time}")
        if event.type == "conversation.created":
            if event.conversation in self.talks:
                raise Wrong(f"conversation {event.conversation} is created again at {event.sequence}")
            self.talks[event.conversation] = Talk(event.data["kind"], event.data["history"], event.sequence)
        talk = self.talks.get(event.conversation)
        if talk is None:
            raise Wrong(f"sequence {event.sequence} is of conversation {event.conversation}, which was never created")
        newest = talk.events[-1] if talk.events else None
        expected = (len(talk.events) + 1, newest.sequence if newest else 0)
        if (event.conversation_sequence, event.previous) != expected:
            got = (event.conversation_sequence, event.previous)
            raise Wrong(f"sequence {event.sequence}: (conversation sequence, previous) is {got}, expected {expected}")
        if event.counter:
            key = (event.sender, event.device)
            seen = self.counters.setdefault(key, {})
            if event.counter in seen:
                raise Wrong(f"counter {event.counter} of {key} is stored at {seen[event.counter]} and {event.sequence}")
            seen[event.counter] = event.sequence
            tops = self.tops.setdefault(key, [])
            tops.append((event.sequence, max(event.counter, tops[-1][1] if tops else 0)))
        if event.key:
            again = [one.sequence for one in self.keys.get(event.key, ()) if event.time - one.time <= DAY_US]
            if again or event.device:
                raise Wrong(f"the key of {event} is stored at {again} too")
            self.keys.setdefault(event.key, []).append(event)
        self.events.append(event)
        talk.events.append(event)
        self._fold(talk, event)

    def _fold(self, talk: Talk, event: Event) -> None:
        data, sequence = event.data, event.sequence
        match event.type:
            case "conversation.created":
                talk.titles.append((sequence, data["title"]))
                talk.counts.append((sequence, len(data["members"])))
                for user, role in data["members"]:
                    self._enter(talk, event, user, role, sequence)
                if talk.kind == "dialog":
                    first, second = sorted(user for user, _ in data["members"])
                    self.dialogs[first, second] = event.conversation
            case "conversation.renamed":
                talk.titles.append((sequence, data["title"]))
            case "conversation.closed":
                talk.closed.append((sequence, True))
            case "member.added":
                fresh = talk.history and data["user"] not in talk.stays
                self._enter(talk, event, data["user"], data["role"], talk.created if fresh else sequence)
                talk.counts.append((sequence, talk.counts[-1][1] + 1))
            case "member.removed" | "member.left":
                talk.stays[data["user"]][-1].last = sequence
                talk.roles[data["user"]].append((sequence, ""))
                talk.counts.append((sequence, talk.counts[-1][1] - 1))
            case "member.role":
                talk.roles[data["user"]].append((sequence, data["role"]))
            case "message.deleted":
                self.deletions.setdefault(data["target"], sequence)

    def _enter(self, talk: Talk, event: Event, user: int, role: str, first: int) -> None:
        talk.stays.setdefault(user, []).append(Stay(first, event.sequence))
        talk.roles.setdefault(user, []).append((event.sequence, role))
        self.talks_of.setdefault(user, set()).add(event.conversation)

    # What a user may have.

    def sees(self, user: int, event: Event) -> bool:
        """Whether the user may have this event at all."""
        return self.talks[event.conversation].sees(user, event)

    def owed(self, user: int, event: Event, baseline: int) -> bool:
        """Whether a session whose welcome stood at `baseline` must be pushed this event."""
        return self.talks[event.conversation].owed(user, event, baseline)

    def cut(self, end: int, first: int) -> Truth:
        """The same log up to a sequence, as a backup of then has it, which began with `first`."""
        older = Truth()
        older.first = first
        for event in self.events[:end]:
            older._take(event)
        return older
