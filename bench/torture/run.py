"""`gonets bench torture`: power cuts and kill -9 at named steps; then every receipt is looked for.

A writer under the fault disk (bench/torture/writer.py) is recorded; each journal gives many cuts, at any call of it,
each with a subset of what was not synced (bench/faultdisk/powercut.py). A kill ends a writer at exactly one call,
named after what it is part of. What is left is opened as a server would, judged, and checked by `gonets log check`.
Files lie in memory where there is room: what a disk would have lost is the model's to say.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from bench.faultdisk import Action, FaultDisk, Kind, Machine, NoCompiler, entries, library
from engine import CursorStore, Engine
from engine.log.check import check_log
from ext.record import decode

ROOT: Final = Path(__file__).resolve().parent.parent.parent
MEMORY: Final = Path("/dev/shm")
CUTS_A_JOURNAL: Final = 100
LIVES, BATCHES = 3, 14

_FILES: Final = {
    "commit": "data/log/*.lmdb",
    "roll": "data/log/*.new",
    "save": "data/state/data.mdb",
    "marks": "data/cursors/data.mdb",
    "snapshot": "data/snapshots/*/data.mdb",
    "backup": "backup/segments/*",
}
_CALLS: Final = {"pages": Kind.WRITE, "sync": Kind.SYNC, "meta": Kind.META}
_MOMENTS: Final = {"before": Action.KILL, "torn": Action.TEAR_KILL, "after": Action.KILL_AFTER}
_NAMES: Final = {
    "roll.make": (Kind.OPEN, "data/log/*.new"),
    "roll.rename": (Kind.RENAME, "data/log/*"),
    "roll.unlink": (Kind.UNLINK, "data/log/*.new-lock"),
    "roll.directory": (Kind.DIRECTORY, "data/log"),
    "snapshot.rename": (Kind.RENAME, "data/snapshots/*"),
    "snapshot.directory": (Kind.DIRECTORY, "data/snapshots"),
    "trim.unlink": (Kind.UNLINK, "data/log/*.lmdb"),
    "backup.rename": (Kind.RENAME, "backup/*"),
    "backup.segment": (Kind.RENAME, "backup/segments/*"),
    "backup.directory": (Kind.DIRECTORY, "backup"),
}


def steps() -> dict[str, tuple[Kind, str, Action]]:
    """Every step at which a writer can be killed: part, call, and whether before, in the middle of or after it."""
    found = {}
    for moment, action in _MOMENTS.items():
        for part, pattern in _FILES.items():
            for call, kind in _CALLS.items():
                if (call == "sync") <= (moment != "torn"):
                    found[f"{part}.{call}.{moment}"] = (kind, pattern, action)
        if moment != "torn":
            for name, (kind, pattern) in _NAMES.items():
                found[f"{name}.{moment}"] = (kind, pattern, action)
    return found


class Failure(Exception):
    """Something that had a receipt is lost, or what is left isn't whole."""


