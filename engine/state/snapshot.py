"""Snapshots: verified copies of the saved state, from which a log whose first segments are gone can still be opened.

Taken by `gonets log snapshot`, also beside a running server: LMDB copies one moment of the state. A copy counts once
the log, folded up to the same position from the snapshot before it (or from nothing), gives the same rows; then it
gets its name. `data/snapshots/POSITION/` holds data.mdb and a manifest with its SHA-256.

Invariants: a snapshot that has a name was verified and synced; opening believes it only with the right hash, and only
if the log goes on right behind it. Nothing here deletes a snapshot that has a name; trimming does.
Cost: the disk space of the state twice while it is taken; a second for a million events since the last one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from engine import private
from engine.errors import BadArgument, StateDamaged
from engine.lmdbfile import sync_path
from engine.log.files import sha256_of
from engine.ports import OnProgress
from engine.state.replay import Blocks, differences, replay
from engine.state.saved import SavedState

FOLDER: Final = "snapshots"
MANIFEST: Final = "manifest.json"
DATA: Final = "data.mdb"
MAKING: Final = ".new"
FORMAT_VERSION: Final = 1


class Manifest(Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself."""

    format: int
    shard: int
    position: int
    sha256: str


class SnapshotRow(Struct, frozen=True, kw_only=True):
    """One snapshot of a data directory; `problem` is "" for a good one."""

    position: int
    path: str
    bytes: int
    problem: str


class LogEnds(Blocks, Protocol):
    """What is needed of a reader of the log."""

    @property
    def first_sequence(self) -> int:
        """The first sequence that is kept."""
        ...


def take_snapshot(
    data: Path, reader: LogEnds, shard: int, on_progress: OnProgress = lambda what, done, total: None
) -> SnapshotRow:
    """A verified snapshot of the state as saved now. Raises StateDamaged if it doesn't pass, BadArgument."""
    source, target = data / "state", data / FOLDER
    if not (source / DATA).exists():
        raise BadArgument(f"{source} holds no state yet", hint="it is saved within seconds of the first event")
    target.mkdir(private.DIRECTORY_MODE, exist_ok=True)
    sync_path(data)  # its name too: what is trimmed below a snapshot must never outlive it
    making = target / f"{os.getpid()}{MAKING}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(private.DIRECTORY_MODE)
    try:
        position = _copy(source, making, shard)
        named = target / f"{position:020d}"
        if named.exists():
            return row_of(named, shard)
        _verify(making, position, data, reader, shard, on_progress)
        manifest = Manifest(format=FORMAT_VERSION, shard=shard, position=position, sha256=sha256_of(making / DATA))
        private.write_file(making / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for name in (DATA, MANIFEST):
            sync_path(making / name)
        sync_path(making)
        os.rename(making, named)
        sync_path(target)
        return row_of(named, shard)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _copy(source: Path, target: Path, shard: int) -> int:
    """Copies one moment of a state; the position of the copy."""
    saved = SavedState.open(source, shard=shard, read_only=True)
    try:
        private.copy_environment(saved.env, target, compact=True)
    finally:
        saved.close()
    copied = SavedState.open(target, shard=shard, read_only=True)
    try:
        return copied.position()
    finally:
        copied.close()
        (target / "lock.mdb").unlink(missing_ok=True)


def _verify(copy: Path, position: int, data: Path, reader: LogEnds, shard: int, on_progress: OnProgress) -> None:
    """Folds the log to the same position, and compares."""
    folder = copy / "replayed"
    folder.mkdir(private.DIRECTORY_MODE)
    if reader.first_sequence > 1:
        base = newest(data, shard, reader.first_sequence - 1, position)
        if base is None:
            raise StateDamaged(
                f"the log begins at {reader.first_sequence}, and no snapshot reaches that far: this copy"
                " can't be verified"
            )
        private.copy_file(Path(base.path) / DATA, folder / DATA)
    saved = SavedState.open(copy, shard=shard, read_only=True)
    try:
        replayed = replay(reader, position, folder, shard, on_progress)
        try:
            found = next(differences(saved, replayed), None)
        finally:
            replayed.close()
    finally:
        saved.close()
        (copy / "lock.mdb").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    if found is not None:
        raise StateDamaged(
            f"the state saved at {position} is not what the log says: {found}",
            hint="run `gonets log check`; if the log is clean, stop, move the state directory away, start",
        )


def row_of(path: Path, shard: int) -> SnapshotRow:
    """A snapshot, verified by its hash."""
    position = int(path.name)
    problem, size = "", 0
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
        size = (path / DATA).stat().st_size
        if manifest.format != FORMAT_VERSION:
            problem = f"its format is {manifest.format}, not {FORMAT_VERSION}"
        elif manifest.shard != shard or manifest.position != position:
            problem = f"its manifest is of shard {manifest.shard}, position {manifest.position}"
        elif sha256_of(path / DATA) != manifest.sha256:
            problem = f"{DATA} has another SHA-256 than its manifest says"
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = str(error)
    return SnapshotRow(position=position, path=str(path), bytes=size, problem=problem)


def named_snapshots(data: Path) -> list[Path]:
    """The directories of all snapshots, oldest first, not looked into."""
    folder = data / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and len(path.name) == 20)


def snapshots(data: Path, shard: int) -> list[SnapshotRow]:
    """All snapshots of a data directory, oldest first, each with its hash compared."""
    return [row_of(path, shard) for path in named_snapshots(data)]


def newest(data: Path, shard: int, at_least: int, at_most: int) -> SnapshotRow | None:
    """The newest good snapshot in a range of positions."""
    good = [row for row in snapshots(data, shard) if not row.problem and at_least <= row.position <= at_most]
    return good[-1] if good else None


def restore_state(data: Path, shard: int, first_sequence: int, last_sequence: int) -> int:
    """Puts the newest snapshot in the place of a missing state, for what follows to be folded into; its position.

    Raises StateDamaged if the log's beginning is gone and no snapshot reaches up to what is kept.
    """
    row = newest(data, shard, first_sequence - 1, last_sequence)
    if row is None:
        if first_sequence == 1:
            return 0
        raise StateDamaged(
            f"there is no state, the log begins at {first_sequence}, and no snapshot in {data / FOLDER}"
            " reaches that far",
            hint="restore a backup",
        )
    state = data / "state"
    making = data / f"state{MAKING}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(private.DIRECTORY_MODE)
    private.copy_file(Path(row.path) / DATA, making / DATA)
    sync_path(making / DATA)
    sync_path(making)
    if state.exists():
        shutil.rmtree(state)  # without a data file: nothing is in it
    os.rename(making, state)
    sync_path(data)
    return row.position
