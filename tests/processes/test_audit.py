"""What operators do becomes events that whoever has the scope `audit` reads: real servers, commands beside them."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import SERVICE, GatewayProcess
from tests.support.log_command import log_command
from tests.support.supervised import until
from tests.support.tokens import Issuer

pytestmark = pytest.mark.timeout(120)  # three starts of a server

ISSUER = Issuer()
ENGINE = str(2**53 - 1)
SOON_S = 20


@pytest.fixture(params=[0, 1], ids=["one process", "workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayProcess]:
    (tmp_path / "revoked.json").write_text("{}")
    options = {
        "server.api": "127.0.0.1:0",
        "server.gateway_workers": request.param,
        "auth.keys": ISSUER.write(tmp_path / "keys.json", "ed"),
        "auth.revoked": tmp_path / "revoked.json",
    }
    with GatewayProcess(tmp_path / "data", **options) as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]


def events(server: GatewayProcess, scope: str = "read:* audit") -> list[dict[str, Any]]:
    """The system conversation's."""
    token = ISSUER.token(SERVICE, team="auditors", scope=scope)
    request = urllib.request.Request(
        f"{server.api}/v1/events?types=admin.&kinds=system", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["events"]
    assert all(event["sender"] == ENGINE for event in found)
    return found


def told(server: GatewayProcess, count: int) -> list[dict[str, Any]]:
    """All, once there are so many."""
    until(lambda: len(events(server)) >= count, f"{count} acts are told", SOON_S)
    return events(server)


def test_what_an_operator_does_is_told(server: GatewayProcess, tmp_path: Path) -> None:
    """Each once; while the server runs, and while it doesn't."""
    assert events(server) == []
    with pytest.raises(urllib.error.HTTPError, match="403"):
        events(server, "read:*")

    revoked = tmp_path / "revoked.json"
    before = hashlib.sha256(revoked.read_bytes()).hexdigest()
    revoked.write_text(json.dumps({"tokens": ["a", "b"], "users": {"9": 1}}))
    (event,) = told(server, 1)
    digest = hashlib.sha256(revoked.read_bytes()).hexdigest()
    assert event["type"] == "admin.revocations"
    assert event["data"] == {"sha256": digest, "tokens": 2, "users": 1, "devices": 0, "before": before}

    ISSUER.write(tmp_path / "keys.json", "ed", "ec")
    event = told(server, 2)[-1]
    assert event["type"] == "admin.keys"
    assert [[row[0] for row in event["data"][name]] for name in ("keys", "before")] == [["ec", "ed"], ["ed"]]

    assert log_command("backup", tmp_path / "backup", "--data", server.data).status == 0
    event = told(server, 3)[-1]
    assert event["type"] == "admin.backed_up" and event["data"]["uid"] == os.getuid()
    assert event["data"]["place"] == str(tmp_path / "backup")

    server.kill()
    assert log_command("dump", tmp_path / "dump", "--data", server.data).status == 0
    revoked.write_text("{}")
    server.options["auth.leeway_s"] = 7
    server.start()
    found = told(server, 6)[3:]
    assert sorted(event["type"] for event in found) == ["admin.dumped", "admin.options", "admin.revocations"]
    said = {event["type"]: event["data"] for event in found}
    assert said["admin.revocations"] == {"sha256": before, "tokens": 0, "users": 0, "devices": 0, "before": digest}
    assert ["auth.leeway_s", "7", ""] in said["admin.options"]["changed"]
    assert said["admin.dumped"]["first"] == 1

    assert server.terminate() == 0
    server.start()
    until(lambda: "gonets_untold_acts 0" in server.http("/metrics", admin=True)[1], "all is told", SOON_S)
    assert len(events(server)) == 6


def test_a_restored_log_says_so_and_by_what_it_is_judged(server: GatewayProcess, tmp_path: Path) -> None:
    """Nothing is known there of what was told."""
    assert log_command("backup", tmp_path / "backup", "--data", server.data).status == 0
    told(server, 1)
    assert server.terminate() == 0
    assert log_command("restore", tmp_path / "backup", "--data", tmp_path / "new").status == 0
    server.data = tmp_path / "new"
    server.start()
    found = told(server, 4)
    assert sorted(event["type"] for event in found) == [
        "admin.keys",
        "admin.options",
        "admin.restored",
        "admin.revocations",
    ]
    said = {event["type"]: event["data"] for event in found}
    assert said["admin.restored"]["epoch"] > 1 and said["admin.restored"]["backup"] == 1
    assert said["admin.keys"]["before"] == [] and said["admin.revocations"]["before"] == ""
