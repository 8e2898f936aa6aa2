"""`gonets serve --workers 2` as clients see it: one server, whichever worker has them, whichever process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from gateway import close_codes
from tests.support.gateway import ROOT, Device, GatewayProcess, running
from tests.support.supervised import is_alive

DEADLINE_S = 20.0
# A busy machine, and workers that a test stops, look like load: nothing of that is shed here.
WORKERS = {"server.gateway_workers": 2, "admission.publish_wait_ms_max": 10_000}


def children(gateway: GatewayProcess) -> dict[str, int]:
    """Name → pid."""
    assert gateway.process is not None
    found = {}
    for task in Path(f"/proc/{gateway.process.pid}/task").glob("*/children"):
        for pid in task.read_text().split():
            try:
                found[Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2].decode()] = int(pid)
            except (OSError, IndexError):
                continue
    return found


@contextmanager
def only(gateway: GatewayProcess, name: str) -> Iterator[None]:
    """Whoever connects meanwhile lands on this worker: the others are stopped."""
    others = [pid for other, pid in children(gateway).items() if other.startswith("worker") and other != name]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def on(
    gateway: GatewayProcess,
    name: str,
    user: int,
    device: int = 1,
    encoding: str = "msgpack",
    positions: list[dict[str, int]] | None = None,
) -> Device:
    """A device on this worker, whose clock may have stood still: it may refuse for a moment, as under load."""
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            with only(gateway, name):
                return gateway.device(user, device, encoding, positions)
        except InvalidStatus:
            assert time.monotonic() < until, f"{name} takes no sessions"
            time.sleep(0.1)


def until_ready(gateway: GatewayProcess) -> None:
    """Every child is there and says so."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if len(children(gateway)) == 3 and gateway.http("/readyz", admin=True)[0] == 200:
            return
        time.sleep(0.05)
    raise AssertionError(f"not ready again: {gateway.http('/readyz', admin=True)}, {gateway.log()[-3000:]}")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running(tmp_path_factory.mktemp("workers") / "data", **WORKERS) as started:
        yield started


def test_workers_are_one_server(gateway: GatewayProcess) -> None:
    """Events, typing, presence and marks reach members on both workers, in both encodings."""
    ann, bob = on(gateway, "worker 1", 11), on(gateway, "worker 2", 12, encoding="json")
    near = on(gateway, "worker 1", 12, device=2)
    receipt = ann.write("publish", user=12, type="message", payload=b"hello")
    conversation = receipt["conversation"]
    for device in (ann, bob, near):
        assert device.expect("event", type="message")["payload"] == b"hello"
    ann.send("typing", conversation=conversation)
    for device in (bob, near):
        assert device.expect("typing")["user"] == 11
    bob.send("read", conversation=conversation, conversation_sequence=2)
    for device in (ann, near):
        push = device.expect("cursor", user=12)
        assert (push["delivered"], push["read"]) == (2, 2)
    assert not [push for push in bob.settled() if push["op"] in ("typing", "cursor")]
    near.send("conversations", id=1)  # of the worker that has heard of the mark, not taken it
    assert near.expect("conversations")["items"][0]["read"] == 2
    for device in (ann, bob, near):
        device.close()


def test_a_device_has_one_session_whichever_worker_has_it(gateway: GatewayProcess) -> None:
    """Its earlier session ends with `replaced`, and never the later one."""
    for first, second in (("worker 1", "worker 2"), ("worker 2", "worker 1"), ("worker 1", "worker 1")):
        earlier = on(gateway, first, 21)
        later = on(gateway, second, 21)
        assert earlier.closed()[0] == close_codes.REPLACED
        assert [push["op"] for push in later.settled()] == ["live"]
        other = gateway.device(21, 2)
        assert later.write("publish", user=22, type="message", payload=b"x")["status"] in ("appended", "repeat")
        later.close()
        other.close()


def test_a_hello_of_a_session_that_is_over_replaces_nobody(gateway: GatewayProcess) -> None:
    """While the sequencer is away a device comes to one worker, goes, and comes to the other: when the first says its
    hello again, behind the second's, the session that lives stays."""
    there = children(gateway)
    os.kill(there["sequencer"], signal.SIGSTOP)  # it hears of neither
    earlier = on(gateway, "worker 1", 61)
    earlier.close()
    later = on(gateway, "worker 2", 61)
    os.kill(there["worker 1"], signal.SIGSTOP)
    try:
        os.kill(there["sequencer"], signal.SIGKILL)
        until = time.monotonic() + DEADLINE_S
        while later.write("publish", user=62, type="message", payload=b"x")["status"] not in ("appended", "repeat"):
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        os.kill(there["worker 1"], signal.SIGCONT)
    until_ready(gateway)
    on(gateway, "worker 1", 63).close()  # its note comes behind those that were said again
    later.settled()
    assert later.write("publish", user=62, type="message", payload=b"y")["status"] in ("appended", "repeat")
    later.close()


