"""`gonets log verify`: cut short anywhere it goes on, and believes nothing that has changed since."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineUnable
from engine.log import resume
from engine.log.backup import Options, backup_log
from engine.log.files import locked
from engine.log.verify import verify_log
from engine.state.keys import KEEP_US
from ext.verify import Verifier
from tests.support.grown_log import firsts, grow
from tests.support.killed import Killer, copy, quiet
from tests.support.log_rig import hashes, only_reading


@pytest.fixture(name="places", scope="module")
def _places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data directory of several segments, and a backup of it."""
    folder = tmp_path_factory.mktemp("verify")
    data = folder / "data"
    grow(data, 250, snapshot=True)
    grow(data, 200)
    backup_log(data, folder / "backup", Options(), quiet)
    return {"data": data, "backup": folder / "backup"}


def told(place: Path) -> dict[str, Any]:
    """The whole report, without the names of places."""
    return {key: value for key, value in verify_log(place, None, quiet).items() if key not in ("data", "backup")}


@pytest.mark.parametrize("what", ["data", "backup"])
def test_killed_at_any_step_the_next_run_goes_on(
    places: dict[str, Path], tmp_path: Path, killer: Killer, what: str
) -> None:
    """With the same report, and nothing of it left behind."""
    whole = told(copy(places[what], tmp_path / "whole"))
    assert whole["problems"] == [] and whole["resumed_after"] == 0
    moment, after = 0, []
    while True:
        place = copy(places[what], tmp_path / "place")
        before = hashes(place)
        if not killer.run("verify", place, place, moment):
            break
        report = told(place)
        after.append(report.pop("resumed_after"))
        assert report == {key: value for key, value in whole.items() if key != "resumed_after"}, f"moment {moment}"
        left = hashes(place)
        assert {name: left[name] for name in before} == before
        assert not (place / resume.FOLDER).exists(), f"moment {moment}"
        moment += 5
    assert len(after) > 8
    assert max(after) >= firsts(places["data"])[-2] - 1
    assert after[0] == 0


def killed_late(killer: Killer, place: Path) -> None:
    """A verification that has been killed once it has kept a point."""
    moment = 1
    while not (place / resume.FOLDER / resume.CHECK).exists():
        assert killer.run("verify", place, place, moment)
        moment += 4


def test_damage_that_was_found_is_told_by_the_run_that_goes_on(
    places: dict[str, Path], tmp_path: Path, killer: Killer
) -> None:
    place = copy(places["data"], tmp_path / "place")
    damage(place / "log" / f"{firsts(place)[0]:020d}.lmdb", places["data"])
    found = told(copy(place, tmp_path / "whole"))
    assert len(found["problems"]) == 1
    killed_late(killer, place)
    again = told(place)
    assert again["resumed_after"] > 0
    assert again["problems"] == found["problems"]


def damage(path: Path, data: Path) -> None:
    """One byte of a message, also where a page that is free by now has a copy of it."""
    segments, reader = only_reading(data)
    records = (reader.record(sequence) for sequence in range(firsts(data)[0], firsts(data)[1]))
    record = next(found for found in records if found is not None and b"x" * 400 in found)
    segments.close()
    content = path.read_bytes()
    assert record in content
    path.write_bytes(content.replace(record, record[:-100] + b"y" + record[-99:]))


@pytest.mark.parametrize("what", ["data", "backup"])
def test_what_has_changed_since_is_read_again(
    places: dict[str, Path], tmp_path: Path, killer: Killer, what: str
) -> None:
    place = copy(places[what], tmp_path / "place")
    killed_late(killer, place)
    damage(next(place.rglob(f"{firsts(places['data'])[0]:020d}.lmdb")), places["data"])
    report = told(place)
    assert report["resumed_after"] == 0
    assert report["problems"]


def test_yesterdays_work_and_another_backups_are_not_believed(
    places: dict[str, Path], tmp_path: Path, killer: Killer
) -> None:
    place = copy(places["backup"], tmp_path / "place")
    killed_late(killer, place)
    kept = place / resume.FOLDER / resume.SUBJECT
    subject = json.loads(kept.read_text())
    for change in ({"time_s": subject["time_s"] - resume.AGE_S_MAX}, {"what": "another"}):
        old = copy(place, tmp_path / "old")
        (old / resume.FOLDER / resume.SUBJECT).write_text(json.dumps({**subject, **change}))
        assert told(old)["resumed_after"] == 0
    assert told(place)["resumed_after"] > 0


def test_two_at_once_are_refused_and_a_backup_is_not(places: dict[str, Path], tmp_path: Path) -> None:
    place = copy(places["backup"], tmp_path / "place")
    (place / resume.FOLDER).mkdir()
    with (
        locked(place / resume.FOLDER / resume.LOCK_NAME),
        pytest.raises(EngineUnable, match="another verification of"),
    ):
        told(place)
    assert backup_log(places["data"], place, Options(), quiet)["number"] == 2


def test_tables_taken_out_and_put_in_again_judge_alike(places: dict[str, Path]) -> None:
    """At any cut between two blocks, all that follows is found as without it: also what is wrong."""
    segments, reader = only_reading(places["data"])
    found = reader.blocks_after(0, 1 << 30)
    segments.close()
    found += found[-3:]  # counters, times and numbers that were there already
    draw = random.Random(3)
    whole = Verifier(0, KEEP_US)
    expected = [whole.block(block) for block in found]
    assert any(expected)
    for cut in draw.sample(range(len(found)), 12):
        first, second = Verifier(0, KEEP_US), Verifier(0, KEEP_US)
        got = [first.block(block) for block in found[:cut]]
        for part in first.parts():
            second.load(part)
        assert got + [second.block(block) for block in found[cut:]] == expected
        assert (second.events, second.conversations()) == (whole.events, whole.conversations())


def test_parts_that_are_none(places: dict[str, Path]) -> None:
    segments, reader = only_reading(places["data"])
    verifier = Verifier(0, KEEP_US)
    for block in reader.blocks_after(0, 1 << 30):
        verifier.block(block)
    segments.close()
    for part in verifier.parts():
        for size in (0, 8, 31, len(part) - 1) if len(part) > 32 else (0, 31):
            with pytest.raises(ValueError, match="a part"):
                Verifier(0, KEEP_US).load(part[:size])
