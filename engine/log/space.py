"""Whether the disk has room for more: asked before a block is written, so that publishes end before the space does.

A full disk fences the writer, and a restart is needed; below `log.free_bytes_min` publishes are refused instead, to be
sent again, and all goes on by itself once there is room. What is kept free is for the state, whose save also ends up on
this file system, and for the operator.

Cost: one statvfs every LOOK_S, microseconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.2

_log = logging.getLogger(__name__)


def free_bytes_of(folder: Path) -> int:
    """What a process without privileges may still write there. Raises OSError."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


class Space:
    """Of one file system, for one thread. Once short, it is short until an eighth more than the limit is free."""

    def __init__(
        self,
        folder: Path,
        free_bytes_min: int,
        free_bytes: Callable[[Path], int] = free_bytes_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._free_bytes_min = folder, free_bytes_min
        self._free_bytes, self._clock = free_bytes, clock
        self._look_s = 0.0
        self.is_short = False

    def look(self) -> bool:
        """Whether there is too little; 0 as the limit: never."""
        now_s = self._clock()
        if not self._free_bytes_min or (self._look_s and now_s < self._look_s):
            return self.is_short
        self._look_s = now_s + LOOK_S
        try:
            free = self._free_bytes(self._folder)
        except OSError:
            return self.is_short  # whoever writes there will say it better
        wanted = self._free_bytes_min + (self._free_bytes_min // 8 if self.is_short else 0)
        if self.is_short != (free < wanted):
            self.is_short = not self.is_short
            if self.is_short:
                _log.error("%s", self.words(free))
            else:
                _log.warning("%s: %d bytes are free, publishes are taken again", self._folder, free)
        return self.is_short

    def free_bytes(self) -> int | None:
        """What is free; None where nobody says."""
        try:
            return self._free_bytes(self._folder)
        except OSError:
            return None

    def words(self, free: int | None = None) -> str:
        """What is wrong and what to do, for people."""
        is_free = "" if free is None else f"{free} bytes are free, "
        return (
            f"{self._folder}: {is_free}log.free_bytes_min = {self._free_bytes_min}: publishes are refused until there"
            " is room; make some (`gonets log trim`, log.keep_bytes) or lower the limit"
        )
