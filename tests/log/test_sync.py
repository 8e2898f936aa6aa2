"""P1 on the real engine, the real LMDB and a real file: no answer before the sync, none but `unavailable` without it.

The engine runs in a process of its own under bench/faultdisk/shim.c, which holds or fails what LMDB calls: the
fdatasync of the pages, or the self-syncing write of the meta page that names them.
"""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.answers import Answer, pack_proposal
from ext import block as blocks
from ext.record import decode
from tests.support.engine_child import ROOT, EngineChild
from tests.support.engine_rig import EngineRig
from tests.support.held_syncs import HeldSyncs, What, wait_until
from tests.support.log_rig import only_reading, segment_files

QUIET_S = 0.15  # what must not come is given this long to come


def say(user: int, counter: int, person: int, *, expected: int | None = None, size: int = 1) -> bytes:
    """A message to a person."""
    return pack_proposal(
        user, 1, counter, person, "message", b"x" * size, person=True, expected=expected, origin=counter
    )


@pytest.fixture(name="shim")
def _shim(tmp_path: Path) -> HeldSyncs:
    """Over the log; the state and the cursors sync as they like."""
    return HeldSyncs(tmp_path, tmp_path / "data" / "log")


@pytest.fixture(name="child")
def _child(tmp_path: Path, shim: HeldSyncs) -> Iterator[EngineChild]:
    """An engine with one event of each of two dialogs: 2 conversations, 4 events."""
    child = EngineChild(tmp_path / "data", shim.environment, segment_bytes=64 << 10)
    for number, (user, person) in enumerate([(1, 2), (3, 4)], 1):  # each a block of its own
        child.publish(say(user, 1, person))
        child.wait(number)
    wait_until(lambda: child.committed == [2, 4], "two blocks")
    yield child
    shim.go()
    if child.process.poll() is None:
        child.kill()


def judged(child: EngineChild) -> None:
    """Until admission has judged all that was submitted."""
    wait_until(lambda: child.look()["intake"] == 0, "admission does not take what was submitted")


@pytest.mark.parametrize("kind", ["sync", "meta"])
def test_no_answer_of_any_kind_before_the_sync(shim: HeldSyncs, child: EngineChild, kind: What) -> None:
    """Appended, repeat, refused: whatever was judged on top of a block waits until it is durable; then all come."""
    before = child.read()
    shim.hold(kind)
    child.publish(say(1, 2, 2))
    shim.wait_held()
    child.publish(say(1, 2, 2))  # a repeat of what is not durable yet
    child.publish(say(3, 1, 4))  # a repeat of what is
    child.publish(say(1, 3, 2, expected=2))  # a conflict with what is not durable
    child.publish(pack_proposal(1, 1, 4, 999, "message", b"x", origin=4))
    child.publish(say(1, 5, 1))  # with oneself
    child.publish(say(7, 1, 8))
    judged(child)
    time.sleep(QUIET_S)
    assert len(child.answers) == 2
    assert child.committed == [2, 4]
    assert child.read() == before  # nor can a reader see it
    shim.go()
    got = child.wait(9)[2:]
    assert [(answer.counter, answer.status) for answer in got] == [
        (2, errors.APPENDED),
        (2, errors.REPEAT),
        (1, errors.REPEAT),
        (3, errors.CONFLICT),
        (4, errors.UNKNOWN_CONVERSATION),
        (5, errors.BAD_ID),
        (1, errors.APPENDED),
    ]
    assert got[1][2:6] == got[0][2:6]
    wait_until(
        lambda: child.committed == [2, 4, 5, 7], "two blocks: the one that was held, and what gathered behind it"
    )
    assert child.close() == ""


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("kind", ["sync", "meta"])
def test_a_failed_sync_fences(tmp_path: Path, shim: HeldSyncs, child: EngineChild, kind: What, error: int) -> None:
    """P7: nobody is told `appended`, all wait no longer, reading goes on, and a restart finds every receipt."""
    before = child.read()
    shim.hold(kind)
    child.publish(say(1, 2, 2))
    shim.wait_held()
    child.publish(say(1, 2, 2), say(1, 3, 2, expected=2), say(9, 1, 10))
    judged(child)
    shim.fail(kind, error)
    assert [answer.status for answer in child.wait(6)[2:]] == [errors.UNAVAILABLE] * 4
    shim.go()  # the disk is well again: the writer still doesn't try
    child.publish(say(1, 4, 2))
    child.publish(say(1, 1, 2))
    assert [answer.status for answer in child.wait(8)[6:]] == [errors.UNAVAILABLE] * 2
    assert child.committed == [2, 4]
    look = child.look()
    assert look["stats"]["writer_fenced"] == 1
    assert "block 5 of segment 00000000000000000001.lmdb could not be written and synced" in look["failure"]
    assert "restart the process: it reopens and verifies the log; look at the disk first" in look["failure"]
    assert child.read() == before
    assert child.close() == ""
    receipts = [answer for answer in child.answers if answer.status == errors.APPENDED]
    restarted(tmp_path / "data", receipts, unanswered=[say(1, 2, 2), say(9, 1, 10)])


