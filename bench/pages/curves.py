"""Charts of distributions and searches: percentile curves of all runs, the capacity curve, growth in a soak.

Used by sections.py. Percentile curves are read from the runs' own histograms, exact to their three digits: the
horizontal axis is 1/(1−p) on a log scale, so that each step of a decade is one more nine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from hdrh.histogram import HdrHistogram
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench import findings, wording
from bench.pages import drawing
from bench.pages.drawing import BLUE, COLOURS, FAINT, GRAY, GREEN, INK, VERMILLION, Chart
from bench.pages.markup import plain
from bench.schema import Capacity, Growth, Latency, ReportError, Run

CURVE_POINTS_MAX: Final = 250
DISTRIBUTIONS_DRAWN: Final = 4
DRAWN_FIRST: Final = ("deliver", "receipt", "resume", "refused")


def quantiles(latency: Latency, where: str) -> tuple[Any, Any]:
    """(1/(1−p), ms) at each recorded value. ReportError if the histogram can't be read."""
    try:
        histogram = HdrHistogram.decode(latency.histogram)
        rows = [(one.value_iterated_to, one.total_count_to_this_value) for one in histogram.get_recorded_iterator()]
    except Exception as error:
        raise ReportError(f"{where}: its histogram can't be read: {error}") from None
    if not rows:
        return np.empty(0), np.empty(0)
    values = np.array([value for value, _ in rows], float) / 1e6
    seen = np.array([count for _, count in rows], float)
    total = seen[-1]
    before = np.concatenate(([0.0], seen[:-1])) / total
    # A value holds for all shares from those below it on; the last is drawn where half a count is above it.
    return 1 / (1 - np.minimum(before, 1 - 0.5 / total)), values


def percentiles(name: str, runs: Sequence[Run], objective_ms: float | None = None) -> Chart | None:
    """All runs, each distribution in its colour."""
    there = findings.latencies(list(runs))
    named = [one for one in there if one in DRAWN_FIRST] or there[:DISTRIBUTIONS_DRAWN]
    curves = [
        (kind, *quantiles(run.latencies[kind], f"run {number}, {kind}"))
        for kind in named
        for number, run in enumerate(runs, 1)
        if kind in run.latencies and run.latencies[kind].count
    ]
    curves = [curve for curve in curves if len(curve[1])]
    if not curves:
        return None
    figure, (axes,) = drawing.panels([230])
    end = max(float(shares[-1]) for _, shares, _ in curves)
    ends: dict[str, list[float]] = {}
    for kind, shares, values in curves:
        colour = COLOURS[named.index(kind)]
        x, y = np.append(shares, end), np.append(values, values[-1])
        kept = _thinned(x)
        axes.step(x[kept], y[kept], where="post", color=colour, lw=1.3, alpha=0.85)
        ends.setdefault(kind, []).append(float(values[-1]))
    low = min(float(values[values > 0].min()) for _, _, values in curves if (values > 0).any())
    drawing.log_ms(axes, low, max(float(values[-1]) for _, _, values in curves))
    axes.set_xscale("log")
    axes.set_xlim(1, max(end, 10.0))
    nines = [1.0, 2.0] + [10.0**one for one in range(1, math.ceil(math.log10(max(end, 10.0))) + 1)]
    axes.xaxis.set_major_locator(FixedLocator(nines))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: share_text(value)))
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("share of all that took at most so long")
    axes.set_title("Latency by percentile")
    if objective_ms is not None:
        axes.axhline(objective_ms, color=INK, lw=0.8, ls=(0, (4, 3)))
    labels = [(statistics.median(values), kind, COLOURS[named.index(kind)]) for kind, values in ends.items()]
    drawing.end_labels(axes, labels)
    each = " A line a run." if len(runs) > 1 else ""
    return Chart(
        drawing.svg_of(figure, name, f"Percentile curves of {', '.join(named)} of {len(runs)} runs."),
        f"Read from the histograms of the runs: every one of their values is in them.{each} Where a curve bends upward,"
        " something rarer begins: a stall, a sync, a garbage collection.",
    )


def _thinned(x: Any) -> Any:
    """Indexes of points that are apart on the log scale, and the last two."""
    if len(x) <= CURVE_POINTS_MAX:
        return np.arange(len(x))
    steps = np.floor(np.log(x) / math.log(x[-1]) * CURVE_POINTS_MAX) if x[-1] > 1 else np.zeros(len(x))
    kept = np.flatnonzero(np.diff(steps, prepend=-1.0))
    return np.unique(np.concatenate((kept, [len(x) - 2, len(x) - 1])))


def share_text(inverse: float) -> str:
    """1 → 0 %, 2 → 50 %, 1,000 → 99.9 %."""
    digits = max(round(math.log10(inverse)) - 2, 0)
    return f"{(1 - 1 / inverse) * 100:.{digits}f} %"


