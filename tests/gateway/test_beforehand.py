"""What can be known before a server starts is one line, the same with workers and without, and leaves no trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadArgument
from engine.log import Log
from tests.gateway.test_serve import gonets
from tests.support.gateway import GatewayProcess, running
from tests.support.supervised import supervised

WORKERS = ["0", "1"]


def refusal(data: Path, workers: str, *more: str, **environment: Any) -> str:
    """The only line that a start ends with."""
    where = ("--data", data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    run = gonets("serve", *where, "--workers", workers, *more, **environment)
    assert run.returncode == 1 and not run.stdout, run
    (line,) = run.stderr.splitlines()
    return line.removeprefix("gonets: ")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def serving(gateway: GatewayProcess) -> dict[str, Any]:
    """The newest line of a start."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in gateway.log().splitlines()]
    return [line for line in lines if line["event"] == "serving"][-1]


@pytest.fixture(name="old", scope="module")
def _old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a log, and `backup` beside it."""
    data = tmp_path_factory.mktemp("old") / "data"
    with running(data) as gateway:
        gateway.device(1).write("publish", user=2, text="kept")
        assert serving(gateway)["new_log"] is True
    assert gonets("log", "backup", data.parent / "backup", "--data", data).returncode == 0
    return data


@pytest.mark.parametrize("workers", WORKERS)
def test_keys_shard_and_format(old: Path, tmp_path: Path, workers: str) -> None:
    assert "auth.keys = '/nope'" in refusal(old, workers, GONETS_AUTH_KEYS="/nope")
    assert "auth.revoked = '/nope'" in refusal(old, workers, GONETS_AUTH_REVOKED="/nope")
    assert "set log.shard = 0" in refusal(old, workers, GONETS_LOG_SHARD="3")
    data = tmp_path / "data"
    shutil.copytree(old, data)
    (segment,) = (data / "log").glob("*.lmdb")
    other = bytearray(segment.read_bytes())
    for page in (0, 4096):
        other[page + 20 : page + 24] = (999).to_bytes(4, "little")  # LMDB's data format, in both meta pages
    segment.write_bytes(other)
    assert "data format 999" in refusal(data, workers)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_backup_is_not_served_and_stays_one(old: Path, workers: str) -> None:
    backup = old.parent / "backup"
    before = tree(backup)
    line = refusal(backup, workers)
    assert f"{backup} is a backup: it holds backup-0000000" in line and "`gonets log restore" in line
    assert tree(backup) == before and not (backup / "log").exists()
    with pytest.raises(BadArgument, match="is a backup"):
        Log.open(backup)
    assert tree(backup) == before
    assert gonets("log", "backup", backup, "--data", old).returncode == 0


def test_a_single_process_hands_nothing_over(old: Path) -> None:
    with running(old) as gateway:
        assert gateway.process is not None
        who = f"its log is in use by process {gateway.process.pid}"
        assert f"{who}, which runs without --workers and hands nothing over: stop it first" in refusal(
            old, "2", "--take-over"
        )
        assert f"{who}: stop that" in refusal(old, "2")
        gateway.device(1).write("publish", user=2, text="still served")
        assert serving(gateway)["new_log"] is False


def test_the_start_of_workers_says_how_many_and_whether_the_log_is_new(tmp_path: Path) -> None:
    with supervised(tmp_path / "data") as server:
        (line,) = server.lines("serving")
        assert (line["workers"], line["new_log"]) == (2, True)
        assert server.addresses == {name: line[name] for name in server.addresses}
    with running(tmp_path / "real", **{"server.gateway_workers": 1}) as gateway:
        assert serving(gateway)["new_log"] is True
    with running(tmp_path / "real", **{"server.gateway_workers": 1}) as gateway:
        assert serving(gateway)["new_log"] is False
