"""Whether a quantity grows: what a soak says of memory, descriptors, disk and lag after hours.

The slope is Theil–Sen's (the median of the slopes between all pairs), with the interval that Kendall's rank count
gives; a hiccup moves neither. Before that the series is cut into blocks of equal time: of what a garbage collector
frees in teeth the lowest value of a block counts, of what jumps both ways the median. It grows if even the lower end of
the interval is above the limit and what came together in all is more than the quantity's own grain.

Invariant: fewer than BLOCKS_MIN blocks are no verdict. Cost: nothing beside the run that it judges.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from bench.schema import Growth

BLOCKS: Final = 16
BLOCKS_MIN: Final = 8
DEVIATIONS: Final = 2.576  # of 99 %
HOUR_S: Final = 3_600.0
SAMPLES_SHOWN_MAX: Final = 600

Series = Sequence[tuple[float, float]]  # (at_s, value), ascending


class Quantity(NamedTuple):
    """What is watched, and what it may."""

    name: str
    unit: str
    counts: Literal["lowest", "middle"]  # of a block
    grain: float  # growth in all that is none yet, in the unit
    share_per_hour_max: float | None  # of its level; None: shown without a verdict
    per_hour_min: float = 0.0  # the limit is never lower, in the unit


class Slope(NamedTuple):
    """Per hour."""

    middle: float
    low: float
    high: float


class Judged(NamedTuple):
    """A row of the report and the sentence that belongs to it."""

    growth: Growth
    verdict: Literal["grows", "steady", "can't tell", "shown"]
    sentence: str


def blocks(series: Series, counts: Literal["lowest", "middle"], number: int = BLOCKS) -> list[tuple[float, float]]:
    """(middle of the block, its value), of blocks that hold anything."""
    if not series:
        return []
    first, last = series[0][0], series[-1][0]
    span = max(last - first, 1e-9)
    parts: list[list[tuple[float, float]]] = [[] for _ in range(number)]
    for at_s, value in series:
        parts[min(int((at_s - first) / span * number), number - 1)].append((at_s, value))
    choose = min if counts == "lowest" else statistics.median
    return [
        (statistics.fmean(at_s for at_s, _ in part), choose([value for _, value in part])) for part in parts if part
    ]


def slope(points: Series) -> Slope:
    """Theil–Sen and its interval, per hour; of at least two points at different times."""
    slopes = sorted(
        (v1 - v0) / (t1 - t0) * HOUR_S
        for number, (t0, v0) in enumerate(points)
        for t1, v1 in points[number + 1 :]
        if t1 > t0
    )
    count, pairs = len(points), len(slopes)
    spread = DEVIATIONS * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(math.floor((pairs - spread) / 2), 0)
    high = min(math.ceil((pairs + spread) / 2), pairs - 1)
    return Slope(statistics.median(slopes), slopes[low], slopes[high])


def judge(quantity: Quantity, series: Series, settled_s: float) -> Judged:
    """What a series says, without what was before `settled_s`."""
    points = blocks([point for point in series if point[0] >= settled_s], quantity.counts)
    found = slope(points) if len(points) >= 2 else Slope(0.0, 0.0, 0.0)
    level = statistics.median(value for _, value in points) if points else 0.0
    limit = None
    if quantity.share_per_hour_max is not None:
        limit = max(quantity.share_per_hour_max * abs(level), quantity.per_hour_min)
    hours = (points[-1][0] - points[0][0]) / HOUR_S if points else 0.0
    verdict = _verdict(found, limit, len(points), found.middle * hours > quantity.grain)
    growth = Growth(
        name=quantity.name,
        unit=quantity.unit,
        samples=list(series[:: max(-(-len(series) // SAMPLES_SHOWN_MAX), 1)]),
        per_hour=found.middle,
        limit_per_hour=limit,
        grows=verdict == "grows",
        verdict=verdict,
        blocks=len(points),
    )
    if len(points) < BLOCKS_MIN:
        return Judged(growth, verdict, f"{quantity.name}: {verdict}, {too_little(len(points))}.")
    return Judged(growth, verdict, _sentence(quantity, found, level, limit, verdict))


def too_little(seen: int) -> str:
    """Instead of a slope, of which so few blocks say nothing."""
    return f"too little seen ({seen} of {BLOCKS} blocks)"


def _verdict(
    found: Slope, limit: float | None, count: int, beyond_grain: bool
) -> Literal["grows", "steady", "can't tell", "shown"]:
    if limit is None:
        return "shown"
    if count < BLOCKS_MIN:
        return "can't tell"
    if found.low > limit and beyond_grain:
        return "grows"
    # Within its grain a quantity moves both ways; but a slope over the limit is never called steady.
    is_steady = found.high <= limit or (found.middle <= limit and not beyond_grain)
    return "steady" if is_steady else "can't tell"


def _sentence(quantity: Quantity, found: Slope, level: float, limit: float | None, verdict: str) -> str:
    middle, low, high, at = (_amount(value, quantity.unit) for value in (*found, level))
    allowed = f"limit {_amount(limit, quantity.unit)} an hour" if limit is not None else "no limit"
    return f"{quantity.name}: {verdict}, {middle} an hour ({low} to {high}) at {at}, {allowed}."


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        for name, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if abs(value) >= size:
                return f"{value / size:.1f} {name}"
    return f"{value:.3g} {unit}"
