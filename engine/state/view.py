"""What is committed, as one gateway worker knows it: the saved state plus an overlay folded from the log's tail.

One owner thread, the gateway's loop. `apply` folds each committed block once, in order; everything else reads.
Values may be ahead of `sequence` by what the saver wrote meanwhile (never behind): whoever sends events up to a
sequence skips what lies beyond it. Folding an event twice changes nothing.

Cost: apply is one native pass over the block, Python only for control events; a read is a table look-up, else one
short LMDB read transaction.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from itertools import islice

from engine.conversations import DIALOG, KIND_NAMES, ROLE_NAMES
from engine.schema import as_map
from engine.state.overlay import Overlay, Payload
from engine.state.rows import Control, Conversation, Membership
from engine.state.saved import MembershipRow, SavedState
from ext.record import Record
from ext.saving import window_highest

_BLOCK_COUNT = struct.Struct("<I")
_BLOCK_FIRST = struct.Struct("<Q")
REFRESH_BLOCKS = 64  # how often the saved position is looked up, in blocks


def block_last(block: bytes) -> int:
    """The last sequence of a block."""
    return int(_BLOCK_FIRST.unpack_from(block, 16)[0] + _BLOCK_COUNT.unpack_from(block, 8)[0] - 1)


class View:
    """Committed state. Made by Engine.view()."""

    def __init__(self, saved: SavedState, *, bytes_max: int = 64 << 20) -> None:
        self.sequence = saved.position()
        self._saved = saved
        self._overlay = Overlay(saved, indexed=True)
        self._bytes_max = bytes_max
        self._blocks = 0
        self._position = self.sequence

    def apply(self, block: bytes) -> list[Control]:
        """Folds a block; its control events (conversation.*, member.*, message.deleted) in order. What of it was
        folded before is left out."""
        controls: list[Control] = []
        for _ in self.apply_steps(block, controls):
            pass
        return controls

    def apply_steps(self, block: bytes, controls: list[Control]) -> Iterator[None]:
        """The same in steps of less than a millisecond. In between, and until the last one, what is read may be ahead
        of `sequence`, some of it more than the rest; nothing is behind."""
        last = block_last(block)
        if last <= self.sequence:
            return
        found: list[tuple[int, Record, Payload]] = []
        yield from self._overlay.fold_steps(block, self.sequence, found, dialogs_too=True)
        self.sequence = last
        self._blocks += 1
        if self._blocks % REFRESH_BLOCKS == 0:
            self._position = min(self._saved.position(), self.sequence)
        if self._overlay.bytes > self._bytes_max:
            yield from self._overlay.shed_steps(self._position, slices=2, keep_used=False)
        controls += [Control(index, record, as_map(payload)) for index, record, payload in found]

    def conversation(self, conversation: int) -> Conversation | None:
        """The conversation, or None if there is none."""
        row = self._overlay.conversation_row(conversation)
        if row is None:
            return None
        head, conversation_sequence = self.head(conversation)
        peers = (row.first, row.second) if row.kind == DIALOG else None
        return Conversation(
            conversation,
            KIND_NAMES[row.kind],
            row.title,
            row.history,
            row.closed,
            row.created,
            row.member_count,
            head,
            conversation_sequence,
            peers,
        )

    def head(self, conversation: int) -> tuple[int, int]:
        """(sequence, conversation sequence) of its last event; (0, 0) if unknown."""
        entry = self._overlay.heads.get(conversation)
        if entry is not None and entry[1]:
            return entry[1], entry[2]
        with self._saved.read() as reader:
            return reader.head(conversation)

    def heads(self, conversations: list[int]) -> list[int]:
        """The sequence of the last event of each; 0 if unknown."""
        found = self._overlay.heads.heads_of(conversations)
        if 0 in found:
            with self._saved.read() as reader:
                there = iter(reader.heads([one for one, head in zip(conversations, found, strict=True) if not head]))
            found = [head or next(there) for head in found]
        return found

    def membership(self, user: int, conversation: int) -> Membership | None:
        """The user's membership, also a closed one (role "")."""
        row = self._overlay.membership_row(user, conversation)
        return None if row is None else _membership(user, conversation, row)

    def memberships(self, user: int) -> list[Membership]:
        """All memberships of a user, closed ones too, by conversation."""
        with self._saved.read() as reader:
            found = reader.memberships_as(Membership, user, KIND_NAMES, ROLE_NAMES)
        changed = self._overlay.conversations_of(user)
        if not changed:
            return found
        rows = {membership.conversation: membership for membership in found}
        for conversation in changed:
            row = self._overlay.membership_row(user, conversation)
            if row is not None:
                rows[conversation] = _membership(user, conversation, row)
        return [rows[conversation] for conversation in sorted(rows)]

    def members(self, conversation: int, after: int, limit: int) -> list[tuple[int, str]]:
        """Current members above user `after`, ascending: (user, role)."""
        row = self._overlay.conversation_row(conversation)
        if row is None:
            return []
        if row.kind == DIALOG:
            return [(user, "member") for user in (row.first, row.second) if user > after][:limit]
        changed = {
            user: self._overlay.memberships[user, conversation]
            for user in self._overlay.rosters.get(conversation, ())
            if user > after
        }
        here = sorted((user, row.role) for user, row in changed.items() if row is not None and row.role)
        with self._saved.read() as reader:
            there = ((user, role) for user, role in reader.members(conversation, after) if user not in changed)
            return [(user, ROLE_NAMES[role]) for user, role in islice(heapq.merge(here, there), limit)]

    def dialog(self, first: int, second: int) -> int | None:
        """The dialog of two users, if there is one."""
        low, high = min(first, second), max(first, second)
        known = self._overlay.dialogs.get(low, high)
        if known:
            return int(known)
        with self._saved.read() as reader:
            return reader.dialog(low, high) or None

    def last_counter(self, user: int, device: int) -> int:
        """The highest counter that this device has published with; 0 if none."""
        known = self._overlay.windows.known(user, device)
        with self._saved.read() as reader:
            window = reader.window(user, device)
        return max(known[0] if known else 0, window_highest(window) if window else 0)

    def tombstoned_among(self, targets: list[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those (conversation, sequence) whose message was deleted."""
        deletions = self._overlay.tombstones_of([sequence for _, sequence in targets])
        return {target for target in targets if target[1] in deletions}


def _membership(user: int, conversation: int, row: MembershipRow) -> Membership:
    return Membership(user, conversation, KIND_NAMES[row.kind], ROLE_NAMES[row.role], row.intervals, row.changed_at)