class Writers:
    """The process that forks writers under the fault disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._library = library(folder)
        idle = FaultDisk(folder / "idle", folder / "nothing", self._library)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.torture.writer"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "said").open("ab"),
            env=idle.environment, cwd=ROOT, text=True,
        )  # fmt: skip

    def run(self, place: Path, seed: int, *, lives: int, journal: bool, rule: Any = None) -> tuple[int, FaultDisk]:
        """One writer in a new place; its exit status."""
        (place / "disk").mkdir(parents=True)
        path = place / "journal" if journal else None
        disk = FaultDisk(place / "control", place / "disk", self._library, path)
        if rule is not None:
            rule(disk)
        task = {
            "base": str(place / "disk"), "control": str(disk.control), "journal": str(path or ""), "seed": seed,
            "receipts": str(place / "receipts"), "lives": lives, "batches": BATCHES,
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), disk

    def said(self) -> str:
        """What writers wrote to stderr."""
        return (self.folder / "said").read_text()[-600:]

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def judge(data: Path, receipts: Iterable[bytes]) -> None:
    """Opens what is left as a server does. Raises Failure."""
    engine = Engine.open(data, on_answers=lambda answers: None, on_committed=lambda sequence: None, threads=False)
    try:
        reader = engine.log.reader()
        for line in receipts:
            sequence, user, counter = map(int, line.split())
            if sequence < reader.first_sequence:
                continue
            record = reader.record(sequence)
            found = None if record is None else decode(record)
            if found is None or (found.sender, found.counter) != (user, counter):
                raise Failure(f"receipt {sequence} of user {user}, counter {counter} is lost: {found}")
    finally:
        engine.release()
    CursorStore.open(data / "cursors", interval_s=60.0).close()
    if problems := check_log(data)["problems"]:
        raise Failure(f"gonets log check: {problems[:3]}")


def cuts(writers: Writers, seed: int, count: int) -> Counter[str]:
    """One journal, cut `count` times at random calls."""
    chance, place, counts = random.Random(seed), writers.folder / f"cuts-{seed}", Counter[str]()
    fails = chance.random() < 0.4

    def rule(disk: FaultDisk) -> None:
        """One sync fails; the lives behind it open a file whose pages the kernel calls clean."""
        how = (Action.FAIL, Kind.SYNC) if chance.random() < 0.5 else (Action.FAIL_AFTER, Kind.META)
        disk.rule(*how, path=_FILES["commit"], error=errno.EIO, skip=chance.randrange(1, 2 * BATCHES), times=1)

    status, disk = writers.run(place, seed, lives=LIVES, journal=True, rule=rule if fails else None)
    disk.close()
    counts["journals with a failed sync"] += int(fails)
    if status and not (fails and status == 1):  # a log that can't be synced is not opened
        raise Failure(f"the writer ended with {status}: {writers.said()}")
    journal = list(entries((place / "journal").read_bytes()))
    moments = sorted(chance.randrange(1, len(journal) + 1) for _ in range(count))
    machine, receipts, at = Machine(), list[bytes](), 0
    for number, moment in enumerate(moments):
        for entry in journal[at:moment]:
            if entry.kind == Kind.MARK:
                receipts.append(entry.data)
            machine.feed(entry)
        at = moment
        left = place / "left"
        left.mkdir()
        machine.cut(chance, left)
        try:
            judge(left / "data", receipts)
        except Exception as error:
            raise Failure(
                f"cut {number} at call {moment} of {len(journal)}: {type(error).__name__}: {error}"
            ) from error
        counts["receipts looked for"] += len(receipts)
        shutil.rmtree(left)
    counts["cuts"] += count
    counts["calls recorded"] += len(journal)
    shutil.rmtree(place)
    return counts


def kill(writers: Writers, seed: int) -> Counter[str]:
    """One writer killed at one step."""
    chance, place, known = random.Random(seed), writers.folder / f"kill-{seed}", steps()
    name = sorted(known)[seed % len(known)]
    kind, pattern, action = known[name]
    skip = chance.randrange(12) if name.startswith("commit.") else chance.randrange(3)
    keep_bytes = chance.randrange(8_192)

    def rule(disk: FaultDisk) -> None:
        disk.rule(action, kind, path=pattern, skip=skip, keep_bytes=keep_bytes)

    status, disk = writers.run(place, seed, lives=LIVES, journal=False, rule=rule)
    disk.close()
    if status not in (0, -9):
        raise Failure(f"{name}: the writer ended with {status}: {writers.said()}")
    try:
        receipts = (place / "receipts").read_bytes().splitlines() if (place / "receipts").exists() else []
        judge(place / "disk" / "data", receipts)
    except Exception as error:
        raise Failure(f"killed at {name} (skip {skip}): {type(error).__name__}: {error}") from error
    shutil.rmtree(place)
    return Counter({"kills": 1, f"killed at {name}": int(status == -9), "not reached": int(status == 0)})


def run(cut_count: int, kill_count: int, seed: int, folder: Path | None = None) -> Counter[str]:
    """All of it; raises Failure with the seed in its words, NoCompiler."""
    counts = Counter[str]()
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gonets-torture-", dir=folder or memory) as name:
        writers = Writers(Path(name))
        try:
            for number in range(-(-cut_count // CUTS_A_JOURNAL)):
                one = seed * 1_000_000 + number
                try:
                    counts += cuts(writers, one, min(CUTS_A_JOURNAL, cut_count - number * CUTS_A_JOURNAL))
                except Failure as failure:
                    raise Failure(f"journal {number}: {failure}") from failure
            for number in range(kill_count):
                counts += kill(writers, seed * 1_000_000 + number)
        finally:
            writers.close()
    return counts


def torture(
    *,
    cuts: Annotated[int, Parameter(help="power cuts")] = 1_000,
    kills: Annotated[int, Parameter(help="kill -9 at named steps")] = 1_000,
    seed: Annotated[int, Parameter(help="of workloads, moments and what is lost")] = 1,
    folder: Annotated[Path | None, Parameter(help="where to work; default: in memory where there is room")] = None,
) -> None:
    """Power cuts and kills; after each, every receipt must be there and the log whole."""
    if cuts < 0 or kills < 0 or seed < 0 or (folder is not None and not folder.is_dir()):
        print("gonets: torture: --cuts, --kills, --seed are numbers from 0; --folder is a directory", file=sys.stderr)
        raise SystemExit(1)
    began = time.monotonic()
    try:
        counts = run(cuts, kills, seed, folder)
    except (Failure, NoCompiler, OSError) as error:
        print(f"gonets: torture: seed {seed}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    for name, count in sorted(counts.items()):
        print(f"{name}: {count}")
    print(f"seed {seed}: nothing lost, {time.monotonic() - began:.0f} s")
