"""The delivery tier of the whole nation, event by event: every session has a worker, every send its turn.

Exact: each message with its conversation's size, its sender's session and the sessions it is sent to; each ping, hello
and send as a job in its worker's queue (one thread, first come first served); each commit with what waited for it.
Aggregated: conversations and people have no identity (who is online is drawn anew for each message); reading events
takes its share of a worker evenly, and a look at blocks puts off whom it meets by its rest; sends to one session never
meet in one flush; a notice to everybody is work that a worker does when nobody else waits, in slices, and its end is
known to a step.

Time goes in steps of one round trip between zones: what is published in a step can't be delivered within it, so all
jobs of a step are known at its beginning and are served at once by `serve`. Seeded; the same seed gives the same bits.
Cost: about a millisecond a step for a nation of 50 million; two bytes a session.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.plan.tail import Tier

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WARM_S = 0.5  # queues fill; latencies of what was published before it don't count
DRAIN_S = 5.0
PARTS = 10
AWAY = -1
SESSIONS_MAX = 500_000_000


def serve(worker: Ints, at: Floats, took: Floats, free: Floats) -> Floats:
    """When each job is done: first come, first served by its worker, which is free from `free` on (moved along).

    Within a worker's jobs in order of arrival, done(i) = max(at(i), done(i−1)) + took(i) (Lindley 1952). With C the sum
    of what was taken, that is C(i) + max over j ≤ i of (at(j) − C(j−1)): a running maximum, which numpy knows.
    """
    if not len(worker):
        return np.empty(0)
    order = np.lexsort((at, worker))
    w, taken = worker[order], took[order]
    first = np.flatnonzero(np.diff(w, prepend=-1))
    counts = np.diff(first, append=len(w))
    total = np.cumsum(taken)
    within = total - np.repeat(total[first] - taken[first], counts)
    earliest = at[order] - (within - taken)
    earliest[first] = np.maximum(earliest[first], free[w[first]])
    low = float(earliest.min())
    lift = np.repeat(np.arange(len(first)) * (float(earliest.max()) - low + 1.0), counts)
    done = np.maximum.accumulate(earliest - low + lift) - lift + low + within
    free[w[first]] = done[first + counts - 1]
    back = np.empty(len(w))
    back[order] = done
    return back


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens beside the everyday."""

    name: str
    seconds: float
    lost_node_at_s: float | None = None  # node 0 is gone; its sessions come back elsewhere
    reconnect_spread_s: float = 30.0
    notice_at_s: float | None = None  # an event for every session
    slice_s: float = 500e-6


@dataclass
class Told:
    """What came of it."""

    name: str
    latencies_s: Floats = field(default_factory=lambda: np.empty(0))  # of deliveries, of those published after WARM_S
    at_s: Floats = field(default_factory=lambda: np.empty(0))  # when each of those was published
    counts: dict[str, int] = field(default_factory=dict)
    busy: float = 0.0  # of a worker, mean, without looking for blocks
    worker_queue: float = 0.0  # jobs, mean over workers and time
    shard_queue: float = 0.0
    shard_queue_max: int = 0
    notice_s: float = 0.0  # until the last session had it
    back: int = 0  # sessions that are back at the end

    def quantile_s(self, share: float, since_s: float = 0.0, until_s: float = math.inf) -> float:
        """Of deliveries of what was published in a stretch."""
        chosen = self.latencies_s[(self.at_s >= since_s) & (self.at_s < until_s)]
        return float(np.quantile(chosen, share)) if len(chosen) else math.nan

    def error_s(self, share: float, since_s: float, until_s: float) -> float:
        """Standard error of that quantile: from those of PARTS equal parts of the stretch."""
        ends = np.linspace(max(since_s, WARM_S), min(until_s, float(self.at_s.max())), PARTS + 1)
        parts = [self.quantile_s(share, begin, end) for begin, end in itertools.pairwise(ends.tolist())]
        return float(np.std(parts, ddof=1)) / math.sqrt(PARTS)


