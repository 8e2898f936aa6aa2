"""Delivered and read marks: taken from sessions, remembered by the engine's CursorStore, told to the others.

Fed by signals.py (hot, from native batches) and commands.py (the same commands when native code passed them on).
A mark moves only forward, only for a current member, never beyond the head. Telling is coalesced: what moved within
one interval is told once, at its latest value, so that a group that scrolls together costs a push per member and not
one per event.

Invariants: read ≤ delivered ≤ head; a mark is stored before anybody is told; losing the last seconds of marks in a
crash is allowed. Cost: a dictionary entry per mark that moved in the interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine import Conversation
from gateway import pushes
from gateway.bus import Told

if TYPE_CHECKING:
    from gateway.session import Door

TELL_INTERVAL_S = 0.05
DELIVERED, READ = 1, 2


class Store(Protocol):
    """What is needed of engine/log/cursors.py."""

    def get(self, conversation: int, user: int) -> tuple[int, int]: ...
    def put(self, conversation: int, user: int, delivered: int, read: int) -> bool: ...
    def hear(self, conversation: int, user: int, delivered: int, read: int) -> None: ...


class Cursors:
    """The marks of this worker's sessions between two tellings."""

    def __init__(self, door: Door, store: Store) -> None:
        self._door, self.store = door, store
        self._moved: dict[tuple[int, int], int] = {}  # (conversation, user) -> the session that moved it

    def move(self, session: int, user: int, conversation: int, kind: int, value: int) -> str:
        """Moves a mark; the code of the error to answer with, or ""."""
        view = self._door.view
        membership = view.membership(user, conversation)
        if membership is None or not membership.role:
            return "unknown_conversation"
        if value > view.head(conversation)[1]:
            return "bad_cursor"
        delivered, read = self.store.get(conversation, user)
        if value <= (delivered if kind == DELIVERED else read):
            return ""
        if kind == READ:
            read = value
        if not self.store.put(conversation, user, max(delivered, value), read):
            return "overloaded"
        self._moved[conversation, user] = session
        self._door.counters.cursor_moves += 1
        return ""

    @property
    def waiting(self) -> bool:
        """Whether tell() has something to say."""
        return bool(self._moved)

    def tell(self) -> None:
        """Tells what has moved since the last call: all members of small conversations, else one's own devices."""
        moved, self._moved = self._moved, {}
        door = self._door
        for (conversation, user), session in moved.items():
            row = door.view.conversation(conversation)
            if row is None:
                continue
            delivered, read = self.store.get(conversation, user)
            body = {"conversation": conversation, "user": user, "delivered": delivered, "read": read}
            msgpack, json = pushes.both(pushes.CURSOR, body)
            shown = self.shown(row)
            if shown:
                door.fanout.signal(conversation, msgpack, json, session)
            else:
                door.fanout.signal_to(door.sessions.of_user(user), msgpack, json, session)
            door.bus.mark(conversation, user, delivered, read, Told(shown, msgpack, json))

    def hear(self, conversation: int, user: int, delivered: int, read: int) -> None:
        """A mark that another worker has taken and stores."""
        self.store.hear(conversation, user, delivered, read)

    def shown(self, conversation: Conversation) -> bool:
        """Whether members see each other's marks."""
        if conversation.kind == "dialog":
            return True
        limit = self._door.config.conversations.cursor_members_max
        return conversation.kind == "group" and conversation.member_count <= limit
