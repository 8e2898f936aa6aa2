"""What the engine makes in a data directory and in a backup is its owner's alone, whatever the umask is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.log.backup import Options, backup_log
from engine.log.dump import dump_log
from engine.log.restore import restore_log
from engine.log.snapshot import snapshot_log
from engine.log.verify import verify_log
from engine.private import make_folder
from tests.gateway.test_serve import gonets
from tests.support.gateway import ROOT, running
from tests.support.grown_log import grow
from tests.support.killed import quiet


@pytest.fixture(autouse=True, name="nothing_masked")
def _nothing_masked() -> Iterator[None]:
    """The umask that opens most; servers that are started inherit it."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(*places: Path) -> list[str]:
    """What somebody else could read, write or enter."""
    found = [path for place in places for path in (place, *place.rglob("*"))]
    assert len(found) > len(places)
    return [
        f"{path} {stat.S_IMODE(mode):o}"
        for path in found
        if not stat.S_ISLNK(mode := path.lstat().st_mode) and stat.S_IMODE(mode) != (0o700 if path.is_dir() else 0o600)
    ]


def test_a_library_user(tmp_path: Path) -> None:
    """Segments, state, snapshots, pins and a reader; a backup made twice, verified in part, restored."""
    data, backup, new = tmp_path / "deep" / "data", tmp_path / "backup", tmp_path / "new"
    grow(data, 150, snapshot=True)
    snapshot_log(data, False, quiet)
    for _ in range(2):
        backup_log(data, backup, Options(hold=True), quiet)
    while_at_work: list[str] = []

    def look(what: str, done: int, total: int) -> None:
        while_at_work.extend(open_to_others(backup, data, *([new] if new.exists() else [])))

    for place in (backup, data):
        assert not verify_log(place, None, look)["problems"]
    dump_log(data, tmp_path / "dump")
    assert stat.S_IMODE((tmp_path / "dump").stat().st_mode) == 0o600
    restore_log(backup, new, number=None, segment_bytes=1 << 20, bytes_per_s=0, on_progress=look)
    assert {path.name for path in data.iterdir()} >= {"log", "state", "snapshots", "readers"}
    assert open_to_others(data.parent, backup, new) == while_at_work == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_served_directory(tmp_path: Path, workers: int) -> None:
    """A life with the tour in it, looked at while the server runs and after it."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    with running(data, **{"server.gateway_workers": workers}) as gateway:
        at = ["--data", data, "--url", gateway.url]
        command = [sys.executable, ROOT / "gonets.py", "listen", "--user", 2, "--count", 1, *at]
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as listener:
            assert listener.stderr is not None
            assert b"listening" in listener.stderr.readline()
            assert gonets("send", "--user", 1, "--to", 2, "hello", *at).returncode == 0
            assert listener.wait(20) == 0
        assert gonets("log", "backup", backup, "--data", data).returncode == 0
        if workers:
            assert (data / "supervisor.lock").exists()
            listening = (data / "supervisor.sock").stat().st_mode
            assert stat.S_IMODE(listening) == 0o600
        assert {"log", "cursors", "readers", "tour", "development-key.pem"} <= {path.name for path in data.iterdir()}
        assert open_to_others(data, backup) == []
    assert (data / "state").exists()
    assert open_to_others(data, backup) == []


def test_an_operators_directory_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(0o750)
    make_folder(tmp_path / "data" / "one" / "two")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750
    assert open_to_others(tmp_path / "data" / "one") == []
    with pytest.raises(FileExistsError):
        (tmp_path / "file").touch()
        make_folder(tmp_path / "file")
