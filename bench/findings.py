"""What a report says before anybody has looked at a chart: whether it may be believed, and its first figures.

Used by summary.py (terminal) and pages/ (HTML), so that both say the same. Nothing is measured here, and nothing judged
that isn't in the report. A remark is `invalid` (the figures must not be used), `caution` (they mean less than they
seem), or `note`. Several runs are shown as their median beside the lowest and highest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from bench import wording
from bench.growth import BLOCKS_MIN, too_little
from bench.schema import PEER_SETTINGS, Comparison, Growth, Latency, PeerRow, Process, Report, Run

LOAD_SHARE_MAX: Final = 0.25  # of the cores, before the start; more is somebody else's work
OTHERS_SHARE_MAX: Final = 0.1  # of the cores, during a run, by nobody who took part
STEAL_CORES_MAX: Final = 0.05
SPREAD_MAX: Final = 0.15  # (highest − lowest) / median of a rate over runs
REACHED_MAX: Final = 1.1
REACHED_MIN: Final = 0.98  # of the rate that was offered
WINDOW_S_MIN: Final = 5.0
CLIENTS_LIMIT: Final = "The load generator was the limit"
CLIENT_ROLES: Final = ("generator",)
MAIN_RATES: Final = ("deliveries", "published", "receipts", "appended", "read", "resumes", "connects", "hellos")
MAIN_LATENCIES: Final = ("deliver", "receipt", "resume", "hello")


class Remark(NamedTuple):
    """One thing to know before the figures."""

    weight: str  # invalid, caution, note
    text: str


class Headline(NamedTuple):
    """One of the first figures."""

    label: str
    value: str
    detail: str = ""


class Spread(NamedTuple):
    """A figure of several runs."""

    median: float
    low: float
    high: float
    runs: int


def spread(values: Iterable[float]) -> Spread | None:
    """None: there are none."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found), len(found)) if found else None


def spread_text(found: Spread, unit: str) -> str:
    """Beside the median; empty for a single run."""
    if found.runs == 1:
        return "one run"
    return f"median of {found.runs} runs, {wording.between(found.low, found.high, unit)}"


def rates(runs: list[Run]) -> list[str]:
    """Names of the rates of runs, the telling ones first."""
    names = {name for run in runs for name, value in run.rates_per_s.items() if value}
    return [name for name in MAIN_RATES if name in names] + sorted(names - set(MAIN_RATES))


def latencies(runs: list[Run]) -> list[str]:
    """Names of the distributions of runs, the telling ones first."""
    names = {name for run in runs for name, found in run.latencies.items() if found.count}
    return [name for name in MAIN_LATENCIES if name in names] + sorted(names - set(MAIN_LATENCIES))


def latency_spread(runs: list[Run], name: str, value: Callable[[Latency], float]) -> Spread | None:
    """A quantile of a distribution over runs."""
    return spread(value(run.latencies[name]) for run in runs if name in run.latencies and run.latencies[name].count)


def servers(run: Run) -> list[Process]:
    """Those who were measured: all but the clients."""
    return [process for process in run.processes if process.role not in CLIENT_ROLES]


def peer_note(row: PeerRow) -> str:
    """What is to be said of a row, without the settings of its system."""
    return row.note.split(PEER_SETTINGS)[0].rstrip("; ")


def peer_settings(rows: Iterable[PeerRow]) -> dict[str, str]:
    """Of each system what differs from its defaults: the same at all its jobs."""
    return {row.system: row.note.split(PEER_SETTINGS)[1] for row in rows if PEER_SETTINGS in row.note}


def growth_verdict(growth: Growth) -> str:
    """As the soak has judged it; reports of before it did say only whether it grows."""
    return growth.verdict or ("grows" if growth.grows else "steady")


def has_slope(growth: Growth) -> bool:
    """Whether enough was seen for one; reports of before it was counted show what they have."""
    return growth.blocks is None or growth.blocks >= BLOCKS_MIN


