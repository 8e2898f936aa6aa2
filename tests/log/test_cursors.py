"""Delivered and read marks: the highest wins, also over restarts and failures; a crash loses one interval at most."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest

from engine import errors
from engine.log import cursors
from engine.log.cursors import CursorStore
from tests.support.held_syncs import HeldSyncs
from tests.support.log_rig import ROOT, hashes, run_child

NEVER_S = 3600.0
SOON_S = 0.01


def test_the_highest_wins_as_in_a_dictionary(tmp_path: Path) -> None:
    """At any time between two writes, and over reopening."""
    random_, model = random.Random(8), dict[tuple[int, int], tuple[int, int]]()
    store = CursorStore.open(tmp_path / "cursors", interval_s=NEVER_S)
    for _ in range(3_000):
        key = (random_.choice([1, 2, 77, (3 << 40) + 5]), random_.choice([1, 9, (1 << 53) - 1]))
        action = random_.random()
        if action < 0.4:
            before = model.get(key, (0, 0))
            delivered = before[0] + random_.randrange(3)
            model[key] = (delivered, max(before[1], random_.randrange(delivered + 1)))
            store.put(*key, *model[key])
        elif action < 0.9:
            assert store.get(*key) == model.get(key, (0, 0))
        elif action < 0.98:
            store.write()
        else:
            store.close()
            store = CursorStore.open(tmp_path / "cursors", interval_s=NEVER_S)
    assert store.write() <= len(model)
    assert store.write() == 0
    store.close()


def test_marks_that_can_not_be_written_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes none lets them gather; then new ones are refused, and known ones still move."""
    monkeypatch.setattr(cursors, "MARKS_MAX", 3)
    store = CursorStore.open(tmp_path, interval_s=NEVER_S)
    assert all(store.put(1, user, 1, 1) for user in range(3))
    assert not store.put(1, 3, 1, 1) and store.get(1, 3) == (0, 0)
    assert store.put(1, 2, 2, 2) and store.get(1, 2) == (2, 2)
    store.write()
    assert store.put(1, 3, 1, 1) and store.get(1, 3) == (1, 1)
    store.close()


OTHER_WORKER = """
import sys
from pathlib import Path
from engine.log.cursors import CursorStore
store = CursorStore.open(Path(sys.argv[1]), interval_s=3600)
for text in sys.argv[2:]:
    store.put(1, *map(int, text.split(",")))
store.close()
"""


def test_workers_share_the_file_and_no_mark_falls(tmp_path: Path) -> None:
    """Another process writes higher and lower ones beside this one: what is stored is the higher, part by part."""
    store = CursorStore.open(tmp_path, interval_s=NEVER_S)
    for user in (1, 2, 3):
        store.put(1, user, 5, 5)
    assert run_child(OTHER_WORKER, tmp_path, "1,9,9", "2,4,4", "3,7,2").returncode == 0
    assert store.write() == 3
    assert [store.get(1, user) for user in (1, 2, 3)] == [(9, 9), (5, 5), (7, 5)]
    assert run_child(OTHER_WORKER, tmp_path, "1,3,3", "2,6,6").returncode == 0
    assert [store.get(1, user) for user in (1, 2, 3)] == [(9, 9), (6, 6), (7, 5)]
    store.close()


def test_a_mark_that_was_heard_counts_until_the_other_has_written_it(tmp_path: Path) -> None:
    """For two whole intervals at least; it is not written here."""
    store = CursorStore.open(tmp_path, interval_s=NEVER_S)
    store.put(1, 1, 3, 3)
    store.hear(1, 1, 8, 2)
    store.hear(1, 1, 7, 4)
    store.hear(1, 2, 6, 6)
    for _ in range(3):
        assert (store.get(1, 1), store.get(1, 2)) == ((8, 4), (6, 6))
        store.write()
    assert (store.get(1, 1), store.get(1, 2)) == ((3, 3), (0, 0))
    store.close()


def test_a_mark_never_goes_back_while_it_is_written(tmp_path: Path) -> None:
    """The reading thread beside the writing one: every get gives what was put last."""
    store = CursorStore.open(tmp_path, interval_s=NEVER_S)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.write()

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(1, 2_000):
        store.put(1, number % 3, number, number)
        assert store.get(1, number % 3) == (number, number)
        assert store.get(1, (number + 1) % 3) == ((number - 2, number - 2) if number > 2 else (0, 0))
    stop.set()
    writer.join()
    store.close()