def test_a_resume_on_another_worker_waits_for_its_tail(gateway: GatewayProcess) -> None:
    """A device that has seen an event on one worker says so to the other, which may not have looked yet: no reset, no
    second delivery, no counter given twice."""
    ann = on(gateway, "worker 1", 31)
    for round_ in range(10):
        name = ("worker 2", "worker 1")[round_ % 2]
        receipt = ann.write("publish", user=32, type="message", payload=b"%d" % round_)
        assert receipt["status"] == "appended"
        ann.expect("event", sequence=receipt["sequence"])
        ann.close()
        position = [{"shard": 0, "epoch": 1, "sequence": receipt["sequence"]}]
        ann = on(gateway, name, 31, positions=position)
        assert ann.welcome["counter"] == receipt["counter"]
        assert [push["op"] for push in ann.settled() if push["op"] != "live"] == []
    ann.close()


def test_metrics_are_of_all_processes(gateway: GatewayProcess) -> None:
    devices = [on(gateway, f"worker {1 + number % 2}", 41 + number) for number in range(4)]
    for device in devices:
        assert device.write("publish", user=49, type="message", payload=b"x")["status"] == "appended"
    time.sleep(1.2)  # children report each second
    assert gateway.metric("gonets_sessions") >= 4
    assert gateway.metric("gonets_processes") == 4
    assert gateway.metric("gonets_ready") == 1
    assert gateway.metric("gonets_room_sessions") % 2 == 0  # as much in each
    assert gateway.metric("gonets_publishes_total") >= 4
    assert gateway.metric("gonets_log_sequence") > 4
    for device in devices:
        device.close()


class Talk:
    """A pair of users in two threads: one publishes on and on, one listens; both come back whenever they are cut."""

    def __init__(self, gateway: GatewayProcess, sender: int) -> None:
        self.gateway, self.sender, self.listener = gateway, sender, sender + 1
        self.receipts: dict[int, int] = {}  # number said → sequence
        self.heard: list[tuple[int, int]] = []  # (sequence, number said)
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work,), daemon=True) for work in (self._publish, self._listen)
        ]
        self._first, self._all_said = threading.Event(), threading.Event()
        for thread in self._threads:
            thread.start()
        assert self._first.wait(DEADLINE_S), self.wrong

    def _run(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except Exception as error:
            self.wrong.append(repr(error))
            raise

    def _device(self, user: int, positions: list[dict[str, int]] | None) -> Device | None:
        try:
            return self.gateway.device(user, 1, positions=positions)
        except (OSError, WebSocketException, InvalidStatus, TimeoutError, AssertionError):
            time.sleep(0.05)
            return None

    def _publish(self) -> None:
        number, device = 1, None
        while not self.stop.is_set():
            device = device or self._device(self.sender, None)
            if device is None:
                continue
            try:
                receipt = device.write(
                    "publish", user=self.listener, counter=number, type="message", payload=b"%d" % number
                )
            except (ConnectionClosed, OSError, TimeoutError, AssertionError):
                device = None
                continue
            if receipt["status"] in ("appended", "repeat"):
                self.receipts[number] = receipt["sequence"]
                number += 1
                self._first.set()
            elif receipt["status"] in ("unavailable", "overloaded", "rate_limited"):
                time.sleep(receipt["extra"] / 1_000)
            else:
                self.wrong.append(f"{receipt}")
                return

    def _listen(self) -> None:
        position, device = 0, None
        until = None  # how long what is still missing may take
        while not (self._all_said.is_set() and len(self.heard) >= len(self.receipts)):
            if self._all_said.is_set():
                until = until or time.monotonic() + DEADLINE_S / 2
                if time.monotonic() > until:
                    return
            if device is None:
                device = self._device(self.listener, [{"shard": 0, "epoch": 1, "sequence": position}])
                if device is None:
                    continue
            try:
                push = device.backlog.pop(0) if device.backlog else device.receive(1)
            except TimeoutError:
                continue
            except (ConnectionClosed, OSError):
                device = None
                continue
            if push["op"] == "reset":
                self.wrong.append(f"{push}")
            if push["op"] == "event":
                position = push["sequence"]
                if push["type"] == "message":
                    self.heard.append((push["sequence"], int(push["payload"])))

    def end(self) -> None:
        """Judges: everything that had a receipt was heard once, in order, at its sequence."""
        self.stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), self.wrong
            self._all_said.set()  # the first is the one that publishes
        assert not self.wrong
        assert self.receipts
        assert [(sequence, number) for number, sequence in sorted(self.receipts.items())] == self.heard


