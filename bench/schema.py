"""The shape of a report: what every command of `gonets bench` that measures a whole system writes, and reads again.

A report is one JSON object, described for its readers in REPORT_FORMAT.md. Times are seconds, latencies milliseconds,
sizes bytes, CPU in cores (1.0: one core was busy all the time). Percentiles come from histograms that HdrHistogram
reads (its V2 encoding, compressed, base64; nanoseconds, 1 to 3.6e12, three significant digits).

Invariants: nothing in a report is rounded before it was measured whole; a field that a command doesn't measure is
empty, never 0; a report that ended early is marked `partial` and says why. Readers ignore fields that they don't know;
a new meaning of a field is a new number behind SCHEMA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

SCHEMA: Final = "gonets.bench/1"
HISTOGRAM_LOWEST_NS: Final = 1
HISTOGRAM_HIGHEST_NS: Final = 3_600_000_000_000
HISTOGRAM_DIGITS: Final = 3
PEER_SETTINGS: Final = "settings: "  # the last part of a peer's note, the same for all its jobs
PEER_LIMIT: Final = "bare"  # the system that is none: what the machine can do at a job


class ReportError(Exception):
    """A file that is no report of this program; one line for people."""


class Latency(Struct, frozen=True, kw_only=True):
    """One distribution of one run."""

    count: int
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    p9999_ms: float
    max_ms: float
    histogram: str  # HdrHistogram V2, compressed, base64


class Tick(Struct, frozen=True, kw_only=True):
    """A second of a run, warm-up and drain included; `at_s` is its end, 0 is where the measured window begins."""

    at_s: float
    rates_per_s: dict[str, float]  # published, receipts, refused, deliveries, connects, resumes, bytes_in
    p50_ms: float | None = None  # of deliveries
    p99_ms: float | None = None
    max_ms: float | None = None
    heat: list[tuple[int, int]] = field(
        default_factory=list
    )  # (bucket, count): bucket b is 2**(b/4) .. 2**((b+1)/4) µs


class Sample(Struct, frozen=True, kw_only=True):
    """A process at one moment; CPU since the sample before."""

    at_s: float
    cpu_cores: float
    resident_bytes: int
    descriptors: int
    anonymous_bytes: int = 0
    threads: int = 0


class Process(Struct, frozen=True, kw_only=True):
    """Somebody who took part."""

    role: str  # server, supervisor, sequencer, worker, generator, peer
    name: str
    pid: int
    samples: list[Sample]
    cpu_cores_mean: float  # in the measured window
    cpu_cores_max: float
    resident_bytes_max: int
    threads_cpu_cores: dict[str, float] = field(default_factory=dict)  # busiest threads by name


class Generator(Struct, frozen=True, kw_only=True):
    """Whether the clients could keep up with what they were to do."""

    processes: int
    cpu_cores_max: float  # of the busiest process's thread
    late_p99_ms: float  # how long after its intended time a publish left
    is_limit: bool
    reason: str = ""  # why it is the limit


class Run(Struct, frozen=True, kw_only=True):
    """One run of a workload."""

    started: str  # RFC 3339
    connect_s: float
    warmup_s: float
    window_s: float
    drain_s: float
    sessions: int
    offered_per_s: float | None  # None: closed loop
    counts: dict[str, int]  # in the window: published, receipts, refused, deliveries, resumes, gaps, bytes_in
    faults: dict[str, int]  # over all: lost, doubled, disordered, corrupted, unmatched, disconnected; all 0 is the rule
    rates_per_s: dict[str, float]
    latencies: dict[str, Latency]  # deliver, receipt, refused, late, hello, resume
    ticks: list[Tick]
    processes: list[Process]
    generator: Generator
    values: dict[str, float] = field(default_factory=dict)  # others, their unit behind the last "_" of the name
    saturated: str = ""  # what was the limit, with its figure
    resources: dict[str, float] = field(
        default_factory=dict
    )  # machine_cpu_cores, disk_write_bytes_per_s, disk_busy_share, …


class Measure(Struct, frozen=True, kw_only=True):
    """One row: a quantity that several runs agree on, beside its limit or target if there is one."""

    name: str
    unit: str
    value: float  # median of runs
    runs: list[float]
    limit: float | None = None  # of the bare machine, in the same unit and run
    target: float | None = None
    durability: str = ""
    note: str = ""


class Point(Struct, frozen=True, kw_only=True):
    """One rate of a search for the capacity."""

    offered_per_s: float
    achieved_per_s: float
    p50_ms: float
    p99_ms: float
    met: bool
    saturated: str
    run: int  # index into `runs`


class Capacity(Struct, frozen=True, kw_only=True):
    """The outcome of the search."""

    objective_p99_ms: float
    rate_per_s: float | None  # highest that met it; None: none did
    spread_per_s: tuple[float, float] | None  # up to the first every run met it, from the second on none did
    saturated: str
    points: list[Point]


class PeerRow(Struct, frozen=True, kw_only=True):
    """One job on one system."""

    job: str  # fanout-1000, fanout-1000-64, fanout-10000, …, append-1, append-1000, latency, memory, read
    system: str
    version: str
    durability: str
    unit: str
    runs: list[float] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)  # p50_ms, p99_ms, generator_cpu_cores …
    missing: str = ""  # "not installed, get it by …"; then there are no runs
    note: str = ""  # ends with PEER_SETTINGS and what differs from the system's defaults


class Growth(Struct, frozen=True, kw_only=True):
    """One quantity that a soak has watched."""

    name: str
    unit: str
    samples: list[tuple[float, float]]  # (at_s, value)
    per_hour: float  # slope after the warm-up (Theil–Sen)
    limit_per_hour: float | None
    grows: bool
    verdict: str = ""  # grows, steady, can't tell (too little was seen), shown (it has no limit)
    blocks: int | None = None  # of 16 equal times, those in which it was seen; of fewer than 8 a slope says nothing


class Side(Struct, frozen=True, kw_only=True):
    """One of the two that were compared."""

    name: str  # path of a report, or a ref
    commit: str
    started: str = ""  # RFC 3339, of a report
    runs: list[int] = field(default_factory=list)  # indexes into `runs`


class Difference(Struct, frozen=True, kw_only=True):
    """One measure of both sides."""

    name: str
    unit: str
    better: str  # higher, lower
    a: list[float]  # of each run
    b: list[float]
    ratio: float  # median of b / median of a
    ratio_low: float | None  # 95 % interval; None: too few runs
    ratio_high: float | None
    p: float  # that such a difference comes about by chance, corrected for the number of measures
    verdict: str  # faster, slower, can't tell
    note: str = ""


class Comparison(Struct, frozen=True, kw_only=True):
    """A beside B."""

    a: Side
    b: Side
    interleaved: bool  # runs took turns: A B B A …
    threshold_share: float  # a smaller difference is none
    differences: list[Difference]
    refused: str = ""  # why there is no verdict
    cautions: list[str] = field(default_factory=list)


class PlanFigure(Struct, frozen=True):
    """One figure of a machine that a plan was made from."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    runs: int
    source: str
    note: str = ""


