"""`gonets log restore`: a data directory made anew from a backup, in which a new epoch begins.

Everything is put together in `restoring.new/` inside the target and gets its place at the end, the log last: as long
as that directory is there, no server opens the target. Each file is compared with its hash while it is copied. The new
epoch is a new segment behind the last block, without a block, whose header lists it: that is how a log says it.
The state is folded from the newest snapshot to the log's end, and marks that are ahead of it are taken back; places of
subscriptions are cut back when they are next opened, if any is (engine/subscriptions/places.py).

Invariants: nothing is written into a directory that holds anything else; killed at any point, the same command goes on
with the files that are there; a restore of one backup has one epoch, however often it was cut short, and two restores
have two: the number is drawn, so that positions of one are never taken for the other's.
Cost: one read and one write of the backup, and a second for a million events since its newest snapshot.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import struct
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec
from msgspec import Struct

from engine.errors import BadArgument, EngineError, LogDamaged, StateDamaged
from engine.lmdbfile import sync_path
from engine.log import format as fmt
from engine.log.acts import note_act, noted_acts
from engine.log.files import (
    Pace,
    copy_file,
    locked,
    name_file,
    require_space,
    write_json,
)
from engine.log.format import SegmentHeader
from engine.log.manifest import CURSORS, SNAPSHOTS, SUBSCRIPTIONS, BackupManifest, SnapshotEntry, read_manifest
from engine.log.place import (
    RESTORING,
    data_directory_above,
    make_directory,
    overlap,
    remove_empty,
    sync_directory,
)
from engine.log.reader import Reader
from engine.log.segments import Segments
from engine.log.verbs import opened
from engine.log.writer import create_segment, map_bytes_of
from engine.ports import OnProgress
from engine.schema import ADMIN_RESTORED
from engine.state.replay import replay
from engine.state.saved import SavedState
from engine.state.snapshot import DATA, MANIFEST, Manifest

PLAN: Final = "plan.json"
STATE: Final = "state"
LOCK_NAME: Final = "lock"
EPOCH_MAX: Final = (1 << 32) - 1
EPOCH_SHARE: Final = 256  # of the numbers that are left, a restore draws from the first 1/256
MARK: Final = struct.Struct("<QQ")  # engine/log/cursors.py
MARK_KEY_BYTES: Final = 16


class Plan(Struct, frozen=True, kw_only=True):
    """What a restore into this directory is of; the same again after it was cut short."""

    manifest_sha256: str
    epoch: int


def restore_log(
    folder: Path, data: Path, *, number: int | None, segment_bytes: int, bytes_per_s: int, on_progress: OnProgress
) -> dict[str, Any]:
    """What was restored, and the new epoch. Raises EngineError, OSError."""
    if bytes_per_s < 0:
        raise BadArgument(f"--bytes-per-s {bytes_per_s}: must be at least 0; 0 is as fast as it goes")
    manifest = read_manifest(folder, number)
    if words := overlap(data, folder):
        raise BadArgument(f"{words}: name a data directory elsewhere")
    if (above := data_directory_above(data)) is not None:
        raise BadArgument(f"--data {data} lies in another data directory, {above}: name one elsewhere")
    base = _base(manifest)
    making = data / RESTORING
    _check_target(data)
    made = make_directory(making)
    with locked(making / LOCK_NAME, f"another restore into {data} is at work"):
        taken_back = 0
        if not (data / fmt.FOLDER).exists():
            try:
                if not (making / fmt.FOLDER).exists():
                    require_space(data, manifest.total_bytes(), "the restored log")
                plan = _plan(making, manifest)
            except EngineError:
                if made:  # nothing was in it
                    shutil.rmtree(making)
                    remove_empty(made)
                raise
            restore = _Restore(folder, data, manifest, plan, Pace(bytes_per_s), on_progress)
            restore.files()
            restore.begin_epoch(map_bytes_of(segment_bytes))
            taken_back = restore.state(base)
            restore.place()
        with opened(data) as segments:
            epoch, begins = segments.header(segments.firsts[-1]).epochs[-1]
        if not noted_acts(data):  # else it was cut short behind it
            note_act(data, ADMIN_RESTORED, backup=manifest.number, epoch=epoch, last=manifest.last_sequence)
        shutil.rmtree(making)
        sync_directory(data)
    return {
        "data": str(data),
        "backup": str(folder),
        "number": manifest.number,
        "shard": manifest.shard,
        "first_sequence": manifest.first_sequence,
        "last_sequence": manifest.last_sequence,
        "epoch": epoch,
        "epoch_begins": begins,
        "segments": len(manifest.segments),
        "snapshots": [entry.position for entry in manifest.snapshots],
        "bytes": manifest.total_bytes(),
        "marks_taken_back": taken_back,
        "subscriptions": manifest.subscriptions is not None,
    }


def _base(manifest: BackupManifest) -> SnapshotEntry | None:
    """The snapshot that the state is folded on from; None: from the log's beginning."""
    good = [
        entry for entry in manifest.snapshots if manifest.first_sequence - 1 <= entry.position <= manifest.last_sequence
    ]
    if not good and manifest.first_sequence > 1:
        raise StateDamaged(
            f"the backup's log begins at {manifest.first_sequence}, and no snapshot in it reaches that far",
            hint="restore an older one with --number",
        )
    return good[-1] if good else None


