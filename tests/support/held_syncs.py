"""Syncs that wait or fail on demand: rules of the fault disk (bench/faultdisk/disk.py) for a process of the tests.

`hold` makes them wait, `fail` makes them fail, also those that wait, `go` lets them be. `syncs` are fsync and
fdatasync, `metas` the writes to descriptors that sync by themselves: LMDB's meta page, which makes a commit be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from bench.faultdisk import Action, FaultDisk, Kind, NoCompiler, Rule, library

DEADLINE_S = 25.0

What = Literal["sync", "meta"]
KINDS: dict[What, tuple[Kind, ...]] = {"sync": (Kind.SYNC, Kind.DIRECTORY), "meta": (Kind.META,)}


def wait_until(condition: Callable[[], bool], words: str) -> None:
    """Looks again and again; what is awaited has no wake-up of its own."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, words
        time.sleep(0.001)


class HeldSyncs:
    """Of the files in one directory; one rule at a time for each kind of call."""

    def __init__(self, folder: Path, base: Path) -> None:
        try:
            self._disk = FaultDisk(folder / "faultdisk_control", base, library(folder))
        except NoCompiler as missing:
            pytest.skip(str(missing))
        self._rules: dict[What, Rule] = {}

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall run under it."""
        return self._disk.environment

    def hold(self, what: What = "sync", name: str = "*") -> None:
        """From now on calls wait that concern a name of this pattern; "." is the directory itself."""
        self._rules[what] = self._disk.rule(Action.HOLD, *KINDS[what], path=name)

    def hold_behind(self) -> None:
        """From now on a meta page is written, and the call does not return."""
        self._rules["meta"] = self._disk.rule(Action.HOLD_AFTER, *KINDS["meta"])

    def fail(self, what: What, error: int) -> None:
        """From now on calls fail, and those that wait do."""
        if what in self._rules:
            self._rules[what].become(Action.FAIL, error)
        else:
            self._rules[what] = self._disk.rule(Action.FAIL, *KINDS[what], error=error)

    def go(self) -> None:
        """All pass."""
        for rule in self._rules.values():
            rule.become(Action.PASS)
        self._rules.clear()

    def wait_held(self) -> None:
        """Until a call waits."""
        wait_until(lambda: any(rule.held for rule in self._rules.values()), "no call came that could be held")

    @property
    def syncs(self) -> int:
        """Calls of fsync, fdatasync."""
        return sum(self._disk.count(kind) for kind in KINDS["sync"])

    @property
    def metas(self) -> int:
        """Writes that sync by themselves."""
        return self._disk.count(Kind.META)

    @property
    def map_syncs(self) -> int:
        """Calls of msync, sync_file_range."""
        return self._disk.count(Kind.RANGE)

    @property
    def early_metas(self) -> int:
        """Meta pages written before the pages that they name were synced."""
        return self._disk.early_metas
