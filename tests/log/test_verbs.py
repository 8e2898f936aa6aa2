"""`gonets log stat` and `gonets log read`, and how little one damaged record does to those who work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors, schema
from engine.answers import pack_proposal
from engine.log.read import read_log
from engine.log.stat import stat_log
from engine.log.verbs import saved_position
from ext.record import decode
from tests.support.engine_rig import EngineRig
from tests.support.healthy_log import Broken, make
from tests.support.log_rig import Naive, hashes, only_reading, rows_of, segment_files


def test_stat_adds_up(tmp_path: Path) -> None:
    """Segments, blocks and events are those of the files; nothing is changed."""
    make(tmp_path)
    before = hashes(tmp_path)
    report = stat_log(tmp_path)
    assert hashes(tmp_path) == before
    files = segment_files(tmp_path)
    assert [row["segment"] for row in report["segments"]] == [path.name for path in files]
    assert [row["blocks"] for row in report["segments"]] == [len(rows_of(path)) - 1 for path in files]
    assert sum(row["events"] for row in report["segments"]) == report["last_sequence"]
    assert [row["file_bytes"] for row in report["segments"]] == [path.stat().st_size for path in files]
    assert report["saved_state_sequence"] == report["last_sequence"] == saved_position(tmp_path, 0)
    assert report["epochs"] == [{"epoch": 1, "first_sequence": 1}]
    assert (report["shard"], report["first_sequence"]) == (0, 1)


def test_read_shows_events_from_any_sequence_on(tmp_path: Path) -> None:
    """All fields but what people wrote; control events whole."""
    naive = Naive(tmp_path)
    naive.fill(3)
    naive.close()
    for begin, limit in ((1, 5), (17, 40), (naive.chain.last, 9), (naive.chain.last + 1, 9)):
        found = list(read_log(tmp_path, begin, limit))
        expected = [decode(record) for record in naive.chain.records[begin - 1 : begin - 1 + limit]]
        assert [event["sequence"] for event in found] == [record.sequence for record in expected]
        for event, record in zip(found, expected, strict=True):
            assert event["payload_bytes"] == len(record.payload)
            assert "payload" not in event
            assert "data" not in event
            assert event["conversation"] == record.conversation
    with pytest.raises(errors.BadArgument):
        next(read_log(tmp_path, 0, 1))
    with pytest.raises(errors.BadArgument):
        next(read_log(tmp_path, 1, 0))


def test_read_shows_control_events_and_says_what_is_trimmed(tmp_path: Path) -> None:
    """As data; below the first kept sequence it is an error, not an empty answer."""
    make(tmp_path)
    first = next(read_log(tmp_path, 1, 1))
    assert first["type"] == schema.CREATED
    assert first["data"]["title"] in ("G", "C")
    segment_files(tmp_path)[0].unlink()
    with pytest.raises(errors.Trimmed):
        next(read_log(tmp_path, 1, 1))


def test_no_saved_position_where_no_state_can_be_opened(tmp_path: Path) -> None:
    """None, for another shard too."""
    assert saved_position(tmp_path, 0) is None
    rig = EngineRig(tmp_path)
    rig.say(1, 1, 2)
    rig.close()
    assert saved_position(tmp_path, 0) == 2
    assert saved_position(tmp_path, 1) is None


def test_a_chain_that_leads_forward_or_nowhere_ends(healthy: Path, tmp_path: Path) -> None:
    """L5: a walk that would go round for ever is damage, also with all checksums right."""
    broken = Broken(healthy, tmp_path / "data")
    place = broken.place()
    for previous in (place.sequence, place.sequence + 1):
        broken.set_field(place, "previous", previous)
        segments, reader = only_reading(broken.data)
        with pytest.raises(errors.RecordDamaged, match=f"leads to sequence {place.sequence}, which is not of it"):
            reader.walk(place.sequence, place.record.conversation, 0, 10)
        segments.close()


def test_editing_a_damaged_message_is_refused_and_fences_nobody(broken: Broken) -> None:
    """P7: the rest is still served. Its author is told `bad_target`; all others publish on."""
    place = broken.place(lambda place: place.record.type == "message" and place.record.conversation > 2)  # a dialog's
    broken.flip(place, 100)
    rig = EngineRig(broken.data)
    sender, conversation = place.record.sender, place.record.conversation
    edited = schema.pack(schema.Edited(place.sequence, b"new"))
    refused = rig.ask(pack_proposal(sender, 9, 1, conversation, schema.EDITED, edited))[0]
    assert refused.status == errors.BAD_TARGET
    other = rig.ask(pack_proposal(sender, 9, 2, conversation, "message", b"x"))[0]
    assert other.status == errors.APPENDED
    assert rig.engine.sequencer.failure is None
    rig.engine.close()
    problems = broken.problems()
    assert [(row["problem"][:3], row["events"]) for row in problems] == [("L1:", str(place.sequence))]
