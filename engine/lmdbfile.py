"""What LMDB 0.9 doesn't do: make a file that is whole or not there, and look at one before it believes it.

Asked by everything that opens an environment: segments of the log, the saved state, cursors, subscriptions.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb

from engine import private
from engine.errors import LogVersion, StateDamaged
from engine.private import FILE_MODE

# Pages that were taken and given back in one transaction may never have been written: a few may lack for good.
UNWRITTEN_PAGES_MAX: Final = 16
FORMAT_KEY: Final = b"format"  # of what is kept beside the log; no other key there is like it


def cut_off(env: lmdb.Environment, path: Path) -> str:
    """Why a file can't be all that LMDB has written to it; "" if it can.

    A look beyond the end of a file that was cut off ends the process (SIGBUS), with all its sessions.
    """
    needed = (int(env.info()["last_pgno"]) + 1 - UNWRITTEN_PAGES_MAX) * int(env.stat()["psize"])
    size = path.stat().st_size
    return f"{path} was cut off: it has {size} bytes, LMDB has written at least {needed}" if size < needed else ""


def fill_up(env: lmdb.Environment, path: Path) -> None:
    """Gives a file the few pages at its end that `cut_off` lets it lack, as zeros: if they were written and have been
    cut off after all, LMDB finds no page there, and nothing ends by SIGBUS."""
    needed = (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])
    if path.stat().st_size < needed:
        os.truncate(path, needed)


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


def open_beside(
    path: Path, open_env: Callable[[], lmdb.Environment], *, engine: int, version: int, what: str, hint: str
) -> lmdb.Environment:
    """Opens or makes what is kept beside the log (cursors, subscriptions) in a directory; its format lies under
    FORMAT_KEY. `what` and `hint` are the words of a refusal. Raises LogVersion, StateDamaged."""
    private.make_folder(path)
    env = None
    try:
        make_whole(path / "data.mdb", engine)
        env = open_env()
        if words := cut_off(env, path / "data.mdb"):
            raise lmdb.CorruptedError(words)
        fill_up(env, path / "data.mdb")
        env.reader_check()
        with env.begin(write=True) as txn:
            found = txn.get(FORMAT_KEY)
            if found is None:
                txn.put(FORMAT_KEY, bytes([version]))
    except lmdb.Error as error:
        if env is not None:
            env.close()
        raise StateDamaged(f"the {what} in {path} can't be opened: {error}", hint=hint) from error
    if found not in (None, bytes([version])):
        env.close()
        raise LogVersion(f"the {what} in {path} have format {found.hex()}, not {version:02x}")
    return env


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
