"""What breaks the rules of frames and messages: the documented close code, and another session notices nothing."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgpack
import pytest

from tests.support.gateway import Device, GatewayProcess, running

NewUser = Callable[[], int]


TRUST: ssl.SSLContext | None = None  # set where these tests run over TLS


def secured(connected: socket.socket, url: str) -> socket.socket:
    """The same connection, with TLS in it if the URL says so."""
    if TRUST is None or not url.startswith("wss:"):
        return connected
    return TRUST.wrap_socket(connected, server_hostname="localhost")


class RawSocket:
    """A TCP connection on which a test writes whatever bytes it likes."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.socket = secured(socket.create_connection((place.hostname, place.port), timeout=10), url)
        self.data = b""

    def upgrade(self, subprotocol: str = "gonets.v1.msgpack", connection: str = "keep-alive, Upgrade") -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: {connection}\r\nSec-WebSocket-Key: {key}"
            f"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
        )
        return self.head()

    def head(self) -> bytes:
        while b"\r\n\r\n" not in self.data:
            chunk = self.socket.recv(65_536)
            if not chunk:
                break
            self.data += chunk
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        return head

    def frame(self, payload: bytes, opcode: int = 2, fin: bool = True, mask: bool = True, rsv: int = 0) -> None:
        self.socket.sendall(frame(payload, opcode, fin, mask, rsv))

    def close_code(self) -> int:
        """The code of the close frame that the server sends; 1006 if it just ends."""
        while True:
            while len(self.data) < 2:
                if not self._more():
                    return 1006
            size, start = self.data[1] & 127, 2
            if size == 126:
                while len(self.data) < 4:
                    self._more()
                size, start = int.from_bytes(self.data[2:4]), 4
            while len(self.data) < start + size:
                if not self._more():
                    return 1006
            opcode, body = self.data[0] & 15, self.data[start : start + size]
            self.data = self.data[start + size :]
            if opcode == 8:
                return int.from_bytes(body[:2])

    def _more(self) -> bool:
        try:
            chunk = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self.data += chunk
        return bool(chunk)


def frame(payload: bytes, opcode: int = 2, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    """A client's frame."""
    first, flag, size = (128 if fin else 0) | rsv << 4 | opcode, 128 if mask else 0, len(payload)
    if size < 126:
        head = struct.pack(">BB", first, flag | size)
    elif size < 65_536:
        head = struct.pack(">BBH", first, flag | 126, size)
    else:
        head = struct.pack(">BBQ", first, flag | 127, size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[place & 3] for place, byte in enumerate(payload))


@contextmanager
def undisturbed(gateway: GatewayProcess, new_user: NewUser) -> Iterator[None]:
    """Two people talk before, during and after; nothing else reaches them."""
    a, b = new_user(), new_user()
    one, two = gateway.device(a, 1, "msgpack"), gateway.device(b, 1, "json")
    one.write("publish", user=b, text="before")
    yield
    receipt = one.write("publish", user=b, text="after")
    assert receipt["status"] == "appended" and receipt["conversation_sequence"] == 3
    assert two.expect("event", sequence=receipt["sequence"])["payload"] == b"after"
    assert {push["op"] for device in (one, two) for push in device.settled()} <= {"event", "live"}


BIG = 131_072
HELLO = msgpack.packb({"op": "hello"})


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(b"x", mask=False)], 1002),
        ([frame(b"x", rsv=4)], 1002),
        ([frame(b"x", rsv=1)], 1002),
        ([frame(b"x", opcode=3)], 1002),
        ([frame(b"x", opcode=11)], 1002),
        ([frame(b"x", opcode=0)], 1002),
        ([frame(b"x", fin=False), frame(b"y")], 1002),
        ([frame(b"x", opcode=9, fin=False)], 1002),
        ([frame(b"x" * 126, opcode=9)], 1002),
        ([frame(b"x", opcode=8)], 1002),
        ([frame(struct.pack(">H", 1005), opcode=8)], 1002),
        ([frame(struct.pack(">H", 999), opcode=8)], 1002),
        ([frame(struct.pack(">H", 1000) + b"\xff", opcode=8)], 1007),
        ([frame(b"{}", opcode=1)], 1003),
        ([frame(b"x" * (BIG + 1))], 1009),
        ([struct.pack(">BBQ", 130, 255, 2**63 - 1) + b"mask"], 1009),
        ([struct.pack(">BBQ", 130, 255, 2**63) + b"mask"], 1002),
        ([frame(b"x" * 60_000, fin=False), frame(b"x" * 60_000, 0, fin=False), frame(b"x" * 60_000, 0)], 1009),
        ([frame(b"")], 4503),
        ([frame(b"\xc1")], 4503),
        ([frame(msgpack.packb([1, 2]))], 4503),
        ([frame(b"\x81" * 60_000)], 4503),
        ([frame(HELLO)], 4503),
    ],
)
def test_broken_frames(gateway: GatewayProcess, new_user: NewUser, frames: list[bytes], code: int) -> None:
    with undisturbed(gateway, new_user):
        raw = RawSocket(gateway.url)
        assert raw.upgrade().startswith(b"HTTP/1.1 101 ")
        for data in frames:
            try:
                raw.socket.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                break  # it has ended already
        assert raw.close_code() == code


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(b"x", opcode=2)], 1003),
        ([frame(b"\xff", opcode=1)], 1007),
        ([frame(b"\xed\xa0\x80", opcode=1)], 1007),
        ([frame(b"\xce", opcode=1, fin=False), frame(b"x", opcode=0)], 1007),
        ([frame(b"[]", opcode=1)], 4503),
        ([frame(b"{", opcode=1)], 4503),
        ([frame(b'{"op":' * 9_000, opcode=1)], 4503),
    ],
)
def test_broken_text(gateway: GatewayProcess, new_user: NewUser, frames: list[bytes], code: int) -> None:
    with undisturbed(gateway, new_user):
        raw = RawSocket(gateway.url)
        assert b"gonets.v1.json" in raw.upgrade("gonets.v1.json")
        for data in frames:
            raw.socket.sendall(data)
        assert raw.close_code() == code


