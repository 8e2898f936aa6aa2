"""The parts of a page below its head: charts with their tables, for whatever a report holds.

Used by pages/__init__.py. A part is drawn where the report has its figures, whatever the kind. Of several runs the time
charts show the one in the middle (by p99 of its deliveries, else by its first rate), the others behind it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from bench import findings, wording
from bench.pages import bars, curves, markup, planned, times
from bench.pages.drawing import Chart
from bench.schema import Comparison, PeerRow, Report, Run

TABLE_ROWS_MAX: Final = 60
BEHIND_MAX: Final = 6  # other runs behind a chart
QUANTILES: Final = (
    ("p50", "p50_ms"),
    ("p90", "p90_ms"),
    ("p99", "p99_ms"),
    ("p99.9", "p999_ms"),
    ("p99.99", "p9999_ms"),
)


def sections(report: Report) -> Iterator[str]:
    """All that there is, in the order in which one would ask."""
    if report.comparison is not None:
        yield _comparison(report.comparison)
    if report.capacity is not None:
        yield _capacity(report)
    if report.growth:
        yield _growth(report)
    if report.peers:
        yield _peers(report.peers)
    if report.plan is not None:
        yield from planned.sections(report.plan)
    elif report.measures:
        yield _measures(report)
    if report.runs:
        yield from _runs(report)


def _drawn(chart: Chart | None, details: str = "", *, small: bool = False) -> str:
    return markup.figure(chart.svg, chart.caption, details, small=small) if chart else ""


def middle_run(report: Report) -> int:
    """The index of the run that time charts show."""
    runs = report.runs
    if report.capacity is not None:
        at = [point.run for point in report.capacity.points if point.offered_per_s == report.capacity.rate_per_s]
        if at and 0 <= at[-1] < len(runs):
            return at[-1]
    names = findings.latencies(runs)[:1]
    rates = findings.rates(runs)[:1]

    def weight(index: int) -> float:
        run = runs[index]
        if names and names[0] in run.latencies:
            return run.latencies[names[0]].p99_ms
        return run.rates_per_s.get(rates[0], 0.0) if rates else 0.0

    ordered = sorted(range(len(runs)), key=weight)
    return ordered[(len(ordered) - 1) // 2]


# --- runs -------------------------------------------------------------------------------------------------------------


def _runs(report: Report) -> Iterator[str]:
    runs, index = report.runs, middle_run(report)
    run = runs[index]
    search = report.capacity is not None
    others = [] if search else [one for place, one in enumerate(runs) if place != index][:BEHIND_MAX]
    which = ""
    if search:
        which = "Of the run at the capacity that was found."
    elif others:
        which = f"In colour run {index + 1} of {len(runs)}, the one in the middle by p99."
    body = _drawn(times.throughput("rates", run, others), _tick_table(run))
    body += _drawn(times.latency("latency", run, others))
    body += _drawn(times.heat_map("heat", run))
    yield markup.section("time", "Over time", body, which)
    objective = report.capacity.objective_p99_ms if report.capacity else None
    of = [run] if search else runs
    curve = _drawn(curves.percentiles("percentiles", of, objective)) + _latency_table(of)
    yield markup.section("percentiles-of", "Percentiles", curve)
    used = _drawn(times.processes("processes", run)) + _process_table(run)
    yield markup.section("used", "Processes and machine", used + _resource_table(run), which)
    body = _run_table(runs)
    if search:
        body += _latency_table(runs)
    yield markup.section("runs", "Counted" if len(runs) == 1 else "Each run", body)


def _run_table(runs: Sequence[Run]) -> str:
    """A row a quantity, a column a run."""
    head = ["", *(f"run {number}" for number in range(1, len(runs) + 1))]
    rows: list[list[str]] = [
        ["begun (UTC)", *(run.started.removesuffix("Z").replace("T", " ") for run in runs)],
        ["window", *(wording.duration(run.window_s) for run in runs)],
        ["sessions", *(wording.count(run.sessions) for run in runs)],
        ["offered", *("closed loop" if run.offered_per_s is None else wording.rate(run.offered_per_s) for run in runs)],
    ]
    for name in findings.rates(list(runs)):
        unit = "bytes/s" if name.startswith("bytes") else "/s"
        rows.append([wording.title_of(name), *(wording.quantity(run.rates_per_s.get(name, 0.0), unit) for run in runs)])
    names = dict.fromkeys(name for run in runs for name in run.counts)
    rows += [[f"{wording.title_of(name)}, in all", *(_counted(run.counts, name) for run in runs)] for name in names]
    rows.append(["faults", *(_faults(run) for run in runs)])
    for name in dict.fromkeys(name for run in runs for name in run.values):
        unit = wording.unit_of(name)
        cells = (wording.quantity(run.values[name], unit) if name in run.values else "" for run in runs)
        rows.append([wording.title_of(name), *cells])
    rows.append(["generator, busiest process", *(wording.cores(run.generator.cpu_cores_max) for run in runs)])
    rows.append(["publishes left late, p99", *(wording.ms(run.generator.late_p99_ms) for run in runs)])
    limits = dict.fromkeys(run.saturated for run in runs if run.saturated)
    said = f"What was saturated: {'; '.join(limits)}." if limits else "Nothing was found saturated."
    return markup.table(head, rows) + f"<p>{markup.escaped(said)}</p>"


def _faults(run: Run) -> str:
    if not run.faults:
        return "not looked for"
    return ", ".join(f"{wording.count(value)} {name}" for name, value in run.faults.items() if value) or "none"


def _counted(counts: dict[str, int], name: str) -> str:
    return wording.count(counts[name]) if name in counts else ""


def _latency_table(runs: Sequence[Run]) -> str:
    rows = []
    for name in findings.latencies(list(runs)):
        for number, run in enumerate(runs, 1):
            if (one := run.latencies.get(name)) is None or not one.count:
                continue
            which = f"{name}, run {number}" if len(runs) > 1 else name
            parts = [wording.ms(getattr(one, part)) for _, part in QUANTILES]
            rows.append([which, wording.count(one.count), wording.ms(one.mean_ms), *parts, wording.ms(one.max_ms)])
    head = ["latency", "count", "mean", *(name for name, _ in QUANTILES), "longest"]
    return markup.table(head, rows) if rows else ""


def _tick_table(run: Run) -> str:
    found = times.columns(run)
    each = -(-len(found.at_s) // TABLE_ROWS_MAX) or 1
    names = [name for name in findings.rates([run]) if name in found.rates][:4]
    rows = []
    for place in range(0, len(found.at_s), each):
        rates = [wording.number(found.rates[name][place]) for name in names]
        times_ms = [wording.ms(one[place]) for one in (found.p50_ms, found.p99_ms, found.max_ms)]
        rows.append(
            [f"{found.at_s[place]:g} s", *rates, *(text.replace("– s", "–").replace("– ms", "–") for text in times_ms)]
        )
    head = ["at", *(f"{wording.title_of(name)} /s" for name in names), "p50", "p99", "longest"]
    words = f"Every {wording.duration(found.step_s * each)}." if each > 1 else ""
    return markup.table(head, rows, caption=words) if rows else ""


def _process_table(run: Run) -> str:
    rows = []
    for one in run.processes:
        threads = ", ".join(f"{name} {value:.2f}" for name, value in one.threads_cpu_cores.items())
        descriptors = max((sample.descriptors for sample in one.samples), default=0)
        rows.append(
            [
                f"{one.name or one.role} ({one.pid})",
                f"{one.cpu_cores_mean:.2f}",
                f"{one.cpu_cores_max:.2f}",
                wording.size(one.resident_bytes_max),
                wording.count(descriptors),
                threads,
            ]
        )
    head = ["process", "CPU mean, cores", "CPU most, cores", "most resident", "most descriptors", "threads, cores"]
    return markup.table(head, rows, numbers=range(1, 5)) if rows else ""


def _resource_table(run: Run) -> str:
    rows = [
        [wording.title_of(name), wording.quantity(value, wording.unit_of(name))]
        for name, value in run.resources.items()
    ]
    if not rows:
        return ""
    return f"<h3>Machine, disk and network, in the window</h3>{markup.table(['what', 'mean'], rows)}"


# --- the other kinds --------------------------------------------------------------------------------------------------


def _capacity(report: Report) -> str:
    found = report.capacity
    assert found is not None
    rows = [
        [
            wording.rate(point.offered_per_s),
            wording.rate(point.achieved_per_s),
            wording.ms(point.p50_ms),
            wording.ms(point.p99_ms),
            "met" if point.met else "missed",
            point.saturated or "nothing",
        ]
        for point in sorted(found.points, key=lambda one: one.offered_per_s)
    ]
    table = markup.table(["offered", "achieved", "p50", "p99", "objective", "saturated"], rows, numbers=range(4))
    return markup.section("capacity", "Capacity", _drawn(curves.capacity("capacity-curve", found), table))


def _growth(report: Report) -> str:
    ordered = sorted(report.growth, key=lambda one: not one.grows)
    charts = "".join(_drawn(curves.growth(f"growth-{number}", one), small=True) for number, one in enumerate(ordered))
    rows = [
        [
            one.name,
            findings.growth_verdict(one),
            f"{wording.quantity(one.per_hour, one.unit)} an hour" if findings.has_slope(one) else "too little seen",
            "" if one.limit_per_hour is None else f"{wording.quantity(one.limit_per_hour, one.unit)} an hour",
            len(one.samples),
        ]
        for one in ordered
    ]
    table = markup.table(["watched", "verdict", "slope", "limit", "samples"], rows, numbers=range(2, 5))
    about = "Slopes are Theil–Sen's, after the warm-up: the median of those between samples, which outliers don't move."
    return markup.section("growth", "Growth", f'<div class="grid">{charts}</div>{table}', about)


def _peers(rows: Sequence[PeerRow]) -> str:
    body = []
    for number, job in enumerate(dict.fromkeys(row.job for row in rows)):
        of_job = [row for row in rows if row.job == job]
        chart = bars.peers(f"peers-{number}", job, of_job)
        if chart is None:
            body.append(f"<h3>{markup.escaped(job)}</h3><p>Nobody was there to do it.</p>")
        body.append(_drawn(chart, _peer_table(of_job)) if chart else _peer_table(of_job))
    settings = list(findings.peer_settings(rows).items())
    body.append(
        markup.table(["system", "settings that differ from its defaults"], settings, numbers=range(0))
        if settings
        else ""
    )
    about = "The same job, in the same run, on the same machine; what differs from a system's defaults stands below"
    about += " the charts. Mind the durability below each name."
    return markup.section("peers", "Side by side", "".join(body), about)


def _peer_table(rows: Sequence[PeerRow]) -> str:
    lines = []
    for row in rows:
        runs = findings.spread(row.runs)
        middle = wording.quantity(runs.median, row.unit) if runs else row.missing
        spread = wording.between(runs.low, runs.high, row.unit) if runs else ""
        values = ", ".join(
            f"{wording.title_of(name)} {wording.quantity(value, wording.unit_of(name))}"
            for name, value in row.values.items()
        )
        lines.append(
            [row.system, row.version, row.durability, middle, spread, len(row.runs), values, findings.peer_note(row)]
        )
    head = ["system", "version", "durability", "median", "lowest to highest", "runs", "others", "note"]
    return markup.table(head, lines, numbers=range(0))


def _measures(report: Report) -> str:
    rows = []
    for one in report.measures:
        spread = findings.spread(one.runs)
        ratio = f"{one.value / one.limit:.3f}" if one.limit else ""
        rows.append(
            [
                one.name,
                wording.quantity(one.value, one.unit),
                wording.between(spread.low, spread.high, one.unit) if spread else "",
                len(one.runs),
                wording.quantity(one.limit, one.unit) if one.limit else "",
                ratio,
                "" if one.target is None else wording.quantity(one.target, one.unit),
                one.durability,
                one.note,
            ]
        )
    head = ["measure", "median", "lowest to highest", "runs", "bare limit", "ratio", "target", "durability", "note"]
    chart = _drawn(bars.measures("limits", report.measures))
    return markup.section("measures", "Measured", chart + markup.table(head, rows, numbers=range(1, 7)))


def _comparison(found: Comparison) -> str:
    rows = []
    for one in found.differences:
        interval = (
            "" if one.ratio_low is None or one.ratio_high is None else f"{one.ratio_low:.3f} to {one.ratio_high:.3f}"
        )
        rows.append(
            [
                one.name,
                one.verdict,
                wording.quantity(statistics.median(one.a), one.unit) if one.a else "",
                wording.quantity(statistics.median(one.b), one.unit) if one.b else "",
                f"{one.ratio:.3f}",
                interval,
                f"{one.p:.3g}",
                f"{len(one.a)}, {len(one.b)}",
                one.note,
            ]
        )
    head = ["measure", "verdict", "median A", "median B", "B/A", "95 % interval", "p, corrected", "runs", "note"]
    sides = [
        [name, side.name, side.commit, side.started, ", ".join(str(run + 1) for run in side.runs)]
        for name, side in (("A", found.a), ("B", found.b))
    ]
    about = "Runs took turns, A B B A …, so that drift of the machine meets both." if found.interleaved else ""
    body = _drawn(bars.comparison("sides", found)) + markup.table(head, rows, numbers=range(2, 8))
    body += markup.table(["side", "what", "commit", "measured", "runs"], sides, numbers=range(0))
    return markup.section("comparison", "A beside B", body, about)
