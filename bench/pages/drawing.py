"""How every chart of a page looks: sizes, colours, axes with units, labels at the lines, and the SVG that is inlined.

Used by the files of charts beside it. Colours are Okabe and Ito's, which those who see fewer colours tell apart. Text
stays text in the SVG (searchable, sharp, in the reader's own font); it was laid out with a wider font, so it fits. Ids
carry the chart's name, because several charts live in one page.

Invariants: no global state of matplotlib is changed; text of a report is never read as mathematics or markup.
Cost: 50 to 150 ms a chart.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench import wording
from bench.pages.markup import escaped, plain

BLUE: Final = "#0072B2"
VERMILLION: Final = "#D55E00"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
INK: Final = "#1f2328"
GRAY: Final = "#6b7280"
FAINT: Final = "#c9ced6"
SHADE: Final = "#f3f4f6"
COLOURS: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)

POINTS: Final = 72  # an inch
WIDE: Final = 780  # points; a page's column
HALF: Final = 380
LEFT: Final = 62  # for the numbers of the vertical axis
RIGHT: Final = 118  # for labels at the ends of lines
TOP: Final = 22
BOTTOM: Final = 34
FONTS: Final = "'Helvetica Neue', Arial, 'Liberation Sans', system-ui, sans-serif"

RC: Final[Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": GRAY,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": GRAY,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.color": GRAY,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


class Chart(NamedTuple):
    """One drawing, ready for a page."""

    svg: str
    caption: str


@contextmanager
def styled() -> Iterator[None]:
    """Charts are made and written inside of this."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with mpl.rc_context(RC), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            yield
    finally:
        logger.setLevel(level)


def panels(
    heights: Sequence[float], width: float = WIDE, gap: float = 46, right: float = RIGHT
) -> tuple[Figure, list[Axes]]:
    """Axes one above another, so high (points) and all as wide; in each chart they begin at the same place."""
    whole = TOP + sum(heights) + gap * (len(heights) - 1) + BOTTOM
    figure = Figure(figsize=(width / POINTS, whole / POINTS), layout=None)
    FigureCanvasSVG(figure)
    found, top = [], whole - TOP
    for height in heights:
        place = (LEFT / width, (top - height) / whole, (width - LEFT - right) / width, height / whole)
        found.append(figure.add_axes(place))
        top -= height + gap
    return figure, found


def place_of(axes: Axes) -> tuple[float, float, float, float]:
    """Left, bottom, width and height, as shares of the figure."""
    box = axes.get_position()
    return float(box.x0), float(box.y0), float(box.width), float(box.height)


def svg_of(figure: Figure, name: str, description: str) -> str:
    """The inlined element. `name`: unique in the page; `description`: what it shows, for those who can't see it."""
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = text.replace("'DejaVu Sans'", FONTS)
    text = re.sub(r'\b(d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)
    view = re.search(r'viewBox="[^"]+"', text)
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0] if view else ""} role="img"'
    head += f' aria-label="{escaped(description)}" xmlns="http://www.w3.org/2000/svg">'
    return head + text[text.index(">") + 1 :].strip()


# --- axes -------------------------------------------------------------------------------------------------------------


def in_unit(axes: Axes, unit: str, *, axis: str = "y", most: int = 5) -> None:
    """Numbers of an axis written in their unit, as a person would."""
    target = axes.yaxis if axis == "y" else axes.xaxis
    if unit in ("bytes", "bytes/s"):
        low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
        step = 2.0 ** math.floor(math.log2(max((high - low) / most, 1.0)))
        while (high - low) / step > most:
            step *= 2
        first = math.ceil(low / step)
        target.set_major_locator(FixedLocator([step * one for one in range(first, math.floor(high / step) + 1)]))
    else:
        target.set_major_locator(MaxNLocator(most, min_n_ticks=3))
    target.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value, unit)))


def tick_text(value: float, unit: str) -> str:
    """Short: 12 k, 1.5 M; sizes in binary units; everything else with its unit."""
    if unit in ("bytes", "bytes/s"):
        return "0" if value == 0 else _trimmed(wording.size(value)) + unit.removeprefix("bytes")
    for factor, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def _trimmed(text: str) -> str:
    return re.sub(r"\.(\d*?)0+(?= )", lambda found: f".{found[1]}" if found[1] else "", text)


def ms_ticks(low: float, high: float) -> list[float]:
    """1-2-5 steps for a short range of a log scale, decades for a long one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors: tuple[int, ...] = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
    if math.log10(high / low) < 4 and len(factors) == 1:
        factors = (1, 3)
    return [one for decade in decades for factor in factors if low <= (one := factor * 10.0**decade) <= high]


def ms_text(value: float) -> str:
    """Of a tick: 0.5 ms, 20 ms, 2 s."""
    return f"{value:g} ms" if value < 1_000 else f"{value / 1_000:g} s"


def log_ms(axes: Axes, low: float, high: float) -> None:
    """A log scale of latencies that holds these."""
    low, high = max(low, 1e-4) * 0.8, max(high, low * 2, 2e-4) * 1.25
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ms_ticks(low, high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: ms_text(value)))


def log_numbers(axes: Axes, low: float, high: float, unit: str) -> None:
    """A log scale of another quantity, along the horizontal axis; its end leaves room for labels."""
    axes.set_xscale("log")
    begin = 10 ** math.floor(math.log10(low) - 0.05)
    axes.set_xlim(begin, high * (high / begin) ** 0.28)  # the rightmost fifth, whatever the span
    decades = [10.0**one for one in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)]
    left, right = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([one for one in decades if left <= one <= right]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value, unit)))


def end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]], gap: float = 10.5) -> None:
    """Text at the right end of lines, (value, text, colour), moved apart where lines end close to each other."""
    if not labels:
        return
    height = float(axes.bbox.height) / axes.figure.dpi * POINTS
    transform = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    places = sorted(
        (min(max(float(transform.transform((left, value))[1]) * height, 0.0), height), text, colour)
        for value, text, colour in labels
        if math.isfinite(value)
    )
    heights = [place for place, _, _ in places]
    for _ in range(200):
        moved = False
        for one in range(len(heights) - 1):
            if (near := gap - (heights[one + 1] - heights[one])) > 0.01:
                heights[one] -= near / 2
                heights[one + 1] += near / 2
                moved = True
        if not moved:
            break
    if heights and heights[0] < 0:
        heights = [one - heights[0] for one in heights]
    for (_, text, colour), place in zip(places, heights, strict=True):
        axes.annotate(
            plain(text), (1, place / height), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points",
            va="center", ha="left", color=colour, fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
