"""What a terminal shows: ten lines of each kind of report, what must not be believed first, and progress meanwhile."""

from __future__ import annotations

import io
import os
import pty
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench import findings, summary, wording
from bench.schema import Report
from tests.support import made_reports as made

KINDS: list[Callable[[], Report]] = [
    made.of_runs, made.of_capacity, made.of_soak, made.of_peers, made.of_measures, made.of_comparison,
]  # fmt: skip


def shown(report: Report, path: Path | None = None, width: int = 400) -> list[str]:
    """The lines that are printed."""
    stream = io.StringIO()
    summary.show(report, path, Console(file=stream, width=width, highlight=False))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("make", KINDS)
def test_ten_lines_whatever_the_kind(make: Callable[[], Report]) -> None:
    """None is longer than the terminal; the first says what it is, the second whether it may be believed."""
    report = make()
    lines = shown(report, Path("out.json"), width=100)
    assert 5 <= len(lines) <= summary.LINES_MAX and all(len(line) <= 100 for line in lines)
    assert lines[0].startswith(report.kind) and report.name in lines[0]
    assert lines[1].startswith("verdict") and lines[-1].startswith("report") and "out.html" in lines[-1]


def test_what_a_run_reached() -> None:
    """The figures are the report's, the median of its runs."""
    report = made.of_runs(3)
    text = "\n".join(shown(report))
    middle = sorted(run.latencies["deliver"].p99_ms for run in report.runs)[1]
    assert f"p99 {wording.ms(middle)}" in text and "median of 3 runs" in text and "lmdb-writer" in text


def test_clients_that_were_the_limit_are_told_of_once() -> None:
    """By the verdict, and again as the limit only where the verdict tells of something heavier."""
    run = made.run(1, window_s=10)
    reason = "its busiest thread had 0.99 of a core"
    slow = msgspec.structs.replace(run.generator, processes=1, is_limit=True, reason=reason)
    run = msgspec.structs.replace(run, generator=slow, saturated=f"generator: {reason}")
    text = "\n".join(shown(made.report("run", runs=[run])))
    assert text.count(reason) == 1 and "1 generator, the busiest" in text
    lost = msgspec.structs.replace(run, faults={"lost": 3})
    assert f"generator: {reason}" in "\n".join(shown(made.report("run", runs=[lost])))


def test_the_capacity_and_where_it_ends() -> None:
    """The rate, the objective, what was the limit."""
    report = made.of_capacity()
    assert report.capacity and report.capacity.rate_per_s
    text = "\n".join(shown(report))
    assert wording.rate(report.capacity.rate_per_s) in text and "p99 within 50 ms" in text and "missed" in text
    none = msgspec.structs.replace(report.capacity, rate_per_s=None, spread_per_s=None)
    assert "no rate that was tried" in "\n".join(shown(msgspec.structs.replace(report, capacity=none)))


def test_faults_and_an_early_end_come_first() -> None:
    """Figures of a run that lost something are not for use, whatever else was fine."""
    lost = made.run(1, window_s=10, faults={"lost": 3, "doubled": 0})
    assert "3 lost" in shown(made.report("run", runs=[lost]))[1]
    partial = msgspec.structs.replace(made.of_runs(1), partial=True, reason="the target died after 12 s")
    assert "the target died after 12 s" in shown(partial)[1]
    assert findings.verdict(msgspec.structs.replace(partial, runs=[lost])).weight == "invalid"


def remarks_of(report: Report) -> str:
    """All of them."""
    return "\n".join(remark.text for remark in findings.remarks(report))


