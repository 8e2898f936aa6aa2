"""Messages of sessions whose hello can't be answered yet: the issuer is being asked, or the tail has not come so far.

Held by server.py, which hands them on when what they wait for is there. Whatever a session sends behind its hello waits
behind it, so that its order stays.

Invariants: bounded in sessions, in messages of each and in bytes of all (engine/limits.py); who finds no room is told
to come again. Cost: a list a waiting session.
"""

from __future__ import annotations

from engine import limits

SESSIONS_MAX = 4_096
MESSAGES_MAX = 64


class Waiting:
    """By origin, in order."""

    def __init__(self) -> None:
        self._held: dict[int, list[bytes]] = {}
        self._bytes = 0

    def __contains__(self, origin: int) -> bool:
        return origin in self._held

    def __len__(self) -> int:
        return len(self._held)

    def add(self, origin: int, message: bytes) -> bool:
        """Holds one back; False if there is no room for it."""
        held = self._held.get(origin)
        if held is None:
            if len(self._held) >= SESSIONS_MAX:
                return False
            held = self._held[origin] = []
        if len(held) >= MESSAGES_MAX or self._bytes + len(message) > limits.HELLOS_WAITING_BYTES_MAX:
            return False
        held.append(message)
        self._bytes += len(message)
        return True

    def forget(self, origin: int) -> None:
        """Its session is gone."""
        self._bytes -= sum(map(len, self._held.pop(origin, ())))

    def take_of(self, origin: int) -> list[bytes]:
        """Those of one session, to be handled now."""
        held = self._held.pop(origin, [])
        self._bytes -= sum(map(len, held))
        return held

    def take(self) -> list[tuple[int, list[bytes]]]:
        """All of them, to be handled now."""
        taken = list(self._held.items())
        self._held, self._bytes = {}, 0
        return taken
