"""What lies under the log: the file system, whether a sync means anything there, and how to sync a directory.

Asked when the log is opened. On a file system in memory nothing is called durable.
"""

from __future__ import annotations

import os
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


def make_directory(path: Path) -> None:
    """Makes a directory with its parents, each name synced in the one above."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(DIRECTORY_MODE, exist_ok=True)
        sync_directory(directory.parent)


def is_read_only(path: Path) -> bool:
    """Whether the file system that holds a path can't be written by anybody."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def lie_in_one_another(one: Path, two: Path) -> bool:
    """Whether a path is another one, or below or above it, links followed."""
    first, second = one.resolve(), two.resolve()
    return first == second or first in second.parents or second in first.parents


def not_a_directory(path: Path) -> str:
    """Why a path isn't one, for people."""
    return f"{path} is no directory" if path.exists() else f"{path} is not there"
