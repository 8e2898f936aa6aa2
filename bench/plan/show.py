"""The plan in a terminal: the short table, every line with its formula, the queues by load, the tornado, the checks.

Prints what schema.Plan holds and nothing else, so that a report that is read back looks the same.
"""

from __future__ import annotations

import math
import sys

from rich.console import Console
from rich.table import Table

from bench.plan.assumptions import dashed
from bench.schema import Plan, PlanAssumption

WIDTH = 150
BAR = 24
SHORT = (  # section's beginning, line, what it is called
    ("people at", "publishes", "publishes at the peak"),
    ("people at", "deliveries", "deliveries at the peak"),
    ("people at", "sessions", "sessions at the peak"),
    ("shards", "shards", "shards"),
    ("head-room", "nodes", "nodes"),
    ("head-room", "nodes of a zone", "nodes of a zone"),
    ("delivery, all", "workers", "worker processes"),
    ("delivery, all", "a worker is busy", "a worker is busy"),
    ("delivery, all", "delivery, p99", "delivery p99"),
    ("delivery, a ", "a worker is busy", "busy, one zone lost"),
    ("delivery, a ", "delivery, p99", "p99, one zone lost"),
    ("a loss", "spread that they need", "lost sessions may come back within"),
    ("a loss", "a notice has reached everybody in", "a notice has reached everybody in"),
    ("a node's", "memory of sessions", "memory of a node's sessions"),
    ("a node's", "disk of a node", "disk of a node"),
    ("a node's", "disk writes at the peak", "disk writes of a node"),
    ("a node's", "network out", "network out of a node"),
    ("a node's", "network in", "network into a node"),
    ("what one", "daily users of one node", "daily users of one node by itself"),
)


def text(value: float | None, unit: str = "") -> str:
    """A number as people read it: three digits, thousands apart, shares in percent."""
    if value is None or not math.isfinite(value):
        return "not carried"
    if unit == "share":
        return (
            f"{value:.0%}"
            if value >= 0.0995 or value == 0
            else f"{value:.2g}".rstrip()
            if value < 0.001
            else f"{value:.1%}"
        )
    if value == int(value) and abs(value) < 1_000:
        words = f"{value:.0f}"
    elif abs(value) >= 1e6:
        words = f"{float(f'{value / 1e6:.3g}'):,} M".replace(".0 M", " M")
    elif abs(value) >= 100:
        words = f"{float(f'{value:.3g}'):,.0f}"
    else:
        words = f"{value:.3g}"
    return f"{words} {unit}" if unit and unit != "ratio" else words


def short(plan: Plan) -> list[tuple[str, str]]:
    """(what, figure) of the short table."""
    rows = []
    for section, name, words in SHORT:
        names = (name, f"{name}, a zone lost", f"{name}, a node lost")
        line = next((one for one in plan.lines if one.section.startswith(section) and one.name in names), None)
        if line is not None:
            rows.append((words, text(line.value, line.unit)))
    return rows


def markdown(plan: Plan) -> str:
    """The short table as the README has it."""
    rows = [f"| {what} | {figure} |" for what, figure in short(plan)]
    return "\n".join(["| | |", "|---|---|", *rows])


