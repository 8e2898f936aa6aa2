"""`gonets log check` of the saved state: not ahead of the log, and equal to a replay of it, row by row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.answers import pack_proposal
from engine.log import check as check_module
from engine.log.check import check_log
from engine.log.snapshot import snapshot_log
from engine.state.saved import key1
from tests.support.engine_rig import EngineRig
from tests.support.healthy_log import Broken
from tests.support.log_rig import segment_files


def test_the_state_of_a_trimmed_log_is_compared_from_a_snapshot(tmp_path: Path) -> None:
    """From the newest one that reaches up to what is kept."""
    rig = EngineRig(tmp_path, segment_bytes=16 << 10)
    for counter in range(1, 61):
        rig.ask(pack_proposal(1, 1, counter, 2 + counter % 3, "message", b"x" * 500, person=True))
        if counter in (30, 40):
            rig.engine.close()
            snapshot_log(tmp_path, only_list=False)
            rig.open()
    rig.engine.close()
    taken = max(int(path.name) for path in (tmp_path / "snapshots").iterdir())
    kept = max(int(path.stem) for path in segment_files(tmp_path) if int(path.stem) <= taken + 1)
    for path in segment_files(tmp_path):
        if int(path.stem) < kept:
            path.unlink()
    report = check_log(tmp_path)
    assert report["first_sequence"] == kept > 1
    assert report["problems"] == []
    assert report["state"].startswith("equal to a replay up to")
    broken = Broken(tmp_path, tmp_path.parent / "copy")
    broken.change_state(b"tombstones", lambda rows: rows.update({key1(2): key1(3)}))
    broken.one_problem("S2", "tombstones", segment="state", block=None, events="")


@pytest.mark.parametrize(
    ("database", "change", "words"),
    [
        (b"windows", lambda rows: rows.update({min(rows): rows[min(rows)][:-1] + b"\x7f"}), "differs from the replay"),
        (b"windows", lambda rows: rows.pop(max(rows)), "is only in the replay"),
        (b"members", lambda rows: rows.pop(min(rows)), "is only in the replay"),
        (b"tombstones", lambda rows: rows.update({key1(1): key1(2)}), "is not in the replay"),
        (b"dialogs", lambda rows: rows.update({min(rows): key1(77)}), "differs from the replay"),
        (b"member_index", lambda rows: rows.update({bytes(16): b"\x01"}), "is not in the replay"),
        (b"meta", lambda rows: rows.update({b"number": key1(77)}), "differs from the replay"),
        (b"keys", lambda rows: rows.update({key1(1): bytes(24)}), "is not in the replay"),
        (b"keys", lambda rows: rows.pop(max(rows)), "is only in the replay"),
        (b"keys", lambda rows: rows.update({min(rows): rows[max(rows)]}), "differs from the replay"),
    ],
    ids=[
        "changed",
        "removed",
        "first removed",
        "added",
        "another",
        "first added",
        "number",
        "key added",
        "key removed",
        "key changed",
    ],
)
def test_a_row_of_the_state(
    broken: Broken, database: bytes, change: Callable[[dict[bytes, bytes]], Any], words: str
) -> None:
    """S2: by database and key."""
    broken.change_state(database, change)
    broken.one_problem("S2", f"of {database.decode()} {words}", segment="state", block=None, events="")


def test_a_log_that_rolls_between_two_looks(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: the state is saved behind segments that were not there when the check began; that is not ahead of the log."""
    aside = broken.data.parent / "aside"
    aside.mkdir()
    for path in broken.files[-2:]:
        path.rename(aside / path.name)
    copied = check_module._copied_state

    def roll_first(*arguments: Any) -> Any:
        for path in broken.files[-2:]:
            (aside / path.name).rename(path)
        return copied(*arguments)

    monkeypatch.setattr(check_module, "_copied_state", roll_first)
    report = check_log(broken.data)
    assert report["problems"] == []
    assert report["segments"] == len(broken.files)
    assert report["state"] == f"equal to a replay up to {report['last_sequence']}"


def set_position(broken: Broken, position: int) -> None:
    """The state says that it was saved there."""
    broken.change_state(b"meta", lambda rows: rows.update({b"position": key1(position)}))


def test_a_state_ahead_of_its_log(broken: Broken) -> None:
    """L9, S1: a log put back from an older copy, or a state from another one."""
    last = check_log(broken.data)["last_sequence"]
    set_position(broken, last + 1)
    broken.one_problem("L9, S1", f"saved at {last + 1}, the log ends at {last}", segment="state", block=None, events="")
    set_position(broken, last)
    broken.files[-1].unlink()
    ends = int(broken.files[-1].stem) - 1
    broken.one_problem("L9, S1", f"saved at {last}, the log ends at {ends}", segment="state", block=None, events="")


def test_a_state_inside_a_block(broken: Broken) -> None:
    """L9: saves end with blocks."""
    place = broken.place()
    set_position(broken, place.sequence)
    broken.one_problem("L9", f"saved at {place.sequence}, where no block ends", segment="state", block=None, events="")


def test_a_state_behind_what_the_log_keeps(broken: Broken) -> None:
    """L9: what lies between is gone."""
    for path in broken.files[:2]:
        path.unlink()
    set_position(broken, 3)
    broken.one_problem("L9", "saved at 3, the log begins at", segment="state", block=None, events="")


def test_a_state_of_another_shard_or_of_nothing(broken: Broken) -> None:
    """Named, and the log is judged all the same."""
    broken.change_state(b"meta", lambda rows: rows.update({b"shard": key1(5)}))
    problems = broken.problems()
    assert [row["segment"] for row in problems] == ["state"]
    assert "shard 5, not 0" in problems[0]["problem"]
    (broken.data / "state" / "data.mdb").write_bytes(b"what" * 999)
    assert [row["problem"][:31] for row in broken.problems()] == ["the saved state can't be opened"]
    shutil.rmtree(broken.data / "state")
    report = check_log(broken.data)
    assert (report["problems"], report["state"]) == ([], "none saved")


def test_with_a_damaged_log_the_state_is_not_compared_but_still_not_ahead(broken: Broken) -> None:
    """L9 is told beside L1; S2 would only repeat it."""
    broken.flip(broken.place(), 90)
    assert check_log(broken.data)["state"] == "not compared: mend the log first"
    set_position(broken, 1 << 40)
    assert [row["problem"][:2] for row in broken.problems()] == ["L1", "L9"]
