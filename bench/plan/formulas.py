"""The arithmetic of the plan: pure functions from numbers with units to numbers with units, each with its source.

Used by sizing.py and tail.py; tests hold them to closed forms and to the simulation. Rates are per second, times
seconds, sizes bytes, unless a name says otherwise. Cost: none.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400.0
Floats = NDArray[np.float64]


# people


def peak_rate(people: float, each_a_day: float, peak_factor: float) -> float:
    """people × each_a_day ÷ 86,400 s × peak_factor, 1/s. By definition of the peak factor."""
    return people * each_a_day / DAY_S * peak_factor


def day_concentration(peak_factor: float) -> float:
    """κ of a day whose rate is proportional to exp(κ cos(2π(t − peak)/24 h)): exp(κ) ÷ I₀(κ) = peak_factor.

    The von Mises curve is the smooth day with one peak that has no other parameter. Solved by bisection.
    """
    low, high = 0.0, 400.0
    for _ in range(100):
        middle = (low + high) / 2
        if 1.0 / float(np.i0(middle) * math.exp(-middle)) < peak_factor:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def day_profile(minutes: Floats, peak_factor: float) -> Floats:
    """Rate over the peak's rate at so many minutes from the peak: exp(κ (cos(2π m/1440) − 1))."""
    kappa = day_concentration(peak_factor)
    profile: Floats = np.exp(kappa * (np.cos(2 * np.pi * minutes / 1440.0) - 1.0))
    return profile


@lru_cache(maxsize=256)
def group_sizes(mean: float, largest: int, smallest: int = 3) -> tuple[Floats, Floats]:
    """(sizes, probability that a group message meets this size): a Zipf law cut at both ends, with this mean.

    P(size = n) ∝ n^−s for smallest ≤ n ≤ largest; s is found by bisection. Sizes of groups follow such laws (and the
    workload `groups` draws from one); here they are weighted by messages.
    """
    sizes = np.arange(smallest, max(largest, smallest) + 1, dtype=np.float64)
    logs = np.log(sizes)
    low, high = -50.0, 50.0

    def weights(exponent: float) -> Floats:
        powers = -exponent * logs
        found: Floats = np.exp(powers - powers.max())
        found /= found.sum()
        return found

    for _ in range(100):
        middle = (low + high) / 2
        if float(weights(middle) @ sizes) > mean:
            low = middle
        else:
            high = middle
    return sizes, weights((low + high) / 2)


def deliveries_per_message(dialog_share: float, group_mean: float, devices: float, online: float) -> float:
    """(dialog_share × 1 + (1 − dialog_share) × (group_mean − 1)) × devices × online + (devices − 1) × online, sends.

    The last part is the sender's other devices; the answer to the sending device is in the cost of a publish.
    """
    others = dialog_share + (1.0 - dialog_share) * (group_mean - 1.0)
    return others * devices * online + (devices - 1.0) * online


# the log


def commit_law(measured: list[tuple[float, float]]) -> tuple[float, float]:
    """(f, p) of T(n) = f + p × n, the seconds of a commit of n events, from (n, events a second).

    Least squares of relative errors, so that small commits count as much as large ones; neither part below 0.
    """
    n = np.array([one[0] for one in measured])
    took = n / np.array([one[1] for one in measured])
    left = np.stack([1.0 / took, n / took], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(left, np.ones(len(n)), rcond=None)
    if fixed < 0:
        return 0.0, float(1.0 / ((n / took) @ (n / took)) * (n / took).sum())
    if each < 0:
        return float((1.0 / took).sum() / ((1.0 / took) @ (1.0 / took))), 0.0
    return float(fixed), float(each)


def commit_cycle(rate: float, fixed_s: float, event_s: float) -> tuple[float, float]:
    """(seconds of a commit, commits a second) of group commit: who comes while one syncs is the next one's batch.

    T = f + p (λT + e^(−λT)): the batch is what a Poisson stream brings during T, and at least one. Commits a second
    are 1 ÷ (T + e^(−λT) ÷ λ): if nobody came, the writer waits for the next. M/G/1 with bulk service, whose batch has
    no limit (Bailey 1954); T is taken as steady. Infinite if p λ ≥ 1.
    """
    if rate <= 0:
        return fixed_s + event_s, 0.0
    if event_s * rate >= 1:
        return math.inf, 0.0
    took = fixed_s + event_s
    for _ in range(2_000):
        after = fixed_s + event_s * (rate * took + math.exp(-rate * took))
        if abs(after - took) < 1e-12:
            break
        took = after
    return took, 1.0 / (took + math.exp(-rate * took) / rate)


# queues


def mean_wait(rate: float, service_mean: float, service_square: float) -> float:
    """λ E[S²] ÷ (2 (1 − ρ)): the mean wait of M/G/1 (Pollaczek, Khinchine). Infinite from ρ = 1 on."""
    busy = rate * service_mean
    return math.inf if busy >= 1 else rate * service_square / (2 * (1 - busy))


def tail_wait(busy: float, mean_s: float, share: float) -> float:
    """E[W] ÷ ρ × ln(ρ ÷ (1 − share)): the wait that a share stays below.

    Were it 0 with probability 1 − ρ and exponential otherwise: exact for M/M/1, the limit in heavy traffic for others
    (Kingman 1961). Printed beside the numerical one.
    """
    if busy >= 1:
        return math.inf
    left = 1.0 - share
    return 0.0 if busy <= left else mean_s / busy * math.log(busy / left)


def in_system(rate: float, time_s: float) -> float:
    """λ × time: how many are waiting or served at a time (Little 1961)."""
    return rate * time_s


def flush_events(rate_per_session: float, wait_s: float) -> float:
    """1 + λ × wait: events that leave in one send to a session; others that came while the first waited."""
    return 1.0 + rate_per_session * wait_s


def largest_of(mean: float, count: float) -> float:
    """mean + √(2 mean ln count): about the largest of so many Poisson counts (normal tail)."""
    return mean + math.sqrt(2.0 * mean * math.log(max(count, 1.0))) if mean > 0 else 0.0


# machines


def nodes_for(demand_cores: float, node_workers: float, core: float, busy_max: float, own_share: float) -> float:
    """demand ÷ (workers × (core × busy_max − own_share)): nodes that keep each worker at busy_max.

    own_share is what a worker spends on the log whatever its sessions do (reading each event); each has it anew, so
    that more nodes don't make it less. Infinite if nothing is left.
    """
    left = core * busy_max - own_share
    return math.inf if left <= 0 else demand_cores / (node_workers * left)


def zone_nodes(needed: int, zones: int) -> int:
    """Nodes in each zone: max(⌈needed ÷ (zones − 1)⌉, ⌈needed ÷ zones⌉ + 1).

    The first: the zones that are left carry the peak alone. The second: every zone may lack a node. One zone: needed
    and one more.
    """
    if zones == 1:
        return needed + 1
    return max(-(-needed // (zones - 1)), -(-needed // zones) + 1)


def spread_for(lost_sessions: float, hello_s: float, workers: float, core: float, spare: float) -> float:
    """lost × hello ÷ (workers × core × spare), s: over which lost sessions must come back.

    Their hellos then take no more than the spare share of the workers that are left. Infinite without spare.
    """
    return math.inf if spare <= 0 else lost_sessions * hello_s / (workers * core * spare)