def test_each_reason_for_caution_is_said() -> None:
    """The generator was the limit, a rate wasn't reached, the window was short, others were there, memory as disk."""
    sound = made.of_runs(3)
    assert not [remark for remark in findings.remarks(sound) if remark.weight != "note"]
    run = sound.runs[0]
    slow = msgspec.structs.replace(run.generator, is_limit=True, reason="its thread used 0.98 cores")
    for changed, words in (
        ({"generator": slow}, "0.98 cores"),
        ({"offered_per_s": 20_000.0}, "20,000/s were offered"),
        ({"window_s": 0.3}, "too short"),
        ({"offered_per_s": 9_000.0}, "not those of the workload"),
        ({"resources": {"machine_cpu_cores": 3.9}}, "not quiet"),
        ({"resources": {"machine_steal_cores": 0.4}}, "steal"),
    ):
        report = msgspec.structs.replace(sound, runs=[msgspec.structs.replace(run, **changed), *sound.runs[1:]])
        assert words in remarks_of(report) and "Run 1 of 3" in remarks_of(report)
        assert words not in remarks_of(sound)
    target = msgspec.structs.replace(sound.target, durability="none (tmpfs)")
    assert "none (tmpfs)" in remarks_of(msgspec.structs.replace(sound, target=target))
    busy = msgspec.structs.replace(sound.machine, load_1min_at_start=3.0)
    assert "load of 3.00" in remarks_of(msgspec.structs.replace(sound, machine=busy))
    apart = msgspec.structs.replace(run, rates_per_s={"deliveries": 9e5})
    assert "Runs differ" in remarks_of(msgspec.structs.replace(sound, runs=[apart, *sound.runs[1:]]))


def test_numbers_for_people() -> None:
    """Three digits, a unit, nothing invented."""
    assert [wording.ms(value) for value in (0.01234, 0.5, 12.34, 999.9, 12_345.0)] == [
        "0.0123 ms", "0.500 ms", "12.3 ms", "1,000 ms", "12.3 s"]  # fmt: skip
    assert [wording.number(value) for value in (0, 7, 1_234, 812_345, -0.25)] == [
        "0",
        "7",
        "1,234",
        "812,300",
        "-0.250",
    ]
    assert wording.size(1_536) == "1.50 KiB" and wording.size(300) == "300 bytes"
    assert wording.duration(0.3) == "0.300 s" and wording.duration(3_900) == "1 h 05 min"
    assert wording.unit_of("disk_write_bytes_per_s") == "bytes/s" and wording.title_of("late_p99_ms") == "late p99"
    assert wording.quantity(0.25, "share") == "25 %" and wording.number(float("nan")) == "–"


def test_progress_is_one_line_a_phase_in_a_file() -> None:
    """No escape sequences, nothing for ticks."""
    stream = io.StringIO()
    with summary.Progress("run groups", stream=stream) as progress:
        progress.part("run 2 of 5")
        progress.phase("warm-up", 5.0)
        for tick in made.run(1, window_s=10).ticks:
            progress.tick(tick)
        progress.phase("drain")
    assert stream.getvalue() == (
        "gonets: bench: run groups: run 2 of 5: warm-up (5 s)\ngonets: bench: run groups: run 2 of 5: drain\n"
    )


def test_progress_lives_in_a_terminal() -> None:
    """Phase, rates and percentiles so far are drawn, by a thread of its own, and wiped away."""
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as stream:
        progress = summary.Progress("run groups", stream=stream)
        progress.phase("window", 60.0)
        run = made.run(1, window_s=10)
        for tick in run.ticks:
            progress.tick(tick, server_cpu_cores=1.25)
        seen, until = "", time.monotonic() + 10
        while "p99" not in seen and time.monotonic() < until:
            seen += os.read(parent, 65_536).decode()
        progress.close()
        progress.close()
    os.close(parent)
    for words in ("run groups", "window", "left", "published", "p50 ≈", "1.25 cores"):
        assert words in seen


def test_percentiles_so_far_are_near_those_of_the_end() -> None:
    """Within the width of a bucket, a fifth."""
    run = made.run(4, window_s=20)
    sums: dict[int, int] = {}
    for tick in run.ticks:
        if 0 < tick.at_s <= 20:
            for bucket, count in tick.heat:
                sums[bucket] = sums.get(bucket, 0) + count
    for share, exact in ((0.5, run.latencies["deliver"].p50_ms), (0.99, run.latencies["deliver"].p99_ms)):
        found = summary.heat_quantile_ms(sums, share)
        assert found is not None and 0.8 < found / exact < 1.25
    assert summary.heat_quantile_ms({}, 0.5) is None
