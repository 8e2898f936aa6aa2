"""The engine's own events through all verbs: shown as data, kept by backup and restore, folded from a snapshot."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import errors, schema
from engine.answers import pack_proposal
from engine.conversations import system_conversation
from engine.log.backup import Options, backup_log
from engine.log.check import check_log
from engine.log.dump import dump_log
from engine.log.read import read_log
from engine.log.restore import restore_log
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log
from engine.log.verify import verify_log
from engine.log.writer import Log
from engine.state.saved import key1
from engine.subscriptions.definition import Filter, Settings
from ext.record import encode
from tests.support.engine_rig import EngineRig
from tests.support.healthy_log import Broken
from tests.support.killed import quiet
from tests.support.naive_block import block_bytes

SYSTEM = system_conversation(0)
SEGMENT_BYTES = 32 << 10
CREATED = schema.SubscriptionCreated("mail", "ordered", "post", Filter(types=("message",)), 3, Settings())


def tell(rig: EngineRig, type_name: str, payload: schema.Payload) -> int:
    """One event of the engine's own; its conversation sequence."""
    (answer,) = rig.ask(pack_proposal(7, 0, 0, 0, type_name, schema.pack(payload), system=True))
    assert (answer.status, answer.conversation) == (errors.APPENDED, SYSTEM)
    return answer.conversation_sequence


def say(rig: EngineRig, first: int, count: int) -> None:
    """So many large messages, from a counter on."""
    counters = range(first, first + count)
    answers = rig.ask(*(pack_proposal(1, 1, counter, 2, "message", b"x" * 2_000, person=True) for counter in counters))
    assert {answer.status for answer in answers} == {errors.APPENDED}


def grow(data: Path) -> int:
    """Some of both, over several segments; the last conversation sequence of the engine's own."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    begin = rig.engine.view().last_counter(1, 1) + 1
    last = tell(rig, schema.SUBSCRIPTION_CREATED, CREATED)
    for position in range(1, 11):
        say(rig, begin + 6 * position - 6, 6)
        last = tell(rig, schema.SUBSCRIPTION_RESET, schema.SubscriptionReset("mail", position))
    rig.close()
    return last


def conversation_sequence(data: Path) -> int:
    """Of the last event of the engine's own, and that what follows goes on from it."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    found: int = rig.engine.view().head(SYSTEM)[1]
    assert tell(rig, schema.SUBSCRIPTION_PAUSED, schema.SubscriptionPaused("mail")) == found + 1
    group = schema.pack(schema.Created("group", "G"))
    (answer,) = rig.ask(pack_proposal(3, 1, 1, 0, schema.CREATED, group))
    assert answer.conversation == 2  # the dialog was 1
    rig.engine.close()
    return found


def test_backup_verify_restore(tmp_path: Path) -> None:
    """The restored log and its state are right, and the conversation goes on."""
    last = grow(tmp_path / "data")
    assert backup_log(tmp_path / "data", tmp_path / "backup", Options(), quiet)["problems"] == []
    assert verify_log(tmp_path / "backup", None, quiet)["problems"] == []
    restored = tmp_path / "restored"
    restore_log(
        tmp_path / "backup", restored, number=None, segment_bytes=SEGMENT_BYTES, bytes_per_s=0, on_progress=quiet
    )
    assert conversation_sequence(restored) == last
    report = check_log(restored)
    assert report["problems"] == [] and report["conversations"] == 3


def test_a_trimmed_log_is_opened_from_its_snapshot(tmp_path: Path) -> None:
    """Where the conversation began is gone, and so is the saved state."""
    for _ in range(2):
        last = grow(tmp_path)
        snapshot_log(tmp_path, only_list=False)
    assert trim_log(tmp_path, Wanted(keep_bytes=1), dry_run=False, force=False)["removed"]
    (tmp_path / "state").rename(tmp_path / "aside")
    assert conversation_sequence(tmp_path) == last
    assert check_log(tmp_path)["problems"] == []


def dumped(data: Path) -> list[dict[str, Any]]:
    """The lines of a dump."""
    out = io.BytesIO()
    dump_log(data, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_dump_and_read_show_what_they_say(tmp_path: Path) -> None:
    """As data, in both, with the fields of the schema."""
    grow(tmp_path)
    lines = [line for line in dumped(tmp_path) if line["conversation"] == SYSTEM]
    shown = [event for event in read_log(tmp_path, 1, 10_000) if event["conversation"] == SYSTEM]
    assert len(lines) == len(shown) == 12
    for line, event in zip(lines, shown, strict=True):
        assert line["data"] == event["data"]
        assert (line["sender"], line["device"], line["counter"]) == (7, 0, 0)
    assert lines[0]["data"] == {"kind": "system", "title": "", "history": False, "members": []}
    assert lines[1]["type"] == schema.SUBSCRIPTION_CREATED
    assert msgspec.convert(lines[1]["data"], schema.SubscriptionCreated) == CREATED
    assert [line["data"]["position"] for line in lines[2:]] == list(range(1, 11))


def test_people_who_have_used_such_names_before_stay_private(tmp_path: Path) -> None:
    """An older log holds a message of this type: it is folded, checked and dumped as the message that it is."""
    secret = b"\xa6secret"  # MessagePack's, by chance
    said = pack_proposal(1, 1, 1, 2, "message", b"x", person=True)
    rig = EngineRig(tmp_path)
    rig.ask(said)
    (block,) = rig.engine.log.reader().blocks_after(0, 1 << 20)
    rig.engine.close()
    log = Log.open(tmp_path)
    for sequence, type_name in ((3, schema.SUBSCRIPTION_CREATED), (4, "service.mine")):
        record = encode(sequence, 1, sequence, sequence - 1, 2**52, 1, 1, sequence, type_name, secret)
        block = block_bytes([record], sequence, previous_hash=log.last_hash)
        log.append(block)
    log.close()
    rig = EngineRig(tmp_path)
    assert rig.engine.view().head(1) == (4, 4) and rig.engine.view().conversation(SYSTEM) is None
    rig.close()
    for event in [*dumped(tmp_path)[2:], *list(read_log(tmp_path, 3, 10))]:
        assert event["sequence"] in (3, 4) and "data" not in event


@pytest.mark.parametrize(
    ("database", "key", "words"),
    [
        (b"conversations", key1(SYSTEM), "is only in the replay"),
        (b"heads", key1(SYSTEM // 408), "is only in the replay"),
    ],
)
def test_a_lost_row_of_its_state_is_noticed(broken: Broken, database: bytes, key: bytes, words: str) -> None:
    """S2 holds for it as for all others."""
    broken.change_state(database, lambda rows: rows.pop(key))
    broken.one_problem("S2", f"of {database.decode()} {words}", segment="state", block=None, events="")
