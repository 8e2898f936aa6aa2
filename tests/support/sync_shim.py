"""The ruler of tests/support/sync_shim.c: compiles it, and tells a process that runs under it what its syncs do.

`hold` makes them wait, `fail` makes them fail, also those that wait, `go` lets them be. `syncs` are fsync and
fdatasync, `metas` the writes to descriptors that sync by themselves: LMDB's meta page, which makes a commit be.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

SOURCE = Path(__file__).with_suffix(".c")
CONTROL_BYTES = 12 * 4 + 64
PASS, HOLD, FAIL, HOLD_BEHIND = range(4)
KINDS = ("sync", "meta")
DEADLINE_S = 25.0
MODE, ERROR, HELD, FAILED, COUNT, MAPS, EARLY = 0, 2, 4, 5, 6, 8, 10

Kind = Literal["sync", "meta"]


def wait_until(condition: Callable[[], bool], words: str) -> None:
    """Looks again and again; what is awaited has no wake-up of its own."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, words
        time.sleep(0.001)


class SyncShim:
    """One control file, for one process at a time."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.library = folder / "sync_shim.so"
        self._control_path = folder / "sync_control"
        self._base = base
        compiler = os.environ.get("CC", "cc").split()
        command = [
            *compiler,
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            "-o",
            str(self.library),
            str(SOURCE),
            "-ldl",
        ]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"no C compiler ({compiler[0]}): name one in CC")
        assert run.returncode == 0, run.stderr
        self._control_path.write_bytes(bytes(CONTROL_BYTES))
        with self._control_path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), CONTROL_BYTES)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall run under it."""
        return {
            **os.environ,
            "LD_PRELOAD": f"{self.library} {os.environ.get('LD_PRELOAD', '')}".strip(),
            "SYNC_SHIM_CONTROL": str(self._control_path),
            "SYNC_SHIM_BASE": str(self._base.resolve()),
        }

    def _get(self, field: int) -> int:
        value: int = struct.unpack_from("<I", self._map, 4 * field)[0]
        return value

    def _set(self, field: int, value: int) -> None:
        struct.pack_into("<I", self._map, 4 * field, value)

    def hold(self, kind: Kind = "sync", suffix: str = "") -> None:
        """From now on calls wait that concern a path with this end."""
        self._map[48:] = suffix.encode().ljust(64, b"\0")
        self._set(MODE + KINDS.index(kind), HOLD)

    def hold_behind(self) -> None:
        """From now on a meta page is written, and the call does not return."""
        self._set(MODE + KINDS.index("meta"), HOLD_BEHIND)

    def fail(self, kind: Kind, error: int) -> None:
        """From now on calls fail, and those that wait do."""
        self._set(ERROR + KINDS.index(kind), error)
        self._set(MODE + KINDS.index(kind), FAIL)

    def go(self) -> None:
        """All pass."""
        for kind in range(2):
            self._set(MODE + kind, PASS)

    def wait_held(self) -> None:
        """Until a call waits."""
        wait_until(lambda: self._get(HELD) > 0, "no sync was called that could be held")

    def wait_failed(self) -> None:
        """Until a call has failed."""
        wait_until(lambda: self._get(FAILED) > 0, "no sync was called that could fail")

    @property
    def syncs(self) -> int:
        """Calls of fsync, fdatasync."""
        return self._get(COUNT)

    @property
    def metas(self) -> int:
        """Writes that sync by themselves."""
        return self._get(COUNT + 1)

    @property
    def map_syncs(self) -> int:
        """Calls of msync, sync_file_range."""
        return self._get(MAPS)

    @property
    def early_metas(self) -> int:
        """Meta pages written before the pages that they name were synced."""
        return self._get(EARLY)
