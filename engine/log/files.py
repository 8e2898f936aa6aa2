"""Files that come into being whole or not at all: copied with their hash, synced, then named, and the name synced.

Under backup, restore, trimming and the registry of readers. What has a name is complete and on the disk; what was cut
short ends in `.new`, is never believed, and is written over by the next run.

Cost: a copy is one read, one hash and one write of each byte, at most at the rate of its `Pace`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import private
from engine.errors import EngineUnable, LogDamaged
from engine.lmdbfile import sync_path
from engine.log.format import MAKING_SUFFIX
from engine.log.place import sync_directory
from engine.log.space import free_bytes_of

COPY_BYTES: Final = 1 << 20
SPARE_BYTES: Final = 64 << 20  # left free beside what is written: directories, and those who write at the same time

OnBytes = Callable[[int], None]


class Pace:
    """Holds its caller back to so many bytes a second; 0 = as fast as it goes."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self._bytes_per_s = bytes_per_s
        self._spent = 0
        self._began_s = time.monotonic()

    def spend(self, count: int) -> None:
        """Sleeps until so many more bytes are due."""
        if not self._bytes_per_s:
            return
        self._spent += count
        ahead_s = self._spent / self._bytes_per_s - (time.monotonic() - self._began_s)
        if ahead_s > 0:
            time.sleep(ahead_s)


def sha256_of(path: Path, on_bytes: OnBytes = lambda count: None) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(COPY_BYTES):
            digest.update(part)
            on_bytes(len(part))
    return digest.hexdigest()


def copy_file(
    source: Path, target: Path, *, pace: Pace, on_bytes: OnBytes, expected: str = "", noted: Path | None = None
) -> str:
    """Copies a file that nobody changes; its SHA-256. Raises LogDamaged if that is not the expected one. `noted`: a
    file for the hash, which is on the disk before the copy has its name."""
    making = target.with_name(target.name + MAKING_SUFFIX)
    digest = hashlib.sha256()
    with source.open("rb") as file, open(making, "wb", opener=private.opener) as out:
        while part := file.read(COPY_BYTES):
            pace.spend(len(part))
            digest.update(part)
            out.write(part)
            on_bytes(len(part))
        found = digest.hexdigest()
        if expected and found != expected:
            raise LogDamaged(
                f"{source} has the SHA-256 {found}, its manifest says {expected}",
                hint="restore from an older backup, or from another copy of this one",
            )
        out.flush()
        os.fsync(out.fileno())
        # Nobody reads it soon: it must not push the server's pages out of memory.
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if noted is not None:
        note = noted.with_name(noted.name + MAKING_SUFFIX)
        private.write_file(note, f"{found}  {target.name}\n".encode())
        sync_path(note)
        name_file(note, noted)
    name_file(making, target)
    return found


def name_file(making: Path, target: Path) -> None:
    """Gives a synced file its name."""
    os.rename(making, target)
    sync_directory(target.parent)


def write_json(path: Path, value: Any, *, like: Path | None = None) -> None:
    """A small file of JSON, new or in the place of the old one. `like`: see private.write_file."""
    making = path.with_name(f"{path.name}.{os.getpid()}{MAKING_SUFFIX}")
    try:
        private.write_file(making, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n", like=like)
        sync_path(making)
        name_file(making, path)
    except OSError:
        with suppress(OSError):
            making.unlink()  # no other process would write over it
        raise


def remove_directory(path: Path) -> None:
    """Takes a directory's name away first: cut short, it is one in the making."""
    going = path.with_name(path.name + MAKING_SUFFIX)
    shutil.rmtree(going, ignore_errors=True)
    os.rename(path, going)
    sync_directory(path.parent)
    shutil.rmtree(going)


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """EngineUnable where a file system has less room than what is to be written."""
    free_bytes = free_bytes_of(folder)
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise EngineUnable(
            f"{what} needs {needed_bytes:,} bytes and {SPARE_BYTES:,} to spare; {folder} has {free_bytes:,} free",
            hint="make room there, or name a directory on another file system",
        )


@contextmanager
def locked(path: Path, refusal: str = "") -> Iterator[None]:
    """Holds a lock file while inside; waits for it, or raises EngineUnable with `refusal`. The kernel lets go of it
    when the process ends, however it ends."""
    descriptor = _locked(path, refusal)
    while os.fstat(descriptor).st_nlink == 0:  # whoever had it before has taken back what was made in vain
        os.close(descriptor)
        descriptor = _locked(path, refusal)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, refusal: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, private.FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise EngineUnable(refusal, hint="wait until it has ended") from None
        raise
    return descriptor
