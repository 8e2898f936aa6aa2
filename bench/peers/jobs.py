"""The jobs that every system is given, their sizes, and what one run of one of them found.

Used by bench/peers: each system does those that are its job, with the same messages, counts and seconds. A run that
lost, doubled or changed anything says so in its faults; its rate is still shown, beside that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MESSAGE_BYTES: Final = 128  # of a fan-out, of latency and of memory
EVENT_BYTES: Final = 300  # of an append
LATENCY_PAIRS: Final = 100


class Job(NamedTuple):
    """One column of the comparison."""

    name: str
    kind: str  # fanout, append, latency, memory, read
    unit: str
    title: str
    clients: int  # that listen, publish or are idle
    at_once: int = 1  # messages of one send


JOBS: Final = (
    Job("fanout-1000", "fanout", "deliveries/s", "1 → 1,000, one at a time", 1_000),
    Job("fanout-1000-64", "fanout", "deliveries/s", "1 → 1,000, 64 in flight", 1_000, 64),
    Job("fanout-10000", "fanout", "deliveries/s", "1 → 10,000, one at a time", 10_000),
    Job("fanout-10000-64", "fanout", "deliveries/s", "1 → 10,000, 64 in flight", 10_000, 64),
    Job("append-1", "append", "events/s", "durable append, one at a time", 1),
    Job("append-1000", "append", "events/s", "durable append, 1,000 a batch", 1, 1_000),
    Job("append-100-clients", "append", "events/s", "durable append, 100 clients, one each", 100),
    Job("append-1000-clients", "append", "events/s", "durable append, 1,000 clients, one each", 1_000),
    Job("latency", "latency", "ms", "publish → deliver, 1,000/s, p50", LATENCY_PAIRS),
    Job("read", "read", "events/s", "reading back", 1, 1_000),
    Job("memory", "memory", "bytes", "memory of an idle connection", 10_000),
)


@dataclass(frozen=True)
class Scale:
    """How much of it: `full` for a look at a machine, `smoke` for the tests."""

    name: str
    runs: int
    seconds: float  # of a run, after the warm-up
    warmup_s: float
    share: float  # of a job's clients
    rate_per_s: float  # of the latency job
    stored: int  # events that are read back

    @property
    def smoke(self) -> bool:
        """Nothing may be said of speed."""
        return self.name == "smoke"

    def clients(self, job: Job) -> int:
        """So many of them."""
        return max(min(job.clients, 2), round(job.clients * self.share))


FULL: Final = Scale("full", 3, 3.0, 1.0, 1.0, 1_000.0, 500_000)
SMOKE: Final = Scale("smoke", 1, 0.3, 0.1, 0.02, 200.0, 5_000)


@dataclass(frozen=True)
class Outcome:
    """Of one run."""

    value: float
    values: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)  # lost, corrupted, disordered …: those that aren't 0
    expected: int = 0  # deliveries or answers, that the faults are of
    note: str = ""

    @property
    def faults_text(self) -> str:
        """`lost 3 of 1,000, disordered 1`, empty if there were none."""
        of = f" of {self.expected:,}" if self.expected else ""
        return ", ".join(f"{name} {count:,}{of if name == 'lost' else ''}" for name, count in self.faults.items())


def faults(counts: Mapping[str, float], *names: str, lost: int = 0) -> dict[str, int]:
    """What went wrong, by name."""
    found = {"lost": lost} | {name: int(counts[name]) for name in names}
    return {name: count for name, count in found.items() if count}
