"""Comparing: how often chance is taken for a difference, how often one is found, what is refused; and two real refs."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import comparable, compare, refs, schema, verdicts
from bench.harness import BenchError
from bench.schema import Difference, Report
from bench.summary import Progress
from bench.verdicts import Series
from tests.support import made_reports as made

NOISE = 0.02  # of a run, relative
SEEDS = 40


def judged(
    a: list[float], b: list[float], *, better: str = "higher", interleaved: bool = True, measures: int = 1
) -> Difference:
    """One measure among several that don't differ at all."""
    same = [float(value) for value in range(100, 100 + len(a))]
    found = [verdicts.judge(Series("x", "/s", better, a), Series("x", "/s", better, b), interleaved=interleaved)]
    others = Series("same", "/s", "higher", same)
    found += [verdicts.judge(others, others, interleaved=interleaved) for _ in range(measures - 1)]
    return verdicts.decided(found)[0]


def runs(random: Any, count: int, factor: float, drift: float = 0.0) -> tuple[list[float], list[float]]:
    """Runs by turns on a machine whose speed drifts from first to last by so much."""
    sides: tuple[list[float], list[float]] = ([], [])
    for number, side in enumerate(refs.turns(count)):
        level = 1e5 * (factor if side else 1.0) * (1 + drift * number / (2 * count))
        sides[side].append(float(level * (1 + NOISE * random.standard_normal())))
    return sides


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_chance_is_seldom_taken_for_a_difference(drift: float) -> None:
    """A beside itself, five measures, on a quiet and on a drifting machine: at most a few of the seeds."""
    wrong = 0
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        sides = [runs(random, 8, 1.0, drift) for _ in range(5)]
        found = [
            verdicts.judge(Series("x", "", "higher", a), Series("x", "", "higher", b), interleaved=True)
            for a, b in sides
        ]
        wrong += any(one.verdict != "can't tell" for one in verdicts.decided(found))
    assert wrong <= SEEDS * 0.05


@pytest.mark.parametrize("drift", [0.0, 0.3])
@pytest.mark.parametrize(("factor", "verdict"), [(0.92, "slower"), (1.09, "faster")])
def test_a_difference_is_found(factor: float, verdict: str, drift: float) -> None:
    """Four times the noise, among five measures: by nearly all seeds, and never with the wrong sign."""
    told = []
    for seed in range(SEEDS):
        told.append(judged(*runs(np.random.default_rng(seed), 8, factor, drift), measures=5).verdict)
    assert told.count(verdict) >= SEEDS * 0.9
    assert set(told) <= {verdict, "can't tell"}


def test_intervals_hold_the_truth() -> None:
    """The true ratio is inside for 95 % of the seeds, less what chance allows of so many."""
    inside = 0
    for seed in range(SEEDS):
        found = judged(*runs(np.random.default_rng(seed), 8, 0.9))
        assert found.ratio_low is not None and found.ratio_high is not None
        inside += found.ratio_low <= 0.9 <= found.ratio_high
    assert inside >= SEEDS * 0.88


def test_what_lower_is_better_means() -> None:
    """A latency that grows is slower."""
    a, b = runs(np.random.default_rng(1), 8, 1.2)
    assert judged(a, b, better="lower").verdict == "slower" and judged(a, b, better="higher").verdict == "faster"
    assert judged(b, a, better="lower").verdict == "faster"


def test_small_differences_are_none_however_sure() -> None:
    """Below the threshold there is no verdict, and it is said that they are the same."""
    a = [100.0 + 0.01 * n for n in range(8)]
    found = judged(a, [value * 1.01 for value in a])
    assert found.p < 0.05 and found.verdict == "can't tell" and "the same within 3%" in found.note


