"""What the sequencer's threads promise: nothing heard before the sync, nothing heard after a failure but `unavailable`,
one event alone is not kept waiting, a cold conversation keeps nobody else waiting, bounds hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors, schema, sequencer
from engine.answers import pack_proposal
from engine.state.saved import SavedState
from tests.support.sequencer_rig import DEADLINE_S, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A running sequencer."""
    rig = Rig(tmp_path / "state")
    yield rig
    rig.close()


def test_one_event_alone_is_committed_at_once(rig: Rig) -> None:
    """No timer: the answer comes though nothing else does."""
    for counter in range(1, 30):
        answer = rig.say(1, counter, 2)
        assert answer is not None
        assert answer.status == errors.APPENDED
    assert rig.committed[-1] == 30
    assert len(rig.log.blocks) == 29


def test_no_answer_of_any_kind_before_the_sync(rig: Rig) -> None:
    """Appended, refused and repeated alike wait for the block that admission had looked at."""
    rig.say(1, 1, 2)
    rig.log.hold()
    rig.say(1, 2, 2, wait=False)
    assert rig.log.waiting.wait(DEADLINE_S)
    rig.say(1, 1, 2, wait=False)  # a repeat of what is synced long since
    rig.say(1, 2, 2, wait=False)  # a repeat of what is being synced
    rig.say(1, 3, 1, wait=False)  # refused: to oneself
    rig.say(1, 70_000_000, 2, wait=False)  # refused: jump
    rig.quiet()
    assert len(rig.answers) == 1
    rig.log.go()
    answers = rig.wait(6)[1:]
    assert [answer.status for answer in answers] == [
        errors.APPENDED,
        errors.REPEAT,
        errors.REPEAT,
        errors.BAD_ID,
        errors.COUNTER_JUMP,
    ]
    assert [answer.sequence for answer in answers] == [3, 2, 3, 0, 0]
    assert [answer.conversation for answer in answers[:3]] == [1, 1, 1]
    assert answers[4].extra == 65_536


def test_what_gathers_during_a_sync_is_one_block(rig: Rig) -> None:
    """Group commit."""
    rig.say(1, 1, 2)
    rig.log.hold()
    rig.say(1, 2, 2, wait=False)
    assert rig.log.waiting.wait(DEADLINE_S)
    for counter in range(3, 40):
        rig.say(1, counter, 2, wait=False)
    rig.quiet()
    rig.log.go()
    rig.wait(39)
    assert len(rig.log.blocks) <= 4


def test_commits_that_take_long_are_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the alert for a slow disk asks for."""
    monkeypatch.setattr(sequencer, "SLOW_COMMIT_NS", 2_000_000_000)
    rig.say(1, 1, 2)
    assert (rig.sequencer.commits, rig.sequencer.slow_commits) == (1, 0)
    monkeypatch.setattr(sequencer, "SLOW_COMMIT_NS", 20_000_000)
    rig.log.hold()
    rig.say(1, 2, 2, wait=False)
    assert rig.log.waiting.wait(DEADLINE_S)
    time.sleep(0.05)
    rig.log.go()
    rig.wait(2)
    assert (rig.sequencer.commits, rig.sequencer.slow_commits) == (2, 1)


def test_a_failed_sync_discards_fences_and_says_unavailable(rig: Rig) -> None:
    """What was admitted on top of it too, and everything later, also repeats of what is safely stored."""
    rig.say(1, 1, 2)
    rig.log.hold()
    rig.say(1, 2, 2, wait=False)
    assert rig.log.waiting.wait(DEADLINE_S)
    rig.say(1, 3, 2, wait=False)
    rig.say(3, 1, 3, wait=False)
    rig.say(4, 1, 5, wait=False)  # cold
    rig.quiet()
    rig.log.fail()
    assert {answer.status for answer in rig.wait(5)[1:]} == {errors.UNAVAILABLE}
    later = [rig.say(1, 1, 2), rig.say(9, 1, 8)]
    assert {answer.status for answer in later if answer} == {errors.UNAVAILABLE}
    assert all(answer.sequence == 0 and answer.counter for answer in rig.answers[1:])
    assert rig.committed == [2]
    assert isinstance(rig.sequencer.failure, errors.LogFenced)


def test_a_failure_while_keys_are_loaded_leaves_nobody_waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader can't read: the writer stops, and says so to those who wait."""

    def broken(self: SavedState) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(SavedState, "read", broken)
    answer = rig.say(1, 1, 2)
    assert answer is not None
    assert answer.status == errors.UNAVAILABLE
    monkeypatch.undo()