def restarted(data: Path, receipts: list[Answer], unanswered: list[bytes]) -> None:
    """Without the shim: every receipt holds, what had none can be sent again, and the log checks clean."""
    rig = EngineRig(data)
    reader = rig.engine.log.reader()
    assert receipts
    for answer in receipts:
        record = decode(reader.record(answer.sequence) or b"")
        assert (record.conversation, record.counter) == (answer.conversation, answer.counter)
    for question in unanswered:
        first, again = rig.ask(question)[0], rig.ask(question)[0]
        assert first.status in (errors.APPENDED, errors.REPEAT)
        assert (again.status, again[2:6]) == (errors.REPEAT, first[2:6])
    assert rig.say(1, 50, 2).status == errors.APPENDED
    rig.close()


@pytest.mark.parametrize("kind", ["sync", "meta"])
def test_killed_while_the_sync_is_held(tmp_path: Path, shim: HeldSyncs, child: EngineChild, kind: What) -> None:
    """Nothing was said of that block; whether it is there or not, sending it again makes it one event."""
    shim.hold(kind)
    child.publish(say(1, 2, 2))
    shim.wait_held()
    child.kill()
    assert len(child.answers) == 2
    restarted(tmp_path / "data", child.answers, unanswered=[say(1, 2, 2)])


def test_what_lmdb_calls(shim: HeldSyncs, child: EngineChild) -> None:
    """One sync of the pages and one self-syncing write of the meta page a commit, in this order, and nothing else: what
    holds them holds all there is."""
    commits, syncs, metas = child.look()["stats"]["log_commits"], shim.syncs, shim.metas
    for counter in range(2, 30):
        child.publish(say(1, counter, 2))
        child.wait(counter + 1)
    assert child.look()["stats"]["log_commits"] == commits + 28
    assert (shim.syncs, shim.metas) == (syncs + 28, metas + 28)
    assert shim.early_metas == 0
    assert shim.map_syncs == 0
    assert child.close() == ""


@pytest.mark.parametrize("name", ["*.new", "."])
def test_a_segment_is_synced_before_its_first_block(
    tmp_path: Path, shim: HeldSyncs, child: EngineChild, name: str
) -> None:
    """Its file before it has its name, its name before it has a block; no answer in between."""
    data, counter = tmp_path / "data", 1
    shim.hold("sync", name)
    while segment_files(data)[0].stat().st_size < 64 << 10:
        counter += 1
        child.publish(say(1, counter, 2, size=10_000))
        child.wait(counter + 1)
    child.publish(say(1, counter + 1, 2))
    shim.wait_held()
    time.sleep(QUIET_S)
    assert len(child.answers) == counter + 1
    names = [path.name for path in sorted((data / "log").iterdir()) if path.name.startswith(f"{counter + 4:020d}")]
    assert names[0] == f"{counter + 4:020d}.lmdb{'.new' if name == '*.new' else ''}"
    assert child.read()["last"] == counter + 3
    shim.go()
    assert child.wait(counter + 2)[-1].status == errors.APPENDED
    found = child.read()
    assert found["last"] == counter + 4
    assert [blocks.header(bytes.fromhex(block)).count for block in found["blocks"]] == [2, 2] + [1] * counter
    assert len(segment_files(data)) == 2
    assert child.close() == ""
    restarted(data, child.answers, unanswered=[])