def test_a_failed_write_keeps_marks_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were being written, those that moved meanwhile, and those that had been written before."""
    store = CursorStore.open(tmp_path, interval_s=NEVER_S)
    store.put(1, 1, 1, 1)
    store.write()
    store.put(1, 2, 2, 2)
    store.put(1, 3, 3, 3)

    def fail(*_: object) -> None:
        store.put(1, 3, 4, 4)
        raise lmdb.DiskError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write", fail)
        with pytest.raises(lmdb.DiskError):
            store.write()
    assert [store.get(1, user) for user in (1, 2, 3)] == [(1, 1), (2, 2), (4, 4)]
    assert store.write() == 2
    assert [store.get(1, user) for user in (1, 2, 3)] == [(1, 1), (2, 2), (4, 4)]
    store.close()


FAILING = """
import sys, time
from pathlib import Path
from engine.log.cursors import CursorStore
store = CursorStore.open(Path(sys.argv[1]), interval_s=0.01)
store.put(1, 1, 1, 1)
while store._moved or store._writing:
    time.sleep(0.001)
print("written", flush=True)
sys.stdin.readline()
store.put(1, 2, 2, 2)
while store.failure is None:
    time.sleep(0.001)
store._thread.join()
store.put(1, 3, 3, 3)
print([store.get(1, user) for user in (1, 2, 3, 4)], flush=True)
store.close()
print(type(store.failure).__name__)
"""


@pytest.mark.parametrize("kind", ["sync", "meta"])
def test_a_disk_that_fails(tmp_path: Path, kind: str) -> None:
    """LMDB may refuse even reads after it: the store reads on, keeps in memory what it can't write, and closes."""
    data = tmp_path / "cursors"
    data.mkdir()
    shim = HeldSyncs(tmp_path, data)
    child = subprocess.Popen(
        [sys.executable, "-c", FAILING, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=ROOT, env=shim.environment, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    shim.fail("sync" if kind == "sync" else "meta", 5)
    out, err = child.communicate("go on\n", timeout=40)
    assert child.returncode == 0, err
    assert out.splitlines() == ["[(1, 1), (2, 2), (3, 3), (0, 0)]", "Error"]
    assert "they are kept in memory" in err
    store = CursorStore.open(data, interval_s=NEVER_S)
    assert [store.get(1, user) for user in (1, 2, 3)] == [(1, 1), (0, 0), (0, 0)]
    store.close()


def test_other_formats_are_refused(tmp_path: Path) -> None:
    """And left as they are."""
    CursorStore.open(tmp_path / "cursors", interval_s=NEVER_S).close()
    with lmdb.open(str(tmp_path / "cursors"), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"\x02")
    before = hashes(tmp_path)
    with pytest.raises(errors.LogVersion, match="have format 02, not 01"):
        CursorStore.open(tmp_path / "cursors", interval_s=NEVER_S)
    assert hashes(tmp_path) == before
    shutil.rmtree(tmp_path / "cursors")
    with lmdb.open(str(tmp_path / "cursors"), lib_version=1) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"\x01")
    before = hashes(tmp_path)
    for _ in range(2):
        with pytest.raises(errors.StateDamaged, match="move the directory away"):
            CursorStore.open(tmp_path / "cursors", interval_s=NEVER_S)
    assert hashes(tmp_path) == before


KILLED = """
import sys
from pathlib import Path
from engine.log.cursors import CursorStore
store = CursorStore.open(Path(sys.argv[1]), interval_s=0.02)
number = 0
while True:
    number += 1
    store.put(1, 1, number, number)
    store.put(2, 2, number, number)
    if number % 1000 == 0:
        data = store._env.begin().get(bytes(7) + b"\\x01" + bytes(7) + b"\\x01")
        print(int.from_bytes(data[:8], "little") if data else 0, flush=True)
"""


def test_a_kill_loses_one_interval_at_most(tmp_path: Path) -> None:
    """What was seen to be written is there, both marks of one interval or neither."""
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert child.stdout is not None
    seen = 0
    while seen < 20_000:
        seen = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest = [int(line) for line in child.stdout.read().splitlines(True) if line.endswith("\n")]
    child.stdout.close()
    child.wait()
    store = CursorStore.open(tmp_path, interval_s=NEVER_S)
    delivered, read = store.get(1, 1)
    assert delivered >= max([seen, *rest])
    assert delivered == read
    assert abs(store.get(2, 2)[0] - delivered) <= 1  # the interval was cut between two puts at most
    store.close()


def test_the_thread_writes_by_itself(tmp_path: Path) -> None:
    """Every interval, without being asked; another process sees it."""
    store = CursorStore.open(tmp_path, interval_s=SOON_S)
    store.put(7, 8, 9, 5)
    while store._moved or store._writing:
        pass
    code = (
        "import sys, lmdb, struct\nenv = lmdb.open(sys.argv[1], readonly=True, lib_version=0)\n"
        "print(struct.unpack('<QQ', env.begin().get(struct.pack('>QQ', 7, 8))))"
    )
    assert run_child(code, tmp_path).stdout == "(9, 5)\n"
    store.close()
