"""Charts of things side by side: peers at one job, measures beside their limits, both sides of a comparison.

Used by sections.py. Every bar ends in its figure, every dot is one run. Bars begin at 0; where the largest is many
times the smallest they give way to dots on a log scale, which has no 0 to begin at. Who is missing has a row too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from bench import findings, wording
from bench.pages import drawing
from bench.pages.drawing import BLUE, FAINT, GRAY, GREEN, INK, VERMILLION, Chart
from bench.pages.markup import plain
from bench.schema import PEER_LIMIT, Comparison, Measure, PeerRow

OURS: Final = "gonets"  # how the names of our own rows begin, in small letters
LOG_FROM: Final = 30.0  # largest by smallest
ROW: Final = 30.0  # points
NAMES: Final = 176.0  # points for the names at the left
TEXT_MAX: Final = 34  # characters of a small line below a name


def row_axes(count: int, title: str, right: float, names: float = NAMES, row: float = ROW) -> tuple[Figure, Axes]:
    """Axes for so many rows, from the top down."""
    figure, (axes,) = drawing.panels([row * count], right=right)
    x, y, width, height = drawing.place_of(axes)
    left = names / drawing.WIDE
    axes.set_position((left, y, x + width - left, height))
    axes.set_ylim(count - 0.5, -0.5)
    axes.yaxis.set_major_locator(NullLocator())
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_title(plain(title), x=-left / (x + width - left), ha="left")
    return figure, axes


def named(axes: Axes, row: int, name: str, small: str, colour: str = INK, *, bold: bool = False) -> None:
    if len(small) > TEXT_MAX:
        small = small[: TEXT_MAX - 1] + "…"
    for text, up, size, shade in ((name, 5.5 if small else 0.0, 8.5, colour), (small, -5.5, 7.2, GRAY)):
        axes.annotate(
            plain(text), (0, row), xycoords=("axes fraction", "data"), xytext=(-8, up),
            textcoords="offset points", ha="right", va="center", fontsize=size, color=shade, annotation_clip=False,
            fontweight="bold" if bold and up >= 0 else "normal",
        )  # fmt: skip


def lower_is_better(unit: str) -> bool:
    """Times and sizes are; rates are not."""
    return unit in ("ms", "s", "us", "µs", "ns", "bytes", "cores", "bytes/session")


def peers(name: str, job: str, rows: Sequence[PeerRow]) -> Chart | None:
    """One job: the best on top, the missing below."""
    there = [row for row in rows if row.runs]
    if not there:
        return None
    unit = there[0].unit
    lower = lower_is_better(unit)
    there.sort(key=lambda row: statistics.median(row.runs) * (1 if lower else -1))
    missing = [row for row in rows if not row.runs]
    values = [value for row in there for value in row.runs if value > 0] or [1.0]
    log = max(values) / min(values) > LOG_FROM
    figure, axes = row_axes(len(there) + len(missing), f"{job}, {unit}", right=18)
    if log:
        drawing.log_numbers(axes, min(values), max(values), unit)
    else:
        axes.set_xlim(0, max(values) * 1.22)
        drawing.in_unit(axes, unit, axis="x", most=6)
    better = "less is better" if lower else "more is better"
    axes.set_xlabel(f"{unit}{', log scale' if log else ''}; {better}")
    for place, row in enumerate(there):
        ours = row.system.lower().startswith(OURS)
        colour = BLUE if ours else "#9aa3af"
        middle = statistics.median(row.runs)
        if log:
            axes.plot([axes.get_xlim()[0], middle], [place, place], color=colour, lw=1.2)
            axes.plot(middle, place, "o", ms=9, color=colour)
        else:
            axes.barh(place, middle, height=0.5, color=colour)
        axes.plot(row.runs, [place] * len(row.runs), "|", ms=9, mew=1, color=INK, alpha=0.75)
        axes.annotate(
            wording.quantity(middle, unit), (max(row.runs), place), xytext=(7, 0), textcoords="offset points",
            va="center", fontweight="bold" if ours else "normal",
        )  # fmt: skip
        named(axes, place, f"{row.system} {row.version}".strip(), row.durability, bold=ours)
    for place, row in enumerate(missing, len(there)):
        named(axes, place, row.system, "", GRAY)
        why = row.missing or findings.peer_note(row).split(";")[0]
        axes.annotate(
            plain(why), (0, place), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center", color=GRAY, fontstyle="italic", annotation_clip=False,
        )  # fmt: skip
    best = next((row for row in there if row.system != PEER_LIMIT), there[0])
    text = f"{job}: best is {best.system} with {wording.quantity(statistics.median(best.runs), unit)}"
    notes = " ".join(f"{row.system}: {note}." for row in rows if (note := findings.peer_note(row)))
    said = "Bars are medians, the strokes each run; below each name, how durable it was. "
    return Chart(drawing.svg_of(figure, name, f"{text}; {len(there)} systems, {len(missing)} missing."), said + notes)


def measures(name: str, found: Sequence[Measure]) -> Chart | None:
    """Those that have a bare limit, as a share of it; the target is a stroke."""
    limited = [measure for measure in found if measure.limit]
    if not limited:
        return None
    figure, axes = row_axes(len(limited), "Share of the bare machine's limit, of the same run", right=90, names=230)
    for place, measure in enumerate(limited):
        assert measure.limit
        shares = [value / measure.limit for value in measure.runs] or [measure.value / measure.limit]
        target = None if measure.target is None else measure.target / measure.limit
        reached = target is None or measure.value / measure.limit >= target
        axes.barh(place, measure.value / measure.limit, height=0.46, color=BLUE if reached else VERMILLION)
        axes.plot(shares, [place] * len(shares), "|", ms=8, mew=1, color=INK, alpha=0.75)
        words = f"{measure.value / measure.limit:.2f}"
        if target is not None:
            axes.plot([target, target], [place - 0.36, place + 0.36], color=INK, lw=1.8)
            words += f"  target {target:.2f}"
        axes.annotate(words, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", annotation_clip=False)  # fmt: skip
        named(axes, place, measure.name, measure.durability)
    high = max(
        max([*measure.runs, measure.value, measure.target or 0.0]) / (measure.limit or 1.0) for measure in limited
    )
    axes.set_xlim(0, max(high * 1.04, 1.04))
    axes.axvline(1, color=GRAY, lw=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("measured / bare limit (1: as fast as the machine without us)")
    text = ", ".join(f"{one.name} {one.value / one.limit:.2f}" for one in limited if one.limit)
    return Chart(
        drawing.svg_of(figure, name, f"Shares of the bare limit: {text}."),
        "Bars are medians, thin strokes each run, thick strokes targets. Vermillion: below its target.",
    )


def comparison(name: str, found: Comparison) -> Chart | None:
    """Each run of both sides, divided by the median of A; the interval of B/A."""
    shown = [one for one in found.differences if one.a and one.b and statistics.median(one.a) > 0]
    if not shown:
        return None
    figure, axes = row_axes(len(shown), "Every run, divided by the median of A", right=128, row=42)
    ends = [1 - found.threshold_share * 2, 1 + found.threshold_share * 2]
    colours = {"faster": GREEN, "slower": VERMILLION}
    for place, one in enumerate(shown):
        middle = statistics.median(one.a)
        a, b = [value / middle for value in one.a], [value / middle for value in one.b]
        colour = colours.get(one.verdict, BLUE)
        axes.plot(a, [place - 0.24] * len(a), "o", ms=4.5, mfc="white", mec=GRAY, mew=1.1)
        axes.plot(b, [place] * len(b), "o", ms=4.5, color=colour, alpha=0.8, mew=0)
        axes.plot(one.ratio, place + 0.26, "D", ms=4.5, color=colour)
        ends += [*a, *b, one.ratio]
        if one.ratio_low is not None and one.ratio_high is not None:
            axes.plot([one.ratio_low, one.ratio_high], [place + 0.26] * 2, color=colour, lw=2.2)
            ends += [one.ratio_low, one.ratio_high]
        named(axes, place, one.name, f"{one.better} is better")
        sure = "" if one.ratio_low is None or one.ratio_high is None else f"{one.ratio_low:.3f} to {one.ratio_high:.3f}"
        for text, up, bold in ((f"{one.verdict}  {one.ratio:.3f}", 6, True), (sure, -6, False)):
            axes.annotate(
                text, (1, place), xycoords=("axes fraction", "data"), xytext=(8, up), textcoords="offset points",
                va="center", color=colour if bold else GRAY, fontweight="bold" if bold else "normal",
                annotation_clip=False,
            )  # fmt: skip
    room = (max(ends) - min(ends)) * 0.05
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.axvspan(1 - found.threshold_share, 1 + found.threshold_share, color=drawing.SHADE, lw=0, zorder=0)
    axes.axvline(1, color=FAINT, lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("relative to A (1: as A's median)")
    text = "; ".join(f"{one.name} {one.verdict}, B/A {one.ratio:.3f}" for one in shown)
    return Chart(
        drawing.svg_of(figure, name, f"Comparison: {text}."),
        "Rings: runs of A. Dots: runs of B. Diamond and bar: ratio of the medians B/A with its 95 % interval. Shaded:"
        f" differences below {wording.share(found.threshold_share)}, which are none.",
    )
