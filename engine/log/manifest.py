"""A backup as its manifests describe it: which files it is made of, their hashes, and what they hold of the log.

Written by backup.py, the last thing of each run; read by restore.py and verify.py. A backup directory holds files that
several manifests may share, and a manifest for each complete backup, numbered: the one with the highest number is the
backup of now. What no manifest names is no part of any backup. Layout: engine/LOG_FORMAT.md, Backup.

Invariants: a manifest is written once, after everything that it names is on the disk, and never changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from engine.errors import BadArgument, LogDamaged, LogVersion
from engine.log.format import segment_name
from engine.log.place import not_a_directory

FORMAT_VERSION: Final = 1
LOCK_NAME: Final = "lock"
SEGMENTS, SNAPSHOTS, CURSORS, SUBSCRIPTIONS = "segments", "snapshots", "cursors", "subscriptions"
BESIDE: Final = (CURSORS, SUBSCRIPTIONS)  # what is kept beside the log and copied with it
NAME: Final = re.compile(r"backup-([0-9]{8})\.json")


class FileEntry(Struct, frozen=True, kw_only=True):
    """A file of the backup; `file` from the backup's directory on."""

    file: str
    bytes: int
    sha256: str


class SegmentEntry(FileEntry, frozen=True, kw_only=True):
    """A segment. Sealed: as it was; else its blocks up to the backup's end."""

    first_sequence: int
    last_sequence: int
    sealed: bool

    @property
    def name(self) -> str:
        """Its file's name in a log."""
        return segment_name(self.first_sequence)


class SnapshotEntry(FileEntry, frozen=True, kw_only=True):
    """The data file of a verified snapshot."""

    position: int


class BackupManifest(Struct, frozen=True, kw_only=True):
    """One complete backup: the log from `first_sequence` to `last_sequence`, at the moment `time` (µs)."""

    format: int
    complete: bool
    number: int
    time: int
    source: str
    shard: int
    epochs: list[tuple[int, int]]
    first_sequence: int
    last_sequence: int
    last_hash: str  # SHA-256 of the last block: what the next one would name
    segments: list[SegmentEntry]
    snapshots: list[SnapshotEntry]
    cursors: FileEntry | None
    subscriptions: FileEntry | None = None

    def files(self) -> list[FileEntry]:
        """All of them."""
        beside = (self.cursors, self.subscriptions)
        return [*self.segments, *self.snapshots, *(entry for entry in beside if entry is not None)]

    def total_bytes(self) -> int:
        """Their sizes together."""
        return sum(entry.bytes for entry in self.files())


def manifest_path(folder: Path, number: int) -> Path:
    """The file of a manifest."""
    return folder / f"backup-{number:08d}.json"


def manifest_numbers(folder: Path) -> list[int]:
    """Of all complete backups in a directory, ascending."""
    found = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def read_manifest(folder: Path, number: int | None = None) -> BackupManifest:
    """The newest manifest of a backup directory, or the one of a number. Raises BadArgument, LogVersion, LogDamaged."""
    if not folder.is_dir():
        raise BadArgument(not_a_directory(folder), hint="name the directory that `gonets log backup` was given")
    numbers = manifest_numbers(folder)
    if not numbers:
        raise BadArgument(
            f"{folder} holds no complete backup: there is no backup-….json",
            hint="name the directory that `gonets log backup` was given; run that again if it was cut short",
        )
    if number is not None and number not in numbers:
        raise BadArgument(f"--number {number}: {folder} holds the backups {', '.join(map(str, numbers))}")
    path = manifest_path(folder, numbers[-1] if number is None else number)
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=BackupManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LogDamaged(f"{path} can't be read: {error}", hint="restore an older one with --number") from None
    if manifest.format != FORMAT_VERSION:
        raise LogVersion(f"{path} has format {manifest.format}; this program reads format {FORMAT_VERSION}")
    for entry in manifest.files():
        if entry.file.startswith("/") or ".." in entry.file.split("/"):
            raise LogDamaged(f"{path} names {entry.file!r}, which is no file of a backup")
    return manifest
