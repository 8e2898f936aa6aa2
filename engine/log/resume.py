"""What a verification that was cut short had found by then, in `verify.new/` beside what it looks at.

Written by `gonets log verify`: a line for each file whose hash is right; the copy of the state and what is folded
beside it (check.py); and, at the ends of segments, what the check knows there. The next run goes on from it where all
that had been looked at is as it was (name, size, time) and was looked at less than a day ago, else it begins anew.
Where the place can't be written, nothing is kept.

Invariants: nothing that is torn is believed; one verification at a time; removed at the end of one.
Cost: the check's tables are written once as much log has been read as they hold.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from engine import private
from engine.errors import EngineError
from engine.lmdbfile import sync_path
from engine.log.files import locked, name_file
from engine.log.format import MAKING_SUFFIX

FOLDER: Final = "verify.new"
LOCK_NAME: Final = "lock"
SUBJECT: Final = "subject.json"
HASHES: Final = "hashes"
CHECK: Final = "check-2"  # another name when its form changes: what another version has kept is not gone on with
AGE_S_MAX: Final = 86_400
SIZE_BYTES: Final = 8

Seen = list[tuple[str, int, int]]  # of files: name, size, when changed


class Point(Struct, frozen=True, kw_only=True):
    """Where the check stood at the end of a segment."""

    seen: Seen  # the segments up to there
    last: int
    hash: bytes | None
    epochs: tuple[tuple[int, int], ...]
    holes: list[tuple[int, int]]
    problems: list[dict[str, Any]]
    problem_count: int
    blocks: int
    position: int
    is_position_an_end: bool


class _Subject(Struct, frozen=True, kw_only=True):
    """What is verified, and since when."""

    what: str
    time_s: float


class Work:
    """The directory, in which the check puts its own files too. `is_kept` False: it ends with the process."""

    def __init__(self, folder: Path, what: str, is_kept: bool) -> None:
        self.folder, self.is_kept = folder, is_kept
        self._hashes: dict[str, list[Any]] = {}
        if not self._is_same(what):
            for path in folder.iterdir():
                if path.name != LOCK_NAME:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            private.write_file(folder / SUBJECT, msgspec.json.encode(_Subject(what=what, time_s=time.time())))
        self._read_hashes()

    def _is_same(self, what: str) -> bool:
        try:
            subject = msgspec.json.decode((self.folder / SUBJECT).read_bytes(), type=_Subject)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return False
        return subject.what == what and 0 <= time.time() - subject.time_s < AGE_S_MAX

    # Hashes of files.

    def _read_hashes(self) -> None:
        path = self.folder / HASHES
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                file, *row = msgspec.json.decode(line, type=tuple[str, int, int, str])
            except (msgspec.DecodeError, UnicodeDecodeError):  # cut short
                continue
            self._hashes[file] = row

    def known_hash(self, path: Path) -> str | None:
        """The hash that was found for a file, if it has not changed since."""
        row = self._hashes.get(str(path))
        if row is None or row[:2] != list(_looks(path)):
            return None
        return str(row[2])

    def note_hash(self, path: Path, digest: str) -> None:
        """One that needn't be read again."""
        with open(self.folder / HASHES, "ab", opener=private.opener) as file:
            file.write(b"\n" + msgspec.json.encode((str(path), *_looks(path), digest)))

    # The check.

    def save(self, point: Point, parts: Iterable[bytes]) -> None:
        """Keeps a point of the check and its tables, each part behind its size."""
        target = self.folder / CHECK
        making = target.with_name(target.name + MAKING_SUFFIX)
        with open(making, "wb", opener=private.opener) as file:
            for part in chain([msgspec.msgpack.encode(point)], parts):
                file.write(len(part).to_bytes(SIZE_BYTES, "little"))
                file.write(part)
        sync_path(making)
        name_file(making, target)

    def load(self, segments: list[Path]) -> tuple[Point, Iterator[bytes]] | None:
        """The point that was kept and its tables, if the first of these segments are those that it had seen."""
        path = self.folder / CHECK
        if not path.exists():
            return None
        parts = _parts(path)
        point = msgspec.msgpack.decode(next(parts), type=Point)
        is_as_it_was = point.seen == seen(segments[: len(point.seen)])
        return (point, parts) if is_as_it_was else None


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size := file.read(SIZE_BYTES):
            yield file.read(int.from_bytes(size, "little"))


def seen(paths: Iterable[Path]) -> Seen:
    """How files look from outside: another one would look otherwise."""
    return [(path.name, *_looks(path)) for path in paths]


def _looks(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except OSError:  # whoever reads it will say so
        return 0, 0
    return about.st_size, about.st_mtime_ns


@contextmanager
def work_in(place: Path, what: str) -> Iterator[Work]:
    """The work directory of a place, for the verification of `what`. Raises EngineUnable if another one is at work."""
    folder = place / FOLDER
    try:
        folder.mkdir(private.DIRECTORY_MODE, exist_ok=True)
        (folder / LOCK_NAME).touch(private.FILE_MODE)
    except OSError:  # no permission, a read-only file system, no space: verifying needs none of it
        with tempfile.TemporaryDirectory(prefix="gonets-verify-") as name:
            yield Work(Path(name), what, False)
        return
    with locked(folder / LOCK_NAME, f"another verification of {place} is at work"):
        try:
            yield Work(folder, what, True)
        except EngineError:  # nothing is gone on with; only what cuts a run short leaves its work
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
