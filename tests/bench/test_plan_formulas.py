"""The plan's arithmetic against closed forms, brute force and its own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan import formulas
from bench.plan.assumptions import AssumptionError, Assumptions, moved, table
from bench.plan.lattice import Lattice


def test_the_peak_is_the_factor_times_the_mean_of_the_day() -> None:
    """The curve of a day: its largest is 1, at the peak, and its mean is 1 ÷ factor."""
    assert formulas.peak_rate(86_400, 10, 3) == pytest.approx(30)
    minutes = np.arange(1_440.0)
    for factor in (1.0, 2.5, 4.0, 12.0):
        profile = formulas.day_profile(minutes, factor)
        assert profile[0] == profile.max() == 1
        assert profile.mean() == pytest.approx(1 / factor, rel=1e-4)


@pytest.mark.parametrize(("mean", "largest"), [(3, 10), (30, 5_000), (200, 5_000), (5.5, 8)])
def test_sizes_of_groups_have_their_mean_and_follow_a_power(mean: float, largest: int) -> None:
    """n^−s: the logarithms of the probabilities lie on a line over those of the sizes."""
    sizes, shares = formulas.group_sizes(mean, largest)
    assert (sizes[0], sizes[-1]) == (3, largest)
    assert shares.sum() == pytest.approx(1) and shares @ sizes == pytest.approx(mean, rel=1e-3)
    kept = shares > 1e-250
    if kept.sum() > 2:
        slopes = np.diff(np.log(shares[kept])) / np.diff(np.log(sizes[kept]))
        assert slopes.max() - slopes.min() < 1e-3 * max(abs(slopes.mean()), 1)


def test_deliveries_are_what_one_counts_by_hand() -> None:
    """2 devices each, all online: a dialog is the other's two and the sender's second; a group of five is nine."""
    assert formulas.deliveries_per_message(1.0, 3, 2.0, 1.0) == 3
    assert formulas.deliveries_per_message(0.0, 5, 2.0, 1.0) == 9
    assert formulas.deliveries_per_message(0.5, 5, 2.0, 1.0) == 6


@settings(derandomize=True, max_examples=50, deadline=None)
@given(fixed=st.floats(1e-6, 1e-2), each=st.floats(1e-8, 1e-4))
def test_the_law_of_commits_is_found_again(fixed: float, each: float) -> None:
    """Rates that follow f + p n give f and p."""
    rates = [(n, n / (fixed + each * n)) for n in (1.0, 30.0, 1_000.0)]
    assert formulas.commit_law(rates) == pytest.approx((fixed, each), rel=1e-6)


def test_a_commit_grows_with_what_came_while_the_one_before_synced() -> None:
    """Its limits: alone when it is quiet; f ÷ (1 − p λ) when it isn't; none where p λ reaches 1."""
    took, commits = formulas.commit_cycle(1.0, 1e-4, 1e-6)
    assert took == pytest.approx(1.01e-4, rel=1e-3) and commits == pytest.approx(1.0, rel=1e-3)
    took, commits = formulas.commit_cycle(500_000.0, 1e-3, 1e-6)
    assert took == pytest.approx(1e-3 / 0.5, rel=1e-6) and commits == pytest.approx(500.0)
    assert formulas.commit_cycle(1e6, 1e-3, 1e-6)[0] == math.inf


def test_waits_of_known_queues() -> None:
    """M/M/1: ρ ÷ (μ − λ), and its quantile; M/D/1: half of it."""
    rate, service = 800.0, 1e-3
    markov = formulas.mean_wait(rate, service, 2 * service**2)
    assert markov == pytest.approx(0.8 / 200)
    assert formulas.mean_wait(rate, service, service**2) == pytest.approx(markov / 2)
    assert formulas.tail_wait(0.8, markov, 0.99) == pytest.approx(math.log(0.8 / 0.01) / 200)
    assert formulas.tail_wait(0.005, 1.0, 0.99) == 0
    assert formulas.mean_wait(1_000.0, service, service**2) == formulas.tail_wait(1.0, 1.0, 0.9) == math.inf


