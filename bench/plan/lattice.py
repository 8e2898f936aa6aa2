"""Distributions of times as arrays over equal steps, added and queued exactly by Fourier transforms.

Under tail.py. A distribution is the array of probabilities that a time is 0, 1, 2 … steps. The wait of M/G/1 is the
Pollaczek–Khinchine transform (1 − ρ) ÷ (1 − ρ R(ω)), R that of the rest of a service, turned back by the inverse
transform; times of stages that follow each other are multiplied transforms. Exact but for the step and for what lies
beyond the last step, which `beyond` bounds.
Cost: one transform of 2^17 steps, some milliseconds, for each distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Waves = NDArray[np.complex128]
STEPS = 1 << 17


@dataclass(frozen=True)
class Lattice:
    """The steps on which everything is counted; equal ones are one key of what is kept."""

    horizon_s: float
    steps: int = STEPS

    @property
    def step_s(self) -> float:
        """Of one."""
        return self.horizon_s / self.steps

    def at(self, times_s: Floats, shares: Floats) -> Floats:
        """Given values with their probabilities; each is divided over its two neighbours, so that the mean is kept."""
        places = np.minimum(times_s / self.step_s, self.steps - 2.0)
        below = np.floor(places).astype(np.int64)
        over = places - below
        found = np.zeros(self.steps)
        np.add.at(found, below, shares * (1 - over))
        np.add.at(found, below + 1, shares * over)
        return found

    def lognormal(self, mean_s: float, variation: float, plus_s: float = 0.0) -> Floats:
        """A lognormal time of this mean and standard deviation ÷ mean, and a fixed time in front."""
        edges: Floats = (np.arange(self.steps + 1, dtype=np.float64) - 0.5) * self.step_s - plus_s
        found: Floats = np.diff(lognormal_below(edges, mean_s, variation))
        found /= found.sum()
        return found

    def met(self, mean_s: float, variation: float, grows: float) -> Floats:
        """What is left of a lognormal time t in whose middle one comes, and `grows` × t behind it.

        Who comes meets t with a probability that grows with t, and any moment of it alike: the density at x is
        P(x ÷ (1 + grows) < t < x ÷ grows) ÷ mean.
        """
        times: Floats = np.arange(self.steps, dtype=np.float64) * self.step_s
        reached = lognormal_below(times / grows, mean_s, variation) if grows > 0 else np.ones(self.steps)
        found: Floats = reached - lognormal_below(times / (1.0 + grows), mean_s, variation)
        found[0] /= 2
        found /= found.sum()
        return found

    def rest(self, pmf: Floats) -> Floats:
        """Of a time in whose middle one comes, what is left: P(S > t) ÷ E[S]."""
        above = 1.0 - np.cumsum(pmf)
        left = (np.maximum(above, 0.0) + np.maximum(np.concatenate([[1.0], above[:-1]]), 0.0)) / 2
        found: Floats = left / left.sum()
        return found

    def waves(self, pmf: Floats) -> Waves:
        """The transform."""
        return np.fft.rfft(pmf)

    def turned(self, waves: Waves) -> Floats:
        """And back."""
        return np.fft.irfft(waves, self.steps)

    def wait(self, busy: float, service: Floats) -> Waves:
        """Transform of the wait in M/G/1 of this utilisation."""
        return (1.0 - busy) / (1.0 - busy * self.waves(self.rest(service)))

    def mean_s(self, pmf: Floats) -> float:
        """Of a distribution."""
        return float(pmf @ np.arange(self.steps)) * self.step_s

    def quantile_s(self, pmf: Floats, share: float) -> float:
        """The time that this share stays below."""
        return float(np.searchsorted(np.cumsum(pmf), share)) * self.step_s

    def beyond(self, pmf: Floats) -> float:
        """Probability in the last twentieth: anything there means that the horizon is too near."""
        return float(pmf[-self.steps // 20 :].sum())


def lognormal_below(times_s: Floats, mean_s: float, variation: float) -> Floats:
    """Probability that a lognormal time of this mean and standard deviation ÷ mean is below."""
    sigma2 = math.log1p(variation * variation)
    middle = math.log(mean_s) - sigma2 / 2
    below = normal_below((np.log(np.maximum(times_s, 1e-300)) - middle) / math.sqrt(2 * sigma2))
    found: Floats = np.where(times_s <= 0, 0.0, below)
    return found


def normal_below(score: Floats) -> Floats:
    """(1 + erf(score)) ÷ 2, by Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    x = np.abs(score)
    t = 1.0 / (1.0 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = 1.0 - series * np.exp(-x * x)
    found: Floats = 0.5 * (1.0 + np.sign(score) * erf)
    return found
