"""How fast one reader in this process goes through a whole log: checked blocks, every event given to Python.

The log is filled through the sequencer, then opened as any backend job opens it (`engine.EventLog`). What the consumer
gets is named by the case: *events*: an object for each, of which two fields are read; *records*: the stored bytes of
each as bytes of its own; *decoded*: a tuple of all ten fields of each, text and payload copied. Each run goes through
all of it and compares count, last sequence and bytes with what was written. Warm: the file lies in the page cache;
cold: the kernel was asked to drop it, and how much came from the device is counted.

The limit, warm: py-lmdb's cursor over the same values, one checksum each; nobody sees an event. Cold: the same files
through read(2).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from bench import report, workload
from bench.harness import BenchError, alternated, workplace
from bench.open import fill
from bench.proposals import RECORD_OVERHEAD, record_bytes_of
from bench.schema import Measure
from bench.workload import Workload
from engine import EventLog
from ext.block import header
from ext.crc32c import crc32c

RUNS: Final = 5
SMOKE_RUNS: Final = 1
TARGET_PER_S: Final = 5_000_000
EVENTS: Final = 5_000_000
PAYLOAD_BYTES: Final = 213  # records of 300 bytes
SMOKE_EVENTS: Final = 20_000
PAGE: Final = 1 << 20


class Seen(NamedTuple):
    """What a consumer has counted."""

    events: int
    last: int
    record_bytes: int


class Filled(NamedTuple):
    """A log to read."""

    data: Path
    events: int  # its last sequence
    record_bytes: int  # of a message
    all_bytes: int  # of all records
    durability: str

    @property
    def segments(self) -> list[Path]:
        """Its files."""
        return sorted(path for path in (self.data / "log").iterdir() if path.suffix == ".lmdb")

    def check(self, seen: Seen) -> None:
        """Whether a run has seen all of it. Raises BenchError."""
        written = Seen(self.events, self.events, self.all_bytes)
        if seen != written:
            raise BenchError(f"read {seen}, written {written}")


# What a consumer does with each event: reads two fields, has its bytes, has all of its fields.


def _events(log: EventLog) -> Seen:
    count = held = last = 0
    for event in log.after(0):
        count += 1
        held += len(event)
        last = event.sequence
    return Seen(count, last, held)


def _records(log: EventLog) -> Seen:
    count = held = last = 0
    for block in log.blocks_after(0):
        for record in block.records():
            count += 1
            held += len(record)
        last = block.position
    return Seen(count, last, held)


def _decoded(log: EventLog) -> Seen:
    count = held = last = 0
    for block in log.blocks_after(0):
        for event in block.decoded():
            count += 1
            held += RECORD_OVERHEAD + len(event.type) + len(event.payload)
            last = event.sequence
    return Seen(count, last, held)


WAYS: Final[dict[str, Callable[[EventLog], Seen]]] = {
    "events": _events,
    "records": _records,
    "decoded": _decoded,
}


def _rate(filled: Filled, way: str) -> float:
    """Events a second of one run."""
    start = time.perf_counter()
    with EventLog.open(filled.data) as log:
        seen = WAYS[way](log)
    seconds = time.perf_counter() - start
    filled.check(seen)
    return filled.events / seconds


def _values(path: Path) -> Iterator[memoryview]:
    """What lies in a segment: its header and its blocks."""
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False, lib_version=0) as env,
        env.begin(buffers=True) as txn,
    ):
        for _, value in txn.cursor():
            yield value


def _lmdb_rate(filled: Filled) -> float:
    """The limit of a warm read."""
    start = time.perf_counter()
    for path in filled.segments:
        for value in _values(path):
            crc32c(value)
    return filled.events / (time.perf_counter() - start)


def _drop(filled: Filled) -> None:
    """The files out of the page cache, as far as the kernel follows."""
    for path in filled.segments:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _device_bytes() -> int:
    """What this process has had read from devices."""
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes:"))


def _file_rate(filled: Filled) -> float:
    """The limit of a cold read: the bytes of the files, by events."""
    _drop(filled)
    start, buffer = time.perf_counter(), bytearray(PAGE)
    for path in filled.segments:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return filled.events / (time.perf_counter() - start)


def _warm(filled: Filled, way: str, runs: int, target: float | None) -> report.Rated:
    _lmdb_rate(filled)  # whatever the case before has left in the cache
    rates, limits = alternated(runs, lambda: _rate(filled, way), lambda: _lmdb_rate(filled))
    return report.Rated(
        f"read, {way}, page cache warm",
        rates,
        limits,
        filled.durability,
        target,
        f"{filled.record_bytes} bytes a record; the limit is LMDB's cursor with one checksum a block",
        _more(filled),
    )


def _cold(filled: Filled, way: str, runs: int) -> report.Rated:
    shares: list[float] = []

    def ours() -> float:
        _drop(filled)
        before = _device_bytes()
        rate = _rate(filled, way)
        shares.append((_device_bytes() - before) / filled.all_bytes)
        return rate

    rates, limits = alternated(runs, ours, lambda: _file_rate(filled))
    return report.Rated(
        f"read, {way}, page cache cold",
        rates,
        limits,
        filled.durability,
        None,
        f"{filled.record_bytes} bytes a record; the limit is the same files through read(2)",
        _more(filled) | {"from_device_share": round(min(shares), 2)},
    )


def _more(filled: Filled) -> dict[str, object]:
    return {
        "events_per_run": filled.events,
        "record_bytes": filled.record_bytes,
        "filesystem": report.filesystem_of(filled.data),
    }


def _all(filled: Filled, runs: int) -> list[report.Rated]:
    return [
        *(_warm(filled, way, runs, TARGET_PER_S if way == "events" else None) for way in WAYS),
        *(_cold(filled, way, runs) for way in ("events", "decoded")),
    ]


@contextmanager
def _filled(records: workload.Records, folder: Path | None) -> Iterator[Filled]:
    with workplace("read", folder) as place:
        size = record_bytes_of(records.payload_bytes)
        engine = fill(
            place / "data", records.count, records.conversations, 1_000_000, size, events_per_commit=records.per_commit
        )
        last, durability = engine.log.last_sequence, engine.durability
        engine.close()
        filled = Filled(place / "data", last, size, 0, durability)
        blocks = [header(value) for path in filled.segments for value in _values(path) if bytes(value[:4]) == b"GNB1"]
        if sum(block.count for block in blocks) != last:
            raise BenchError(f"the log's blocks hold {sum(block.count for block in blocks)} events of {last}")
        yield filled._replace(all_bytes=sum(block.records_bytes for block in blocks))


def cases(smoke: bool, folder: Path | None = None) -> list[report.Case]:
    """At full size: 5 million records of 300 bytes, 1,000 a commit."""
    events = SMOKE_EVENTS if smoke else EVENTS
    records = workload.Records(count=events, payload_bytes=PAYLOAD_BYTES, per_commit=1_000, conversations=events // 50)
    with _filled(records, folder) as filled:
        return [found.case() for found in _all(filled, SMOKE_RUNS if smoke else RUNS)]


def run(workload: Workload, folder: Path | None = None, *, smoke: bool = False) -> list[Measure]:
    """A workload of kind `read`: its records, read in every way."""
    if workload.kind != "read" or workload.records is None:
        raise ValueError(f"workload {workload.name}: its kind is {workload.kind!r}; this runs those of kind 'read'")
    with _filled(workload.records, folder) as filled:
        return [found.measure() for found in _all(filled, SMOKE_RUNS if smoke else RUNS)]
