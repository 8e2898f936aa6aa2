"""One supervisor takes another's place while clients connect: nobody is refused, and whoever fails changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.processes import control, takeover
from tests.support.supervised import Supervised, is_alive, supervised, until

CONNECT_EACH_S = 0.005
LONG = "long" * 40  # beyond the 108 bytes of a socket's address


class Crowd:
    """Clients that connect one after the other, each few milliseconds, and what they met."""

    def __init__(self, server: Supervised) -> None:
        self._server = server
        self.served: list[tuple[int, int, int]] = []  # worker, its pid, its sequencer's pid
        self.failed: list[str] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._end.wait(CONNECT_EACH_S):
            try:
                self.served.append(self._server.ask())
            except (OSError, ValueError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def last_sequencer(self) -> int:
        """Whom the newest answer came by."""
        return self.served[-1][2]


@contextmanager
def successor(server: Supervised, **settings: Any) -> Iterator[Supervised]:
    """Another one on the same data and addresses, that takes over."""
    given = {"listen": f"127.0.0.1:{server.port}", "admin": server.addresses["admin"].removeprefix("http://")}
    found = Supervised(server.data, take_over=True, **{**given, **settings})
    try:
        yield found
    finally:
        found.close()


def children(server: Supervised) -> list[int]:
    return [pid for child in ("sequencer", "worker 1", "worker 2") for pid in server.pids(child)]


def test_no_connection_is_refused_by_three_supervisors_in_turn(tmp_path: Path) -> None:
    """Old workers end, new ones publish by the old sequencer until it has gone, then by their own."""
    with supervised(tmp_path / "data") as first, Crowd(first) as crowd:
        until(lambda: len(crowd.served) > 20, "clients")
        with successor(first) as second:
            second.ready()
            assert first.wait() == 0
            assert not first.lines("child died")
            assert [line["handed_over"] for line in first.lines("told to drain")] == [True, True]
            assert not any(is_alive(pid) for pid in children(first))
            until(lambda: second.pids("sequencer"), "the new sequencer")
            until(lambda: crowd.last_sequencer() == second.pids("sequencer")[0], "its links")
            assert (tmp_path / "data" / "supervisor.lock").read_text() == f"{second.process.pid}\n"
            until(lambda: second.http("/readyz") == (200, "ok\n"), "ready")
            with successor(second) as third:
                third.ready()
                assert second.wait() == 0
                until(lambda: third.pids("sequencer"), "the new sequencer")
                until(lambda: crowd.last_sequencer() == third.pids("sequencer")[0], "its links")
                assert not crowd.failed
                new = set(second.pids("worker 1") + second.pids("worker 2"))
                assert any(pid in new and by == first.pids("sequencer")[0] for _, pid, by in crowd.served)
                crowd.__exit__()
                assert third.end() == 0
                assert not (tmp_path / "data" / "supervisor.sock").exists()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Supervised, Crowd]]:
    """One that nobody manages to replace, and its clients."""
    with supervised(tmp_path_factory.mktemp("served") / LONG / "data") as first, Crowd(first) as crowd:
        yield first, crowd
    assert not crowd.failed


def unchanged(first: Supervised, crowd: Crowd) -> None:
    """It serves as if nothing had been."""
    until(lambda: first.lines("the successor has gone before it served; all stays as it was"), "the old one's word")
    seen = len(crowd.served)
    until(lambda: len(crowd.served) > seen + 10, "clients")
    assert crowd.last_sequencer() == first.pids("sequencer")[0] and not crowd.failed
    assert first.http("/readyz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"faults": ["worker:2:fails"]}, "told to fail"),
        ({"listen": "127.0.0.2:0"}, "a take-over keeps the clients' port"),
    ],
)
def test_a_successor_that_cant_start_changes_nothing(
    served: tuple[Supervised, Crowd], settings: dict[str, Any], words: str
) -> None:
    with successor(served[0], **settings) as second:
        assert words in second.refusal()
    unchanged(*served)


def test_a_successor_that_is_killed_changes_nothing_and_a_third_is_refused(served: tuple[Supervised, Crowd]) -> None:
    with successor(served[0], faults=["worker:2:never ready"]) as second:
        until(lambda: second.pids("worker 2"), "its workers")
        with successor(served[0]) as third:
            assert f"process {second.process.pid} is taking its place already" in third.refusal()
        second.process.kill()
    unchanged(*served)
    with_name = takeover.call(served[0].data)  # the name leads to it as before
    assert with_name is not None and takeover.peer(with_name.socket)[0] == served[0].process.pid
    with_name.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_predecessor_that_is_killed_in_the_middle_is_replaced(tmp_path: Path, moment: str) -> None:
    """Before its successor's workers are ready, and while it drains; its orphans end by themselves."""
    faults = ["sequencer:doesn't end"] if moment == "after" else []
    with supervised(tmp_path / "data", faults=faults) as first:
        with successor(first) as second:
            until(lambda: second.pids("worker 2"), "its workers")
            if moment == "after":
                second.ready()
                until(lambda: len(first.lines("child ended")) == 2, "the end of its workers")
                assert "takes its place" in Supervised(first.data).refusal()
            first.process.kill()
            if moment == "before":
                second.ready()
            until(lambda: second.http("/readyz") == (200, "ok\n"), "its own sequencer")
            assert second.ask()[2] == second.pids("sequencer")[-1]
            until(lambda: not any(is_alive(pid) for pid in children(first)), "the end of the orphans")
            assert second.metric("gonets_restarted_processes_total") == 0, "a lock that is waited for is no death"
            assert second.end() == 0


