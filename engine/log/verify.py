"""`gonets log verify`: a backup against its manifest's hashes, then `gonets log check` on it; or a data directory.

Changes nothing in what it looks at. A backup is laid out as a data directory by links, where LMDB may put its lock
files; its newest snapshot stands for the saved state, so that it is compared with a replay. Cut short and run again it
goes on: with the files whose hashes it hasn't compared, the segments that it hasn't checked (engine/log/resume.py).
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.errors import BadArgument, EngineError
from engine.log import format as fmt
from engine.log.check import check_log
from engine.log.files import sha256_of
from engine.log.manifest import SNAPSHOTS, BackupManifest, manifest_numbers, read_manifest
from engine.log.place import not_a_directory
from engine.log.readers import pinned
from engine.log.resume import Work, seen, work_in
from engine.log.verbs import opened
from engine.ports import OnProgress
from engine.private import DIRECTORY_MODE
from engine.state.snapshot import DATA, snapshots

Problem = dict[str, Any]
LAID_OUT: Final = "laid-out"


def verify_log(place: Path, number: int | None, on_progress: OnProgress) -> dict[str, Any]:
    """What was looked at and `problems`, as `gonets log check` gives them. Raises EngineError."""
    if not place.is_dir():
        raise BadArgument(not_a_directory(place), hint="name a backup's directory, or a data directory")
    if manifest_numbers(place):
        manifest = read_manifest(place, number)
        with work_in(place, hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()) as work:
            return _verify_backup(place, manifest, work, on_progress)
    if not (place / fmt.FOLDER).is_dir():
        raise BadArgument(
            f"{place} holds neither a complete backup (backup-….json) nor a log",
            hint="name the directory of `gonets log backup`, run that again if it was cut short, or a data directory",
        )
    if number is not None:
        raise BadArgument(f"--number {number}: {place} is a data directory, not a directory of backups")
    with pinned(place, "verify"), work_in(place, _what(place)) as work:
        report = check_log(place, work, on_progress)
        rows = snapshots(place, report["shard"])
    bad = [_problem(f"{SNAPSHOTS}/{row.position:020d}", row.problem) for row in rows if row.problem]
    return {**report, "snapshots": [row.position for row in rows], "problems": bad + report["problems"]}


def _what(data: Path) -> str:
    """A data directory's log: where it begins, and with what."""
    with opened(data) as segments:
        return f"{segments.firsts[0]} {seen([segments.path(segments.firsts[0])])}"


def _problem(file: str, words: str) -> Problem:
    return {"segment": file, "block": None, "events": "", "problem": words}


def _verify_backup(folder: Path, manifest: BackupManifest, work: Work, on_progress: OnProgress) -> dict[str, Any]:
    problems = _compare(folder, manifest, work, on_progress)
    report: dict[str, Any] = {}
    if manifest.segments:
        laid_out = work.folder / LAID_OUT
        shutil.rmtree(laid_out, ignore_errors=True)
        laid_out.mkdir(DIRECTORY_MODE)
        _lay_out(folder.resolve(), manifest, laid_out)
        try:
            report = check_log(laid_out, work, on_progress)
        except EngineError as error:
            problems.append(_problem(str(folder), str(error)))
        problems += report.get("problems", [])
        if report and report["last_sequence"] != manifest.last_sequence:
            words = f"its log ends at {report['last_sequence']}, its manifest says {manifest.last_sequence}"
            problems.append(_problem(str(folder), words))
    return {
        "backup": str(folder),
        "number": manifest.number,
        "shard": manifest.shard,
        "resumed_after": report.get("resumed_after", 0),
        "files": len(manifest.files()),
        "bytes": manifest.total_bytes(),
        "first_sequence": manifest.first_sequence,
        "last_sequence": manifest.last_sequence,
        "blocks": report.get("blocks", 0),
        "events": report.get("events", 0),
        "conversations": report.get("conversations", 0),
        "snapshots": [entry.position for entry in manifest.snapshots],
        "state": report.get("state", "none saved"),
        "problems": problems,
    }


def _compare(folder: Path, manifest: BackupManifest, work: Work, on_progress: OnProgress) -> list[Problem]:
    """Every file against its size and hash."""
    problems: list[Problem] = []
    total, looked_at = manifest.total_bytes(), 0

    def took(count: int) -> None:
        nonlocal looked_at
        looked_at += count
        on_progress("hashes", min(looked_at, total), total)

    for entry in manifest.files():
        path = folder / entry.file
        try:
            size_bytes = path.stat().st_size
            if (digest := work.known_hash(path)) is not None:
                took(size_bytes)
            else:
                digest = sha256_of(path, took)
        except OSError as error:
            problems.append(_problem(entry.file, f"can't be read: {error.strerror}"))
            continue
        if size_bytes != entry.bytes:
            problems.append(_problem(entry.file, f"has {size_bytes} bytes, not {entry.bytes}"))
        elif digest != entry.sha256:
            problems.append(_problem(entry.file, f"has the SHA-256 {digest}, not {entry.sha256}"))
        else:
            work.note_hash(path, digest)
    return problems


def _lay_out(folder: Path, manifest: BackupManifest, target: Path) -> None:
    """As a data directory, by links."""
    (target / fmt.FOLDER).mkdir(DIRECTORY_MODE)
    for entry in manifest.segments:
        (target / fmt.FOLDER / entry.name).symlink_to(folder / entry.file)
    (target / SNAPSHOTS).mkdir(DIRECTORY_MODE)
    for snapshot in manifest.snapshots[:-1]:  # the newest is compared, from the one before it or from the beginning
        (target / SNAPSHOTS / f"{snapshot.position:020d}").symlink_to((folder / snapshot.file).parent)
    if manifest.snapshots:
        (target / "state").mkdir(DIRECTORY_MODE)
        (target / "state" / DATA).symlink_to(folder / manifest.snapshots[-1].file)