def test_few_runs_tell_nothing() -> None:
    """Whatever they are; nor do zeros, nor runs of a generator that was the limit."""
    for count in (1, 2, 3):
        found = judged([1.0] * count, [9.0] * count)
        assert found.verdict == "can't tell" and "too few" in found.note and found.ratio == 9.0
    assert "above 0" in judged([0.0] * 8, [1.0] * 8).note and "above 0" in judged([], [1.0]).note
    unfit = verdicts.judge(
        Series("x", "/s", "higher", [1.0 + n / 100 for n in range(8)]),
        Series("x", "/s", "higher", [5.0 + n / 100 for n in range(8)], "the load generator was the limit"),
        interleaved=True,
    )
    assert verdicts.decided([unfit])[0].verdict == "can't tell"


def test_the_correction_is_holms() -> None:
    """0.01, 0.02, 0.04 of three become 0.03, 0.04, 0.04."""
    base = judged([1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4])
    found = verdicts.decided([msgspec.structs.replace(base, p=p) for p in (0.02, 0.01, 0.04)])
    assert [one.p for one in found] == pytest.approx([0.04, 0.03, 0.04])


def test_exact_and_drawn_orders_agree() -> None:
    """The same question asked of all orders, and of a draw of them."""
    random = np.random.default_rng(3)
    a, b = runs(random, 6, 0.97)
    values = [np.log(np.array([*a, *b]))]
    exact = verdicts._Orders([(6, 6)])
    p = exact.p(values)
    assert exact.exact
    before = verdicts.ORDERS_EXACT_MAX
    try:
        verdicts.ORDERS_EXACT_MAX = 1  # type: ignore[misc]
        drawn = verdicts._Orders([(6, 6)])
    finally:
        verdicts.ORDERS_EXACT_MAX = before  # type: ignore[misc]
    assert not drawn.exact and drawn.p(values) == pytest.approx(p, abs=0.02)
    assert exact.least_p == pytest.approx(2 / 924)


def test_turns() -> None:
    """A B B A A B B A."""
    assert list(refs.turns(4)) == [0, 1, 1, 0, 0, 1, 1, 0]


# --- two reports ------------------------------------------------------------------------------------------------------


@cache
def report_of(seed: int, factor: float = 1.0, count: int = 5, name: str = "evening-peak") -> Report:
    """Runs at a level of latency."""
    random = np.random.default_rng(seed)
    levels = [factor * (1 + 0.01 * float(random.standard_normal())) for _ in range(count)]
    found = [made.run(seed * 100 + n, window_s=6, level_ms=level, calm=True) for n, level in enumerate(levels)]
    return made.report("run", runs=found, name=name)


def test_two_reports() -> None:
    """Slower latencies are found; an open loop that kept up has no rate to compare; no turns were taken: it is said."""
    found = compare.of_reports(report_of(1), report_of(2, 1.4), ("a.json", "b.json"), 0.03)
    verdict = {one.name: one.verdict for one in found.differences}
    assert verdict["deliver p50"] == "slower" and verdict["deliver p99"] == "slower" and "deliveries" not in verdict
    assert not found.refused and compare.NOT_INTERLEAVED in found.cautions
    same = compare.of_reports(report_of(1), report_of(3), ("a.json", "b.json"), 0.03)
    assert all(one.verdict == "can't tell" for one in same.differences if one.name.startswith("deliver"))


def test_measures_and_peers_are_compared_too() -> None:
    """By their units; of peers only our own rows."""
    found = compare.of_reports(made.of_measures(), made.of_measures(), ("a", "b"), 0.03)
    assert [(one.name, one.better) for one in found.differences] == [
        ("append, 1,000 a commit", "higher"), ("open after kill -9", "lower")]  # fmt: skip
    peers = compare.of_reports(made.of_peers(), made.of_peers(), ("a", "b"), 0.03).differences
    assert peers and all(one.name.startswith("Gonets") for one in peers)


def refused(a: Report, b: Report) -> str:
    """Why; there is no verdict then."""
    found = compare.of_reports(a, b, ("a", "b"), 0.03)
    assert found.refused and not found.differences
    return found.refused