def capacity(name: str, found: Capacity) -> Chart | None:
    """Offered rate against latency and against what was achieved."""
    points = sorted(found.points, key=lambda point: (point.offered_per_s, point.achieved_per_s))
    if not points:
        return None
    figure, (above, below) = drawing.panels([200, 150], gap=44)
    offered = [point.offered_per_s for point in points]
    medians = sorted({point.offered_per_s for point in points})

    def middle(value: str) -> list[float]:
        return [
            statistics.median(getattr(point, value) for point in points if point.offered_per_s == rate)
            for rate in medians
        ]

    above.plot(medians, middle("p99_ms"), color=VERMILLION)
    above.plot(medians, middle("p50_ms"), color=BLUE)
    for point in points:
        inside = VERMILLION if point.met else "white"
        above.plot(point.offered_per_s, point.p99_ms, "o", ms=5.5, mec=VERMILLION, mfc=inside, mew=1.4)
    positive = [value for point in points for value in (point.p50_ms, point.p99_ms) if value > 0] or [1.0]
    drawing.log_ms(above, min(*positive, found.objective_p99_ms), max(*positive, found.objective_p99_ms))
    above.axhline(found.objective_p99_ms, color=INK, lw=0.9, ls=(0, (4, 3)))
    for axes in (above, below):
        axes.set_xlim(0, max(offered) * 1.03)
        drawing.in_unit(axes, "/s", axis="x", most=8)
    labels = [
        (middle("p99_ms")[-1], "p99", VERMILLION),
        (middle("p50_ms")[-1], "p50", BLUE),
        (found.objective_p99_ms, f"objective {wording.ms(found.objective_p99_ms)}", INK),
    ]
    drawing.end_labels(above, labels)
    above.set_title("Latency at each offered rate (filled: met the objective)")
    top = max(*offered, *(point.achieved_per_s for point in points))
    below.plot([0, max(offered)], [0, max(offered)], color=FAINT, lw=1)
    below.plot(medians, middle("achieved_per_s"), color=GREEN)
    below.plot(offered, [point.achieved_per_s for point in points], "o", ms=4.5, color=GREEN)
    below.set_ylim(0, top * 1.1)
    drawing.in_unit(below, "/s", most=4)
    below.set_title("Achieved at each offered rate")
    below.set_xlabel("offered, a second")
    drawing.end_labels(below, [(middle("achieved_per_s")[-1], "achieved", GREEN), (max(offered), "all of it", GRAY)])
    if found.rate_per_s is not None:
        for axes in (above, below):
            axes.axvline(found.rate_per_s, color=INK, lw=0.9)
        right = found.rate_per_s > max(offered) * 0.6
        for words, up, size, bold in ((wording.rate(found.rate_per_s), 18, 11, True), (found.saturated, 6, 7.5, False)):
            above.annotate(
                plain(words), (found.rate_per_s, 0), xycoords=("data", "axes fraction"),
                xytext=(-6 if right else 6, up), textcoords="offset points", ha="right" if right else "left",
                fontsize=size, fontweight="bold" if bold else "normal", color=INK if bold else GRAY,
            )  # fmt: skip
    said = f"the objective was met up to {wording.rate(found.rate_per_s)}" if found.rate_per_s else "no rate met it"
    text = f"Capacity: latency and achieved rate at {len(medians)} offered rates; {said}."
    return Chart(drawing.svg_of(figure, name, text), _limit(found))


def _limit(found: Capacity) -> str:
    words = f"What was saturated first: {found.saturated}." if found.saturated else "Nothing was found saturated."
    above = [point for point in found.points if not point.met and point.offered_per_s > (found.rate_per_s or 0.0)]
    seen = [point.offered_per_s for point in above if found.saturated and point.saturated == found.saturated]
    if seen:  # what a run that met the objective had busy was no limit yet
        words += f" First seen at {wording.rate(min(seen))}."
    return words + " The line is the median of the runs at a rate; each run is a dot."


def growth(name: str, found: Growth) -> Chart | None:
    """One watched quantity with its slope."""
    if len(found.samples) < 2:
        return None
    figure, (axes,) = drawing.panels([112], width=drawing.HALF, right=16)
    colour = VERMILLION if found.grows else BLUE
    each = -(-len(found.samples) // 300)
    at = np.array([moment for moment, _ in found.samples[::each]])
    values = np.array([value for _, value in found.samples[::each]])
    scale, unit = _time_scale(float(at[-1]))
    axes.plot(at / scale, values, color=colour, lw=0.9, alpha=0.55)
    middle = float(np.median(values)), float(np.median(at))
    line = values
    if findings.has_slope(found):
        line = middle[0] + found.per_hour * (at - middle[1]) / wording.HOUR_S
        axes.plot(at / scale, line, color=colour, lw=1.6)
    low, high = float(min(values.min(), line.min())), float(max(values.max(), line.max()))
    room = max(high - low, abs(high) * 0.05, 1e-9)
    axes.set_ylim(max(low - room * 0.25, 0.0) if low >= 0 else low - room * 0.25, high + room * 0.3)
    axes.set_xlim(at[0] / scale, at[-1] / scale)
    drawing.in_unit(axes, found.unit, most=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {unit}"))
    axes.set_title(plain(found.name))
    text = f"{findings.growth_verdict(found).capitalize()}: {findings.slope_text(found)}"
    return Chart(drawing.svg_of(figure, name, f"{found.name} over time. {text}."), f"{text}.")


def _time_scale(whole_s: float) -> tuple[float, str]:
    if whole_s > 3 * wording.HOUR_S:
        return float(wording.HOUR_S), "h"
    return (float(wording.MINUTE_S), "min") if whole_s > 5 * wording.MINUTE_S else (1.0, "s")
