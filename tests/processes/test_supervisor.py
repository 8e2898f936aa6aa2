"""The supervisor with small children: who dies is started again, who dies in a loop ends everything, orphans end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.processes.restarts import DEATHS_MAX, DELAYS_S, WINDOW_S, Restarts
from tests.support.supervised import Supervised, is_alive, supervised, until

RESTART = timedelta(seconds=2)  # promised


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """One for all tests that leave it serving."""
    with supervised(tmp_path_factory.mktemp("server") / "data", workers=2) as found:
        yield found


def well(server: Supervised) -> bool:
    """Ready, with every child."""
    return server.http("/readyz") == (200, "ok\n")


@pytest.mark.parametrize("child", ["sequencer", "worker 1", "worker 2"])
def test_a_killed_child_is_back_within_two_seconds(server: Supervised, child: str) -> None:
    """kill -9; the new one has links, the others have new ones, and the counters haven't fallen."""
    until(lambda: well(server), "ready")
    for _ in range(5):
        server.ask()
    until(lambda: server.metric("gonets_publishes_total") >= 5, "the reports")
    counted, restarted = server.metric("gonets_publishes_total"), server.metric("gonets_restarted_processes_total")
    before = server.pids(child)
    descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    os.kill(before[-1], signal.SIGKILL)
    until(lambda: len(server.pids(child)) > len(before), "the restart")
    until(lambda: well(server), "ready again")
    moments = [
        datetime.fromisoformat(server.lines(event)[-1]["timestamp"]) for event in ("child died", "child started")
    ]
    assert timedelta(0) <= moments[1] - moments[0] < RESTART
    assert server.metric("gonets_publishes_total") >= counted
    assert server.metric("gonets_restarted_processes_total") == restarted + 1
    assert server.metric("gonets_processes") == 4
    until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) == descriptors, "no descriptor left open")
    died = server.lines("child died")[-1]
    assert died["child"] == child and died["pid"] == before[-1] and "signal 9" in died["fate"] and died["lived_s"] > 0
    sequencer = server.pids("sequencer")[-1]
    seen: set[int] = set()
    while seen != {1, 2}:  # whoever accepts: each worker's link leads to the sequencer of now
        number, _, asked = server.ask()
        assert asked == sequencer
        seen.add(number)


def test_a_child_that_says_nothing_is_started_again_unless_the_supervisor_slept(tmp_path: Path) -> None:
    with supervised(tmp_path / "data", workers=1, silence_s=0.6) as server:
        children = [*server.pids("sequencer"), *server.pids("worker 1")]
        for pid in (*children, server.process.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.8)
        for pid in (server.process.pid, *children):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.8)  # more than silence_s: who speaks is let alone, too
        assert well(server) and all(is_alive(pid) for pid in children)
        stuck = children[1]
        os.kill(stuck, signal.SIGSTOP)
        until(lambda: len(server.pids("worker 1")) == 2, "the restart")
        until(lambda: well(server), "ready again")
        assert not is_alive(stuck)
        assert server.lines("a child says nothing any more: killed")[0]["child"] == "worker 1"


def test_whoever_dies_in_a_loop_ends_everything_loudly(tmp_path: Path) -> None:
    """The rest is drained in order, the exit code is 1, the last line says who died of what."""
    with supervised(tmp_path / "data", workers=2, admin="") as server:
        for death in range(1, DEATHS_MAX + 1):
            until(lambda: len(server.pids("worker 1")) == death, "a restart")  # noqa: B023
            until(lambda: is_alive(server.pids("worker 1")[-1]), "life")
            os.kill(server.pids("worker 1")[-1], signal.SIGKILL)
        assert server.wait() == 1
        assert server.lines("gives up: everything ends")[0]["level"] == "critical"
        assert {line["child"] for line in server.lines("child ended")} == {"worker 2", "sequencer"}
        last = server.log().splitlines()[-1]
        assert last == "gonets: worker 1 died 5 times within 30 s, at last: signal 9 (Killed)"


