"""The queueing model: how long a message takes from the gateway having it to the last byte of a delivery, at a load.

publish (a worker's queue) → half a round trip → group commit of its shard → half a round trip → the queue of the
worker that holds the recipient → the sends of that message before this one. A worker is M/G/1: one thread that takes
pings, hellos, publishes and, of each message, a batch of sends to those of its sessions who may see it. When no job
waits it looks at new blocks; one look takes all that have come (a vacation: to the wait of M/G/1 comes the rest of one
look, Fuhrmann and Cooper 1985); reading their events is work like any other, the same at every worker. A shard is a
bulk-service queue: who comes waits for the rest of the commit under way, then for the next, the longer the longer
that one was. Stages are
taken as independent of each other; simulation.py, where they are not, says what that costs.

A notice to everybody is flushed in slices behind messages to few, hence no part of a worker's load here: it delays
others by the rest of one slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bench.plan.formulas import commit_cycle, in_system, mean_wait, tail_wait
from bench.plan.lattice import Lattice, Waves

Floats = NDArray[np.float64]
AUDIENCE_BINS = 160


@dataclass(frozen=True, kw_only=True)
class Tier:
    """All workers of the nation at one load. Service times are those of a bought core, with all others at work."""

    nodes: int
    node_workers: int
    sessions: float
    messages_per_s: float
    notices_per_s: float  # to one person each
    pings_per_s: float
    hellos_per_s: float
    sizes: Floats  # of conversations that messages go to
    size_shares: Floats  # probability that a message goes to one of this size
    devices: float
    online_share: float
    shards: int
    publish_s: float
    delivery_s: float
    ping_s: float
    hello_s: float
    wake_s: float  # a look at new blocks
    read_s: float  # each event of them
    commit_fixed_s: float
    commit_event_s: float
    sync_variation: float
    round_trip_s: float

    @property
    def workers(self) -> int:
        """In all."""
        return self.nodes * self.node_workers

    @property
    def events_per_s(self) -> float:
        """Into the log."""
        return self.messages_per_s + self.notices_per_s

    @property
    def own_share(self) -> float:
        """Share of its time that a worker spends on reading the events of all shards."""
        return self.events_per_s * self.read_s

    @property
    def looking(self) -> float:
        """Share of the time in which no job waits that goes into looks: blocks/s × look ÷ (1 + blocks/s × look)."""
        _, commits = commit_cycle(self.events_per_s / self.shards, self.commit_fixed_s, self.commit_event_s)
        looks = self.shards * commits * self.wake_s
        return looks / (1 + looks)

    def audiences(self) -> tuple[Floats, Floats]:
        """(mean online recipients, share of events) of the kinds of events, sizes gathered into bins."""
        edges = np.unique(np.geomspace(1, self.sizes[-1] + 1, AUDIENCE_BINS).astype(np.int64))
        where = np.searchsorted(edges, self.sizes, side="right")
        shares = np.bincount(where, self.size_shares)
        weighted = np.bincount(where, self.size_shares * self.sizes)
        kept = shares > 0
        mean_size, shares = weighted[kept] / shares[kept], shares[kept]
        means = ((mean_size - 1) * self.devices + self.devices - 1) * self.online_share
        share = self.messages_per_s / self.events_per_s if self.events_per_s else 0.0
        return (
            np.concatenate([means, [self.devices * self.online_share]]),
            np.concatenate([shares * share, [1 - share]]),
        )

    @property
    def deliveries_per_s(self) -> float:
        """To all but the device that sent."""
        means, shares = self.audiences()
        return self.events_per_s * float(means @ shares)

    def at_load(self, factor: float) -> Self:
        """The same machines at so many times of what people do; connections stay."""
        return replace(
            self,
            messages_per_s=self.messages_per_s * factor,
            notices_per_s=self.notices_per_s * factor,
            hellos_per_s=self.hellos_per_s * factor,
        )


class Jobs(NamedTuple):
    """What comes to one worker: rates, service times, and how large the batches of sends are."""

    rates: Floats
    times_s: Floats
    batch_shares: Floats  # of batches of 1, 2, 3 … sends
    busy: float

    @property
    def rate(self) -> float:
        """Of all."""
        return float(self.rates.sum())


def jobs_of(tier: Tier) -> Jobs:
    """Of the mean worker."""
    stretched = 1.0 / max(1.0 - tier.own_share, 1e-9)
    means, shares = tier.audiences()
    here = means / tier.workers
    largest = int(here.max() + 12 * math.sqrt(here.max()) + 12)
    counts = np.arange(1, largest + 1)
    logs = np.cumsum(np.log(counts))
    chances = np.exp(counts[None, :] * np.log(here)[:, None] - here[:, None] - logs[None, :])
    batches = shares @ chances
    rates = np.concatenate(
        [
            np.array([tier.messages_per_s, tier.pings_per_s, tier.hellos_per_s]) / tier.workers,
            tier.events_per_s * batches,
        ]
    )
    times = np.concatenate([[tier.publish_s, tier.ping_s, tier.hello_s], counts * tier.delivery_s]) * stretched
    total = batches.sum()
    return Jobs(rates, times, batches / total if total else batches, float(rates @ times))


class Prediction(NamedTuple):
    """Of one load; times in seconds."""

    busy: float  # of a worker: jobs and reading, without looks, which give way
    p50_s: float
    p99_s: float
    p999_s: float
    worker_wait_s: float  # mean
    worker_p99_s: float
    worker_tail_s: float  # p99 of the wait by the exponential tail
    commit_s: float  # mean, from a shard having it to its sync
    commits_per_s: float  # of a shard
    worker_queue: float  # jobs at a worker, each send one, mean
    shard_queue: float  # events at a shard, mean

    @property
    def carried(self) -> bool:
        """Whether the queues have an end."""
        return math.isfinite(self.p99_s)


def _overrun(busy: float) -> Prediction:
    return Prediction(busy, *[math.inf] * 10)


@lru_cache(maxsize=16)
def even_waves(after_s: float, more_s: float, lattice: Lattice) -> Waves:
    """Transform of a time of after_s to after_s + more_s, each alike."""
    times_s = after_s + np.linspace(0, more_s, 64 if more_s else 1)
    return lattice.waves(lattice.at(times_s, np.full(len(times_s), 1 / len(times_s))))


@lru_cache(maxsize=8)  # plans of other nodes, of the same shards, ask for the same
def commit_waves(
    rate: float, fixed_s: float, each: float, sync_variation: float, lattice: Lattice
) -> tuple[Waves, float]:
    """Transform of the time at a shard to which so many events come a second, and its mean.

    With probability u = T × commits/s a commit is under way, of t: its rest, then a sync and p λ t for what has come
    during t; else a sync and p. The variance of t is that of a sync and of what came: (V + p² λ T) ÷ (1 − (p λ)²).
    """
    took, commits = commit_cycle(rate, fixed_s, each)
    under_way, grows = min(took * commits, 1.0), each * rate
    square = (fixed_s * sync_variation) ** 2
    variation = math.sqrt((square + each * each * rate * took) / (1 - grows * grows)) / took
    sync = lattice.waves(lattice.lognormal(fixed_s, sync_variation))
    alone = even_waves(each, 0.0, lattice)
    waves = sync * ((1 - under_way) * alone + under_way * lattice.waves(lattice.met(took, variation, grows)))
    return waves, lattice.mean_s(lattice.turned(waves))


def predict(tier: Tier, horizon_s: float, slice_s: float = 0.0) -> Prediction:
    """The distribution of the whole, and the parts; `slice_s`: of a notice that is under way at every worker."""
    jobs = jobs_of(tier)
    busy = jobs.busy * (1 - tier.own_share) + tier.own_share
    shard_rate = tier.events_per_s / tier.shards
    took, commits = commit_cycle(shard_rate, tier.commit_fixed_s, tier.commit_event_s)
    if jobs.busy >= 0.999 or tier.own_share >= 0.999 or not math.isfinite(took):
        return _overrun(busy)
    lattice = Lattice(horizon_s)
    wait = lattice.wait(jobs.busy, lattice.at(jobs.times_s, jobs.rates / jobs.rate))
    commit, commit_mean_s = commit_waves(
        shard_rate, tier.commit_fixed_s, tier.commit_event_s, tier.sync_variation, lattice
    )
    above = np.concatenate([[1.0], 1.0 - np.cumsum(jobs.batch_shares)[:-1]])  # a place in a batch: P(batch ≥ place)
    places = lattice.at(jobs.times_s[3:], above / above.sum())
    way = even_waves(float(jobs.times_s[0]) + tier.round_trip_s, 0.0, lattice)
    looks = even_waves(0.0, tier.wake_s, lattice)
    wait = wait * (1 - tier.looking + tier.looking * looks)
    if slice_s:
        wait = wait * even_waves(0.0, slice_s, lattice)
    whole = lattice.turned(wait * wait * commit * lattice.waves(places) * way)
    if lattice.beyond(whole) > 1e-4:
        return _overrun(busy)
    square = float(jobs.rates @ jobs.times_s**2) / jobs.rate
    mean = mean_wait(jobs.rate, jobs.busy / jobs.rate, square) + tier.looking * tier.wake_s / 2
    return Prediction(
        busy=busy,
        p50_s=lattice.quantile_s(whole, 0.5),
        p99_s=lattice.quantile_s(whole, 0.99),
        p999_s=lattice.quantile_s(whole, 0.999),
        worker_wait_s=mean,
        worker_p99_s=lattice.quantile_s(lattice.turned(wait), 0.99),
        worker_tail_s=tail_wait(jobs.busy, mean, 0.99),
        commit_s=commit_mean_s,
        commits_per_s=commits,
        worker_queue=_in_queue(jobs, mean, above),
        shard_queue=in_system(shard_rate, commit_mean_s),
    )


def _in_queue(jobs: Jobs, wait_s: float, above: Floats) -> float:
    """Jobs at a worker, each send one: Σ λ (wait + time), in a batch each behind those before it (Little)."""
    others = float(jobs.rates[:3] @ (wait_s + jobs.times_s[:3]))
    sends_per_s = float(jobs.rates[3:].sum() * above.sum())
    place_s = float(above @ jobs.times_s[3:] / above.sum())
    return others + in_system(sends_per_s, wait_s + place_s)


class Notice(NamedTuple):
    """One event to every session."""

    everybody_s: float  # until the last has it
    others_more_s: float  # what it adds to a message's delivery, at most, while it is under way


def notice(tier: Tier, slice_s: float) -> Notice:
    """Sessions of a worker × delivery ÷ (1 − ρ): it has what others leave; one slice may be in front of others."""
    jobs = jobs_of(tier)
    left = max(1.0 - jobs.busy, 1e-9)
    each = tier.delivery_s / max(1 - tier.own_share, 1e-9)
    return Notice(tier.sessions / tier.workers * each / left, slice_s)