def test_a_cold_conversation_keeps_only_its_own_waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loader is stuck, warm devices go on; those behind it come in their order afterwards."""
    rig.say(1, 1, 2)
    stuck, real = threading.Event(), SavedState.read

    def slow(self: SavedState) -> object:
        assert stuck.wait(DEADLINE_S)
        return real(self)

    monkeypatch.setattr(SavedState, "read", slow)
    for counter in (1, 2, 3):
        rig.say(7, counter, 8, wait=False)
    assert rig.say(1, 2, 2) is not None
    rig.say(7, 4, 1, wait=False)
    assert rig.say(1, 3, 2) is not None
    assert len(rig.answers) == 3
    stuck.set()
    answers = rig.wait(7)[3:]
    assert [answer.counter for answer in answers] == [1, 2, 3, 4]
    assert {answer.status for answer in answers} == {errors.APPENDED}


def test_the_intake_is_bounded_and_recovers(tmp_path: Path) -> None:
    """submit says no instead of blocking or growing."""
    rig = Rig(tmp_path / "state", intake_bytes_max=10_000)
    rig.say(1, 1, 2)
    rig.log.hold()
    rig.say(1, 2, 2, wait=False)
    assert rig.log.waiting.wait(DEADLINE_S)
    proposal = pack_proposal(1, 1, 3, 2, "message", bytes(60_000), person=True)
    taken = 0
    deadline = time.monotonic() + DEADLINE_S
    while rig.sequencer.submit(proposal) and time.monotonic() < deadline:
        taken += 1
    assert rig.sequencer.intake_bytes < 200_000
    rig.log.go()
    rig.wait(2 + taken)
    assert rig.sequencer.submit(pack_proposal(1, 1, 4, 2, "message", b"", person=True))
    rig.wait(3 + taken)
    rig.close()


def test_a_malformed_batch_is_the_callers_error(rig: Rig) -> None:
    """It is said to the caller and touches nothing."""
    for batch in (b"short", bytes(64), pack_proposal(1, 1, 1, 2, "message", b"x")[:-1]):
        with pytest.raises(ValueError, match="malformed"):
            rig.sequencer.submit(batch)
    assert rig.say(1, 1, 2) is not None


def test_the_clock_may_jump_but_time_does_not_fall(tmp_path: Path) -> None:
    """Times are the clock's, never below those before."""
    times = iter([5_000, 4_000, 10, 6_000, 5_999])
    rig = Rig(tmp_path / "state", clock=lambda: next(times, 7_000))
    heard = [answer.time for answer in (rig.say(1, counter, 2) for counter in range(1, 8)) if answer]
    assert heard == sorted(heard)
    assert heard[0] >= 4_000
    assert heard[-1] == 7_000
    rig.close()


def test_small_tables_shed_and_still_answer_right(tmp_path: Path) -> None:
    """Memory bounded far below what is in use: everything is loaded again when asked for, nothing is forgotten."""
    rig = Rig(tmp_path / "state", tables_bytes_max=250_000, save_events_max=200, save_interval_s=0.01, run_saver=True)
    for round_ in range(1, 4):
        for user in range(1, 1_500):
            rig.say(user, round_, user + 5_000, wait=False)
        for user in range(1, 1_500, 100):
            rig.say(user, round_, user + 5_000, wait=False)
        rig.wait(round_ * (1_499 + 15) + (round_ - 1) * 200)
        deadline = time.monotonic() + DEADLINE_S
        while rig.saver.position < rig.admitter.sequence and time.monotonic() < deadline:
            rig.quiet(0.01)
        for counter in range(1, 201):  # turns, each of which sheds a slice
            rig.say(9_000, round_ * 1_000 + counter, 9_001)
    statuses = [answer.status for answer in rig.answers]
    assert statuses.count(errors.APPENDED) == (1_499 + 200) * 3
    assert statuses.count(errors.REPEAT) == 45
    assert rig.admitter.deferrals > 3_000
    rig.close()


def test_admission_waits_for_a_saver_that_is_far_behind(tmp_path: Path) -> None:
    """Otherwise memory and the replay after a crash would have no bound."""
    rig = Rig(tmp_path / "state", lag_events_max=100)
    for counter in range(1, 200):
        rig.say(1, counter, 2, wait=False)
        if counter % 60 == 0:
            rig.quiet(0.01)
    rig.quiet()
    before = len(rig.answers)
    assert before < 199
    rig.saver.catch_up()
    rig.wait(before + 1)
    rig.saver.catch_up()
    rig.wait(199)
    rig.close()


def test_closing_commits_what_was_taken_in(tmp_path: Path) -> None:
    """Also what still had to be loaded."""
    rig = Rig(tmp_path / "state")
    for user in range(1, 300):
        rig.say(user, 1, user + 1_000, wait=False)
    rig.sequencer.close()
    assert len(rig.answers) == 299
    assert {answer.status for answer in rig.answers} == {errors.APPENDED}
    assert not rig.sequencer.submit(pack_proposal(1, 1, 2, 2, "message", b""))
    rig.saver.stop()
    assert rig.saved.position() == 598
    rig.saved.close()


def test_a_callback_that_raises_does_not_stop_the_writer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of the caller's own."""
    calls = []

    def bad(sequence: int) -> None:
        calls.append(sequence)
        raise RuntimeError("mine")

    monkeypatch.setattr(rig.sequencer, "_on_committed", bad)
    rig.say(1, 1, 2, wait=False)
    rig.quiet()
    monkeypatch.undo()
    answer = rig.say(1, 2, 2)
    assert answer is not None
    assert answer.status == errors.APPENDED
    assert calls == [2]


def test_an_edit_of_a_message_that_is_not_synced_yet_waits(rig: Rig) -> None:
    """Its target is admitted but not in the log: the edit is judged when it is, never refused for haste."""
    rig.say(1, 1, 2)
    rig.log.hold()
    rig.say(1, 2, 2, wait=False)
    assert rig.log.waiting.wait(DEADLINE_S)
    edit = pack_proposal(1, 1, 3, 1, "message.edited", schema.pack(schema.Edited(3, b"better")))
    assert rig.sequencer.submit(edit)
    rig.quiet()
    rig.log.go()
    assert [answer.status for answer in rig.wait(3)] == [errors.APPENDED] * 3
