"""`gonets bench simulate`: seeds of the simulation one after another, and what a failure needs to be seen again.

A seed is a whole world (bench/simulation/run.py). Prints steps a second and seeds an hour; a failure prints what was
expected and got, the last steps, and the command that replays it, and ends with exit code 1.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import structlog
from cyclopts import Parameter

from bench.simulation.run import Failure, Outcome, Simulation
from ext.flat import seeds_from

MEMORY = Path("/dev/shm")
SEEDS = "1..20"


def run_seed(seed: int, steps: int) -> Outcome:
    """One seed in a folder of its own, in memory where the system has such a place; raises Failure."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    before = logging.root.manager.disable
    # Where entries of a table lie decides what a fault in one does: it must be the same whenever a seed is run.
    drawn = seeds_from(random.Random(seed).randbytes)
    logging.disable(logging.CRITICAL)  # failing disks are the simulation's own
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gonets-simulate-", dir=place) as folder,
            structlog.testing.capture_logs() as said,
        ):
            try:
                return Simulation(seed, Path(folder)).run(steps)
            except Failure as failure:
                failure.story += [f"the door logged: {entry}" for entry in said[-3:]]
                raise
    finally:
        seeds_from(drawn)
        logging.disable(before)


def simulate(
    *,
    seed: Annotated[int | None, Parameter(help="one seed; its run is the same every time")] = None,
    seeds: Annotated[str | None, Parameter(help=f"a range of seeds, as 1..100 (default {SEEDS})")] = None,
    steps: Annotated[int, Parameter(help="steps of each seed")] = 4_000,
    seconds: Annotated[float | None, Parameter(help="ends after so long, until then with further seeds")] = None,
) -> None:
    """The engine against a naive model, in one thread, under seeds: faults, crashes, slow readers, resumes."""
    if seed is not None and (seeds is not None or seconds is not None):
        other = "--seeds" if seeds is not None else "--seconds"
        _fail(f"--seed and {other} exclude each other: --seed is one world, {other} is for many")
    first, last = _range(seed, seeds or SEEDS)
    if steps < 1 or (seconds is not None and seconds <= 0):
        _fail("--steps and --seconds are numbers above 0")
    began, done, totals = time.monotonic(), 0, dict[str, int]()
    number = first
    while number <= last or (seconds is not None and seed is None):
        if seconds is not None and time.monotonic() - began >= seconds:
            break
        try:
            outcome = run_seed(number, steps)
        except Failure as failure:
            print("\n".join(failure.story), file=sys.stderr)
            print(f"gonets: simulate: seed {number}, step {failure.step}: {failure.reason}", file=sys.stderr)
            print(f"gonets: simulate: again: gonets bench simulate --seed {number} --steps {steps}", file=sys.stderr)
            raise SystemExit(1) from None
        for name, count in outcome.counts.items():
            totals[name] = totals.get(name, 0) + count
        done += 1
        if seed is not None:
            print(f"seed {seed}, {steps} steps: {outcome.digest}")
        number += 1
    took_s = time.monotonic() - began
    print(f"{done} seeds of {steps} steps: {done * steps / took_s:.0f} steps/s, {done * 3600 / took_s:.0f} seeds/h")
    print(", ".join(f"{name} {count}" for name, count in sorted(totals.items())))


def _range(seed: int | None, seeds: str) -> tuple[int, int]:
    if seed is not None:
        return seed, seed
    first, dots, last = seeds.partition("..")
    if not (first.isdecimal() and (not dots or last.isdecimal()) and int(first) <= int(last or first)):
        _fail(f"--seeds {seeds!r}: two numbers in order, as 1..100")
    return int(first), int(last or first)


def _fail(words: str) -> None:
    print(f"gonets: simulate: {words}", file=sys.stderr)
    raise SystemExit(1)
