"""What append meets: a map that is full, a roll that fails, another writer's block behind ours. Nothing lost, nothing
doubled; what can't be understood fences the writer, and reading goes on."""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
import pytest

from engine.errors import LogFenced
from engine.log import writer
from engine.log.writer import Log
from ext import block as blocks
from tests.support.killed import copy
from tests.support.log_rig import Naive, run_child, segment_files

MAP_BYTES = 256 << 10
LARGE = 1 << 30


@pytest.fixture(name="small_map")
def _small_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that are full long before a segment is as long as it may be."""
    monkeypatch.setattr(writer, "map_bytes_of", lambda segment_bytes: MAP_BYTES)


def fenced(naive: Naive, words: str) -> None:
    """One more block is refused, now and ever after; all before it can be read."""
    chain = naive.chain
    kept = len(chain.blocks)
    block = chain.block([(1, b"x")])
    with pytest.raises(LogFenced, match=words) as raised:
        naive.log.append(block)
    assert not raised.value.retryable
    assert "restart the process" in str(raised.value)
    assert naive.log.failure is not None
    with pytest.raises(LogFenced, match="the writer stopped earlier"):
        naive.log.append(block)
    reader = naive.log.reader()
    assert reader.blocks_after(0, LARGE)[:kept] == chain.blocks[:kept]
    assert reader.record(1) == chain.record(1)


@pytest.mark.usefixtures("small_map")
def test_a_full_map_is_rolled_over(tmp_path: Path) -> None:
    """The transaction that didn't fit is aborted and written again into the next segment."""
    naive = Naive(tmp_path, segment_bytes=1 << 30)
    rolls = 0
    for size in [100, 60_000, 5_000, 60_000, 30_000] * 8:
        before = len(segment_files(tmp_path))
        naive.append(count=2, size=size)
        assert naive.log.last_sequence == naive.chain.last
        rolls += len(segment_files(tmp_path)) - before
    assert rolls > 3
    assert naive.log.reader().blocks_after(0, LARGE) == naive.chain.blocks
    for path in segment_files(tmp_path):
        assert path.stat().st_size <= MAP_BYTES
    naive.close()
    naive.open()
    assert naive.log.last_hash == naive.chain.hash
    assert naive.log.reader().blocks_after(0, LARGE) == naive.chain.blocks
    naive.close()


@pytest.mark.usefixtures("small_map")
def test_a_full_segment_opens_as_often_as_it_likes(tmp_path: Path) -> None:
    """L10: opening commits, also where the map has no page left, and then in pages that earlier commits gave up."""
    naive = Naive(tmp_path / "data", segment_bytes=1 << 30)
    fullest = 0
    while len(segment_files(naive.path)) < 2:
        naive.append(count=1, size=100)
        if segment_files(naive.path)[0].stat().st_size < MAP_BYTES - (16 << 10):
            continue
        copied = copy(naive.path, tmp_path / "copied")
        sizes = set()
        for _ in range(5):
            log = Log.open(copied, segment_bytes=1 << 30)
            assert log.last_sequence == naive.chain.last
            log.close()
            sizes.add(segment_files(copied)[-1].stat().st_size)
        assert max(sizes) - min(sizes) <= 8 << 10
        fullest = max(fullest, *sizes)
    assert fullest > MAP_BYTES - (8 << 10)
    naive.close()


@pytest.mark.usefixtures("small_map")
def test_a_block_larger_than_any_map_fences(tmp_path: Path) -> None:
    """It doesn't roll for ever, nor over a segment that has no block."""
    fresh = Naive(tmp_path / "fresh", segment_bytes=1 << 30)
    with pytest.raises(LogFenced, match="MDB_MAP_FULL"):
        fresh.append(count=5, size=60_000)
    fresh.close()
    naive = Naive(tmp_path, segment_bytes=1 << 30)
    naive.append()
    with pytest.raises(LogFenced, match="MDB_MAP_FULL"):
        naive.append(count=5, size=60_000)
    assert len(segment_files(tmp_path)) == 2
    assert naive.log.reader().blocks_after(0) == naive.chain.blocks[:1]
    naive.close()
    naive.open()
    assert naive.log.last_sequence == 3
    naive.chain.forget()
    naive.append()
    assert naive.log.reader().blocks_after(0) == naive.chain.blocks
    naive.close()


@pytest.mark.parametrize("step", ["rename", "sync"])
def test_a_roll_that_fails_fences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The name can't be given, or the directory not be synced: no block was written, and restarting is enough."""
    naive = Naive(tmp_path, segment_bytes=1)
    naive.append()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "rename":
        monkeypatch.setattr(os, "rename", fail)
    else:
        monkeypatch.setattr(writer, "sync_directory", fail)
    fenced(naive, "No space left on device")
    monkeypatch.undo()
    naive.close()
    naive.open()
    assert naive.log.last_sequence == 3
    naive.log.append(naive.chain.blocks[-1])
    assert naive.log.reader().blocks_after(0, LARGE) == naive.chain.blocks
    naive.close()


FOREIGN = """
import sys
from pathlib import Path
import lmdb, msgpack
with lmdb.open(sys.argv[1], subdir=False, map_size=1 << 27, lib_version=0) as env, env.begin(write=True) as txn:
    for key, value in msgpack.unpackb(Path(sys.argv[2]).read_bytes()):
        txn.put(key, value)
"""


def put_from_outside(naive: Naive, rows: list[tuple[bytes, bytes]]) -> None:
    """Another process, which ignores the lock, writes into the newest segment."""
    (naive.path / "rows").write_bytes(msgpack.packb(rows))
    child = run_child(FOREIGN, segment_files(naive.path)[-1], naive.path / "rows")
    assert child.returncode == 0, child.stderr


def test_a_foreign_block_behind_ours_fences(tmp_path: Path) -> None:
    """Two writers: whoever comes second stops, and says so."""
    naive = Naive(tmp_path)
    naive.append()
    put_from_outside(naive, [((4).to_bytes(8, "big"), naive.chain.block([(5, b"foreign")]))])
    naive.chain.forget()
    fenced(naive, "another writer is at work")
    assert b"foreign" in naive.log.reader().blocks_after(3)[0]
    naive.close()


def test_a_foreign_block_in_the_first_place_fences(tmp_path: Path) -> None:
    """Also where we have written none yet."""
    naive = Naive(tmp_path)
    block = naive.chain.block([(5, b"foreign")])
    put_from_outside(naive, [((1).to_bytes(8, "big"), block)])
    with pytest.raises(LogFenced, match="another writer is at work"):
        naive.log.append(block)
    naive.close()


def test_our_last_block_changed_by_another_fences(tmp_path: Path) -> None:
    """The same key with another header is not our block."""
    naive = Naive(tmp_path)
    naive.append()
    head = blocks.header(naive.chain.blocks[0])
    changed = naive.chain.blocks[0][:6] + b"\x01" + naive.chain.blocks[0][7:]
    assert blocks.header(changed) == head._replace(flags=1)
    put_from_outside(naive, [((1).to_bytes(8, "big"), changed)])
    with pytest.raises(LogFenced, match="another writer is at work"):
        naive.append()
    naive.close()
