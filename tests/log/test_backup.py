"""`gonets log backup` and `verify`: beside a writer, again and again, killed anywhere, and damage on either side."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.answers import pack_proposal
from engine.errors import BadArgument, EngineUnable
from engine.log import files
from engine.log.acts import forget_act, noted_acts
from engine.log.backup import Options, backup_log
from engine.log.files import Pace, locked
from engine.log.manifest import manifest_numbers, read_manifest
from engine.log.readers import backup_age_s, note_reader, readers
from engine.log.restore import restore_log
from engine.log.trim import Wanted, trim_log
from engine.log.verify import verify_log
from tests.support.engine_child import EngineChild
from tests.support.grown_log import SEGMENT_BYTES, firsts, grow, mark, subscribe
from tests.support.held_syncs import wait_until
from tests.support.killed import Killer, copy, quiet
from tests.support.log_rig import hashes


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once."""
    data = tmp_path_factory.mktemp("backup") / "data"
    grow(data, 250, snapshot=True)
    mark(data, 1, 1, 5, 4)
    subscribe(data, 200)
    grow(data, 150)
    return data


@pytest.fixture(name="data")
def _data(log: Path, tmp_path: Path) -> Path:
    """A copy."""
    return copy(log, tmp_path / "data")


def backup(data: Path, target: Path, **options: Any) -> dict[str, Any]:
    """Makes one."""
    return backup_log(data, target, Options(**options), quiet)


def verified(place: Path, number: int | None = None) -> dict[str, Any]:
    """Nothing is wrong with it."""
    report = verify_log(place, number, quiet)
    assert report["problems"] == []
    return report


def sealed(target: Path) -> dict[str, tuple[int, int]]:
    """Copies of sealed segments: which file it is, and when it was written."""
    found = (target / "segments").glob("?" * 20 + ".lmdb")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_it_holds_the_log_and_leaves_it_alone(data: Path, tmp_path: Path) -> None:
    """Every event; verified by hash and by all invariants; the data directory is as it was."""
    was, target = hashes(data), tmp_path / "backup"
    report = backup(data, target)
    forget_act(*noted_acts(data))
    assert hashes(data) == was
    assert (report["first_sequence"], report["problems"], report["number"]) == (1, [], 1)
    found = verified(target)
    assert found["events"] == found["last_sequence"] == report["last_sequence"]
    assert found["state"] == f"equal to a replay up to {report['snapshots'][-1]}"
    assert len(found["snapshots"]) == 1
    assert verified(data)["snapshots"] == found["snapshots"]


def test_the_next_one_copies_what_is_new_and_harms_none_before(data: Path, tmp_path: Path) -> None:
    """Sealed segments once; two backups are kept, each whole; what nobody names goes."""
    target = tmp_path / "backup"
    backup(data, target)
    before = sealed(target)
    assert len(before) == len(firsts(data)) - 1
    grow(data, 100)
    second = backup(data, target)
    assert {name: sealed(target)[name] for name in before} == before
    assert second["copied_bytes"] < second["bytes"] / 2
    assert verified(target, 1)["last_sequence"] < verified(target, 2)["last_sequence"]
    third = backup(data, target)
    assert third["last_sequence"] == second["last_sequence"]
    assert manifest_numbers(target) == [2, 3]
    parts = [path.name for path in (target / "segments").iterdir() if path.name.count(".") == 2]
    assert len([name for name in parts if not name.endswith(".sha256")]) == 2
    backup(data, target, keep=1)
    assert manifest_numbers(target) == [4]
    verified(target)


def test_what_the_log_trims_stays_in_the_backup(data: Path, tmp_path: Path) -> None:
    """Unless told otherwise; a backup that begins later is one that can be opened."""
    target = tmp_path / "backup"
    grow(data, 100, snapshot=True)
    backup(data, target, hold=True)
    assert [row.position for row in readers(data)] == [read_manifest(target).last_sequence]
    grow(data, 100)
    removed = trim_log(data, Wanted(keep_bytes=1), dry_run=False, force=False)["removed"]
    assert removed
    assert backup(data, target)["first_sequence"] == 1
    assert [row.position for row in readers(data)] == [read_manifest(target).last_sequence]  # held once, held on
    assert verified(target)["events"] == read_manifest(target).last_sequence
    later = backup(data, target, drop_trimmed=True)
    assert later["first_sequence"] == firsts(data)[0]
    verified(target)
    shutil.rmtree(data / "snapshots")
    with pytest.raises(BadArgument, match="no good snapshot reaches that far"):
        backup(data, tmp_path / "other")


