"""Faster, slower, or can't tell: the statistics of two sides that were measured several times each.

Used by compare.py. A permutation test of ranks: if A and B were the same, any order of the names over the runs would
have been as likely, so the share of orders that set the sides as far apart is p. Runs that took turns are only permuted
among their neighbours (A B B A), so that a machine that drifts over an hour neither hides nor makes a difference. The
interval of the ratio B/A are those factors that the same test doesn't reject. Several measures are corrected (Holm).

Invariants: no verdict without all three: p after correction below 0.05, a ratio of medians beyond the threshold, an
interval without 1. Few runs give no verdict, and it says so. All orders are tried where they are few, else a seeded
draw of them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from bench.schema import Difference

CHANCE: Final = 0.05
THRESHOLD_SHARE: Final = 0.03
ORDERS_EXACT_MAX: Final = 20_000
ORDERS_DRAWN: Final = 10_000
SEED: Final = 1
BLOCK: Final = 2  # runs of each side that are neighbours
BLOCKED_FROM: Final = 6  # runs of a side; of fewer there would be too few orders within blocks
STEPS: Final = 30  # of a bisection
FACTOR_MAX: Final = math.log(1e3)  # no interval is looked for beyond


class Series(NamedTuple):
    """One measure of one side."""

    name: str
    unit: str
    better: str  # higher, lower
    values: list[float]
    unfit: str = ""  # why there can be no verdict of it


class _Orders:
    """All ways to give the names to the runs, or many of them: sums of ranks over the B's of each."""

    def __init__(self, blocks: Sequence[tuple[int, int]]) -> None:
        """`blocks`: how many A and B are in each; within a block A's come first."""
        self.blocks = blocks
        counts = [math.comb(a + b, b) for a, b in blocks]
        self.exact = math.prod(counts) <= ORDERS_EXACT_MAX
        self.least_p = 2 / math.prod(counts) if any(a == b for a, b in blocks) else 1 / math.prod(counts)
        random = np.random.default_rng(SEED)
        self._chosen: list[Any] = []
        for (a, b), count in zip(blocks, counts, strict=True):
            if self.exact or count <= ORDERS_DRAWN:
                rows = np.array(list(itertools.combinations(range(a + b), b)))
                if not self.exact:
                    rows = rows[random.integers(0, len(rows), ORDERS_DRAWN)]
            else:
                rows = np.argsort(random.random((ORDERS_DRAWN, a + b)), axis=1)[:, :b]
            self._chosen.append(rows)

    def p(self, values: Sequence[Any]) -> float:
        """`values`: an array a block, A's first. Two-sided."""
        # A block's own level is taken out, then all are ranked together; ties share their ranks.
        level = np.concatenate([block - np.median(block) for block in values])
        ranks = _ranks(level)
        sums, mine, expected, start = np.zeros(1), 0.0, 0.0, 0
        for (a, b), rows in zip(self.blocks, self._chosen, strict=True):
            own = ranks[start : start + a + b]
            of_block = own[rows].sum(axis=1)
            if self.exact:
                sums = (sums[:, None] + of_block[None, :]).ravel()
            else:
                sums = sums + of_block
            mine += float(own[a:].sum())
            expected += float(own.mean()) * b
            start += a + b
        far = np.count_nonzero(np.abs(sums - expected) >= abs(mine - expected) - 1e-9)
        return float(far / len(sums)) if self.exact else float((far + 1) / (len(sums) + 1))


def _ranks(values: Any) -> Any:
    """From 1; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(np.round(values, 12), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2)[inverse]


def _blocks(a: Sequence[float], b: Sequence[float], interleaved: bool) -> list[tuple[Any, Any]]:
    """Logarithms of the values, of neighbours together."""
    log_a, log_b = np.log(np.array(a, float)), np.log(np.array(b, float))
    if not interleaved or len(a) != len(b) or len(a) < BLOCKED_FROM:
        return [(log_a, log_b)]
    starts = list(range(0, len(a), BLOCK))
    if len(a) % BLOCK:
        starts.pop()  # a lone pair joins the block before it
    ends = [*starts[1:], len(a)]
    return [(log_a[start:end], log_b[start:end]) for start, end in zip(starts, ends, strict=True)]


def judge(a: Series, b: Series, *, interleaved: bool) -> Difference:
    """One measure, p not yet corrected, and therefore without a verdict; see `decided`."""
    ratio, note, p = float("nan"), a.unfit or b.unfit, 1.0
    low = high = None
    if not a.values or not b.values or min(*a.values, *b.values) <= 0:
        note = note or "a ratio needs values above 0 on both sides"
    else:
        ratio = statistics.median(b.values) / statistics.median(a.values)
        blocks = _blocks(a.values, b.values, interleaved)
        orders = _Orders([(len(one), len(other)) for one, other in blocks])
        if orders.least_p >= CHANCE:
            note = note or f"{len(a.values)} and {len(b.values)} runs are too few to tell anything"
        else:
            p = orders.p([np.concatenate(block) for block in blocks])
            low, high = _interval(blocks, orders)
    return Difference(
        name=a.name,
        unit=a.unit,
        better=a.better,
        a=a.values,
        b=b.values,
        ratio=ratio if math.isfinite(ratio) else 0.0,
        ratio_low=low,
        ratio_high=high,
        p=p,
        verdict="can't tell",
        note=note,
    )


def _interval(blocks: list[tuple[Any, Any]], orders: _Orders) -> tuple[float, float]:
    """Factors between A and B that the test does not reject."""

    def kept(shift: float) -> bool:
        return orders.p([np.concatenate((one, other - shift)) for one, other in blocks]) > CHANCE

    middle = float(np.median([np.median(other[:, None] - one[None, :]) for one, other in blocks]))
    ends = []
    for direction in (-1.0, 1.0):
        near, far = 0.0, 0.01
        while far < FACTOR_MAX and kept(middle + direction * far):
            near, far = far, far * 2
        for _ in range(STEPS):
            half = (near + far) / 2
            near, far = (half, far) if kept(middle + direction * half) else (near, half)
        ends.append(math.exp(middle + direction * far))
    return ends[0], ends[1]


def decided(found: Sequence[Difference], threshold_share: float = THRESHOLD_SHARE) -> list[Difference]:
    """The same with p corrected for their number, and the verdict of each."""
    order = sorted(range(len(found)), key=lambda index: found[index].p)
    corrected, before = [1.0] * len(found), 0.0
    for place, index in enumerate(order):
        before = corrected[index] = max(before, min(found[index].p * (len(found) - place), 1.0))
    return [_with_verdict(one, p, threshold_share) for one, p in zip(found, corrected, strict=True)]


def _with_verdict(one: Difference, p: float, threshold_share: float) -> Difference:
    verdict, note = "can't tell", one.note
    low, high, most = one.ratio_low, one.ratio_high, 1 + threshold_share
    if low is not None and high is not None and not note:
        apart = one.ratio >= most or one.ratio <= 1 / most
        if p < CHANCE and apart and not low <= 1 <= high:
            verdict = "faster" if (one.ratio > 1) == (one.better == "higher") else "slower"
        elif 1 / most < low and high < most:
            note = f"the same within {threshold_share:.0%}"
        elif p >= CHANCE and not low <= 1 <= high:
            note = "a difference, but not beyond chance with so many measures: more runs would tell"
    return Difference(
        name=one.name,
        unit=one.unit,
        better=one.better,
        a=one.a,
        b=one.b,
        ratio=one.ratio,
        ratio_low=low,
        ratio_high=high,
        p=p,
        verdict=verdict,
        note=note,
    )