class Shard:
    """One writer: what waits is committed together when the commit before is done."""

    def __init__(self, tier: Tier, rng: np.random.Generator) -> None:
        self._tier, self._rng = tier, rng
        self._sigma2 = math.log1p(tier.sync_variation**2)
        self._middle = math.log(max(tier.commit_fixed_s, 1e-12)) - self._sigma2 / 2
        self.free_s = 0.0
        self._at = np.empty(0)
        self._events = np.empty(0, np.int64)
        self.spent_s = 0.0  # waiting and being committed, summed over events
        self.committed = 0
        self.longest = 0
        self._syncs: list[float] = []

    @property
    def waiting(self) -> int:
        """Events."""
        return len(self._at)

    def add(self, at: Floats, events: Ints) -> None:
        """Events that have come, or are known to come."""
        times, numbers = np.concatenate([self._at, at]), np.concatenate([self._events, events])
        order = np.argsort(times, kind="stable")
        self._at, self._events = times[order], numbers[order]

    def _sync_s(self) -> float:
        if not self._syncs:
            self._syncs = self._rng.lognormal(self._middle, math.sqrt(self._sigma2), 4_096).tolist()
        return self._syncs.pop()

    def commit(self, until_s: float) -> list[tuple[float, Ints]]:
        """(end, events) of the commits that start before a time up to which all that comes is known."""
        done, taken = [], 0
        while taken < len(self._at):
            start = max(self.free_s, float(self._at[taken]))
            if start >= until_s:
                break
            to = int(np.searchsorted(self._at, start, side="right"))
            count = to - taken
            end = start + self._sync_s() + self._tier.commit_event_s * count
            done.append((end, self._events[taken:to]))
            self.spent_s += count * end - float(self._at[taken:to].sum())
            self.longest = max(self.longest, count)
            self.free_s, taken = end, to
        self.committed += taken
        self._at, self._events = self._at[taken:], self._events[taken:]
        return done


