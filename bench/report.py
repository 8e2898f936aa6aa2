"""What a measurement is reported as: cases, medians and spread, the machine, and how durable it was.

Used by every benchmark and by cli.py. A case is a plain dict in the shape that `--json` prints: `case`, `rate_per_s` or
`value` with `unit`, `limit_per_s`, `ratio`, `spread` (lowest and highest run), `runs`, `durability`. One run is never a
verdict: rates are medians, and a ratio is one of medians that come from interleaved runs.

Invariant: on a file system in memory nothing is called durable. Cost: nothing that is inside a measurement.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.schema import Measure

Case = dict[str, Any]
Histogram = Sequence[tuple[int, int]]  # (nanoseconds, count), ascending

IN_MEMORY = ("tmpfs", "ramfs")
PACKAGES = ("lmdb", "uvloop", "msgpack", "cython", "pyjwt")
SHOWN_COLUMNS = ("case", "result", "bare limit", "ratio", "spread", "runs", "durability")
WIDTH_OF_A_FILE = 160
MAIN_COLUMNS = ("case", "rate_per_s", "value", "unit", "limit_per_s", "ratio", "spread", "runs", "durability")


def rated(case: str, rates: Sequence[float], limits: Sequence[float] = (), **more: Any) -> Case:
    """A case that is a rate, beside its bare limit if it has one."""
    found: Case = {"case": case, "rate_per_s": round(statistics.median(rates))}
    if limits:
        limit = statistics.median(limits)
        found |= {"limit_per_s": round(limit), "ratio": round(statistics.median(rates) / limit, 3)}
    found |= {"spread": [round(min(rates)), round(max(rates))], "runs": len(rates)}
    if limits:
        found["limit_spread"] = [round(min(limits)), round(max(limits))]
    return found | more


class Rated(NamedTuple):
    """A rate of several runs, for either shape of a report: `case` of the table, `measure` of bench/schema.py."""

    title: str
    rates: Sequence[float]
    limits: Sequence[float]
    durability: str
    target: float | None = None
    note: str = ""
    more: dict[str, Any] = {}  # noqa: RUF012  # read only

    def case(self) -> Case:
        """Rounded, with the spread and what is particular to it."""
        target = {} if self.target is None else {"target": self.target}
        return rated(self.title, self.rates, self.limits, durability=self.durability, **target, **self.more)

    def measure(self) -> Measure:
        """With every run."""
        return Measure(
            name=self.title,
            unit="events/s",
            value=statistics.median(self.rates),
            runs=list(self.rates),
            limit=statistics.median(self.limits) if self.limits else None,
            target=self.target,
            durability=self.durability,
            note=self.note,
        )


def valued(case: str, values: Sequence[float], unit: str, digits: int = 3, **more: Any) -> Case:
    """A case that is another quantity."""
    spread = [round(min(values), digits), round(max(values), digits)]
    return {
        "case": case,
        "value": round(statistics.median(values), digits),
        "unit": unit,
        "spread": spread,
        "runs": len(values),
        **more,
    }


def quantile_ms(histogram: Histogram, share: float) -> float:
    """The latency that this share of all stays below, in milliseconds; 0 if there are none."""
    wanted = share * sum(count for _, count in histogram)
    seen = 0
    for ns, count in histogram:
        seen += count
        if seen >= wanted:
            return round(ns / 1e6, 4)
    return 0.0


def added(histograms: Iterable[Histogram]) -> list[tuple[int, int]]:
    """Several histograms as one."""
    sums: dict[int, int] = {}
    for histogram in histograms:
        for ns, count in histogram:
            sums[ns] = sums.get(ns, 0) + count
    return sorted(sums.items())


def filesystem_of(path: Path) -> str:
    """Type of the file system that holds a path."""
    where, best, found = str(path.resolve()), "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, point, kind = line.split()[:3]
            inside = where == point or where.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, found = point, kind
    return found


def durability_of(path: Path) -> str:
    """What a synced write to a path is worth, for sides of a comparison that don't say it themselves."""
    kind = filesystem_of(path)
    return f"none ({kind})" if kind in IN_MEMORY else "fsync"


def machine(folder: Path) -> dict[str, Any]:
    """Where it was measured, and what."""
    return {
        "cpu": _first_value("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": _first_value("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "filesystem": filesystem_of(folder),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("gonets", *PACKAGES)},
        "commit": _commit(),
        "load_1min_at_start": round(os.getloadavg()[0], 2),
    }


def _first_value(path: str, name: str, separator: str = ":") -> str:
    try:
        with open(path, encoding="utf-8") as lines:
            return next(line.split(separator, 1)[1].strip() for line in lines if line.startswith(name))
    except (OSError, StopIteration):
        return "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Of the checkout this file is in; with a mark if files have changed since."""
    here = Path(__file__).resolve().parent.parent
    try:
        said = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()


def report(results: list[Case], folder: Path) -> dict[str, Any]:
    """The one JSON object."""
    return {"results": results, "machine": machine(folder)}


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """The same for people: one table, then what is particular to each case."""
    console = console or plain_console()
    about = found["machine"]
    console.print(
        f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['filesystem']}, Python"
        f" {about['python']}, commit {about['commit']}",
        highlight=False,
    )
    table = Table(show_edge=False, header_style="bold")
    for name in SHOWN_COLUMNS:
        table.add_column(name, justify="left" if name in ("case", "durability") else "right", no_wrap=name != "case")
    for case in found["results"]:
        result = f"{_text(case.get('rate_per_s'))}/s" if "value" not in case else f"{case['value']:,} {case['unit']}"
        limit = f"{_text(case['limit_per_s'])}/s" if "limit_per_s" in case else ""
        table.add_row(
            case["case"], result, limit, *[_text(case.get(name)) for name in ("ratio", "spread", "runs", "durability")]
        )
    console.print(table)
    for case in found["results"]:
        rest = {name: value for name, value in case.items() if name not in MAIN_COLUMNS and value is not None}
        if rest:
            words = ", ".join(f"{name} {_text(value)}" for name, value in rest.items())
            console.print(f"  {case['case']}: {words}", highlight=False)


def plain_console() -> Console:
    """One that prints text as it is: what stands in brackets is no style, and `:name:` no picture."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, markup=False, emoji=False)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "–".join(_text(one) for one in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)
