"""Readers while the writer appends and rolls: in threads of its process, in another process, over closing environments.

Each follower must see every block once and in order, whatever it meets; nobody waits for anybody by the clock.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import msgpack
import pytest

from engine.errors import EngineClosed, EngineError, LogDamaged
from engine.log import segments as segments_module
from engine.log.reader import Reader
from engine.log.segments import Segments
from ext import block as blocks
from tests.support.log_rig import ROOT, Naive, only_reading, run_child, segment_files

BLOCKS = 400


def follow(reader: Reader, until: int, found: list[bytes]) -> None:
    """Reads on from where it is until a sequence."""
    position = 0
    while position < until:
        for block in reader.blocks_after(position, 10_000):
            head = blocks.header(block)
            assert head.first_sequence == position + 1
            position += head.count
            found.append(block)


def in_threads(*jobs: Callable[[], None]) -> Callable[[], None]:
    """Starts them; what is returned waits, and raises what one of them raised."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()

    def wait() -> None:
        for thread in threads:
            thread.join(40)
            assert not thread.is_alive()
        if errors:
            raise errors[0]

    return wait


def test_threads_follow_while_the_writer_rolls(tmp_path: Path) -> None:
    """L3 for everybody: a roll can't be jumped over, a record just committed is there."""
    naive = Naive(tmp_path, segment_bytes=16 << 10)
    until = BLOCKS  # polling threads take turns with the writer: a third of what a process of its own follows
    found: list[list[bytes]] = [[], [], []]

    def ask_for_the_newest() -> None:
        reader, asked = naive.log.reader(), 0
        while asked < until:
            asked = naive.log.last_sequence
            if asked:
                record = reader.record(asked)
                assert record == naive.chain.record(asked)
                assert reader.record(asked + 1) in (None, *naive.chain.records[asked : asked + 1])

    jobs = [lambda each=each: follow(naive.log.reader(), until, each) for each in found]
    wait = in_threads(*jobs, ask_for_the_newest)
    for _ in range(until // 5):
        naive.append(count=5, size=100)
    wait()
    assert found == [naive.chain.blocks] * 3
    assert len(segment_files(tmp_path)) > 5
    naive.close()


FOLLOWER = """
import hashlib, os, sys
from pathlib import Path
from ext import block as blocks
from tests.support.log_rig import only_reading
until, position, digest = int(sys.argv[2]), 0, hashlib.sha256()
segments, reader = only_reading(Path(sys.argv[1]))
print("open", flush=True)
parent = os.getppid()
while position < until and os.getppid() == parent:  # an orphan ends
    last = reader.last_sequence()
    assert last >= position, (last, position)
    for block in reader.blocks_after(position, 10_000):
        head = blocks.header(block)
        assert head.first_sequence == position + 1, (head, position)
        position += head.count
        digest.update(block)
    if position:
        assert reader.record(position)
print(digest.hexdigest(), len(segments.firsts))
segments.close()
"""


def test_another_process_follows_across_rolls(tmp_path: Path) -> None:
    """No gap, no double: it learns of a new segment from the directory."""
    naive = Naive(tmp_path, segment_bytes=16 << 10)
    child = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, str(tmp_path), str(5 * BLOCKS)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    for _ in range(BLOCKS):
        naive.append(count=5, size=100)
    digest, count = child.communicate(timeout=40)[0].split()
    assert child.returncode == 0
    assert digest == hashlib.sha256(b"".join(naive.chain.blocks)).hexdigest()
    assert int(count) == len(segment_files(tmp_path)) > 5
    naive.close()


def test_a_head_in_a_segment_not_yet_looked_for_is_walked(tmp_path: Path) -> None:
    """Another process hears of a sequence before it has looked at the directory: that is no damage."""
    naive = Naive(tmp_path, segment_bytes=16 << 10)
    naive.append()
    for ask in ("walk", "record", "blocks"):
        segments, reader = only_reading(tmp_path)
        naive.fill(len(segment_files(tmp_path)) + 2)
        naive.close()  # LMDB must not be opened twice in a process
        head, _ = naive.chain.heads[1]
        if ask == "walk":
            assert reader.walk(head, 1, 0, 1 << 30) == naive.chain.walk(head, 0, 1 << 30)
        elif ask == "record":
            assert reader.record(head) == naive.chain.record(head)
        else:
            assert reader.blocks_after(naive.chain.last - 1, 1) == naive.chain.blocks[-1:]
        segments.close()
        naive.open()
    naive.close()


def test_a_look_within_the_same_tick_of_the_clock_is_repeated(tmp_path: Path) -> None:
    """What is renamed right after a look may leave the directory with the time that it had: it must still be found."""
    naive = Naive(tmp_path, segment_bytes=16 << 10)
    naive.append()
    folder = tmp_path / "log"
    tick_ns = time.time_ns() + 10**9
    os.utime(folder, ns=(tick_ns, tick_ns))
    segments, reader = only_reading(tmp_path)
    naive.fill(3)
    naive.close()
    os.utime(folder, ns=(tick_ns, tick_ns))
    assert reader.last_sequence() == naive.chain.last
    assert reader.blocks_after(0, 1 << 30) == naive.chain.blocks
    segments.close()


def test_a_listing_that_lacks_the_last_but_one_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments come while the directory is listed, and only the second is in it (POSIX, readdir): nothing is
    missing in the log, and nobody is told so."""
    naive = Naive(tmp_path, segment_bytes=16 << 10)
    naive.fill(4)
    naive.close()
    lacking = segment_files(tmp_path)[2]
    iterdir, listings = Path.iterdir, 0

    def listed(self: Path) -> Iterator[Path]:
        nonlocal listings
        listings += 1
        return (path for path in iterdir(self) if listings > 1 or path != lacking)

    monkeypatch.setattr(Path, "iterdir", listed)
    segments, reader = only_reading(tmp_path)
    assert reader.blocks_after(0, 1 << 30) == naive.chain.blocks and listings >= 2
    segments.close()


def test_a_record_that_came_and_was_rolled_over_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look finds nothing, then it is appended and its segment ends: the second look must find it."""
    naive = Naive(tmp_path, segment_bytes=1)
    naive.append(count=1)
    reader = naive.log.reader()
    after = Segments.after
    came: list[int] = []

    def append_first(self: Segments, first: int) -> int | None:
        if not came:
            naive.segment_bytes = naive.log._segment_bytes = 1 << 20
            came.append(len(naive.append(count=1)))
            naive.log._segment_bytes = 1
            naive.append(count=1)
        return after(self, first)

    monkeypatch.setattr(Segments, "after", append_first)
    assert reader.record(2) == naive.chain.record(2)
    came.clear()
    assert reader.blocks_after(3, 1 << 30) == naive.chain.blocks[3:]
    assert [int(path.stem) for path in segment_files(tmp_path)] == [1, 3, 5]
    naive.close()


def test_environments_close_while_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few may stay open, four threads read all over: nobody's map is taken away, and each answer is right."""
    monkeypatch.setattr(segments_module, "OPEN_MAX", 3)
    naive = Naive(tmp_path, segment_bytes=1)
    for _ in range(30):
        naive.append(count=2, size=3_000)
    head, _ = naive.chain.heads[1]

    def read(seed: int) -> None:
        reader, random_ = naive.log.reader(), random.Random(seed)
        for _ in range(150):
            sequence = random_.randrange(1, 60)
            assert reader.record(sequence) == naive.chain.record(sequence)
            assert reader.blocks_after(sequence, 20_000) == naive.chain.blocks_after(sequence, 20_000)
            assert reader.walk(head, 1, 0, 100) == naive.chain.walk(head, 0, 100)

    in_threads(*(lambda seed=seed: read(seed) for seed in range(4)))()
    assert len(naive.log._segments._open) <= 3 + 4
    naive.close()


def test_closing_waits_for_those_who_read(tmp_path: Path) -> None:
    """And who comes later is told so, instead of reading a map that is gone."""
    naive = Naive(tmp_path)
    naive.append()
    read, closing = threading.Event(), threading.Event()
    order: list[str] = []

    def hold() -> None:
        with naive.log._segments.reading(1) as txn:
            read.set()
            assert closing.wait(20)
            while not naive.log._segments._closed:
                pass
            order.append(bytes(txn.get((1).to_bytes(8, "big"))[:4]).decode())

    def close() -> None:
        assert read.wait(20)
        closing.set()
        naive.close()
        order.append("closed")

    in_threads(hold, close)()
    assert order == ["GNB1", "closed"]
    with pytest.raises(EngineClosed):
        naive.log.reader().record(1)


def test_readers_by_the_hundred(tmp_path: Path) -> None:
    """Each thread takes a reader's place in the segment only while it reads."""
    naive = Naive(tmp_path)
    naive.append()
    barrier = threading.Barrier(120)

    def read() -> None:
        barrier.wait(30)
        assert naive.log.reader().blocks_after(0) == naive.chain.blocks

    in_threads(*[read] * 120)()
    naive.append()
    naive.close()


APPENDER = """
import sys
from pathlib import Path
import msgpack
from engine.log.writer import Log
log = Log.open(Path(sys.argv[1]), segment_bytes=1 << 20)
for block in msgpack.unpackb(Path(sys.argv[2]).read_bytes()):
    log.append(block)
log.close()
"""


def test_a_map_that_the_file_outgrew_is_made_anew(tmp_path: Path) -> None:
    """A writer with a larger segment_bytes than before: readers that were there already go on."""
    naive = Naive(tmp_path / "data")
    naive.append()
    naive.close()
    segments, reader = only_reading(naive.path)
    assert reader.last_sequence() == 3
    held, path = segments._open[1], segments.path(1)
    held.env.close()
    held.env = lmdb.open(str(path), subdir=False, readonly=True, map_size=1, lib_version=0)  # as small as the file
    more = [naive.chain.block((1, b"x" * 500) for _ in range(20)) for _ in range(20)]
    (tmp_path / "blocks").write_bytes(msgpack.packb(more))
    child = run_child(APPENDER, naive.path, tmp_path / "blocks")
    assert child.returncode == 0, child.stderr
    assert reader.blocks_after(0, 1 << 30) == naive.chain.blocks
    assert segments._open[1] is not held
    assert len(segment_files(naive.path)) == 1
    segments.close()


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    """Not an error of LMDB's."""
    naive = Naive(tmp_path, segment_bytes=16 << 10)
    naive.fill(4)
    naive.close()
    segments, reader = only_reading(tmp_path)
    path = segment_files(tmp_path)[1]
    path.unlink()
    with pytest.raises(LogDamaged, match=f"{path.name} can't be opened: No such file"):
        reader.record(int(path.stem))
    assert issubclass(LogDamaged, EngineError)
    assert reader.record(1) == naive.chain.record(1)
    segments.close()


def test_slots_of_killed_readers_are_given_back(tmp_path: Path) -> None:
    """A process killed inside a read transaction leaves its slot; reaping frees it, and the writer's pages with it."""
    naive = Naive(tmp_path)
    naive.append(3)
    code = (
        "import sys, time; from pathlib import Path; from tests.support.log_rig import only_reading\n"
        "segments, reader = only_reading(Path(sys.argv[1]))\n"
        "with segments.reading(segments.firsts[-1]) as txn:\n    print('in', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    child.kill()
    child.wait()
    child.stdout.close()
    env = naive.log._env
    assert f" {child.pid} " in f" {env.readers()} ".replace("\n", " ")
    naive.log.reap_readers()
    assert str(child.pid) not in env.readers().split()
    naive.close()
