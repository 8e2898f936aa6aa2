"""The lowest stored cursor, written where trimming looks: nothing is trimmed that a subscription has still to read.

Behind manager.py, which knows the cursors. Invariant M3 of engine/SUBSCRIPTIONS.md; a place that is there already is
not written again. Cost: a small file, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine.errors import BadArgument
from engine.log.readers import forget_reader, note_reader

READER_NAME: Final = "subscriptions"


class Floor:
    """Of one data directory. One loop's."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._noted = -1  # -1: nothing is
        self._noting = asyncio.Lock()

    def is_above(self, position: int) -> bool:
        """Whether what a subscription that begins there has still to read could be trimmed."""
        return position < self._noted or self._noted < 0

    async def note(self, cursors: Mapping[str, int], stored: Mapping[str, int] | None = None) -> None:
        """Writes the lowest of all cursors, by name. `stored`: what they were in an earlier commit, which counts where
        it is known."""
        async with self._noting:
            places = {name: (stored or {}).get(name, now) for name, now in cursors.items()}
            name = min(places, key=lambda one: places[one], default=None)
            position = -1 if name is None else places[name]
            if position == self._noted:
                return
            if name is None:
                with suppress(BadArgument):
                    await asyncio.to_thread(forget_reader, self._data, READER_NAME)
            else:
                await asyncio.to_thread(note_reader, self._data, READER_NAME, "subscription", position, name)
            self._noted = position
