"""When a child that has died is started again: at once, a little later, or never.

Asked by children.py, once for each place (the sequencer, worker 1, worker 2 …). Per place and not for all workers
together: the kernel may kill half of many workers in one second for want of memory, and that is no loop. A cause that
kills whatever is started (a bad file, a poisoned event) brings every place to its limit by itself. What a limit means
is the caller's: it ends everything, or lets the place rest.

Invariants: a first death costs no wait; a place that dies in a loop is told from others within a few seconds.
"""

from __future__ import annotations

from collections import deque
from typing import Final

DELAYS_S: Final = (0.0, 0.1, 0.5, 1.0)  # behind the first, second … death within the window
WINDOW_S: Final = 30.0
DEATHS_MAX: Final = len(DELAYS_S) + 1  # within the window: then no further start


class Restarts:
    """The deaths of one place."""

    def __init__(self) -> None:
        self._deaths_s: deque[float] = deque(maxlen=DEATHS_MAX)

    def died(self, now_s: float) -> float | None:
        """Seconds to wait until the next start; None: give up."""
        self._deaths_s.append(now_s)
        recent = sum(1 for died_s in self._deaths_s if now_s - died_s < WINDOW_S)
        return None if recent >= DEATHS_MAX else DELAYS_S[recent - 1]
