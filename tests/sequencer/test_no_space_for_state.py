"""The state has no space: publishes go on as far as memory allows, nobody waits in vain, the next start folds the rest.

LMDB itself refuses: its map is made too small for what is folded.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors
from engine.answers import pack_proposal
from engine.state import saved
from tests.support.engine_rig import EngineRig

SAVE_EVENTS = 1_000
LAG_EVENTS = 8 * SAVE_EVENTS  # engine/engine.py, LAG_SAVES


def small_state(path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineRig:
    """An engine whose state can hold next to nothing."""
    monkeypatch.setattr(saved, "MAP_BYTES", 128 << 10)
    return EngineRig(path, save_events_max=SAVE_EVENTS, save_interval_s=0.05)


def first_messages(users: range) -> list[bytes]:
    """Each begins a dialog of its own: rows that all need a place."""
    return [pack_proposal(user, 1, 1, 1, "message", b"x", person=True) for user in users]


def test_receipts_go_on_and_everything_is_there_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that fails changes nothing; closing does not fail either."""
    rig = small_state(tmp_path, monkeypatch)
    answers = rig.ask(*first_messages(range(2, 1_502)))
    assert {answer.status for answer in answers} == {errors.APPENDED}
    while not rig.engine.stats()["saver_failed"]:
        pass
    assert rig.say(5_000, 1, 5_001).status == errors.APPENDED
    assert rig.engine.stats()["state_saved_sequence"] < rig.engine.log.last_sequence
    rig.engine.close()
    monkeypatch.undo()
    rig.open()
    again = rig.ask(*first_messages(range(2, 1_502)))
    assert [(answer.status, answer.sequence) for answer in again] == [
        (errors.REPEAT, answer.sequence) for answer in answers
    ]
    rig.close()


def test_closing_while_admission_waits_for_the_saver_answers_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too far behind, admission waits for space; the end of the process must not wait with it."""
    rig = small_state(tmp_path, monkeypatch)
    rig.ask(*first_messages(range(2, 2 + LAG_EVENTS // 2)))  # two events each
    asked = first_messages(range(100_000, 100_500))
    before = len(rig.answers)
    rig.ask(*first_messages(range(50_000, 50_100)))  # beyond the limit: the next ones wait
    while not rig.engine.stats()["saver_failed"]:
        pass
    assert rig.engine.sequencer.submit(b"".join(asked))
    rig.engine.close()
    answers = rig.answers[before + 100 :]
    assert len(answers) == len(asked)
    assert {answer.status for answer in answers} == {errors.OVERLOADED}
    monkeypatch.undo()
    rig.open()
    assert rig.say(1, 1, 2).status in (errors.APPENDED, errors.REPEAT)
    rig.close()
