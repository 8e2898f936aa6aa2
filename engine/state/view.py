"""What is committed, as one gateway worker knows it: the saved state plus an overlay folded from the log's tail.

One owner thread, the gateway's loop. `apply` folds each committed block once, in order; everything else reads.
Values may be ahead of `sequence` by what the saver wrote meanwhile (never behind): whoever sends events up to a
sequence skips what lies beyond it. Folding an event twice changes nothing.

Cost: apply is one native pass over the block, Python only for control events; a read is a table look-up, else one
short LMDB read transaction.
"""

from __future__ import annotations

from engine.state.rows import Control, Conversation, Membership


class View:
    """Committed state. Made by Engine.view()."""

    sequence: int

    def apply(self, block: bytes) -> list[Control]:
        """Folds a block; its control events (conversation.*, member.*, message.deleted) in order."""
        raise NotImplementedError

    def conversation(self, conversation: int) -> Conversation | None:
        """The conversation, or None if there is none."""
        raise NotImplementedError

    def head(self, conversation: int) -> tuple[int, int]:
        """(sequence, conversation sequence) of its last event; (0, 0) if unknown."""
        raise NotImplementedError

    def membership(self, user: int, conversation: int) -> Membership | None:
        """The user's membership, also a closed one (role "")."""
        raise NotImplementedError

    def memberships(self, user: int) -> list[Membership]:
        """All memberships of a user, closed ones too, by conversation."""
        raise NotImplementedError

    def members(self, conversation: int, after: int, limit: int) -> list[tuple[int, str]]:
        """Current members above user `after`, ascending: (user, role)."""
        raise NotImplementedError

    def dialog(self, first: int, second: int) -> int | None:
        """The dialog of two users, if there is one."""
        raise NotImplementedError

    def last_counter(self, user: int, device: int) -> int:
        """The highest counter that this device has published with; 0 if none."""
        raise NotImplementedError

    def tombstoned(self, conversation: int, sequence: int) -> bool:
        """Whether the message at this sequence was deleted."""
        raise NotImplementedError
