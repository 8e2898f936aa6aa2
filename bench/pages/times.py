"""Charts over the time of a run: rates, latencies, the heat map, CPU and memory of each process.

Used by sections.py. All of them share their horizontal axis, from the warm-up's begin to the drain's end, so that a
stall stands in one line down the page. Warm-up and drain are shaded: they are shown and not counted. A run of more
seconds than fit is drawn in columns of several; then p99 and longest are the highest of a column, never their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from bench import findings, wording
from bench.pages import drawing
from bench.pages.drawing import BLUE, COLOURS, FAINT, GRAY, INK, SHADE, VERMILLION, Chart
from bench.schema import Process, Run, Tick

COLUMNS_MAX: Final = 300
STEPS_S: Final = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1_200,
    1_800,
    3_600,
    7_200,
    14_400,
    28_800,
    86_400,
)
LABELS_MAX: Final = 14  # of lines; of more processes the busiest are labelled
RATES_DRAWN: Final = 3
DARKEST_BY_LIGHTEST: Final = 300  # of the heat map: what is rarer is as light as the lightest
HEAT: Final = LinearSegmentedColormap.from_list("heat", ["#e3eefa", "#9cc7e8", "#3f8fc5", "#0b5a9e", "#08264d"])


class Columns(NamedTuple):
    """Ticks of a run, some of them together; one value a column."""

    at_s: list[float]
    step_s: float
    rates: dict[str, list[float]]
    p50_ms: list[float]
    p99_ms: list[float]
    max_ms: list[float]
    heat: list[dict[int, int]]


def columns(run: Run) -> Columns:
    """At most COLUMNS_MAX of them; nan where nothing was delivered."""
    ticks = _whole(sorted(run.ticks, key=lambda tick: tick.at_s))
    each = -(-len(ticks) // COLUMNS_MAX) or 1
    groups = [ticks[first : first + each] for first in range(0, len(ticks), each)]
    names = sorted({name for tick in ticks for name in tick.rates_per_s})
    step = (ticks[-1].at_s - ticks[0].at_s) / (len(ticks) - 1) if len(ticks) > 1 else 1.0
    return Columns(
        at_s=[group[-1].at_s for group in groups],
        step_s=step * each,
        rates={name: [_mean(tick.rates_per_s.get(name, 0.0) for tick in group) for group in groups] for name in names},
        p50_ms=[_median(tick.p50_ms for tick in group) for group in groups],
        p99_ms=[_highest(tick.p99_ms for tick in group) for group in groups],
        max_ms=[_highest(tick.max_ms for tick in group) for group in groups],
        heat=[_summed(group) for group in groups],
    )


def _whole(ticks: list[Tick]) -> list[Tick]:
    """The last one is shorter than the others where a run ended within it: what was in it goes to the one before."""
    if len(ticks) < 3 or ticks[-1].at_s - ticks[-2].at_s > (ticks[-2].at_s - ticks[0].at_s) / (len(ticks) - 2) / 2:
        return ticks
    longest = max(ticks[-2].max_ms or 0.0, ticks[-1].max_ms or 0.0) or None
    joined = msgspec.structs.replace(ticks[-2], heat=list(_summed(ticks[-2:]).items()), max_ms=longest)
    return [*ticks[:-2], joined]


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _median(values: Any) -> float:
    found = [value for value in values if value is not None]
    return float(np.median(found)) if found else float("nan")


def _highest(values: Any) -> float:
    return max((value for value in values if value is not None), default=float("nan"))


def _summed(ticks: Sequence[Tick]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for tick in ticks:
        for bucket, count in tick.heat:
            sums[bucket] = sums.get(bucket, 0) + count
    return sums


def span(run: Run) -> tuple[float, float]:
    """First and last second that charts of this run show."""
    moments = [tick.at_s for tick in run.ticks]
    return min([-run.warmup_s, *moments]), max([run.window_s + run.drain_s, *moments])


def over_time(axes: Axes, run: Run, *, last: bool = True) -> None:
    """The shared horizontal axis; `last`: of several panels this one carries the numbers."""
    low, high = span(run)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_moments(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _moment(value, high)))
    for begin, end, words in ((low, 0.0, "warm-up"), (run.window_s, high, "drain")):
        if end - begin > 0:
            axes.axvspan(begin, end, color=SHADE, lw=0, zorder=0)
            if end - begin > (high - low) * 0.045:
                place = ((begin + end) / 2, 0.985)
                axes.annotate(
                    words, place, xycoords=axes.get_xaxis_transform(), ha="center", va="top", color=GRAY, fontsize=7
                )
    if not last:
        axes.tick_params(labelbottom=False)
    else:
        axes.set_xlabel("time from the begin of the measured window")


def _moments(low: float, high: float) -> list[float]:
    """Round ones, at most ten of them, in any unit of time."""
    step = next((one for one in STEPS_S if (high - low) / one <= 10), STEPS_S[-1])
    return [step * one for one in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _moment(second: float, whole_s: float) -> str:
    if whole_s > 3 * wording.HOUR_S:
        return f"{second / wording.HOUR_S:g} h"
    return f"{second / wording.MINUTE_S:g} min" if whole_s > 10 * wording.MINUTE_S else f"{second:g} s"


def throughput(name: str, run: Run, others: Sequence[Run]) -> Chart | None:
    """Rates over time, a panel each because they are of different sizes; the other runs behind in gray."""
    named = [rate for rate in findings.rates([run]) if rate not in ("bytes_in", "receipts")][:RATES_DRAWN]
    if not run.ticks or not named:
        return None
    found = columns(run)
    figure, all_axes = drawing.panels([96.0 if len(named) > 1 else 150.0] * len(named), gap=34)
    for axes, rate in zip(all_axes, named, strict=True):
        for other in others:
            beside = columns(other)
            axes.plot(beside.at_s, beside.rates.get(rate, [0.0] * len(beside.at_s)), color=FAINT, lw=0.9)
        values = found.rates.get(rate, [0.0] * len(found.at_s))
        axes.plot(found.at_s, values, color=BLUE)
        top = max([*values, *(value for other in others for value in columns(other).rates.get(rate, []))])
        over_time(axes, run, last=axes is all_axes[-1])
        axes.set_ylim(0, top * 1.18 or 1.0)
        drawing.in_unit(axes, "/s", most=4)
        axes.set_title(f"{wording.title_of(rate)} a second".capitalize())
        labels = [(run.rates_per_s.get(rate, 0.0), f"{wording.rate(run.rates_per_s.get(rate, 0.0))} mean", BLUE)]
        if rate == "published" and run.offered_per_s:
            axes.axhline(run.offered_per_s, color=INK, lw=0.8, ls=(0, (4, 3)))
            labels.append((run.offered_per_s * 1.001, f"{wording.rate(run.offered_per_s)} offered", INK))
        drawing.end_labels(axes, labels)
    said = ", ".join(f"{wording.title_of(rate)} {wording.rate(run.rates_per_s.get(rate, 0.0))}" for rate in named)
    text = f"Rates over time; mean of the window: {said}."
    svg = drawing.svg_of(figure, name, text)
    return Chart(svg, f"Rates of each {_each(found)}. {_beside(others)}Means are of the measured window.")


def _each(found: Columns) -> str:
    return "second" if abs(found.step_s - 1) < 0.05 else f"{wording.duration(found.step_s)}"


def _beside(others: Sequence[Run]) -> str:
    return f"Gray: the other {'run' if len(others) == 1 else f'{len(others)} runs'}. " if others else ""


def latency(name: str, run: Run, others: Sequence[Run]) -> Chart | None:
    """p50, p99 and the longest of deliveries, log scale."""
    found = columns(run)
    seen = [value for value in (*found.p50_ms, *found.max_ms) if np.isfinite(value) and value > 0]
    if not seen:
        return None
    figure, (axes,) = drawing.panels([190])
    for other in others:
        axes.plot(columns(other).at_s, columns(other).p99_ms, color=FAINT, lw=0.9)
    labels = []
    whole = run.latencies.get("deliver")
    lines = (
        (found.max_ms, "longest", GRAY, whole and whole.max_ms),
        (found.p99_ms, "p99", VERMILLION, whole and whole.p99_ms),
        (found.p50_ms, "p50", BLUE, whole and whole.p50_ms),
    )
    for values, words, colour, in_window in lines:
        axes.plot(found.at_s, values, color=colour, lw=0.9 if words == "longest" else 1.5)
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            labels.append(
                (float(np.median(finite)), f"{words}  {wording.ms(in_window)}" if in_window else words, colour)
            )
    drawing.log_ms(axes, min(seen), max(seen))
    over_time(axes, run)
    axes.set_title("Latency of deliveries, from the intended send time")
    drawing.end_labels(axes, labels)
    worst = max(zip(found.max_ms, found.at_s, strict=True), key=lambda one: one[0] if np.isfinite(one[0]) else 0.0)
    said = f"he longest was {wording.ms(worst[0])}, at {wording.number(round(worst[1], 1))} s."
    text = f"p50, p99 and longest latency over time; t{said}"
    behind = f"Gray lines: p99 of the other {'run' if len(others) == 1 else 'runs'}. " if others else ""
    return Chart(
        drawing.svg_of(figure, name, text),
        f"Log scale; of each {_each(found)}, at the right of the window. {behind}T{said}",
    )


def heat_map(name: str, run: Run) -> Chart | None:
    """How many deliveries took how long, second by second."""
    found = columns(run)
    buckets = sorted({bucket for column in found.heat for bucket in column})
    if not buckets:
        return None
    low, high = buckets[0], buckets[-1] + 1
    counts = np.zeros((high - low, len(found.heat)))
    for place, column in enumerate(found.heat):
        for bucket, count in column.items():
            counts[bucket - low, place] = count
    figure, (axes,) = drawing.panels([200])
    axes.grid(visible=False)
    image = axes.imshow(
        np.ma.masked_equal(counts, 0),
        aspect="auto",
        origin="lower",
        interpolation="none",
        cmap=HEAT,
        norm=LogNorm(max(float(counts.max()) / DARKEST_BY_LIGHTEST, 1.0), max(float(counts.max()), 10.0)),
        extent=(found.at_s[-1] - found.step_s * len(found.at_s), found.at_s[-1], low, high),
        zorder=2,
    )
    over_time(axes, run)
    axes.set_ylim(low, high)
    ticks = drawing.ms_ticks(2 ** (low / 4) / 1_000, 2 ** (high / 4) / 1_000)
    axes.yaxis.set_major_locator(FixedLocator([4 * np.log2(tick * 1_000) for tick in ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda place, _: drawing.ms_text(round(2 ** (place / 4) / 1_000, 6))))
    axes.set_title("Where the latencies lie")
    x, y, width, height = drawing.place_of(axes)
    beside = figure.add_axes((x + width + 0.02, y, 0.011, height))
    bar = figure.colorbar(image, cax=beside)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    beside.tick_params(size=0, labelsize=8)
    beside.grid(visible=False)
    beside.yaxis.set_major_formatter(FuncFormatter(lambda value, _: drawing.tick_text(value, "")))
    beside.set_title("deliveries", fontsize=7.5, fontweight="normal", color=GRAY, loc="left", pad=6)
    return Chart(
        drawing.svg_of(figure, name, "Heat map: how many deliveries took how long, over time."),
        f"Deliveries of each {_each(found)} by how long they took, log scales; the darker, the more. A second band"
        " above the first is a second cause of delay.",
    )


# --- processes --------------------------------------------------------------------------------------------------------


def _joined(processes: Sequence[Process]) -> dict[str, list[Process]]:
    """Those of a name together: who was started again goes on as the same line, with a gap."""
    found: dict[str, list[Process]] = {}
    for process in processes:
        found.setdefault(process.name or process.role, []).append(process)
    return found


def _colours(names: Sequence[str], clients: set[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dash of each line: clients are gray."""
    ours = [name for name in names if name not in clients]
    found: dict[str, tuple[str, Any]] = dict.fromkeys(clients, (GRAY, (0, (3, 2))))
    for place, name in enumerate(ours):
        found[name] = (COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else (0, (1, 1)))
    return found


