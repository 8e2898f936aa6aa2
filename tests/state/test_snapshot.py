"""Snapshots: a log whose beginning is gone opens from one, and nothing that isn't verified is believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine import errors
from engine.answers import pack_proposal
from engine.errors import StateDamaged
from engine.log.snapshot import snapshot_log
from engine.state.saved import key1
from tests.support.engine_rig import EngineRig

SEGMENT_BYTES = 32 << 10
ROUNDS = 3


def filled(data: Path) -> tuple[EngineRig, list[list[int]]]:
    """An engine over several segments with a snapshot after each round; the sequences of each round."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    sequences = []
    for round_ in range(ROUNDS):
        counters = range(1 + 60 * round_, 61 + 60 * round_)
        answers = [
            rig.ask(pack_proposal(1, 1, counter, 2 + counter % 5, "message", b"x" * 600, person=True))[0]
            for counter in counters
        ]
        assert {answer.status for answer in answers} == {errors.APPENDED}
        sequences.append([answer.sequence for answer in answers])
        last = rig.engine.log.last_sequence
        rig.engine.close()  # the state is saved
        assert snapshot_log(data, only_list=False)["taken"] == last
        rig.open()
    return rig, sequences


def trim_by_hand(data: Path, below: int) -> int:
    """Removes whole segments below a position, as trimming will; the first sequence kept."""
    firsts = sorted(int(path.stem) for path in (data / "log").glob("*.lmdb"))
    kept = max(first for first in firsts if first <= below + 1)
    for first in firsts:
        if first < kept:
            (data / "log" / f"{first:020d}.lmdb").unlink()
    return kept


def test_a_trimmed_log_opens_from_a_snapshot(tmp_path: Path) -> None:
    """Repeats are recognised, numbers go on, and the oldest snapshot that reaches far enough is enough."""
    rig, sequences = filled(tmp_path)
    before = {conversation: rig.engine.view().head(conversation) for conversation in range(1, 6)}
    rig.engine.close()
    snapshots = sorted((tmp_path / "snapshots").iterdir())
    shutil.rmtree(snapshots[-1])  # the state must be folded on from the one before
    position = int(snapshots[-2].name)
    kept = trim_by_hand(tmp_path, position)
    assert 1 < kept <= position + 1
    shutil.rmtree(tmp_path / "state")
    rig.open()
    answer = rig.ask(pack_proposal(1, 1, 180, 2, "message", b"x", person=True))[0]
    assert (answer.status, answer.sequence) == (errors.REPEAT, sequences[-1][-1])
    assert rig.ask(pack_proposal(1, 1, 181, 3, "message", b"x", person=True))[0].status == errors.APPENDED
    view = rig.engine.view()
    assert {c: view.head(c) for c in before if view.head(c)[0] <= sequences[-1][-1]}.items() <= before.items()
    rig.close()


def test_without_state_and_snapshot_a_trimmed_log_is_refused(tmp_path: Path) -> None:
    """Never an empty state over half a log."""
    rig, _ = filled(tmp_path)
    last = rig.engine.log.last_sequence
    rig.engine.close()
    shutil.rmtree(tmp_path / "state")
    shutil.rmtree(tmp_path / "snapshots")
    trim_by_hand(tmp_path, last)
    with pytest.raises(StateDamaged, match="no snapshot"):
        rig.open()


def test_a_damaged_snapshot_is_named_and_not_believed(tmp_path: Path) -> None:
    """One flipped byte: the one before is taken."""
    rig, _ = filled(tmp_path)
    rig.engine.close()
    newest = max((tmp_path / "snapshots").iterdir())
    data = bytearray((newest / "data.mdb").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "data.mdb").write_bytes(data)
    rows = snapshot_log(tmp_path, only_list=True)["snapshots"]
    assert [bool(row["problem"]) for row in rows] == [False, False, True]
    assert "SHA-256" in rows[-1]["problem"]
    shutil.rmtree(tmp_path / "state")
    rig.open()
    rig.close()


def test_a_state_that_the_log_contradicts_becomes_no_snapshot(tmp_path: Path) -> None:
    """The copy is compared with a replay before it gets its name."""
    rig = EngineRig(tmp_path)
    rig.say(1, 1, 2)
    rig.engine.close()
    with lmdb.open(str(tmp_path / "state"), max_dbs=8, lib_version=0) as env:
        windows = env.open_db(b"tombstones")
        with env.begin(write=True, db=windows) as txn:
            txn.put(key1(2), key1(3))
    with pytest.raises(StateDamaged, match="tombstones"):
        snapshot_log(tmp_path, only_list=False)
    assert not any((tmp_path / "snapshots").iterdir())


def test_taken_beside_a_running_engine(tmp_path: Path) -> None:
    """A second one at the same position is the same one."""
    rig = EngineRig(tmp_path, save_interval_s=0.05)
    rig.say(1, 1, 2)
    rig.restart()
    rig.say(1, 2, 2)
    first = snapshot_log_in_child(tmp_path)
    assert first["taken"] >= 2
    assert len(first["snapshots"]) == 1
    rig.close()


def snapshot_log_in_child(data: Path) -> dict[str, Any]:
    """From another process, as the command does: LMDB must not be opened twice in one."""
    import json
    import subprocess
    import sys

    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, str(root / "gonets.py"), "log", "snapshot", "--data", str(data), "--json"],
        capture_output=True, text=True, check=True, cwd=root,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(run.stdout)
    return found