def _check_target(data: Path) -> None:
    """New, empty, or a restore that was cut short."""
    if not data.exists():
        return
    if not data.is_dir():
        raise BadArgument(f"{data} is no directory", hint="name a new or empty one")
    held = sorted(path.name for path in data.iterdir() if path.name != "lost+found")
    if held and RESTORING not in held:
        raise BadArgument(
            f"{data} is not empty: it holds {held[0]!r}", hint="name a new or empty directory; nothing is written over"
        )


def _plan(making: Path, manifest: BackupManifest) -> Plan:
    """Draws the epoch, once."""
    digest = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    if (making / PLAN).exists():
        plan = msgspec.json.decode((making / PLAN).read_bytes(), type=Plan)
        if plan.manifest_sha256 != digest:
            raise BadArgument(
                f"{making} holds half a restore of another backup",
                hint="go on with that one, or remove the directory and begin anew",
            )
        return plan
    before = max(epoch for epoch, _ in manifest.epochs)
    room = (EPOCH_MAX - before) // EPOCH_SHARE
    if room < 1:
        raise BadArgument(f"epoch {before} leaves no numbers for a new one, at most {EPOCH_MAX}")
    plan = Plan(manifest_sha256=digest, epoch=before + 1 + secrets.randbelow(room))
    write_json(making / PLAN, plan)
    return plan