def processes(name: str, run: Run) -> Chart | None:
    """CPU above, resident memory below, a line a process."""
    joined = _joined([process for process in run.processes if len(process.samples) > 1])
    if not joined:
        return None
    clients = {line for line, members in joined.items() if members[0].role in findings.CLIENT_ROLES}
    colours = _colours(sorted(joined), clients)
    figure, (above, below) = drawing.panels([150, 130], gap=40)
    labels: tuple[list[tuple[float, str, str]], list[tuple[float, str, str]]] = ([], [])
    busy = sorted(joined.items(), key=lambda one: -one[1][-1].cpu_cores_mean)
    for line, members in busy:
        colour, dash = colours[line]
        for member in members:
            samples = member.samples[:: -(-len(member.samples) // COLUMNS_MAX)]
            at = [sample.at_s for sample in samples]
            above.plot(at[1:], [sample.cpu_cores for sample in samples[1:]], color=colour, ls=dash, lw=1.2)
            below.plot(at, [sample.resident_bytes for sample in samples], color=colour, ls=dash, lw=1.2)
        last = members[-1]
        labels[0].append((last.cpu_cores_mean, f"{line}  {last.cpu_cores_mean:.2f}", colour))
        labels[1].append((last.samples[-1].resident_bytes, f"{line}  {wording.size(last.resident_bytes_max)}", colour))
    over_time(above, run, last=False)
    over_time(below, run)
    above.set_ylim(0, max(above.get_ylim()[1], 1.08))
    above.axhline(1, color=FAINT, lw=0.9)
    above.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    below.set_ylim(0, below.get_ylim()[1] * 1.08)
    drawing.in_unit(below, "bytes", most=4)
    above.set_title("CPU, cores of each process (right: mean of the window)")
    below.set_title("Resident memory of each process (right: most)")
    drawing.end_labels(above, labels[0][:LABELS_MAX])
    drawing.end_labels(below, labels[1][:LABELS_MAX])
    busiest = max(run.processes, key=lambda process: process.cpu_cores_mean)
    text = f"CPU and memory of {len(joined)} processes over time; the busiest was {busiest.name} with"
    return Chart(
        drawing.svg_of(figure, name, f"{text} {busiest.cpu_cores_mean:.2f} cores."),
        "1 core is one core busy all the time; a thread can't use more. Dashed gray: the load generators."
        " A gap in a line is a process that was started again." + _unlabelled(len(joined)),
    )


def _unlabelled(lines: int) -> str:
    return f" Of {lines} processes the {LABELS_MAX} busiest are labelled." if lines > LABELS_MAX else ""
