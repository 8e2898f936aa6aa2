"""The systemd unit: the words that matter are in it, systemd finds it sound, and the server lives where it puts it.

That is: an ordinary user without capabilities, every file system read-only but the data directory. Here the kernel is
asked for the same by hand, because a test has no systemd to ask.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import ROOT, Device
from tests.support.tokens import Issuer

UNIT = ROOT / "gateway" / "gonets.service"
EXPOSURE_MAX = 2.0  # of 10, as systemd-analyze counts


def options() -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def test_no_root_and_one_directory_to_write_to() -> None:
    found = options()
    assert found["User"] == "gonets" and found["NoNewPrivileges"] == "yes" and found["CapabilityBoundingSet"] == ""
    assert found["ProtectSystem"] == "strict" and "ReadWritePaths" not in found
    assert f"GONETS_SERVER_DATA=/var/lib/{found['StateDirectory']}" in found["Environment"].split()


def test_systemd_finds_little_to_attack() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (Debian's package systemd)")
    run = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)], check=False, capture_output=True, text=True
    )
    level = re.search(r"Overall exposure level for gonets.service: ([0-9.]+)", run.stdout)
    assert level is not None, run.stdout + run.stderr
    assert float(level[1]) <= EXPOSURE_MAX


def test_it_writes_nowhere_but_into_its_data_directory(tmp_path: Path) -> None:
    """A whole life without a capability: start, publish, save, reload, stop. (The uid stays: without capabilities root
    is an ordinary user, and the interpreter of a test may be for root alone to read.)"""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("only root with unshare and setpriv (util-linux) can make file systems read-only")
    data = tmp_path / "data"
    data.mkdir()
    issuer = Issuer()
    keys = issuer.write(tmp_path / "keys.json")
    program = f"""
mount --bind {data} {data} || exit 98
findmnt -rno TARGET | sort -r | while read -r place; do
    [ "$place" = {data} ] || mount -o remount,bind,ro "$place" 2>/dev/null
done
touch {tmp_path}/none 2>/dev/null && exit 97
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all \
    {sys.executable} {ROOT}/gonets.py serve --json --data {data} --listen 127.0.0.1:0 --admin ""
"""
    environment = {
        **os.environ,
        "GONETS_AUTH_KEYS": str(keys),
        "GONETS_SERVER_DRAIN_S": "0",
        "GONETS_LOG_SAVE_INTERVAL_S": "1",
        "GONETS_LOG_KEEP_BYTES": "1000000",
    }
    server = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert server.stdout is not None and server.stderr is not None
    try:
        line = server.stdout.readline()
        if not line and server.wait(20) == 98:
            pytest.skip("no mount of its own is allowed here")
        assert line, server.stderr.read()
        device = Device(json.loads(line)["url"])
        device.hello(issuer.token(1))
        assert device.write("publish", user=2, text="x")["status"] == "appended"
        server.send_signal(signal.SIGHUP)
        assert device.write("publish", user=2, text="y")["status"] == "appended"
        device.close()
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=30)
    assert server.returncode == 0, errors
    assert "ermission" not in errors and "Read-only" not in errors and "Traceback" not in errors, errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "keys.json"]
    assert (data / "state" / "data.mdb").exists()
