"""Files that were cut off behind LMDB's back: named at the first look, where reading on would end the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.errors import DataUntrusted, LogDamaged, StateDamaged
from engine.log import Log
from engine.log.check import check_log
from engine.state.saved import SavedState
from tests.support.engine_rig import EngineRig
from tests.support.log_rig import Naive, segment_files


def halve(path: Path) -> None:
    """Cuts a file to half of its pages."""
    os.truncate(path, path.stat().st_size // 8192 * 4096)


def test_the_newest_segment(tmp_path: Path) -> None:
    """Opening and `gonets log check` say which file."""
    naive = Naive(tmp_path, segment_bytes=1 << 20)
    for _ in range(8):
        naive.append(10, 4_000)
    naive.close()
    (segment,) = segment_files(tmp_path)
    halve(segment)
    with pytest.raises(LogDamaged, match=r"0001\.lmdb can.t be opened: it was cut off: it has \d+ bytes"):
        Log.open(tmp_path)
    problems = check_log(tmp_path)["problems"]
    assert any("was cut off" in row["problem"] for row in problems)


def test_an_older_segment(tmp_path: Path) -> None:
    """It is looked at when the log is opened: a client's history must not be what finds it. The rest is served."""
    naive = Naive(tmp_path, segment_bytes=1 << 18)
    while len(segment_files(tmp_path)) < 3:
        naive.append(10, 4_000)
    naive.close()
    oldest, middle, _ = segment_files(tmp_path)
    halve(oldest)
    naive.open()
    assert naive.log.damage.places == 1
    reader = naive.log.reader()
    with pytest.raises(LogDamaged, match="was cut off"):
        reader.record(1)
    assert reader.stretch(1) == (1, int(middle.stem))
    assert reader.record(int(middle.stem)) == naive.chain.record(int(middle.stem))
    naive.append()
    assert reader.record(naive.chain.last) == naive.chain.record(naive.chain.last)
    naive.close()
    (problem,) = check_log(tmp_path)["problems"]
    assert problem["segment"] == oldest.name and problem["events"] == f"1–{int(middle.stem) - 1}"


def test_the_state(tmp_path: Path) -> None:
    """The hint says what to do: it can be folded again."""
    rig = EngineRig(tmp_path)
    for user in range(2, 600):
        rig.say(1, user - 1, user)
    rig.engine.close()
    halve(tmp_path / "state" / "data.mdb")
    with pytest.raises(StateDamaged, match="was cut off") as caught:
        SavedState.open(tmp_path / "state", shard=0)
    assert "folded again" in str(caught.value)
    with pytest.raises(DataUntrusted):
        rig.open()