@pytest.mark.parametrize("victim", ["sequencer", "worker 1", "worker 2"])
def test_a_killed_process_loses_nothing_and_is_there_again(gateway: GatewayProcess, victim: str) -> None:
    talks = [Talk(gateway, 100 * (1 + ["sequencer", "worker 1", "worker 2"].index(victim)) + 2 * at) for at in range(4)]
    before = children(gateway)
    until = [len(talk.receipts) + 20 for talk in talks]
    os.kill(before[victim], signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while any(len(talk.receipts) < count for talk, count in zip(talks, until, strict=True)):
        assert time.monotonic() < deadline, [len(talk.receipts) for talk in talks]
        time.sleep(0.05)
    for talk in talks:
        talk.end()
    until_ready(gateway)
    after = children(gateway)
    assert after[victim] != before[victim]
    assert {name for name in before if before[name] == after[name]} == set(before) - {victim}


def test_the_supervisor_killed_all_end_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "data", **WORKERS) as gateway:
        listen = gateway.url.split("//")[1].split("/")[0]
        talk = Talk(gateway, 11)
        orphans = children(gateway)
        gateway.kill()
        following = subprocess.Popen(  # at once, while they still end
            [
                sys.executable, str(ROOT / "gonets.py"), "serve", "--json", "--workers", "2",
                "--data", str(gateway.data), "--listen", listen, "--admin", "",
            ],
            stdout=subprocess.PIPE, stderr=gateway.log_path.open("a"), text=True, cwd=ROOT,
            env={**os.environ, "GONETS_SERVER_DRAIN_S": "0"},
        )  # fmt: skip
        gateway.process = following
        assert following.stdout is not None
        assert following.stdout.readline(), gateway.log()[-3000:]
        assert not any(is_alive(pid) for pid in orphans.values())
        count = len(talk.receipts)
        until = time.monotonic() + DEADLINE_S
        while len(talk.receipts) < count + 20:
            assert time.monotonic() < until
            time.sleep(0.05)
        talk.end()
        status = gateway.terminate()
        assert status == 0, gateway.log()[-3000:]


def test_a_new_version_takes_over_under_load(tmp_path: Path) -> None:
    """Talks go on; whoever connects meanwhile is never refused; the old one ends by itself."""
    with running(tmp_path / "data", **WORKERS, **{"server.drain_s": 1}) as gateway:
        talks = [Talk(gateway, 11 + 2 * at) for at in range(3)]
        stop, refused, connected = threading.Event(), [], []

        def knock() -> None:
            while not stop.is_set():
                try:
                    device = Device(gateway.url)
                    connected.append(1)
                    device.close()
                except Exception as error:
                    refused.append(repr(error))

        knocking = threading.Thread(target=knock, daemon=True)
        knocking.start()
        old = gateway.process
        assert old is not None
        successor = subprocess.Popen(
            [
                sys.executable, str(ROOT / "gonets.py"), "serve", "--json", "--workers", "2", "--take-over",
                "--data", str(gateway.data), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
            ],
            stdout=subprocess.PIPE, stderr=gateway.log_path.open("a"), text=True, cwd=ROOT,
            env={**os.environ, "GONETS_SERVER_DRAIN_S": "0"},
        )  # fmt: skip
        gateway.process = successor
        assert successor.stdout is not None
        assert gateway.url in successor.stdout.readline(), gateway.log()[-3000:]
        assert old.wait(DEADLINE_S) == 0
        until_ready(gateway)
        count = len(connected)
        until = time.monotonic() + DEADLINE_S
        while len(connected) < count + 20 and time.monotonic() < until:
            time.sleep(0.05)
        stop.set()
        knocking.join()
        for talk in talks:
            talk.end()
        assert not refused
        assert len(connected) >= 40
