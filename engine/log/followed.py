"""The log as another process reads it: the same segments and readers, beside a writer that is elsewhere.

What a gateway worker has in the place of writer.py's Log. Nothing is cached of where the log ends: a worker asks the
files, so that it can neither miss a roll nor believe a writer that was killed. Epochs are read once: only a restore
begins one, and that needs a log that nobody writes.

Invariants: never writes; what it gives was synced before, since LMDB names a commit to readers after its sync.
Cost: a transaction and a look-up for `last_sequence`, a few microseconds.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import EngineUnable
from engine.log import format as fmt
from engine.log.place import durability_of, filesystem_of
from engine.log.reader import Reader
from engine.log.segments import Segments


class FollowedLog:
    """Attributes: shard, epochs, durability, filesystem. One thread; each reader has its own."""

    def __init__(self, path: Path, *, shard: int) -> None:
        self.shard = shard
        folder = path / fmt.FOLDER
        self._segments = Segments(folder, shard=shard, written_here=False)
        if folder.is_dir():
            self._segments.scan()
        if not self._segments.firsts:
            raise EngineUnable(
                f"{folder} holds no segment yet", hint="a worker follows a log that a sequencer has opened"
            )
        self._reader = Reader(self._segments)
        self.epochs = list(self._segments.header(self._segments.firsts[-1]).epochs)
        self.filesystem = filesystem_of(folder)
        self.durability = durability_of(self.filesystem)

    @property
    def epoch(self) -> int:
        """The epoch of new events."""
        return self.epochs[-1][0]

    @property
    def last_sequence(self) -> int:
        """The last synced sequence, now."""
        return self._reader.last_sequence()

    def reader(self) -> Reader:
        """A reader for one thread."""
        return Reader(self._segments)

    def drop_trimmed(self) -> int:
        """Notices segments that trimming has removed, and frees their space; how many."""
        return self._segments.drop_trimmed()

    def close(self) -> None:
        """Once those who are reading have read."""
        self._segments.close()
