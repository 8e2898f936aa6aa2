"""What the engine says through `logging` has the form of the gateway's own lines, in every process; tools stay bare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.gateway import ROOT, GatewayProcess, running

PROGRAM = """
import logging, sys
from gateway import logs
engine = logging.getLogger("engine.log.somewhere")
for level in sys.argv[2:]:
    logs.configure(level, sys.argv[1], "sequencer")
    engine.debug("debug %d", 1)
    engine.info("info %d", 2)
    logging.getLogger("library").info("another's info")
    logging.getLogger("library").warning("another's warning")
    try:
        raise ValueError("broken")
    except ValueError:
        engine.exception("failed")
"""
FREE = 1 << 50  # no disk has so much
LOOK_WITHIN_S = 15.0


def said(*arguments: str) -> list[str]:
    """The lines of one process."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=ROOT, check=True, timeout=30
    )
    return run.stderr.splitlines()


def test_one_line_of_json_each_at_the_level_of_now() -> None:
    lines = [json.loads(line) for line in said("json", "warning", "info", "debug")]
    found = [(line["event"], line["level"]) for line in lines]
    worse = [("another's warning", "warning"), ("failed", "error")]
    info = [("info 2", "info"), *worse]
    assert found == [*worse, *info, ("debug 1", "debug"), *info]
    assert all(line["process"] == "sequencer" and line["timestamp"].endswith("Z") for line in lines)
    assert ["exception" in line for line in lines] == [line["event"] == "failed" for line in lines]


def test_the_console_form() -> None:
    first, *_ = said("console", "info")
    assert "info 2" in first and "sequencer" in first and not first.startswith("{")


def engine_lines(gateway: GatewayProcess, words: str) -> list[dict[str, str]]:
    """Log lines with these words, once there are some."""
    deadline = time.monotonic() + LOOK_WITHIN_S
    while not (found := [line for line in gateway.log().splitlines() if words in line]):
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.05)
    return [json.loads(line) for line in found]


def test_the_sequencer_of_workers_says_who_it_is(tmp_path: Path) -> None:
    with running(tmp_path / "data", **{"server.gateway_workers": 1, "log.free_bytes_min": FREE}) as gateway:
        (line,) = engine_lines(gateway, "publishes are refused")
        assert (line["level"], line["process"]) == ("error", "sequencer") and line["timestamp"]
        assert f"log.free_bytes_min = {FREE}" in line["event"]


def read_again(path: Path) -> list[dict[str, Any]]:
    """What has been said of a reload."""
    return [line for line in map(json.loads, path.read_text().splitlines()) if "read again" in line["event"]]


def test_a_reload_of_the_level_reaches_the_sequencer(tmp_path: Path) -> None:
    """At `error` nobody hears a start; then every process tells that it has read the configuration again."""
    config = tmp_path / "gonets.toml"
    config.write_text('[logging]\nlevel = "error"\n')
    command = [sys.executable, str(ROOT / "gonets.py"), "serve", "--json", "--workers", "1", "--config", str(config)]
    command += ["--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--admin", ""]
    with (tmp_path / "stderr").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stdout.readline()
        assert not (tmp_path / "stderr").read_text()
        config.write_text('[logging]\nlevel = "debug"\n')
        os.kill(process.pid, signal.SIGHUP)
        deadline = time.monotonic() + LOOK_WITHIN_S
        while len(told := read_again(tmp_path / "stderr")) < 3:
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        assert {line["process"] for line in told} == {"supervisor", "sequencer", "worker 1"}
        assert all(line["taken"] == ["logging.level"] for line in told)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_verbs_of_the_log_say_it_bare(tmp_path: Path) -> None:
    code = "import logging, engine.log.cli; logging.getLogger('engine.log.writer').warning('segment %s', 'x')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=30)
    assert run.stderr == "segment x\n"
