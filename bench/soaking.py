"""The soak: windows of one load against one server for hours, and what of it grows.

Used by soak.py, which brings the server. Memory, descriptors and threads are taken from the samples within the windows,
because between two of them the sessions are away; latency is one value a window; disk and lag come from soak_watch.py.
After each window everything is saved. The first fifth, at most half an hour, fills caches and is left out; of memory
all that is before each worker's ring of frames was full once.

Invariant: a soak that ends early has judged what it saw, and is marked partial.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from bench.growth import HOUR_S, Judged, Quantity, judge
from bench.saturation import CLIENT
from bench.schema import Run, Sample
from bench.soak_watch import Look
from bench.workload import Workload

SETTLE_SHARE: Final = 0.2
SETTLE_S_MAX: Final = 1_800.0
MIB: Final = float(1 << 20)

MEMORY: Final = Quantity("memory of its own", "bytes", "lowest", 4 * MIB, 0.02, 8 * MIB)
RESIDENT: Final = Quantity("resident memory, with pages of log files", "bytes", "lowest", 0.0, None)
DESCRIPTORS: Final = Quantity("descriptors", "descriptors", "lowest", 5.0, 0.01, 10.0)
THREADS: Final = Quantity("threads", "threads", "lowest", 2.0, 0.0, 1.0)
LATENCY: Final = Quantity("p99 of deliveries", "ms", "middle", 1.0, 0.1, 1.0)
LAG: Final = Quantity("lag of the tail", "events", "middle", 100.0, 0.1, 100.0)
DISK: Final = Quantity("disk for each event", "bytes", "middle", 20.0, 0.05)

Points = list[tuple[float, float]]


class Seen(Protocol):
    """What is looked at from outside."""

    looks: list[Look]


def settle_s(seconds: float) -> float:
    """What at the begin of a soak of this length is no part of the verdict."""
    return min(SETTLE_SHARE * seconds, SETTLE_S_MAX)


class Soak:
    """One soak; what it knows can be asked at any moment."""

    def __init__(
        self,
        workload: Workload,
        seconds: float,
        run_window: Callable[[Workload], Run],
        watch: Seen,
        after_window: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        workers: int = 1,
    ) -> None:
        """`workers`: each of them has a ring of frames, which holds every event."""
        self._workload, self._seconds, self._run_window = workload, seconds, run_window
        self._watch, self._after_window, self._clock = watch, after_window, clock
        self._began, self._workers = clock(), max(workers, 1)
        self.runs: list[Run] = []
        self._windows: list[float] = []  # when the window of each run began, since the soak's begin

    def run(self) -> None:
        """Until the time is over. Whatever `run_window` raises goes through; what was found until then stays."""
        while self._clock() - self._began < self._seconds:
            run = self._run_window(self._workload)
            self.runs.append(run)
            self._windows.append(max(self._clock() - self._began - run.drain_s - run.window_s, 0.0))
            self._after_window()

    def judged(self) -> list[Judged]:
        """Every quantity of which anything was seen."""
        settled = settle_s(self._seconds)
        found = {
            MEMORY: self._summed(lambda sample: sample.anonymous_bytes),
            RESIDENT: self._summed(lambda sample: sample.resident_bytes),
            DESCRIPTORS: self._summed(lambda sample: sample.descriptors),
            THREADS: self._summed(lambda sample: sample.threads),
            LATENCY: self._latencies(),
            LAG: [(at, lag) for at, lag in self._looks("lag_events") if self._within(at)],
            DISK: self._disk(),
        }
        filled = self.ring_filled_s()
        since = {MEMORY: max(settled, math.inf if filled is None else filled)}
        return [judge(one, series, since.get(one, settled)) for one, series in found.items() if series]

    def ring_filled_s(self) -> float | None:
        """When a ring had been filled once: until then memory comes to it. None: not yet; 0 where it is not known."""
        rings, logged = self._looks("ring_bytes"), self._looks("logged_bytes")
        if not rings or not logged:
            return 0.0
        return next((at for at, value in logged if value >= rings[-1][1] / self._workers), None)

    def _summed(self, of: Callable[[Sample], float]) -> Points:
        """Over the server's processes, at each look within a window that is whole: the last may be cut off."""
        found: Points = []
        for run, began in zip(self.runs, self._windows, strict=True):
            servers = [process for process in run.processes if process.role != CLIENT]
            merged = sorted(
                (sample.at_s, number, of(sample))
                for number, process in enumerate(servers)
                for sample in process.samples
                if 0 <= sample.at_s <= run.window_s
            )
            look: dict[int, float] = {}
            for at_s, number, value in merged:
                if number in look:  # a process comes again: the next look has begun
                    found.append((began + at_s, sum(look.values())))
                    look = {}
                look[number] = value
        return found

    def _latencies(self) -> Points:
        pairs = ((began, run.latencies.get("deliver")) for run, began in zip(self.runs, self._windows, strict=True))
        return [(began, latency.p99_ms) for began, latency in pairs if latency is not None and latency.count]

    def _looks(self, name: str) -> Points:
        every = ((look.at - self._began, getattr(look, name)) for look in list(self._watch.looks))
        return [(at, float(value)) for at, value in every if value is not None]

    def _disk(self) -> Points:
        used, stored = dict(self._looks("disk_bytes")), dict(self._looks("stored_events"))
        return [(at, used[at] / stored[at]) for at in used if stored.get(at)]

    def _within(self, at: float) -> bool:
        """Whether the load was on."""
        return any(began <= at <= began + run.window_s for run, began in zip(self.runs, self._windows, strict=True))

    def disk_bytes_per_hour(self) -> float | None:
        """How fast the data directory grows, over all of the soak."""
        used = self._looks("disk_bytes")
        if len(used) < 2 or used[-1][0] <= used[0][0]:
            return None
        return (used[-1][1] - used[0][1]) / (used[-1][0] - used[0][0]) * HOUR_S

    def faults(self) -> dict[str, int]:
        """Sums over the windows; empty is the rule."""
        sums: dict[str, int] = {}
        for run in self.runs:
            for name, count in run.faults.items():
                sums[name] = sums.get(name, 0) + count
        return {name: count for name, count in sums.items() if count}

    def conclusions(self, judged: Sequence[Judged]) -> Iterator[str]:
        """For people, one sentence each: the verdict first."""
        if not self.runs:
            yield "No window was finished: nothing is known."
            return
        grows = [one.growth.name for one in judged if one.verdict == "grows"]
        unknown = [one.growth.name for one in judged if one.verdict == "can't tell"]
        hours = (self._windows[-1] + self.runs[-1].window_s) / HOUR_S
        if grows:
            yield f"In {hours:.2f} hours something grew: {', '.join(grows)}."
        else:
            windows = f"{len(self.runs)} window{'s' if len(self.runs) != 1 else ''}"
            yield f"In {hours:.2f} hours ({windows}) nothing was found to grow."
        if unknown:
            yield f"Of this too little was seen for a verdict: {', '.join(unknown)}; a longer soak would tell."
        if self.ring_filled_s() is None:
            yield "The ring of frames was not full yet, so memory has no verdict: soak longer, or at a higher rate."
        faults = ", ".join(f"{count} {name}" for name, count in self.faults().items())
        yield f"Faults in all windows: {faults or 'none'}."
        if grows and (culprit := self._largest_growth()):
            yield culprit
        yield from (one.sentence for one in judged)
        if (per_hour := self.disk_bytes_per_hour()) is not None:
            yield f"The data directory grew by {per_hour / (1 << 30):.3f} GiB an hour, as a log does."

    def _largest_growth(self) -> str:
        """Which process has come to hold most, from the first window after the settling to the last."""
        settled = settle_s(self._seconds)
        counted = [run for run, began in zip(self.runs, self._windows, strict=True) if began >= settled]
        if len(counted) < 2:
            return ""
        first, last = (
            {(one.role, one.name): one.samples[-1].anonymous_bytes for one in run.processes if one.samples}
            for run in (counted[0], counted[-1])
        )
        more = {who: last[who] - first[who] for who in last if who in first and who[0] != CLIENT}
        if not more:
            return ""
        who = max(more, key=lambda one: more[one])
        return f"Most memory came to {' '.join(who)}: {more[who] / MIB:.1f} MiB."
