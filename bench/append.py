"""How fast events become durable through the sequencer's own path, against bare LMDB puts of the same bytes.

Repeat look-up, membership, numbering, chaining, checksums, hash chain and the saving of state are all in; sockets are
not. Both sides commit the same sizes, one after the other in the same run, on the same file system. Bytes are those
that the device wrote (all processes: keep the machine quiet), beside what the kernel counts for this process.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from bench import report
from bench.proposals import DialogLoad, Listener, batches, record_bytes_of
from bench.schema import Measure
from bench.workload import Workload
from engine import Engine

RECORD_BYTES: Final = 300
RUNS: Final = 5
SEGMENT_BYTES: Final = 1 << 30
BATCH: Final = 1_000
TARGET_OF_LIMIT: Final = 0.75
SAVE_INTERVAL_S: Final = 10.0
SMOKE_SAVE_INTERVAL_S: Final = 0.2  # each commit size waits for two savings
RUN_EVENTS_MAX: Final = 1_000_000
RUN_BYTES_MAX: Final = 600 << 20
BLOCK_BYTES_MAX: Final = 1 << 20
SIZES: Final = {1: 3_000, 30: 90_000, 1_000: 1_000_000}  # events a commit → events a run
SMOKE_SIZES: Final = {1: 60, 30: 900, 1_000: 10_000}


def _io(name: str) -> int:
    """A counter of this process's I/O."""
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))


def _device_bytes(folder: Path) -> int:
    """Bytes that the device under a folder has written since boot; 0 if it has no block device of its own."""
    device = os.stat(folder).st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(path.read_text().split()[6]) * 512 if path.exists() else 0


