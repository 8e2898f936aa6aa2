"""The events of a log for a reader in this process: from a position on, in order, at the speed of the memory.

What a job of a backend team opens to go through everything: a search index that is built anew, a count, an export.
Beside a running server or without one; in the server's own process over `Engine.log.reader()`. Level-triggered as the
tail is: `after` ends where the log ends now, and called again goes on with what has come meanwhile.

Invariants: what is given is gapless and ascending and has passed its checksums; damage is raised, or, where the caller
has given `on_damage`, told, and the rest is given, event by event. One reader belongs to one thread; no transaction
outlives a step. While it reads, trimming may overtake it (Trimmed): a durable reader has its entry in the registry.
Cost: a look-up, a copy and a checksum a block; then what is asked of each event (ext/events).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

from engine.errors import BadArgument, LogDamaged
from engine.log.damage import events_after
from engine.log.reader import Reader
from engine.log.verbs import opened
from ext.block import BlockBuilder
from ext.events import BlockEvents, Event

READ_BYTES: Final = 1 << 20  # a step; the blocks of a step stay in the processor's caches
SEQUENCE_MAX: Final = 2**53 - 1

OnDamage = Callable[[int, int, str], None]
"""Told of what is passed over: first and last sequence, and why."""


class EventLog:
    """A log to go through, as often as one likes. `EventLog.open` for a directory, or over a reader."""

    def __init__(self, reader: Reader, *, on_damage: OnDamage | None = None) -> None:
        self._reader = reader
        self._on_damage = on_damage

    @classmethod
    @contextmanager
    def open(cls, data: Path, *, on_damage: OnDamage | None = None) -> Iterator[EventLog]:
        """The log of a data directory, while inside. Raises BadArgument where there is none."""
        with opened(data) as segments:
            yield cls(Reader(segments), on_damage=on_damage)

    def last_sequence(self) -> int:
        """The last synced one, now: how far a reader is behind. Raises LogDamaged."""
        return self._reader.last_sequence()

    def after(self, position: int) -> Iterator[Event]:
        """All events behind a sequence, up to the last one now. Raises Trimmed, LogDamaged."""
        return chain.from_iterable(self.blocks_after(position))

    def blocks_after(self, position: int) -> Iterator[BlockEvents]:
        """The same a commit at a time: to decode many at once, to take note of a position, or to count."""
        if not 0 <= position <= SEQUENCE_MAX:
            raise BadArgument(f"position {position}: must be 0 to {SEQUENCE_MAX} (2^53-1)")
        return self._blocks_after(position)

    def _blocks_after(self, position: int) -> Iterator[BlockEvents]:
        while True:
            try:
                blocks = self._reader.blocks_after(position, READ_BYTES)
            except LogDamaged:
                _, following = self._reader.stretch(position + 1)
                if self._on_damage is None or following is None:
                    raise
                yield from self._salvaged(position, following - 1, self._on_damage)
                position = following - 1
                continue
            if not blocks:
                return
            for block in blocks:
                events = BlockEvents(block, position)
                position = events.position + len(events)
                yield events

    def _salvaged(self, position: int, last: int, on_damage: OnDamage) -> Iterator[BlockEvents]:
        """A damaged stretch: what can be read, as blocks of one event; what can't is told, a run at once."""
        first, problem = 0, ""
        for found in events_after(self._reader, position, last, 1):
            if first and found.problem != problem:
                on_damage(first, found.sequence - 1, problem)
                first = 0
            if found.record is None:
                first, problem = first or found.sequence, found.problem
                continue
            builder = BlockBuilder()
            builder.add(found.record)
            alone = builder.finish(first_sequence=found.sequence, shard=0, epoch=found.epoch, previous_hash=bytes(32))
            yield BlockEvents(alone)
        if first:
            on_damage(first, last, problem)
