"""Signals: delivered, read and typing as native code packs them, many sessions in one batch; and presence.

Fed by server.py with the signals of one poller round. Delivered and read go to cursors.py. Typing and presence are
never stored and never wait: a receiver that is blocked, or a loop that is behind, loses them first.

Invariants: one typing push for a conversation and user a second, whatever a client sends; nothing of it touches the
log. Cost: a membership look-up a signal.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from engine import limits
from gateway import load, pushes

if TYPE_CHECKING:
    from gateway.session import Door

SIGNAL = struct.Struct("<IIQQ")
TYPING = 3


class Signals:
    """Typing of this second, so that a repeat is passed over."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._seen: set[tuple[int, int]] = set()

    def take(self, batch: bytes) -> None:
        """All signals of one round."""
        door = self._door
        user_of = door.sessions.user
        for kind, session, conversation, value in SIGNAL.iter_unpack(batch):
            user = user_of(session)
            if not user:
                continue  # gone in the same round
            if kind == TYPING:
                self.typing(session, user, conversation)
                continue
            code = door.cursors.move(session, user, conversation, kind, value)
            if code:
                door.refuse(session, code, f"conversation {conversation}, conversation_sequence {value}")

    def typing(self, session: int, user: int, conversation: int) -> None:
        """Tells the other members that are connected that somebody writes."""
        key = (conversation, user)
        if key in self._seen:
            return
        if self._door.load.sheds(load.TYPING) or len(self._seen) >= limits.TYPING_SEEN_MAX:
            self._door.counters.shed_typing_signals += 1
            return
        if not self._reaches(user, conversation):
            return
        self._seen.add(key)
        body = {"conversation": conversation, "user": user}
        self._tell(session, conversation, *pushes.both(pushes.TYPING, body))

    def presence(self, session: int, user: int, conversation: int, status: str) -> None:
        """Tells them a status of the client's own words."""
        if self._door.load.sheds(load.PRESENCE):
            self._door.counters.shed_presence_signals += 1
            return
        if not self._reaches(user, conversation):
            return
        body = {"conversation": conversation, "user": user, "status": status}
        self._tell(session, conversation, *pushes.both(pushes.PRESENCE, body))

    def _tell(self, session: int, conversation: int, msgpack: bytes, json: bytes) -> None:
        """To the members' sessions here and on the other workers."""
        self._door.fanout.signal(conversation, msgpack, json, session)
        self._door.bus.conversation(conversation, msgpack, json)

    def second(self) -> None:
        """Once a second: repeats count as new again."""
        self._seen.clear()

    def _reaches(self, user: int, conversation: int) -> bool:
        """Whether such signals go to the members of this conversation at all."""
        view = self._door.view
        membership = view.membership(user, conversation)
        row = view.conversation(conversation) if membership is not None and membership.role else None
        if row is None:
            return False
        limit = self._door.config.conversations.typing_members_max
        return row.kind == "dialog" or (row.kind == "group" and row.member_count <= limit)
