"""Every mistake at a verb of `gonets log` is one line: which value, what is wrong, what to do; no traceback."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.log.backup import Options, backup_log
from engine.log.dump import dump_log
from engine.log.place import RESTORING
from tests.support.grown_log import grow
from tests.support.killed import copy, quiet
from tests.support.log_command import NOBODY, Ran, log_command
from tests.support.log_rig import ROOT
from tests.support.small_disk import mounted

ON_A_LOG = ("stat", "read", "check", "snapshot", "trim --keep-bytes 1", "dump", "readers")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else, or mount")


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory and a backup of it."""
    folder = tmp_path_factory.mktemp("mistakes")
    grow(folder / "data", 150, snapshot=True)
    backup_log(folder / "data", folder / "backup", Options(), quiet)
    return folder


@pytest.fixture(name="place")
def _place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are run: `data`, `backup`, a `file`, an empty directory `empty`, a `link` that leads nowhere."""
    for folder in tmp_path, *list(tmp_path.parents)[:2]:  # also for somebody else
        folder.chmod(0o755)
    copy(made / "data", tmp_path / "data")
    copy(made / "backup", tmp_path / "backup")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(ran: Ran, *words: str) -> None:
    """With one line that has these words."""
    assert ran.status == 1, ran
    assert ran.err.startswith("gonets: ") and ran.err.count("\n") == 1, ran.err
    for word in words:
        assert word in ran.err


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("verb", ON_A_LOG)
def test_what_is_no_data_directory(verb: str) -> None:
    """Missing, a file, below a file, empty; each verb."""
    for data, words in (
        ("none", "is not there"),
        ("file", "is a file"),
        ("file/x", "is not there"),
        ("empty", "holds no log"),
    ):
        refused(log_command(*verb.split(), "--data", data), f"--data {data} {words}", "gonets serve --data")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("backup file --data data", ("file is no directory", "name an empty or new one")),
        ("backup link --data data", ("link: File exists", "a link that leads nowhere")),
        ("backup file/x --data data", ("file/x: Not a directory", "name another place")),
        ("backup /proc/none --data data", ("/proc/none: No such file or directory", "can be made")),
        ("backup data --data data", ("data is data itself", "name a directory elsewhere")),
        ("backup data/log/x --data data", ("data/log/x lies in data:",)),
        ("backup . --data data", ("data lies in .:",)),
        ("restore none --data new", ("none is not there", "gonets log backup")),
        ("restore file --data new", ("file is no directory", "gonets log backup")),
        ("restore empty --data new", ("empty holds no complete backup", "run that again")),
        ("restore data --data new", ("data holds no complete backup",)),
        ("restore backup --data backup", ("backup is backup itself", "name a data directory elsewhere")),
        ("restore backup --data backup/new", ("backup/new lies in backup:",)),
        ("restore backup --data data", ("data is not empty: it holds", "name a new or empty directory")),
        ("restore backup --data file", ("file is no directory", "name a new or empty one")),
        ("restore backup --data file/x", ("file/x: Not a directory",)),
        ("restore backup --data new --number 7", ("--number 7", "holds the backups 1")),
        ("verify none", ("none is not there", "name a backup's directory, or a data directory")),
        ("verify file", ("file is no directory",)),
        ("verify empty", ("empty holds neither a complete backup", "run that again")),
        ("dump empty --data data", ("empty is no regular file", "name a file")),
        ("dump none/x --data data", ("none/x: No such file or directory",)),
        ("dump file/x --data data", ("file/x: Not a directory",)),
        ("dump file --data data", ("file is no dump", "not there yet")),
        ("dump data/log/dump --data data", ("data/log/dump lies in the data directory data", "elsewhere")),
        ("dump --from 0 --data data", ("--from 0",)),
        ("trim --data data", ("say what is to go", "--dry-run")),
        ("trim --below 0 --data data", ("--below 0: must be above 0",)),
        ("trim --below 99999 --data data", ("--below 99999: only what is below", "gonets log snapshot")),
        ("readers --forget nobody --data data", ("there is no reader 'nobody'", "known: none")),
    ],
)
def test_what_is_no_place_for_it(command: str, words: tuple[str, ...]) -> None:
    """Source and target of every verb that has them; nothing is left of it."""
    before = sorted(path for path in Path.cwd().rglob("*") if "lock" not in path.name and "readers" not in path.parts)
    refused(log_command(*command.split()), *words)
    after = sorted(path for path in Path.cwd().rglob("*") if "lock" not in path.name and "readers" not in path.parts)
    assert after == before


def test_a_log_that_is_being_restored(place: Path) -> None:
    (place / "data" / RESTORING).mkdir()
    for verb in (*ON_A_LOG, "backup new"):
        refused(log_command(*verb.split(), "--data", "data"), "data is half restored", "or run it again")


def test_two_dumps_into_one_file(place: Path) -> None:
    """The second is refused; the first ends as if nothing had been."""
    command = [sys.executable, str(ROOT / "gonets.py"), "log", "dump", "out", "--data", "data"]
    runs = []

    def on_progress(what: str, done: int, total: int) -> None:
        runs.append(subprocess.run(command, check=False, capture_output=True, text=True, timeout=30))

    dump_log(place / "data", place / "out", on_progress=on_progress)
    for run in runs:
        refused(Ran(run.returncode, run.stdout, run.stderr), "another dump is writing out", "name another file")
    assert len(runs) == 1
    dump_log(place / "data", place / "alone")
    assert (place / "out").read_bytes() == (place / "alone").read_bytes()


@as_root
def test_without_permission(place: Path) -> None:
    """Of the data directory, of the target, of the source."""
    for verb in (*(verb for verb in ON_A_LOG if verb != "readers"), "backup new"):
        ran = log_command(*verb.split(), "--data", "data", user=NOBODY)
        refused(ran, "ermission denied", "run this as the user of the server")
    for closed in ("data/log", "data"):
        (place / closed).chmod(0o700)
        for verb in (*ON_A_LOG, "backup new"):
            refused(
                log_command(*verb.split(), "--data", "data", user=NOBODY), "data", "ermission denied", "run this as"
            )
        (place / closed).chmod(0o755)
    subprocess.run(["chown", "-R", str(NOBODY), "data"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", "backup"], check=True)  # an operator may let others read
    (place / "empty").chmod(0o700)
    for command in (
        "backup empty --data data",
        "backup empty/x --data data",
        "restore backup --data empty",
        "restore backup --data empty/x",
        "restore empty --data new",
        "verify empty",
        "dump empty/x --data data",
    ):
        refused(log_command(*command.split(), user=NOBODY), "empty", ": Permission denied (run this as")
    ran = log_command("verify", "backup", user=NOBODY)  # reading is enough
    assert ran.status == 0 and "problems: none" in ran.out


@pytest.fixture(name="mount")
def _mount(place: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MiB."""
    with mounted(place / "mount", 8) as point:
        yield point