def test_a_message_in_many_fragments_with_pings_between(gateway: GatewayProcess, new_user: NewUser) -> None:
    raw = RawSocket(gateway.url)
    raw.upgrade(connection="Upgrade")
    message = msgpack.packb({"op": "hello", "token": gateway.token(new_user()), "device": 1, "protocol": 1})
    pieces = [message[at : at + 50] for at in range(0, len(message), 50)]
    data = b""
    for place, piece in enumerate(pieces):
        data += frame(piece, 2 if place == 0 else 0, fin=place == len(pieces) - 1) + frame(b"p", opcode=9)
    for at in range(len(data)):
        raw.socket.sendall(data[at : at + 1])
    while b"welcome" not in raw.data and b"ping_interval_s" not in raw.data:
        assert raw._more()


def upgrade(path: str, key: str = "AAAAAAAAAAAAAAAAAAAAAA==", subprotocol: str = "") -> str:
    offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
    )


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (upgrade("/v1"), 400),
        (upgrade("/v1", subprotocol="chat"), 400),
        (upgrade("/v2", subprotocol="gonets.v1.json"), 404),
        (upgrade("/v1", key="short", subprotocol="gonets.v1.json"), 400),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        ("GET /v1?x HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    ],
)
def test_plain_http_is_answered(gateway: GatewayProcess, request_text: str, status: int) -> None:
    raw = RawSocket(gateway.url)
    raw.socket.sendall(request_text.encode())
    head = raw.head()
    assert head.split(b" ")[1] == str(status).encode()
    assert (b"\r\nUpgrade: websocket\r\nConnection: Upgrade, close" in head) == (status == 426)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 40_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET " + b"a" * 40_000,
        b"GET /v1 HTTP/1.1\r\n" + b"X: y\r\n" * 9_000,
    ],
)
def test_what_is_no_http_ends(gateway: GatewayProcess, new_user: NewUser, data: bytes) -> None:
    with undisturbed(gateway, new_user):
        raw = RawSocket(gateway.url)
        try:
            raw.socket.sendall(data + b"\r\n\r\n")
            raw.head()
            while raw._more():
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        raw.socket.close()


def test_silence_after_the_handshake_ends_with_hello_timeout(data: Path) -> None:
    with running(
        data, **{"gateway.hello_timeout_s": 1, "gateway.ping_interval_s": 1, "gateway.idle_timeout_s": 3}
    ) as gateway:
        silent, never_ending = Device(gateway.url), RawSocket(gateway.url)
        never_ending.upgrade()
        never_ending.socket.sendall(frame(b"x", fin=False))
        assert silent.closed() == (4005, "hello_timeout")
        assert never_ending.close_code() == 4005
        talker = RawSocket(gateway.url)  # says hello, then answers no ping
        talker.upgrade()
        talker.frame(msgpack.packb({"op": "hello", "token": gateway.token(1), "device": 1, "protocol": 1}))
        assert talker.close_code() == 4000
        alive = gateway.device(2)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            try:
                alive.receive(0.5)
            except TimeoutError:
                pass
        alive.settled()


def test_rates_are_limited_and_abuse_ends(data: Path) -> None:
    with running(data, **{"gateway.rate_per_s": 10, "gateway.rate_burst": 20}) as gateway:
        witness = gateway.device(1)
        device = gateway.device(2)
        for counter in range(1, 41):
            device.send("publish", counter=counter, user=1, payload=b"x")
        statuses = [device.expect("receipt", counter=counter) for counter in range(1, 41)]
        limited = [receipt for receipt in statuses if receipt["status"] == "rate_limited"]
        assert 10 <= len(limited) < 40 and all(receipt["extra"] > 0 for receipt in limited)
        assert sum(receipt["status"] == "appended" for receipt in statuses) == 40 - len(limited)
        time.sleep(limited[-1]["extra"] / 1000 + 0.2)
        assert device.write("publish", user=1, payload=b"x", counter=limited[0]["counter"])["status"] == "appended"
        for counter in range(50, 3_000):
            try:
                device.send("publish", counter=counter, user=1, payload=b"x")
            except Exception:
                break
        assert device.closed()[0] == 4505
        witness.settled()


def test_too_many_unanswered_is_refused_and_nothing_is_lost(gateway: GatewayProcess, new_user: NewUser) -> None:
    a, b = new_user(), new_user()
    device = gateway.device(a)
    data = b"".join(
        frame(msgpack.packb({"op": "publish", "counter": counter, "user": b, "payload": b"x"}))
        for counter in range(1, 201)
    )
    device.socket.socket.sendall(data)
    receipts = [device.expect("receipt", counter=counter) for counter in range(1, 201)]
    statuses = {receipt["status"] for receipt in receipts}
    assert statuses <= {"appended", "too_many_unanswered"}
    stored = [receipt["sequence"] for receipt in receipts if receipt["status"] == "appended"]
    assert len(stored) >= 64 and stored == sorted(stored)
