"""The message sizes and pauses of real chat, as tables of a workload: `gonets bench workloads --from-trace PATH`.

Reads what trace.py parses. Sizes: messages in order of size, cut at fixed shares; each part stands as its mean size,
with its share as the weight, so that the mean stays. Pauses: quantiles of the time from a message to the next in the
same file. A log says the minute only: where in its minute a message lies is drawn, uniformly and by the seed.

Invariant: the same trace and seed give the same tables. Cost: a second a hundred thousand messages.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import trace
from bench.workload_fields import PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN

SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
MESSAGES_MIN: Final = 100  # fewer say nothing of a tail
ROW_VALUES: Final = 7  # of a table in one line


class Tables(NamedTuple):
    """What was found in a trace."""

    files: int
    messages: int
    mean_bytes: float
    short_share: float  # of the messages, raised to PAYLOAD_BYTES_MIN
    sizes_bytes: list[tuple[int, float]]
    pauses_ms: list[tuple[float, float]]


def tables(path: Path, seed: int = 1) -> Tables:
    """Of a chat log, or a directory of them. Raises trace.TraceError."""
    found, _ = trace.load(path)
    sizes: list[int] = []
    pauses: list[float] = []
    for one in found:
        said = [entry for entry in one.entries if entry.kind == "say"]
        sizes += [len(entry.text) for entry in said]
        pauses += _pauses_ms([entry.minute for entry in said], random.Random(f"{seed}/{one.name}"))
    if len(pauses) < MESSAGES_MIN:
        raise trace.TraceError(f"{path}: {len(sizes)} messages are too few for tables: at least {MESSAGES_MIN + 1}")
    raised = sorted(min(max(size, PAYLOAD_BYTES_MIN), PAYLOAD_BYTES_MAX) for size in sizes)
    return Tables(
        files=len(found),
        messages=len(sizes),
        mean_bytes=sum(sizes) / len(sizes),
        short_share=sum(size < PAYLOAD_BYTES_MIN for size in sizes) / len(sizes),
        sizes_bytes=list(_parts(raised)),
        pauses_ms=list(_quantiles(sorted(pauses))),
    )


def _pauses_ms(minutes: Sequence[int], chance: random.Random) -> Iterator[float]:
    """Of one file whose minutes ascend."""
    last = None
    for minute, count in sorted(Counter(minutes).items()):
        for share in sorted(chance.random() for _ in range(count)):
            at_ms = (minute + share) * 60_000
            if last is not None:
                yield at_ms - last
            last = at_ms


def _parts(ascending: Sequence[int]) -> Iterator[tuple[int, float]]:
    """(mean, share) between the cuts; parts of the same mean are one."""
    weights: dict[int, float] = {}
    for low, high in itertools.pairwise(SHARES):
        part = ascending[round(low * len(ascending)) : round(high * len(ascending))]
        if part:
            mean = round(sum(part) / len(part))
            weights[mean] = weights.get(mean, 0.0) + len(part) / len(ascending)
    return ((size, round(weight, 4)) for size, weight in weights.items())


def _quantiles(ascending: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(share, value), to four figures."""
    for share in SHARES:
        yield share, float(f"{ascending[round(share * (len(ascending) - 1))]:.4g}")


def as_toml(found: Tables) -> str:
    """The lines for a stream of a workload."""
    lines = [
        f"# {found.messages:,} messages of {found.files} logs, {found.mean_bytes:.1f} bytes in the mean;",
        f"# {found.short_share:.0%} of them are shorter than {PAYLOAD_BYTES_MIN} bytes and raised to that.",
        *_table("sizes_bytes", [f"[{size}, {weight:g}]" for size, weight in found.sizes_bytes]),
        *_table("pauses_ms", [f"[{share:g}, {ms:.10g}]" for share, ms in found.pauses_ms]),
    ]
    return "\n".join(lines) + "\n"


def _table(name: str, values: list[str]) -> Iterator[str]:
    yield f"{name} = ["
    for first in range(0, len(values), ROW_VALUES):
        yield "  " + ", ".join(values[first : first + ROW_VALUES]) + ","
    yield "]"
