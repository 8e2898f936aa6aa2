"""`gonets log backup`: the log and what lies beside it in another directory, beside a running server, again and again.

Sealed segments are copied as they are, each once: the next backup into the same directory copies what is new. The
newest segment is copied block by block up to the moment of the backup, in short transactions: a long one would keep
the server's file growing, and this way every block is checked on its way. Marks and the places of subscriptions are
copied first, and the log's end is taken last, so that none is ahead of the log. The state isn't copied: the newest
snapshots are, which were verified. A manifest, written last, makes it a backup (engine/log/manifest.py).

Invariants: a file of an earlier backup is never changed, and removed only when no kept manifest names it; killed at
any point, the directory holds the backups that it held, and the next run goes on with the segments that were copied.
Cost: one read and one write of what is new, at most at --bytes-per-s; the rest is not read again (`verify` does that).
"""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import msgspec

from engine import private
from engine.errors import BadArgument, DataUntrusted, EngineError, LogDamaged
from engine.lmdbfile import cut_off, sync_path
from engine.log import format as fmt
from engine.log.acts import note_act
from engine.log.files import (
    Pace,
    copy_file,
    locked,
    name_file,
    remove_directory,
    require_space,
    sha256_of,
    write_json,
)
from engine.log.format import MAKING_SUFFIX
from engine.log.manifest import (
    BESIDE,
    CURSORS,
    FORMAT_VERSION,
    LOCK_NAME,
    SEGMENTS,
    SNAPSHOTS,
    SUBSCRIPTIONS,
    BackupManifest,
    FileEntry,
    SegmentEntry,
    SnapshotEntry,
    manifest_numbers,
    manifest_path,
    read_manifest,
)
from engine.log.place import data_directory_above, make_directory, overlap, remove_empty, sync_directory
from engine.log.reader import Reader
from engine.log.readers import ENTRY, FOLDER, note_reader, pinned
from engine.log.resume import FOLDER as VERIFYING
from engine.log.segments import Segments
from engine.log.trim import SNAPSHOTS_KEPT, good_snapshots
from engine.log.verbs import blocks_from, opened
from engine.ports import OnProgress
from engine.schema import ADMIN_BACKED_UP, WORDS_CHARACTERS_MAX
from engine.state.snapshot import DATA, MANIFEST, take_snapshot
from ext import block as blocks

HASH_SUFFIX: Final = ".sha256"  # beside a sealed segment: what it was when it was copied
PART_SPARE_BYTES: Final = 64 << 20
PART_BLOCKS: Final = 16  # in one transaction: at most 16 MiB of ordinary blocks
PROBLEMS_MAX: Final = 100
WITHOUT: Final = {  # what it means that one isn't in the backup
    CURSORS: "clients say theirs again",
    SUBSCRIPTIONS: "restored without them, subscriptions begin again where each was made to begin",
}


class Options(NamedTuple):
    """How a backup is made."""

    bytes_per_s: int = 0
    hold: bool = False  # registers it as a durable reader: trimming leaves what isn't in it yet
    snapshot: bool = False  # takes one first
    keep: int = 2  # manifests, with what they name
    drop_trimmed: bool = False  # what the log doesn't keep any more goes from the backup too


def backup_log(data: Path, target: Path, options: Options, on_progress: OnProgress) -> dict[str, Any]:
    """What was made and copied; `problems` names what is damaged in the log. Raises EngineError, OSError."""
    if options.bytes_per_s < 0:
        raise BadArgument(f"--bytes-per-s {options.bytes_per_s}: must be at least 0; 0 is as fast as it goes")
    if options.keep < 1:
        raise BadArgument(f"--keep {options.keep}: must be at least 1; the newest backup is always kept")
    if words := overlap(target, data):
        raise BadArgument(f"{words}: name a directory elsewhere, on another disk")
    if (above := data_directory_above(target)) is not None:
        raise BadArgument(f"{target} lies in the data directory {above}: name a directory elsewhere, on another disk")
    made = _make_target(target)
    with locked(target / LOCK_NAME, f"another backup is being made in {target}"):
        try:
            with opened(data) as segments, pinned(data, "backup"):
                segments.scan()
                shard = segments.header(segments.firsts[-1]).shard
                place = str(target.resolve())[-WORDS_CHARACTERS_MAX:]
                note_act(data, ADMIN_BACKED_UP, place=place.encode(errors="replace").decode())
                if options.snapshot:
                    take_snapshot(data, Reader(segments), shard)
                backup = _Backup(data, target, segments, options, on_progress)
                manifest = backup.run()
        except (EngineError, OSError):
            _take_back(target, made)
            raise
    name = f"backup-{hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:12]}"
    held = options.hold or (data / FOLDER / f"{name}{ENTRY}").exists()
    if held:
        note_reader(data, name, "backup", manifest.last_sequence, str(target.resolve()))
    return {
        "backup": str(target),
        "number": manifest.number,
        "shard": manifest.shard,
        "first_sequence": manifest.first_sequence,
        "last_sequence": manifest.last_sequence,
        "segments": len(manifest.segments),
        "snapshots": [entry.position for entry in manifest.snapshots],
        "bytes": manifest.total_bytes(),
        "copied_bytes": backup.copied,
        "reader": name if held else None,
        "problems": backup.problems,
    }