def test_the_age_of_a_backup_is_that_of_the_oldest_that_trimming_waits_for(data: Path, tmp_path: Path) -> None:
    """Others hold nothing, and nothing else that reads is a backup."""
    note_reader(data, "mail", "subscription", 5)
    backup(data, tmp_path / "passing")
    assert backup_age_s(data) is None
    backup(data, tmp_path / "first", hold=True)
    time.sleep(0.1)
    backup(data, tmp_path / "second", hold=True)
    first, second = sorted(row.time / 1e6 for row in readers(data) if row.kind == "backup")
    age_s = backup_age_s(data)
    assert age_s is not None
    assert first == pytest.approx(time.time() - age_s, abs=(second - first) / 2)
    (data / "readers" / "torn.json").write_text("{")
    assert backup_age_s(data) is not None
    assert backup_age_s(tmp_path / "nowhere") is None


def test_what_holds_nothing_yet_is_not_trimmed(data: Path, tmp_path: Path) -> None:
    """A backup that is held: not yet in it, not yet gone."""
    backup(data, tmp_path / "backup", hold=True)
    position = read_manifest(tmp_path / "backup").last_sequence
    grow(data, 200, snapshot=True)
    grow(data, 10, snapshot=True)
    report = trim_log(data, Wanted(keep_bytes=1), dry_run=True, force=False)
    assert report["may_go_below"] == position + 1
    assert str(tmp_path / "backup") in report["held_by"][0]


def test_mistakes_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is begun."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for target, words in (
        (data, "itself"),
        (data / "backup", "lies in"),
        (tmp_path, "lies in"),
        (tmp_path / "photos", "'cat.jpg', which is no part of a backup"),
        (tmp_path / "file", "is no directory"),
    ):
        with pytest.raises(BadArgument, match=words):
            backup(data, target)
    for wrong in ({"bytes_per_s": -1}, {"keep": 0}):
        with pytest.raises(BadArgument):
            backup(data, tmp_path / "backup", **wrong)
    (tmp_path / "backup").mkdir()
    with locked(tmp_path / "backup" / "lock"), pytest.raises(EngineUnable, match="another backup is being made"):
        backup(data, tmp_path / "backup")
    monkeypatch.setattr(files, "SPARE_BYTES", 1 << 62)
    with pytest.raises(EngineUnable, match="make room there"):
        backup(data, tmp_path / "backup")
    with pytest.raises(BadArgument, match="no complete backup"):
        read_manifest(tmp_path / "backup")


def test_another_history_does_not_get_into_a_backup(data: Path, tmp_path: Path) -> None:
    """A log that was restored has the same names for other bytes; so has one that was copied and went its own way."""
    target, other = tmp_path / "backup", tmp_path / "restored"
    twin = copy(data, tmp_path / "twin")
    backup(data, target)
    restore_log(target, other, number=None, segment_bytes=SEGMENT_BYTES, bytes_per_s=0, on_progress=quiet)
    grow(data, 20)
    grow(twin, 30, size=500)
    backup(data, target)
    for strange in (other, twin):
        with pytest.raises(BadArgument, match="holds backups of another history"):
            backup(strange, target)
    verified(target)


def test_beside_a_writer(tmp_path: Path) -> None:
    """What had its receipt before the backup began is in it, and it is of one moment; the writer notices nothing."""
    data, target = tmp_path / "data", tmp_path / "backup"
    child = EngineChild(data, segment_bytes=SEGMENT_BYTES, save_events_max=1_000, save_interval_s=0.1)
    stop, counter = threading.Event(), 0

    def write() -> None:
        nonlocal counter
        while not stop.is_set():
            batch = range(counter + 1, counter + 11)
            child.publish(*(pack_proposal(1, 1, c, 2 + c % 5, "message", b"x" * 500, person=True) for c in batch))
            counter += 10
            child.wait(counter)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(1, 6):
            receipted = len(child.answers)
            report = backup(data, target)
            assert report["problems"] == []
            assert report["last_sequence"] >= receipted
            assert verify_log(target, number, quiet)["problems"] == []
        wait_until(lambda: len(firsts(data)) > 3, "the writer rolls no segment")
    finally:
        stop.set()
        writer.join()
        child.kill()
    assert {answer.status for answer in child.answers} == {errors.APPENDED}


