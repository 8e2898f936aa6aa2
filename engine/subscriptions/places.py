"""Places in the log: where a start begins, what a stored cursor says, and which system events came since.

Asked by manager.py, in a thread where the log is read. A time is found by halving, since times never run backwards.
"""

from __future__ import annotations

from typing import Final

from engine.errors import BadArgument, LogDamaged, StateDamaged, Trimmed
from engine.log.reader import Reader
from engine.subscriptions.definition import Definition, Start, check_time, check_unit
from engine.subscriptions.ports import check_end
from engine.subscriptions.store import (
    APPLIED_KEY,
    COUNT,
    CURSORS,
    EPOCH_KEY,
    MOVE_AWAY,
    PARKED,
    SETTLED_KEY,
    Batch,
    Store,
    named,
    numbered,
)
from ext.picks import SHARES
from ext.record import Record, decode

PAGE: Final = 1_000
DAMAGED_MAX: Final = 10_000  # events passed over to find one whose time can be read
NUMBER_BYTES: Final = 8


def position_of(reader: Reader, start: Start, now_us: int) -> int:
    """The sequence behind which a start begins. Raises BadArgument, BeyondEnd, Trimmed."""
    named_fields = [start.first, start.sequence is not None, start.time is not None]
    if sum(named_fields) > 1:
        raise BadArgument("a start names several places: name one of first, sequence and time")
    first, last = reader.first_sequence, reader.last_sequence()
    if start.first:
        return first - 1
    if start.time is not None:
        check_unit(start.time)
        position = _before(reader, start.time, first, last)
        if position == last:
            check_time(start.time, now_us)
        return position
    if start.sequence is None:
        return last
    check_end(start.sequence, last, "start sequence")
    if start.sequence < first - 1 and start.sequence:
        raise Trimmed(
            f"start sequence {start.sequence}: the log begins at {first}",
            hint=f"start at {first - 1} or later",
            first_available=first,
        )
    return max(start.sequence, first - 1)


def _before(reader: Reader, time_us: int, first: int, last: int) -> int:
    """The last sequence before a time."""
    low, high = first, last + 1  # the first event of that time or later lies in [low, high]
    while low < high:
        middle = (low + high) // 2
        found = _event_from(reader, middle, high)
        if found is None or found.time >= time_us:
            high = middle
        else:
            low = found.sequence + 1
    return low - 1


def _event_from(reader: Reader, sequence: int, end: int) -> Record | None:
    """The first that can be read, from a sequence on and before another; None if there is none."""
    for one in range(sequence, min(end, sequence + DAMAGED_MAX)):
        try:
            record = reader.record(one)
        except LogDamaged:
            continue
        return None if record is None else decode(record)
    return None


def numbers_of(stored: bytes) -> list[int]:
    """What a row of cursors holds."""
    return [int.from_bytes(stored[at : at + NUMBER_BYTES], "little") for at in range(0, len(stored), NUMBER_BYTES)]


def cursor_of(store: Store, definition: Definition) -> int:
    """All wanted events up to it are acked or parked, as stored. Raises StateDamaged."""
    stored = store.value(named(CURSORS, definition.name))
    if stored is None:
        return definition.position
    numbers = numbers_of(stored)
    is_whole = bool(stored) and len(stored) % NUMBER_BYTES == 0
    if not is_whole or (definition.kind == "ordered" and len(numbers) not in (1, SHARES)):
        wanted = f"{NUMBER_BYTES} or {SHARES * NUMBER_BYTES}" if definition.kind == "ordered" else "a number of 8"
        raise StateDamaged(
            f"subscription {definition.name!r}: its row of cursors has {len(stored)} bytes, not {wanted}",
            hint=MOVE_AWAY,
        )
    if definition.kind == "ordered":
        return min(numbers)
    return min([numbers[0], *(hole - 1 for hole in numbers[1:2])])


def cut_back(stored: bytes, kind: str, last: int) -> bytes:
    """A row of cursors, of which nothing is beyond a sequence any more: what followed it was replaced."""
    first, *others = numbers_of(stored)
    others = [min(one, last) for one in others] if kind == "ordered" else [one for one in others if one <= last]
    return b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in (min(first, last), *others))


def after_restore(store: Store, epochs: list[tuple[int, int]]) -> int:
    """Cuts back what is kept to the history that the log still has, if another replaced it since; how many rows are
    other now. What was paused or deleted in the replaced history was not in this one: definitions are folded again.
    `epochs`: (epoch, first sequence) ascending."""
    newest, known = epochs[-1][0], store.number(EPOCH_KEY)
    if known == newest:
        return 0
    batch = Batch({EPOCH_KEY: newest.to_bytes(NUMBER_BYTES, "little")})
    replaced = [first for epoch, first in epochs if epoch > known]
    if known and replaced:
        last = replaced[0] - 1
        settled = min(store.number(APPLIED_KEY) or store.number(SETTLED_KEY), last).to_bytes(NUMBER_BYTES, "little")
        batch.rows |= {SETTLED_KEY: settled, APPLIED_KEY: (0).to_bytes(NUMBER_BYTES, "little")}
        for row in store.definitions():
            name, kind = row.definition.name, row.definition.kind
            if row.created > last:
                batch.erase(name)
                continue
            stored = store.value(named(CURSORS, name))
            if stored is not None and (cut := cut_back(stored, kind, last)) != stored:
                batch.rows[named(CURSORS, name)] = cut
            gone = [*store.counts(name), *(one.event.sequence for one in store.parked(name, after=last))]
            for sequence in gone:
                if sequence > last:
                    batch.rows[numbered(COUNT, name, sequence)] = batch.rows[numbered(PARKED, name, sequence)] = None
    store.write(batch)
    return len(batch.rows.keys() - {EPOCH_KEY, SETTLED_KEY, APPLIED_KEY})


def system_events(reader: Reader, conversation: int, head: int, applied: int) -> list[Record]:
    """The system events that are kept and lie behind `applied`, in order."""
    after, found = max(applied, reader.first_sequence - 1), []
    while head > after:
        page = reader.walk(head, conversation, after, PAGE)
        found += [decode(record) for record in page]
        head = found[-1].previous
    return found[::-1]
