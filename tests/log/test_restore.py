"""`gonets log restore`: the same log in a new epoch, from any backup, killed anywhere, and never over anything."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.answers import pack_proposal
from engine.errors import BadArgument, EngineUnable, LogDamaged
from engine.log.acts import noted_acts
from engine.log.backup import Options, backup_log
from engine.log.check import check_log
from engine.log.manifest import read_manifest
from engine.log.restore import EPOCH_MAX, restore_log
from engine.log.stat import stat_log
from engine.log.trim import Wanted, trim_log
from engine.log.verify import verify_log
from engine.log.writer import Log
from tests.support.engine_rig import EngineRig
from tests.support.grown_log import SEGMENT_BYTES, firsts, grow, mark, mark_of, place_of, subscribe
from tests.support.killed import Killer, copy, quiet
from tests.support.log_rig import hashes

EVERYTHING = ["acts", "cursors", "log", "snapshots", "state", "subscriptions"]


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; `backup` lies beside it."""
    data = tmp_path_factory.mktemp("restore") / "data"
    grow(data, 250, snapshot=True)
    mark(data, 1, 1, 5, 4)
    subscribe(data, 200)
    grow(data, 150)
    backup(data, data.parent / "backup")
    return data


def backup(data: Path, target: Path) -> None:
    """Makes one."""
    assert backup_log(data, target, Options(), quiet)["problems"] == []


def restore(folder: Path, data: Path, number: int | None = None) -> dict[str, Any]:
    """Makes a data directory."""
    return restore_log(folder, data, number=number, segment_bytes=SEGMENT_BYTES, bytes_per_s=0, on_progress=quiet)


def blocks_of(data: Path) -> list[bytes]:
    """Of the whole log."""
    log = Log.open(data, segment_bytes=SEGMENT_BYTES)
    try:
        return log.reader().blocks_after(log.reader().first_sequence - 1, 1 << 30)
    finally:
        log.close()


def test_the_same_log_in_a_new_epoch(log: Path, tmp_path: Path) -> None:
    """Byte for byte; it opens, grows, and is clean; a repeat is one, a publish that was lost is new."""
    data = tmp_path / "restored"
    report = restore(log.parent / "backup", data)
    last = read_manifest(log.parent / "backup").last_sequence
    assert check_log(data)["problems"] == []
    assert check_log(data)["state"] == f"equal to a replay up to {last}"
    assert [path.name for path in data.glob("*.new")] == []
    assert blocks_of(data) == blocks_of(log)
    found = stat_log(data)
    epochs = [{"epoch": 1, "first_sequence": 1}, {"epoch": report["epoch"], "first_sequence": last + 1}]
    assert (found["epochs"], found["last_sequence"], found["saved_state_sequence"]) == (epochs, last, last)
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    assert rig.engine.log.epoch == report["epoch"] > 1
    repeat = rig.ask(pack_proposal(1, 1, 400, 2, "message", b"x" * 600, person=True))[0]
    assert (repeat.status, repeat.sequence <= last) == (errors.REPEAT, True)
    lost = rig.ask(pack_proposal(1, 1, 401, 3, "message", b"lost", person=True))[0]
    assert (lost.status, lost.sequence) == (errors.APPENDED, last + 1)
    rig.restart()
    assert rig.engine.log.epochs == [(1, 1), (report["epoch"], last + 1)]
    rig.close()


def test_epochs_differ_and_go_on_growing(log: Path, tmp_path: Path) -> None:
    """Two restores of one backup, and a restore of a restore; the numbers don't run out soon."""
    drawn = {restore(log.parent / "backup", tmp_path / f"restored{place}")["epoch"] for place in range(5)}
    assert len(drawn) == 5
    epochs = [1]
    source = tmp_path / "restored0"
    for round_ in range(4):
        grow(source, 20)
        backup(source, tmp_path / f"backup{round_}")
        restored = tmp_path / f"again{round_}"
        restore(tmp_path / f"backup{round_}", restored)
        epochs = [row["epoch"] for row in stat_log(restored)["epochs"]]
        source = restored
    assert epochs == sorted(set(epochs))
    assert len(epochs) == 6
    assert max(epochs) < EPOCH_MAX // 20
    assert check_log(source)["problems"] == []


def test_marks_are_never_ahead_of_the_restored_log(log: Path, tmp_path: Path) -> None:
    """What a client may have said of events that are gone is taken back to the newest that is there."""
    data = copy(log, tmp_path / "data")
    mark(data, 2, 3, 10_000, 9_000)
    backup(data, tmp_path / "backup")
    assert restore(tmp_path / "backup", tmp_path / "restored")["marks_taken_back"] == 1
    rig = EngineRig(tmp_path / "restored", segment_bytes=SEGMENT_BYTES)
    head = rig.engine.view().head(2)[1]
    rig.close()
    assert mark_of(tmp_path / "restored", 2, 3) == (head, head)
    assert mark_of(tmp_path / "restored", 1, 1) == (5, 4)


def test_an_empty_log_and_one_that_has_just_rolled(tmp_path: Path) -> None:
    """The new epoch begins where the old one ends, even at 1; so it does where the newest segment has no block."""
    for name, prepare in (("empty", 0), ("rolled", 300)):
        data = tmp_path / name
        if prepare:
            grow(data, prepare)
            first = restore_from(data, tmp_path / "first")
            data = first  # its newest segment is without a block
        else:
            Log.open(data).close()
        restored = restore_from(data, tmp_path / f"{name}-restored")
        last = stat_log(restored)["last_sequence"]
        assert last == stat_log(data)["last_sequence"]
        assert check_log(restored)["problems"] == []
        assert len(firsts(restored)) == len(firsts(data))
        rig = EngineRig(restored, segment_bytes=SEGMENT_BYTES)
        assert rig.engine.log.epochs[-1][1] == last + 1
        assert rig.say(9, 1, 8).sequence == last + 2
        rig.restart()
        rig.close()


