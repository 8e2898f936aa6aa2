"""The registry of durable readers: who still needs which part of the log, so that trimming asks before it removes.

`data/readers/NAME.json` is the word of a reader that outlives its process: a backup that is kept up to date, a
subscription. It has everything up to `position` and needs what follows. `data/readers/NAME.pin` is the same for as
long as a process reads: the process holds a lock on it, so that the pin of one that died is known for what it is.
Any process may write its own entry; only trimming reads all of them, with the registry locked.

Invariants: an entry is written whole; one that can't be read counts as needing everything; while trimming decides and
removes, no pin is made. Cost: a small file a move; durable readers move once a backup, or every few seconds.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from engine.errors import BadArgument, EngineUnable
from engine.log.files import locked, write_json
from engine.log.place import is_read_only, make_directory, sync_directory
from engine.private import FILE_MODE

FOLDER: Final = "readers"
LOCK_NAME: Final = "lock"
TRIM_LOCK_NAME: Final = "trim-lock"
ENTRY, PIN = ".json", ".pin"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
FORMAT_VERSION: Final = 1


class ReaderRow(Struct, frozen=True, kw_only=True):
    """One durable reader. It has everything up to `position`, and needs what follows."""

    name: str
    kind: str  # backup, subscription; of a pin: what the process does
    position: int
    time: int  # µs, of its last word
    detail: str = ""
    format: int = FORMAT_VERSION

    def words(self) -> str:
        """For people."""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.kind} {self.name}{detail}, which has everything up to {self.position}"


def note_reader(data: Path, name: str, kind: str, position: int, detail: str = "") -> ReaderRow:
    """The newest word of a durable reader. Raises BadArgument for a name that can't be a file's."""
    if not NAME.fullmatch(name):
        raise BadArgument(f"reader {name!r}: a name has 1 to 128 of a-z, 0-9, '.', '_', '-', a letter or digit first")
    row = ReaderRow(name=name, kind=kind, position=position, time=_now_us(), detail=detail)
    make_directory(data / FOLDER)
    write_json(data / FOLDER / f"{name}{ENTRY}", row)
    return row


def forget_reader(data: Path, name: str) -> None:
    """Trimming asks it no more. Raises BadArgument if there is none of that name."""
    path = data / FOLDER / f"{name}{ENTRY}"
    if not NAME.fullmatch(name) or not path.exists():
        known = ", ".join(row.name for row in readers(data)) or "none"
        raise BadArgument(f"there is no reader {name!r}; known: {known}")
    path.unlink()
    sync_directory(path.parent)


def readers(data: Path) -> list[ReaderRow]:
    """All that need something, pins of living processes too."""
    folder = data / FOLDER
    if not folder.is_dir():
        return []
    rows = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ENTRY or (path.suffix == PIN and _is_held(path)):
            try:
                rows.append(_row_of(path))
            except FileNotFoundError:
                continue
    return rows


def _row_of(path: Path) -> ReaderRow:
    try:
        row = msgspec.json.decode(path.read_bytes(), type=ReaderRow)
        if row.format == FORMAT_VERSION and row.position >= 0:
            return row
        problem = f"format {row.format}, position {row.position}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    return ReaderRow(name=path.stem, kind="unknown", position=0, time=0, detail=f"{path.name} can't be read: {problem}")


def _is_held(path: Path) -> bool:
    """Whether the process of a pin lives; the file of one that doesn't is taken away."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)


@contextmanager
def pinned(data: Path, kind: str, position: int = 0) -> Iterator[None]:
    """While inside, trimming leaves what follows a position. Waits for one that is at work. On a read-only file system,
    where nobody trims, nothing is written."""
    if is_read_only(data):
        yield
        return
    try:
        make_directory(data / FOLDER)
        path = data / FOLDER / f"{kind}-{os.getpid()}-{time.monotonic_ns()}{PIN}"
        with registry_locked(data):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            row = ReaderRow(name=path.stem, kind=kind, position=position, time=_now_us(), detail="it runs now")
            os.write(descriptor, msgspec.json.encode(row))
    except PermissionError as error:
        raise EngineUnable(
            f"{data / FOLDER} can't be written: permission denied; a lock file must be written there even to read",
            hint="run this as the user of the server",
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def registry_locked(data: Path) -> Iterator[None]:
    """While inside, nobody else makes a pin or trims. The directory must be there."""
    with locked(data / FOLDER / LOCK_NAME):
        yield


def _now_us() -> int:
    return time.time_ns() // 1_000