class PlanAssumption(Struct, frozen=True):
    """One assumption of a plan, and what moving it within its plausible range does."""

    name: str
    value: float
    unit: str
    meaning: str
    source: str
    low: float
    high: float
    nodes_low: int | None = None  # None: there is no plan at that value
    nodes_high: int | None = None
    p99_low_ms: float | None = None  # of the nodes of the plan itself; None: they don't carry it
    p99_high_ms: float | None = None


class PlanLine(Struct, frozen=True):
    """One step of a plan."""

    section: str
    name: str
    formula: str
    inputs: dict[str, float]
    value: float | None  # None: it has no end
    unit: str


class PlanLoad(Struct, frozen=True):
    """The model at one load of the planned nodes; None: it isn't carried."""

    load: float  # of the peak
    lost: bool  # a zone is lost
    busy: float
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None


class PlanCheck(Struct, frozen=True):
    """One figure of the model beside the simulation's."""

    scenario: str
    name: str
    unit: str
    model: float | None  # None: there it has no end
    simulated: float | None  # None: there was nothing to count
    agrees: bool
    note: str = ""


class PlanMinute(Struct, frozen=True):
    """A minute of the simulated day."""

    minute: int  # from the peak
    events_per_s: float
    busy_mean: float
    busy_max: float  # of the busiest worker
    p99_ms: float | None  # of the model at this rate


class Plan(Struct, frozen=True, kw_only=True):
    """A plan of machines: what it was made from, each step, and what checks it."""

    assumptions: list[PlanAssumption]
    figures: list[PlanFigure]
    lines: list[PlanLine]
    nodes: int
    needed: int
    bound_by: str
    loads: list[PlanLoad] = field(default_factory=list)
    checks: list[PlanCheck] = field(default_factory=list)
    day: list[PlanMinute] = field(default_factory=list)


class Machine(Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    system: str
    filesystem: str
    python: str
    versions: dict[str, str]
    commit: str
    load_1min_at_start: float


class Target(Struct, frozen=True, kw_only=True):
    """What was measured."""

    url: str = ""
    started_here: bool = True  # False: a server of somebody's, by --target
    workers: int = 0  # 0: one process
    durability: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)  # options that differ from their defaults


class Report(Struct, frozen=True, kw_only=True):
    """All of it."""

    schema: str = SCHEMA
    kind: str  # run, capacity, soak, peers, compare, measure, plan
    name: str  # of the workload or the measurement
    title: str
    partial: bool = False
    reason: str = ""  # why it is partial
    command: list[str]
    started: str  # RFC 3339, UTC
    seconds: float  # that it took
    seed: int
    machine: Machine
    target: Target
    workload: dict[str, Any] = field(default_factory=dict)  # the whole of it, as it was run
    runs: list[Run] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    capacity: Capacity | None = None
    peers: list[PeerRow] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    comparison: Comparison | None = None
    plan: Plan | None = None
    conclusions: list[str] = field(default_factory=list)  # for people, one sentence each


def write(report: Report, path: Path) -> None:
    """Whole or not at all: beside it first, then in its place."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    beside.replace(path)


def read(path: Path) -> Report:
    """Raises ReportError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from None
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: no JSON: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        what = f"its schema is {schema!r}" if schema else "it names no schema"
        raise ReportError(f"{path}: {what}, and this program reads {SCHEMA!r}: measure again with --report")
    try:
        return msgspec.convert(found, Report)
    except msgspec.ValidationError as error:
        raise ReportError(f"{path}: not a report of {SCHEMA!r}: {error}") from None
