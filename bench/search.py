"""The search for the highest rate at which a load still meets its objective; and why not a higher one.

Used by capacity.py, which runs each point against a server. From the workload's own rate it doubles or halves until one
rate meets the objective and another doesn't, halves the distance between them (as a ratio) down to 5 %, and runs the
found rate again, or lower ones, until most runs confirm it. Rates are the workload's rate_per_s: where profiles are 1.

A machine has hiccups: a run that fails is run again, and of three the majority counts; before the end the rate above is
looked at once more. What was seen stays when the search is stopped at any moment.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from bench.sampling import saturated
from bench.schema import Capacity, Point, Run
from bench.workload import RATE_PER_S_MAX, Workload, WorkloadError

RunOnce = Callable[[Workload], Run]
Say = Callable[[str], None]

PRECISION: Final = 0.05
CONFIRMATIONS: Final = 3
REFUSED_SHARE_MAX: Final = 0.001
ACHIEVED_SHARE_MIN: Final = 0.98
PUBLISHES_MIN: Final = 200  # in a window; of fewer the 99th percentile says nothing
STEPS_DOWN: Final = (1.0, 1.05, 1.1, 1.2, 1.4)  # from a rate that was not confirmed; then 2, 4, 8 …
RUNS_OF_A_VERDICT: Final = 3  # at most; two that agree are enough


class Objective(NamedTuple):
    """What a run must meet."""

    p99_ms: float
    refused_share_max: float = REFUSED_SHARE_MAX


def shortfall(run: Run, objective: Objective) -> str:
    """Why a run doesn't meet the objective; empty if it does.

    Latency counts from when a publish was due, so clients that are late make it worse, never better: a run that meets
    the objective with them meets it. One that doesn't is not laid to the server.
    """
    faults = [f"{count} {name}" for name, count in run.faults.items() if count]
    if faults:
        return f"faults: {', '.join(faults)}"
    published, refused = run.counts.get("published", 0), run.counts.get("refused", 0)
    if refused > objective.refused_share_max * published:
        return f"{refused} of {published} publishes refused"
    deliver = run.latencies.get("deliver")
    if deliver is None or not deliver.count:
        return "nothing was delivered"
    clients = f", but the clients were the limit: {run.generator.reason}" if run.generator.is_limit else ""
    if deliver.p99_ms > objective.p99_ms:
        return f"p99 {deliver.p99_ms:.1f} ms{clients}"
    offered, achieved = run.offered_per_s or 0.0, achieved_per_s(run)
    chance = 3 * math.sqrt(offered * run.window_s) / run.window_s  # of random arrivals, three deviations
    if achieved < ACHIEVED_SHARE_MIN * offered - chance:
        return f"{achieved:,.0f} publishes/s answered of {offered:,.0f} offered{clients}"
    return ""


def achieved_per_s(run: Run) -> float:
    """Publishes that were answered with a position, a second."""
    return run.rates_per_s.get("receipts", 0.0)


def searchable(workload: Workload) -> None:
    """Raises WorkloadError for a load that has no rate to search."""
    if workload.kind != "sockets":
        raise WorkloadError(
            f"workload {workload.name}: of kind {workload.kind!r}, which goes as fast as it can: there is nothing to"
            f" search; `gonets bench run {workload.name}` says its rate"
        )
    if workload.rate_per_s is None:
        what = "nobody writes in it" if not workload.streams else "it is a closed loop, which waits for each answer"
        raise WorkloadError(
            f"workload {workload.name}: {what}: there is no rate to search; give its streams a rate_per_s, or `gonets"
            f" bench run {workload.name}`"
        )


class Search:
    """One search; what it has found can be asked at any moment."""

    def __init__(
        self,
        workload: Workload,
        objective: Objective,
        run_once: RunOnce,
        say: Say = lambda line: None,
        *,
        confirmations: int = CONFIRMATIONS,
    ) -> None:
        searchable(workload)
        self._workload, self._objective = workload, objective
        self._run_once, self._say = run_once, say
        self._confirmations = confirmations
        self.runs: list[Run] = []
        self.points: list[Point] = []
        self.shortfalls: list[str] = []  # of each point; empty where it was met
        self.confirmed: float | None = None
        self.over = False  # the search came to its end, with a rate or without one

    def run(self) -> None:
        """All of it. Whatever `run_once` raises goes through; what was found until then stays."""
        found = self._bracket()
        while found is not None:
            low, high = self._bisect(*found)
            found = None
            if high is not None and self._met(high, at_once=False):
                found = self._climb(high)  # what failed there was the machine
            else:
                self._confirm(low)
        self.over = True

    def _bracket(self) -> tuple[float, float | None] | None:
        """(met, not met); no upper end if the highest rate there is was met; None if none was met."""
        rate = self._workload.rate_per_s or 0.0
        lowest = PUBLISHES_MIN / self._workload.run.window_s
        if self._met(rate):
            return self._climb(rate, 2.0)
        while rate > lowest:
            lower = max(rate / 2, lowest)
            if self._met(lower):
                return lower, rate
            rate = lower
        return None

    def _climb(self, low: float, step: float = 1 + 2 * PRECISION) -> tuple[float, float | None]:
        """From a rate that is met, in growing steps, to one that is not."""
        while low < RATE_PER_S_MAX:
            higher = min(low * step, RATE_PER_S_MAX)
            if not self._met(higher):
                return low, higher
            low, step = higher, min(step * step, 2.0)
        return low, None

    def _bisect(self, low: float, high: float | None) -> tuple[float, float | None]:
        """The highest known to be met, and one that is not at most 5 % above it."""
        while high is not None and high / low > 1 + PRECISION:
            middle = math.sqrt(low * high)
            if self._met(middle):
                low = middle
            else:
                high = middle
        return low, high

    def _met(self, rate: float, at_once: bool = True) -> bool:
        """The verdict on a rate: the first run if it meets it (`at_once`), else two of three."""
        met = failed = 0
        while max(met, failed) <= RUNS_OF_A_VERDICT // 2:
            if self._point(rate):
                met += 1
                if at_once and not failed:
                    return True
            else:
                failed += 1
        return met > failed

    def _confirm(self, rate: float) -> None:
        """At this rate or, where most runs fail, at lower ones, down to where a search would end."""
        lowest = PUBLISHES_MIN / self._workload.run.window_s
        steps = itertools.chain(STEPS_DOWN, (2.0**power for power in itertools.count(1)))
        for lower in itertools.takewhile(lambda lower: lower >= min(lowest, rate), (rate / step for step in steps)):
            met = failed = 0
            while met + failed < self._confirmations and 2 * failed <= self._confirmations:
                if self._point(lower):
                    met += 1
                else:
                    failed += 1
            if met > failed:
                self.confirmed = lower
                return
            self._say(f"{lower:,.0f}/s is not confirmed: {failed} of {met + failed} runs fell short of the objective")

    def _point(self, rate: float) -> bool:
        scaled = self._workload.scaled(rate_per_s=rate)
        run = self._run_once(scaled)
        why = shortfall(run, self._objective)
        deliver = run.latencies.get("deliver")
        self.runs.append(run)
        self.shortfalls.append(why)
        self.points.append(
            Point(
                offered_per_s=rate,
                achieved_per_s=achieved_per_s(run) * rate / (scaled.offered_per_s or rate),
                p50_ms=deliver.p50_ms if deliver else 0.0,
                p99_ms=deliver.p99_ms if deliver else 0.0,
                met=not why,
                saturated=run.saturated or saturated(run),
                run=len(self.runs) - 1,
            )
        )
        said = f"p99 {deliver.p99_ms:.1f} ms" if deliver else "no deliveries"
        self._say(f"{rate:,.0f}/s: {said}: " + (f"not met ({why})" if why else "met"))
        return not why

    def capacity(self) -> Capacity:
        """What is known now: the confirmed rate, or while there is none the highest that met the objective."""
        rate = self.confirmed
        if rate is None and not self.over:
            rate = max((point.offered_per_s for point in self.points if point.met), default=None)
        return Capacity(
            objective_p99_ms=self._objective.p99_ms,
            rate_per_s=rate,
            spread_per_s=self._spread() if rate is not None else None,
            saturated=self._limit(rate),
            points=list(self.points),
        )

    def _spread(self) -> tuple[float, float]:
        """Up to the first every run met it; from the second on none did. Between them it was a matter of luck."""
        met = [point.offered_per_s for point in self.points if point.met]
        failed = [point.offered_per_s for point in self.points if not point.met]
        below = [rate for rate in met if rate < min(failed, default=math.inf)]
        return max(below, default=min(failed + met)), min(self._failed_above(), default=max(met))

    def _failed_above(self) -> list[float]:
        """Rates above all that were met."""
        highest = max((point.offered_per_s for point in self.points if point.met), default=0.0)
        return [point.offered_per_s for point in self.points if point.offered_per_s > highest]

    def _limit(self, rate: float | None) -> str:
        """What was the limit at the lowest rate above that failed; that is what saturates first."""
        above = [point for point in self.points if not point.met and (rate is None or point.offered_per_s > rate)]
        if not above:
            return ""
        return min(above, key=lambda point: point.offered_per_s).saturated

    def conclusions(self) -> Iterator[str]:
        """For people, one sentence each."""
        found, ms = self.capacity(), self._objective.p99_ms
        if found.rate_per_s is None:
            words = "No rate met" if self.points else "Nothing was run, so no rate met"
            often = " in most of its runs" if any(point.met for point in self.points) else ""
            why = next((why for why in reversed(self.shortfalls) if why), "")
            yield f"{words} the objective of p99 ≤ {ms:g} ms{often}" + (f"; last: {why}." if why else ".")
        elif self.confirmed is None:
            yield f"{found.rate_per_s:,.0f} publishes/s met p99 ≤ {ms:g} ms, not confirmed: the search was stopped."
        else:
            at = [point for point in self.points if point.offered_per_s == self.confirmed]
            values, met = [point.p99_ms for point in at], sum(point.met for point in at)
            yield (
                f"{self.confirmed:,.0f} publishes/s met p99 ≤ {ms:g} ms in {met} of {len(at)} runs:"
                f" p99 {statistics.median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})."
            )
        if found.spread_per_s is not None and self._failed_above():
            low, high = found.spread_per_s
            yield f"Up to {low:,.0f}/s every run met it, from {high:,.0f}/s on none did."
        if any(stream.profile for stream in self._workload.streams):
            yield "The load follows a profile: rates are those of its factor 1, not the mean of the window."
        if found.saturated:
            yield f"What was the limit above it: {found.saturated}."
            if found.saturated.startswith("generator"):
                yield "The server may carry more: give the clients more --generators, or a machine of their own."