def test_a_read_only_file_system(place: Path, mount: Path) -> None:
    """What only reads works on it; what writes says so."""
    copy(place / "data", mount / "data")
    copy(place / "backup", mount / "backup")
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    for command in (
        "snapshot --data mount/data",
        "trim --keep-bytes 1 --data mount/data",
        "backup mount/new --data data",
        "backup mount/backup --data data",
        "restore backup --data mount/new",
        "dump mount/new --data data",
    ):
        refused(log_command(*command.split()), "mount/", ": Read-only file system (name a place on a file system that")
    for command in (
        "stat --data mount/data",
        "read --data mount/data",
        "check --data mount/data",
        "dump --data mount/data",
        "readers --data mount/data",
        "backup new --data mount/data",
        "verify mount/data",
        "verify mount/backup",
        "restore mount/backup --data restored",
    ):
        ran = log_command(*command.split())
        assert (ran.status, ran.err) == (0, ""), (command, ran)


def test_a_full_disk(place: Path, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before or met on the way; trimming works, and what was begun goes on once there is room."""
    copy(place / "data", mount / "data")
    refused(log_command("backup", "mount/new", "--data", "data"), "bytes and 67,108,864 to spare", "make room there")
    refused(log_command("restore", "backup", "--data", "mount/restored"), "to spare", "make room there")
    monkeypatch.setattr("engine.log.files.SPARE_BYTES", -(1 << 40))
    fill(mount / "filler", leave=200 << 10)
    commands = ["backup mount/new --data data", "restore backup --data mount/restored", "dump mount/dump --data data"]
    commands += ["snapshot --data mount/data", "check --data mount/data", "verify mount/data"]
    monkeypatch.setenv("TMPDIR", str(mount))  # of check
    monkeypatch.setattr("tempfile.tempdir", str(mount))
    for command in commands:
        fill(mount / "more", leave=64 << 10)
        ran = log_command(*command.split(), said_in=place)
        refused(ran, "mount", "o space left on device", "make room there")
        (mount / "more").unlink()
    assert log_command("trim", "--keep-bytes", "1", "--data", "mount/data", said_in=place).status == 0
    (mount / "filler").unlink()
    for command in commands:
        ran = log_command(*command.split(), said_in=place)
        assert ran.status == 0, (command, ran)


def fill(path: Path, leave: int) -> None:
    """Takes all room but some."""
    space = os.statvfs(path.parent)
    with path.open("wb", buffering=0) as file:
        left = space.f_bavail * space.f_frsize - leave
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 16)))


def test_nobody_takes_what_is_said(place: Path) -> None:
    """A full disk behind stdout; a reader that has gone."""
    for verb in ("stat", "stat --json", "read", "dump"):
        refused(log_command(*verb.split(), "--data", "data", out="/dev/full"), "stdout: No space left on device")
    for verb in ("stat", "read"):
        program = f"{sys.executable} {ROOT / 'gonets.py'} log {verb} --data {place / 'data'} | true"
        run = subprocess.run(["bash", "-c", program], check=False, capture_output=True, text=True, timeout=30)
        assert run.stderr == ""


def test_bars_on_a_terminal_and_nothing_on_a_pipe(place: Path) -> None:
    """And ^C ends each with 130 and no traceback; the same command goes on."""
    for command in ("backup new --data data", "verify backup", "verify data", "restore backup --data again"):
        ran = log_command(*command.split())
        assert (ran.status, ran.err) == (0, "")
    for words in ("backup slow --data data", "restore backup --data restored"):
        status, shown = on_a_terminal([*words.split(), "--bytes-per-s", "200000"], interrupt=True)
        assert status == 130, shown
        assert "Traceback" not in shown and "Error" not in shown
        assert " % " in shown and ("backup " in shown or "copy " in shown)
        assert "\x1b[?25h" in shown  # the cursor is back
        assert log_command(*words.split()).status == 0
    assert log_command("verify", "slow").status == 0
    status, shown = on_a_terminal(["verify", "slow"])
    assert status == 0 and all(f"{what} " in shown for what in ("hashes", "check", "fold")) and "100 %" in shown
    shutil.rmtree(place / "slow")


def on_a_terminal(command: list[str], *, interrupt: bool = False) -> tuple[int, str]:
    """How it ends, and what is shown; ^C comes with the first per cent."""
    child, terminal = pty.fork()
    if not child:
        os.environ.update(TERM="xterm", COLUMNS="100")
        os.execv(sys.executable, [sys.executable, str(ROOT / "gonets.py"), "log", *command])
    shown, deadline = b"", time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # it has ended
            break
        shown += part
        if interrupt and re.search(rb" [1-9][0-9]? %", shown):
            os.write(terminal, b"\x03")
            interrupt = False
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()