def _make_target(target: Path) -> list[Path]:
    """An empty directory, or one of backups; anything else is a mistake. The directories made, innermost first."""
    if target.exists() and not target.is_dir():
        raise BadArgument(f"{target} is no directory", hint="name an empty or new one, or one of earlier backups")
    made = make_directory(target)
    ours = {LOCK_NAME, SEGMENTS, SNAPSHOTS, *BESIDE, VERIFYING, "lost+found"}
    strange = sorted(p.name for p in target.iterdir() if p.name not in ours and not p.name.startswith("backup-"))
    if strange:
        raise BadArgument(
            f"{target} holds {strange[0]!r}, which is no part of a backup",
            hint="name an empty or new directory, or one that a backup was made in",
        )
    for name in (SEGMENTS, SNAPSHOTS, *BESIDE):
        made = make_directory(target / name) + made
    return made


def _take_back(target: Path, made: list[Path]) -> None:
    """Of a backup that was refused before it had copied anything, nothing stays."""
    with suppress(OSError):
        known = {f"{number:08d}.mdb" for number in manifest_numbers(target)}
        for path in (found for name in BESIDE for found in (target / name).iterdir()):
            if path.name not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    remove_empty(made)
    if target / SEGMENTS in made and [path.name for path in target.iterdir()] == [LOCK_NAME]:
        (target / LOCK_NAME).unlink()
        remove_empty(made)