class World:
    """All workers, sessions and shards during one story."""

    def __init__(self, tier: Tier, story: Story, seed: int) -> None:
        if tier.sessions > SESSIONS_MAX:
            raise ValueError(f"{tier.sessions:,.0f} sessions: each is held in memory, {SESSIONS_MAX:,} at most")
        self.tier, self.story = tier, story
        self.rng = np.random.default_rng(seed)
        self.step_s = tier.round_trip_s
        self.sessions = int(tier.sessions)
        self.workers = tier.workers
        self.stretch = 1.0 / max(1.0 - tier.own_share, 1e-3)
        self.home = self.rng.integers(
            0, self.workers, self.sessions, dtype=np.int32 if self.workers > 32_767 else np.int16
        )
        self.free = np.zeros(self.workers)
        self.backlog = np.zeros(self.workers)  # seconds of a notice's sends
        self.shards = [Shard(tier, self.rng) for _ in range(tier.shards)]
        self.due: dict[int, list[tuple[Floats, Ints]]] = defaultdict(list)  # step → deliveries
        self.held: dict[int, list[Ints]] = defaultdict(list)  # step → publishes of sessions that were away
        self.told = Told(story.name)
        self.counts: dict[str, int] = defaultdict(int)
        self.missed = np.zeros(0, np.int32)
        self.lost = np.empty(0, np.int64)
        self.back_at = np.empty(0)
        self.returned = 0
        self.unread: list[Ints] = []  # publishes that died with their worker
        self.died = 0  # deliveries that did
        self.worked_s = self.in_system_s = 0.0
        self.latencies: list[NDArray[np.float32]] = []
        self.published: list[NDArray[np.float32]] = []
        self._draw()

    def _draw(self) -> None:
        """All messages of the story, in order of time."""
        tier, rng = self.tier, self.rng
        count = int(rng.poisson(tier.events_per_s * self.story.seconds))
        self.at = np.sort(rng.uniform(0, self.story.seconds, count))
        self.is_notice = rng.random(count) * tier.events_per_s >= tier.messages_per_s
        cumulated = np.cumsum(tier.size_shares)
        size = tier.sizes[
            np.searchsorted(cumulated, rng.random(count) * cumulated[-1], side="right").clip(0, len(tier.sizes) - 1)
        ]
        others = np.where(self.is_notice, 1, size - 1).astype(np.int64)
        least = int(tier.devices)
        devices = others * least + rng.binomial(others, tier.devices - least)
        own = np.where(self.is_notice, 0, least - 1 + rng.binomial(1, tier.devices - least, count))
        self.online = rng.binomial(devices + own, tier.online_share)
        self.sender = rng.integers(0, self.sessions, count)
        self.shard = rng.integers(0, tier.shards, count)
        self.began = self.at.copy()  # when the gateway had it: later, if who sent it was away

    # one step

    def _jobs(self, k: int) -> None:
        """Gathers what comes in a step, serves it, and hands on what follows."""
        begin = k * self.step_s
        publishes, publish_worker, publish_at = self._publishes(k)
        quiet_worker, quiet_at, quiet_took = self._connections(begin)
        events, delivery_worker, delivery_at = self._deliveries(k)
        tier = self.tier
        worker = np.concatenate([publish_worker, delivery_worker, quiet_worker])
        at = np.concatenate([publish_at, delivery_at, quiet_at])
        took = self.stretch * np.concatenate(
            [np.full(len(publishes), tier.publish_s), np.full(len(events), tier.delivery_s), quiet_took]
        )
        came = at
        at = at + self.rng.uniform(0, tier.wake_s, len(at)) * (self.rng.random(len(at)) < tier.looking)
        if self.backlog.any():
            slices = self.rng.uniform(0, self.story.slice_s, len(at))
            at = at + np.where(self.backlog[worker] > 0, slices, 0.0)
        before = np.maximum(self.free, begin)
        done = serve(worker, at, took, self.free)
        self._count(came, took, done)
        if self.backlog.any():
            self._notice(k, before, np.bincount(worker, took, self.workers).astype(np.float64))
        fine = self._alive(worker, done)
        self._hand_on(publishes, done[: len(publishes)], fine[: len(publishes)])
        to = len(publishes) + len(events)
        self._delivered(events, done[len(publishes) : to], fine[len(publishes) : to])

    def _publishes(self, k: int) -> tuple[Ints, Ints, Floats]:
        begin, end = k * self.step_s, (k + 1) * self.step_s
        fresh = np.arange(*np.searchsorted(self.at, (begin, end)))
        notices = fresh[self.is_notice[fresh]]
        if len(notices):
            self._to_shards(notices, self.at[notices] + self.step_s / 2)
        fresh = fresh[~self.is_notice[fresh]]
        held = self.held.pop(k, [])
        again = np.concatenate(held) if held else np.empty(0, np.int64)
        events = np.concatenate([fresh, again])
        at = np.concatenate([self.at[fresh], np.full(len(again), begin + self.step_s / 2)])
        worker = self.home[self.sender[events]].astype(np.int64)
        away = worker == AWAY
        if away.any():
            self._hold(events[away])
            events, at, worker = events[~away], at[~away], worker[~away]
        return events, worker, at

    def _hold(self, events: Ints) -> None:
        """Whose device is away publishes in the step after it has come back."""
        self.counts["held"] += len(events)
        senders = self.sender[events]
        places = np.searchsorted(self.lost, senders).clip(0, len(self.lost) - 1)
        back = np.where(self.lost[places] == senders, self.back_at[places], self.story.lost_node_at_s or 0.0)
        steps = (back / self.step_s).astype(np.int64) + 1
        self.began[events] = (steps + 0.5) * self.step_s
        for event, step in zip(events, steps, strict=True):
            self.held[int(step)].append(np.array([event]))

    def _connections(self, begin: float) -> tuple[Ints, Floats, Floats]:
        """Pings, hellos of sessions that have ended elsewhere, and of those that a loss has put out."""
        tier, rng, end = self.tier, self.rng, begin + self.step_s
        pings = self.home[rng.integers(0, self.sessions, rng.poisson(tier.pings_per_s * self.step_s))].astype(np.int64)
        pings = pings[pings != AWAY]
        fresh = rng.integers(0, self.sessions, rng.poisson(tier.hellos_per_s * self.step_s))
        fresh = fresh[self.home[fresh] != AWAY]
        to = int(np.searchsorted(self._order_at, end)) if len(self.lost) else 0
        back = self._order[self.returned : to] if to > self.returned else np.empty(0, np.int64)
        self.returned = max(to, self.returned)
        sessions = np.concatenate([fresh, self.lost[back]])
        worker = self._anywhere(len(sessions))
        self.home[sessions] = worker
        at = np.concatenate([rng.uniform(begin, end, len(pings) + len(fresh)), self.back_at[back]])
        missed = self.missed[back] if len(back) else np.empty(0, np.int32)
        self.counts["read_on_return"] += int(missed.sum())
        self.counts["returned"] += len(back)
        took = np.concatenate(
            [
                np.full(len(pings), tier.ping_s),
                np.full(len(fresh), tier.hello_s),
                tier.hello_s + missed * tier.delivery_s,
            ]
        )
        return np.concatenate([pings, worker]), at, took

    def _anywhere(self, count: int) -> Ints:
        """Workers that live."""
        least = self.tier.node_workers if len(self.lost) else 0
        return self.rng.integers(least, self.workers, count)

    def _deliveries(self, k: int) -> tuple[Ints, Ints, Floats]:
        """(event, worker, time) of each send; to sessions that are away: missed."""
        found = self.due.pop(k, [])
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        at, events = np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])
        sends = self.online[events]
        at, events = np.repeat(at, sends), np.repeat(events, sends)
        sessions = self.rng.integers(0, self.sessions, len(events))
        self.counts["sends"] += len(events)
        worker = self.home[sessions].astype(np.int64)
        away = worker == AWAY
        if away.any():
            self._miss(sessions[away])
            at, events, worker = at[~away], events[~away], worker[~away]
        return events, worker, at

    def _miss(self, sessions: Ints) -> None:
        self.counts["missed"] += len(sessions)
        np.add.at(self.missed, np.searchsorted(self.lost, sessions), 1)

    def _alive(self, worker: Ints, done: Floats) -> NDArray[np.bool_]:
        """Whether a job was done before its node was lost, if it was."""
        lost_s = self.story.lost_node_at_s
        if lost_s is None:
            return np.ones(len(worker), np.bool_)
        return (worker >= self.tier.node_workers) | (done <= lost_s)

    def _hand_on(self, events: Ints, done: Floats, fine: NDArray[np.bool_]) -> None:
        """Publishes that were read go to their shards; those that died with their worker are repeated."""
        if not fine.all():
            self.counts["repeated"] += int((~fine).sum())
            self.unread.append(events[~fine])
        self._to_shards(events[fine], done[fine] + self.step_s / 2)

    def _to_shards(self, events: Ints, at: Floats) -> None:
        for number, shard in enumerate(self.shards):
            mine = self.shard[events] == number
            shard.add(at[mine], events[mine])

    def _delivered(self, events: Ints, done: Floats, fine: NDArray[np.bool_]) -> None:
        if not fine.all():
            self.died += int((~fine).sum())
            events, done = events[fine], done[fine]
        self.counts["delivered"] += len(events)
        counted = ~self.is_notice[events] & (self.began[events] >= WARM_S)
        began = self.began[events[counted]]
        self.latencies.append((done[counted] - began).astype(np.float32))
        self.published.append(began.astype(np.float32))

    def _count(self, at: Floats, took: Floats, done: Floats) -> None:
        self.worked_s += float(took.sum())
        self.in_system_s += float((done - at).sum())

    def _notice(self, k: int, before: Floats, worked: Floats) -> None:
        """Sends of a notice take the time in which a worker had nothing else to do."""
        end = (k + 1) * self.step_s
        gaps = np.maximum(self.free - before - worked, 0.0) + np.maximum(end - np.maximum(self.free, before), 0.0)
        gaps = np.where(worked > 0, gaps, np.maximum(end - before, 0.0))
        self.backlog = np.maximum(self.backlog - gaps, 0.0)
        if not self.backlog.any():
            self.told.notice_s = end - (self.story.notice_at_s or 0.0)

    def _commit(self, k: int) -> None:
        known = (k + 1) * self.step_s + self.step_s / 2
        for shard in self.shards:
            for end, events in shard.commit(known):
                at = end + self.step_s / 2
                self.due[max(int(at / self.step_s), k + 1)].append((np.full(len(events), at), events))

    def _happen(self, k: int) -> None:
        """The loss, and the notice, in their steps."""
        story = self.story
        if story.lost_node_at_s is not None and k == round(story.lost_node_at_s / self.step_s):
            self.lost = np.flatnonzero(self.home < self.tier.node_workers)
            self.home[self.lost] = AWAY
            away_s: Floats = self.rng.uniform(0, story.reconnect_spread_s, len(self.lost))
            self.back_at = story.lost_node_at_s + away_s
            self._order = np.argsort(self.back_at)
            self._order_at = self.back_at[self._order]
            self.missed = np.zeros(len(self.lost), np.int32)
            self.counts["lost"] = len(self.lost)
            if self.unread:
                self._hold(np.concatenate(self.unread))
            if self.died:
                self._miss(self.lost[self.rng.integers(0, len(self.lost), self.died)])
        if story.notice_at_s is not None and k == round(story.notice_at_s / self.step_s):
            here = self.home[self.home != AWAY]
            sends = np.bincount(here, minlength=self.workers).astype(np.float64)
            self.backlog = sends * (self.tier.delivery_s * self.stretch)
            self.counts["noticed"] = len(here)

    def run(self) -> Told:
        """The whole story, and on until nothing waits (DRAIN_S at most)."""
        steps = math.ceil(self.story.seconds / self.step_s)
        for k in range(steps + math.ceil(DRAIN_S / self.step_s)):
            self._happen(k)
            self._jobs(k)
            self._commit(k)
            if k >= steps and not self.due and not any(shard.waiting for shard in self.shards):
                break
            if k == steps - 1:
                self._close(steps * self.step_s)
        told = self.told
        told.latencies_s = np.concatenate(self.latencies).astype(np.float64)
        told.at_s = np.concatenate(self.published).astype(np.float64)
        told.counts = dict(self.counts) | {
            "events": len(self.at),
            "committed": sum(shard.committed for shard in self.shards),
            "away": len(self.lost) - self.returned,
            "held_to_the_end": sum(len(one) for kept in self.held.values() for one in kept),
            "missed_by_the_away": int(self.missed[self._order[self.returned :]].sum()) if len(self.lost) else 0,
        }
        return told

    def _close(self, seconds: float) -> None:
        """Means over the story, before the draining."""
        told = self.told
        told.busy = self.worked_s / seconds / self.workers
        told.worker_queue = self.in_system_s / seconds / self.workers
        told.shard_queue = sum(shard.spent_s for shard in self.shards) / seconds / len(self.shards)
        told.shard_queue_max = max(shard.longest for shard in self.shards)
        told.back = self.returned