class Bare:
    """LMDB with its default sync and nothing else: one put of one block's bytes a commit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._key = 0
        self._env: Any = None
        self._roll()

    def _roll(self) -> None:
        if self._env is not None:
            self.close()
        self._number += 1
        self._path = self._folder / f"bare{self._number}.lmdb"
        self._env = lmdb.open(str(self._path), subdir=False, map_size=4 * SEGMENT_BYTES, lib_version=0)
        self._written = 0

    def run(self, commits: int, block: bytes) -> float:
        """Seconds for so many commits."""
        if self._written + commits * len(block) > SEGMENT_BYTES:
            self._roll()
        start = time.perf_counter()
        for _ in range(commits):
            self._key += 1
            with self._env.begin(write=True) as txn:
                txn.put(self._key.to_bytes(8, "big"), block, append=True)
        seconds = time.perf_counter() - start
        self._written += commits * len(block)
        return seconds

    def close(self) -> None:
        """Removes the file."""
        self._env.close()
        self._path.unlink()


class Ours:
    """An engine with its dialogs made."""

    def __init__(
        self, folder: Path, dialogs: int, users: int, save_interval_s: float, record_bytes: int = RECORD_BYTES
    ) -> None:
        self.listener = Listener()
        self.committed = 0
        self.engine = Engine.open(
            folder,
            on_answers=self.listener.hear,
            on_committed=lambda sequence: None,
            segment_bytes=SEGMENT_BYTES,
            intake_bytes_max=64 << 20,
            tables_bytes_max=1 << 30,
            save_interval_s=save_interval_s,
        )
        self.load = DialogLoad(dialogs, users, record_bytes=record_bytes)
        self._push(batches(self.load.first_messages(), BATCH), dialogs)
        self.load.learn(self._checked(dialogs))

    def _push(self, parts: list[bytes], count: int) -> float:
        submit = self.engine.sequencer.submit
        start = time.perf_counter()
        for part in parts:
            while not submit(part):
                time.sleep(0.0005)
        self.listener.wait(count, self.engine)
        return time.perf_counter() - start

    def _checked(self, count: int) -> Any:
        answers = self.listener.take()
        if len(answers) != count or answers["status"].any():
            raise RuntimeError(f"{len(answers)} of {count} answers, {int((answers['status'] != 0).sum())} refusals")
        return answers

    def run(self, events: int, each: int) -> float:
        """Seconds until the last answer."""
        self.engine.sequencer.limit_events(each)
        parts = batches(self.load.messages(events), max(each, BATCH))
        seconds = self._push(parts, events)
        self._checked(events)
        return seconds

    def settle(self) -> None:
        """Waits until the state of everything committed is saved: its bytes count too."""
        deadline = time.monotonic() + 60
        while self.engine.stats()["state_saved_sequence"] < self.engine.stats()["log_sequence"]:
            if time.monotonic() > deadline:
                raise RuntimeError("the state was not saved within a minute")
            time.sleep(0.05)


def _side_by_side(
    ours: Ours, bare: Bare, folder: Path, each: int, events: int, record_bytes: int, runs: int
) -> report.Rated:
    """Interleaved runs of one commit size."""
    block = os.urandom(80 + each * (record_bytes + 8))
    rates, limits = [], []
    device = written = given = 0
    ours.settle()
    for _ in range(runs):
        limits.append(events / bare.run(events // each, block))
        before = _device_bytes(folder), _io("write_bytes"), _io("wchar")
        rates.append(events / ours.run(events, each))
        device += _device_bytes(folder) - before[0]
        written, given = written + _io("write_bytes") - before[1], given + _io("wchar") - before[2]
    before = _device_bytes(folder), _io("write_bytes"), _io("wchar")
    ours.settle()
    device += _device_bytes(folder) - before[0]
    written, given = written + _io("write_bytes") - before[1], given + _io("wchar") - before[2]
    all_bytes = runs * events * record_bytes
    return report.Rated(
        f"append {each} a commit",
        rates,
        limits,
        ours.engine.durability,
        TARGET_OF_LIMIT * statistics.median(limits),
        f"{record_bytes} bytes a record; the limit is LMDB putting blocks of the same size",
        {
            "target_ratio": TARGET_OF_LIMIT,
            "events_per_run": events,
            "bytes_per_record_byte": round((device or written) / all_bytes, 3),
            "bytes_source": "device" if device else "process write_bytes",
            "process_write_bytes_per_record_byte": round(written / all_bytes, 3),
            "process_given_bytes_per_record_byte": round(given / all_bytes, 3),
            "filesystem": ours.engine.filesystem,
        },
    )


def cases(smoke: bool, folder: Path | None = None) -> list[report.Case]:
    """All commit sizes. `folder`: where to write; it should be on the disk that is judged."""
    dialogs = 1_000 if smoke else 1_000_000
    with _both(dialogs, RECORD_BYTES, smoke, folder) as (ours, bare, place):
        return [
            _side_by_side(ours, bare, place, each, events, RECORD_BYTES, RUNS).case()
            for each, events in (SMOKE_SIZES if smoke else SIZES).items()
        ]


def run(workload: Workload, folder: Path | None = None, *, smoke: bool = False) -> list[Measure]:
    """A workload of kind `append`: its records, over its conversations, so many a commit."""
    records = workload.records
    if workload.kind != "append" or records is None:
        raise ValueError(f"workload {workload.name}: its kind is {workload.kind!r}; this runs those of kind 'append'")
    record_bytes = record_bytes_of(records.payload_bytes)
    events = min(records.count, RUN_EVENTS_MAX, RUN_BYTES_MAX // record_bytes)
    each = min(records.per_commit, BLOCK_BYTES_MAX // (record_bytes + 8))  # what goes into one commit at most
    events = max(events // each, 1) * each
    runs = max(RUNS, -(-records.count // events))
    with _both(records.conversations, record_bytes, smoke, folder) as (ours, bare, place):
        return [_side_by_side(ours, bare, place, each, events, record_bytes, runs).measure()]


@contextmanager
def _both(dialogs: int, record_bytes: int, smoke: bool, folder: Path | None) -> Iterator[tuple[Ours, Bare, Path]]:
    """The two sides in a folder that is removed."""
    save_interval_s = SMOKE_SAVE_INTERVAL_S if smoke else SAVE_INTERVAL_S
    place = Path(tempfile.mkdtemp(prefix="gonets-append-", dir=folder or "/var/tmp"))
    try:
        ours, bare = Ours(place / "data", dialogs, max(dialogs // 10, 200), save_interval_s, record_bytes), Bare(place)
        try:
            yield ours, bare, place
        finally:
            bare.close()
            ours.engine.close()
    finally:
        shutil.rmtree(place, ignore_errors=True)
