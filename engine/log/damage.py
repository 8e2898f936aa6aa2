"""Damage that reading has met: named once in the process's log, counted, and passed over event by event.

Quarantine is derived, not stored: what can't be read is found by its checksum each time somebody comes to it, the rest
is served, and no file of ours can say that something is damaged which isn't, or the other way round. This file holds
what the readers have in common: the list of what was met (`Damage`), and `events_after`, which goes on behind it.

Cost: nothing until there is damage; then one look at each damaged event.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.errors import LogDamaged, RecordDamaged
from ext import block as blocks

if TYPE_CHECKING:
    from engine.log.reader import Reader

PLACES_MAX: Final = 10_000
SEQUENCE_MAX: Final = 2**53 - 1

_log = logging.getLogger(__name__)


class Damage:
    """What a process has met. Any thread: it only grows, one word at a time."""

    def __init__(self) -> None:
        self._places: set[str] = set()
        self.reads = 0  # that met damage

    @property
    def places(self) -> int:
        """How many different ones."""
        return len(self._places)

    def note(self, error: LogDamaged) -> None:
        """Says it where the process writes its log, the first time."""
        self.reads += 1
        if error.detail not in self._places and len(self._places) < PLACES_MAX:
            self._places.add(error.detail)
            _log.error("damaged, the rest is served: %s (run `gonets log check`)", error.detail)


class Event(NamedTuple):
    """An event, or what is left of one: `record` None, and why."""

    sequence: int
    epoch: int  # 0: not known
    record: bytes | None
    problem: str


def last_known(reader: Reader) -> int:
    """The last sequence; where the log's end is damaged, beyond all: reading up to it ends with the damage."""
    try:
        return reader.last_sequence()
    except LogDamaged:
        return SEQUENCE_MAX


def events_after(reader: Reader, after: int, last: int, limit_bytes: int) -> Iterator[Event]:
    """All events behind `after` up to `last`, ascending and without a gap: what is damaged is given as such.

    Raises Trimmed, and LogDamaged where it can't be known what follows.
    """
    while after < last:
        try:
            found = reader.blocks_after(after, limit_bytes)
        except LogDamaged as error:
            _, following = reader.stretch(after + 1)
            if following is None:
                raise
            yield from _salvaged(reader, after + 1, min(following - 1, last), error)
            after = following - 1
            continue
        if not found:
            return
        for block in found:
            head = blocks.header(block)
            for index, record in enumerate(blocks.records(block)):
                if after < head.first_sequence + index <= last:
                    yield Event(head.first_sequence + index, head.epoch, record, "")
            after = head.first_sequence + head.count - 1


def _salvaged(reader: Reader, first: int, last: int, whole: LogDamaged) -> Iterator[Event]:
    """Each event of a damaged stretch by its own checksum."""
    problem, is_whole = whole.detail, False
    for sequence in range(first, last + 1):
        record = None
        if not is_whole:
            try:
                record, problem = reader.record(sequence), whole.detail
            except RecordDamaged as error:
                problem = error.detail
            except LogDamaged as error:  # not of one event: all of the segment
                problem, is_whole = error.detail, True
        yield Event(sequence, 0, record, "" if record is not None else problem)
