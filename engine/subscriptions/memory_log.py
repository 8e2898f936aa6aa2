"""The log of the double in memory: events in a list, and who may publish what by the engine's own rules.

Under memory.py. What a publish of a control event does is decided by engine/control.py over dictionaries instead of
tables, so the double refuses what the engine refuses. Not here: devices and their counters, limits of rates, blocks,
files.

Invariants: sequences are gapless from 1; an event never changes; whoever waits for something to change is woken by
every change and looks again. Cost: Python objects, a scan of the log for each reader; for tests.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from engine import errors, schema
from engine.control import Limits, Proposal, Target, decide
from engine.conversations import (
    DIALOG,
    GROUP_MEMBERS_MAX,
    KIND_BY_NAME,
    KIND_NAMES,
    KINDS,
    ROLE_BY_NAME,
    Right,
    Role,
    role_row,
)
from engine.errors import BadArgument, Trimmed
from engine.state.saved import ConversationRow, MembershipRow
from engine.subscriptions.definition import AWAY_MAX, ID_MAX, Filter
from engine.subscriptions.ports import Receipt, StoredEvent
from engine.subscriptions.refusals import check_repeat, conflict_words, refusal

SHARD_BITS: Final = 40
SYSTEM: Final = "system"
TYPE: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
OWN: Final = ("subscription.", "admin.")  # what only the engine itself writes
RESERVED: Final = ("conversation.", "member.", "message.", *OWN)
KEY_CHARACTERS_MAX: Final = 256


class MemoryLog:
    """One shard in memory. `live`: users that have a session now; `trim` forgets old events."""

    def __init__(self, time_us: Callable[[], int], shard: int = 0) -> None:
        self.live: set[int] = set()
        self.first = 1
        self.system = shard << SHARD_BITS | (1 << SHARD_BITS) - 1
        self._shard, self.time_us = shard, time_us
        self._events: list[StoredEvent] = []
        self._heads: dict[int, tuple[int, int]] = {}  # conversation → sequence, conversation sequence of its last
        self._rows: dict[int, ConversationRow] = {}
        self._members: dict[int, dict[int, MembershipRow]] = {}  # conversation → user → row
        self._dialogs: dict[tuple[int, int], int] = {}
        self._tombstones: dict[int, int] = {}
        self._keys: dict[tuple[int, str], Receipt] = {}
        self._number = 0
        self._waiting: list[asyncio.Future[None]] = []

    # Reading.

    @property
    def last(self) -> int:
        """The last sequence."""
        return self.first + len(self._events) - 1

    def after(self, sequence: int) -> Iterator[StoredEvent]:
        """All events behind a sequence. Raises Trimmed."""
        self.check(sequence)
        yield from self._events[sequence + 1 - self.first :]

    def check(self, sequence: int) -> int:
        """A sequence behind which everything is kept. Raises BadArgument, Trimmed."""
        if not 0 <= sequence <= ID_MAX:
            raise BadArgument(f"sequence {sequence}: must be 0 to {ID_MAX} (2^53-1)")
        if sequence + 1 < self.first:
            raise Trimmed(
                f"events from {sequence + 1} on: the first one kept is {self.first}", first_available=self.first
            )
        return sequence

    def at_time(self, time: int) -> int:
        """The sequence before the first event of this time or later."""
        return next((event.sequence - 1 for event in self._events if event.time >= time), self.last)

    def wants(self, filter: Filter, event: StoredEvent) -> bool:
        """Whether a filter wants an event; its last field is asked when the event is handed out."""
        types = filter.types
        row = self._rows.get(event.conversation)
        kind = KIND_NAMES[row.kind] if row is not None else SYSTEM
        return (
            (not types or any(_begins(event.type, prefix) for prefix in types))
            and (not filter.kinds or kind in filter.kinds)
            and (not filter.conversations or event.conversation in filter.conversations)
            and (not filter.senders or event.sender in filter.senders)
        )

    def away(self, event: StoredEvent) -> tuple[int, ...]:
        """Members of its conversation other than its sender who have no live session."""
        others = [user for user, _ in self.members(event.conversation) if user != event.sender]
        return tuple(user for user in others[:AWAY_MAX] if user not in self.live)

    def members(self, conversation: int) -> list[tuple[int, int]]:
        """Users and their roles, ascending by user."""
        rows = self._members.get(conversation, {})
        return sorted((user, row.role) for user, row in rows.items() if row.role)

    def trim(self, first: int) -> None:
        """From now on `first` is the first event kept."""
        if not self.first <= first <= self.last + 1:
            raise BadArgument(f"trim to {first}: must be {self.first} to {self.last + 1}")
        del self._events[: first - self.first]
        self.first = first

    # Waiting.

    def changed(self) -> asyncio.Future[None]:
        """Done at the next change of anything."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def ring(self) -> None:
        """Something has changed: whoever waits looks again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.get_loop().call_soon_threadsafe(_finish, future)

    # Publishing.

    def publish(
        self, user: int, type: str, payload: bytes, conversation: int, person: int, key: str, expected: int | None
    ) -> Receipt:
        """Judges one event and appends it. Raises Refused, BadArgument."""
        if len(key) > KEY_CHARACTERS_MAX:
            raise BadArgument(f"a key of {len(key)} characters: at most {KEY_CHARACTERS_MAX}")
        if key and (known := self._keys.get((user, key))):
            receipt = known._replace(repeat=True)
            check_repeat(receipt, conversation, key)
            return receipt
        if len(payload) > schema.PAYLOAD_BYTES_MAX:
            raise refusal(errors.PAYLOAD_TOO_LARGE, f"a payload of {len(payload)} bytes")
        if type in schema.SCHEMA and not type.startswith(OWN):
            receipt = self._control(Proposal(user, conversation, expected, type, payload))
        elif not TYPE.fullmatch(type) or len(type) > schema.TYPE_BYTES_MAX or type.startswith(RESERVED):
            raise refusal(errors.BAD_TYPE, f"type {type!r}")
        else:
            receipt = self._plain(user, type, payload, conversation, person, expected)
        if key:
            self._keys[user, key] = receipt
        self.ring()
        return receipt

    def note(self, user: int, type: str, fields: dict[str, Any]) -> int:
        """An event of the engine's own, in its system conversation; its sequence."""
        if self.system not in self._heads:
            self._append(self.system, user, schema.CREATED, msgspec.msgpack.encode({"kind": SYSTEM}))
        receipt = self._append(self.system, user, type, msgspec.msgpack.encode(fields))
        self.ring()
        return receipt.sequence

    def _plain(
        self, user: int, type: str, payload: bytes, conversation: int, person: int, expected: int | None
    ) -> Receipt:
        if person:
            conversation, fresh = self._dialog(user, person, expected)
            expected = None if fresh else expected
        row, member = self._rows.get(conversation), self.membership(user, conversation)
        role = Role(member.role) if member is not None else Role.NONE
        if row is None or (role is Role.NONE and role not in KINDS[row.kind].roles):
            raise refusal(errors.UNKNOWN_CONVERSATION, f"conversation {conversation}")
        if Right.PUBLISH not in role_row(row.kind, role).rights:
            raise refusal(errors.FORBIDDEN, f"{type} in conversation {conversation} by user {user}")
        if row.closed:
            raise refusal(errors.CLOSED, f"conversation {conversation}")
        actual = self.conversation_sequence(conversation)
        if expected is not None and expected != actual:
            words = f"{type} in conversation {conversation}: {conflict_words(expected, actual)}"
            raise refusal(errors.CONFLICT, words, actual=actual)
        return self._append(conversation, user, type, payload)

    def _control(self, proposal: Proposal) -> Receipt:
        decision = decide(proposal, self, Limits(GROUP_MEMBERS_MAX))
        if decision.payload is None:
            words = f"{proposal.type} in conversation {proposal.conversation} by user {proposal.user}"
            raise refusal(decision.status, words, actual=decision.actual, extra=decision.extra)
        conversation = proposal.conversation
        if isinstance(decision.payload, schema.Created):
            conversation = self._new_number()
        receipt = self._append(conversation, proposal.user, proposal.type, schema.pack(decision.payload))
        self._apply(conversation, receipt.sequence, decision.payload)
        return receipt

    def _dialog(self, user: int, person: int, expected: int | None) -> tuple[int, bool]:
        """The dialog of two, which begins if there is none, and whether it just did."""
        if not 1 <= person <= ID_MAX or person == user:
            raise refusal(errors.BAD_ID, f"person {person} for user {user}")
        first, second = min(user, person), max(user, person)
        if (first, second) in self._dialogs:
            return self._dialogs[first, second], False
        if expected:
            raise refusal(errors.CONFLICT, f"to person {person}: {conflict_words(expected, 0)}")
        conversation = self._dialogs[first, second] = self._new_number()
        receipt = self._append(conversation, user, schema.CREATED, schema.pack_dialog(first, second))
        row = ConversationRow(DIALOG, False, True, 2, receipt.sequence, receipt.sequence, first, second, "")
        self._rows[conversation] = row
        for one in (first, second):
            self._put(conversation, one, Role.MEMBER, receipt.sequence)
        return conversation, True

    def _new_number(self) -> int:
        self._number += 1
        return self._shard << SHARD_BITS | self._number

    def _append(self, conversation: int, user: int, type: str, payload: bytes) -> Receipt:
        sequence, (previous, number) = self.last + 1, self._heads.get(conversation, (0, 0))
        time = max(self.time_us(), self._events[-1].time if self._events else 1)
        self._heads[conversation] = (sequence, number + 1)
        self._events.append(
            StoredEvent(sequence, conversation, number + 1, previous, time, user, 0, 0, type, bytes(payload))
        )
        return Receipt(sequence, conversation, number + 1, time, False)

    # What happened, as rows.

    def _apply(self, conversation: int, sequence: int, payload: schema.Payload) -> None:
        match payload:
            case schema.Created():
                kind = KIND_BY_NAME[payload.kind].number
                self._rows[conversation] = ConversationRow(
                    kind, False, payload.history, len(payload.members), sequence, sequence, 0, 0, payload.title
                )
                for user, name in payload.members:
                    self._put(conversation, user, ROLE_BY_NAME[name], sequence)
            case schema.Added() | schema.Role():
                self._put(conversation, payload.user, ROLE_BY_NAME[payload.role], sequence)
            case schema.Removed() | schema.Left():
                self._put(conversation, payload.user, Role.NONE, sequence)
            case schema.Renamed():
                self._rows[conversation] = self._rows[conversation]._replace(title=payload.title)
            case schema.Closed():
                self._rows[conversation] = self._rows[conversation]._replace(closed=True)
            case schema.Deleted():
                self._tombstones[payload.target] = sequence

    def _put(self, conversation: int, user: int, role: Role, sequence: int) -> None:
        """Gives a user a role, and the interval of what they see."""
        row = self._rows[conversation]
        members = self._members.setdefault(conversation, {})
        known = members.get(user)
        intervals = known.intervals if known is not None else ()
        if role and not (known and known.role):
            intervals = (*intervals, (row.created if row.history and not intervals else sequence, None))
        elif not role and intervals:
            intervals = (*intervals[:-1], (intervals[-1][0], sequence))
        members[user] = MembershipRow(role.value, row.kind, intervals, sequence)
        count = sum(1 for member in members.values() if member.role)
        self._rows[conversation] = row._replace(member_count=count, changed_at=sequence)

    def head(self, conversation: int) -> tuple[int, int]:
        """Sequence and conversation sequence of its last event."""
        return self._heads.get(conversation, (0, 0))

    # The facts that engine/control.py asks for.

    def conversation(self, conversation: int) -> ConversationRow | None:
        """The conversation."""
        return self._rows.get(conversation)

    def conversation_sequence(self, conversation: int) -> int:
        """The conversation sequence of its last event."""
        return self.head(conversation)[1]

    def membership(self, user: int, conversation: int) -> MembershipRow | None:
        """A membership; None where one never was."""
        return self._members.get(conversation, {}).get(user)

    def target(self, sequence: int) -> Target | None:
        """The event at a sequence."""
        if not self.first <= sequence <= self.last:
            return None
        event = self._events[sequence - self.first]
        return Target(event.conversation, event.sender, event.type)

    def tombstone(self, sequence: int) -> int:
        """Its deletion, 0 if it stands."""
        return self._tombstones.get(sequence, 0)


def _begins(type: str, prefix: str) -> bool:
    """Prefixes end at a dot: "message" is no prefix of "messages"."""
    return type == prefix or type.startswith(prefix if prefix.endswith(".") else f"{prefix}.")


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
