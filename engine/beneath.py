"""Beneath damage: where a conversation goes on below a record that can't be read, and that named the one before it.

Asked by history, which pages back by these names. The log has no index, so what lies beneath is searched for block by
block, newest first, in turns.

Cost: the bytes of the log between the damage and the conversation's event before it, at most TURN_BYTES a turn.
"""

from __future__ import annotations

from array import array

from engine.errors import LogDamaged, RecordDamaged
from engine.ports import LogReader
from ext.sift import block_span, sift

TURN_BYTES = 8 << 20
TURN_EVENTS = 20_000  # of damaged blocks, each looked at alone

_SEQUENCE = slice(2, 10)
_CONVERSATION = slice(11, 19)


def beneath(reader: LogReader, conversation: int, before: int, after: int) -> tuple[int | None, int]:
    """(newest readable event of a conversation with after < sequence < before, None; everything from here on was
    searched). A turn's worth. Raises Trimmed."""
    wanted, scanned, looked = array("Q", [conversation]), 0, 0
    while before > after + 1 and scanned < TURN_BYTES and looked < TURN_EVENTS:
        try:
            block = reader.blocks_after(before - 2, 1)[0]
        except LogDamaged:
            first, _ = reader.stretch(before - 1)
            first = max(first, after + 1, before - TURN_EVENTS)
            looked += before - first
            found, before = _salvaged(reader, conversation, first, before)
            if found is not None:
                return found, before
            continue
        scanned += len(block)
        records, _ = sift(block, wanted, after, before - 1, len(block))
        if records:
            newest = int.from_bytes(records[-1][_SEQUENCE])
            return newest, newest
        before = block_span(block)[0]
    return None, before


def _salvaged(reader: LogReader, conversation: int, first: int, before: int) -> tuple[int | None, int]:
    """The same in a damaged block, whose events have checksums of their own; nothing in a damaged segment."""
    for sequence in range(before - 1, first - 1, -1):
        try:
            record = reader.record(sequence)
        except RecordDamaged:
            continue
        except LogDamaged:
            return None, reader.stretch(sequence)[0]
        if record is not None and int.from_bytes(record[_CONVERSATION]) == conversation:
            return sequence, sequence
    return None, first
