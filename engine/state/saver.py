"""Folds the log behind the writer and saves the state: the one thread that writes the saved state.

After the commit, beside everything: it reads synced blocks from the log like any reader, gathers them in an overlay
of its own and writes that out, sorted, in one transaction with the position; then it begins a new one. Opening an
engine runs the same code for what the last save lacks, so that a crash needs no path of its own.

Invariants: only synced events are folded; position and rows move together; at most `events_max` events or
`interval_s` lie between two saves, as long as the disk keeps up (`lag` says by how much it does not).
Cost: a fifth of a microsecond an event to fold, about a microsecond for each row that changed to save.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import lmdb

from engine.errors import StateDamaged
from engine.state.keys import save_keys
from engine.state.overlay import Overlay
from engine.state.saved import SavedState, key1, key2, pack_conversation, pack_membership
from engine.state.view import block_last
from ext.saving import SortedDialogs, SortedHeads, SortedWindows

FOLD_BYTES = 4 << 20  # blocks read at a time
OVERLAY_BYTES_MAX = 64 << 20  # of rows and tables that wait for a save: reached by new groups sooner than by events
ROWS = 256  # written between two chances for other threads to run
POLL_S = 0.05
RETRY_S = 1.0
NO_SPACE = (lmdb.DiskError, lmdb.MapFullError)

_log = logging.getLogger(__name__)


class BlockReader(Protocol):
    """What the saver needs of the log: LogReader's blocks_after and last_sequence."""

    def blocks_after(self, sequence: int, limit_bytes: int = ...) -> list[bytes]:
        """Contiguous blocks; the first holds sequence + 1."""

    def last_sequence(self) -> int:
        """The last synced sequence."""


class Saver:
    """Owner of the saved state's write transactions. `on_saved` is called after each save, from its thread."""

    def __init__(self, saved: SavedState, reader: BlockReader, *, events_max: int, interval_s: float) -> None:
        self._saved = saved
        self._reader = reader
        self._events_max = events_max
        self._interval_s = interval_s
        self.on_saved: Callable[[], None] = lambda: None
        self._overlay = Overlay(saved, keyed=True)
        with saved.read() as rows:
            self.position = rows.number(b"position")  # saved
            self.number = rows.number(b"number")  # highest conversation number, saved or folded
        self._folded = self.position
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None  # of the last try
        self.has_given_up = False
        self.saves = 0

    # The thread.

    def start(self) -> None:
        """Begins saving behind the log."""
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Saves what is left and ends. What can't be saved for want of space is folded again by the next opening."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.has_given_up:
            return
        try:
            self.catch_up()
        except NO_SPACE as error:
            _log.error(
                "no space to save the state: it stays at %d, the next start folds the rest (%s)", self.position, error
            )

    def _run(self) -> None:
        due_s = time.monotonic() + self._interval_s
        retry_s = 0.0
        while not self._stop.wait(POLL_S):
            try:
                while not self._is_full() and self.fold():
                    if self._stop.is_set():
                        break
                now_s = time.monotonic()
                is_due = self._is_full() or now_s >= due_s
                if is_due and now_s >= retry_s:
                    self.save()
                    due_s = time.monotonic() + self._interval_s
                    self.failure = None
            except NO_SPACE as error:  # an aborted transaction changes nothing: once there is space, all is saved
                if self.failure is None:
                    _log.error("no space to save the state: it stays at %d until there is (%s)", self.position, error)
                self.failure = error
                retry_s = time.monotonic() + RETRY_S
                self.on_saved()  # admission looks again whether to wait for it
            except BaseException as error:  # the log goes on; admission stops once its tables can't be shed
                self.failure, self.has_given_up = error, True
                _log.exception("the state can't be saved any more; it stays at %d", self.position)
                self.on_saved()
                return

    def catch_up(self) -> None:
        """Folds and saves all that is committed, in the caller's thread."""
        last = self._reader.last_sequence()
        if self.position > last:
            raise StateDamaged(
                f"the state was saved at {self.position}, but the log ends at {last}: events are missing from the log",
                hint="look for the log's newest segment, or restore a backup; keep both as they are until then",
            )
        while self._folded < last:
            before = self._folded
            while self.fold() and not self._is_full():
                pass
            if self._folded == before:
                raise StateDamaged(f"no block of the log goes on from {before}, where the state stands, up to {last}")
            self.save()
        self.save()  # what the thread had folded before it was stopped

    # Folding and saving.

    def fold(self) -> bool:
        """Folds the next blocks; False if there are none. Of the thread, or of whoever takes its steps."""
        blocks = self._reader.blocks_after(self._folded, FOLD_BYTES)
        for block in blocks:
            self._overlay.fold(block, self._folded)
            self._folded = block_last(block)
        self.number = max(self.number, self._overlay.number)
        return bool(blocks)

    def _is_full(self) -> bool:
        return self._folded - self.position >= self._events_max or self._overlay.bytes >= OVERLAY_BYTES_MAX

    def save(self) -> None:
        """Writes what was folded since the last save."""
        if self._folded == self.position:
            return
        with self._saved.env.begin(write=True) as txn:
            save_overlay(txn, self._saved.databases, self._overlay)
            meta = self._saved.databases[b"meta"]
            txn.put(b"position", key1(self._folded), db=meta)
            txn.put(b"number", key1(self.number), db=meta)
        self._overlay = Overlay(self._saved, keyed=True)
        self.position = self._folded
        self.saves += 1
        self.on_saved()


