"""What the state knows, as plain values: a conversation, a membership with its intervals, a control event.

Handed out by View and Overlay, looked at by access.py, the gateway and admission. Values never change: applying an
event makes a new one, so a value may be kept across an await.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ext.record import Record


class Conversation(NamedTuple):
    """`head` and `conversation_sequence` are those of its last event; `peers` are the two users of a dialog."""

    conversation: int
    kind: str
    title: str
    history: bool
    closed: bool
    created: int
    member_count: int
    head: int
    conversation_sequence: int
    peers: tuple[int, int] | None


class Membership(NamedTuple):
    """One user in one conversation. `role` is "" once they are out; `intervals` are (first, last | None) visible
    shard sequences, both ends included, ascending."""

    user: int
    conversation: int
    kind: str
    role: str
    intervals: tuple[tuple[int, int | None], ...]
    changed_at: int


class Control(NamedTuple):
    """A control event of a folded block, or a message.deleted: its place in the block, and its payload's map."""

    index: int  # type: ignore[assignment]  # not tuple's method
    record: Record
    payload: dict[str, Any]