def test_what_is_refused() -> None:
    """Other machines, modes, loads, promises; what is broken or half; each with both values."""
    sound = report_of(1, count=2)
    replace = msgspec.structs.replace
    for other, words in (
        (replace(sound, target=replace(sound.target, durability="none (tmpfs)")), "durability differs.*none"),
        (replace(sound, target=replace(sound.target, workers=8)), "two modes.*2 workers.*8 workers"),
        (replace(sound, machine=replace(sound.machine, cpu="Another")), "two machines.*Another"),
        (replace(sound, workload={**sound.workload, "run": {"window_s": 5}}), "workloads differ: run.window_s is 60"),
        (replace(sound, name="groups"), "'evening-peak'.*'groups'"),
        (replace(sound, kind="soak"), "kind 'run'.*kind 'soak'"),
        (replace(sound, partial=True, reason="Ctrl-C"), "B is partial.*Ctrl-C"),
        (replace(sound, runs=[replace(sound.runs[0], faults={"lost": 2})]), "B has faults.*2 lost"),
        (replace(sound, target=replace(sound.target, started_here=False)), "a server of its own"),
    ):  # fmt: skip
        assert re.search(words, refused(sound, other).replace("\n", " ")), words
    assert "capacity" in refused(made.of_capacity(), made.of_capacity())


def test_what_is_only_doubtful() -> None:
    """Kernel, versions, configuration."""
    sound = report_of(1, count=2)
    replace = msgspec.structs.replace
    machine = replace(sound.machine, kernel="7.0", versions={**sound.machine.versions, "lmdb": "9"})
    other = replace(sound, machine=machine, target=replace(sound.target, configuration={"gateway.rate_per_s": 5}))
    text = "\n".join(comparable.cautions(sound, other))
    assert (
        "7.0" in text and "lmdb is 3.0.0 in A, 9 in B" in text and "gateway.rate_per_s is 1000000 in A, 5 in B" in text
    )


def call(a: Path | str, b: Path | str, place: Path, **more: Any) -> int:
    """Its exit status."""
    try:
        compare.compare(str(a), str(b), report=place / "c.json", folder=place, **more)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_exit_status_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0, 3, 1; the report is written each time that something was compared."""
    for name, found in (("a", report_of(1)), ("same", report_of(3)), ("slow", report_of(2, 1.5))):
        schema.write(found, tmp_path / f"{name}.json")
    assert call(tmp_path / "a.json", tmp_path / "slow.json", tmp_path) == compare.SLOWER
    written = schema.read(tmp_path / "c.json")
    assert written.kind == "compare" and written.comparison and (tmp_path / "c.html").exists()
    out = capsys.readouterr().out
    assert "slower" in out and "too few" not in out
    assert call(tmp_path / "slow.json", tmp_path / "a.json", tmp_path) == 0
    schema.write(report_of(2, count=3), tmp_path / "few.json")
    capsys.readouterr()
    assert call(tmp_path / "few.json", tmp_path / "few.json", tmp_path) == 0
    assert "3 and 3 runs are too few" in capsys.readouterr().out.splitlines()[1]
    schema.write(report_of(3, name="groups"), tmp_path / "other.json")
    assert call(tmp_path / "a.json", tmp_path / "other.json", tmp_path) == 1
    assert "not compared: A measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("a", "b", "more", "words"),
    [
        ("a.json", "HEAD", {}, "is none"),
        ("HEAD", "HEAD", {}, "need something to measure"),
        ("HEAD", "HEAD", {"workload": "groups", "bench": "append"}, "not both"),
        ("HEAD", "nobody-knows-it", {"workload": "groups"}, "'nobody-knows-it' is neither"),
        ("HEAD", "HEAD", {"workload": "groups", "runs": 0}, "--runs 0"),
        ("a.json", "a.json", {"workload": "groups"}, "are for git refs"),
        ("a.json", "a.json", {"threshold_percent": 100.0}, "--threshold-percent 100"),
        ("a.json", "gone.json", {}, "No such file"),
    ],
)
def test_mistakes_are_one_line(
    a: str, b: str, more: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Naming what was given; nothing is built for them."""
    schema.write(made.of_measures(), tmp_path / "a.json")
    named = [str(tmp_path / one) if one.endswith(".json") else one for one in (a, b)]
    assert call(named[0], named[1], tmp_path, **more) == 1
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1] and not list(tmp_path.glob("c.*"))


