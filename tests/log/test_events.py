"""The events of a log for a reader in process: all of them, in order, on from any position, damage told or raised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine import EventLog
from engine.answers import pack_proposal
from engine.errors import BadArgument, EngineUnable, LogDamaged, Trimmed
from engine.log.damage import events_after
from ext.record import decode
from tests.log.test_quarantine import WAYS, last_record
from tests.support.engine_rig import EngineRig
from tests.support.healthy_log import make
from tests.support.log_rig import only_reading, run_child, segment_files


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several segments, in which everything has happened; made once."""
    data = tmp_path_factory.mktemp("healthy") / "data"
    make(data)
    return data


def records_of(data: Path) -> list[bytes]:
    """All records, read another way."""
    segments, reader = only_reading(data)
    try:
        return [event.record or b"" for event in events_after(reader, 0, reader.last_sequence(), 1)]
    finally:
        segments.close()


def test_all_events_from_any_position(healthy: Path) -> None:
    records = records_of(healthy)
    assert len(segment_files(healthy)) > 1
    with EventLog.open(healthy) as log:
        assert log.last_sequence() == len(records)
        assert [event.record for event in log.after(0)] == records
        for position in (1, len(records) // 2, len(records) - 1, len(records), len(records) + 5):
            assert [event.record for event in log.after(position)] == records[position:]
            decoded = [event for block in log.blocks_after(position) for event in block.decoded()]
            assert decoded == [decode(record) for record in records[position:]]


def test_it_goes_on_with_what_has_come_meanwhile(tmp_path: Path) -> None:
    """Beside the writer, over its reader or from another process; a roll does not end it."""
    rig = EngineRig(tmp_path / "data", segment_bytes=1 << 20)
    seen: list[int] = []
    for number in range(40):
        rig.ask(pack_proposal(1, 1, number + 1, 2, "message", bytes(60_000), person=True))
        events = list(EventLog(rig.engine.log.reader()).after(seen[-1] if seen else 0))
        assert events
        seen += [event.sequence for event in events]
    assert len(segment_files(rig.path)) > 1
    assert seen == list(range(1, rig.engine.log.last_sequence + 1))
    code = (
        "import sys; from pathlib import Path; from engine import EventLog\n"
        "with EventLog.open(Path(sys.argv[1])) as log: print([event.sequence for event in log.after(0)])"
    )
    assert json.loads(run_child(code, rig.path).stdout) == seen
    with pytest.raises(EngineUnable, match="open in this process"), EventLog.open(rig.path) as log:
        list(log.after(0))
    rig.close()


@pytest.mark.parametrize("way", WAYS)
def test_damage_is_told_and_the_rest_given(healthy: Path, tmp_path: Path, way: object) -> None:
    """What other readers can read it gives, what they can't it names; without somebody to tell it raises."""
    data = tmp_path / "data"
    shutil.copytree(healthy, data)
    whole = records_of(healthy)
    way(segment_files(data)[1])  # type: ignore[operator]
    segments, reader = only_reading(data)
    kept = {event.sequence for event in events_after(reader, 0, len(whole), 1) if event.record is not None}
    segments.close()
    assert 0 < len(kept) < len(whole)
    told: list[tuple[int, int, str]] = []
    with EventLog.open(data, on_damage=lambda first, last, why: told.append((first, last, why))) as log:
        given = {event.sequence: event.record for event in log.after(0)}
    assert given == {sequence: whole[sequence - 1] for sequence in sorted(kept)}
    assert list(given) == sorted(kept)
    lost = [sequence for first, last, _ in told for sequence in range(first, last + 1)]
    assert sorted([*lost, *given]) == list(range(1, len(whole) + 1))
    assert all(why for _, _, why in told)
    with EventLog.open(data) as log, pytest.raises(LogDamaged):
        list(log.after(0))


def test_damage_whose_end_is_not_known_is_raised_to_all(healthy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(healthy, data)
    last_record(segment_files(data)[-1])
    with EventLog.open(data, on_damage=lambda first, last, why: None) as log, pytest.raises(LogDamaged):
        list(log.after(0))


def test_what_was_trimmed_and_what_is_no_position(healthy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(healthy, data)
    segment_files(data)[0].unlink()
    with EventLog.open(data) as log:
        with pytest.raises(Trimmed):
            next(log.after(0))
        for position in (-1, 2**53):
            with pytest.raises(BadArgument, match=f"position {position}: must be 0 to"):
                log.after(position)
    with pytest.raises(BadArgument, match="holds no log"), EventLog.open(tmp_path / "none") as log:
        pass