def restore_from(data: Path, target: Path) -> Path:
    """A backup of one, restored as the other."""
    folder = target.with_name(f"{target.name}-backup")
    backup(data, folder)
    assert verify_log(folder, None, quiet)["problems"] == []
    restore(folder, target)
    return target


def test_a_trimmed_log_is_restored_as_it_was(log: Path, tmp_path: Path) -> None:
    """From its snapshot on; the newest state is folded from there."""
    data = copy(log, tmp_path / "data")
    grow(data, 200, snapshot=True)
    assert trim_log(data, Wanted(keep_bytes=1), dry_run=False, force=False)["removed"]
    restored = restore_from(data, tmp_path / "restored")
    assert firsts(restored)[:-1] == firsts(data)
    assert check_log(restored)["problems"] == []
    assert blocks_of(restored) == blocks_of(data)


def test_an_older_backup_by_its_number(log: Path, tmp_path: Path) -> None:
    """Though a newer one shares its files."""
    data = copy(log, tmp_path / "data")
    backup(data, tmp_path / "backup")
    last = stat_log(data)["last_sequence"]
    grow(data, 100)
    backup(data, tmp_path / "backup")
    assert restore(tmp_path / "backup", tmp_path / "one", 1)["last_sequence"] == last
    assert restore(tmp_path / "backup", tmp_path / "two")["last_sequence"] == stat_log(data)["last_sequence"]
    with pytest.raises(BadArgument, match="holds the backups 1, 2"):
        restore(tmp_path / "backup", tmp_path / "three", 3)


def test_a_backup_from_before_there_were_subscriptions(log: Path, tmp_path: Path) -> None:
    """Its manifest doesn't know the word."""
    folder = copy(log.parent / "backup", tmp_path / "backup")
    path = folder / "backup-00000001.json"
    manifest = json.loads(path.read_text())
    del manifest["subscriptions"]
    path.write_text(json.dumps(manifest))
    assert not restore(folder, tmp_path / "restored")["subscriptions"]
    assert not (tmp_path / "restored" / "subscriptions").exists()
    assert check_log(tmp_path / "restored")["problems"] == []


def test_nothing_is_written_over(log: Path, tmp_path: Path) -> None:
    """A directory that holds anything else, a file, half a restore of another backup."""
    folder = log.parent / "backup"
    was = hashes(log)
    with pytest.raises(BadArgument, match="is not empty"):
        restore(folder, log)
    assert hashes(log) == was
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadArgument, match="is no directory"):
        restore(folder, tmp_path / "file")
    with pytest.raises(BadArgument, match="no complete backup"):
        restore(log, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_half_a_restore_is_opened_by_nobody(log: Path, tmp_path: Path, killer: Killer) -> None:
    """And goes on only as what it is."""
    data, folder = tmp_path / "data", log.parent / "backup"
    assert killer.run("restore", folder, data, 20)
    with pytest.raises(EngineUnable, match="half restored"):
        EngineRig(data)
    other = copy(folder, tmp_path / "other")
    grown = copy(log, tmp_path / "grown")
    grow(grown, 10)
    backup(grown, other)
    with pytest.raises(BadArgument, match="half a restore of another backup"):
        restore(other, data)
    restore(folder, data)
    EngineRig(data, segment_bytes=SEGMENT_BYTES).close()


def test_killed_at_any_step_the_next_run_ends_it(log: Path, tmp_path: Path, killer: Killer) -> None:
    """One epoch, however often; no file is copied twice; what comes out is the log."""
    folder, expected = log.parent / "backup", blocks_of(log)
    moments, ends = random.Random(5).sample(range(210), 40), 0
    for moment in moments:
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        ends += not killer.run("restore", folder, data, moment)
        if (data / "restoring.new" / "plan.json").exists():
            plan = (data / "restoring.new" / "plan.json").read_text()
            again = killer.run("restore", folder, data, moment // 2)
            if again and (data / "restoring.new" / "plan.json").exists():
                assert (data / "restoring.new" / "plan.json").read_text() == plan
        if not (data / "log").exists() or (data / "restoring.new").exists():
            restore(folder, data)
        assert sorted(path.name for path in data.iterdir()) == EVERYTHING
        assert len(noted_acts(data)) == 1, f"moment {moment}"
        assert blocks_of(data) == expected, f"moment {moment}"
        assert mark_of(data, 1, 1) == (5, 4)
        assert place_of(data) == 200
        if moment % 4 == 0:
            assert check_log(data)["problems"] == [], f"moment {moment}"
        with pytest.raises(BadArgument, match="is not empty"):
            restore(folder, data)
    assert 0 < ends < len(moments)


def test_a_damaged_backup_is_not_restored(log: Path, tmp_path: Path) -> None:
    """The file is named, and nothing gets a name in the target."""
    folder = copy(log.parent / "backup", tmp_path / "backup")
    for place, entry in enumerate(read_manifest(folder).files()):
        data, path = tmp_path / f"data{place}", folder / entry.file
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"wrong")
        with pytest.raises(LogDamaged, match=path.name):
            restore(folder, data)
        assert not (data / "log").exists()
        path.unlink()
        with pytest.raises(LogDamaged, match="is missing"):
            restore(folder, data)
        path.write_bytes(content)
        restore(folder, data)