# --- two refs ---------------------------------------------------------------------------------------------------------

SETUP = """
from setuptools import Extension, setup
setup(name="tiny", ext_modules=[Extension("speed", ["speed.c"])])
"""
NATIVE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "speed", 0, -1, 0};
PyMODINIT_FUNC PyInit_speed(void) {
    PyObject *made = PyModule_Create(&module);
    PyModule_AddIntConstant(made, "LEVEL", LEVEL_OF_THIS_COMMIT);
    return made;
}
"""
PROGRAM = """
import json, os, subprocess, sys, time
import speed
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
rate = speed.LEVEL * (1 + time.time_ns() % 1000 / 1e5)
assert sys.argv[1:4] == ["bench", "append", "--json"], sys.argv
print(json.dumps({"results": [{"case": "appends", "rate_per_s": rate}], "machine": {"commit": commit[:12]}}))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A program of three files, one of them native, whose second commit is slower and whose third can't be built."""
    place = tmp_path / "repository"
    place.mkdir()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(place), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for name, level in (("quick", "1000"), ("slow", "800"), ("broken", "!")):
        (place / "setup.py").write_text(textwrap.dedent(SETUP))
        (place / "gonets.py").write_text(PROGRAM)
        (place / "speed.c").write_text(NATIVE.replace("LEVEL_OF_THIS_COMMIT", level))
        git("add", "-A")
        git("commit", "-q", "-m", name)
        git("tag", name)
    return place


def test_two_refs_are_built_and_measured_by_turns(repository: Path, tmp_path: Path) -> None:
    """Each with its own native module and its own program, in its own directory; the slower one is found."""
    place = tmp_path / "place"
    place.mkdir()
    turns = compare.Turns(refs.Job(bench="append"), 6, 0.03, repository)
    with Progress("test") as progress:
        turns.measure(("quick", "slow"), place, progress)
    found = turns.comparison()
    assert turns.order == list(refs.turns(6)) and found.interleaved and not found.refused
    (difference,) = found.differences
    assert difference.verdict == "slower" and difference.ratio == pytest.approx(0.8, abs=0.02)
    assert all(1_000 <= value <= 1_010 for value in difference.a) and all(800 <= value <= 808 for value in difference.b)
    assert found.b.name == "slow" and len(found.b.commit) == refs.COMMIT_DIGITS
    status = subprocess.run(
        ["git", "-C", str(repository), "status", "--short"], capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


def test_a_ref_that_cant_be_built_is_named(repository: Path, tmp_path: Path) -> None:
    """With the compiler's words."""
    place = tmp_path / "place"
    place.mkdir()
    turns = compare.Turns(refs.Job(bench="append"), 1, 0.03, repository)
    with Progress("test") as progress, pytest.raises(BenchError, match=r"broken: setup.py build_ext failed"):
        turns.measure(("broken", "quick"), place, progress)


def test_another_programs_figures_are_no_figures_of_a_ref(tmp_path: Path) -> None:
    """What measured itself must be what was asked for."""
    tree = refs.Tree("A", "v1", "a" * 40, tmp_path)
    with pytest.raises(BenchError, match="'bbbb' measured itself"):
        refs._same_commit("bbbb", tree)
    refs._same_commit("a" * 12 + "-dirty", tree)


def test_a_command_that_prints_something_else(tmp_path: Path) -> None:
    """An older ref has other commands."""
    (tmp_path / "gonets.py").write_text("print('no JSON')")
    tree = refs.Tree("A", "v1", "a" * 40, tmp_path)
    with pytest.raises(BenchError, match="v1: what it printed is no result"):
        refs.measure(tree, refs.Job(bench="append"), 1, tmp_path)
    (tmp_path / "gonets.py").write_text("import sys; sys.exit('unknown command run')")
    with pytest.raises(BenchError, match=r"gonets bench run failed \(status 1\): unknown command run"):
        refs.measure(tree, refs.Job("groups"), 1, tmp_path)
    assert sys.executable in refs.Job("groups").command(tmp_path)
