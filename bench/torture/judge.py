"""What a cut or a kill has left, judged: every receipt is looked for; log, state, snapshots and backups are verified.

The log is opened as a server opens it. A backup counts once its verb has said so, and from its manifest on: it must
verify, restore, and hold every receipt up to its position; without a manifest it must be refused as unfinished.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine import CursorStore, Engine
from engine.errors import BadArgument
from engine.log.manifest import manifest_numbers, read_manifest
from engine.log.restore import restore_log
from engine.log.verify import verify_log
from ext.record import decode

SEGMENT_BYTES: Final = 96 << 10
RECEIPT, BACKUP, FENCED = b"receipt", b"backup", b"fenced"


class Failure(Exception):
    """Something that had a receipt is lost, or what is left isn't whole."""


class Receipt(NamedTuple):
    """An event that its sender was told of."""

    sequence: int
    user: int
    device: int
    counter: int


class Said:
    """What a writer had told the world by a moment."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.backup = 0  # number of the newest that was called complete
        self.fenced = 0

    def hear(self, line: bytes) -> None:
        """One more line of writer.py."""
        word, *numbers = line.split()
        if word == RECEIPT:
            self.receipts.append(Receipt(*map(int, numbers)))
        elif word == BACKUP:
            self.backup = int(numbers[0])
        else:
            assert word == FENCED, line
            self.fenced += 1


def judge(place: Path, said: Said) -> Counter[str]:
    """Log, snapshots and backup below a place; what was looked at. Raises Failure."""
    data, counts = place / "data", Counter[str]()
    _open(data, said.receipts)
    if problems := verify_log(data, None, _quiet)["problems"]:
        raise Failure(f"gonets log verify: {problems[:3]}")
    counts["receipts looked for"] += len(said.receipts)
    return counts + _backups(place / "backup", place / "restored", said)


def _open(data: Path, receipts: Iterable[Receipt]) -> None:
    """As a server does."""
    engine = Engine.open(data, on_answers=lambda answers: None, on_committed=lambda sequence: None, threads=False)
    try:
        reader = engine.log.reader()
        for receipt in receipts:
            if receipt.sequence < reader.first_sequence:
                continue
            record = reader.record(receipt.sequence)
            found = None if record is None else decode(record)
            if found is None or Receipt(found.sequence, found.sender, found.device, found.counter) != receipt:
                raise Failure(f"{receipt} is lost: {found}")
    finally:
        engine.release()
    CursorStore.open(data / "cursors", interval_s=60.0).close()


def _backups(folder: Path, restored: Path, said: Said) -> Counter[str]:
    numbers = manifest_numbers(folder) if folder.is_dir() else []
    if said.backup and (not numbers or numbers[-1] < said.backup):
        raise Failure(f"backup {said.backup} was called complete, there are {numbers}")
    if not numbers:
        if folder.is_dir():
            _refused(lambda: verify_log(folder, None, _quiet))
            _refused(lambda: _restore(folder, restored))
            if restored.exists():
                raise Failure("an unfinished backup was restored")
        return Counter({"unfinished backups refused": int(folder.is_dir())})
    for number in numbers:
        if problems := verify_log(folder, number, _quiet)["problems"]:
            raise Failure(f"backup {number} is damaged: {problems[:3]}")
    last = read_manifest(folder).last_sequence
    _restore(folder, restored)
    _open(restored, [receipt for receipt in said.receipts if receipt.sequence <= last])
    shutil.rmtree(restored)
    return Counter({"backups verified": len(numbers), "backups restored": 1})


def _restore(folder: Path, target: Path) -> None:
    restore_log(folder, target, number=None, segment_bytes=SEGMENT_BYTES, bytes_per_s=0, on_progress=_quiet)


def _refused(call: Callable[[], Any]) -> None:
    """As unfinished, and for no other reason."""
    try:
        call()
    except BadArgument as error:
        if "complete backup" not in error.detail:
            raise
    else:
        raise Failure("an unfinished backup was taken for a complete one")


def _quiet(what: str, done: int, total: int) -> None:
    """Nobody looks."""
