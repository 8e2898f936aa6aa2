"""What lies under the log: the file system, whether a sync means anything there, and how to sync a directory.

Asked when the log is opened. On a file system in memory nothing is called durable.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.private import DIRECTORY_MODE

RESTORING = "restoring.new"  # in a data directory that a restore is still putting together
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_ESCAPES = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds a path, as the kernel names it; "unknown" where it says nothing."""
    where, best, kind_found = os.path.realpath(path), "", "unknown"
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return kind_found
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        for escape, character in _ESCAPES.items():
            point = point.replace(escape, character)
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind_found = point, kind
    return kind_found


def durability_of(filesystem: str) -> str:
    """What a receipt means: "fsync", or that a crash of the machine takes everything."""
    return f"none ({filesystem})" if filesystem in IN_MEMORY else "fsync"


def sync_directory(path: Path) -> None:
    """Makes the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> list[Path]:
    """Makes a directory with its parents, each name synced in the one above; those made, innermost first."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    try:
        for directory in reversed(missing):
            directory.mkdir(DIRECTORY_MODE, exist_ok=True)
            sync_directory(directory.parent)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def remove_empty(directories: list[Path]) -> None:
    """Takes back what was made in vain, innermost first; what holds something stays."""
    for directory in directories:
        with suppress(OSError):
            directory.rmdir()


def is_read_only(path: Path) -> bool:
    """Whether the file system that holds a path can't be written by anybody."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def overlap(one: Path, two: Path) -> str:
    """How a path is another one, or lies below or above it, links followed, in words; "" if it doesn't."""
    first, second = one.resolve(), two.resolve()
    if first == second:
        return f"{one} is {two} itself" if one == two else f"{one} and {two} are the same directory"
    return f"{one} lies in {two}" if second in first.parents else f"{two} lies in {one}" * (first in second.parents)


def data_directory_above(path: Path) -> Path | None:
    """The data directory that a path lies in, links followed, if there is one."""
    for above in path.resolve().parents:
        with suppress(OSError):  # not there, or nothing that may be looked into
            if any(name[:1].isdigit() and name.endswith(".lmdb") for name in os.listdir(above / "log")):
                return above
    return None


def not_a_directory(path: Path) -> str:
    """Why a path isn't one, for people."""
    return f"{path} is no directory" if path.exists() else f"{path} is not there"