def test_killed_at_any_step_every_complete_backup_stays_one(log: Path, tmp_path: Path, killer: Killer) -> None:
    """The one before is whole after each kill; the run after goes on, and copies no sealed segment twice."""
    first = tmp_path / "first"
    backup(log, first)
    grown = copy(log, tmp_path / "grown")
    grow(grown, 150, snapshot=True)
    moments, ends = random.Random(7).sample(range(130), 50), 0
    for moment in moments:
        target = copy(first, tmp_path / "target")
        was_killed = killer.run("backup", grown, target, moment)
        ends += not was_killed
        numbers = manifest_numbers(target)
        assert numbers in ([1], [1, 2]), f"moment {moment}"
        for number in numbers if moment % 5 == 0 else ():
            assert verify_log(target, number, quiet)["problems"] == [], f"moment {moment}"
        copied = sealed(target)
        backup(grown, target)
        assert {name: sealed(target)[name] for name in copied} == copied, f"moment {moment}"
        verified(target) if moment % 5 == 1 else read_manifest(target)
        assert not list(target.rglob("*.new")), f"moment {moment}"
    assert 0 < ends < len(moments)


def test_damage_in_the_log_is_named_and_copied_as_it_is(data: Path, tmp_path: Path) -> None:
    """A backup of a damaged log is better than none, and says what it is."""
    for first, at in ((firsts(data)[1], 30_000), (firsts(data)[-1], 0)):
        target = tmp_path / f"backup{first}"
        path = data / "log" / f"{first:020d}.lmdb"
        content = path.read_bytes()
        place = content.index(b"x" * 400, at) + 100
        path.write_bytes(content[:place] + b"y" + content[place + 1 :])
        report = backup(data, target)
        assert len(report["problems"]) == 1
        assert path.name in report["problems"][0]
        problems = verify_log(target, None, quiet)["problems"]
        assert [row["segment"] for row in problems] == [path.name]
        path.write_bytes(content)


def test_damage_in_the_backup_is_found(data: Path, tmp_path: Path) -> None:
    """Every file of it, by its hash; and what is missing."""
    whole = tmp_path / "whole"
    backup(data, whole)
    entries = read_manifest(whole).files()
    assert {entry.file.split("/")[0] for entry in entries} == {"segments", "snapshots", "cursors", "subscriptions"}
    for place, entry in enumerate(entries):
        target = copy(whole, tmp_path / "target")
        if place % 2:
            (target / entry.file).unlink()
        else:
            with (target / entry.file).open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last[0] ^ 1]))
        problems = verify_log(target, None, quiet)["problems"]
        assert entry.file in [row["segment"] for row in problems], entry.file


def test_a_manifest_names_files_of_the_backup_only(data: Path, tmp_path: Path) -> None:
    """Not of the machine that it is restored on."""
    target = tmp_path / "backup"
    backup(data, target)
    path = target / "backup-00000001.json"
    manifest = json.loads(path.read_text())
    manifest["segments"][0]["file"] = "../data/development-key.pem"
    path.write_text(json.dumps(manifest))
    with pytest.raises(errors.LogDamaged, match="no file of a backup"):
        read_manifest(target)
    path.write_text("{")
    with pytest.raises(errors.LogDamaged, match="can't be read"):
        read_manifest(target)
    path.write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(errors.LogVersion):
        read_manifest(target)


def test_the_pace_is_kept() -> None:
    """So many bytes a second, slept for, not waited for."""
    slept: list[float] = []
    pace = Pace(1_000_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.log.files.time.sleep", slept.append)
        for _ in range(4):
            pace.spend(1_000_000)
        Pace().spend(1 << 40)
    assert len(slept) == 4
    assert 3.5 < slept[-1] <= 4
