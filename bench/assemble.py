"""From what a fleet has counted to the Run of a report: histograms, ticks, faults, and whether the clients kept up.

Used by drive.py when everything has ended, or as much of it as there is. Histograms of all processes and streams are
added bucket by bucket and encoded by the HdrHistogram library, whose layout they have.

The clients are the limit of a run, not the server, when the busiest of their threads had more than 0.9 of a core, or
when a publish left so late, at the 99th percentile, that it is more than a tenth of the 99th percentile of deliveries
(and more than a millisecond): then that latency is the clients' own to a part that can't be told apart.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from hdrh.histogram import HdrHistogram

from bench.fleet import Moment
from bench.fleet_wire import Result
from bench.schema import HISTOGRAM_DIGITS, HISTOGRAM_HIGHEST_NS, HISTOGRAM_LOWEST_NS, Generator, Latency, Tick

THREAD_CORES: Final = 0.9
LATE_SHARE: Final = 0.1
LATE_MS: Final = 1.0
HEAT_PER_OCTAVE: Final = 4
TICK_NS: Final = 1_000_000_000
RATES: Final = {
    "published": "sent",
    "receipts": "receipts",
    "refused": "refused",
    "deliveries": "deliveries",
    "connects": "connects",
    "resumes": "resumes",
    "bytes_in": "bytes_in",
}
FAULTS: Final = ("doubled", "disordered", "corrupted", "unmatched")
QUANTILES: Final = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9, "p9999_ms": 99.99}


def histogram(counters: Iterable[bytes]) -> HdrHistogram:
    """Several processes' (index, count) pairs as one."""
    found = HdrHistogram(HISTOGRAM_LOWEST_NS, HISTOGRAM_HIGHEST_NS, HISTOGRAM_DIGITS)
    sums: dict[int, int] = {}
    for pairs in counters:
        for index, count in struct.iter_unpack("<QQ", pairs):
            sums[index] = sums.get(index, 0) + count
    for index, count in sums.items():
        found.record_value(found.get_value_from_index(index), count)
    return found


def latency(found: HdrHistogram) -> Latency | None:
    """Its figures; None if nothing was counted."""
    if not found.get_total_count():
        return None
    quantiles = {name: found.get_value_at_percentile(share) / 1e6 for name, share in QUANTILES.items()}
    return Latency(
        count=found.get_total_count(),
        min_ms=found.get_min_value() / 1e6,
        mean_ms=found.get_mean_value() / 1e6,
        max_ms=found.get_max_value() / 1e6,
        histogram=found.encode().decode("ascii"),
        **quantiles,
    )


def latencies(results: Sequence[Result], names: Sequence[str]) -> dict[str, Latency]:
    """Of each kind over all streams, and of deliveries by stream where there are several (`deliver NAME`)."""
    wanted = {"hello": ["hello"], "resume": ["resume"]}
    for kind in ("deliver", "receipt", "refused", "late"):
        wanted[kind] = [f"{kind} {number}" for number in range(len(names))]
    if len(names) > 1:
        wanted |= {f"deliver {name}": [f"deliver {number}"] for number, name in enumerate(names)}
    found = {}
    for kind, parts in wanted.items():
        counters = [result.histograms[part] for result in results for part in parts if part in result.histograms]
        one = latency(histogram(counters))
        if one is not None:
            found[kind] = one
    return found


def ticks(moments: Sequence[Moment], window_ns: int) -> list[Tick]:
    """Second by second; `at_s` is the end of each."""
    return [tick(before, moment, window_ns) for before, moment in itertools.pairwise(moments)]


