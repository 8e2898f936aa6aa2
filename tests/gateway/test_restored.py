"""A restored log through the gateway: who was beyond the backup hears so, and nothing of the old history mixes in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.gateway import ROOT, running


def gonets(*arguments: object) -> dict[str, object]:
    """A verb of the log; what it prints."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "gonets.py"), "log", *map(str, arguments), "--json"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=50,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


def test_clients_beyond_the_backup_are_reset_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    with running(data) as gateway:
        one, two = gateway.device(1), gateway.device(2)
        kept = one.write("publish", user=2, text="kept")["sequence"]
        before = {**two.welcome["shards"][0], "sequence": kept}
        made = gonets("backup", backup, "--data", data)
        lost = one.write("publish", user=2, text="lost")["sequence"]
        beyond = {**before, "sequence": lost}
        one.close()
        two.close()
    assert made["last_sequence"] == kept
    assert gonets("verify", backup)["problems"] == []
    gonets("restore", backup, "--data", restored)
    with running(restored) as gateway:
        again = gateway.device(2, positions=[beyond])
        reset = again.expect("reset")
        assert reset["epoch"] != before["epoch"] and reset["sequence"] == kept
        again.expect("live")
        assert [push for push in again.backlog if push["op"] == "event"] == []
        three = gateway.device(3)
        new = three.write("publish", user=2, text="new")["sequence"]
        assert again.expect("event", sequence=new)["payload"] == b"new" and new > kept
        within = gateway.device(2, device=5, positions=[before])
        within.expect("live")
        events = [push["sequence"] for push in within.backlog if push["op"] == "event"]
        assert new in events and kept not in events and not [p for p in within.backlog if p["op"] == "reset"]
    assert gonets("check", "--data", restored)["problems"] == []
