"""What a terminal shows of a measurement: where it is while it goes, and ten lines when it is over.

`Progress` is what commands call while they measure; it redraws one small block on stderr, from its own thread, so that
the time goes on where nothing is reported. Where stderr is no terminal it says one line a phase and nothing else.
`show` prints a finished (or partial) report on stdout.

Invariants: neither can end a measurement: a tick only adds to sums. Percentiles so far come from the buckets of ticks
and are as coarse as these (a fifth); those of a report come from its histograms. Cost: microseconds a tick.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench import findings, wording
from bench.saturation import CLIENT
from bench.schema import Report, Run, Tick

REDRAWS_PER_S: Final = 4
PIPE_WIDTH: Final = 120
LABEL_WIDTH_MAX: Final = 28
LINES_MAX: Final = 10
BAR_WIDTH: Final = 24
SHOWN_RATES: Final = ("published", "receipts", "deliveries", "refused", "connects", "resumes")


def bucket_ms(bucket: int) -> float:
    """The middle of a bucket of Tick.heat."""
    return float(2 ** ((bucket + 0.5) / 4)) / 1_000


def heat_quantile_ms(heat: dict[int, int], share: float) -> float | None:
    """The latency that this share of all stays below, as near as buckets say it; None: nothing is in them."""
    wanted, seen = share * sum(heat.values()), 0
    for bucket in sorted(heat):
        seen += heat[bucket]
        if heat[bucket] and seen >= wanted:
            return bucket_ms(bucket)
    return None


class Progress:
    """One measurement under way; `with Progress(…) as progress:`, or close() it."""

    def __init__(self, title: str, *, stream: TextIO | None = None) -> None:
        self._title, self._stream = title, stream or sys.stderr
        self._began = self._phase_began = time.monotonic()
        self._phase, self._phase_s, self._part = "", 0.0, ""
        self._tick: Tick | None = None
        self._heat: dict[int, int] = {}
        self._server_cpu_cores: float | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._live: Live | None = None
        if self._stream.isatty():
            console = Console(file=self._stream, highlight=False)
            self._live = Live(
                console=console, get_renderable=self._drawn, refresh_per_second=REDRAWS_PER_S, transient=True
            )
            self._live.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def phase(self, name: str, seconds: float = 0.0) -> None:
        """What begins now: connect, warm-up, window, drain, one's own; how long it will take, if that is known."""
        with self._lock:
            self._phase, self._phase_s, self._phase_began = name, seconds, time.monotonic()
            self._heat = {}
        if self._live is None and not self._closed:
            lasting = f" ({wording.duration(seconds)})" if seconds else ""
            part = f" {self._part}:" if self._part else ""
            self._stream.write(f"gonets: bench: {self._title}:{part} {name}{lasting}\n")
            self._stream.flush()

    @property
    def is_live(self) -> bool:
        """Whether somebody sees it redrawn; else what is told stays as lines."""
        return self._live is not None

    def part(self, text: str) -> None:
        """Where in the whole this is: `run 2 of 5`, `at 12,000/s`."""
        with self._lock:
            self._part = text

    def say(self, text: str) -> None:
        """A line that stays: what came of a part."""
        if self._live is not None:
            self._live.console.print(Text(text))
        elif not self._closed:
            self._stream.write(f"gonets: bench: {self._title}: {text}\n")
            self._stream.flush()

    def tick(self, tick: Tick, server_cpu_cores: float | None = None) -> None:
        """What a second of the run has brought."""
        with self._lock:
            self._tick = tick
            if server_cpu_cores is not None:
                self._server_cpu_cores = server_cpu_cores
            for bucket, count in tick.heat:
                self._heat[bucket] = self._heat.get(bucket, 0) + count

    def close(self) -> None:
        """No more; the block is taken off the screen. May be called again."""
        self._closed = True
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _drawn(self) -> Group:
        """The block as it is now; called by the thread that redraws."""
        with self._lock:
            now = time.monotonic()
            lines = [self._head(now), self._time(now - self._phase_began)]
            if self._tick is not None:
                lines.append(self._rates(self._tick))
            if figures := self._figures():
                lines.append(Text("  " + figures))
        return Group(*lines)

    def _head(self, now: float) -> Text:
        line = Text()
        line.append(self._title, style="bold")
        if self._part:
            line.append(f"  {self._part}")
        line.append(f"  {wording.duration(now - self._began)} so far", style="dim")
        return line

    def _time(self, elapsed: float) -> Text:
        line = Text(f"  {self._phase or 'starting'}  ")
        if not self._phase_s:
            return line.append(wording.duration(elapsed), style="dim")
        done = min(round(BAR_WIDTH * elapsed / self._phase_s), BAR_WIDTH)
        line.append("━" * done, style="cyan").append("━" * (BAR_WIDTH - done), style="dim")
        return line.append(f"  {wording.duration(max(self._phase_s - elapsed, 0.0))} left", style="dim")

    def _rates(self, tick: Tick) -> Text:
        named = [name for name in SHOWN_RATES if tick.rates_per_s.get(name)]
        shown = [f"{name} {wording.rate(tick.rates_per_s[name])}" for name in named]
        return Text("  " + ("   ".join(shown) or "nothing in the last second"))

    def _figures(self) -> str:
        parts = []
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            if (found := heat_quantile_ms(self._heat, share)) is not None:
                parts.append(f"{name} ≈ {wording.ms(found)}")
        if parts:
            parts.append("in this phase")
        if self._server_cpu_cores is not None:
            parts.append(f"  server {wording.cores(self._server_cpu_cores)}")
        return "  ".join(parts)


