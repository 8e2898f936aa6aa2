"""What benchmarks report: the shape, medians, quantiles, and no durability where there is none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from rich.console import Console

from bench import report
from ext.loadgen import LoadGenerator


def test_a_rate_beside_its_limit() -> None:
    """The keys that readers of --json look for."""
    found = report.rated("case", [30.0, 10.0, 20.0], [40.0, 50.0, 45.0], durability="fsync")
    assert found["rate_per_s"] == 20 and found["limit_per_s"] == 45 and found["ratio"] == 0.444
    assert found["spread"] == [10, 30] and found["runs"] == 3 and found["durability"] == "fsync"


def test_another_quantity_has_a_unit() -> None:
    """`value` with `unit`, no limit."""
    found = report.valued("memory", [3.0, 1.0, 2.0], "bytes")
    assert found == {"case": "memory", "value": 2.0, "unit": "bytes", "spread": [1.0, 3.0], "runs": 3}


def test_quantiles_of_a_histogram() -> None:
    """The bucket in which the sought one lies."""
    histogram = [(1_000_000, 50), (2_000_000, 49), (9_000_000, 1)]
    assert report.quantile_ms(histogram, 0.5) == 1.0 and report.quantile_ms(histogram, 0.99) == 2.0
    assert report.quantile_ms(histogram, 1.0) == 9.0 and report.quantile_ms([], 0.5) == 0.0
    assert report.added([histogram, [(2_000_000, 1)]]) == [(1_000_000, 50), (2_000_000, 50), (9_000_000, 1)]


def test_memory_is_not_durable(tmp_path: Path) -> None:
    """/dev/shm is a tmpfs on every Linux."""
    assert report.filesystem_of(Path("/dev/shm")) == "tmpfs"
    assert report.durability_of(Path("/dev/shm")) == "none (tmpfs)"
    if report.filesystem_of(tmp_path) not in report.IN_MEMORY:
        assert report.durability_of(tmp_path) == "fsync"


def test_the_machine_is_named(tmp_path: Path) -> None:
    """Everything without which a number is only a number."""
    about = report.machine(tmp_path)
    for name in ("cpu", "cores", "memory_gib", "kernel", "filesystem", "python", "versions", "commit"):
        assert about[name], name


def test_people_get_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All cases and what is particular to them."""
    cases = [report.rated("a rate", [1_234_567.0], [2e6], extra=1), report.valued("a value", [0.5], "ms")]
    report.show(report.report(cases, tmp_path), Console(width=200))
    printed = capsys.readouterr().out
    assert "1,234,567" in printed and "a value" in printed and "extra 1" in printed


def test_buckets_of_the_generator_are_narrow() -> None:
    """No bucket of a latency is wider than a sixteenth of it; checked through an empty generator's own list."""
    generator = LoadGenerator(1)
    chance = random.Random(1)
    for _ in range(2_000):
        ns = int(2 ** chance.uniform(0, 40))
        middle = generator.bucket_middle(ns)
        assert abs(middle - ns) <= max(1, ns / 16), ns


def test_brackets_are_no_style(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What isn't ours to style is printed as it is, and what isn't known not at all."""
    case = report.valued("[gateway] :ok:", [1.0], "ms", target=None, note="[a] and :smile:", durability="fsync")
    report.show(report.report([case], tmp_path))
    said = capsys.readouterr().out
    assert said.count("[gateway] :ok:") == 2 and "note [a] and :smile:" in said and "target" not in said
