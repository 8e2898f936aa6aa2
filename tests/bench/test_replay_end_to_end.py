"""Real chat through the real server: sockets, log and processes; quiet, cut, and killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import replay, trace

SHARED = Path(__file__).parents[3] / "shared" / "data" / "irc-ubuntu"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(3):
        (folder / f"day {number}").write_bytes(trace.generate(number, "", 150, 20))
    return folder


def test_replay_of_seeded_logs(logs: Path) -> None:
    report = replay.run(logs, None, None, 2, False, 1, None)
    assert replay.passed(report), report
    assert report["events"] > 450 and report["expected"] > 10_000
    assert report["filesystem"] != "unknown" and report["durability"]


def test_replay_with_sessions_cut_and_the_server_killed(logs: Path) -> None:
    report = replay.run(logs, None, None, 2, True, 1, None)
    assert replay.passed(report), report
    chaos = report["chaos"]
    assert chaos["kills"] >= 5 and all(chaos["in_flight_at_kills"])
    assert chaos["sessions_cut"] >= chaos["sessions"] / 5 and len(chaos["cuts"]) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared logs are not here")
def test_replay_of_a_real_day() -> None:
    report = replay.run(SHARED / "2005-02-06.train-c.raw.txt", None, None, 1, False, 1, None)
    assert replay.passed(report), report
    assert report["events"] > 1_400
