"""The verdict of a soak, on series whose truth is known: leaks, noise, teeth of a collector, hiccups, warm-up."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench import findings
from bench.growth import HOUR_S, Quantity, blocks, judge, slope
from bench.pages import curves

MIB = float(1 << 20)
MEMORY = Quantity("memory", "bytes", "lowest", 4 * MIB, 0.02, 8 * MIB)
LAG = Quantity("p99", "ms", "middle", 1.0, 0.1, 1.0)


def memory(
    seed: int, hours: float, *, leak_mib_per_hour: float = 0.0, noise_mib: float = 2.0, tooth_mib: float = 0.0,
    tooth_s: float = 600.0, hiccups: float = 0.01, warmup_mib: float = 100.0,
) -> list[tuple[float, float]]:  # fmt: skip
    """One sample each 10 s: 400 MiB, filling up in the first minutes, then a leak, noise, teeth and rare hiccups."""
    chance, found = random.Random(seed), []
    phase = chance.random() * tooth_s
    for number in range(int(hours * 360)):
        at_s = number * 10.0
        value = 400 + warmup_mib * (1 - math.exp(-at_s / 60)) + leak_mib_per_hour * at_s / HOUR_S
        value += abs(chance.gauss(0, noise_mib)) + tooth_mib * ((at_s + phase) % tooth_s) / tooth_s
        value += 150 if chance.random() < hiccups else 0
        found.append((at_s, value * MIB))
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tooth_s", [30.0, 300.0, 900.0])
def test_what_a_collector_frees_again_is_no_leak(seed: int, tooth_s: float) -> None:
    """Teeth of 60 MiB over three hours, steep ones and slow ones."""
    found = judge(MEMORY, memory(seed, 3.0, tooth_mib=60, tooth_s=tooth_s), 600.0)
    assert found.verdict == "steady" and not found.growth.grows, found.sentence


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tooth_s", [30.0, 300.0])
def test_a_leak_below_the_teeth_is_found(seed: int, tooth_s: float) -> None:
    """30 MiB an hour, half a tooth."""
    found = judge(MEMORY, memory(seed, 3.0, leak_mib_per_hour=30, tooth_mib=60, tooth_s=tooth_s), 600.0)
    assert found.verdict == "grows" and found.growth.grows, found.sentence
    assert found.growth.per_hour == pytest.approx(30 * MIB, rel=0.3)


@pytest.mark.parametrize("seed", range(20))
def test_minutes_of_noise_are_not_made_a_leak_by_the_hour(seed: int) -> None:
    """Six minutes: what noise moves would be tens of MiB an hour."""
    assert not judge(MEMORY, memory(seed, 0.1, warmup_mib=0, noise_mib=6), 0.0).growth.grows


def test_minutes_are_no_verdict_on_an_hour() -> None:
    """They don't grow by more than what fills up, and could still be a leak: nobody is told that it is steady."""
    series = [(float(n), 100 * MIB + n * MIB / 100) for n in range(300)]
    found = judge(MEMORY, series, 0.0)
    assert found.verdict == "can't tell" and "limit" in found.sentence


def test_filling_up_is_no_leak_once_it_is_over() -> None:
    series = memory(1, 1.0, warmup_mib=300)
    assert judge(MEMORY, series, 600.0).verdict == "steady"
    assert judge(MEMORY, series[:60], 0.0).verdict == "grows"


@pytest.mark.parametrize(("per_hour", "verdict"), [(0.0, "steady"), (20.0, "grows")])
def test_lag_that_jumps_both_ways(per_hour: float, verdict: str) -> None:
    chance = random.Random(3)
    series = [(60.0 * n, 8 * math.exp(chance.gauss(0, 0.3)) + per_hour * n / 60) for n in range(180)]
    assert judge(LAG, series, 0.0).verdict == verdict


def test_too_little_is_no_verdict() -> None:
    assert judge(MEMORY, [], 0.0).verdict == "can't tell"
    assert judge(MEMORY, [(0.0, 1.0)], 0.0).verdict == "can't tell"
    few = [(60.0 * n, 500 * MIB + 100 * MIB * n) for n in range(7)]
    found = judge(MEMORY, few, 0.0)
    assert found.verdict == "can't tell" and found.sentence == "memory: can't tell, too little seen (7 of 16 blocks)."
    assert findings.slope_text(found.growth) == "too little seen (7 of 16 blocks)"
    chart, lines = curves.growth("few", found.growth), curves.growth("few", replace(found.growth, blocks=None))
    assert chart and lines and chart.svg.count("<path") < lines.svg.count("<path") and "an hour" not in chart.caption
    assert judge(MEMORY, [*few, (420.0, 1_200 * MIB)], 0.0).verdict == "grows"
    wide = [(60.0 * n, (500 + (40 if n % 3 else -40) + 0.7 * n) * MIB) for n in range(8)]
    assert judge(MEMORY, wide, 0.0).verdict == "can't tell"


def test_without_a_limit_it_is_only_shown() -> None:
    found = judge(MEMORY._replace(share_per_hour_max=None), memory(1, 1.0, leak_mib_per_hour=500), 600.0)
    assert found.verdict == "shown" and not found.growth.grows and found.growth.limit_per_hour is None
    assert "MiB an hour" in found.sentence and found.sentence.endswith("no limit.")
    assert len(judge(MEMORY, [(float(n), 1.0) for n in range(5_000)], 0.0).growth.samples) <= 600


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(-100, 100)), min_size=2, max_size=25))
def test_slope_is_the_median_over_all_pairs(raw: list[tuple[int, int]]) -> None:
    points = sorted({float(at): float(value) for at, value in raw}.items())
    if len(points) < 2:
        return
    every = sorted((b[1] - a[1]) / (b[0] - a[0]) * HOUR_S for i, a in enumerate(points) for b in points[i + 1 :])
    found, middle = slope(points), len(every) // 2
    assert found.middle == pytest.approx((every[middle] + every[~middle]) / 2)
    assert found.low <= found.middle <= found.high
    line = [(at, 3.0 + 2.0 * at) for at, _ in points]
    assert slope(line) == pytest.approx((2 * HOUR_S,) * 3)


def test_blocks_take_the_lowest_or_the_median_of_equal_times() -> None:
    series = [(float(n), float(n % 4)) for n in range(16)]
    assert blocks(series, "lowest", 4) == [(1.5, 0.0), (5.5, 0.0), (9.5, 0.0), (13.5, 0.0)]
    assert [value for _, value in blocks(series, "middle", 4)] == [1.5] * 4
    assert [at for at, _ in blocks([(0.0, 1.0), (100.0, 1.0)], "middle", 10)] == [0.0, 100.0]