class _Restore:
    """One run."""

    def __init__(
        self, folder: Path, data: Path, manifest: BackupManifest, plan: Plan, pace: Pace, on_progress: OnProgress
    ) -> None:
        self._folder, self._data, self._manifest, self._plan = folder, data, manifest, plan
        self._making = data / RESTORING
        self._pace, self._on_progress = pace, on_progress
        self._done = 0
        for name in (fmt.FOLDER, SNAPSHOTS, CURSORS):
            if not (data / name).exists():
                make_directory(self._making / name)

    # Files.

    def files(self) -> None:
        """Copies what isn't there yet. What has its name was compared, and is on the disk."""
        manifest, making = self._manifest, self._making
        for entry in manifest.segments:
            self._copy(entry.file, making / fmt.FOLDER / entry.name, entry.sha256, entry.bytes)
        for snapshot in manifest.snapshots:
            target = making / SNAPSHOTS / f"{snapshot.position:020d}"
            if (self._data / SNAPSHOTS).exists():
                continue
            make_directory(target)
            self._copy(snapshot.file, target / DATA, snapshot.sha256, snapshot.bytes)
            if not (target / MANIFEST).exists():
                described = Manifest(format=1, shard=manifest.shard, position=snapshot.position, sha256=snapshot.sha256)
                write_json(target / MANIFEST, described)
        if manifest.cursors is not None and (making / CURSORS).exists():
            entry_of = manifest.cursors
            # Under another name until its marks have been looked at.
            if not (making / CURSORS / DATA).exists():
                self._copy(entry_of.file, making / CURSORS / f"copy.{DATA}", entry_of.sha256, entry_of.bytes)
        if (places := manifest.subscriptions) is not None and not (self._data / SUBSCRIPTIONS).exists():
            make_directory(making / SUBSCRIPTIONS)
            self._copy(places.file, making / SUBSCRIPTIONS / DATA, places.sha256, places.bytes)

    def _copy(self, file: str, target: Path, expected: str, size_bytes: int) -> None:
        if not target.exists():
            source = self._folder / file
            if not source.exists():
                raise LogDamaged(f"{source} is missing, though the backup's manifest names it", hint="try --number")
            copy_file(source, target, expected=expected, pace=self._pace, on_bytes=self._took)
        else:
            self._took(size_bytes)

    def _took(self, count: int) -> None:
        self._done += count
        total = self._manifest.total_bytes()
        self._on_progress("copy", min(self._done, total), total)

    # The epoch.

    def begin_epoch(self, map_bytes: int) -> None:
        """A segment without a block, behind the last one."""
        manifest = self._manifest
        begins = manifest.last_sequence + 1
        epochs = (*manifest.epochs, (self._plan.epoch, begins))
        folder = self._making / fmt.FOLDER
        if not (folder / fmt.segment_name(begins)).exists():
            for left in folder.glob(f"{fmt.segment_name(begins)}{fmt.MAKING_SUFFIX}*"):
                left.unlink()
            header = SegmentHeader(manifest.shard, begins, bytes.fromhex(manifest.last_hash), epochs)
            create_segment(folder, header, map_bytes)

    # State and marks.

    def state(self, base: SnapshotEntry | None) -> int:
        """The state at the log's end; how many marks were ahead of it."""
        making, manifest = self._making, self._manifest
        if (self._data / STATE).exists():  # it had its place already, and the marks were looked at before that
            return 0
        if not (making / STATE / DATA).exists():
            make_directory(making / STATE)
            if base is not None:
                snapshot = making / SNAPSHOTS / f"{base.position:020d}" / DATA
                copy_file(snapshot, making / STATE / DATA, pace=self._pace, on_bytes=lambda count: None)
        segments = Segments(making / fmt.FOLDER, shard=manifest.shard, written_here=False)
        try:
            segments.scan()
            reader = Reader(segments)
            if (last := reader.last_sequence()) != manifest.last_sequence:
                raise LogDamaged(f"the restored log ends at {last}, the manifest says {manifest.last_sequence}")
            saved = replay(reader, last, making / STATE, manifest.shard, self._on_progress)
        finally:
            segments.close()
        try:
            return self._marks(saved)
        finally:
            saved.close()

    def _marks(self, saved: SavedState) -> int:
        """Marks no further than their conversations have events."""
        copied, target = self._making / CURSORS / f"copy.{DATA}", self._making / CURSORS / DATA
        if not copied.exists():
            return 0
        ahead = 0
        with lmdb.open(
            str(copied), subdir=False, map_size=2 * copied.stat().st_size + (1 << 24), lib_version=0, lock=False
        ) as env:
            with env.begin(write=True) as txn, saved.read() as rows:
                for key, value in txn.cursor():
                    if len(key) != MARK_KEY_BYTES:
                        continue
                    head = rows.head(int.from_bytes(key[: MARK_KEY_BYTES // 2], "big"))[1]
                    delivered, read = MARK.unpack(value)
                    if max(delivered, read) > head:
                        txn.put(bytes(key), MARK.pack(min(delivered, head), min(read, head)))
                        ahead += 1
        sync_path(copied)
        name_file(copied, target)
        return ahead

    # The end.

    def place(self) -> None:
        """Everything gets its place, the log last: without it, a directory is no data directory."""
        for lock in self._making.rglob("*lock*"):
            if lock.is_file() and lock.parent != self._making:
                lock.unlink()
        for name in (SNAPSHOTS, CURSORS, SUBSCRIPTIONS, STATE, fmt.FOLDER):
            source = self._making / name
            if source.exists():
                sync_directory(source)
                os.rename(source, self._data / name)
                sync_directory(self._data)
