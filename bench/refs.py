"""Two git refs, each built in a directory of its own by its own setup, and measured by turns: A B B A A B B A …

Used by compare.py. A ref is cloned from the repository that this file is in (or another, by `repository`), built with
the interpreter that runs now, and asked through its own command line, in a process of its own. So what is measured is
the ref's server, engine and load generator together: where these differ in what they verify, compare reports instead.

Invariants: the commit that a report names is the one that was asked for, else it is an error; nothing is left behind.
Cost: a build of everything for each ref, then the runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import comparable, schema
from bench.harness import BenchError
from bench.schema import Report
from bench.summary import Progress
from bench.verdicts import Series

REPOSITORY: Final = Path(__file__).resolve().parent.parent
BUILD_S: Final = 1_800.0
RUN_S: Final = 3_600.0
LAST_WORDS: Final = 300  # characters of what failed
COMMIT_DIGITS: Final = 12


class Tree(NamedTuple):
    """A ref, built."""

    side: str  # A, B
    ref: str
    commit: str
    path: Path


def commit_of(ref: str, repository: Path = REPOSITORY) -> str:
    """Its full commit. BenchError if there is none."""
    said = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if said.returncode or not said.stdout.strip():
        raise BenchError(f"{ref!r} is neither a report file nor a commit of {repository.name}: see git log, git tag")
    return said.stdout.strip()


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False, timeout=BUILD_S
        )
    except FileNotFoundError:
        raise BenchError("refs are compared through git, which isn't installed; compare two report files") from None


def built(side: str, ref: str, place: Path, progress: Progress, repository: Path = REPOSITORY) -> Tree:
    """A clone at this ref, with what is native in it compiled."""
    commit, path = commit_of(ref, repository), place / side.lower()
    clone = ("clone", "--quiet", "--shared", "--no-checkout", str(repository), str(path))
    _succeeded(_git(repository, *clone), f"{ref}: git clone")
    _succeeded(_git(path, "checkout", "--quiet", "--detach", commit), f"{ref}: git checkout")
    progress.phase(f"building {side}: {ref} ({commit[:COMMIT_DIGITS]})")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    _succeeded(_run(command, path, BUILD_S), f"{ref}: setup.py build_ext")
    return Tree(side, ref, commit, path)


def _run(command: Sequence[str], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """In a directory whose modules come before those that are installed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    try:
        return subprocess.run(
            list(command),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(command[1:4])} in {folder.name}: not done after {seconds:.0f} s") from None


def _succeeded(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-LAST_WORDS:].replace("\n", " | ") or "it said nothing"
        raise BenchError(f"{what} failed (status {done.returncode}): {words}")


def turns(runs: int) -> Iterator[int]:
    """0 and 1 in the order A B B A A B B A …, so many of each."""
    for number in range(runs):
        yield from (0, 1) if number % 2 == 0 else (1, 0)


class Job(NamedTuple):
    """What both refs do."""

    workload: str = ""  # of `gonets bench run`
    bench: str = ""  # or the name of another command
    more: tuple[str, ...] = ()  # arguments

    def command(self, report: Path) -> list[str]:
        """Its command line."""
        if self.bench:
            return [sys.executable, "-m", "gonets", "bench", self.bench, "--json", *self.more]
        return [sys.executable, "-m", "gonets", "bench", "run", self.workload, "--report", str(report), *self.more]


def measure(tree: Tree, job: Job, number: int, place: Path) -> Report | list[Series]:
    """One run of one side."""
    path = place / f"{tree.side.lower()}-{number}.json"
    done = _run(job.command(path), tree.path, RUN_S)
    _succeeded(done, f"{tree.ref}: gonets bench {job.bench or 'run'}")
    if job.bench:
        return _older(done.stdout, tree)
    try:
        found = schema.read(path)
    except schema.ReportError as error:
        raise BenchError(f"{tree.ref}: {error}") from None
    _same_commit(found.machine.commit, tree)
    return found


def _same_commit(said: str, tree: Tree) -> None:
    """Another's modules may have come first on the path of imports."""
    digits = said.removesuffix("-dirty")
    if not digits or not tree.commit.startswith(digits):
        raise BenchError(f"{tree.ref}: {tree.commit[:COMMIT_DIGITS]} was to be measured, and {said!r} measured itself")


def _older(text: str, tree: Tree) -> list[Series]:
    """The cases of a command that writes no report: one value each."""
    try:
        found: dict[str, Any] = json.loads(text)
        _same_commit(str(found["machine"]["commit"]), tree)
        return [_case(case) for case in found["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{tree.ref}: what it printed is no result of a benchmark: {error!r}") from None


def _case(case: dict[str, Any]) -> Series:
    if "value" in case:
        unit = str(case["unit"])
        return Series(str(case["case"]), unit, comparable.better(unit), [float(case["value"])])
    return Series(str(case["case"]), "/s", "higher", [float(case["rate_per_s"])])
