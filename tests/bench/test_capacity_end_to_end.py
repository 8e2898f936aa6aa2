"""`gonets bench capacity` and `soak` as they are called, against real servers, and cut short in each way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from bench import harness, schema
from bench.cli import app
from bench.clients import Issuer
from bench.harness import Child, workplace
from tests.support.tree import ROOT

SMALL = """
name = "small"
title = "Five dialogs"
run = { warmup_s = 0.1, window_s = 0.4, drain_s = 2, deadline_s = 30 }
sessions = { count = 10 }
[[streams]]
name = "dialogs"
shape = "dialog"
conversations = 5
arrivals = "even"
rate_per_s = 600
"""
COMMANDS_PER_S = 100  # that the server allows a session
OVER_S = 50.0


def started(*arguments: str) -> subprocess.Popen[str]:
    """`gonets bench …`."""
    return subprocess.Popen(
        [sys.executable, "-m", "gonets", "bench", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status and what it has said."""
    try:
        out, err = process.communicate(timeout=OVER_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def until_said(process: subprocess.Popen[str], words: str) -> None:
    """Reads stderr until there is a line of these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"{words!r} was never said")


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def serving(issuer: Issuer, place: Path, commands_per_s: int = 1_000_000) -> Child:
    """A server that allows each session so many, and the private key of its tokens beside it as key.pem."""
    private = issuer._private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "key.pem").write_bytes(private)
    return harness.gateway(
        place / "ours",
        issuer,
        GONETS_GATEWAY_RATE_PER_S=str(commands_per_s),
        GONETS_GATEWAY_RATE_BURST=str(commands_per_s // 10),
    )


def test_the_capacity_of_a_server_that_allows_so_many_commands(small: str, tmp_path: Path) -> None:
    """Ten sessions of 100 commands a second: above 1,000 publishes a second some are refused, whatever the machine."""
    path = tmp_path / "capacity.json"
    with workplace("capacity", None) as place, serving(Issuer(), place, COMMANDS_PER_S) as server:
        status, out, err = ended(
            started(
                "capacity", small, "--target", f"ws://{server.host}:{server.port}/v1", "--token-key",
                str(place / "key.pem"), "--p99-ms", "10000", "--report", str(path),
            )
        )  # fmt: skip
    assert status == 0, err
    report = schema.read(path)
    found = report.capacity
    assert not report.partial and found is not None and found.rate_per_s is not None and found.spread_per_s is not None
    assert 400 <= found.rate_per_s <= 1_400, err  # a window also spends what a session had saved up
    assert any("refused" in line for line in err.splitlines())
    assert len(report.runs) == len(found.points) >= 6 and report.target.url.endswith(f":{server.port}/v1")
    assert f"{found.rate_per_s:,.0f} publishes/s met" in report.conclusions[0]
    assert path.with_suffix(".html").stat().st_size > 10_000
    assert "capacity" in out


def test_a_search_whose_target_dies_keeps_what_it_has(small: str, tmp_path: Path) -> None:
    """After the first point."""
    path = tmp_path / "capacity.json"
    with workplace("capacity", None) as place, serving(Issuer(), place) as server:
        process = started(
            "capacity", small, "--target", f"ws://{server.host}:{server.port}/v1", "--token-key",
            str(place / "key.pem"), "--p99-ms", "10000", "--report", str(path), "--json",
        )  # fmt: skip
        until_said(process, "600/s: p99")
        os.kill(server.pid, signal.SIGKILL)
        found, out, err = ended(process)
    assert found == 1 and "what was measured until then is in the report" in err and "Traceback" not in err, err
    report = schema.read(path)
    assert report.partial and report.reason and report.capacity is not None
    assert report.capacity.rate_per_s is not None and report.capacity.rate_per_s >= 600
    assert report.capacity.points[0].met and len(report.runs) >= len(report.capacity.points) >= 1
    assert '"partial":true' in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("capacity", "nobodys"), "no workload 'nobodys'"),
        (("capacity", "append"), "workload append: of kind 'append'"),
        (("capacity", "idle"), "nobody writes in it"),
        (("capacity", "dialogs", "--p99-ms", "0"), "--p99-ms 0: must be more than 0"),
        (("capacity", "dialogs", "--confirmations", "1"), "--confirmations 1: must be 3 to 50"),
        (
            ("capacity", "dialogs", "--rate-per-s", "1e9"),
            "--rate-per-s 1,000,000,000: must be more than 0 and at most 10,000,000",
        ),
        (("capacity", "dialogs", "--report", "no/such/place.json"), "there is no directory no/such"),
        (("soak", "dialogs", "--folder", "no-such"), "--folder 'no-such': no directory that can be written to"),
        (("soak", "dialogs", "--hours", "0"), "--hours 0: must be more than 0 and at most 720"),
        (("soak", "read"), "nothing to soak"),
    ],
)
def test_mistakes_of_use_are_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        app(arguments)
    out, err = capsys.readouterr()
    assert (ending.value.code, out) == (1, "") and len(err.splitlines()) == 1
    assert err.startswith("gonets: bench: ") and words in err


def test_a_soak_is_saved_after_each_window(small: str, tmp_path: Path) -> None:
    """Stopped after two windows: both are there, with what was watched; before that the file was there already."""
    path = tmp_path / "soak.json"
    process = started("soak", small, "--minutes", "5", "--window-s", "1", "--report", str(path))
    until_said(process, "window 2: p99")
    until = time.monotonic() + 10
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    early = schema.read(path)
    assert early.partial and early.reason == "it was still running" and len(early.runs) >= 1
    os.kill(process.pid, signal.SIGINT)
    status, out, err = ended(process)
    assert status == 130 and "Traceback" not in err, err
    report = schema.read(path)
    assert report.partial and report.reason == "interrupted" and len(report.runs) >= 2
    rows = {growth.name: growth for growth in report.growth}
    assert {"memory of its own", "descriptors", "threads", "p99 of deliveries", "disk for each event"} <= set(rows)
    assert "lag of the tail" in rows and not any(growth.grows for growth in rows.values())
    assert all(value > 0 for name in ("descriptors", "threads") for _, value in rows[name].samples)
    assert report.target.started_here and any("can't tell" in line for line in report.conclusions)
    assert "soak" in out
