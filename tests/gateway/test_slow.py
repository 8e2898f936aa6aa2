"""P6 over real sockets: who reads slowly becomes a reader of the log, costs what an idle one does, misses nothing."""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgpack

from tests.gateway.test_bad_input import RawSocket, frame, secured
from tests.support.gateway import Device, GatewayProcess, running

MESSAGES = 150
PAYLOAD_BYTES = 60_000  # more than the sockets' buffers hold in all
FRAME_BYTES_MAX = PAYLOAD_BYTES + 300
IDLE_BYTES = 4_096


class SlowDevice(RawSocket):
    """A device whose socket takes next to nothing, and which reads only when it is told to."""

    def __init__(self, gateway: GatewayProcess, user: int) -> None:
        place = urlsplit(gateway.url)
        self.data = b""
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.socket.connect((place.hostname, place.port))
        self.socket = secured(self.socket, gateway.url)
        assert b" 101 " in self.upgrade()
        hello = {"op": "hello", "token": gateway.token(user), "device": 1, "protocol": 1}
        self.frame(msgpack.packb(hello))
        self.events: list[list[object]] = []
        while not self.live:
            self.read(1_024)

    live = False

    def read(self, size: int) -> int:
        """Takes up to so many bytes; events that are whole are noted."""
        data = self.socket.recv(size)
        self.data += data
        while (found := self._message()) is not None:
            number, body = msgpack.unpackb(found)
            if number == 1:
                self.events.append(body)
            self.live = self.live or number == 16
        return len(data)

    def _message(self) -> bytes | None:
        if len(self.data) < 2:
            return None
        size, start = self.data[1] & 127, 2
        if size == 126:
            size, start = int.from_bytes(self.data[2:4]), 4
        elif size == 127:
            size, start = int.from_bytes(self.data[2:10]), 10
        if len(self.data) < start + size:
            return None
        message = self.data[start : start + size]
        self.data = self.data[start + size :]
        return message


def test_a_slow_reader_costs_no_more_than_an_idle_one_and_misses_nothing(tmp_path: Path) -> None:
    """It takes 1 KB now and then while 3 MB pass; others aren't held up; then it reads all, in order, once."""
    random_ = random.Random(7)
    with running(tmp_path / "data", **{"gateway.rate_per_s": 100_000, "gateway.rate_burst": 100_000}) as gateway:
        sender, quick = gateway.device(1), gateway.device(2, encoding="json")
        group = sender.group(2, 3)
        slow = SlowDevice(gateway, 3)
        before = gateway.metric("gonets_session_bytes")
        sequences, held = [], 0.0
        for number in range(MESSAGES):
            receipt = sender.write("publish", conversation=group, payload=random_.randbytes(PAYLOAD_BYTES))
            sequences.append(receipt["sequence"])
            assert quick.expect("event", sequence=receipt["sequence"])["sequence"] == receipt["sequence"]
            if number % 10 == 0:
                slow.read(1_024)
                held = max(held, gateway.metric("gonets_session_bytes") - before)
        assert gateway.metric("gonets_reader_sessions") == 1, "the socket took everything: nothing was tested"
        # At most the rest of the one frame that had begun, in a buffer that may be half as large again.
        assert held <= 1.5 * FRAME_BYTES_MAX + IDLE_BYTES
        began = time.monotonic()
        while len(slow.events) < MESSAGES:
            assert slow.read(65_536), "the connection ended"
        assert time.monotonic() - began < 0.05 * MESSAGES, "a page waits for no tick of a timer (64 ms)"
        assert [event[0] for event in slow.events] == sequences
        dialog = sender.write("publish", user=3, text="and live again")
        while slow.events[-1][0] != dialog["sequence"]:
            slow.read(4_096)
        assert [event[8] for event in slow.events[MESSAGES:]] == ["conversation.created", "message"]
        assert {push["op"] for device in (sender, quick) for push in everything(device)} <= {"event", "live", "receipt"}


def everything(device: Device) -> list[dict[str, object]]:
    """All that has come."""
    return device.settled()


def test_frames_of_a_client_that_never_reads_are_not_answered_without_end(tmp_path: Path) -> None:
    """A client that asks and asks without reading the answers is read no further; the server's memory stays."""
    with running(tmp_path / "data", **{"gateway.rate_per_s": 1_000_000, "gateway.rate_burst": 1_000_000}) as gateway:
        deaf = SlowDevice(gateway, 4)
        before = gateway.metric("gonets_session_bytes")
        deaf.socket.setblocking(False)
        ping = frame(msgpack.packb({"op": "ping", "id": "x" * 60})) * 200
        sent = 0
        try:
            while sent < 50_000_000:
                sent += deaf.socket.send(ping)
        except BlockingIOError:
            pass
        assert sent < 50_000_000, "the server took everything"
        assert gateway.metric("gonets_session_bytes") - before < 1 << 20
        assert gateway.device(5).welcome["user"] == 5