def test_a_roll_whose_sync_fails_fences(tmp_path: Path, shim: HeldSyncs, child: EngineChild) -> None:
    """The new file can't be synced: it gets no name, and a restart removes it."""
    data, counter = tmp_path / "data", 1
    while segment_files(data)[0].stat().st_size < 64 << 10:
        counter += 1
        child.publish(say(1, counter, 2, size=10_000))
        child.wait(counter + 1)
    shim.hold("sync", "*.new")
    child.publish(say(1, counter + 1, 2))
    shim.wait_held()
    shim.fail("sync", errno.EIO)
    assert child.wait(counter + 2)[-1].status == errors.UNAVAILABLE
    assert child.read()["last"] == counter + 3
    assert child.close() == ""
    assert len(segment_files(data)) == 1
    receipts = [answer for answer in child.answers if answer.status == errors.APPENDED]
    restarted(data, receipts, unanswered=[say(1, counter + 1, 2)])
    assert not list((data / "log").glob("*.new*"))


def test_a_writer_killed_behind_its_meta_page_is_followed_by_one_that_writes(
    tmp_path: Path, shim: HeldSyncs, child: EngineChild
) -> None:
    """Another process holds the segment open meanwhile, so that LMDB doesn't set up its lock file anew: what the dead
    writer had written is there, and the next one goes on behind it instead of finding a stranger's block."""
    segments, reader = only_reading(tmp_path / "data")
    try:
        assert reader.last_sequence() == 4
        shim.hold_behind()
        child.publish(say(1, 2, 2))
        shim.wait_held()
        child.kill()
        shim.go()
        assert reader.last_sequence() == 4  # LMDB shows nobody what its writer has not finished
        syncs, metas = shim.syncs, shim.metas
        after = EngineChild(tmp_path / "data", shim.environment, segment_bytes=64 << 10)
        try:
            assert reader.last_sequence() == 5
            assert shim.syncs > syncs  # it may not be on the disk yet, and a repeat of it is answered now
            assert shim.metas > metas  # L10: nor may its meta page, whatever the kernel says of it
            after.publish(say(1, 2, 2), say(1, 3, 2))
            answers = after.wait(2)
            assert [(answer.counter, answer.status) for answer in answers] == [
                (2, errors.REPEAT),
                (3, errors.APPENDED),
            ]
            assert [answer.sequence for answer in answers] == [5, 6]
            assert after.close() == ""
        finally:
            if after.process.poll() is None:
                after.kill()
    finally:
        segments.close()


def test_a_log_that_can_not_be_synced_is_not_opened(tmp_path: Path, shim: HeldSyncs, child: EngineChild) -> None:
    """One line that names the segment and what to look at; the log stays as it is, and opens once the disk is well."""
    assert child.close() == ""
    before = [path.read_bytes() for path in segment_files(tmp_path / "data")]
    shim.fail("sync", errno.EIO)
    command = ["-m", "gonets", "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    run = subprocess.run(
        [sys.executable, *command],
        env={**shim.environment, "GONETS_SERVER_ADMIN": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    (line,) = run.stderr.strip().splitlines()
    assert "can't be synced" in line and "Input/output error" in line and "look at the disk" in line
    assert [path.read_bytes() for path in segment_files(tmp_path / "data")] == before
    shim.go()
    restarted(tmp_path / "data", child.answers, unanswered=[])
