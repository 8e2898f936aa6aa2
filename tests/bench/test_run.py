"""`gonets bench run`: a report of each kind of end, and one clear line for every mistake."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import driven, findings, schema, tokens
from bench.driven import Started
from bench.million import would_stop
from bench.reporting import title_of
from bench.run import run, sized
from bench.schema import Generator, Run
from bench.workload import load
from tests.support.tree import ROOT

OWN = """
name = "own"
title = "one of mine"
[run]
warmup_s = 0.1
window_s = 0.5
drain_s = 10
deadline_s = 30
[sessions]
count = 12
[[streams]]
name = "mine"
shape = "dialog"
conversations = 6
rate_per_s = 40
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A workload of one's own."""
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A server that is there."""
    found = Started(tmp_path_factory.mktemp("target"), 0, False)
    yield found
    found.stop()


def test_a_run_over_the_command_line(own: Path, tmp_path: Path) -> None:
    """Two runs, workers and generators as asked; report and page; one object on stdout, and the same in the file."""
    arguments = ["bench", "run", str(own), "--runs", "2", "--workers", "2", "--generators", "2", "--json"]
    where = ["--folder", str(tmp_path), "--report", str(tmp_path / "r.json")]
    said = subprocess.run(
        [sys.executable, "-m", "gonets", *arguments, *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    found = schema.read(tmp_path / "r.json")
    assert found == msgspec.json.decode(said.stdout, type=schema.Report) and not found.partial
    assert len(found.runs) == 2 and found.name == "own" and found.target.workers == 2
    for one in found.runs:
        assert not any(one.faults.values()) and one.generator.processes == 2 and one.counts["deliveries"] > 0
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"own.toml", "r.json", "r.html"}


def failed(capsys: pytest.CaptureFixture[str], workload: str, **more: Any) -> str:
    """The one line that is left when it can't be."""
    with pytest.raises(SystemExit) as status:
        run(workload, **more)
    assert status.value.code == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_mistakes_are_one_line(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started or written."""
    assert "no workload 'dialog'; did you mean dialogs" in failed(capsys, "dialog")
    assert "--runs 0: must be 1 to 100" in failed(capsys, str(own), runs=0)
    assert "--target: workload append is of kind 'append'" in failed(capsys, "append", target="ws://127.0.0.1:1/v1")
    assert "--kill-worker needs a workload with a [storm]" in failed(capsys, str(own), kill_worker=True)
    assert "no such directory" in failed(capsys, str(own), folder=tmp_path / "none")
    assert "there is no directory" in failed(capsys, str(own), report=tmp_path / "none" / "r.json")
    assert "--rate-per-s -1: must be" in failed(capsys, str(own), rate_per_s=-1.0)
    assert "--workers -2: must be 0 or more" in failed(capsys, str(own), workers=-2, report=tmp_path / "r.json")
    for smoke in (False, True):  # 0 is a size that can't be, not one that is left out
        assert "--sessions 0: must be 1 to" in failed(capsys, str(own), smoke=smoke, sessions=0)
        assert "window_s = 0.0: must be" in failed(capsys, str(own), smoke=smoke, window_s=0.0)
    assert {path.name for path in tmp_path.iterdir()} == {"own.toml"}


@pytest.mark.parametrize("name", ["append", "read"])
def test_workloads_without_sockets_are_measured_too(name: str, tmp_path: Path) -> None:
    """By the file of their kind; the report has measures instead of runs."""
    run(name, smoke=True, folder=tmp_path, report=tmp_path / "r.json")
    found = schema.read(tmp_path / "r.json")
    assert found.title.endswith("(smoke: says nothing of speed)")
    assert not found.runs and found.measures and all(measure.value > 0 for measure in found.measures)


def key_of(server: Started, folder: Path) -> Path:
    path = folder / "key.pem"
    path.write_bytes(server.key_pem)
    return path


def test_a_target_that_is_there(server: Started, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice: the second run's devices go on from the counters of the first."""
    more: dict[str, Any] = {
        "target": server.url,
        "token_key": key_of(server, tmp_path),
        "token_key_name": driven.KEY_NAME,
        "runs": 2,
    }
    run(str(own), report=tmp_path / "r.json", **more)
    found = schema.read(tmp_path / "r.json")
    assert [any(one.faults.values()) for one in found.runs] == [False, False]
    assert not found.target.started_here and found.target.url == server.url
    capsys.readouterr()
    server.check()  # it was not ours to stop


def test_a_target_that_refuses_the_tokens(
    server: Started, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another key: said in one line with the server's own words, before there is a report."""
    other = tmp_path / "other.pem"
    other.write_bytes(tokens.new_key())
    more: dict[str, Any] = {"target": server.url, "token_key": other, "token_key_name": driven.KEY_NAME}
    line = failed(capsys, str(own), report=tmp_path / "r.json", **more)
    assert f"--target {server.url}: it refused the token: key, kid or audience (4501, " in line
    assert not (tmp_path / "r.json").exists()


def test_a_target_with_a_name_that_is_none(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty label: one line, as for a name that nobody has."""
    key = tmp_path / "key.pem"
    key.write_bytes(tokens.new_key())
    line = failed(capsys, str(own), target="ws://a..b:80/v1", token_key=key, report=tmp_path / "r.json")
    assert "--target 'ws://a..b:80/v1': a..b: no name of a host" in line and not (tmp_path / "r.json").exists()


def test_a_target_that_is_no_gonets(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A web server: it answers, but not as one of ours; nor to a handshake of TLS. Of the answer only its status."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{web.server_address[1]}/v1"
        key = tmp_path / "key.pem"
        key.write_bytes(tokens.new_key())
        line = failed(capsys, str(own), target=url, token_key=key, report=tmp_path / "r.json")
        secure = failed(capsys, str(own), target=f"wss{url[2:]}", token_key=key, report=tmp_path / "r.json")
        web.shutdown()
    assert f"--target {url}: no Gonets gateway answered: it said" in line and "HTTP/1.0 501 " in line
    assert "\\r" not in line and "Content-Type" not in line
    assert f"--target wss{url[2:]}: no Gonets gateway answered: TLS failed" in secure


def test_a_rate_that_can_t_be_generated_is_said(
    server: Started, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two million a second by one process: the report says how much it was, and that it is no verdict on the server."""
    more: dict[str, Any] = {"target": server.url, "token_key": key_of(server, tmp_path), "rate_per_s": 2e6}
    run(str(own), report=tmp_path / "r.json", token_key_name=driven.KEY_NAME, **more)
    found = schema.read(tmp_path / "r.json")
    capsys.readouterr()
    [one] = found.runs
    assert one.rates_per_s["published"] < 1.9e6
    said = [*found.conclusions, *(remark.text for remark in findings.remarks(found))]
    assert sum("of the 2,000,000/s" in sentence for sentence in said) == 1, said


def test_smoke_sizes_are_small_and_what_is_asked_for_goes_first() -> None:
    """Of every workload over sockets."""
    none: dict[str, Any] = {"sessions": None, "rate_per_s": None, "window_s": None}
    for name in ("dialogs", "groups", "channel", "evening-peak", "idle"):
        found = sized(load(name), smoke=True, **none)
        assert found.sessions.count <= 200 and found.run.window_s == 2.0 and (found.rate_per_s or 0) <= 200.001
    assert sized(load("dialogs"), smoke=True, **(none | {"sessions": 1_000})).sessions.count == 1_000
    assert sized(load("dialogs"), smoke=False, **none) == load("dialogs")


def test_a_title_says_when_the_size_is_another() -> None:
    """Smoke, or scaled by options; a window alone is no size."""
    own = load("dialogs")
    none: dict[str, Any] = {"sessions": None, "rate_per_s": None, "window_s": None}
    small = sized(own, smoke=True, **none)
    assert title_of(own, small, smoke=True) == f"{own.title} (smoke: says nothing of speed)"
    scaled = sized(own, smoke=False, **(none | {"sessions": 1_000, "rate_per_s": 200.0}))
    assert title_of(own, scaled) == f"{own.title} (scaled: 1,000 sessions, 200/s)"
    assert title_of(own, sized(own, smoke=False, **(none | {"window_s": 3.0}))) == own.title


def test_what_would_stop_a_million_is_computed_from_what_one_took() -> None:
    """Memory by the figures of the run; without them nothing is said."""
    fields: dict[str, Any] = {"started": "", "connect_s": 0.0, "warmup_s": 0.0, "window_s": 1.0, "drain_s": 0.0}
    empty: dict[str, Any] = {key: {} for key in ("counts", "faults", "rates_per_s", "latencies")}
    generator = Generator(processes=1, cpu_cores_max=0.0, late_p99_ms=0.0, is_limit=False)
    one = Run(
        **fields,
        **empty,
        sessions=1_000,
        offered_per_s=None,
        ticks=[],
        processes=[],
        generator=generator,
        values={
            "session_user_bytes": 1e9,
            "session_kernel_bytes": 3_000.0,
            "server_user_before_bytes": 0.0,
            "connects_per_s": 500.0,
        },
    )
    found = would_stop(one)
    assert "reached: memory" in found[0] and "1,000,000,000 bytes of its own" in found[0]
    assert any("2,000 s" in line for line in found)
    assert would_stop(msgspec.structs.replace(one, values={})) == []
