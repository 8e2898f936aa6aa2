"""Fetches from the saved state what admission lacks, so that admission itself does no I/O.

Beside the sequencer's admission thread: it is handed the keys of proposals that were put aside, reads them in one
short transaction (targets of edits from the log), and hands back rows that the admission thread takes into its
tables. One request is under way at a time; what is missed meanwhile waits for the next. Hence a row can't come back
older than what admission knew when it asked: nothing is shed while a request is out.

Cost: about two microseconds a key when the pages are in memory; a cold page delays only those who wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from engine.control import Target
from engine.conversations import DIALOG
from engine.errors import LogDamaged, Trimmed
from engine.state.overlay import Overlay
from engine.state.saved import ConversationRow, MembershipRow, SavedReader, SavedState, key1
from ext.record import decode
from ext.saving import HEADS_PER_SLAB, load_heads, load_windows

_log = logging.getLogger(__name__)


class RecordReader(Protocol):
    """What the loader needs of the log."""

    def record(self, sequence: int) -> bytes | None:
        """The record at a sequence; None if it isn't there yet."""


class Missing(NamedTuple):
    """Keys that a walk lacked. The byte strings are concatenated big-endian keys, with repeats."""

    windows: bytes = b""
    heads: bytes = b""  # conversation ‖ user who would publish
    members: bytes = b""  # user ‖ conversation, for the tables
    dialogs: bytes = b""  # lower user ‖ higher user
    conversations: frozenset[int] = frozenset()  # rows for control events
    memberships: frozenset[tuple[int, int]] = frozenset()
    targets: frozenset[int] = frozenset()


class Loaded(NamedTuple):
    """What was found; absent keys are told too, as None, 0 or by not being in a found list."""

    windows: tuple[list[bytes], list[tuple[bytes, bytes]]]
    heads: tuple[list[bytes], list[tuple[bytes, bytes]], dict[int, bytes]]
    roles: list[tuple[int, int, int]]  # conversation, user, role
    dialogs: list[tuple[int, int, int]]
    conversations: dict[int, ConversationRow | None]
    memberships: dict[tuple[int, int], MembershipRow | None]
    targets: dict[int, Target | None]
    tombstones: dict[int, int]

    def into(self, overlay: Overlay) -> None:
        """Takes everything into admission's overlay, in its thread."""
        load_windows(overlay.windows, *self.windows)
        load_heads(overlay.heads, *self.heads)
        if overlay.members is not None:
            for conversation, user, role in self.roles:
                overlay.members.load(conversation, user, role)
        for first, second, conversation in self.dialogs:
            overlay.dialogs.load(first, second, conversation)
        overlay.load_rows(self.conversations, self.memberships, self.tombstones)


def split_keys(data: bytes) -> list[bytes]:
    """Distinct 16-byte keys, ascending."""
    return sorted({data[at : at + 16] for at in range(0, len(data), 16)})


def load(saved: SavedState, records: RecordReader, missing: Missing) -> Loaded:
    """Reads all missing keys. A target that the log does not have yet stays missing."""
    with saved.read() as rows:
        window_keys = split_keys(missing.windows)
        windows = rows.get_many(b"windows", window_keys)
        dialog_keys = split_keys(missing.dialogs)
        dialogs_found = dict(rows.get_many(b"dialogs", dialog_keys))
        dialogs = [
            (
                int.from_bytes(key[:8], "big"),
                int.from_bytes(key[8:], "big"),
                int.from_bytes(dialogs_found.get(key, b""), "big"),
            )
            for key in dialog_keys
        ]
        publishers = split_keys(missing.heads)
        wanted = {key[:8] for key in publishers} | set(dialogs_found.values())
        wanted |= {key1(conversation) for conversation in missing.conversations}
        heads = _heads(rows, sorted(wanted))
        kinds = {key: value[0] for key, value in heads[1]}
        member_keys = set(split_keys(missing.members))
        member_keys |= {key[8:] + key[:8] for key in publishers if kinds.get(key[:8], DIALOG) != DIALOG}
        roles = _roles(rows, sorted(member_keys))
        conversations = {number: rows.conversation(number) for number in missing.conversations}
        memberships = {key: rows.membership(*key) for key in missing.memberships}
        tombstones = {target: rows.tombstone(target) for target in missing.targets}
    targets = {}
    for sequence in sorted(missing.targets):
        found, target = _target(records, sequence)
        if found:
            targets[sequence] = target
    return Loaded((window_keys, windows), heads, roles, dialogs, conversations, memberships, targets, tombstones)


def _heads(rows: SavedReader, keys: list[bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]], dict[int, bytes]]:
    numbers = sorted({int.from_bytes(key, "big") // HEADS_PER_SLAB for key in keys})
    found = rows.get_many(b"heads", [key1(number) for number in numbers])
    slabs = {int.from_bytes(key, "big"): value for key, value in found}
    return keys, rows.get_many(b"conversations", keys), slabs


def _roles(rows: SavedReader, keys: list[bytes]) -> list[tuple[int, int, int]]:
    found = dict(rows.get_many(b"members", keys))
    return [
        (int.from_bytes(key[8:], "big"), int.from_bytes(key[:8], "big"), found[key][0] if key in found else 0)
        for key in keys
    ]


def _target(records: RecordReader, sequence: int) -> tuple[bool, Target | None]:
    """(whether the log has come so far, what is there)."""
    try:
        data = records.record(sequence)
    except (Trimmed, LogDamaged):  # one damaged record stops those who edit it, not the writer
        return True, None
    if data is None:
        return False, None
    record = decode(data)
    return True, Target(record.conversation, record.sender, record.type)


class Loader:
    """The thread. `request` is called by admission, `on_loaded` by this thread; without it, by the one that steps."""

    def __init__(
        self,
        saved: SavedState,
        records: Callable[[], RecordReader],
        on_loaded: Callable[[Loaded | BaseException], None],
    ) -> None:
        self._saved = saved
        self._records = records
        self._on_loaded = on_loaded
        self._requests: SimpleQueue[Missing | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    def start(self) -> None:
        """Begins to take requests."""
        self._thread.start()

    def request(self, missing: Missing) -> None:
        """Asks for keys; on_loaded follows."""
        self._requests.put(missing)

    def stop(self) -> None:
        """Ends the thread after what it is doing."""
        self._requests.put(None)
        self._thread.join()

    def step(self) -> bool:
        """Serves the request that waits, in the caller's thread; False if there is none."""
        missing = None if self._requests.empty() else self._requests.get()
        if missing is not None:
            self._serve(missing, self._records())
        return missing is not None

    def _run(self) -> None:
        records = self._records()
        while (missing := self._requests.get()) is not None:
            self._serve(missing, records)

    def _serve(self, missing: Missing, records: RecordReader) -> None:
        try:
            loaded: Loaded | BaseException = load(self._saved, records, missing)
        except BaseException as error:
            _log.exception("the saved state can't be read")
            loaded = error
        self._on_loaded(loaded)
