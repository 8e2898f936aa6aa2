"""A reset in the middle of everything, and all kinds of misbehaviour at once: nothing is left, nothing is lost."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateway import ROOT, Device, GatewayProcess, running
from tests.support.hostile import (
    UPGRADE,
    command,
    connect,
    descriptors,
    frame,
    hello,
    reset,
    resident_bytes,
    settled,
)
from tests.support.poller_rig import CLOSE, PING

TIMES = 15
MIB = 1 << 20
BIG = frame(b"x" * 60_000)
PAGE = command("history", conversation=1, limit=100)
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def until(connection: socket.socket, marks: bytes) -> None:
    """Reads until these bytes have come."""
    received = b""
    while marks not in received:
        chunk = connection.recv(65_536)
        assert chunk, f"ended before {marks!r} came: {received[-200:]!r}"
        received += chunk


WELCOME, RECEIPT, HISTORY, REFUSED = b"\x92\x03", b"\x92\x02\x97", b"\x92\x0e", b"\x88"
# Moment → (what is sent at first, the mark of an answer that is waited for, what is sent then) before the reset.
MOMENTS: dict[str, tuple[Callable[[bytes], bytes], bytes, bytes]] = {
    "at once": (lambda _: b"", b"", b""),
    "in half a request line": (lambda _: b"GET /v", b"", b""),
    "in half a head": (lambda _: UPGRADE[:90], b"", b""),
    "before a plain answer": (lambda _: REQUEST, b"", b""),
    "before the answer to the upgrade": (lambda _: UPGRADE, b"", b""),
    "after the upgrade": (lambda _: UPGRADE, b" 101 ", b""),
    "in half a hello": (lambda hi: UPGRADE + hi[:50], b" 101 ", b""),
    "before the welcome": (lambda hi: UPGRADE + hi, b"", b""),
    "after the welcome": (lambda hi: UPGRADE + hi, WELCOME, b""),
    "in half a head of a frame": (lambda hi: UPGRADE + hi, WELCOME, BIG[:3]),
    "in half a payload": (lambda hi: UPGRADE + hi, WELCOME, BIG[:30_000]),
    "between fragments": (lambda hi: UPGRADE + hi, WELCOME, frame(b"x", fin=False)),
    "before a pong": (lambda hi: UPGRADE + hi, WELCOME, frame(b"x", PING) * 100),
    "before a large answer": (lambda hi: UPGRADE + hi, WELCOME, PAGE * 4),
    "in a large answer": (lambda hi: UPGRADE + hi + PAGE * 4, HISTORY, b""),
    "with the close frame": (lambda hi: UPGRADE + hi, WELCOME, frame(b"\x03\xe8", CLOSE)),
    "after the answer to the close frame": (lambda hi: UPGRADE + hi + frame(b"\x03\xe8", CLOSE), REFUSED, b""),
    "instead of an answer to a close frame": (lambda hi: UPGRADE + hi + frame(b"x", 1), REFUSED, b""),
}


def history_of(one: Device) -> None:
    """Enough events for answers that no socket's buffer takes at once."""
    for number in range(8):
        receipt = one.write("publish", user=2, payload=bytes([number]) * 60_000)
        assert receipt["conversation"] == 1


@pytest.fixture(scope="module")
def witnesses(gateway: GatewayProcess) -> tuple[Device, Device]:
    """A dialog of two people who are connected throughout."""
    one, two = gateway.device(1), gateway.device(2, encoding="json")
    history_of(one)
    return one, two


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_reset_leaves_nothing(gateway: GatewayProcess, witnesses: tuple[Device, Device], moment: str) -> None:
    first, mark, then = MOMENTS[moment]
    one, two = witnesses
    settled(gateway, sessions=2)
    open_before = descriptors(gateway)
    for turn in range(TIMES):
        small = 4_096 if "large" in moment else 0
        connection = connect(gateway, receive_bytes=small)
        connection.sendall(first(hello(gateway, 1, device=20 + turn % 10)))
        if mark:
            until(connection, mark)
        if then:
            connection.sendall(then)
        reset(connection)
    sent = one.write("publish", user=2, text=moment)["sequence"]
    assert two.expect("event", sequence=sent)["payload"] == moment.encode()
    settled(gateway, sessions=2)
    assert descriptors(gateway, open_before) <= open_before
    assert gateway.metric("gonets_session_bytes") < 64_000


def test_a_publish_whose_receipt_is_reset_away_is_stored_once(gateway: GatewayProcess) -> None:
    """P3 under resets: the same counter over and over, each time cut off in the publish or behind it."""
    random_ = random.Random(3)
    publish = command("publish", counter=1, user=32, payload=b"once" * 10)
    for turn in range(40):
        connection = connect(gateway)
        connection.sendall(UPGRADE + hello(gateway, 31))
        until(connection, WELCOME)
        connection.sendall(publish if turn % 2 else publish[: random_.randrange(len(publish))])
        time.sleep(random_.random() * 0.004)
        reset(connection)
    device = gateway.device(31)
    assert device.counter == 1
    receipt = device.write("publish", user=32, payload=b"once" * 10, counter=1)
    assert receipt["status"] == "repeat"
    device.send("history", conversation=receipt["conversation"], limit=100)
    page = device.expect("history")
    assert [event["payload"] for event in page["events"] if event["type"] == "message"] == [b"once" * 10]
    device.close()


