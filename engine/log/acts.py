"""What operators did by commands, noted beside the log until it is told as events in it (engine/AUDIT.md).

A command may not write to the log: its one writer may be a server that runs, or none. So it leaves a note,
`data/acts/NAME.json`, before it does what it does; engine/audit.py of the server that runs, or of the next one, posts
the event with the note's name as its key, and takes the note away.

Invariants: a note is written whole and synced before the act begins, so that no act is untold, and one that failed
after that is told too; a note is taken away after its event is in the log. Cost: two syncs an act.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from engine import schema
from engine.errors import EngineUnable
from engine.log.files import write_json
from engine.log.place import is_read_only, make_directory, sync_directory

FOLDER: Final = "acts"
SUFFIX: Final = ".json"
BAD_SUFFIX: Final = ".unreadable"
LOGIN_UID: Final = Path("/proc/self/loginuid")
NO_LOGIN: Final = 2**32 - 1
FORMAT_VERSION: Final = 1
NOTE_BYTES_MAX: Final = 64 << 10  # the longest that a command writes has 2 KB


class Note(Struct, frozen=True, kw_only=True):
    """An event that is to be: its type, and its fields as engine/schema.py has them."""

    type: str
    fields: dict[str, Any]
    format: int = FORMAT_VERSION


def note_act(data: Path, type: str, **fields: Any) -> None:
    """Notes an act of whoever runs this process; root's note belongs to the data directory's user, or no server could
    read it. On a read-only file system, where nothing changes, it does nothing. Raises EngineUnable where the note
    can't be written: then the act must not be done."""
    if is_read_only(data):
        return
    fields = {"time": time.time_ns() // 1_000, "uid": os.getuid(), "login_uid": _login_uid(), **fields}
    note = Note(type=type, fields=msgspec.to_builtins(msgspec.convert(fields, type=schema.SCHEMA[type])))
    try:
        if make_directory(data / FOLDER) and not os.geteuid():
            status = data.stat()
            os.chown(data / FOLDER, status.st_uid, status.st_gid, follow_symlinks=False)
        write_json(data / FOLDER / f"{time.time_ns():020d}-{os.getpid()}{SUFFIX}", note, like=data)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise EngineUnable(
            f"{data / FOLDER} can't be written: {words}; what is done here is noted there first",
            hint="run this as the user of the server" if isinstance(error, PermissionError) else "mend that first",
        ) from error


def noted_acts(data: Path) -> list[Path]:
    """The notes, the oldest first."""
    folder = data / FOLDER
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(SUFFIX) and name[:1].isdigit())
    except FileNotFoundError:
        return []


def unreadable_acts(data: Path) -> int:
    """How many notes were put aside because nobody could read them."""
    try:
        return sum(name.endswith(BAD_SUFFIX) for name in os.listdir(data / FOLDER))
    except FileNotFoundError:
        return 0


def put_aside(path: Path) -> None:
    """Leaves a note that can't be read to people, out of the way of the others."""
    path.rename(path.with_name(path.name + BAD_SUFFIX))


def read_act(path: Path) -> Note:
    """A note. Raises OSError, or ValueError for one that can't be read: a directory, a pipe, or whatever else lies in
    its place must not hold up the others."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > NOTE_BYTES_MAX:
        raise ValueError(f"{path.name} is no file of at most {NOTE_BYTES_MAX} bytes")
    try:
        note = msgspec.json.decode(path.read_bytes(), type=Note)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply for a note") from None
    if note.format != FORMAT_VERSION or note.type not in schema.OF_OPERATORS:
        raise ValueError(f"format {note.format}, type {note.type!r}: this version knows format {FORMAT_VERSION}")
    msgspec.convert(note.fields, type=schema.SCHEMA[note.type])
    return note


def forget_act(path: Path) -> None:
    """Takes a note away, for good."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _login_uid() -> int | None:
    """As whom this process's user logged in, whoever it has become since."""
    try:
        found = int(LOGIN_UID.read_text())
    except (OSError, ValueError):
        return None
    return None if found == NO_LOGIN else found
