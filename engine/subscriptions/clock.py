"""Time for those who consume and for the double: a machine's clock, or one that a test moves by hand.

Deadlines are counted by the monotonic half, which no administrator and no time server sets back; the other half only
stamps events. Invariant: whoever sleeps has run on when `HandClock.advance` returns.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

_ROUNDS: Final = 50  # turns of the loop that `advance` gives to sleepers, and to those who wait for them


class Clock(Protocol):
    """Where time comes from."""

    def time_us(self) -> int:
        """µs since 1970, UTC: the time of events."""

    def monotonic_us(self) -> int:
        """Never set back: what deadlines are counted by."""

    async def sleep(self, delay_s: float) -> None:
        """Until so much later."""


class SystemClock:
    """The machine's."""

    def time_us(self) -> int:
        """µs since 1970, UTC."""
        return time.time_ns() // 1_000

    def monotonic_us(self) -> int:
        """Since some start."""
        return time.monotonic_ns() // 1_000

    async def sleep(self, delay_s: float) -> None:
        """Until so much later."""
        await asyncio.sleep(delay_s)


class HandClock:
    """A clock that stands still until somebody moves it: `await clock.advance(30)`."""

    def __init__(self, time_us: int = 1_700_000_000_000_000) -> None:
        self._start_us, self._passed_us = time_us, 0
        self._sleeping: list[tuple[int, asyncio.Future[None]]] = []

    def time_us(self) -> int:
        """µs since 1970, UTC."""
        return self._start_us + self._passed_us

    def monotonic_us(self) -> int:
        """Since its start."""
        return self._passed_us

    async def sleep(self, delay_s: float) -> None:
        """Until somebody has moved it so far."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._sleeping.append((self._passed_us + round(delay_s * 1e6), future))
        await future

    async def advance(self, delay_s: float) -> None:
        """So much later, with a stop at each moment for which somebody sleeps."""
        end_us = self._passed_us + round(delay_s * 1e6)
        await _turns()
        while due := [until_us for until_us, future in self._sleeping if until_us <= end_us and not future.done()]:
            self._passed_us = max(self._passed_us, min(due))
            for until_us, future in self._sleeping:
                if until_us <= self._passed_us and not future.done():
                    future.set_result(None)
            self._sleeping = [one for one in self._sleeping if not one[1].done()]
            await _turns()
        self._passed_us = end_us
        await _turns()


async def _turns() -> None:
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
