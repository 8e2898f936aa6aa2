"""What LMDB 0.9 doesn't do: make a file that is whole or not there, and look at one before it believes it.

Asked by everything that opens an environment: segments of the log, the saved state, cursors.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import lmdb

from engine.private import FILE_MODE

# Pages that were taken and given back in one transaction may never have been written: a few may lack for good.
UNWRITTEN_PAGES_MAX: Final = 16


def cut_off(env: lmdb.Environment, path: Path) -> str:
    """Why a file can't be all that LMDB has written to it; "" if it can.

    A look beyond the end of a file that was cut off ends the process (SIGBUS), with all its sessions.
    """
    needed = (int(env.info()["last_pgno"]) + 1 - UNWRITTEN_PAGES_MAX) * int(env.stat()["psize"])
    size = path.stat().st_size
    return f"{path} was cut off: it has {size} bytes, LMDB has written at least {needed}" if size < needed else ""


def make_whole(path: Path, engine: int) -> None:
    """An empty environment with this name, if there is none: synced before it is named.

    LMDB writes the first pages of a new file in place, and syncs them with the first commit: cut short in between, it
    takes its own file for damaged ever after.
    """
    if path.exists():
        return
    making = path.with_name(f"{path.name}.new")
    making.unlink(missing_ok=True)
    lmdb.open(str(making), subdir=False, lock=False, mode=FILE_MODE, lib_version=engine).close()
    sync_path(making)
    os.rename(making, path)
    sync_path(path.parent)


def system_error(error: lmdb.Error) -> OSError | None:
    """What the system refused, where LMDB passes that on: in words behind its own, without a number."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOENT):
        if str(error).endswith(os.strerror(number)):
            return OSError(number, os.strerror(number))
    return None


def sync_path(path: Path) -> None:
    """Makes a file's bytes, or a directory's names, survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
