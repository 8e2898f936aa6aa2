"""Reports as a machine might have written them, from a seed: a warm-up, a stall of the disk, a restarted worker.

For tests of what is drawn and compared, which need shapes, not measurements. Latencies are lognormal around a level
that falls in the warm-up and rises in a stall; ticks, heat and histograms come from the same drawn values, so that a
chart of one agrees with a chart of another.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from bench import schema
from bench.schema import (
    Capacity,
    Comparison,
    Difference,
    Generator,
    Growth,
    Latency,
    Machine,
    Measure,
    PeerRow,
    Point,
    Process,
    Report,
    Run,
    Sample,
    Side,
    Target,
    Tick,
)

DRAWN = 800  # latencies a tick; the counts of a real run are larger, their shape is the same
MIB = 2**20


def latency(values_ms: Any) -> Latency:
    """A distribution of given values."""
    histogram = HdrHistogram(schema.HISTOGRAM_LOWEST_NS, schema.HISTOGRAM_HIGHEST_NS, schema.HISTOGRAM_DIGITS)
    us = np.maximum(np.asarray(values_ms) * 1e3, 1)
    digit = 10 ** (np.floor(np.log10(us)) - 2)  # the third, which is as fine as a histogram
    whole, counts = np.unique((np.round(us / digit) * digit).astype(int), return_counts=True)
    for value, count in zip(whole.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value * 1_000, count)
    quantiles = {
        name: histogram.get_value_at_percentile(percent) / 1e6
        for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("p999", 99.9), ("p9999", 99.99))
    }
    return Latency(
        count=histogram.get_total_count(),
        min_ms=histogram.get_min_value() / 1e6,
        mean_ms=histogram.get_mean_value() / 1e6,
        max_ms=histogram.get_max_value() / 1e6,
        histogram=histogram.encode().decode("ascii"),
        **{f"{name}_ms": value for name, value in quantiles.items()},
    )


def heat(values_ms: Any) -> list[tuple[int, int]]:
    """The buckets of a tick."""
    buckets = np.floor(4 * np.log2(np.maximum(np.asarray(values_ms) * 1e3, 1.0))).astype(int)
    return sorted(Counter(buckets.tolist()).items())


def run(
    seed: int = 1, *, window_s: int = 60, level_ms: float = 1.0, offered_per_s: float = 12_000.0,
    calm: bool = False, workers: int = 2, **changes: Any,
) -> Run:  # fmt: skip
    """One run of a mix: warm-up of 5 s, a stall at a third, a worker that is away for 3 s at two thirds; or calm."""
    random = np.random.default_rng(seed)
    stall, away, ticks, all_ms = window_s // 3, 2 * window_s // 3, [], []
    for second in range(-5, window_s + 3):
        level = level_ms * (1 + 2 * max(-second, 0) / 5) * (1 + 0.03 * random.standard_normal())
        values = random.lognormal(np.log(level), 0.45, DRAWN)
        rate = offered_per_s * (1 + 0.005 * random.standard_normal()) if second < window_s else 200.0
        if second == stall and not calm:
            values[: DRAWN // 5] = random.uniform(20, 180, DRAWN // 5) * level_ms
        if away <= second < away + 3 and not calm:
            rate, values = rate * 0.6, values * 2.2
        elif away + 3 <= second < away + 6 and not calm:
            rate *= 1.4
        ticks.append(
            Tick(
                at_s=float(second + 1),
                rates_per_s={
                    "published": rate,
                    "receipts": rate * (1 + 0.001 * random.standard_normal()),
                    "deliveries": rate * 18.0,
                    "bytes_in": rate * 18 * 231.0,
                },
                p50_ms=float(np.quantile(values, 0.5)),
                p99_ms=float(np.quantile(values, 0.99)),
                max_ms=float(values.max()),
                heat=heat(values),
            )
        )
        if 0 <= second < window_s:
            all_ms.append(values)
    every = np.concatenate(all_ms)
    inside = [tick for tick in ticks if 0 < tick.at_s <= window_s]
    rates = {name: float(np.mean([tick.rates_per_s[name] for tick in inside])) for name in inside[0].rates_per_s}
    fields: dict[str, Any] = {
        "started": "2026-11-25T17:00:00Z",
        "connect_s": 2.4,
        "warmup_s": 5.0,
        "window_s": float(window_s),
        "drain_s": 2.2,
        "sessions": 5_000,
        "offered_per_s": offered_per_s,
        "counts": {name: round(rate * window_s) for name, rate in rates.items()} | {"refused": 0, "gaps": 0},
        "faults": dict.fromkeys(("lost", "doubled", "disordered", "corrupted", "unmatched", "disconnected"), 0),
        "rates_per_s": rates,
        "latencies": {
            "deliver": latency(every),
            "receipt": latency(every * 0.7),
            "late": latency(random.lognormal(-3, 0.6, 4_000)),
        },
        "ticks": ticks,
        "processes": processes(random, window_s, workers, away),
        "generator": Generator(processes=2, cpu_cores_max=0.61, late_p99_ms=0.4, is_limit=False),
        "values": {"memory_user_bytes": 780.0, "connects_per_s": 2_080.0},
        "saturated": "sequencer, thread lmdb-writer: 0.93 cores of 1 (limit from 0.90)",
        "resources": {
            "machine_cores": 4.0,
            "machine_cpu_cores": 2.9,
            "machine_cpu_max_cores": 3.6,
            "machine_iowait_cores": 0.11,
            "disk_write_bytes_per_s": 9.4 * MIB,
            "disk_flushes_per_s": 410.0,
            "disk_busy_share": 0.41,
            "network_loopback_bytes_per_s": 61.0 * MIB,
        },
    }
    return Run(**(fields | changes))


def processes(random: Any, window_s: int, workers: int, away: int) -> list[Process]:
    """Sequencer, workers (the last starts again under another pid) and two generators."""
    found = [_process(random, "sequencer", "sequencer", 4_001, 0.9, 180, range(-8, window_s + 3))]
    for number in range(1, workers + 1):
        seconds = range(-8, window_s + 3 if number < workers else away)
        found.append(_process(random, "worker", f"worker {number}", 4_010 + number, 0.45, 120, seconds))
    found.append(_process(random, "worker", f"worker {workers}", 4_050, 0.5, 90, range(away + 3, window_s + 3)))
    for number in (1, 2):
        found.append(
            _process(random, "generator", f"generator {number}", 4_100 + number, 0.55, 60, range(-8, window_s + 3))
        )
    return found


def _process(random: Any, role: str, name: str, pid: int, cores: float, mib: float, seconds: range) -> Process:
    samples = [
        Sample(
            at_s=float(second),
            cpu_cores=max(cores * (0.3 if second < -5 else 1.0) * (1 + 0.06 * random.standard_normal()), 0.0),
            resident_bytes=round((mib + 0.4 * (second + 8)) * MIB),
            anonymous_bytes=round(mib * 0.7 * MIB),
            descriptors=2_500 if role != "sequencer" else 40,
        )
        for second in seconds
    ]
    return Process(
        role=role,
        name=name,
        pid=pid,
        samples=samples,
        cpu_cores_mean=float(np.mean([sample.cpu_cores for sample in samples])),
        cpu_cores_max=max(sample.cpu_cores for sample in samples),
        resident_bytes_max=max(sample.resident_bytes for sample in samples),
        threads_cpu_cores={"main": cores * 0.8},
    )


MACHINE = Machine(
    cpu="AMD EPYC 7B13",
    cores=4,
    memory_gib=23.5,
    kernel="6.1.0-28-amd64",
    system="Debian GNU/Linux 12 (bookworm)",
    filesystem="ext4",
    python="3.11.7",
    versions={"gonets": "0.1.0", "lmdb": "3.0.0", "uvloop": "0.22.1"},
    commit="5018d0e3a1b2",
    load_1min_at_start=0.3,
)


def report(kind: str = "run", **changes: Any) -> Report:
    """A report around parts."""
    values: dict[str, Any] = {
        "kind": kind,
        "name": "evening-peak",
        "title": "A mix of dialogs, groups and channels",
        "command": ["gonets", "bench", kind, "evening-peak", "--runs", "3"],
        "started": "2026-11-25T17:00:00Z",
        "seconds": 231.4,
        "seed": 1,
        "machine": MACHINE,
        "target": Target(
            url="ws://127.0.0.1:41001/", workers=2, durability="fsync", configuration={"gateway.rate_per_s": 1_000_000}
        ),
        "workload": {
            "name": "evening-peak",
            "run": {"window_s": 60},
            "streams": [{"name": "dialogs", "rate_per_s": 1_000}],
        },
    }
    return Report(**(values | changes))


@cache
def of_runs(count: int = 3, **changes: Any) -> Report:
    """Kind `run`."""
    runs = [run(seed, level_ms=1.0 + 0.05 * seed, **changes) for seed in range(1, count + 1)]
    return report("run", runs=runs, conclusions=["What limits it is the one thread that writes."])


@cache
def of_capacity() -> Report:
    """The knee at 24,000/s of an objective of 50 ms."""
    runs, points = [], []
    for number, offered in enumerate((4_000, 8_000, 16_000, 20_000, 22_000, 24_000, 26_000, 32_000)):
        busy = min(offered / 24_800, 0.995)
        one = run(number, window_s=12, level_ms=0.5 / (1 - busy), offered_per_s=float(offered), calm=True)
        runs.append(one)
        p99 = one.latencies["deliver"].p99_ms
        saturated = "sequencer, thread lmdb-writer: 0.97 cores of 1" if offered > 20_000 else ""
        points.append(
            Point(
                offered_per_s=float(offered),
                achieved_per_s=min(float(offered), 25_300.0),
                p50_ms=one.latencies["deliver"].p50_ms,
                p99_ms=p99,
                met=p99 <= 50,
                saturated=saturated,
                run=number,
            )
        )
    best = max(point.offered_per_s for point in points if point.met)
    worst = min(point.offered_per_s for point in points if not point.met)
    found = Capacity(
        objective_p99_ms=50.0,
        rate_per_s=best,
        spread_per_s=(best, worst),
        saturated="sequencer, thread lmdb-writer: 0.97 cores of 1",
        points=points,
    )
    return report("capacity", runs=runs, capacity=found)


@cache
def of_soak() -> Report:
    """Two hours: memory of a worker grows, all else is steady."""
    random = np.random.default_rng(5)
    at = np.arange(0, 7_200, 20.0)
    shapes = (
        ("resident memory of worker 1", "bytes", 130 * MIB, 21 * MIB, 2 * MIB, True),
        ("resident memory of the sequencer", "bytes", 180 * MIB, 0.1 * MIB, 2 * MIB, False),
        ("descriptors of worker 1", "descriptors", 2_510.0, 0.0, 10.0, False),
        ("lag of the tail", "events", 3.0, 0.01, 50.0, False),
        ("disk that the log holds", "bytes", 2 * 2**30, 410 * MIB, 500 * MIB, False),
    )
    growth = [
        Growth(
            name=name,
            unit=unit,
            samples=[
                (float(second), float(base + slope * second / 3_600 + base * 0.01 * random.standard_normal()))
                for second in at
            ],
            per_hour=slope,
            limit_per_hour=limit,
            grows=grows,
        )
        for name, unit, base, slope, limit, grows in shapes
    ]
    return report("soak", runs=[run(3, window_s=240)], growth=growth)


@cache
def of_peers() -> Report:
    """Jobs on five systems, two of which aren't there for some."""
    rows = []
    jobs = (
        ("fanout-1000", "deliveries/s", (3.1e6, 1.9e6, 2.4e6, 0.5e6)),
        ("append-1", "events/s", (21_000, 9_100, 11_000, None)),
        ("append-1000", "events/s", (1.4e6, 0.2e6, 0.4e6, None)),
        ("latency", "ms", (0.61, 0.9, 0.7, 1.8)),
        ("memory", "bytes", (760.0, 9_800.0, 24_000.0, 5_300.0)),
    )
    systems = (
        ("Gonets", "0.1.0", "fsync each group"),
        ("Redis Streams", "7.0.15", "AOF always"),
        ("NATS JetStream", "2.10.7", "sync_interval: always"),
        ("Mosquitto", "2.0.11", "none"),
    )
    for job, unit, values in jobs:
        for (system, version, durability), value in zip(systems, values, strict=True):
            if value is None:
                rows.append(
                    PeerRow(
                        job=job, system=system, version=version, durability=durability, unit=unit,
                        missing="has no durable log: nothing to measure",
                    )
                )  # fmt: skip
                continue
            runs = [value * factor for factor in (0.96, 1.0, 1.03, 0.99, 1.01)]
            more = {"p50_ms": value, "p99_ms": value * 3.2} if job == "latency" else {"generator_cpu_cores": 0.7}
            rows.append(
                PeerRow(
                    job=job, system=system, version=version, durability=durability, unit=unit, runs=runs, values=more
                )
            )
        rows.append(
            PeerRow(
                job=job, system="Centrifugo", version="", durability="", unit=unit,
                missing="not installed, get it by downloading its release for Linux",
            )
        )  # fmt: skip
    return report("peers", name="peers", title="The same jobs on what one would pick instead", peers=rows)


