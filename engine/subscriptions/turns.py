"""Turns of the loop among all who take: however many consumers have something to read, others are served between.

Each step of a hand-out takes about a millisecond and none waits for anything, so that ten thousand consumers behind a
burst would hold the loop for as many milliseconds in one go. Here a turn of the loop has time for a slice of steps;
who comes later waits in a queue, first come first served.

Invariant: between the end of `take` and the next await of its caller no time of another turn is used.
Cost: a microsecond a step while the slice lasts.
"""

from __future__ import annotations

import asyncio
import time


class Turns:
    """One loop's."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._until: float | None = None  # of this turn of the loop; None: nobody has begun one
        self._queue = asyncio.Lock()

    async def take(self) -> None:
        """Returns when there is time for a step."""
        async with self._queue:
            while self._until is not None and time.monotonic() >= self._until:
                await asyncio.sleep(0)
            if self._until is None:
                self._until = time.monotonic() + self._slice_s
                asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """The next turn of the loop has come."""
        self._until = None
