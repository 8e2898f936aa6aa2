"""A log on the disk beside a list of what was written: the rig of tests/log, and what its child processes run.

`Naive` pairs a real Log with tests/support/naive_block.Chain. Files are compared by hash, so that a refusal can be
shown to have changed nothing; blocks are replaced behind LMDB's own door, to make what no writer of ours makes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from engine.log import format as fmt
from engine.log.reader import Reader
from engine.log.segments import Segments
from engine.log.writer import Log
from tests.support.naive_block import Chain

ROOT = Path(__file__).resolve().parents[2]
SEGMENT_BYTES = 64 << 10


class Naive:
    """A log, and the list that it must equal."""

    def __init__(self, path: Path, *, shard: int = 0, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.path, self.shard, self.segment_bytes = path, shard, segment_bytes
        self.chain = Chain(shard)
        self.open()

    def open(self) -> None:
        """Opens it (again)."""
        self.log = Log.open(self.path, shard=self.shard, segment_bytes=self.segment_bytes)

    def append(self, count: int = 3, size: int = 200, conversation: int | None = None) -> bytes:
        """One block of so many events; conversations take turns."""
        block = self.chain.block(
            (conversation or 1 + (self.chain.last + i) % 7, bytes([i % 256]) * size) for i in range(count)
        )
        self.log.append(block)
        return block

    def fill(self, segments: int) -> None:
        """Appends until there are so many segments, the last of them with a block."""
        while len(segment_files(self.path)) < segments:
            self.append(count=20, size=500)

    def close(self) -> None:
        """Closes it."""
        self.log.close()


def segment_files(data: Path) -> list[Path]:
    """The segments of a data directory, in order."""
    return sorted((data / fmt.FOLDER).glob("*.lmdb"))


def hashes(data: Path) -> dict[str, str]:
    """Every file that holds data, by its hash; LMDB's and our locks are not data."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and not path.name.endswith("lock") and path.name != "lock.mdb"
    }


def only_reading(data: Path) -> tuple[Segments, Reader]:
    """The log as another process reads it: by looking at the directory."""
    segments = Segments(data / fmt.FOLDER, shard=None, written_here=False)
    segments.scan()
    return segments, Reader(segments)


def rows_of(path: Path) -> dict[bytes, bytes]:
    """All rows of a segment's file."""
    with lmdb.open(str(path), subdir=False, readonly=True, lib_version=fmt.LMDB_ENGINE) as env:
        with env.begin() as txn:
            return {bytes(key): bytes(value) for key, value in txn.cursor()}


def rewrite(path: Path, change: Callable[[dict[bytes, bytes]], Any]) -> None:
    """Changes the rows of a segment's file, or of another environment, as no writer of ours would."""
    with lmdb.open(str(path), subdir=path.is_dir(), map_size=1 << 28, lib_version=fmt.LMDB_ENGINE) as env:
        with env.begin(write=True) as txn:
            before = {bytes(key): bytes(value) for key, value in txn.cursor()}
            after = dict(before)
            change(after)
            for key in before.keys() - after.keys():
                txn.delete(key)
            for key, value in after.items():
                if before.get(key) != value:
                    txn.put(key, value)


def run_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, at the root of this checkout."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
