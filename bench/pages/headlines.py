"""The first figures of a page: at most six, each with what it is the median of.

Used by pages/__init__.py. What they are depends on the kind of the report; whatever else was measured stands below.
"""

from __future__ import annotations

import statistics
from typing import Final

from bench import findings, wording
from bench.findings import Headline
from bench.pages.bars import OURS, lower_is_better
from bench.plan import show
from bench.schema import PEER_LIMIT, Report, Run

MOST: Final = 6


def headlines(report: Report) -> list[Headline]:
    """The figures that one would read out."""
    match report.kind:
        case "capacity":
            found = _capacity(report)
        case "soak":
            found = _soak(report) + _runs(report.runs)
        case "peers":
            found = _peers(report)
        case "compare":
            found = _comparison(report)
        case "plan":
            found = _plan(report)
        case _:
            found = _runs(report.runs) or _measures(report)
    return found[:MOST]


def _runs(runs: list[Run]) -> list[Headline]:
    found = []
    for name in findings.rates(runs)[:2]:
        if rate := findings.spread(run.rates_per_s[name] for run in runs if name in run.rates_per_s):
            label = f"{wording.title_of(name)} a second".capitalize()
            found.append(Headline(label, wording.number(rate.median), findings.spread_text(rate, "/s")))
    for name in findings.latencies(runs)[:1]:
        for label, part in (("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms")):
            value = findings.latency_spread(runs, name, lambda one, part=part: float(getattr(one, part)))  # type: ignore[misc]
            if value:
                found.append(
                    Headline(
                        f"{name.capitalize()} {label}", wording.ms(value.median), findings.spread_text(value, "ms")
                    )
                )
    if cpu := findings.spread(
        sum(one.cpu_cores_mean for one in findings.servers(run)) for run in runs if run.processes
    ):
        found.append(Headline("CPU of the server", wording.cores(cpu.median), findings.spread_text(cpu, "cores")))
    for run in runs[:1]:
        for name, own in run.values.items():
            found.append(Headline(wording.title_of(name).capitalize(), wording.quantity(own, wording.unit_of(name))))
    return found


def _capacity(report: Report) -> list[Headline]:
    capacity = report.capacity
    if capacity is None:
        return _runs(report.runs)
    objective = f"p99 within {wording.ms(capacity.objective_p99_ms)}"
    if capacity.rate_per_s is None:
        return [Headline("Capacity", "none found", f"no rate that was tried kept {objective}")]
    spread = ""
    if capacity.spread_per_s is not None:
        low, high = (wording.rate(value) for value in capacity.spread_per_s)
        spread = f"; every run up to {low}, none from {high}"
    found = [Headline("Capacity", wording.rate(capacity.rate_per_s), objective + spread)]
    at = [point for point in capacity.points if point.offered_per_s == capacity.rate_per_s and point.met]
    if at:
        found.append(Headline("p50 there", wording.ms(statistics.median(one.p50_ms for one in at))))
        found.append(Headline("p99 there", wording.ms(statistics.median(one.p99_ms for one in at))))
    above = [point for point in capacity.points if point.offered_per_s > capacity.rate_per_s]  # below, it was chance
    missed = [point.offered_per_s for point in above if not point.met]
    if missed:
        found.append(Headline("Missed first at", wording.rate(min(missed)), capacity.saturated))
    return found


def _soak(report: Report) -> list[Headline]:
    grows = [one for one in report.growth if one.grows]
    watched = len(report.growth)
    detail = ", ".join(one.name for one in grows) or "nothing beyond its limit"
    return [Headline("Growing", f"{len(grows)} of {watched}", detail)]


def _peers(report: Report) -> list[Headline]:
    found = []
    for job in dict.fromkeys(row.job for row in report.peers):
        rows = [row for row in report.peers if row.job == job and row.runs]
        ours = next((row for row in rows if row.system.lower().startswith(OURS)), None)
        if ours is None:
            continue
        limit = next((row for row in rows if row.system == PEER_LIMIT), None)
        others = [row for row in rows if row is not ours and row is not limit]
        own = statistics.median(ours.runs)
        detail = "nobody else was there"
        if others:
            better = min if lower_is_better(ours.unit) else max
            best = better(others, key=lambda row: statistics.median(row.runs))
            detail = f"best other: {best.system} {wording.quantity(statistics.median(best.runs), best.unit)}"
        if limit is not None:
            detail += f"; bare limit {wording.quantity(statistics.median(limit.runs), limit.unit)}"
        found.append(Headline(job, wording.quantity(own, ours.unit), detail))
    return found


def _measures(report: Report) -> list[Headline]:
    found = []
    for measure in report.measures:
        detail = "" if not measure.limit else f"{measure.value / measure.limit:.2f} of the bare limit"
        found.append(Headline(measure.name, wording.quantity(measure.value, measure.unit), detail))
    return found


def _plan(report: Report) -> list[Headline]:
    if report.plan is None:
        return []
    figures = dict(show.short(report.plan))
    wanted = (
        ("nodes", f"{report.plan.needed} carry the peak; most is asked for by {report.plan.bound_by}"),
        ("publishes at the peak", f"in {figures.get('shards', '')}"),
        ("deliveries at the peak", ""),
        ("sessions at the peak", ""),
        ("delivery p99", f"{figures.get('p99, one zone lost', '')} with a zone lost"),
        ("disk of a node", ""),
    )
    return [Headline(name.capitalize(), figures[name], detail) for name, detail in wanted if name in figures]


def _comparison(report: Report) -> list[Headline]:
    if report.comparison is None:
        return []
    order = {"slower": 0, "faster": 1}
    found = []
    for one in sorted(report.comparison.differences, key=lambda one: order.get(one.verdict, 2)):
        interval = "no interval: too few runs"
        if one.ratio_low is not None and one.ratio_high is not None:
            interval = f"{one.ratio_low:.3f} to {one.ratio_high:.3f}"
        found.append(Headline(f"{one.name}: {one.verdict}", f"{one.ratio:.3f}", f"B/A; {interval}"))
    return found