@cache
def of_measures() -> Report:
    """Rows beside their limit and target."""
    return report(
        "measure",
        name="append",
        title="Durable appends without sockets",
        measures=[
            Measure(
                name="append, 1,000 a commit",
                unit="events/s",
                value=1.31e6,
                runs=[1.28e6, 1.31e6, 1.33e6, 1.30e6, 1.32e6],
                limit=1.62e6,
                target=1.215e6,
                durability="fsync",
            ),
            Measure(name="open after kill -9", unit="s", value=0.42, runs=[0.41, 0.42, 0.44], note="2,000,000 events"),
        ],
    )


def of_comparison(**changes: Any) -> Report:
    """Two refs, six runs each."""
    random = np.random.default_rng(9)

    def around(level: float) -> list[float]:
        return [float(level * (1 + 0.02 * random.standard_normal())) for _ in range(6)]

    differences = [
        Difference(
            name="deliveries", unit="/s", better="higher", a=around(2.1e5), b=around(1.9e5), ratio=0.905,
            ratio_low=0.871, ratio_high=0.931, p=0.0186, verdict="slower",
        ),
        Difference(
            name="deliver p99", unit="ms", better="lower", a=around(4.1), b=around(3.4), ratio=0.829, ratio_low=0.801,
            ratio_high=0.861, p=0.0186, verdict="faster",
        ),
        Difference(
            name="server CPU", unit="cores", better="lower", a=around(1.3), b=around(1.31), ratio=1.008,
            ratio_low=0.981, ratio_high=1.034, p=1.0, verdict="can't tell",
        ),
    ]  # fmt: skip
    values: dict[str, Any] = {
        "a": Side(name="v1.4", commit="a1b2c3d4e5f6"),
        "b": Side(name="main", commit="5018d0e3a1b2"),
        "interleaved": True,
        "threshold_share": 0.03,
        "differences": differences,
    }
    return report("compare", comparison=Comparison(**(values | changes)))
