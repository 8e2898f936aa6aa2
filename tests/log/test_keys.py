"""What is known of keys after what can become of a log: a restart, a replay, a restore, a trim, an upgrade."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from engine import errors
from engine.answers import Answer, key_of, pack_proposal
from engine.errors import LogVersion, StateDamaged
from engine.log.backup import Options, backup_log
from engine.log.check import check_log
from engine.log.dump import dump_log
from engine.log.restore import restore_log
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log
from engine.state.keys import KEEP_US
from engine.state.saved import DATABASES, SavedState, key1
from tests.support.engine_rig import EngineRig
from tests.support.grown_log import SEGMENT_BYTES, firsts, grow
from tests.support.killed import quiet

SERVICE = 1


class Clock:
    """Told, not read."""

    def __init__(self) -> None:
        self.time_us = 1_795_515_000_000_000

    def __call__(self) -> int:
        """The time."""
        return self.time_us


def ask(rig: EngineRig, text: str) -> Answer:
    """A message of a service with this key."""
    proposal = pack_proposal(SERVICE, 0, 0, 2, "message", text.encode() * 100, person=True, key=key_of(SERVICE, text))
    return rig.ask(proposal)[0]


def publish(data: Path, texts: list[str], **options: object) -> dict[str, Answer]:
    """The receipts of new keys."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES, **options)
    found = {text: ask(rig, text) for text in texts}
    assert {answer.status for answer in found.values()} == {errors.APPENDED}
    rig.close()
    return found


def all_repeat(data: Path, receipts: dict[str, Answer], **options: object) -> None:
    """Each key leads to its first receipt, nothing is appended, and the log is clean."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES, **options)
    last = rig.engine.log.last_sequence
    for text, first in receipts.items():
        again = ask(rig, text)
        assert again == first._replace(status=errors.REPEAT), text
    assert rig.engine.log.last_sequence == last
    rig.close()


TEXTS = [f"order {number}" for number in range(30)]


def fold_anew(data: Path) -> None:
    """The state is lost."""
    shutil.rmtree(data / "state")


def fold_from_a_snapshot(data: Path) -> None:
    """The state is lost, and the log's beginning is not there any more."""
    snapshot_log(data, only_list=False)
    grow(data, 200, snapshot=True)
    grow(data, 100, snapshot=True)
    assert trim_log(data, Wanted(keep_bytes=1), dry_run=False, force=False)["first_sequence"] > 1
    shutil.rmtree(sorted((data / "snapshots").iterdir())[-1])
    shutil.rmtree(data / "state")


@pytest.mark.parametrize(
    "become", [lambda data: None, fold_anew, fold_from_a_snapshot], ids=["restart", "fold", "trim"]
)
def test_a_repeat_is_known_after(tmp_path: Path, become: Callable[[Path], None]) -> None:
    """P3: saved, folded again from the log, or from a snapshot: all that is told is what the first receipt said."""
    data = tmp_path / "data"
    grow(data, 20)
    receipts = publish(data, TEXTS)
    become(data)
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    first = firsts(data)[0]
    for text, receipt in receipts.items():
        again = ask(rig, text)
        assert (again.status, again.sequence) == (errors.REPEAT, receipt.sequence)
        if receipt.sequence >= first:
            assert again == receipt._replace(status=errors.REPEAT)
    assert ask(rig, "new").status == errors.APPENDED
    rig.close()


def test_a_restore_knows_the_keys_of_what_it_holds(tmp_path: Path) -> None:
    """What was published after the backup is lost, and its keys are free; the rest repeats."""
    data, restored = tmp_path / "data", tmp_path / "restored"
    receipts = publish(data, TEXTS)
    backup_log(data, tmp_path / "backup", Options(), quiet)
    lost = publish(data, ["lost"])
    restore_log(
        tmp_path / "backup", restored, number=None, segment_bytes=SEGMENT_BYTES, bytes_per_s=0, on_progress=quiet
    )
    all_repeat(restored, receipts)
    again = publish(restored, ["lost"])
    assert again["lost"].sequence == lost["lost"].sequence


