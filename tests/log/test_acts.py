"""Notes of what commands do (engine/AUDIT.md): written before the act, by those that act, and by no others."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine import schema
from engine.errors import EngineUnable
from engine.log.acts import (
    FOLDER,
    NOTE_BYTES_MAX,
    forget_act,
    note_act,
    noted_acts,
    put_aside,
    read_act,
    unreadable_acts,
)
from engine.log.readers import note_reader
from tests.support.grown_log import firsts, grow
from tests.support.killed import copy
from tests.support.log_command import NOBODY, log_command
from tests.support.log_rig import hashes
from tests.support.small_disk import mounted


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("acts") / "data"
    for _ in range(2):
        grow(data, 250, snapshot=True)
    return data


@pytest.fixture(name="data")
def _data(log: Path, tmp_path: Path) -> Path:
    return copy(log, tmp_path / "data")


def acts(data: Path) -> list[tuple[str, dict[str, Any]]]:
    """What is noted, without when and who."""
    notes = [read_act(path) for path in noted_acts(data)]
    common = ("time", "uid", "login_uid")
    assert all(note.fields["uid"] == os.getuid() for note in notes)
    assert all(abs(note.fields["time"] / 1e6 - time.time()) < 600 for note in notes)
    return [(note.type, {name: note.fields[name] for name in note.fields if name not in common}) for note in notes]


def test_each_command_that_acts_leaves_one_note(data: Path, tmp_path: Path) -> None:
    """In the order of what was done, with what it was."""
    before = firsts(data)
    note_reader(data, "mail", "subscription", 1_000)
    for command in (
        f"backup {tmp_path}/backup --data {data}",
        f"dump {tmp_path}/dump --from 3 --to 7 --data {data}",
        f"dump --from 8 --to 9 --data {data}",
        f"readers --forget mail --data {data}",
        f"trim --keep-bytes 1 --data {data}",
    ):
        ran = log_command(*command.split())
        assert ran.status == 0, ran.err
    after = firsts(data)
    assert len(after) < len(before)
    *others, (trimmed, fields) = acts(data)
    assert others == [
        ("admin.backed_up", {"place": str(tmp_path / "backup")}),
        ("admin.dumped", {"first": 3, "last": 7}),
        ("admin.dumped", {"first": 8, "last": 9}),
        ("admin.reader_forgotten", {"reader": "mail"}),
    ]
    assert trimmed == "admin.trimmed" and fields["bytes"] > 0
    assert (fields["first"], fields["segments"], fields["force"]) == (after[0], len(before) - len(after), False)


def test_a_restored_directory_says_so(data: Path, tmp_path: Path) -> None:
    """Not what was done to the one that was backed up."""
    assert log_command("backup", tmp_path / "backup", "--data", data).status == 0
    assert log_command("restore", tmp_path / "backup", "--data", tmp_path / "new").status == 0
    epoch = json.loads(log_command("stat", "--data", tmp_path / "new", "--json").out)["epochs"][-1]
    ((type_name, fields),) = acts(tmp_path / "new")
    assert type_name == "admin.restored" and fields["backup"] == 1 and fields["last"] == 505
    assert fields["epoch"] == epoch["epoch"]


def test_what_does_not_act_leaves_none(data: Path, tmp_path: Path) -> None:
    """Reading, a dry run, and mistakes."""
    for command, status in (
        (f"stat --data {data}", 0),
        (f"read --data {data}", 0),
        (f"check --data {data}", 0),
        (f"readers --data {data}", 0),
        (f"verify {data}", 0),
        (f"trim --keep-bytes 1 --dry-run --data {data}", 0),
        (f"trim --below 99999999 --data {data}", 1),
        (f"readers --forget nobody --data {data}", 1),
        (f"backup {data}/x --data {data}", 1),
        (f"dump {data}/x --data {data}", 1),
        (f"dump {tmp_path}/none/x --data {data}", 1),
    ):
        ran = log_command(*command.split())
        assert ran.status == status, (command, ran)
    assert acts(data) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a command as somebody else")
def test_who_may_not_note_it_does_not_do_it(data: Path, tmp_path: Path) -> None:
    """The registry of readers is open to this user, the notes are not: nothing is copied."""
    for path in (tmp_path, *tmp_path.parents[:2], *data.rglob("*"), data):
        path.chmod(path.stat().st_mode | 0o755 if path.is_dir() else 0o666)
    (data / "readers").mkdir(exist_ok=True)
    (data / "readers").chmod(0o777)
    (data / FOLDER).mkdir()
    (data / FOLDER).chmod(0o755)
    (tmp_path / "target").mkdir()
    (tmp_path / "target").chmod(0o777)
    was = hashes(data)
    for command in (f"dump {tmp_path}/target/dump --data {data}", f"backup {tmp_path}/target/backup --data {data}"):
        ran = log_command(*command.split(), user=NOBODY)
        assert ran.status == 1 and "acts can't be written: permission denied" in ran.err, ran
        assert "run this as the user of the server" in ran.err
    copied = [path for path in (tmp_path / "target").rglob("*") if path.is_file() and path.stat().st_size]
    assert not copied
    assert hashes(data) == was


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_note_of_root_belongs_to_the_user_of_the_server(tmp_path: Path) -> None:
    """Who makes a backup as root must not keep the server from reading what it is to tell."""
    os.chown(tmp_path, NOBODY, NOBODY)
    for first in (1, 2):
        note_act(tmp_path, schema.ADMIN_DUMPED, first=first, last=9)
    for path in (tmp_path / FOLDER, *noted_acts(tmp_path)):
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
    assert read_act(noted_acts(tmp_path)[0]).fields["uid"] == 0


def test_a_note_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    """And says what it is that can't be written."""
    with mounted(tmp_path / "disk", 1) as data:
        note_act(data, schema.ADMIN_DUMPED, first=1, last=9)
        with open(data / "fill", "wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        was = sorted((data / FOLDER).iterdir())
        with pytest.raises(EngineUnable, match=r"acts can't be written: no space left on device; .* there first"):
            note_act(data, schema.ADMIN_DUMPED, first=2, last=9)
        assert sorted((data / FOLDER).iterdir()) == was


def test_a_note_is_whole_or_none(tmp_path: Path) -> None:
    """What is being written is no note; one that can't be read is put aside for people, and counted."""
    note_act(tmp_path, schema.ADMIN_DUMPED, first=1, last=2)
    note_act(tmp_path, schema.ADMIN_DUMPED, first=3, last=4)
    (tmp_path / FOLDER / f"{1:020d}-7.json.7.new").write_text("{")
    one, two = noted_acts(tmp_path)
    assert [read_act(path).fields["first"] for path in (one, two)] == [1, 3]
    assert one.stat().st_mode & 0o777 == 0o600 and one.parent.stat().st_mode & 0o777 == 0o700
    for wrong in (
        b"",
        b"{",
        b'{"type": "admin.dumped"}',
        b'{"type": "message", "fields": {}}',
        b'{"type": "subscription.deleted", "fields": {"name": "a"}}',
        b'{"type": "admin.dumped", "fields": {"first": -1, "last": 2, "time": 1, "uid": 0}}',
        b'{"type": "admin.dumped", "fields": {"first": 1, "last": 2, "time": 1, "uid": 0}, "format": 2}',
        b"\xff" * 10,
        b"[" * 100_000,
        b'{"type": "admin.dumped", "fields": {"first": ' + b"[" * 100_000,
    ):
        one.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"\S"):
            read_act(one)
    for make in (
        lambda: one.write_bytes(b" " * (NOTE_BYTES_MAX + 1)),
        lambda: one.symlink_to(two),
        lambda: os.mkfifo(one),  # which nobody writes to
        one.mkdir,
    ):
        one.unlink()
        make()
        with pytest.raises(ValueError, match="is no file of at most"):
            read_act(one)
    put_aside(one)
    assert noted_acts(tmp_path) == [two] and unreadable_acts(tmp_path) == 1
    forget_act(two)
    forget_act(two)
    assert noted_acts(tmp_path) == [] and noted_acts(tmp_path / "none") == [] and unreadable_acts(tmp_path / "x") == 0