def test_a_successor_that_dies_while_the_old_one_drains_gives_the_place_back(tmp_path: Path) -> None:
    """Its predecessor starts workers again; nobody was refused, and it can be taken over as before."""
    settings = {"faults": ["worker:drains slowly"], "drain_s": 60}
    with supervised(tmp_path / "data", **settings) as first, Crowd(first) as crowd:
        with successor(first) as second:
            second.ready()
            until(lambda: first.lines("hands over"), "the drain")
            second.process.kill()
            until(lambda: len(first.pids("worker 1")) == 2, "new workers")
            until(lambda: first.http("/readyz") == (200, "ok\n"), "ready")
            new = {first.pids("worker 1")[1], first.pids("worker 2")[1]}
            until(lambda: crowd.served[-1][1] in new, "clients at the new workers")
        with successor(first) as third:
            third.ready()
            until(lambda: first.lines("hands over")[1:], "the drain")
            first.process.send_signal(signal.SIGTERM)
            until(lambda: first.lines("told to end"), "the first signal")
            assert first.end() == 0, "the second ends its workers at once"
            until(lambda: third.http("/readyz") == (200, "ok\n"), "ready")
            assert not [failure for failure in crowd.failed if "refused" in failure]
            crowd.__exit__()


def test_links_come_anew_when_the_old_sequencer_dies_meanwhile(tmp_path: Path) -> None:
    with supervised(tmp_path / "data", workers=1, faults=["worker:doesn't end"], drain_s=60) as first:
        with successor(first, workers=1) as second:
            second.ready()
            os.kill(first.pids("sequencer")[0], signal.SIGKILL)
            until(lambda: len(first.pids("sequencer")) == 2, "its restart while it drains")
            worker, newest = second.pids("worker 1")[0], first.pids("sequencer")[1]
            until(lambda: first.ask()[1:] == (worker, newest), "a new link for the successor's worker")
            os.kill(worker, signal.SIGKILL)
            until(lambda: len(second.pids("worker 1")) == 2, "the worker's restart")
            until(lambda: first.ask()[1:] == (second.pids("worker 1")[1], newest), "a link for the new worker")
            status, words = second.http("/readyz")
            assert status == 200 and f"the sequencer of process {first.process.pid}" in words


def test_who_runs_already_is_named_and_answers_no_nonsense(served: tuple[Supervised, Crowd]) -> None:
    first, _ = served
    words = Supervised(first.data).refusal()
    assert f"runs already as process {first.process.pid}; --take-over takes its place" in words
    stranger = takeover.call(first.data)
    assert stranger is not None
    stranger.socket.send(b"\xc1 no message")
    assert stranger.receive(wait=True) is None
    stranger.close()
    assert first.http("/readyz") == (200, "ok\n")


def test_another_version_gets_the_sockets_all_the_same(served: tuple[Supervised, Crowd]) -> None:
    """By hand; it is told of the version, so that it doesn't ask for links whose language it doesn't speak."""
    first, _ = served
    channel = takeover.call(first.data)
    assert channel is not None
    channel.send(control.TakeOver(pid=os.getpid(), version=control.VERSION + 1))
    answer, descriptors = channel.receive(wait=True) or pytest.fail("no answer")
    assert isinstance(answer, control.Sockets) and answer.version == control.VERSION and len(descriptors) == 3
    with socket.socket(fileno=os.dup(descriptors[1])) as clients:
        assert clients.getsockname()[1] == first.port
    control.close_all(descriptors)
    channel.close()
    unchanged(*served)