def test_the_transform_gives_the_queues_whose_tail_is_known() -> None:
    """M/M/1's wait is exponential beside its 1 − ρ; M/D/1's is Erlang's sum of 1909."""
    lattice = Lattice(0.2)
    times: formulas.Floats = (np.arange(lattice.steps // 2, dtype=np.float64) + 0.5) * lattice.step_s
    density: formulas.Floats = np.exp(-times / 1e-3)
    wait = lattice.turned(lattice.wait(0.8, lattice.at(times, density / density.sum())))
    for share in (0.5, 0.9, 0.99, 0.999):
        assert lattice.quantile_s(wait, share) == pytest.approx(math.log(0.8 / (1 - share)) / 200, rel=0.01)
    assert lattice.mean_s(wait) == pytest.approx(0.8 / 200, rel=0.01)
    fixed = lattice.turned(lattice.wait(0.8, lattice.at(np.array([1e-3]), np.ones(1))))
    assert lattice.mean_s(fixed) == pytest.approx(0.8 / 400, rel=0.01)
    for t in (1.5, 3.5, 7.5):
        terms = [(0.8 * (k - t)) ** k / math.factorial(k) * math.exp(0.8 * (t - k)) for k in range(int(t) + 1)]
        assert fixed[: round(t * 1e-3 / lattice.step_s)].sum() == pytest.approx(0.2 * sum(terms), rel=0.01)


def test_a_lognormal_has_its_mean_and_variation() -> None:
    """And the fixed time in front."""
    lattice = Lattice(0.2)
    found = lattice.lognormal(1e-3, 0.5, 2e-3)
    mean = lattice.mean_s(found)
    times = np.arange(lattice.steps) * lattice.step_s
    assert mean == pytest.approx(3e-3, rel=1e-3)
    assert math.sqrt(found @ (times - mean) ** 2) == pytest.approx(0.5e-3, rel=0.01)
    assert lattice.quantile_s(found, 1e-9) >= 2e-3
    plain = lattice.lognormal(1e-3, 0.5)
    met = lattice.met(1e-3, 0.5, 0.0)
    assert lattice.mean_s(met) == pytest.approx(lattice.mean_s(lattice.rest(plain)), rel=0.01)
    assert lattice.mean_s(met) == pytest.approx(1e-3 * (1 + 0.5**2) / 2, rel=0.01)
    assert lattice.mean_s(lattice.met(1e-3, 0.5, 0.3)) == pytest.approx(1e-3 * (1 + 0.5**2) * (0.5 + 0.3), rel=0.01)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(needed=st.integers(1, 5_000), zones=st.integers(1, 16))
def test_what_is_left_after_a_loss_is_enough(needed: int, zones: int) -> None:
    """Without a zone, and without a node in each zone; and one node fewer a zone would not be."""
    each = formulas.zone_nodes(needed, zones)

    def enough(nodes: int) -> bool:
        without_zone = nodes * (zones - 1) >= needed if zones > 1 else True
        return without_zone and (nodes - 1) * zones >= needed

    assert enough(each) and not enough(each - 1)


def test_every_assumption_has_bounds_that_hold_its_default_and_its_range() -> None:
    """And no bad value gets in; the line names the option, the value and the limits."""
    for name, row in table().items():
        about, value = row.about, getattr(Assumptions(), name)
        assert about.least <= about.low <= about.high <= about.most and about.least <= value <= about.most
        assert row.meaning and about.unit and about.source
        for bad in (about.least - 1, about.most * 2 + 1, math.nan, math.inf):
            with pytest.raises(AssumptionError, match=f"--{name.replace('_', '-')}"):
                Assumptions(**{name: bad}).checked()
        moved(Assumptions(), name, about.low)
        moved(Assumptions(), name, about.high)
    with pytest.raises(AssumptionError, match=r"--zones 2\.5: a whole number"):
        Assumptions(zones=2.5).checked()
    with pytest.raises(AssumptionError, match="--group-members-mean 50 is more than"):
        Assumptions(group_members_mean=50, group_members_max=40).checked()
