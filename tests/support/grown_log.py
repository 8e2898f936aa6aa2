"""A log of several small segments with snapshots on the way: for the tests of backup, restore, trim and retention."""

from __future__ import annotations

from pathlib import Path

from engine import errors
from engine.answers import pack_proposal
from engine.log import CursorStore
from engine.log.snapshot import snapshot_log
from engine.subscriptions.definition import Definition
from engine.subscriptions.places import cursor_of
from engine.subscriptions.store import CURSORS, DEFINITION, Batch, DefinitionRow, Store, encode, named
from tests.support.engine_rig import EngineRig

SEGMENT_BYTES = 64 << 10
BATCH = 10


def grow(data: Path, events: int, *, size: int = 600, snapshot: bool = False) -> int:
    """Appends so many messages of user 1 to five people, and closes; the last sequence."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    begin = rig.engine.view().last_counter(1, 1) + 1
    for at in range(begin, begin + events, BATCH):
        counters = range(at, min(at + BATCH, begin + events))
        proposals = [pack_proposal(1, 1, c, 2 + c % 5, "message", b"x" * size, person=True) for c in counters]
        assert {answer.status for answer in rig.ask(*proposals)} == {errors.APPENDED}
    last = rig.engine.log.last_sequence
    rig.engine.close()
    if snapshot:
        assert snapshot_log(data, only_list=False)["taken"] == last
    return last


def mark(data: Path, conversation: int, user: int, delivered: int, read: int) -> None:
    """A mark as the gateway writes it."""
    store = CursorStore.open(data / "cursors", interval_s=60)
    store.put(conversation, user, delivered, read)
    store.close()


def mark_of(data: Path, conversation: int, user: int) -> tuple[int, int]:
    """What is stored."""
    store = CursorStore.open(data / "cursors", interval_s=60)
    try:
        return store.get(conversation, user)
    finally:
        store.close()


def subscribe(data: Path, place: int) -> None:
    """A subscription that stands at a place, as the engine writes it."""
    row = DefinitionRow(definition=Definition(name="mail", kind="competing", team="", position=0), created=1)
    store = Store.open(data / "subscriptions")
    store.write(Batch({named(DEFINITION, "mail"): encode(row), named(CURSORS, "mail"): place.to_bytes(8, "little")}))
    store.close()


def place_of(data: Path) -> int:
    """Where it stands."""
    store = Store.open(data / "subscriptions")
    try:
        (row,) = store.definitions()
        return cursor_of(store, row.definition)
    finally:
        store.close()


def firsts(data: Path) -> list[int]:
    """The first sequences of all segments."""
    return sorted(int(path.stem) for path in (data / "log").glob("*.lmdb"))
