"""Keys of publishes in the saved state: which events of the last day had one, loaded whole, kept by the saver.

A service's publish has no counter; a repeat is known by the key that lies in its record (ext/keys has the table, and
ext/admission asks it). Overlays of admission hold all of it from the opening on, those of the saver what came since the
last save; views have none.

Invariants: the rows at a position are the events up to there that have a key and are at most KEEP_US older than the
newest event up to there. So they are a function of the log alone, whenever saves were made, and hold all that
admission can ask for, whose time is never before that event's.
Cost: opening reads 24 bytes a key (a million: about a second); a save appends the new and deletes the old rows.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from engine.errors import StateDamaged
from engine.state.saved import SavedState
from ext.keys import KeyTable, row_time_us

KEEP_US: Final = 86_400_000_000  # 24 hours by the time of events: what repeats are promised to be known for
KEYS_MAX: Final = 1 << 20  # beyond it new keys are refused until the oldest are too old; no option: replays must agree
ROWS: Final = 4_096


def load_keys(saved: SavedState) -> KeyTable:
    """All keys of the saved state. Raises StateDamaged."""
    keys = KeyTable(KEEP_US)
    database = saved.databases.get(b"keys")
    if database is None:
        return keys
    with saved.env.begin() as txn, txn.cursor(database) as cursor:
        rows = iter(cursor)
        try:
            while part := list(islice(rows, ROWS)):
                keys.load(part)
        except ValueError as error:
            raise StateDamaged(str(error)) from error
    return keys


def save_keys(txn: Any, database: Any, keys: KeyTable) -> None:
    """Brings the rows to where the events stand that the table was gathered from. Raises StateDamaged."""
    keys.forget(keys.time_us)
    with txn.cursor(database) as cursor:
        while cursor.first() and keys.time_us > _time_us(cursor.value()) + KEEP_US:
            cursor.delete()
        for start in range(0, keys.count, ROWS):
            rows = keys.saved_rows(start, ROWS)
            consumed, _ = cursor.putmulti(rows)
            if consumed != len(rows):
                raise StateDamaged(f"the state took {consumed} of {len(rows)} keys of publishes")


def _time_us(row: bytes) -> int:
    try:
        return row_time_us(row)
    except ValueError as error:
        raise StateDamaged(str(error)) from error