class Steps:
    """The progress of one point of many: its phases are seen where they are redrawn, and fill no log elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def phase(self, name: str, seconds: float = 0.0) -> None:
        """Another phase of this point."""
        if self._progress.is_live:
            self._progress.phase(name, seconds)

    def tick(self, tick: Tick, server_cpu_cores: float | None = None) -> None:
        """A second of it is over."""
        self._progress.tick(tick, server_cpu_cores)


# --- when it is over --------------------------------------------------------------------------------------------------

Line = tuple[str, str]  # label, text
STYLES: Final = {"invalid": "bold red", "caution": "yellow", "note": "green"}


def show(report: Report, path: Path | None = None, console: Console | None = None) -> None:
    """At most ten lines of a report; the page beside it has the rest. `path`: where the report lies."""
    console = console or Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    found = lines(report, path)
    width = min(max(len(label) for label, _ in found), LABEL_WIDTH_MAX) + 2
    for label, text in found:
        line = Text(f"{label[: width - 1]:<{width}}", style="bold")
        line.append(text, style=STYLES[findings.verdict(report).weight] if label == "verdict" else "not bold")
        console.print(line, overflow="ellipsis", no_wrap=True)


def lines(report: Report, path: Path | None = None) -> list[Line]:
    """The same as text: label and words."""
    machine = report.machine
    found = [(report.kind, f"{report.name}: {report.title}" if report.title else report.name), *_verdict(report)]
    durable = report.target.durability or "not stated"
    where = f"{machine.cpu}, {machine.cores} cores, {machine.filesystem}, durability {durable}, commit {machine.commit}"
    last = [("machine", where)]
    if path is not None:
        last.append(("report", f"{path}, and {path.with_suffix('.html')}"))
    room = LINES_MAX - len(found) - len(last)
    body = BODIES.get(report.kind, _run)(report)
    if len(body) > room:
        body = [*body[: room - 1], ("", f"and {len(body) - room + 1} more in the report")]
    return [*found, *body, *last]


def _verdict(report: Report) -> list[Line]:
    """What may be believed, in one line; of the remarks the weightiest."""
    found = findings.remarks(report)
    if found and found[0].weight != "note":
        more = sum(remark.weight != "note" for remark in found) - 1
        return [("verdict", found[0].text + (f" (and {more} more)" if more else ""))]
    return [("verdict", findings.verdict(report).text)]


def _run(report: Report) -> list[Line]:
    runs = report.runs
    if not runs:
        return _measures(report)
    found: list[Line] = []
    for name in findings.rates(runs)[:2]:
        if rate := findings.spread(run.rates_per_s[name] for run in runs if name in run.rates_per_s):
            offered = runs[0].offered_per_s if name == "published" else None
            beside = f"; offered {wording.rate(offered)}" if offered else ""
            found.append(
                (wording.title_of(name), f"{wording.rate(rate.median)}  ({findings.spread_text(rate, '/s')}{beside})")
            )
    found += [(f"{wording.title_of(name)} time", _latency(runs, name)) for name in findings.latencies(runs)[:2]]
    found += _processes(runs)
    return found + _limit(report, next((run.saturated for run in runs if run.saturated), ""))


def _limit(report: Report, saturated: str) -> list[Line]:
    """What was busy; nothing where the verdict has told of the clients already."""
    told = saturated.startswith(CLIENT) and findings.CLIENTS_LIMIT in _verdict(report)[0][1]
    return [("limit", saturated)] if saturated and not told else []


def _latency(runs: list[Run], name: str) -> str:
    parts = []
    for label in ("p50", "p99", "p999", "max"):
        if of := findings.latency_spread(runs, name, lambda found, label=label: getattr(found, f"{label}_ms")):  # type: ignore[misc]
            parts.append(f"{'p99.9' if label == 'p999' else label} {wording.ms(of.median)}")
    return "   ".join(parts)


def _processes(runs: list[Run]) -> list[Line]:
    """The busiest run's, because one line has no room for all."""
    run = max(runs, key=lambda one: sum(process.cpu_cores_mean for process in one.processes))
    if not run.processes:
        return []
    servers = findings.servers(run)
    used = sum(process.cpu_cores_mean for process in servers)
    memory = sum(process.resident_bytes_max for process in servers)
    ours = f"{len(servers)} of the server: {wording.cores(used)}, {wording.size(memory)} resident"
    if not servers:
        ours = "server not watched (--target)"
    count = run.generator.processes
    theirs = f"{count} generator{'s' if count != 1 else ''}, the busiest {wording.cores(run.generator.cpu_cores_max)}"
    return [("processes", f"{ours}; {theirs}")]


