"""A verb that is refused leaves nothing behind; one that is interrupted says how to go on."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.log.backup import Options, backup_log
from tests.support.grown_log import grow
from tests.support.killed import quiet
from tests.support.log_command import Ran, log_command
from tests.support.log_rig import ROOT
from tests.support.small_disk import mounted

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data` and a `backup` of it; `other`: another log, a later one."""
    grow(tmp_path / "data", 150, snapshot=True)
    grow(tmp_path / "other", 20)
    backup_log(tmp_path / "data", tmp_path / "backup", Options(), quiet)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "lost+found")


def refused(ran: Ran, *words: str) -> None:
    assert ran.status == 1 and ran.err.startswith("gonets: ") and ran.err.count("\n") == 1, ran
    for word in words:
        assert word in ran.err


@as_root
def test_without_room_nothing_stays(place: Path) -> None:
    """Neither the directories above the one that was named, nor those in it."""
    with mounted(place / "mount", 8) as mount:
        (mount / "empty").mkdir()
        for command in (
            "backup mount/new/deep --data data",
            "backup mount/empty --data data",
            "restore backup --data mount/new/deep",
            "restore backup --data mount/empty",
        ):
            refused(log_command(*command.split()), "to spare", "make room there")
            assert below(mount) == ["empty"]


@pytest.mark.usefixtures("place")
def test_a_backup_of_another_history(place: Path) -> None:
    """Refused behind the copy of the marks, which goes again."""
    (place / "other" / "cursors").mkdir()
    shutil.copy(next((place / "backup" / "snapshots").rglob("data.mdb")), place / "other" / "cursors")
    before = below(place / "backup")
    refused(log_command("backup", "backup", "--data", "other"), "another history")
    assert below(place / "backup") == before


def test_inside_another_data_directory(place: Path) -> None:
    """Of a server that runs, perhaps: whatever is put there would be its own."""
    (place / "link").symlink_to("data/log")
    before = below(place)
    for target in ("data/x", "data/log/x/y", "link/x"):
        refused(
            log_command("restore", "backup", "--data", target), f"--data {target}", "another data directory", "data:"
        )
        refused(log_command("backup", target, "--data", "other"), target, "lies in the data directory")
    assert below(place) == before


@pytest.mark.usefixtures("place")
def test_each_option_is_blamed_for_itself() -> None:
    ran = log_command("backup", "new", "--data", "data", "--keep", 0)
    refused(ran, "--keep 0: must be at least 1")
    assert "bytes-per-s" not in ran.err and not Path("new").exists()
    ran = log_command("backup", "new", "--data", "data", "--bytes-per-s", -1)
    refused(ran, "--bytes-per-s -1: must be at least 0")
    assert "keep" not in ran.err and not Path("new").exists()


@pytest.mark.usefixtures("place")
def test_nothing_is_called_none(place: Path) -> None:
    """Also: events have a column with the size of what isn't shown."""
    for ran in (log_command("backup", "backup", "--data", "data"), log_command("snapshot", "--list", "--data", "data")):
        assert ran.status == 0 and "None" not in ran.out and ": none\n" in ran.out
    ran = log_command("read", "--data", "data", "--from", 20, "--limit", 1)
    assert "payload" in ran.out and " 600 " in ran.out


@pytest.mark.parametrize(
    "command", ["backup new --data data --bytes-per-s 20000", "restore backup --data new --bytes-per-s 20000"]
)
def test_interrupted(place: Path, command: str) -> None:
    """By Ctrl-C: 130, and what to do; then the same command ends well."""
    words = command.split()
    with subprocess.Popen(
        [sys.executable, str(ROOT / "gonets.py"), "log", *words], cwd=place, stderr=subprocess.PIPE, text=True
    ) as child:
        deadline = time.monotonic() + 20
        while not any(path.is_file() and path.suffix == ".new" for path in place.glob("new/**/*")):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert child.stderr.read() == "gonets: interrupted; run the same command again, it goes on\n"
        assert child.wait(20) == 130
    assert log_command(*words[:-2]).status == 0


def test_a_dump_on_a_terminal_is_lines_of_json_alone(place: Path) -> None:
    """Where stdout and stderr are one terminal, no bar is drawn into them."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "gonets.py"), "log", "dump", "--data", "data"]
    with subprocess.Popen(command, cwd=place, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the last one has closed it
                break
            if not part:
                break
            said += part
        assert child.wait(20) == 0
    os.close(ours)
    lines = said.decode().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(1, len(lines) + 1)) and len(lines) > 150
