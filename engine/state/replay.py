"""The state folded once more from the log, and compared with a saved one row by row.

What `gonets log check` and snapshots are verified by. Folding is the saver's own code over another beginning: an empty
state, or a snapshot where the log's first segments are gone. Any thread; touches neither the log nor the saved state.

Invariants: what is compared stands at the same position. Cost: a second for a million events, and the disk space of
the state once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from engine.ports import OnProgress
from engine.state.saved import DATABASES, SavedReader, SavedState
from engine.state.saver import Saver
from engine.state.view import block_last

EVENTS_A_SAVE = 1_000_000


class Blocks(Protocol):
    """What is needed of a reader of the log."""

    def blocks_after(self, sequence: int, limit_bytes: int = ...) -> list[bytes]:
        """Contiguous blocks; the first holds sequence + 1."""


class _Until:
    """A reader whose log ends at a sequence, which must be the last one of a block."""

    def __init__(self, reader: Blocks, last: int, on_progress: OnProgress) -> None:
        self._reader, self._last, self._on_progress = reader, last, on_progress

    def last_sequence(self) -> int:
        """The end."""
        return self._last

    def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
        """As a reader of a log that ends there."""
        self._on_progress("fold", sequence, self._last)
        found = self._reader.blocks_after(sequence, limit_bytes) if sequence < self._last else []
        return [block for block in found if block_last(block) <= self._last]


def replay(
    reader: Blocks,
    position: int,
    folder: Path,
    shard: int,
    on_progress: OnProgress = lambda what, done, total: None,
) -> SavedState:
    """Folds the log into the state in `folder` (new, or a copy of an older one) up to a position; the caller closes it.

    Raises StateDamaged where the position is inside a block, or the older state is beyond it.
    """
    replayed = SavedState.open(folder, shard=shard)
    try:
        Saver(replayed, _Until(reader, position, on_progress), events_max=EVENTS_A_SAVE, interval_s=1).catch_up()
        on_progress("fold", position, position)
    except BaseException:
        replayed.close()
        raise
    return replayed


def differences(saved: SavedState, replayed: SavedState) -> Iterator[str]:
    """One line for each row that is not the same in both. The number of an older version is no difference."""
    for name in DATABASES:
        with saved.read() as one, replayed.read() as two:
            rows, others = _rows(one, name), _rows(two, name)
            row, other = next(rows, None), next(others, None)
            while row is not None or other is not None:
                if row == other:
                    row, other = next(rows, None), next(others, None)
                    continue
                key = min(found[0] for found in (row, other) if found is not None)
                is_saved, is_replayed = row is not None and row[0] == key, other is not None and other[0] == key
                words = "differs from" if is_saved and is_replayed else "is not in" if is_saved else "is only in"
                yield f"row {bytes(key).hex()} of {name.decode()} {words} the replay"
                row = next(rows, None) if is_saved else row
                other = next(others, None) if is_replayed else other


def _rows(reader: SavedReader, name: bytes) -> Iterator[tuple[bytes, bytes]]:
    rows = reader.all_rows(name)
    return (row for row in rows if row[0] != b"format") if name == b"meta" else rows