def slope_text(growth: Growth) -> str:
    """The slope beside its limit, or that there is none."""
    if growth.blocks is not None and not has_slope(growth):
        return too_little(growth.blocks)
    limit = "" if growth.limit_per_hour is None else f", limit {wording.quantity(growth.limit_per_hour, growth.unit)}"
    return f"{wording.quantity(growth.per_hour, growth.unit)} an hour{limit}"


def _faults(runs: list[Run]) -> Iterator[Remark]:
    sums: dict[str, int] = {}
    for run in runs:
        for name, value in run.faults.items():
            sums[name] = sums.get(name, 0) + value
    if found := [f"{wording.count(value)} {name}" for name, value in sums.items() if value]:
        yield Remark("invalid", f"Faults: {', '.join(found)}. A run with any is no measurement: don't use its figures.")


class _Seen(NamedTuple):
    """A remark of one run; of several runs the worst is shown."""

    kind: str
    worst: float
    text: str


def _of_run(run: Run, cores: int, *, search: bool) -> Iterator[_Seen]:
    """`search`: the runs of a search ask for more than there is, and are short."""
    if run.generator.is_limit:
        why = f": {run.generator.reason}" if run.generator.reason else ""
        yield _Seen(
            "generator",
            run.generator.cpu_cores_max,
            f"{CLIENTS_LIMIT}{why}. Rates are a lower bound of the server's, latencies include the generator's own.",
        )
    used = sum(process.cpu_cores_mean for process in run.processes) + run.resources.get("sampler_cpu_cores", 0.0)
    others = run.resources.get("machine_cpu_cores", 0.0) - used
    if run.processes and others > OTHERS_SHARE_MAX * cores:
        yield _Seen("others", others, f"Others used {wording.cores(others)} of {cores}: the machine was not quiet.")
    if (steal := run.resources.get("machine_steal_cores", 0.0)) > STEAL_CORES_MAX:
        yield _Seen("steal", steal, f"The host took {wording.cores(steal)} away (steal time).")
    if search:
        return
    published = run.rates_per_s.get("published")
    if run.offered_per_s and published is not None and published < run.offered_per_s * REACHED_MIN:
        both = f"{wording.rate(run.offered_per_s)} were offered and {wording.rate(published)} published"
        yield _Seen("reached", -published, f"{both}: the rest was refused, or waited.")
    if run.offered_per_s and published is not None and published > run.offered_per_s * REACHED_MAX:
        both = f"{wording.rate(run.offered_per_s)} were to be offered and {wording.rate(published)} were"
        yield _Seen("beyond", published, f"{both}: the arrivals of this window were not those of the workload.")
    if run.window_s < WINDOW_S_MIN:
        lasted = wording.duration(run.window_s)
        yield _Seen("short", -run.window_s, f"The window of {lasted} is too short to judge speed by.")


def _of_runs(report: Report) -> Iterator[Remark]:
    runs = report.runs
    yield from _faults(runs)
    kinds: dict[str, list[tuple[int, _Seen]]] = {}
    for number, run in enumerate(runs, 1):
        for seen in _of_run(run, report.machine.cores, search=report.kind == "capacity"):
            kinds.setdefault(seen.kind, []).append((number, seen))
    for alike in kinds.values():
        text = max(alike, key=lambda one: one[1].worst)[1].text
        if len(runs) > 1 and len(alike) < len(runs):
            text = f"{_runs_named([number for number, _ in alike], len(runs))}: {text}"
        yield Remark("caution", text)
    if gaps := sum(run.counts.get("gaps", 0) for run in runs):
        yield Remark(
            "note", f"{wording.count(gaps)} gaps were told to sessions: what is in them is fetched, not pushed."
        )
    most = max((len(row.runs) for row in report.peers), default=0) if report.kind == "peers" else len(runs)
    if report.kind in ("run", "peers") and most == 1:
        yield Remark("note", "One run has no spread: repeat it (--runs 5) before you compare it with another.")
    if report.kind != "run":
        return
    for name in rates(runs)[:1]:
        found = spread(run.rates_per_s[name] for run in runs if name in run.rates_per_s)
        if found and found.runs > 1 and found.high - found.low > SPREAD_MAX * found.median:
            apart = wording.share((found.high - found.low) / found.median)
            yield Remark("caution", f"Runs differ by {apart} in {wording.title_of(name)}: the machine is noisy.")