class _Backup:
    """One run."""

    def __init__(self, data: Path, target: Path, segments: Segments, options: Options, on_progress: OnProgress) -> None:
        self._data, self._target, self._segments, self._options = data, target, segments, options
        self._on_progress = on_progress
        self._pace = Pace(options.bytes_per_s)
        self._total = 0
        self.copied = 0
        self.problems: list[str] = []
        numbers = manifest_numbers(target)
        self._earlier = read_manifest(target) if numbers else None
        self._number = numbers[-1] + 1 if numbers else 1

    def run(self) -> BackupManifest:
        """Everything, the manifest last."""
        segments = self._segments
        beside = {name: self._beside(name) for name in BESIDE}
        last = Reader(segments).last_sequence()
        firsts = list(segments.firsts)
        header = segments.header(firsts[-1])
        self._check_history(header.epochs, last)
        sealed, newest = firsts[:-1], firsts[-1]
        good = good_snapshots(self._data, header.shard, firsts[0], last)[-SNAPSHOTS_KEPT:]
        entries = self._kept_entries(firsts[0])
        first = entries[0].first_sequence if entries else firsts[0]
        if first > 1 and not good:
            raise BadArgument(
                f"the log begins at {first}, and no good snapshot reaches that far: a backup could not be opened",
                hint="take one first: --snapshot",
            )
        self._plan(sealed, newest, [Path(row.path) for row in good])
        entries += [self._sealed(one, firsts[place + 1] - 1) for place, one in enumerate(sealed)]
        part, last_hash = self._newest(newest, last)
        snapshots = [self._snapshot(Path(row.path), row.position) for row in good]
        manifest = BackupManifest(
            format=FORMAT_VERSION,
            complete=True,
            number=self._number,
            time=time.time_ns() // 1_000,
            source=str(self._data.resolve()),
            shard=header.shard,
            epochs=list(header.epochs),
            first_sequence=first,
            last_sequence=last,
            last_hash=last_hash.hex(),
            segments=[*entries, *part],
            snapshots=snapshots,
            cursors=beside[CURSORS],
            subscriptions=beside[SUBSCRIPTIONS],
        )
        write_json(manifest_path(self._target, self._number), manifest)
        self._clear(manifest)
        return manifest

    def _check_history(self, epochs: tuple[tuple[int, int], ...], last: int) -> None:
        """The log must be the one that was backed up here before, grown: its files have the same names."""
        earlier = self._earlier
        if earlier is None:
            return
        segments = self._segments
        is_same = list(epochs)[: len(earlier.epochs)] == earlier.epochs and earlier.last_sequence <= last
        is_same &= all(first > earlier.last_sequence for _, first in list(epochs)[len(earlier.epochs) :])
        is_same &= earlier.shard == segments.header(segments.firsts[-1]).shard
        if is_same and segments.firsts[0] <= earlier.last_sequence:
            found = Reader(segments).blocks_after(earlier.last_sequence - 1, 1)
            is_same = bool(found) and hashlib.sha256(found[0]).hexdigest() == earlier.last_hash
        if not is_same:
            raise BadArgument(
                f"{self._target} holds backups of another history: shard {earlier.shard}, up to"
                f" {earlier.last_sequence}, epochs {[epoch for epoch, _ in earlier.epochs]}; this log goes up to"
                f" {last}, epochs {[epoch for epoch, _ in epochs]}",
                hint="a log that was restored is another one: name a new directory",
            )

    def _kept_entries(self, first: int) -> list[SegmentEntry]:
        """Segments of the backup before that the log has trimmed since, if they go on to what it keeps."""
        if self._earlier is None or self._options.drop_trimmed:
            return []
        older = [entry for entry in self._earlier.segments if entry.sealed and entry.first_sequence < first]
        if older and older[-1].last_sequence == first - 1:
            return older
        return []

    # What is to be copied.

    def _plan(self, sealed: list[int], newest: int, snapshots: list[Path]) -> None:
        """Adds up, and looks whether there is room."""
        paths = [self._segments.path(first) for first in sealed]
        needed = sum(p.stat().st_size for p in paths if not (self._target / SEGMENTS / p.name).exists())
        needed += self._segments.path(newest).stat().st_size
        needed += sum(
            (path / DATA).stat().st_size for path in snapshots if not (self._target / SNAPSHOTS / path.name).exists()
        )
        require_space(self._target, needed, "the backup")
        self._total = needed

    def _took(self, count: int) -> None:
        self.copied += count
        self._on_progress("backup", min(self.copied, self._total), self._total)

    # Segments.

    def _sealed(self, first: int, last: int) -> SegmentEntry:
        """A segment that nobody writes any more; once copied, believed by its hash."""
        source, target = self._segments.path(first), self._target / SEGMENTS / fmt.segment_name(first)
        noted = target.with_name(target.name + HASH_SUFFIX)
        digest = self._known(target)
        if not digest:
            self._look(first, last)
            digest = copy_file(source, target, pace=self._pace, on_bytes=self._took, noted=noted)
        return SegmentEntry(
            file=f"{SEGMENTS}/{target.name}",
            bytes=target.stat().st_size,
            sha256=digest,
            first_sequence=first,
            last_sequence=last,
            sealed=True,
        )

    def _known(self, target: Path) -> str:
        """The hash of a copy that is there and right; "" if there is none. One that a manifest names was right; one of
        a run that was cut short is read again."""
        if not target.exists():
            return ""
        if self._earlier is not None:
            for entry in self._earlier.segments:
                if self._target / entry.file == target and entry.bytes == target.stat().st_size:
                    return entry.sha256
        noted = target.with_name(target.name + HASH_SUFFIX)
        digest = noted.read_text().split()[0] if noted.exists() else ""
        return digest if digest and digest == sha256_of(target) else ""

    def _look(self, first: int, last: int) -> None:
        """Damage in the log is copied as it is, and named."""
        sequence, name = first, fmt.segment_name(first)
        try:
            for key, block in blocks_from(self._segments, first):
                self._pace.spend(len(block))
                fault, index = blocks.check(block)
                if fault:
                    self._problem(fmt.fault_text(name, key, fault, index))
                    return  # `gonets log check` names all of it
                if key != sequence:
                    break
                sequence += blocks.header(block).count
        except DataUntrusted as error:
            self._problem(error.detail)
            return
        if sequence != last + 1:
            self._problem(f"segment {name} has no block at {sequence}")

    def _problem(self, words: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(words)

    def _newest(self, first: int, last: int) -> tuple[list[SegmentEntry], bytes]:
        """The blocks of the newest segment up to the backup's end, none if it has none; the hash of the last one."""
        header = self._segments.header(first)
        if last < first:
            return [], header.previous_hash
        target = self._target / SEGMENTS / f"{first:020d}.{self._number:08d}{fmt.SUFFIX}"
        making = target.with_name(target.name + MAKING_SUFFIX)
        making.unlink(missing_ok=True)
        newest = b""
        map_bytes = 2 * self._segments.path(first).stat().st_size + PART_SPARE_BYTES
        with lmdb.open(
            str(making),
            subdir=False,
            map_size=map_bytes,
            lock=False,
            sync=False,
            mode=private.FILE_MODE,
            lib_version=fmt.LMDB_ENGINE,
        ) as env:
            with env.begin(write=True) as txn:
                txn.put(fmt.HEADER_KEY, fmt.pack_header(header))
            waiting: list[tuple[bytes, bytes]] = []
            for key, block in blocks_from(self._segments, first):
                if key > last:
                    break
                if fault := blocks.check(block)[0]:
                    self._problem(fmt.fault_text(self._segments.path(first).name, key, fault))
                self._pace.spend(len(block))
                newest = block
                waiting.append((fmt.key_of(key), block))
                if len(waiting) == PART_BLOCKS:
                    self._append(env, waiting)
            self._append(env, waiting)
        sync_path(making)
        digest = sha256_of(making)
        name_file(making, target)
        entry = SegmentEntry(
            file=f"{SEGMENTS}/{target.name}",
            bytes=target.stat().st_size,
            sha256=digest,
            first_sequence=first,
            last_sequence=last,
            sealed=False,
        )
        return [entry], hashlib.sha256(newest).digest()

    def _append(self, env: lmdb.Environment, rows: list[tuple[bytes, bytes]]) -> None:
        with env.begin(write=True) as txn:
            for key, block in rows:
                txn.put(key, block, append=True)
                self._took(len(block))
        rows.clear()

    # The rest.

    def _snapshot(self, source: Path, position: int) -> SnapshotEntry:
        """Copied once; its hash is that of its own manifest."""
        target = self._target / SNAPSHOTS / source.name
        digest = str(msgspec.json.decode((source / MANIFEST).read_bytes())["sha256"])
        known = [] if self._earlier is None else [entry.position for entry in self._earlier.snapshots]
        if target.exists() and position not in known and sha256_of(target / DATA) != digest:
            raise LogDamaged(f"{target / DATA} is not what it was when it was copied", hint="remove this directory")
        if not target.exists():
            making = target.with_name(target.name + MAKING_SUFFIX)
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(private.DIRECTORY_MODE)
            copy_file(source / DATA, making / DATA, expected=digest, pace=self._pace, on_bytes=self._took)
            copy_file(source / MANIFEST, making / MANIFEST, pace=self._pace, on_bytes=self._took)
            name_file(making, target)
        return SnapshotEntry(
            file=f"{SNAPSHOTS}/{source.name}/{DATA}",
            bytes=(target / DATA).stat().st_size,
            sha256=digest,
            position=position,
        )

    def _beside(self, name: str) -> FileEntry | None:
        """What lies beside the log, as of one moment: delivered and read marks, or the places of subscriptions."""
        source = self._data / name / DATA
        if not source.exists():
            return None
        target = self._target / name / f"{self._number:08d}.mdb"
        making = target.with_name(target.name + MAKING_SUFFIX)
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(private.DIRECTORY_MODE)
        try:
            with lmdb.open(
                str(source.parent), readonly=True, mode=private.FILE_MODE, lib_version=fmt.LMDB_ENGINE
            ) as env:
                if words := cut_off(env, source):
                    raise lmdb.CorruptedError(words)
                private.copy_environment(env, making, compact=True)
        except lmdb.Error as error:
            self._problem(f"the {name} in {source.parent} can't be copied: {error}; {WITHOUT[name]}")
            shutil.rmtree(making, ignore_errors=True)
            return None
        sync_path(making / DATA)
        name_file(making / DATA, target)
        shutil.rmtree(making)
        size_bytes = target.stat().st_size
        self._took(size_bytes)
        return FileEntry(file=f"{name}/{target.name}", bytes=size_bytes, sha256=sha256_of(target))

    def _clear(self, newest: BackupManifest) -> None:
        """What no kept manifest names: of older backups, and of runs that were cut short."""
        numbers = manifest_numbers(self._target)
        for number in numbers[: -self._options.keep]:
            manifest_path(self._target, number).unlink()
        sync_directory(self._target)
        named = {entry.file for number in numbers[-self._options.keep :] for entry in self._files_of(number, newest)}
        for path in sorted((self._target / SEGMENTS).iterdir()):
            if f"{SEGMENTS}/{path.name.removesuffix(HASH_SUFFIX)}" not in named:
                path.unlink()
        for path in (found for name in BESIDE for found in sorted((self._target / name).iterdir())):
            if f"{path.parent.name}/{path.name}" not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted((self._target / SNAPSHOTS).iterdir()):
            if path.name.endswith(MAKING_SUFFIX):
                shutil.rmtree(path)
            elif f"{SNAPSHOTS}/{path.name}/{DATA}" not in named:
                remove_directory(path)
        for path in self._target.glob(f"backup-*{MAKING_SUFFIX}"):
            path.unlink()

    def _files_of(self, number: int, newest: BackupManifest) -> list[FileEntry]:
        return newest.files() if number == newest.number else read_manifest(self._target, number).files()
