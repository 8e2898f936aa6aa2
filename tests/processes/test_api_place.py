"""The api's place among the children: started last, ended before the sequencer, and nobody's chat hangs on it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gateway.processes.restarts import DEATHS_MAX
from tests.support.supervised import Supervised, is_alive, supervised, until

ANY = "127.0.0.1:0"


def test_a_killed_api_is_started_again_and_no_other_child_is(tmp_path: Path) -> None:
    with supervised(tmp_path / "data", api=ANY, workers=1) as server:
        before = {child: server.pids(child) for child in ("sequencer", "worker 1", "api")}
        assert server.ask("api") == (0, before["api"][0], before["sequencer"][0])
        os.kill(before["api"][0], signal.SIGKILL)
        until(lambda: len(server.pids("api")) == 2, "the restart")
        assert server.ask("api") == (0, server.pids("api")[1], before["sequencer"][0])
        assert [server.pids(child) for child in ("sequencer", "worker 1")] == [before["sequencer"], before["worker 1"]]
        until(lambda: server.http("/readyz") == (200, "ok\n"), "ready again")
        assert server.metric("gonets_processes") == 4


def test_a_killed_sequencer_gives_the_api_a_new_link(tmp_path: Path) -> None:
    with supervised(tmp_path / "data", api=ANY, workers=1) as server:
        os.kill(server.pids("sequencer")[0], signal.SIGKILL)
        until(lambda: len(server.pids("sequencer")) == 2, "the restart")
        until(lambda: server.ask("api")[2] == server.pids("sequencer")[1], "the link")
        assert len(server.pids("api")) == 1


def test_an_api_that_dies_in_a_loop_rests_and_clients_are_served(tmp_path: Path) -> None:
    with supervised(tmp_path / "data", api=ANY, workers=1, faults=["api:dies when ready"]) as server:
        until(lambda: server.lines("the api rests; clients are served on"), "the rest")
        assert len(server.pids("api")) == DEATHS_MAX
        assert server.ask()[0] == 1
        status, words = server.http("/readyz")
        assert status == 200 and "api died 5 times within 30 s" in words
        assert server.end() == 0


def test_an_api_that_can_not_start_is_one_line(tmp_path: Path) -> None:
    refused = Supervised(tmp_path / "data", api=ANY, workers=1, faults=["api:fails"]).refusal()
    assert refused == "gonets: the small child was told to fail"


@pytest.mark.parametrize("fault", [[], ["api:doesn't end"]])
def test_the_api_ends_after_the_workers_and_before_the_sequencer(tmp_path: Path, fault: list[str]) -> None:
    with supervised(tmp_path / "data", api=ANY, workers=1, faults=fault, api_end_s=0.5) as server:
        assert server.end() == 0
        ended = [line["child"] for line in server.lines("child ended")]
        assert ended == ["worker 1", "api", "sequencer"]
        assert bool(server.lines("a child doesn't end: killed")) is bool(fault)


def test_a_successor_keeps_the_backends_port_and_starts_its_api_when_the_other_has_ended(tmp_path: Path) -> None:
    with supervised(tmp_path / "data", api=ANY, workers=1) as first:
        addresses = {name: first.addresses[name].removeprefix("http://") for name in ("admin", "api")}
        with supervised(
            tmp_path / "data", workers=1, take_over=True, listen=f"127.0.0.1:{first.port}", **addresses
        ) as second:
            number, pid, sequencer = second.ask("api")  # waits in the socket until somebody accepts
            assert number == 0 and pid in (*first.pids("api"), *second.pids("api")) and sequencer
            assert first.wait() == 0
            assert second.ask("api")[1] == second.pids("api")[0]
            assert not is_alive(first.pids("api")[0])
            ended = next(line for line in first.lines("child ended") if line["child"] == "api")
            began = next(line for line in second.lines("child started") if line["child"] == "api")
            assert ended["timestamp"] < began["timestamp"]
            until(lambda: second.http("/readyz") == (200, "ok\n"), "ready")
