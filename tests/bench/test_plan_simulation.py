"""The simulation of the delivery tier: against closed forms, naive loops, its own books and the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.simulation import Shard, Story, Told, World, serve
from bench.plan.tail import Tier, jobs_of, notice, predict

TIER = Tier(
    nodes=3,
    node_workers=4,
    sessions=20_000,
    messages_per_s=2_000.0,
    notices_per_s=200.0,
    pings_per_s=700.0,
    hellos_per_s=100.0,
    sizes=np.array([2.0, 10.0, 100.0, 1_000.0]),
    size_shares=np.array([0.6, 0.3, 0.09, 0.01]),
    devices=1.4,
    online_share=0.25,
    shards=2,
    publish_s=40e-6,
    delivery_s=120e-6,
    ping_s=20e-6,
    hello_s=400e-6,
    wake_s=100e-6,
    read_s=20e-6,
    commit_fixed_s=300e-6,
    commit_event_s=2e-6,
    sync_variation=0.7,
    round_trip_s=2e-3,
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 9)), max_size=40),
    free=st.lists(st.integers(0, 30), min_size=4, max_size=4),
)
def test_serve_is_first_come_first_served(jobs: list[tuple[int, int, int]], free: list[int]) -> None:
    """Against a loop that serves one job after the other."""
    naive, expected = [float(one) for one in free], [0.0] * len(jobs)
    for number in sorted(range(len(jobs)), key=lambda one: jobs[one][1]):
        worker, at, took = jobs[number]
        naive[worker] = expected[number] = max(at, naive[worker]) + took
    table = np.array(jobs, dtype=np.float64).reshape(-1, 3)
    frees = np.array(free, dtype=np.float64)
    done = serve(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], frees)
    np.testing.assert_allclose(done, expected)
    np.testing.assert_allclose(frees, naive)


@pytest.mark.parametrize(("kind", "square"), [("markov", 2.0), ("fixed", 1.0)])
def test_serve_waits_as_long_as_queues_that_are_known(kind: str, square: float) -> None:
    """M/M/1 and M/D/1 at ρ = 0.7: mean wait λ E[S²] ÷ (2 (1 − ρ)); seeded, within four standard errors of 20 parts."""
    rng, count, busy = np.random.default_rng(5), 2_000_000, 0.7
    at = np.cumsum(rng.exponential(1 / busy, count))
    took = rng.exponential(1.0, count) if kind == "markov" else np.ones(count)
    done = serve(np.zeros(count, np.int64), at, took, np.zeros(1))
    waits = (done - at - took)[count // 20 :]
    parts = np.array([part.mean() for part in np.array_split(waits, 20)])
    expected = busy * square / (2 * (1 - busy))
    assert abs(parts.mean() - expected) < 4 * parts.std(ddof=1) / np.sqrt(20)
    if kind == "markov":
        assert np.quantile(waits, 0.99) == pytest.approx(np.log(busy / 0.01) / (1 - busy), rel=0.03)


def test_a_shard_commits_what_waited_while_the_last_one_synced() -> None:
    """Against a loop over the same arrivals and syncs, told of its arrivals piece by piece."""
    tier = replace(TIER, sync_variation=0.01, commit_fixed_s=1.0, commit_event_s=0.1)
    at = np.sort(np.random.default_rng(3).uniform(0, 30, 200))
    shard, found = Shard(tier, np.random.default_rng(4)), []
    for second in range(60):
        mine = (at >= second) & (at < second + 1)
        shard.add(at[mine], np.flatnonzero(mine))
        found += shard.commit(second + 1.0)
    assert [int(event) for _, events in found for event in events] == list(range(200))
    assert shard.committed == 200 and shard.waiting == 0
    free = 0.0
    for end, events in found:
        start = max(free, at[events[0]])
        assert end - start - 0.1 * len(events) == pytest.approx(1.0, abs=0.05)
        assert all(at[event] <= start for event in events)
        later = at[events[-1] + 1 :]
        assert not len(later) or later[0] > start
        free = end


def books(told: Told) -> None:
    """Everything that came was delivered, or is counted."""
    counts = {name: told.counts.get(name, 0) for name in KINDS}
    assert counts["events"] == counts["committed"] + counts["held_to_the_end"]
    assert counts["sends"] == counts["delivered"] + counts["missed"]
    assert counts["missed"] == counts["read_on_return"] + counts["missed_by_the_away"]
    assert counts["lost"] == counts["returned"] + counts["away"]


KINDS = (
    "events", "committed", "held_to_the_end", "sends", "delivered", "missed", "read_on_return", "missed_by_the_away",
    "lost", "returned", "away",
)  # fmt: skip


def test_the_model_says_what_the_simulation_shows() -> None:
    """A small nation at its peak: utilisation, queues and the tail, seeded."""
    told = World(TIER, Story(name="peak", seconds=20.0), 7).run()
    books(told)
    model = predict(TIER, 0.4)
    assert told.counts["delivered"] == pytest.approx(TIER.deliveries_per_s * 20, rel=0.05)
    assert told.busy == pytest.approx(jobs_of(TIER).busy, rel=0.05)
    assert told.worker_queue == pytest.approx(model.worker_queue, rel=0.15)
    assert told.shard_queue == pytest.approx(model.shard_queue, rel=0.05)
    assert told.quantile_s(0.5) == pytest.approx(model.p50_s, rel=0.1)
    assert told.quantile_s(0.99) == pytest.approx(model.p99_s, rel=0.2)


def test_a_lost_node_loses_nothing() -> None:
    """Its sessions come back, read what they missed, and publish what they couldn't; nobody else does."""
    story = Story(name="a node goes", seconds=6.0, lost_node_at_s=1.0, reconnect_spread_s=4.0)
    told = World(TIER, story, 11).run()
    books(told)
    counts = told.counts
    assert counts["lost"] == pytest.approx(TIER.sessions / 3, rel=0.05)
    assert counts["missed"] > 0 and counts["away"] == 0 and counts["held"] > 0
    assert told.back == counts["lost"]
    short = World(TIER, replace(story, seconds=3.0), 11).run()
    books(short)


def test_a_notice_reaches_everybody_and_lets_others_pass() -> None:
    """Its end as the model says, and messages meanwhile wait for slices, not for the whole."""
    story = Story(name="notice", seconds=4.0, notice_at_s=1.0, slice_s=500e-6)
    told = World(TIER, story, 13).run()
    books(told)
    assert told.counts["noticed"] == TIER.sessions
    assert told.notice_s == pytest.approx(notice(TIER, 500e-6).everybody_s, rel=0.25)
    during = told.quantile_s(0.5, 1.0, 1.0 + told.notice_s)
    assert predict(TIER, 0.4).p50_s < during < predict(TIER, 0.4).p50_s + 2 * 500e-6 + 1e-3


def test_a_seed_is_a_run() -> None:
    """Bit for bit; another seed is another."""
    story = Story(name="peak", seconds=1.5)
    one, same, other = (World(TIER, story, seed).run() for seed in (1, 1, 2))
    assert one.counts == same.counts and np.array_equal(one.latencies_s, same.latencies_s)
    assert one.counts != other.counts


def test_more_sessions_than_memory_holds_are_refused() -> None:
    """Before anything is made."""
    with pytest.raises(ValueError, match="500,000,000 at most"):
        World(replace(TIER, sessions=1e9), Story(name="peak", seconds=1.0), 1)