class Trouble:
    """One hostile connection after another, each with a plan drawn from the seed."""

    def __init__(self, gateway: GatewayProcess, random_: random.Random, user: int) -> None:
        self.gateway, self.random, self.user = gateway, random_, user
        self.connection: socket.socket | None = None
        self.plan: list[bytes] = []
        self.last = ""
        self.patience = 0
        self.reads = True

    def begin(self) -> None:
        """A stream that a good client could send, then maybe damaged, cut short, or cut in pieces."""
        random_ = self.random
        parts = [
            command("publish", counter=random_.randrange(1, 1_000), user=1, payload=b"x" * random_.choice((1, 60_000))),
            PAGE,
            command("members", conversation=1),
            command("create", counter=random_.randrange(1, 1_000), kind="group", title="t"),
            frame(b"x" * random_.randrange(126), PING),
            frame(b"ab", fin=False) + frame(b"x", PING) + frame(b"c", 0),
            frame(b"\x03\xe8", CLOSE),
            frame(b"text", 1),
            frame(b"", fin=False),
        ]
        stream = random_.choice((UPGRADE, UPGRADE, UPGRADE, REQUEST, b""))
        if stream == UPGRADE and random_.random() < 0.8:
            stream += hello(self.gateway, self.user, device=random_.randrange(1, 4))
            stream += b"".join(random_.choices(parts, k=random_.randrange(12)))
        if stream and random_.random() < 0.3:
            place = random_.randrange(len(stream))
            stream = stream[:place] + random_.randbytes(1) + stream[place + 1 :]
        if random_.random() < 0.5:
            stream = stream[: random_.randrange(len(stream) + 1)]
        step = random_.choice((1, 7, 100, 70_000, 70_000))
        self.plan = [stream[at : at + step] for at in range(0, min(len(stream), step * 50), step)]
        self.last = random_.choice(("reset", "close", "half", "wait"))
        self.reads = random_.random() < 0.6
        self.patience = random_.randrange(60)
        self.connection = connect(self.gateway, receive_bytes=random_.choice((0, 1)))
        self.connection.setblocking(False)

    def turn(self) -> None:
        """One step of the plan, or its end."""
        if self.connection is None:
            self.begin()
            return
        try:
            if self.plan:
                size = self.connection.send(self.plan[0])
                self.plan[0] = self.plan[0][size:]
                if not self.plan[0]:
                    self.plan.pop(0)
            if self.reads and not self.connection.recv(65_536):
                self.end("close")
        except BlockingIOError:
            pass
        except OSError:
            self.end("close")
            return
        if self.connection is not None and not self.plan:
            self.patience -= 1
            if self.last == "half" and self.patience == 30:
                try:
                    self.connection.shutdown(socket.SHUT_WR)
                except OSError:
                    self.end("close")
            if self.patience < 0:
                self.end(self.last)

    def end(self, how: str) -> None:
        """Lets go of the connection."""
        assert self.connection is not None
        if how == "reset":
            reset(self.connection)
        else:
            self.connection.close()
        self.connection = None


@pytest.mark.parametrize("seed", [1, 2])
def test_chaos_leaves_nothing_and_loses_nothing(data: Path, seed: int) -> None:
    """Some seconds of all of it at once, beside a dialog that must not notice; then the log is whole."""
    random_ = random.Random(seed)
    options = {
        "gateway.hello_timeout_s": 1,
        "gateway.slow_timeout_s": 2,
        "gateway.ping_interval_s": 1,
        "gateway.idle_timeout_s": 3,
    }
    with running(data, **options) as gateway:
        one, two = gateway.device(1), gateway.device(2, encoding="json")
        history_of(one)
        two.settled()
        open_before, held_before = descriptors(gateway), resident_bytes(gateway)
        troubles = [Trouble(gateway, random_, user) for user in range(3, 43)]
        until_s, count = time.monotonic() + 5, 0
        while time.monotonic() < until_s:
            for trouble in random_.choices(troubles, k=200):
                trouble.turn()
            receipt = one.write("publish", user=2, text=f"{seed}.{count}")
            assert receipt["status"] == "appended", f"seed {seed}: {receipt}"
            event = two.expect("event", sequence=receipt["sequence"])
            assert event["payload"] == b"%d.%d" % (seed, count), f"seed {seed}"
            one.backlog.clear()
            count += 1
            time.sleep(0.012)  # within its own rate
        for trouble in troubles:
            if trouble.connection is not None:
                trouble.end(random_.choice(("reset", "close")))
        settled(gateway, sessions=2)
        assert descriptors(gateway, open_before) <= open_before, f"seed {seed}"
        assert gateway.metric("gonets_session_bytes") < MIB, f"seed {seed}"
        assert resident_bytes(gateway) - held_before < 150 * MIB, f"seed {seed}"
        accepted = gateway.metric("gonets_accepted_sessions_total")
        assert accepted > 50, f"seed {seed}: only {accepted} got as far as the upgrade"
        assert "Traceback" not in gateway.log(), f"seed {seed}: {gateway.log()[-3_000:]}"
    checked = subprocess.run(
        [sys.executable, str(ROOT / "gonets.py"), "log", "check", "--data", str(data)],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert checked.returncode == 0, f"seed {seed}: {checked.stdout}{checked.stderr}"