def _capacity(report: Report) -> list[Line]:
    found = report.capacity
    if found is None:
        return _run(report)
    objective = f"p99 within {wording.ms(found.objective_p99_ms)}"
    if found.rate_per_s is None:
        head = f"no rate that was tried kept {objective}"
    else:
        head = f"{wording.rate(found.rate_per_s)} with {objective}"
    if found.spread_per_s is not None:
        low, high = found.spread_per_s
        head += f"  (every run up to {wording.rate(low)}, none from {wording.rate(high)})"
    rows: list[Line] = [("capacity", head)]
    rows += _limit(report, found.saturated)
    nearest = sorted(found.points, key=lambda point: abs(point.offered_per_s - (found.rate_per_s or 0.0)))[:4]
    for point in sorted(nearest, key=lambda point: point.offered_per_s):
        times = f"p50 {wording.ms(point.p50_ms)}   p99 {wording.ms(point.p99_ms)}"
        text = f"achieved {wording.rate(point.achieved_per_s)}   {times}   {'met' if point.met else 'missed'}"
        rows.append((f"  {wording.rate(point.offered_per_s)}", text))
    return rows


def _soak(report: Report) -> list[Line]:
    ordered = sorted(report.growth, key=lambda one: not one.grows)
    found = [(findings.growth_verdict(one), f"{one.name}: {findings.slope_text(one)}") for one in ordered]
    return found + _run(report)


def _peers(report: Report) -> list[Line]:
    """A line a job: the systems, the best first; those that aren't there in a line of their own."""
    found: list[Line] = []
    for job in dict.fromkeys(row.job for row in report.peers):
        rows = [row for row in report.peers if row.job == job and row.runs]
        lower = bool(rows) and rows[0].unit in ("ms", "bytes", "s", "us")
        medians = sorted(
            ((findings.spread(row.runs), row) for row in rows), key=lambda one: one[0].median if one[0] else 0.0
        )
        ordered = medians if lower else medians[::-1]
        shown = [f"{row.system} {wording.quantity(value.median, row.unit)}" for value, row in ordered if value]
        found.append((job, "   ".join(shown) or "nobody was there to do it"))
    there = {row.system: row.durability for row in report.peers if row.runs}
    found.insert(0, ("durability", "; ".join(f"{system} {durability}" for system, durability in there.items())))
    if missing := list(dict.fromkeys(row.system for row in report.peers if row.system not in there)):
        found.insert(1, ("missing", ", ".join(missing)))
    return found


def _measures(report: Report) -> list[Line]:
    found: list[Line] = []
    for measure in report.measures:
        text = wording.quantity(measure.value, measure.unit)
        if measure.limit:
            limit = wording.quantity(measure.limit, measure.unit)
            text += f"   {measure.value / measure.limit:.2f} of the bare limit {limit}"
        if measure.target is not None:
            text += f"   target {wording.quantity(measure.target, measure.unit)}"
        if of := findings.spread(measure.runs):
            text += f"   ({findings.spread_text(of, measure.unit)})"
        found.append((measure.name, text))
    return found


def _compare(report: Report) -> list[Line]:
    if (found := report.comparison) is None:
        return _run(report)
    rows: list[Line] = [("A, B", f"{found.a.name} ({found.a.commit}), {found.b.name} ({found.b.commit})")]
    order = {"slower": 0, "faster": 1}
    for one in sorted(found.differences, key=lambda one: order.get(one.verdict, 2)):
        a, b = findings.spread(one.a), findings.spread(one.b)
        if a is None or b is None:
            continue
        sure = (
            "" if one.ratio_low is None or one.ratio_high is None else f" [{one.ratio_low:.3f}, {one.ratio_high:.3f}]"
        )
        both = f"{wording.quantity(a.median, one.unit)} → {wording.quantity(b.median, one.unit)}"
        rows.append((one.verdict, f"{one.name}: {both}, B/A {one.ratio:.3f}{sure}"))
    return rows


def _plan(report: Report) -> list[Line]:
    """What its author would read out."""
    return [("plan" if not number else "", words) for number, words in enumerate(report.conclusions)]


BODIES: Final = {
    "run": _run,
    "capacity": _capacity,
    "soak": _soak,
    "peers": _peers,
    "compare": _compare,
    "measure": _measures,
    "plan": _plan,
}