def _put(cursor: Any, rows: list[tuple[bytes, bytes]]) -> None:
    consumed, _ = cursor.putmulti(rows)
    if consumed != len(rows):
        raise StateDamaged(f"the state took {consumed} of {len(rows)} rows")


def save_overlay(txn: Any, databases: dict[bytes, Any], overlay: Overlay) -> None:
    """All rows of an overlay into a write transaction, each database in the order of its keys."""
    heads = SortedHeads(overlay.heads)
    with txn.cursor(databases[b"heads"]) as cursor:
        slabs = heads.slabs()
        for at in range(0, len(slabs), ROWS):
            part = slabs[at : at + ROWS]
            saved = dict(cursor.getmulti([key for key, _ in part]))
            _put(cursor, [(key, heads.patch(start, saved.get(key))) for key, start in part])
    windows = SortedWindows(overlay.windows)
    with txn.cursor(databases[b"windows"]) as cursor:
        for at in range(0, windows.count, ROWS):
            keys = windows.keys(at, ROWS)
            _put(cursor, windows.rows(at, keys, cursor.getmulti(keys)))
    _save_dialogs(txn, databases, SortedDialogs(heads))
    _save_rows(txn, databases, overlay)
    if overlay.keys is not None:
        save_keys(txn, databases[b"keys"], overlay.keys)


def _save_dialogs(txn: Any, databases: dict[bytes, Any], dialogs: SortedDialogs) -> None:
    with txn.cursor(databases[b"conversations"]) as cursor:
        for at in range(0, dialogs.count, ROWS):
            _put(cursor, dialogs.conversation_rows(at, ROWS))
    dialogs.sort_by_users()
    with txn.cursor(databases[b"dialogs"]) as cursor:
        for at in range(0, dialogs.count, ROWS):
            _put(cursor, dialogs.dialog_rows(at, ROWS))
    with txn.cursor(databases[b"members"]) as cursor:
        for at in range(0, 2 * dialogs.count, ROWS):
            _put(cursor, dialogs.member_rows(at, ROWS))


def _save_rows(txn: Any, databases: dict[bytes, Any], overlay: Overlay) -> None:
    for conversation in sorted(overlay.conversations):
        row = overlay.conversations[conversation]
        if row is not None:
            txn.put(key1(conversation), pack_conversation(row), db=databases[b"conversations"])
    for user, conversation in sorted(overlay.memberships):
        membership = overlay.memberships[user, conversation]
        if membership is None:
            continue
        txn.put(key2(user, conversation), pack_membership(membership), db=databases[b"members"])
        index = key2(conversation, user)
        if membership.role:
            txn.put(index, bytes([membership.role]), db=databases[b"member_index"])
        else:
            txn.delete(index, db=databases[b"member_index"])
    for target in sorted(overlay.tombstones):
        if overlay.tombstones[target]:
            txn.put(key1(target), key1(overlay.tombstones[target]), db=databases[b"tombstones"])
