"""What the plan needs to know of a machine, each figure taken from a report that was measured on one.

There is no figure in the program: what neither a report nor an option holds is an error that names the command that
measures it. Accepted are reports of bench/schema.py (rows of `measures`, runs with the CPU of processes) and the JSON
that `gonets bench append | publish | fanout | connections | open --json` print.

Of several sources the better wins: an option, then CPU that was counted for this (`gonets bench costs`), then CPU of a
whole run, then a rate that one core or the machine reached, which charges it with all that happened beside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from bench import schema
from bench.plan.assumptions import dashed
from bench.plan.formulas import commit_law

OPTION, COUNTED, RUN, RATE = 3, 2, 1, 0
SINGLE_DELIVERIES = 3.0  # deliveries a publish, up to which a run is about publishes
MANY_DELIVERIES = 50.0  # and from which on it is about deliveries
WEAK = "(not whole)"  # behind a source: a smoke run, or a report that ended early
PING_INTERVAL_S = 30.0  # of the benchmark `connections`


class MeasuredError(Exception):
    """A figure that nobody has measured, or a file that holds none; one line for people."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Figures of a machine by hand, in place of those of reports."""

    publish_us: Annotated[float | None, Parameter(help="CPU of a worker for a publish, its receipt included")] = None
    sequence_us: Annotated[float | None, Parameter(help="CPU of the sequencer for an event")] = None
    commit_fixed_us: Annotated[float | None, Parameter(help="time of a synced commit, however small")] = None
    commit_event_us: Annotated[float | None, Parameter(help="time that each event adds to a commit")] = None
    wake_us: Annotated[float | None, Parameter(help="CPU of a worker for a look at new blocks")] = None
    read_us: Annotated[float | None, Parameter(help="CPU of a worker for an event that its sessions don't get")] = None
    delivery_us: Annotated[float | None, Parameter(help="CPU of a worker for an event alone in its send")] = None
    delivery_more_us: Annotated[float | None, Parameter(help="CPU for each further event in the same send")] = None
    hello_us: Annotated[float | None, Parameter(help="CPU of a worker for a connection: handshake, hello")] = None
    ping_us: Annotated[float | None, Parameter(help="CPU of a worker for a ping and its answer")] = None
    session_user_bytes: Annotated[float | None, Parameter(help="memory of a session in the process")] = None
    session_kernel_bytes: Annotated[float | None, Parameter(help="memory of a session in the kernel")] = None
    session_conversations: Annotated[float | None, Parameter(help="conversations of each of those sessions")] = None
    log_growth_ratio: Annotated[float | None, Parameter(help="bytes on the disk over bytes of records")] = None
    log_write_ratio: Annotated[float | None, Parameter(help="bytes written over bytes of records")] = None
    recovery_s: Annotated[float | None, Parameter(help="time from a killed process to its first receipt")] = None


COMMANDS = {
    "commit_fixed_us": "gonets bench append --json",
    "commit_event_us": "gonets bench append --json",
}
COSTS = "gonets bench costs"
NAMES = tuple(field.name for field in fields(Given))


def unit_of(name: str) -> str:
    """Behind the last underscore."""
    last = name.rsplit("_", 1)[1]
    return {"us": "µs"}.get(last, last)


class Figure(NamedTuple):
    """One figure of a machine."""

    value: float
    low: float
    high: float
    runs: int
    source: str  # file, row, commit, machine
    rank: int
    note: str = ""


class Row(NamedTuple):
    """A row of either shape."""

    name: str
    value: float
    low: float
    high: float
    runs: int
    more: dict[str, Any]
    note: str = ""


class Source(NamedTuple):
    """A file that was read."""

    path: str
    machine: schema.Machine
    rows: list[Row]
    runs: list[tuple[schema.Run, dict[str, Any]]]
    weak: bool


