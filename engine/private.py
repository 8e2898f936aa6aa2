"""Files and directories that only their owner may read: messages lie in them as they were written.

Used wherever the engine or the gateway makes something in a data directory or in a backup. The mode is given at the
making, so that no umask opens it and nobody gets in between; what is there already stays as its owner has set it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import lmdb

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600


def opener(path: str, flags: int) -> int:
    """For `open`: a file that is made by it is private."""
    return os.open(path, flags, FILE_MODE)


def make_folder(path: Path) -> None:
    """Makes a directory, and those above it that lack; one that is there stays as it is. Raises OSError."""
    try:
        path.mkdir(DIRECTORY_MODE, exist_ok=True)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent)
        path.mkdir(DIRECTORY_MODE, exist_ok=True)


def write_file(path: Path, data: bytes, *, like: Path | None = None) -> None:
    """As Path.write_bytes. `like`: root gives the file to whom this path belongs, who must be able to read it."""
    with open(path, "wb", opener=opener) as file:
        if like is not None and not os.geteuid():
            status = like.stat()
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    """As shutil.copyfile."""
    with source.open("rb") as file, open(target, "wb", opener=opener) as out:
        shutil.copyfileobj(file, out, 1 << 20)


def copy_environment(env: lmdb.Environment, folder: Path, *, compact: bool) -> None:
    """A copy of one moment in a directory made here, which nobody else enters: LMDB has a mode of its own."""
    env.copy(str(folder), compact=compact)
    os.chmod(folder / "data.mdb", FILE_MODE)
