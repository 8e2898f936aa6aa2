"""The parts of a page that are about a plan: tornado, delivery by load, the simulated day, checks, every line.

Used by sections.py where a report has a plan. Nothing is computed here: the figures are those of schema.Plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from matplotlib.ticker import MaxNLocator

from bench.pages import bars, drawing, markup
from bench.pages.drawing import BLUE, GRAY, GREEN, INK, VERMILLION, Chart
from bench.plan.assumptions import dashed
from bench.plan.show import text
from bench.schema import Plan, PlanAssumption, PlanLoad

MOST: Final = 12  # assumptions in the chart; the table has all
ROW: Final = 24.0
QUANTILES: Final = (("p50", "p50_ms", GREEN), ("p99", "p99_ms", BLUE), ("p99.9", "p999_ms", VERMILLION))


def sections(plan: Plan) -> Iterator[str]:
    """In the order in which one would doubt it."""
    body = _figure(tornado("tornado", plan)) + _assumption_table(plan)
    yield markup.section("assumed", "What it hangs on", body, "Each assumption moved alone over its plausible range.")
    yield markup.section("loads", "Delivery by load", _figure(load_curve("load-curve", plan), _load_table(plan)))
    yield markup.section("checked", "The model beside the simulation", _check_table(plan))
    yield markup.section("day", "The simulated day", _figure(day("day-curve", plan)))
    figures = [
        [one.name, text(one.value, one.unit), text(one.low), text(one.high), one.runs or "", one.source, one.note]
        for one in plan.figures
    ]
    head = ["figure", "value", "lowest", "highest", "runs", "from", ""]
    yield markup.section("figures", "What was measured", markup.table(head, figures, numbers=range(1, 5)))
    yield markup.section("lines", "Every step", _lines(plan))


def _figure(chart: Chart | None, details: str = "") -> str:
    return markup.figure(chart.svg, chart.caption, details) if chart else ""


def _reach(one: PlanAssumption, base: int) -> float:
    ends = (one.nodes_low, one.nodes_high)
    return math.inf if None in ends else max(abs((end or 0) - base) for end in ends)


def tornado(name: str, plan: Plan) -> Chart | None:
    """Nodes at both ends of each range, those that matter most on top."""
    whole = [one for one in plan.assumptions if one.nodes_low is not None or one.nodes_high is not None]
    moved = [one for one in whole if _reach(one, plan.nodes)]
    shown = sorted(moved, key=lambda one: _reach(one, plan.nodes), reverse=True)[:MOST]
    if not shown:
        return None
    figure, axes = bars.row_axes(len(shown), f"Nodes, {plan.nodes} in the plan", right=40, names=250, row=ROW)
    ends = [plan.nodes]
    for place, one in enumerate(shown):
        for value, nodes, colour in ((one.low, one.nodes_low, GREEN), (one.high, one.nodes_high, VERMILLION)):
            if nodes is None or nodes == plan.nodes:
                continue
            axes.barh(place, nodes - plan.nodes, left=plan.nodes, height=0.5, color=colour)
            ends.append(nodes)
            axes.annotate(
                text(value), (nodes, place), xytext=(4 if nodes > plan.nodes else -4, 0), textcoords="offset points",
                va="center", ha="left" if nodes > plan.nodes else "right", fontsize=7.5, color=GRAY,
            )  # fmt: skip
        bars.named(axes, place, dashed(one.name), f"{text(one.low)} to {text(one.high, one.unit)}")
    room = max(max(ends) - min(ends), 1) * 0.12
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.axvline(plan.nodes, color=INK, lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("nodes")
    said = "; ".join(f"{one.name} {one.nodes_low} to {one.nodes_high}" for one in shown)
    return Chart(
        drawing.svg_of(figure, name, f"Nodes by assumption: {said}."),
        "Green: at the lower end of the range; vermillion: at the upper; the value is written at the bar. The other"
        f" {len(whole) - len(shown)} assumptions are in the table: most of them don't change the number of nodes.",
    )


def _assumption_table(plan: Plan) -> str:
    rows = [
        [
            dashed(one.name),
            text(one.value, one.unit),
            text(one.low),
            text(one.high),
            "" if one.nodes_low is None else one.nodes_low,
            "" if one.nodes_high is None else one.nodes_high,
            "" if one.p99_low_ms is None else text(one.p99_low_ms, "ms"),
            "" if one.p99_high_ms is None else text(one.p99_high_ms, "ms"),
            one.meaning,
            one.source,
        ]
        for one in plan.assumptions
    ]
    head = [
        "assumption",
        "value",
        "from",
        "to",
        "nodes there",
        "and there",
        "p99 there",
        "and there",
        "meaning",
        "source",
    ]
    return f"<details><summary>All assumptions</summary>{markup.table(head, rows, numbers=range(1, 8))}</details>"


def _points(plan: Plan, part: str, *, lost: bool) -> tuple[list[float], list[float]]:
    """(load, latency) as far as it is carried."""
    found = [(one.load, value) for one in plan.loads if one.lost is lost and (value := getattr(one, part)) is not None]
    return [load for load, _ in found], [value for _, value in found]


def load_curve(name: str, plan: Plan) -> Chart | None:
    """p50, p99 and p99.9 of the planned nodes, whole and with a zone lost."""
    if not plan.loads:
        return None
    figure, (axes,) = drawing.panels([190.0])
    axes.set_title("Delivery at so many times of the peak")
    every = [1.0]
    for label, part, colour in QUANTILES:
        for lost in (False, True):
            loads, values = _points(plan, part, lost=lost)
            every += values
            axes.plot(loads, values, color=colour, ls="--" if lost else "-", marker="o" if not lost else None, ms=3)
            if values and not lost:
                axes.annotate(
                    label, (loads[-1], values[-1]), xytext=(8, 0), textcoords="offset points", va="center",
                    color=colour, annotation_clip=False,
                )  # fmt: skip
    drawing.log_ms(axes, min(every), max(every))
    axes.axvline(1, color=GRAY, lw=0.9)
    axes.set_xlabel("load (1: the peak)")
    return Chart(
        drawing.svg_of(figure, name, "Latency of a delivery by load, by the queueing model."),
        "By the queueing model. Dashed: a zone is lost. A line that ends early: more is not carried.",
    )


def _load_row(one: PlanLoad) -> list[str]:
    return [text(one.busy, "share"), *(text(ms, "ms") for ms in (one.p50_ms, one.p99_ms, one.p999_ms))]


def _load_table(plan: Plan) -> str:
    lost = {one.load: _load_row(one) for one in plan.loads if one.lost}
    rows = [[text(one.load, "share"), *_load_row(one), *lost.get(one.load, [])] for one in plan.loads if not one.lost]
    head = ["load", "busy", "p50", "p99", "p99.9", "zone lost: busy", "p50", "p99", "p99.9"]
    return markup.table(head, rows)


def _check_table(plan: Plan) -> str:
    rows = [
        [
            f"{one.scenario}: {one.name}",
            text(one.model, one.unit),
            text(one.simulated, one.unit),
            "agrees" if one.agrees else "DISAGREES",
            one.note,
        ]
        for one in plan.checks
    ]
    return markup.table(["", "model", "simulated", "", ""], rows, numbers=range(1, 3)) if rows else ""


def day(name: str, plan: Plan) -> Chart | None:
    """Events a second and the busiest worker, by minutes."""
    if not plan.day:
        return None
    figure, (upper, lower) = drawing.panels([110.0, 110.0])
    hours = [one.minute / 60 for one in plan.day]
    upper.set_title("Events a second")
    upper.plot(hours, [one.events_per_s for one in plan.day], color=BLUE)
    upper.set_ylim(0)
    drawing.in_unit(upper, "/s")
    lower.set_title("How busy workers are")
    for label, values, colour in (
        ("busiest", [one.busy_max for one in plan.day], VERMILLION),
        ("mean", [one.busy_mean for one in plan.day], BLUE),
    ):
        lower.plot(hours, [100 * value for value in values], color=colour, lw=1.0)
        at = -6 if label == "mean" else 6
        lower.annotate(
            label, (hours[-1], 100 * values[-1]), xytext=(8, at), textcoords="offset points", va="center", color=colour,
            annotation_clip=False,
        )  # fmt: skip
    lower.set_ylim(0, 100)
    lower.set_ylabel("% of a core")
    lower.set_xlabel("hours from the peak")
    return Chart(
        drawing.svg_of(figure, name, "Events a second and utilisation of workers over a simulated day."),
        "Each minute's events and each worker's share of them drawn at random; connections as at the peak all day.",
    )


def _lines(plan: Plan) -> str:
    parts = []
    for title in dict.fromkeys(one.section for one in plan.lines):
        rows = [
            [
                one.name,
                text(one.value, one.unit),
                one.formula,
                ", ".join(f"{name} {text(value)}" for name, value in one.inputs.items()),
            ]
            for one in plan.lines
            if one.section == title
        ]
        parts.append(
            f"<h3>{markup.escaped(title)}</h3>{markup.table(['', '', 'formula', 'with'], rows, numbers=range(1, 2))}"
        )
    return "".join(parts)
