"""The search for the capacity, against a model of a server: a queue whose tail is known, with noise and hiccups."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from bench.schema import Generator, Latency, Process, Run
from bench.search import PRECISION, Objective, Search, searchable, shortfall
from bench.workload import Workload, WorkloadError, load

WINDOW_S = 20.0


def latency(p50_ms: float, p99_ms: float, count: int = 10_000) -> Latency:
    """A distribution of which only these are looked at."""
    rest: dict[str, float] = dict.fromkeys(("min_ms", "mean_ms", "p90_ms"), p50_ms)
    return Latency(
        count=count,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        p999_ms=p99_ms,
        p9999_ms=p99_ms,
        max_ms=p99_ms,
        histogram="",
        **rest,
    )


def a_run(offered_per_s: float, p99_ms: float, **changes: Any) -> Run:
    """A run in which everything was answered, if nothing else is said."""
    published = round(offered_per_s * WINDOW_S)
    fields: dict[str, Any] = {
        "started": "2026-01-01T00:00:00Z",
        "connect_s": 1.0,
        "warmup_s": 1.0,
        "window_s": WINDOW_S,
        "drain_s": 0.1,
        "sessions": 10,
        "offered_per_s": offered_per_s,
        "counts": {"published": published, "receipts": published, "refused": 0},
        "faults": {"lost": 0, "doubled": 0},
        "rates_per_s": {"receipts": offered_per_s},
        "latencies": {"deliver": latency(p99_ms / 5, p99_ms)},
        "ticks": [],
        "processes": [],
        "generator": Generator(processes=1, cpu_cores_max=0.2, late_p99_ms=0.1, is_limit=False),
    }
    return Run(**fields | changes)


class Server:
    """M/M/1: p99 of the time in the system is ln(100) / (served − offered), beyond it the window's length."""

    def __init__(self, served_per_s: float, *, seed: int = 0, noise: float = 0.0, hiccups: float = 0.0) -> None:
        self.served_per_s, self.noise, self.hiccups = served_per_s, noise, hiccups
        self.chance = random.Random(seed)
        self.rates: list[float] = []

    def capacity(self, p99_ms: float) -> float:
        """The true answer."""
        return self.served_per_s - math.log(100) * 1_000 / p99_ms

    def __call__(self, workload: Workload) -> Run:
        rate = workload.rate_per_s
        assert rate is not None
        self.rates.append(rate)
        free = self.served_per_s - rate
        p99_ms = math.log(100) / free * 1_000 if free > 0 else WINDOW_S * 1_000
        p99_ms = min(p99_ms, WINDOW_S * 1_000) * math.exp(self.chance.gauss(0, self.noise))
        if self.chance.random() < self.hiccups:
            p99_ms += 500.0
        core = min(rate / self.served_per_s, 1.0)
        busy = Process(
            role="worker",
            name="0",
            pid=1,
            samples=[],
            cpu_cores_mean=core,
            cpu_cores_max=core,
            resident_bytes_max=1,
            threads_cpu_cores={"main": core},
        )
        answered = min(rate, self.served_per_s)
        return a_run(rate, p99_ms, processes=[busy], rates_per_s={"receipts": answered})


LATE = Generator(processes=1, cpu_cores_max=0.99, late_p99_ms=40.0, is_limit=True, reason="0.99 core")
OBJECTIVE = Objective(p99_ms=50.0)


@pytest.mark.parametrize("served", [300.0, 1_900.0, 2_100.0, 60_000.0, 1_500_000.0])
def test_a_quiet_server_is_found_within_the_precision(served: float) -> None:
    """From far below and far above; every run below was met, the first above was not."""
    server = Server(served)
    search = Search(load("dialogs"), OBJECTIVE, server)
    search.run()
    found, true = search.capacity(), server.capacity(OBJECTIVE.p99_ms)
    assert found.rate_per_s is not None and found.spread_per_s is not None
    assert true / (1 + PRECISION) <= found.rate_per_s <= true
    low, high = found.spread_per_s
    assert low == found.rate_per_s <= true < high <= low * (1 + PRECISION)
    assert [point.run for point in found.points] == list(range(len(search.runs)))
    limit = "CPU of worker 0: its thread main used" if served > 1_000 else "nothing was: latency came from elsewhere"
    assert found.saturated.startswith(limit)
    assert sum(point.offered_per_s == found.rate_per_s for point in found.points) >= 3
    text = " ".join(search.conclusions())
    assert f"{found.rate_per_s:,.0f} publishes/s met p99 ≤ 50 ms in " in text and "What was the limit above it" in text


@pytest.mark.parametrize("seed", range(30))
def test_a_noisy_server_is_found_all_the_same(seed: int) -> None:
    """A tail that is off by a fifth in each run, and one run in ten with a hiccup of half a second."""
    server = Server(5_000.0, seed=seed, noise=0.2, hiccups=0.1)
    search = Search(load("dialogs"), OBJECTIVE, server)
    search.run()
    found = search.capacity()
    assert found.rate_per_s is not None and found.spread_per_s is not None
    assert found.rate_per_s == pytest.approx(server.capacity(OBJECTIVE.p99_ms), rel=0.10), f"seed {seed}"
    assert len(found.points) < 40
    at = [point.met for point in found.points if point.offered_per_s == found.rate_per_s]
    assert len(at) >= 3 and sum(at[-3:]) >= 2