def _runs_named(numbers: list[int], runs: int) -> str:
    """Which of them; of many, how many."""
    if len(numbers) == 1:
        return f"Run {numbers[0]} of {runs}"
    named = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}" if len(numbers) <= 4 else str(len(numbers))
    return f"Runs {named} of {runs}, the worst"


def _of_machine(report: Report) -> Iterator[Remark]:
    machine = report.machine
    if machine.load_1min_at_start > LOAD_SHARE_MAX * machine.cores:
        yield Remark(
            "caution",
            f"The machine was not quiet at the start: a load of {machine.load_1min_at_start:.2f} on {machine.cores}"
            " cores.",
        )
    if report.target.durability.startswith("none"):
        yield Remark("caution", f"Nothing was durable ({report.target.durability}): real disks are slower.")
    if not report.target.started_here and report.kind not in ("plan", "compare"):
        yield Remark("note", f"A server of somebody's was measured ({report.target.url}): its CPU and memory weren't.")
    if machine.commit.endswith("-dirty"):
        yield Remark("note", f"The checkout differed from its commit ({machine.commit}).")


def _of_search(report: Report) -> Iterator[Remark]:
    if grows := [one.name for one in report.growth if one.grows]:
        yield Remark(
            "caution", f"Grows beyond its limit: {', '.join(grows)} ({len(grows)} of {len(report.growth)} watched)."
        )
    if report.capacity is not None and report.capacity.rate_per_s is None:
        yield Remark("caution", "No rate that was tried met the objective.")


def _of_comparison(found: Comparison) -> Iterator[Remark]:
    if found.refused:
        yield Remark("invalid", f"No verdict: {found.refused}")
    yield from (Remark("caution", text) for text in found.cautions)


def remarks(report: Report) -> list[Remark]:
    """What weighs most first; each once."""
    found = []
    if report.partial:
        found.append(
            Remark("caution", f"Partial: {report.reason or 'it ended early'}. What was measured until then is kept.")
        )
    if report.comparison is not None:
        found += _of_comparison(report.comparison)
    found += _of_runs(report)
    found += _of_search(report)
    found += _of_machine(report)
    order = ("invalid", "caution", "note")
    return sorted(dict.fromkeys(found), key=lambda remark: order.index(remark.weight))


def verdict(report: Report) -> Remark:
    """One line above everything."""
    found = remarks(report)
    if any(remark.weight == "invalid" for remark in found):
        return Remark("invalid", "Not valid: don't use these figures.")
    if report.partial:
        return Remark("caution", "Partial: it ended early.")
    cautions = sum(remark.weight == "caution" for remark in found)
    said = _told(report.comparison) if report.comparison is not None else "Valid."
    if report.runs and all(run.faults for run in report.runs):
        said += " Every receipt and every delivery was verified: nothing lost, doubled or out of order."
    if cautions:
        return Remark("caution", f"{said} {cautions} caution{'s' if cautions > 1 else ''}.")
    return Remark("note", said)


def _told(found: Comparison) -> str:
    """A comparison's outcome."""
    verdicts = [one.verdict for one in found.differences]
    named = {name: verdicts.count(name) for name in ("slower", "faster", "can't tell")}
    parts = [f"{name} in {count}" for name, count in named.items() if count]
    return f"B is {', '.join(parts)} of {len(verdicts)} measures." if parts else "Nothing was compared."