def show(plan: Plan, console: Console | None = None, *, every_line: bool = True) -> None:
    """All of it."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    _inputs(plan, console)
    if every_line:
        _lines(plan, console)
    _loads(plan, console)
    _tornado(plan, console)
    _checks(plan, console)
    _day(plan, console)
    table = _table("the plan", ("", False), ("", True))
    for row in short(plan):
        table.add_row(*row)
    console.print(table)


def _table(title: str, *columns: tuple[str, bool]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, header_style="dim")
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _inputs(plan: Plan, console: Console) -> None:
    table = _table(
        "measured",
        ("figure", False),
        ("value", True),
        ("lowest", True),
        ("highest", True),
        ("runs", True),
        ("from", False),
    )
    for one in plan.figures:
        where = f"{one.source} ({one.note})" if one.note else one.source
        table.add_row(one.name, text(one.value, one.unit), text(one.low), text(one.high), str(one.runs or ""), where)
    console.print(table)
    table = _table("assumed", ("option", False), ("value", True), ("meaning", False), ("source", False))
    for assumed in plan.assumptions:
        table.add_row(f"--{dashed(assumed.name)}", text(assumed.value, assumed.unit), assumed.meaning, assumed.source)
    console.print(table)


def _lines(plan: Plan, console: Console) -> None:
    section = ""
    table = _table("")
    for line in [*plan.lines, None]:
        if line is None or line.section != section:
            if section:
                console.print(table)
            if line is None:
                break
            section = line.section
            table = _table(section, ("", False), ("", True), ("formula", False), ("with", False))
        given = ", ".join(f"{name} {text(value)}" for name, value in line.inputs.items())
        table.add_row(line.name, text(line.value, line.unit), line.formula, given)


def _loads(plan: Plan, console: Console) -> None:
    if not plan.loads:
        return
    table = _table(
        "delivery by load",
        *[(name, True) for name in ("load", "busy", "p50", "p99", "p99.9", "zone lost: busy", "p50", "p99", "p99.9")],
    )
    lost = {one.load: one for one in plan.loads if one.lost}
    for one in plan.loads:
        if one.lost:
            continue
        cells = [text(one.load, "share")]
        for found in (one, lost[one.load]):
            cells += [
                text(found.busy, "share"),
                *[text(ms, "ms") for ms in (found.p50_ms, found.p99_ms, found.p999_ms)],
            ]
        table.add_row(*cells)
    console.print(table)


def _swing(one: PlanAssumption) -> float:
    if one.nodes_low is None or one.nodes_high is None:
        return math.inf
    return abs(one.nodes_high - one.nodes_low)


def _tornado(plan: Plan, console: Console) -> None:
    moved = [one for one in plan.assumptions if one.p99_low_ms is not None or one.nodes_low is not None]
    if not moved:
        return
    table = _table(
        f"what each assumption does, one at a time ({plan.nodes} nodes; p99 of those nodes)",
        ("option", False),
        ("from", True),
        ("to", True),
        ("nodes", True),
        ("", True),
        ("", False),
        ("p99", True),
        ("", True),
    )
    widest = max(
        (abs(n - plan.nodes) for one in moved for n in (one.nodes_low, one.nodes_high) if n is not None), default=1
    )
    for one in sorted(moved, key=_swing, reverse=True):
        table.add_row(
            f"--{dashed(one.name)}",
            text(one.low),
            text(one.high, one.unit),
            _nodes(one.nodes_low),
            _nodes(one.nodes_high),
            _bar(one, plan.nodes, max(widest, 1)),
            text(one.p99_low_ms, "ms"),
            text(one.p99_high_ms, "ms"),
        )
    console.print(table)


def _nodes(nodes: int | None) -> str:
    return "none" if nodes is None else f"{nodes:,}"


def _bar(one: PlanAssumption, base: int, widest: int) -> str:
    """Fewer to the left of the middle, more to the right."""
    left = right = 0
    for nodes in (one.nodes_low, one.nodes_high):
        if nodes is None:
            right = BAR
        elif nodes < base:
            left = max(left, math.ceil((base - nodes) / widest * BAR))
        else:
            right = max(right, math.ceil((nodes - base) / widest * BAR))
    return f"{'█' * left:>{BAR}}│{'█' * right}"


def _checks(plan: Plan, console: Console) -> None:
    if not plan.checks:
        return
    table = _table(
        "the model beside the simulation",
        ("scenario", False),
        ("figure", False),
        ("model", True),
        ("simulated", True),
        ("", False),
        ("note", False),
    )
    for one in plan.checks:
        agrees = "agrees" if one.agrees else "DISAGREES"
        table.add_row(
            one.scenario, one.name, text(one.model, one.unit), text(one.simulated, one.unit), agrees, one.note
        )
    console.print(table)


def _day(plan: Plan, console: Console) -> None:
    if not plan.day:
        return
    columns = ("from the peak", "events", "busy", "busiest worker", "p99")
    table = _table("the simulated day, its busiest minute of each two hours", *[(name, True) for name in columns])
    for first in range(0, len(plan.day), 120):
        one = max(plan.day[first : first + 120], key=lambda minute: minute.events_per_s)
        table.add_row(
            f"{one.minute / 60:+.1f} h",
            text(one.events_per_s, "1/s"),
            text(one.busy_mean, "share"),
            text(one.busy_max, "share"),
            text(one.p99_ms, "ms"),
        )
    console.print(table)
