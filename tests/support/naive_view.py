"""The state, folded from a NaiveLog by rules written down once more: who is a member, since when, until when."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.state.rows import Control, Conversation, Membership
from ext.record import Record
from tests.support.naive_log import Event, NaiveLog


@dataclass
class NaiveView:
    """Has the methods of engine.state.view.View that routing and catch-up use."""

    log: NaiveLog
    sequence: int = 0
    kinds: dict[int, tuple[str, bool, int]] = field(default_factory=dict)  # kind, history, created
    members: dict[tuple[int, int], list[list[int | None]]] = field(default_factory=dict)  # (user, conversation)
    deleted: set[tuple[int, int]] = field(default_factory=set)

    def apply_steps(self, block: bytes, controls: list[Control]) -> Iterator[None]:
        """The same in one step."""
        controls += self.apply(block)
        yield

    def apply(self, block: bytes) -> list[Control]:
        """Folds a block and names its control events."""
        count, first = struct.unpack_from("<I", block, 8)[0], struct.unpack_from("<Q", block, 16)[0]
        controls = []
        for index in range(count):
            event = self.log.events[first - 1 + index]
            if event.sequence > self.sequence:
                self.fold(event)
                self.sequence = event.sequence
            if isinstance(event.payload, dict) and event.type not in ("message.edited", "message.reaction"):
                record = Record(
                    event.sequence,
                    event.conversation,
                    0,
                    0,
                    0,
                    event.sender,
                    1,
                    event.sequence,
                    event.type,
                    event.record[80 + len(event.type) :],
                )
                controls.append(Control(index, record, event.payload))
        return controls

    def fold(self, event: Event) -> None:
        """One event."""
        payload, sequence = event.payload, event.sequence
        if not isinstance(payload, dict):
            return
        if event.type == "conversation.created":
            self.kinds[event.conversation] = (payload["kind"], payload["history"], sequence)
            for user, _role in payload["members"]:
                self.members[user, event.conversation] = [[sequence, None]]
        elif event.type == "member.added":
            intervals = self.members.setdefault((payload["user"], event.conversation), [])
            _kind, history, created = self.kinds[event.conversation]
            intervals.append([created if history and not intervals else sequence, None])
        elif event.type in ("member.removed", "member.left"):
            self.members[payload["user"], event.conversation][-1][1] = sequence
        elif event.type == "message.deleted":
            self.deleted.add((event.conversation, payload["target"]))

    def is_member(self, user: int, conversation: int) -> bool:
        """At the view's sequence."""
        intervals = self.members.get((user, conversation), [])
        return bool(intervals) and intervals[-1][1] is None

    def conversation(self, conversation: int) -> Conversation | None:
        """As View."""
        if conversation not in self.kinds:
            return None
        kind, history, created = self.kinds[conversation]
        return Conversation(conversation, kind, "", history, False, created, 0, *self.head(conversation), None)

    def head(self, conversation: int) -> tuple[int, int]:
        """As View."""
        found, count = 0, 0
        for event in self.log.events[: self.sequence]:
            if event.conversation == conversation:
                found, count = event.sequence, count + 1
        return found, count

    def heads(self, conversations: list[int]) -> list[int]:
        """As View."""
        return [self.head(conversation)[0] for conversation in conversations]

    def membership(self, user: int, conversation: int) -> Membership | None:
        """As View."""
        intervals = self.members.get((user, conversation))
        if intervals is None:
            return None
        pairs = tuple((int(first or 0), last) for first, last in intervals)
        role = "member" if intervals[-1][1] is None else ""
        return Membership(user, conversation, self.kinds[conversation][0], role, pairs, 0)

    def memberships(self, user: int) -> list[Membership]:
        """As View."""
        found = [
            self.membership(member, conversation) for member, conversation in sorted(self.members) if member == user
        ]
        return [membership for membership in found if membership is not None]

    def tombstoned_among(self, targets: list[tuple[int, int]]) -> set[tuple[int, int]]:
        """As View."""
        return {target for target in targets if target in self.deleted}

    def sees(self, user: int, event: Event) -> bool:
        """Whether the user may see an event, from the intervals alone."""
        intervals = self.members.get((user, event.conversation), [])
        if not any(
            (first or 0) <= event.sequence and (last is None or event.sequence <= last) for first, last in intervals
        ):
            return False
        if self.kinds[event.conversation][0] == "channel" and event.type.startswith("member."):
            return isinstance(event.payload, dict) and user in (event.sender, event.payload["user"])
        return True
