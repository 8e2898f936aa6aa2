"""Drain: sends the sessions away so that they come back spread over time, elsewhere or here.

Run by server.py on SIGTERM, which refuses new sessions by then. Every session is advised with a pause of its own and
served on for a grace, so that it can finish what is under way; then it is closed (4001, the same pause) in batches
over the rest of the configured time. A client that follows the advice by itself is simply gone before its turn.

Invariants: pauses are spread evenly, whatever the clients' own jitter; a few sessions make a restart wait for the
grace at most, none for nothing; drain_s = 0 is immediate.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway import close_codes, pushes
from gateway.session import log

if TYPE_CHECKING:
    from gateway.session import Door

BATCH_S = 0.1
BATCH_SESSIONS_MIN = 100
GRACE_S = 1.0  # between advice and the first close; a load balancer asks /readyz meanwhile
LOOK_S = 0.02
LAST_WORDS_S = 1.0  # for receipts and close frames that are still on their way


class Drain:
    """One drain of all sessions."""

    def __init__(self, door: Door, drain_s: int, flush: Callable[[], None]) -> None:
        self._door, self._drain_s, self._flush = door, drain_s, flush
        self._random = random.Random()

    async def run(self) -> None:
        """Returns when all sessions have ended, or their time is over."""
        sessions = self._door.sessions
        origins = sessions.origins()
        log.info("draining", sessions=len(origins), drain_s=self._drain_s)
        pauses = self._advise(origins)
        grace_s = min(GRACE_S, self._drain_s)
        if grace_s:
            self._flush()  # else advice and close would leave together
            await self._while_open(origins, grace_s)
        batches = max(1, int((self._drain_s - grace_s) / BATCH_S))
        size = max(BATCH_SESSIONS_MIN, -(-len(origins) // batches))
        for start in range(0, len(origins), size):
            for origin in origins[start : start + size]:
                self._door.end(origin, close_codes.DRAIN, pauses[origin])
            self._flush()
            if start + size < len(origins):
                await asyncio.sleep(BATCH_S)
        await self._until_gone()

    def _advise(self, origins: list[int]) -> dict[int, int]:
        """One pause a session: evenly spread, in random order."""
        order = list(range(len(origins)))
        self._random.shuffle(order)
        spread_ms = max(1_000, self._drain_s * 1_000)
        pauses = {}
        for origin, place in zip(origins, order, strict=True):
            pauses[origin] = spread_ms * place // len(origins) + 100
            self._door.push(origin, pushes.ADVICE, {"kind": "drain", "retry_after_ms": pauses[origin]})
        return pauses

    async def _while_open(self, origins: list[int], most_s: float) -> None:
        """Waits, at most so long, until the last of these has left by itself."""
        sessions = self._door.sessions
        for _ in range(int(most_s / LOOK_S)):
            if not any(sessions.resolve(origin) for origin in origins):
                return
            await asyncio.sleep(LOOK_S)

    async def _until_gone(self) -> None:
        for _ in range(int(LAST_WORDS_S / LOOK_S)):
            if not self._door.sessions.open_count:
                return
            await asyncio.sleep(LOOK_S)