def tick(before: Moment, moment: Moment, window_ns: int) -> Tick:
    """What lies between two moments."""
    seconds = max((moment.at_ns - before.at_ns) / 1e9, 1e-3)
    rates = {
        name: max(moment.counts.get(count, 0) - before.counts.get(count, 0), 0) / seconds
        for name, count in RATES.items()
    }
    heat: dict[int, int] = {}
    for ns, count in moment.deliver.items():
        bucket = max(math.floor(HEAT_PER_OCTAVE * math.log2(max(ns, 1) / 1e3)), 0)
        heat[bucket] = heat.get(bucket, 0) + count
    some = bool(moment.deliver)
    return Tick(
        at_s=(moment.at_ns - window_ns) / 1e9,
        rates_per_s=rates,
        p50_ms=_quantile_ms(moment.deliver, 0.5) if some else None,
        p99_ms=_quantile_ms(moment.deliver, 0.99) if some else None,
        max_ms=moment.max_ns / 1e6 if some else None,
        heat=sorted(heat.items()),
    )


def _quantile_ms(counts: Mapping[int, int], share: float) -> float:
    wanted, seen = share * sum(counts.values()), 0
    for ns in sorted(counts):
        seen += counts[ns]
        if seen >= wanted:
            return ns / 1e6
    return 0.0


def faults(counts: Mapping[str, int]) -> dict[str, int]:
    """All 0 is the rule. What the server had said it would leave out (gaps) is none."""
    found = {name: counts.get(name, 0) for name in FAULTS}
    arrived = counts.get("deliveries", 0) + counts.get("corrupted", 0) + counts.get("gapped", 0)
    found["lost"] = max(counts.get("expected", 0) - arrived, 0)
    found["corrupted"] += counts.get("broken", 0)
    found["unanswered"] = max(counts.get("sent", 0) - counts.get("receipts", 0) - counts.get("refused", 0), 0)
    found["disconnected"] = counts.get("dead", 0) + counts.get("away", 0) + counts.get("pending", 0)
    return found


def generator(
    results: Sequence[Result], found: Mapping[str, Latency], offered_per_s: float | None, published_per_s: float
) -> Generator:
    """Whether the clients were the limit."""
    cores = max((result.cpu_cores for result in results), default=0.0)
    late = found["late"].p99_ms if "late" in found else 0.0
    deliver = found["deliver"].p99_ms if "deliver" in found else 0.0
    reasons = []
    if cores > THREAD_CORES:
        reasons.append(f"its busiest thread had {cores:.2f} of a core")
    if late > max(LATE_MS, LATE_SHARE * deliver):
        reasons.append(f"publishes left {late:.1f} ms late at p99, deliveries took {deliver:.1f} ms")
        if cores <= THREAD_CORES / 2:
            reasons.append(f"they used {cores:.2f} of a core: others kept them from running")
    if reasons and offered_per_s and published_per_s < 0.98 * offered_per_s:
        reasons.append(f"{published_per_s:,.0f}/s of the {offered_per_s:,.0f}/s that were to be published left")
    return Generator(
        processes=len(results),
        cpu_cores_max=cores,
        late_p99_ms=late,
        is_limit=bool(reasons),
        reason="; ".join(reasons),
    )


def window(results: Sequence[Result], moments: Sequence[Moment], from_ns: int, to_ns: int) -> dict[str, int]:
    """Counts of the measured window: as the processes say at its two ends, or, of a run that ended early, the ticks."""
    found: dict[str, int] = {}
    for result in results:
        for name, count in result.window.items():
            found[name] = found.get(name, 0) + count
    within = [moment for moment in moments if from_ns <= moment.at_ns <= to_ns + TICK_NS // 2]
    if not results and len(within) > 1:
        first, last = within[0].counts, within[-1].counts
        found = {name: last.get(count, 0) - first.get(count, 0) for name, count in RATES.items()}
    return found


def storm(results: Sequence[Result]) -> dict[str, float]:
    """How fast those came back who had dropped: from the first that connected again to the last that was live."""
    resumes = sum(result.counts.get("resumes", 0) for result in results)
    if not resumes:
        return {}
    began = min(result.counts["back_from_ns"] for result in results if result.counts["back_from_ns"])
    seconds = (max(result.counts["back_to_ns"] for result in results) - began) / 1e9
    return {"resumes_per_s": resumes / max(seconds, 1e-3), "storm_s": seconds}
