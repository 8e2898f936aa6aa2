"""Retention: the log is trimmed by itself, beside the writer, and never further than trimming may go."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from engine.answers import pack_proposal
from engine.log.check import check_log
from engine.log.readers import note_reader
from engine.log.retention import Retention, retain
from engine.log.trim import Wanted
from tests.support.engine_rig import EngineRig
from tests.support.grown_log import SEGMENT_BYTES, firsts, grow

KEEP_BYTES = 3 * SEGMENT_BYTES


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def write(rig: EngineRig, counters: range) -> None:
    for counter in counters:
        rig.ask(pack_proposal(1, 1, counter, 2, "message", b"x" * 600, person=True))


def test_it_trims_beside_a_writer_and_takes_the_snapshots_that_it_needs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES, save_interval_s=0.2)
    rig.engine.retain(data, keep_bytes=KEEP_BYTES, keep_days=0, interval_s=0.2)
    counter = 0

    def trimmed() -> bool:
        nonlocal counter
        write(rig, range(counter + 1, counter + 101))
        counter += 100
        return firsts(data)[0] > 1

    until(trimmed)
    until(lambda: rig.engine.stats()["retention_removed_bytes"])
    assert rig.engine.stats()["retention_failures"] == 0
    rig.engine.close()
    assert check_log(data)["problems"] == []
    for path in (data / "state").iterdir():
        path.unlink()
    again = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    write(again, range(counter + 1, counter + 2))
    assert again.engine.view().last_counter(1, 1) == counter
    again.close()


def test_a_durable_reader_holds_it_and_age_counts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        grow(data, 250, snapshot=True)
    note_reader(data, "team", "subscription", 10)
    held = retain(data, Wanted(keep_bytes=KEEP_BYTES))
    assert held["removed"] == [] and held["held_segments"] and "subscription team" in held["held_by"][0]
    note_reader(data, "team", "subscription", 10**9)
    assert retain(data, Wanted(keep_days=1))["removed"] == []
    assert retain(data, Wanted(keep_days=1e-9))["removed"] != []


def test_a_run_that_fails_is_counted_and_the_next_one_comes(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    retention = Retention(nowhere, Wanted(keep_bytes=1), interval_s=0.01)
    retention.start()
    until(lambda: retention.failures >= 2)
    retention.stop()
    assert not nowhere.exists() or not list(nowhere.glob("log/*"))
