"""`gonets bench micro`: every part is measured, compared only where it can be, and mistakes are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.micro import run as micro
from bench.schema import Measure, read

ROOT = Path(__file__).resolve().parents[2]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`gonets bench micro …`."""
    return subprocess.run(
        [sys.executable, "-m", "gonets", "bench", "micro", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_every_benchmark_in_smoke_size(tmp_path: Path) -> None:
    """Each function of each file comes out with a figure above zero, in a report that can be read and compared with."""
    path = tmp_path / "report.json"
    done = command("--smoke", "--json", "--report", str(path))
    assert done.returncode == 0, done.stderr
    found = read(path)
    assert json.loads(done.stdout)["name"] == found.name == "micro"
    assert not found.partial
    functions = {
        line.split("(")[0].removeprefix("def bench_")
        for file in micro.HERE.glob("bench_*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("def bench_")
    }
    assert {measure.name.split("[")[0] for measure in found.measures} == functions
    for measure in found.measures:
        assert measure.unit == "ns" and measure.value > 0 and 1 <= len(measure.runs) <= micro.STRETCHES
        assert min(measure.runs) <= measure.value <= max(measure.runs) * 1.001
    done = command("--smoke", "--only", "crc32c", "--compare", str(path), "--report", str(tmp_path / "second.json"))
    assert done.returncode == 0 and "verdict" in done.stdout and "crc32c[300]" in done.stdout
    assert len(read(tmp_path / "second.json").measures) == 2


def measure(*runs: float) -> Measure:
    """With these medians."""
    return Measure(name="x", unit="ns", value=runs[len(runs) // 2], runs=list(runs))


def test_a_verdict_needs_runs_that_do_not_overlap() -> None:
    assert micro.verdict(measure(1, 2, 3), measure(4, 5, 6)) == "faster"
    assert micro.verdict(measure(4, 5, 6), measure(1, 2, 3)) == "slower"
    assert micro.verdict(measure(1, 2, 4), measure(4, 5, 6)) == "can't tell"
    assert micro.verdict(measure(4, 5, 9), measure(1, 2, 4)) == "can't tell"


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    done = command("--smoke", "--only", "nothing_of_this_name")
    assert done.returncode == 1 and done.stderr.strip() == (
        "gonets: bench: micro: no benchmark is named 'nothing_of_this_name'"
    )
    other = tmp_path / "other.json"
    for text, words in (
        ("[]", "names no schema"),
        ("{", "no JSON"),
        ('{"schema": "gonets.bench/9"}', "gonets.bench/9"),
    ):
        other.write_text(text)
        done = command("--smoke", "--compare", str(other))
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_benchmark_that_fails_leaves_a_partial_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came out before is kept, and marked."""
    (tmp_path / "bench_two.py").write_text(
        "def bench_good(benchmark):\n    benchmark.extra_info['operations'] = 1\n    benchmark(lambda: None)\n\n"
        "def bench_wrong(benchmark):\n    assert 1 == 2\n"
    )
    monkeypatch.setattr(micro, "HERE", tmp_path)
    found = micro.run(smoke=True)
    assert found.partial and "1 == 2" in found.reason
    assert [measure.name for measure in found.measures] == ["good"]
