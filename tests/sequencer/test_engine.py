"""The engine over a real log: what survives a restart, what a lost or foreign state does, what the disk holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors, schema
from engine.answers import pack_proposal
from engine.state.saved import SavedState, key1
from engine.state.view import View
from tests.support.engine_rig import EngineRig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[EngineRig]:
    """An engine; the log is checked at the end."""
    rig = EngineRig(tmp_path / "data")
    yield rig
    rig.close()


def caught_up(rig: EngineRig) -> View:
    """A view that has folded everything."""
    view = rig.engine.view()
    for block in rig.engine.log.reader().blocks_after(view.sequence, 1 << 30):
        view.apply(block)
    assert view.sequence == rig.engine.log.last_sequence
    return view


def test_a_repeat_gets_the_first_position_across_restarts(rig: EngineRig) -> None:
    """P3: the same counter, before and after: the same place, and nothing is appended."""
    first = [rig.say(1, counter, 2) for counter in range(1, 80)]
    for _ in range(2):
        rig.restart()
        again = [rig.say(1, counter, 2) for counter in range(16, 80)]
        assert [answer.status for answer in again] == [errors.REPEAT] * 64
        assert [answer[:6] for answer in again] == [answer[:6] for answer in first[15:]]
        assert rig.say(1, 15, 2).status == errors.TOO_OLD
    assert rig.engine.log.last_sequence == 80


def test_conditional_publish_across_restarts(rig: EngineRig) -> None:
    """P4: the expected conversation sequence, or the actual one."""
    assert rig.say(1, 1, 2, expected=0).status == errors.APPENDED
    rig.restart()
    refused = rig.say(2, 1, 1, expected=1)
    assert (refused.status, refused.conversation_sequence, refused.sequence) == (errors.CONFLICT, 2, 0)
    assert rig.say(2, 1, 1, expected=2).status == errors.APPENDED


def test_many_first_messages_race_for_one_dialog(rig: EngineRig) -> None:
    """However many and from whichever side: one id, also after a restart."""
    batch = [
        pack_proposal(user, device, 1, 3 - user, "message", b"x", person=True)
        for device in range(1, 51)
        for user in (1, 2)
    ]
    answers = rig.ask(*batch)
    assert {answer.conversation for answer in answers} == {1}
    assert {answer.status for answer in answers} == {0}
    rig.restart()
    assert rig.say(2, 2, 1).conversation == 1
    assert rig.say(1, 2, 3).conversation == 2


def test_conversation_ids_and_roles_go_on_after_a_restart(rig: EngineRig) -> None:
    """Ids are never given twice; a removed member stays removed; time does not fall."""
    created = schema.pack(schema.Created("group", "G", False, [(2, ""), (3, "admin")]))
    group = rig.ask(pack_proposal(1, 1, 1, 0, schema.CREATED, created))[0]
    removal = pack_proposal(3, 1, 1, group.conversation, schema.REMOVED, schema.pack(schema.Removed(2)))
    assert rig.ask(removal)[0].status == errors.APPENDED
    rig.restart()
    answer = rig.ask(pack_proposal(2, 1, 1, group.conversation, "message", b"x"))[0]
    assert (answer.status, answer.conversation) == (errors.UNKNOWN_CONVERSATION, 0)
    second = rig.ask(pack_proposal(1, 1, 2, 0, schema.CREATED, created))[0]
    assert second.conversation == group.conversation + 1
    assert second.time >= group.time
    view = caught_up(rig)
    membership = view.membership(2, group.conversation)
    assert membership is not None
    assert membership.intervals == ((1, 2),)
    assert membership.role == ""


def test_a_lost_state_is_folded_again_from_the_log(rig: EngineRig) -> None:
    """View of the replay = view of the saved state = view of the tail."""
    created = schema.pack(schema.Created("group", "G", True, [(2, "")]))
    group = rig.ask(pack_proposal(1, 1, 1, 0, schema.CREATED, created))[0]
    target = rig.ask(pack_proposal(2, 1, 1, group.conversation, "message", b"x"))[0]
    rig.ask(pack_proposal(1, 1, 2, group.conversation, schema.DELETED, schema.pack(schema.Deleted(target.sequence))))
    for counter in range(3, 100):
        rig.say(1, counter, counter)

    def told(view: View) -> list[object]:
        return [
            view.conversation(group.conversation),
            view.members(group.conversation, 0, 9),
            view.memberships(1),
            view.memberships(2),
            view.dialog(1, 50),
            view.tombstoned_among([(group.conversation, target.sequence)]),
            view.last_counter(1, 1),
            [view.head(n) for n in range(1, 102)],
        ]

    tail = told(caught_up(rig))
    rig.restart()
    assert told(rig.engine.view()) == tail
    rig.engine.close()
    shutil.rmtree(rig.path / "state")
    rig.open()
    assert told(rig.engine.view()) == tail
    assert rig.say(1, 99, 99).status == errors.REPEAT


def test_a_state_ahead_of_its_log_is_refused(tmp_path: Path) -> None:
    """A log put back from an older copy: nothing is guessed, nothing deleted."""
    rig = EngineRig(tmp_path / "data")
    rig.say(1, 1, 2)
    rig.close()
    saved = SavedState.open(rig.path / "state", shard=0)
    with saved.env.begin(write=True) as txn:
        txn.put(b"position", key1(99), db=saved.databases[b"meta"])
    saved.close()
    with pytest.raises(errors.StateDamaged, match="saved at 99, but the log ends at 2"):
        rig.open()
    with pytest.raises(errors.StateDamaged):  # and the lock was let go
        rig.open()


def test_a_state_of_another_shard_or_version_is_refused(tmp_path: Path) -> None:
    """Named with both numbers."""
    SavedState.open(tmp_path / "state", shard=0).close()
    with pytest.raises(errors.LogVersion, match="shard 0, not 3"):
        SavedState.open(tmp_path / "state", shard=3)
    saved = SavedState.open(tmp_path / "state", shard=0)
    with saved.env.begin(write=True) as txn:
        txn.put(b"format", key1(9), db=saved.databases[b"meta"])
    saved.close()
    with pytest.raises(errors.LogVersion, match="format 9, not 2"):
        SavedState.open(tmp_path / "state", shard=0)


def test_a_view_refuses_to_be_made_of_a_closed_engine(tmp_path: Path) -> None:
    """Instead of touching a closed map."""
    rig = EngineRig(tmp_path / "data")
    rig.close()
    with pytest.raises(errors.EngineClosed):
        rig.engine.view()
    rig.engine.close()  # twice is once


def test_the_saver_keeps_up_while_events_come(tmp_path: Path) -> None:
    """Saved by count, not only at the end; a view made then begins there."""
    rig = EngineRig(tmp_path / "data", save_events_max=500, save_interval_s=0.05)
    for counter in range(1, 1_200, 60):
        rig.ask(*(pack_proposal(1, 1, counter + i, 2, "message", b"x", person=True) for i in range(60)))
    stats = rig.engine.stats()
    assert stats["log_sequence"] == 1_201
    assert stats["log_commits"]
    assert not stats["writer_fenced"]
    view = caught_up(rig)
    assert view.head(1) == (1_201, 1_201)
    rig.close()