def test_one_hiccup_is_no_verdict() -> None:
    """The first run of every rate fails, as if each start disturbed it."""
    server, seen = Server(5_000.0), set[float]()

    def disturbed(workload: Workload) -> Run:
        run = server(workload)
        rate = workload.rate_per_s or 0.0
        if rate in seen or rate > server.capacity(OBJECTIVE.p99_ms):
            return run
        seen.add(rate)
        return a_run(rate, 900.0)

    search = Search(load("dialogs"), OBJECTIVE, disturbed)
    search.run()
    assert search.confirmed == pytest.approx(server.capacity(OBJECTIVE.p99_ms), rel=PRECISION)


def test_a_lucky_rate_is_not_confirmed() -> None:
    """A server that is better in its first runs than later ends with what it holds later."""
    fast, slow = Server(10_000.0), Server(7_000.0)
    search = Search(load("dialogs"), OBJECTIVE, lambda workload: (fast if len(fast.rates) < 9 else slow)(workload))
    search.run()
    assert search.confirmed is not None and search.confirmed < slow.capacity(OBJECTIVE.p99_ms) < 9_000
    assert any(not point.met and point.offered_per_s > search.confirmed for point in search.points)


def test_a_machine_full_of_noise_ends_with_what_most_runs_meet() -> None:
    """Above 400/s two runs of three fail: luck leads the search far up, the confirmation back down."""
    chance = random.Random(5)

    def runs(workload: Workload) -> Run:
        rate = workload.rate_per_s or 0.0
        return a_run(rate, 900.0 if rate > 400 and chance.random() < 0.67 else 20.0)

    search = Search(load("dialogs"), OBJECTIVE, runs)
    search.run()
    found = search.capacity()
    assert search.confirmed is not None and found.spread_per_s is not None
    met = [point.met for point in found.points if point.offered_per_s == search.confirmed]
    assert sum(met[-3:]) >= 2 and found.spread_per_s[0] < found.spread_per_s[1]


def test_no_rate_at_all() -> None:
    search = Search(load("dialogs"), OBJECTIVE, lambda workload: a_run(workload.rate_per_s or 0, 60.0))
    search.run()
    assert search.capacity().rate_per_s is None and search.capacity().spread_per_s is None
    assert min(point.offered_per_s for point in search.points) == pytest.approx(200 / WINDOW_S)
    assert next(search.conclusions()) == "No rate met the objective of p99 ≤ 50 ms; last: p99 60.0 ms."


def test_the_clients_as_the_limit_are_no_capacity_of_the_server() -> None:
    def runs(workload: Workload) -> Run:
        rate = workload.rate_per_s or 0.0
        return a_run(rate, 70.0, generator=LATE) if rate > 9_000 else a_run(rate, 20.0, generator=LATE)

    search = Search(load("dialogs"), OBJECTIVE, runs)
    search.run()
    found = search.capacity()
    assert found.rate_per_s is not None and 9_000 / (1 + PRECISION) <= found.rate_per_s <= 9_000
    assert found.saturated == "generator: 0.99 core"
    assert list(search.conclusions())[-1].startswith("The server may carry more: give the clients more --generators")


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_what_was_found_stays_when_the_search_is_stopped(after: int) -> None:
    server = Server(9_000.0)

    def stopped(workload: Workload) -> Run:
        if len(server.rates) == after:
            raise KeyboardInterrupt
        return server(workload)

    search = Search(load("dialogs"), OBJECTIVE, stopped)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    found = search.capacity()
    assert len(found.points) == len(search.runs) == after
    met = [rate for rate in server.rates if rate < server.capacity(OBJECTIVE.p99_ms)]
    assert found.rate_per_s == max(met, default=None)
    text = " ".join(search.conclusions())
    assert ("not confirmed: the search was stopped" if after else "Nothing was run") in text


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (a_run(1_000, 49.9), ""),
        (a_run(1_000, 50.1), "p99 50.1 ms"),
        (a_run(1_000, 1.0, faults={"lost": 2, "doubled": 0, "disconnected": 1}), "faults: 2 lost, 1 disconnected"),
        (a_run(1_000, 1.0, counts={"published": 20_000, "refused": 21}), "21 of 20000 publishes refused"),
        (a_run(1_000, 1.0, counts={"published": 20_000, "refused": 20}), ""),
        (a_run(1_000, 49.0, generator=LATE), ""),  # it is in the 49 ms
        (a_run(1_000, 51.0, generator=LATE), "p99 51.0 ms, but the clients were the limit: 0.99 core"),
        (a_run(1_000, 1.0, latencies={}), "nothing was delivered"),
        (a_run(1_000, 1.0, rates_per_s={"receipts": 950.0}), "950 publishes/s answered of 1,000 offered"),
        (a_run(1_000, 1.0, rates_per_s={"receipts": 979.0}), ""),
        (a_run(5, 1.0, rates_per_s={"receipts": 4.0}), ""),  # random arrivals: a hundred of them may be eighty
    ],
)
def test_why_a_run_falls_short(run: Run, why: str) -> None:
    assert shortfall(run, OBJECTIVE) == why


@pytest.mark.parametrize(
    ("name", "words"), [("append", "goes as fast as it can"), ("read", "goes as fast"), ("idle", "nobody writes in it")]
)
def test_a_load_without_a_rate_is_refused(name: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        searchable(load(name))


def test_rates_of_a_profile_are_those_of_its_factor_one() -> None:
    morning = load("class-morning")

    def runs(workload: Workload) -> Run:
        offered = workload.offered_per_s or 0.0
        return a_run(offered, 80.0 if (workload.rate_per_s or 0) > 5_000 else 2.0)

    search = Search(morning, OBJECTIVE, runs)
    search.run()
    assert search.confirmed == pytest.approx(5_000, rel=PRECISION)
    assert all(point.achieved_per_s == pytest.approx(point.offered_per_s) for point in search.points)
    assert any("profile" in line for line in search.conclusions())
