"""Whether two reports may be compared, and what of them is: their measures, run by run.

Used by compare.py. Refused is what would compare two loads, two machines or two promises instead of two programs; what
only makes a difference doubtful is a caution. A durable side beside one that isn't never gets a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from bench import findings, wording
from bench.schema import Latency, Report, Run
from bench.verdicts import Series

KINDS: Final = ("run", "measure", "peers", "soak")
SAME_MACHINE: Final = ("cpu", "cores", "filesystem")
LIKE_MACHINE: Final = ("memory_gib", "kernel", "python")
LATENCY_MEASURES: Final[tuple[tuple[str, Callable[[Latency], float]], ...]] = (
    ("p50", lambda one: one.p50_ms),
    ("p99", lambda one: one.p99_ms),
)
LOWER: Final = ("ms", "s", "us", "µs", "ns", "bytes", "cores")
OURS: Final = "gonets"


def refusal(a: Report, b: Report) -> str:
    """Why there can be no verdict; empty: there can."""
    for name, report in (("A", a), ("B", b)):
        if report.kind not in KINDS:
            return f"{name} is a report of kind {report.kind!r}, which has no repeated runs; compare one of {KINDS}"
        if report.partial:
            return f"{name} is partial ({report.reason}): measure it again"
        if broken := _faults(report):
            return f"{name} has faults ({broken}): a run that loses or damages anything is no measurement"
    if a.kind != b.kind:
        return f"A is a report of kind {a.kind!r}, B of kind {b.kind!r}"
    if a.name != b.name:
        return f"A measured {a.name!r}, B {b.name!r}"
    if different := next(_unequal(a.workload, b.workload), None):
        return f"the workloads differ: {different}"
    if a.target.durability != b.target.durability:
        return f"durability differs: A {a.target.durability!r}, B {b.target.durability!r}"
    for field in SAME_MACHINE:
        one, other = getattr(a.machine, field), getattr(b.machine, field)
        if one != other:
            return f"two machines: {field} is {one!r} in A, {other!r} in B"
    if a.target.workers != b.target.workers:
        return f"two modes: A has {_mode(a)}, B {_mode(b)}"
    if a.target.started_here != b.target.started_here:
        return "one of them measured a server of its own, the other one that was there"
    return ""


def _mode(report: Report) -> str:
    return f"{report.target.workers} workers" if report.target.workers else "one process"


def _faults(report: Report) -> str:
    sums: dict[str, int] = {}
    for run in report.runs:
        for name, count in run.faults.items():
            sums[name] = sums.get(name, 0) + count
    return ", ".join(f"{count} {name}" for name, count in sums.items() if count)


def _unequal(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Which fields differ, as `name: A's value, B's value`."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _unequal(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True), 1):
            yield from _unequal(one, other, f"{name} {number}")
    elif a != b:
        yield f"{name} is {_short(a)} in A, {_short(b)} in B"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "…"


def cautions(a: Report, b: Report) -> list[str]:
    """What makes a difference doubtful."""
    found = []
    for field in LIKE_MACHINE:
        one, other = getattr(a.machine, field), getattr(b.machine, field)
        if one != other:
            found.append(f"{field} is {one} in A, {other} in B")
    for name in sorted(a.machine.versions.keys() | b.machine.versions.keys()):
        one, other = a.machine.versions.get(name), b.machine.versions.get(name)
        if one != other and name != "gonets":
            found.append(f"{name} is {one} in A, {other} in B")
    found += [f"configuration: {words}" for words in _unequal(a.target.configuration, b.target.configuration)]
    for name, report in (("A", a), ("B", b)):
        found += [f"{name}: {one.text}" for one in findings.remarks(report) if one.weight == "caution"]
    return found


# --- what is compared -------------------------------------------------------------------------------------------------


def measures(report: Report) -> list[Series]:
    """Each quantity of a report that several runs have."""
    if report.kind in ("run", "soak"):
        return of_runs(report.runs)
    if report.kind == "peers":
        ours = [row for row in report.peers if row.runs and row.system.lower().startswith(OURS)]
        return [Series(f"{row.system}, {row.job}", row.unit, better(row.unit), row.runs) for row in ours]
    return [Series(one.name, one.unit, better(one.unit), one.runs) for one in report.measures if one.runs]


def better(unit: str) -> str:
    """Rates are better higher, times and sizes lower."""
    return "lower" if unit in LOWER or (unit.startswith("bytes/") and unit != "bytes/s") else "higher"


def of_runs(runs: Sequence[Run]) -> list[Series]:
    """What was reached (not in an open loop that kept up: it was told its rate), how long it took, what it cost."""
    if not runs:
        return []
    found = []
    limit = "" if not any(run.generator.is_limit for run in runs) else "the load generator was the limit"
    rates = findings.rates(list(runs))
    closed = any(run.offered_per_s is None for run in runs)
    told = all(
        run.rates_per_s.get("published", 0.0) >= findings.REACHED_MIN * (run.offered_per_s or 0.0) for run in runs
    )
    if rates and (closed or not told):
        found.append(
            Series(
                wording.title_of(rates[0]), "/s", "higher", [run.rates_per_s.get(rates[0], 0.0) for run in runs], limit
            )
        )
    for name in findings.latencies(list(runs))[:1]:
        for part, value in LATENCY_MEASURES:
            values = [value(run.latencies[name]) for run in runs if name in run.latencies]
            found.append(Series(f"{name} {part}", "ms", "lower", values, limit))
    if all(findings.servers(run) for run in runs):
        cpu, memory = [], []
        for run in runs:
            work = run.rates_per_s.get(rates[0], 0.0) if rates else 0.0
            used = sum(process.cpu_cores_mean for process in findings.servers(run))
            cpu.append(used / work * 1e6 if work else used)
            memory.append(float(sum(process.resident_bytes_max for process in findings.servers(run))))
        what = f"server CPU a {wording.title_of(rates[0])}" if rates else "server CPU"
        found.append(Series(what, "us" if rates else "cores", "lower", cpu))
        found.append(Series("server memory", "bytes", "lower", memory))
    return found
