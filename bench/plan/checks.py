"""The simulation held against the model: the same tier played in four stories, figure beside figure.

A figure agrees if it lies within a share of the model's that is printed with it; where it doesn't, the plan says so.
The day is played by minutes: each minute's events and each worker's share of them drawn, queues by the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.plan.assumptions import Assumptions
from bench.plan.formulas import day_profile
from bench.plan.resources import SLICE_S
from bench.plan.sensitivity import ms
from bench.plan.simulation import WARM_S, Story, Told, World
from bench.plan.sizing import HORIZONS, Sizing
from bench.plan.tail import Prediction, Tier, jobs_of, notice, predict
from bench.schema import PlanCheck, PlanMinute

WITHIN = {"p50": 0.05, "p99": 0.10, "p99.9": 0.25, "busy": 0.03, "queue": 0.10, "time": 0.10}
LOSS_AT_S = 1.0
DAY_MINUTES = 1_440


def checks(sized: Sizing, a: Assumptions, seed: int, seconds: float, say: Callable[[str], None]) -> list[PlanCheck]:
    """All stories; `say` is told what is being played."""
    horizon = a.p99_ms / 1e3 * HORIZONS
    tier, left = sized.tier, sized.zone_lost
    rows: list[PlanCheck] = []
    stories = [
        (tier, Story(name="peak", seconds=seconds)),
        (left, Story(name="a zone is lost" if a.zones > 1 else "one node fewer", seconds=seconds)),
        (
            tier,
            Story(
                name="a node goes",
                seconds=LOSS_AT_S + seconds,
                lost_node_at_s=LOSS_AT_S,
                reconnect_spread_s=a.reconnect_spread_s,
            ),
        ),
        (
            tier,
            Story(name="a notice to everybody", seconds=LOSS_AT_S + seconds, notice_at_s=LOSS_AT_S, slice_s=SLICE_S),
        ),
    ]
    for number, (played, story) in enumerate(stories):
        if story.lost_node_at_s is not None and played.nodes < 2:
            continue
        say(story.name)
        told = World(played, story, seed + number).run()
        if story.lost_node_at_s is not None:
            rows += _lost(played, story, told, horizon)
        elif story.notice_at_s is not None:
            rows += _noticed(played, story, told, horizon)
        else:
            rows += _steady(played, told, predict(played, horizon))
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(
    scenario: str, name: str, kind: str, unit: str, model: float, simulated: float, note: str = "", error: float = 0.0
) -> PlanCheck:
    """`error`: standard error of the simulated figure; twice that is allowed beside the share."""
    within, error = WITHIN[kind], error if math.isfinite(error) else 0.0
    off = simulated / model - 1 if model and math.isfinite(model) else math.inf
    words = f"{off:+.1%}, within {within:.0%}" if math.isfinite(off) else "the model has no end there"
    if error and simulated:
        words += f" and twice ±{error / simulated:.1%}"
    agrees = math.isfinite(off) and abs(simulated - model) <= within * model + 2 * error
    words += f"; {note}" if note else ""
    return PlanCheck(scenario, name, unit, _finite(model), _finite(simulated), agrees, words)


def _quantiles(told: Told, model: Prediction, since_s: float, until_s: float) -> list[PlanCheck]:
    """p50, p99 and p99.9 of deliveries."""
    rows = []
    for kind, share, value in (("p50", 0.5, model.p50_s), ("p99", 0.99, model.p99_s), ("p99.9", 0.999, model.p999_s)):
        found, error = told.quantile_s(share, since_s, until_s), told.error_s(share, since_s, until_s)
        rows.append(_row(told.name, f"delivery, {kind}", kind, "ms", value * 1e3, found * 1e3, error=error * 1e3))
    return rows


def _counted(told: Told) -> str:
    counts = told.counts
    return f"{counts['events']:,} events, {counts.get('delivered', 0):,} deliveries"


def _steady(tier: Tier, told: Told, model: Prediction) -> list[PlanCheck]:
    return [
        _row(
            told.name, "a worker is busy with sessions", "busy", "share", jobs_of(tier).busy, told.busy, _counted(told)
        ),
        _row(told.name, "jobs at a worker, mean", "queue", "jobs", model.worker_queue, told.worker_queue),
        _row(
            told.name,
            "events at a shard, mean",
            "queue",
            "events",
            model.shard_queue,
            told.shard_queue,
            f"the largest commit had {told.shard_queue_max}",
        ),
        *_quantiles(told, model, WARM_S, math.inf),
    ]


def _lost(tier: Tier, story: Story, told: Told, horizon: float) -> list[PlanCheck]:
    """The model of a steady state with as many away as are in the mean, and their hellos on top."""
    seconds = story.seconds - LOSS_AT_S
    gone = 1.0 / tier.nodes
    away = gone * (1 - min(seconds, story.reconnect_spread_s) / story.reconnect_spread_s / 2)
    here = 1 - away
    storm = tier.sessions * gone / story.reconnect_spread_s
    left = replace(
        tier,
        nodes=tier.nodes - 1,
        messages_per_s=tier.messages_per_s * here,
        pings_per_s=tier.pings_per_s * here,
        hellos_per_s=tier.hellos_per_s * here + storm,
        online_share=tier.online_share * here,
    )
    counts = told.counts
    note = (
        f"{counts['lost']:,} sessions lost, {told.back:,} back after {seconds:g} s;"
        f" {counts.get('missed', 0):,} deliveries read on return or still to be,"
        f" {counts.get('repeated', 0):,} publishes repeated"
    )
    rows = _quantiles(told, predict(left, horizon), LOSS_AT_S + 0.1, math.inf)
    expected = storm * min(seconds, story.reconnect_spread_s)
    return [
        _row(told.name, "sessions that are back", "time", "sessions", expected, told.back, note),
        *rows,
    ]


def _noticed(tier: Tier, story: Story, told: Told, horizon: float) -> list[PlanCheck]:
    """While it is under way: a slice may be in front of every message."""
    began = story.notice_at_s or 0.0
    told_s = told.notice_s or math.nan
    return [
        _row(
            told.name,
            "everybody has it in",
            "time",
            "s",
            notice(tier, story.slice_s).everybody_s,
            told_s,
            f"{told.counts['noticed']:,} sessions",
        ),
        *_quantiles(told, predict(tier, horizon, story.slice_s), began, began + told_s),
    ]


def day(sized: Sizing, a: Assumptions, seed: int) -> list[PlanMinute]:
    """Every minute from twelve hours before the peak to twelve after it; connections as at the peak throughout."""
    rng, tier = np.random.default_rng(seed), sized.tier
    minutes = np.arange(-DAY_MINUTES // 2, DAY_MINUTES // 2)
    profile = day_profile(minutes.astype(np.float64), a.peak_factor)
    grid = np.linspace(0.0, 1.0, 17)
    known = [predict(tier.at_load(max(one, 1e-3)), a.p99_ms / 1e3 * HORIZONS) for one in grid]
    p99 = np.interp(profile, grid, [one.p99_s for one in known])
    rows = []
    for minute, factor, p99_s in zip(minutes, profile, p99, strict=True):
        at = tier.at_load(float(factor))
        jobs = jobs_of(at)
        counts = rng.poisson(jobs.rates[:, None] * 60.0, (len(jobs.rates), tier.workers))
        busy = jobs.times_s @ counts / 60.0 * (1 - at.own_share) + at.own_share
        events = float(rng.poisson(at.events_per_s * 60.0)) / 60.0
        rows.append(PlanMinute(int(minute), events, float(busy.mean()), float(busy.max()), ms(float(p99_s))))
    return rows
