"""`gonets bench peers`: each installed system at smoke size, and what is said when something isn't as it should be.

Speeds are never looked at. A system that isn't installed is skipped with the way to get it; what doesn't need one runs
everywhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from bench import schema
from bench.peers import rounds, table
from bench.peers.child import PeerError, PeerServer
from bench.peers.jobs import JOBS, SMOKE, Job, Outcome, Scale
from bench.peers.redis import RedisPubSub
from bench.peers.system import Found, Places, System
from bench.peers.systems import SYSTEMS
from tests.support.tree import ROOT

BY_NAME = {job.name: job for job in JOBS}
SHORT = ("fanout-1000-64", "append-1", "append-1000", "latency", "memory", "read")


def said(words: str) -> None:
    """Progress that nobody reads."""


def command(*arguments: str, search_path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({} if search_path is None else {"PATH": search_path})
    return subprocess.run(
        [sys.executable, str(ROOT / "gonets.py"), "bench", "peers", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment)  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: str(system.name))
def test_each_installed_system_does_its_jobs(system: System, tmp_path: Path) -> None:
    """Every kind of job that is its own: something was measured, and nothing lost."""
    if system.find(Places.named()) is None:
        pytest.skip(f"{system.name} is not installed, get it by {system.get_it}")
    jobs = [BY_NAME[name] for name in SHORT if name in BY_NAME]
    rows, reason = rounds.compare([system], jobs, SMOKE, Places.named(), tmp_path, said)
    assert reason == ""
    assert [row.job for row in rows] == [job.name for job in jobs]
    for row, job in zip(rows, jobs, strict=True):
        if not system.promise(job):
            assert row.runs == [] and row.note.startswith(("not its job: ", "not measured: ")), row
            continue
        assert len(row.runs) == 1 and row.runs[0] > 0, row
        assert row.durability and row.version and row.unit == job.unit
        assert not any(fault in row.note for fault in ("lost", "disordered", "corrupted", "disconnected")), row
    assert list(tmp_path.iterdir()) == []


def test_every_job_is_somebodys_or_says_why() -> None:
    """No system is silent about a job."""
    for system in SYSTEMS:
        for job in JOBS:
            assert system.promise(job) or system.why_not(job), (system.name, job.name)


class Made(System):
    """A system of the tests: says what it is told to."""

    name = family = "made"
    title = "Made"
    get_it = "making it"
    durabilities: ClassVar = {"fanout": "fsync"}
    not_its_job: ClassVar = {"append": "it forgets"}

    def __init__(self, *outcomes: Outcome | Exception, there: bool = True) -> None:
        self.outcomes, self.there = list(outcomes), there

    def find(self, places: Places) -> Found | None:
        return Found(Path(sys.executable), "1") if self.there else None

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Other(Made):
    """Another one."""

    name = family = "other"


THREE = replace(SMOKE, runs=3)


def test_rows_are_medians_of_interleaved_runs(tmp_path: Path) -> None:
    """Values and spread are those of the runs; a fault of one of them is in the note, with what it is of."""
    lossy = Outcome(5.0, {"p50_ms": 3.0}, {"lost": 2}, 1_000, "said 'slow'")
    made = Made(Outcome(10.0, {"p50_ms": 1.0}), lossy, Outcome(20.0, {"p50_ms": 2.0}))
    order: list[str] = []
    rows, reason = rounds.compare(
        [made, Other(*[Outcome(1.0)] * 3)], [BY_NAME["fanout-1000"], BY_NAME["append-1"]], THREE, Places(), tmp_path,
        order.append)  # fmt: skip
    assert reason == ""
    assert rows[0].runs == [10.0, 5.0, 20.0] and rows[0].values == {"p50_ms": 2.0}
    assert rows[0].note == "lost 2 of 1,000; said 'slow'"
    assert rows[2].note == "not its job: it forgets" and rows[2].runs == []
    assert [words.split(": ")[0][-6:] for words in order] == [
        "1 of 3",
        "1 of 3",
        "2 of 3",
        "2 of 3",
        "3 of 3",
        "3 of 3",
    ]


def test_a_missing_system_is_a_row_without_figures(tmp_path: Path) -> None:
    """It says how to get it."""
    rows, reason = rounds.compare([Made(there=False)], [BY_NAME["fanout-1000"]], SMOKE, Places(), tmp_path, said)
    assert reason == ""
    assert rows[0].missing == "not installed, get it by making it"
    assert rows[0].runs == [] and rows[0].values == {} and rows[0].version == ""
    assert table.result(rows[0]) == rows[0].missing
    assert list(table.conclusions(rows)) == []


def test_a_system_that_fails_leaves_the_others_their_runs(tmp_path: Path) -> None:
    """Its figures so far stay, with the reason; the report would be partial."""
    made = Made(Outcome(10.0), PeerError("it ended by signal 9: out\nof memory"))
    other = Other(*[Outcome(1.0)] * 3)
    rows, reason = rounds.compare([made, other], [BY_NAME["fanout-1000"]], THREE, Places(), tmp_path, said)
    assert rows[0].runs == [10.0] and rows[0].note == "failed: it ended by signal 9: out of memory"
    assert rows[1].runs == [1.0, 1.0, 1.0]
    assert reason == "made at fanout-1000: it ended by signal 9: out of memory"


class Mortal(RedisPubSub):
    """A real Redis that is killed while it works."""

    def start(self, found: Found, folder: Path) -> PeerServer:
        server = super().start(found, folder)
        threading.Timer(0.5, os.kill, (server.pid, signal.SIGKILL)).start()
        return server


def test_a_server_that_dies_is_told_as_that(tmp_path: Path) -> None:
    """By its name and how it ended, at once and not after the time of the run."""
    if RedisPubSub().find(Places()) is None:
        pytest.skip(f"redis is not installed, get it by {RedisPubSub.get_it}")
    scale = replace(SMOKE, seconds=30.0, runs=2)
    rows, reason = rounds.compare([Mortal()], [BY_NAME["fanout-1000"]], scale, Places(), tmp_path, said)
    assert rows[0].runs == [] and "redis-server ended by signal 9" in rows[0].note
    assert reason.startswith("redis-pubsub at fanout-1000: redis-server ended by signal 9")


def test_a_program_that_does_not_start(tmp_path: Path) -> None:
    """What it said is in the message."""
    with pytest.raises(PeerError, match="ended with status 3: no such disk"):
        PeerServer([sys.executable, "-c", "import sys; print('no such disk'); sys.exit(3)"], tmp_path, 1)


def test_an_interruption_keeps_what_there_is(tmp_path: Path) -> None:
    """Ctrl-C in the second round."""

    class Interrupted(Made):
        def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
            if len(self.outcomes) == 1:
                raise KeyboardInterrupt
            return super().run(job, scale, found, place)

    made = Interrupted(Outcome(1.0), Outcome(2.0))
    saved: list[list[schema.PeerRow]] = []
    jobs = [BY_NAME["append-1"], BY_NAME["fanout-1000"]]
    rows, reason = rounds.compare([made], jobs, THREE, Places(), tmp_path, said, saved.append)
    assert [row.runs for row in rows] == [[], [1.0]] and reason == "interrupted"
    assert [[row.job for row in part] for part in saved] == [["append-1"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--systems", "redis,rabbit"], "--systems 'redis,rabbit': 'rabbit' is unknown; there are bare, gonets, redis"),
        (["--jobs", "fan"], "--jobs 'fan': 'fan' is unknown; there are fanout, fanout-1000"),
        (["--runs", "0"], "--runs 0: it must be 1 to 100"),
        (["--folder", "nowhere"], "--folder 'nowhere': no such directory"),
        (["--report", "nowhere/x.json"], "--report 'nowhere/x.json': no such directory"),
        (["--redis-server", "nowhere"], "--redis-server 'nowhere': no such file"),
    ],
)
def test_mistakes_of_use(arguments: list[str], words: str) -> None:
    """One line that names the value and what to change."""
    done = command(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"gonets: bench: {words}") and done.stderr.count("\n") == 1


def test_the_command_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours and the bare limit are always in; what isn't found says how to get it; `--json` is the report itself."""
    where = tmp_path / "report.json"
    arguments = ["--smoke", "--systems", "redis-pubsub", "--jobs", "fanout-1000,append-1", "--report", str(where)]
    done = command(*arguments, "--json", "--folder", str(tmp_path), search_path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(where.read_text())
    found = schema.read(where)
    assert found.kind == "peers" and not found.partial
    assert [row.system for row in found.peers] == ["bare", "gonets", "redis-pubsub"] * 2
    rows = {row.system: row for row in found.peers if row.job == "fanout-1000"}
    assert rows["gonets"].runs and rows["bare"].runs
    assert rows["redis-pubsub"].missing.startswith("not installed, get it by apt-get") or rows["redis-pubsub"].runs
    assert any(sentence.startswith("1 → 1,000, one at a time: Gonets (") for sentence in found.conclusions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    table.show(found)
    shown = capsys.readouterr().out
    for words in ("bare limit", "durable append, one at a time", "settings of Gonets: ", "deliveries/s"):
        assert words in shown


def test_ctrl_c_leaves_a_report(tmp_path: Path) -> None:
    """In the second of a hundred rounds: the first one is in it, and nothing of ours runs on."""
    where = tmp_path / "report.json"
    arguments = ["--smoke", "--systems", "bare", "--jobs", "append-1", "--runs", "100", "--report", str(where)]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "gonets.py"), "bench", "peers", *arguments, "--folder", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:  # fmt: skip
        assert bench.stderr is not None
        while "run 2 of 100: Gonets" not in (line := bench.stderr.readline()):
            assert line, bench.wait()
        bench.send_signal(signal.SIGINT)
        _, words = bench.communicate(timeout=40)
    assert bench.returncode == 130
    assert words.endswith("gonets: bench: interrupted; what was measured is in the report\n")
    found = schema.read(where)
    assert found.partial and found.reason == "interrupted"
    assert [len(row.runs) for row in found.peers] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_list_measures_nothing(tmp_path: Path) -> None:
    """It says what is found and how to get the rest."""
    listed = command("--list", search_path=str(tmp_path))
    assert listed.returncode == 0 and "Gonets" in listed.stdout and "--redis-server" in listed.stdout