def test_expired_keys_are_in_no_state_however_it_was_made(tmp_path: Path) -> None:
    """S2, S6: saved often or once, folded from the beginning or from a snapshot: the same rows, those of one day."""
    data, clock = tmp_path / "data", Clock()
    old = publish(data, ["a", "b"], clock=clock, save_events_max=1, save_interval_s=0.001)
    clock.time_us += KEEP_US // 2
    young = publish(data, ["c", "d"], clock=clock)
    all_repeat(data, {**old, **young}, clock=clock)
    snapshot_log(data, only_list=False)
    clock.time_us += KEEP_US // 2 + 1
    publish(data, ["e"], clock=clock)
    report = check_log(data)
    assert (report["problems"], report["state"][:19]) == ([], "equal to a replay u")
    saved = SavedState.open(data / "state", shard=0)
    with saved.env.begin(db=saved.databases[b"keys"]) as txn:
        kept = [int.from_bytes(key, "big") for key, _ in txn.cursor()]
    saved.close()
    assert kept == [young["c"].sequence, young["d"].sequence, max(kept)]
    all_repeat(data, young, clock=clock)
    again = publish(data, ["a", "b"], clock=clock)
    assert again["a"].sequence > young["d"].sequence
    shutil.rmtree(data / "state")
    all_repeat(data, {**young, **again}, clock=clock)


def test_the_dump_shows_keys(tmp_path: Path) -> None:
    """In hex, of those that have one."""
    receipts = publish(tmp_path / "data", TEXTS[:3])
    out = io.BytesIO()
    dump_log(tmp_path / "data", out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {line["sequence"]: line["key"] for line in lines if "key" in line} == {
        receipt.sequence: key_of(SERVICE, text).hex() for text, receipt in receipts.items()
    }


# A state of before there were keys.


def without_keys(data: Path, version: int) -> None:
    """As a version without keys would have left it, if `version` is 1."""
    with lmdb.open(str(data / "state"), max_dbs=len(DATABASES), map_size=1 << 30, lib_version=0) as env:
        meta, keys = env.open_db(b"meta"), env.open_db(b"keys")
        with env.begin(write=True) as txn:
            txn.drop(keys, delete=True)
            txn.put(b"format", key1(version), db=meta)


def test_a_state_of_before_there_were_keys_opens_and_becomes_one_with_keys(tmp_path: Path) -> None:
    """Also as a snapshot; until it is opened for writing it is as it was, and clean."""
    data = tmp_path / "data"
    grow(data, 120, snapshot=True)
    without_keys(data, 1)
    report = check_log(data)
    assert (report["problems"], report["state"][:19]) == ([], "equal to a replay u")
    SavedState.open(data / "state", shard=0, read_only=True).close()
    all_repeat(data, publish(data, TEXTS))
    saved = SavedState.open(data / "state", shard=0, read_only=True)
    with saved.read() as rows:
        assert rows.number(b"format") == 2
    saved.close()


def test_only_a_state_of_before_may_lack_the_keys(tmp_path: Path) -> None:
    """A number that this version doesn't know is refused, a missing database is damage."""
    data = tmp_path / "data"
    grow(data, 10)
    without_keys(data, 2)
    with pytest.raises(StateDamaged, match="can't be read"):
        SavedState.open(data / "state", shard=0, read_only=True)
    without_keys(data, 3)
    with pytest.raises(LogVersion, match="format 3, not 2"):
        SavedState.open(data / "state", shard=0)


def test_a_row_that_is_none_is_damage(tmp_path: Path) -> None:
    """The engine doesn't open over keys that it can't read."""
    data = tmp_path / "data"
    publish(data, TEXTS[:2])
    saved = SavedState.open(data / "state", shard=0)
    with saved.env.begin(write=True) as txn:
        txn.put(key1(9), b"short", db=saved.databases[b"keys"])
    saved.close()
    with pytest.raises(StateDamaged, match="of a publish's key has 5 bytes, not 24"):
        EngineRig(data)
