"""A disk that fails under a running server: refused clearly, readers go on, and the process says what to do."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path

import pytest

from bench.faultdisk import Action, FaultDisk, Kind, NoCompiler, library
from gateway import tour
from gateway.auth import development_token
from gateway.client import ClientError
from tests.support.gateway import GatewayProcess

SECOND_KIND = {Kind.SYNC: Action.FAIL, Kind.META: Action.FAIL_AFTER}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("kind", [Kind.SYNC, Kind.META])
def test_a_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: Kind, error: int
) -> None:
    """No receipt, `unavailable` from then on, history and readiness tell the truth, and a restart has all receipts."""
    try:
        disk = FaultDisk(tmp_path / "control", tmp_path / "data", library(tmp_path))
    except NoCompiler as missing:
        pytest.skip(str(missing))
    for name, value in disk.environment.items():
        monkeypatch.setenv(name, value)
    with GatewayProcess(tmp_path / "data") as server:
        one, two = server.device(1), server.device(2)
        first = one.write("publish", user=2, text="kept")
        assert first["status"] in ("appended", 0)
        rule = disk.rule(SECOND_KIND[kind], kind, path="log/*.lmdb", error=error, times=1)
        for text in ("lost", "again"):
            assert one.write("publish", user=2, text=text)["status"] in ("unavailable", 26)
        assert rule.hits == 1
        two.send("history", id=1, conversation=first["conversation"])
        assert two.expect("history")["events"][0]["sequence"] == first["sequence"]
        status, words = server.http("/readyz")
        assert status == 503 and "the writer has stopped" in words and "restart" in words
        assert server.metric("gonets_writer_fenced") == 1
        monkeypatch.setattr(tour, "SEND_S", 0.5)
        token = development_token(server.data, 1, 600, "gonets")
        with pytest.raises(ClientError, match=r"unavailable.*not stored.*writer has stopped"):
            asyncio.run(tour.send(server.url, token, 9, 2, None, "of a person"))
        assert "not stored yet: unavailable: the server's writer has stopped" in capsys.readouterr().err
        commits = disk.count(Kind.META)
        one.write("publish", user=2, text="never tried")
        assert disk.count(Kind.META) <= commits + 1  # the saver or the marks, at most: the writer tries nothing
        assert server.terminate() == 0
    (line,) = [json.loads(line) for line in server.log().splitlines() if "fenced" in line]  # JSON, as the gateway's own
    assert line["level"] == "critical" and line["timestamp"] and "exception" not in line
    assert line["event"].startswith("the writer is fenced: block ") and "look at the disk first" in line["event"]
    assert "Traceback" not in server.log()
    disk.clear()
    with GatewayProcess(tmp_path / "data") as after:
        three = after.device(2)
        three.send("history", id=1, conversation=first["conversation"])
        assert three.expect("history")["events"][0]["sequence"] == first["sequence"]
        assert three.write("publish", user=1, text="goes on")["status"] in ("appended", 0)
