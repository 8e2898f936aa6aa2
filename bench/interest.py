"""What the interest table of a worker costs: memory of 10 million entries, look-ups by random conversation, changes.

An entry is one session that follows one conversation. Two shapes: conversations that one session of the worker
follows, as most dialogs are, and groups that eight follow. Memory is what the table has mapped for itself; beside it
what the process has grown by, in which the lists of the sessions are too (for leaving). Look-ups are native, as the
fan-out does them for each record, and go to a random place of the table each; the limit is as many reads at random
places of an array of as many bytes, by numpy. No sockets, no events.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import report
from bench.fanout_micro import Lookups, interest_lookups

ENTRIES: Final = 10_000_000
SMOKE_ENTRIES: Final = 20_000
LOOKUPS: Final = 2_000_000
RUNS: Final = 3
SESSIONS_EACH: Final = {"one session each": 1, "groups of 8": 8}
TARGET_MB: Final = 160.0  # of 10 million entries, decimal
TARGET_LOOKUPS_PER_S: Final = 10_000_000


def _random_reads_per_s(held_bytes: int, count: int) -> float:
    """What the memory gives: reads of 8 bytes at random places, independent of each other."""
    words = np.ones(max(held_bytes // 8, 1), np.uint64)
    places = np.random.default_rng(1).integers(0, len(words), count)
    began = time.perf_counter()
    total = int(words[places].sum())
    seconds = time.perf_counter() - began
    assert total == count
    return count / seconds


def run(smoke: bool, folder: Path | None = None) -> list[report.Case]:
    """Memory, then rates, of each shape. Nothing is written to `folder`."""
    entries, runs = (SMOKE_ENTRIES, 1) if smoke else (ENTRIES, RUNS)
    lookups = min(LOOKUPS, entries)
    cases: list[report.Case] = []
    for shape, sessions_each in SESSIONS_EACH.items():
        found: list[Lookups] = []
        limits: list[float] = []
        for number in range(runs):
            gc.collect()
            found.append(interest_lookups(entries, lookups, seed=number, sessions_each=sessions_each))
            limits.append(_random_reads_per_s(round(found[-1].bytes_per_entry * found[-1].entries), lookups))
        cases += _cases(f"interest of {found[0].entries:,}, {shape}", found, limits, target=sessions_each == 1)
    return cases


def _cases(title: str, found: list[Lookups], limits: list[float], *, target: bool) -> list[report.Case]:
    more: dict[str, Any] = {"durability": "none (memory)", "filesystem": "none"}
    entries = found[0].entries
    aims = {"target": round(TARGET_MB * entries / ENTRIES, 3)} if target else {}
    return [
        report.valued(
            f"{title}, memory",
            [one.bytes_per_entry * one.entries / 1e6 for one in found],
            "MB",
            3,
            **aims,
            bytes_per_entry=round(found[0].bytes_per_entry, 1),
            process_bytes_per_entry=round(max(one.process_bytes_per_entry for one in found), 1),
            **more,
        ),
        report.rated(
            f"{title}, look-ups found",
            [one.hits_per_s for one in found],
            limits,
            **more | ({"target": TARGET_LOOKUPS_PER_S} if target else {}),
        ),
        report.rated(f"{title}, look-ups of nobody's", [one.misses_per_s for one in found], limits, **more),
        report.rated(f"{title}, added", [one.adds_per_s for one in found], **more),
        report.rated(f"{title}, dropped", [one.drops_per_s for one in found], **more),
    ]