def read(path: Path) -> Source:
    """A report of either shape; MeasuredError in one line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MeasuredError(f"{path}: {error.strerror or error}: name a report that is there") from None
    try:
        found = json.loads(data)
    except ValueError as error:
        raise MeasuredError(f"{path}: no JSON: {error}") from None
    if isinstance(found, dict) and "results" in found and "schema" not in found:
        return _older(path, found)
    try:
        report = schema.read(path)
    except schema.ReportError as error:
        raise MeasuredError(str(error)) from None
    rows = [
        Row(
            one.name, one.value, min(one.runs or [one.value]), max(one.runs or [one.value]), len(one.runs), {}, one.note
        )
        for one in report.measures
    ]
    runs = [(run, report.workload) for run in report.runs] if not report.partial else []
    weak = report.partial or "--smoke" in report.command
    return Source(path.name, report.machine, rows, runs, weak)


def _older(path: Path, found: dict[str, Any]) -> Source:
    try:
        machine = schema.Machine(**found["machine"])
        rows = []
        for case in found["results"]:
            value = float(case["rate_per_s"] if "value" not in case else case["value"])
            low, high = case["spread"]
            rows.append(Row(case["case"], value, float(low), float(high), int(case["runs"]), case))
    except (KeyError, TypeError, ValueError) as error:
        raise MeasuredError(f"{path}: not what gonets bench … --json prints: {error!r}") from None
    return Source(path.name, machine, rows, [], False)


@dataclass(frozen=True)
class Measured:
    """All that is known of a machine."""

    figures: dict[str, Figure]
    machines: list[schema.Machine]  # of each report

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value


def measured(paths: list[Path], given: Given) -> Measured:
    """The best figure of each; MeasuredError names the first that lacks, and who measures it."""
    found: dict[str, Figure] = {}
    abouts = []
    for path in paths:
        source = read(path)
        abouts.append(source.machine)
        for name, figure in _figures(source):
            if name not in found or figure.rank >= found[name].rank:
                found[name] = figure
    for name in NAMES:
        value = getattr(given, name)
        if value is not None:
            if not 0 <= value < 1e15:
                raise MeasuredError(f"--{dashed(name)} {value:g}: a number from 0 on is needed, in {unit_of(name)}")
            found[name] = Figure(value, value, value, 0, f"--{dashed(name)}", OPTION)
    for name in NAMES:
        if name not in found:
            command = COMMANDS.get(name, COSTS)
            read_ = ", ".join(str(path) for path in paths) or "no report"
            raise MeasuredError(
                f"{name} is in none of what was read ({read_}): measure it with `{command}` and name its file with"
                f" --report-file, or give it with --{dashed(name)}"
            )
    return Measured(found, abouts)


def _figures(source: Source) -> Iterator[tuple[str, Figure]]:
    where = f"{source.path}, commit {source.machine.commit}" + (f" {WEAK}" if source.weak else "")
    for row in source.rows:
        if row.name in NAMES:
            yield row.name, Figure(row.value, row.low, row.high, row.runs, where, COUNTED, row.note)
    yield from _commits(source, where)
    for row in source.rows:
        for pattern, take in OLDER:
            if re.fullmatch(pattern, row.name):
                for name, values, note in take(row, source):
                    middle, *others = values
                    ends = sorted(others or [middle])
                    yield name, Figure(middle, ends[0], ends[-1], row.runs, f"{where}: {row.name}", RATE, note)
    for run, workload in source.runs:
        for name, value, note in _of_run(run, workload):
            yield name, Figure(value, value, value, 1, f"{where}: {workload.get('name', 'run')}", RUN, note)


def _commits(source: Source, where: str) -> Iterator[tuple[str, Figure]]:
    """The two parts of a commit, from the rates at several sizes."""
    sized = [
        (float(found[1].replace(",", "")), row)
        for row in source.rows
        if (found := re.fullmatch(r"append ([\d,]+) a commit", row.name))
    ]
    if len({size for size, _ in sized}) < 2:
        return
    runs = min(row.runs for _, row in sized)
    middle = commit_law([(size, row.value) for size, row in sized])
    slow = commit_law([(size, row.low) for size, row in sized])
    fast = commit_law([(size, row.high) for size, row in sized])
    words = "least squares over " + ", ".join(f"{size:,.0f}" for size, _ in sized) + " events a commit"
    for number, name in enumerate(("commit_fixed_us", "commit_event_us")):
        ends = sorted((slow[number] * 1e6, fast[number] * 1e6))
        yield name, Figure(middle[number] * 1e6, ends[0], ends[1], runs, where, RATE, words)


Taken = Iterator[tuple[str, list[float], str]]


def _append(row: Row, source: Source) -> Taken:
    yield "sequence_us", [1e6 / one for one in (row.value, row.low, row.high)], "admission and commit, without links"
    if "bytes_per_record_byte" in row.more:
        yield (
            "log_growth_ratio",
            [float(row.more["bytes_per_record_byte"])],
            "all that the device wrote, state included",
        )


def _small_append(row: Row, source: Source) -> Taken:
    if "bytes_per_record_byte" in row.more:
        yield "log_write_ratio", [float(row.more["bytes_per_record_byte"])], "all that the device wrote"


def _publish(row: Row, source: Source) -> Taken:
    cores = source.machine.cores - float(row.more.get("generator_core_share", 0.0))
    yield (
        "publish_us",
        [cores * 1e6 / one for one in (row.value, row.low, row.high)],
        "from above: all cores but the clients' share, the sequencer's work included",
    )


def _fanout(row: Row, source: Source) -> Taken:
    yield (
        "delivery_us",
        [1e6 / one for one in (row.value, row.low, row.high)],
        "one core, sync and round trip included, but to sockets that are always busy",
    )


def _fanout_many(row: Row, source: Source) -> Taken:
    yield "delivery_more_us", [1e6 / one for one in (row.value, row.low, row.high)], "from above: the send is in it"


def _hellos(row: Row, source: Source) -> Taken:
    cores = source.machine.cores
    yield (
        "hello_us",
        [cores * 1e6 / one for one in (row.value, row.low, row.high)],
        "from above: all cores, the clients' work included",
    )


def _memory(row: Row, source: Source) -> Taken:
    yield "session_user_bytes", [row.value, row.low, row.high], ""
    if "conversations_each" in row.more:
        yield "session_conversations", [float(row.more["conversations_each"])], ""


def _idle(row: Row, source: Source) -> Taken:
    if "sessions" in row.more:
        each = PING_INTERVAL_S / float(row.more["sessions"]) / 100 * 1e6
        yield "ping_us", [one * each for one in (row.value, row.low, row.high)], "all that an idle server does"


def _open(row: Row, source: Source) -> Taken:
    yield "recovery_s", [float(row.more.get("first_receipt_s", row.value))], row.name


OLDER: list[tuple[str, Callable[[Row, Source], Taken]]] = [
    (r"append 1,?000 a commit", _append),
    (r"append 30 a commit", _small_append),
    (r"publish (1,000|20) × 1", _publish),
    (r"fanout to [\d,]+, one at a time", _fanout),
    (r"fanout to [\d,]+, 64 in flight", _fanout_many),
    (r"hellos", _hellos),
    (r"memory of a session", _memory),
    (r"idle CPU", _idle),
    (r"open a log of \d+ events after kill -9", _open),
]


def _of_run(run: schema.Run, workload: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """From the CPU of a run's processes: what it did most is charged with all of it."""
    if any(run.faults.values()) or run.generator.is_limit:
        return
    cpu = {"worker": 0.0, "sequencer": 0.0}
    for process in run.processes:
        if process.role in ("server", "worker", "sequencer"):
            cpu["sequencer" if process.role == "sequencer" else "worker"] += process.cpu_cores_mean
    published, delivered = run.rates_per_s.get("published", 0.0), run.rates_per_s.get("deliveries", 0.0)
    if published and cpu["sequencer"]:
        yield "sequence_us", cpu["sequencer"] / published * 1e6, "CPU of the sequencer's process by events"
    if published and delivered <= SINGLE_DELIVERIES * published:
        yield "publish_us", cpu["worker"] / published * 1e6, "from above: deliveries included"
    if published and delivered >= MANY_DELIVERIES * published:
        yield "delivery_us", cpu["worker"] / delivered * 1e6, "CPU of the workers by deliveries"
    ping_s = float(workload.get("sessions", {}).get("ping_interval_s", 0.0) or 0.0)
    if not published and not run.rates_per_s.get("resumes") and ping_s and run.sessions and cpu["worker"]:
        yield "ping_us", cpu["worker"] * ping_s / run.sessions * 1e6, "all that idle workers do"
    for name in ("session_user_bytes", "session_kernel_bytes"):
        if name in run.values:
            yield name, run.values[name], ""