def test_what_keeps_a_child_from_starting_is_the_one_line(tmp_path: Path) -> None:
    server = Supervised(tmp_path / "data", faults=["worker:1:fails"], admin="")
    assert server.refusal() == "gonets: the small child was told to fail"
    events = [(line["event"], line["child"]) for line in server.said() if "child" in line]
    assert events[:2] == [("child started", "sequencer"), ("child ready", "sequencer")], "workers wait for it"
    assert not any(is_alive(pid) for child in ("sequencer", "worker 1", "worker 2") for pid in server.pids(child))


def test_restarts_wait_longer_and_end() -> None:
    restarts = Restarts()
    assert [restarts.died(0.1 * n) for n in range(DEATHS_MAX)] == [*DELAYS_S, None]
    calm = Restarts()
    assert {calm.died(n * WINDOW_S) for n in range(20)} == {0.0}, "deaths far apart are no loop"


def test_the_end_is_workers_first_then_the_sequencer(tmp_path: Path) -> None:
    """And who saves for long, silently, is let alone."""
    with supervised(tmp_path / "data", silence_s=0.6, faults=["sequencer:saves long"], admin="") as server:
        socket_file = tmp_path / "data" / "supervisor.sock"
        assert socket_file.stat().st_mode & 0o777 == 0o600
        assert server.end(signal.SIGINT) == 0
        assert [line["child"] for line in server.lines("child ended")][-1] == "sequencer"
        assert [line["handed_over"] for line in server.lines("told to drain")] == [False, False]
        assert not server.lines("child died")
        assert not server.lines("a child says nothing any more: killed")
        assert not socket_file.exists()


def test_a_child_that_doesnt_end_is_killed_and_a_second_signal_hurries(tmp_path: Path) -> None:
    settings = {"workers": 1, "drain_s": 60, "worker_end_s": 0.3, "faults": ["worker:doesn't end"]}
    with supervised(tmp_path / "data", **settings) as server:
        worker = server.pids("worker 1")[0]
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.lines("ends"), "the drain")
        until(lambda: server.http("/readyz")[0] == 503, "not ready")
        assert "draining" in server.http("/readyz")[1]
        assert server.end() == 0
        assert not is_alive(worker)
        assert server.lines("a child doesn't end: killed")[0]["child"] == "worker 1"


def test_a_reload_reaches_the_supervisor_and_its_children(server: Supervised) -> None:
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.lines("configuration read again"), "the reload")
    assert server.lines("configuration read again")[-1]["taken"] == ["logging.level"]
    until(lambda: len(server.lines("reloaded")) == 3, "every child's word")
    assert {line["level"] for line in server.lines("reloaded")} == {"debug"}
    assert well(server)


def test_orphans_end_and_a_new_supervisor_serves_on_the_same_port(tmp_path: Path) -> None:
    """kill -9 of the supervisor, at once a new one: it waits for the orphans, then has their port.

    (It was ready to take over, and there is nobody to take over from: then that is an ordinary start.)
    """
    with supervised(tmp_path / "data", faults=["worker:outlives its supervisor"], admin="") as first:
        orphans = [pid for child in ("sequencer", "worker 1", "worker 2") for pid in first.pids(child)]
        first.process.kill()
        first.process.wait()
        with supervised(tmp_path / "data", listen=f"127.0.0.1:{first.port}", take_over=True) as second:
            assert not any(is_alive(pid) for pid in orphans)
            assert second.ask()[2] == second.pids("sequencer")[0]
            assert second.end() == 0


def test_the_lock_is_waited_for_only_so_long(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with subprocess.Popen(["flock", str(data / "supervisor.lock"), "sleep", "30"], start_new_session=True) as holder:
        until(lambda: (data / "supervisor.lock").exists(), "the lock")
        time.sleep(0.1)
        server = Supervised(data, lock_s=0.5, admin="")
        assert "supervisor.lock is held by what process 0 has left behind" in server.refusal()
        assert server.lines("waiting for the orphans of a supervisor that is gone")
        os.killpg(holder.pid, signal.SIGKILL)


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = Supervised(tmp_path / "data", listen=f"127.0.0.1:{taken.getsockname()[1]}").refusal()
        assert words.startswith("gonets: server.listen") and "taken" in words
