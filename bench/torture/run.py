"""`gonets bench torture`: power cuts and kill -9 at named steps; then every receipt is looked for.

A writer under the fault disk (writer.py) is recorded, many with a failed sync or a kill, and the one that follows it;
each journal gives cuts at any call of it, each with a subset of what was not synced (bench/faultdisk/powercut.py). A
kill ends a writer at exactly one call, named after what it is part of (steps.py). What is left is judged (judge.py).
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
from typing import Annotated, Final, NamedTuple

from cyclopts import Parameter

from bench.faultdisk import Action, Entry, FaultDisk, Kind, Machine, NoCompiler, entries, library
from bench.torture.judge import Failure, Said, judge
from bench.torture.steps import COMMIT_FILES, steps
from bench.torture.writer import REFUSED

ROOT: Final = Path(__file__).resolve().parent.parent.parent
MEMORY: Final = Path("/dev/shm")
CUTS_A_JOURNAL: Final = 20
LIVES, BATCHES = 3, 14
DRAWS_MAX: Final = 20
KILLED: Final = -9


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

    def disk(self, place: Path, journal: bool) -> FaultDisk:
        """A new place for writers."""
        (place / "disk").mkdir(parents=True)
        return FaultDisk(place / "control", place / "disk", self._library, place / "journal" if journal else None)

    def run(self, place: Path, disk: FaultDisk, seed: int, lives: Iterable[int]) -> int:
        """One writer; its exit status."""
        task = {
            "base": str(disk.base), "control": str(disk.control), "journal": str(disk.journal or ""), "seed": seed,
            "said": str(place / "said"), "lives": list(lives), "batches": BATCHES,
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def said(self) -> str:
        """What writers wrote to stderr."""
        return (self.folder / "said").read_text()[-600:]

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Trouble(NamedTuple):
    """What befalls a writer while a journal is kept."""

    name: str
    statuses: tuple[int, ...]  # how it may end
    action: Action = Action.PASS
    kind: Kind = Kind.SYNC


TROUBLES: Final = (
    Trouble("no trouble", (0,)),
    Trouble("a failed sync of pages", (0, REFUSED), Action.FAIL, Kind.SYNC),
    Trouble("a failed sync of a meta page", (0, REFUSED), Action.FAIL_AFTER, Kind.META),
    Trouble("killed right behind a failed sync of a meta page", (KILLED,), Action.FAIL_KILL, Kind.META),
    Trouble("killed right behind a meta page", (KILLED,), Action.KILL_AFTER, Kind.META),
)


def record(writers: Writers, seed: int, place: Path) -> tuple[list[Entry], str]:
    """The journal of a writer that has its trouble, and of the one after it; the trouble's name."""
    chance = random.Random(seed)
    trouble = chance.choice(TROUBLES)
    disk = writers.disk(place, journal=True)
    rule = disk.rule(
        trouble.action, trouble.kind, path=COMMIT_FILES, error=errno.EIO, skip=chance.randrange(1, 2 * BATCHES), times=1
    )
    status = writers.run(place, disk, seed, range(LIVES - 1))
    hits = rule.hits
    disk.clear()
    if status not in trouble.statuses or (status == REFUSED and not hits):
        raise Failure(f"{trouble.name}: the writer ended with {status}: {writers.said()}")
    fenced = _heard(place).fenced
    if trouble.action in (Action.FAIL, Action.FAIL_AFTER) and status != REFUSED and hits != fenced:
        raise Failure(f"{trouble.name}, {hits} times, and the writer was fenced {fenced} times")
    status = writers.run(place, disk, seed + 1, [LIVES - 1])
    disk.close()
    if status:
        raise Failure(f"the writer after {trouble.name} ended with {status}: {writers.said()}")
    return list(entries((place / "journal").read_bytes())), trouble.name


def _heard(place: Path) -> Said:
    """All that writers said in a place."""
    said = Said()
    if (place / "said").exists():
        for line in (place / "said").read_bytes().splitlines():
            said.hear(line)
    return said


def cuts(writers: Writers, seed: int, count: int) -> Counter[str]:
    """One journal, cut `count` times at random calls."""
    chance, place = random.Random(seed), writers.folder / f"cuts-{seed}"
    journal, trouble = record(writers, seed, place)
    moments = sorted(chance.randrange(1, len(journal) + 1) for _ in range(count))
    machine, said, at = Machine(), Said(), 0
    counts = Counter({"cuts": count, "calls recorded": len(journal), f"journals with {trouble}": 1})
    for number, moment in enumerate(moments):
        for entry in journal[at:moment]:
            if entry.kind == Kind.MARK:
                said.hear(entry.data)
            machine.feed(entry)
        at = moment
        left = place / "left"
        left.mkdir()
        machine.cut(chance, left)
        try:
            counts += judge(left, said)
        except Exception as error:
            raise Failure(
                f"{trouble}; cut {number} at call {moment} of {len(journal)}: {type(error).__name__}: {error}"
            ) from error
        shutil.rmtree(left)
    shutil.rmtree(place)
    return counts


def kill(writers: Writers, seed: int) -> Counter[str]:
    """One writer killed at one step. A step that it doesn't reach is drawn again among those that it has reached."""
    chance, place, known = random.Random(seed), writers.folder / f"kill-{seed}", steps()
    name = sorted(known)[seed % len(known)]
    step = known[name]
    skip = chance.randrange(12 if name.startswith("commit.") else 3)
    keep_bytes, counts = chance.randrange(8_192), Counter({"kills": 1})
    for draw in range(DRAWS_MAX):
        disk = writers.disk(place, journal=False)
        rule = disk.rule(step.action, step.kind, path=step.pattern, skip=skip, keep_bytes=keep_bytes)
        status = writers.run(place, disk, seed + draw, range(LIVES))
        reached = rule.seen
        disk.close()
        if status == KILLED:
            break
        if status:
            raise Failure(f"{name}: the writer ended with {status}: {writers.said()}")
        skip = chance.randrange(max(reached, 1))
        counts["kills drawn again"] += 1
        shutil.rmtree(place)
    else:
        raise Failure(f"{name} is never reached")
    try:
        counts += judge(place / "disk", _heard(place))
    except Exception as error:
        raise Failure(f"killed at {name} (skip {skip}): {type(error).__name__}: {error}") from error
    shutil.rmtree(place)
    return counts + Counter({f"killed at {name}": 1})


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
    if not cuts and not kills:
        print("gonets: torture: --cuts 0 with --kills 0 looks at nothing: one of them must be above 0", file=sys.stderr)
        raise SystemExit(1)
    began = time.monotonic()
    try:
        counts = run(cuts, kills, seed, folder)
    except (Failure, NoCompiler, OSError) as error:
        print(f"gonets: torture: seed {seed}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    parts, hit = Counter[str](), 0
    for name, count in counts.items():
        parts[name.partition(".")[0]] += count
        hit += name.startswith("killed at ")
    for name, count in sorted(parts.items()):
        print(f"{name}: {count}")
    if kills:
        print(f"steps at which there was a kill: {hit} of {len(steps())}")
    print(f"seed {seed}: nothing lost, {time.monotonic() - began:.0f} s")
