"""A poller with real TCP connections, turned by hand: no loop, no gateway, no engine.

`Rig.turn` is what the gateway does in a round: run, take the batch, say that the cold commands are handled, flush.
`Peer` is a client's socket; it reads nothing by itself.
"""

from __future__ import annotations

import base64
import json
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec

from ext.fanout import Fanout
from ext.interest import Interest
from ext.poller import Batch, Poller
from ext.ring import Ring
from ext.session_table import SessionTable
from gateway.proposals import ANSWER, PROPOSAL

MSGPACK, JSON = "msgpack", "json"
OPEN, READER, LIVE, CLOSING = 2, 3, 4, 5
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
SIGNAL = struct.Struct("<IIQQ")
BUDGET_US = 5_000


def head(subprotocol: str = MSGPACK, path: str = "/v1") -> bytes:
    """The request of a handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: gonets.v1.{subprotocol}\r\n\r\n"
    ).encode()


def frame(payload: bytes, opcode: int = BINARY, fin: bool = True) -> bytes:
    """A client's frame, masked with a fixed key."""
    first, size = (128 if fin else 0) | opcode, len(payload)
    if size < 126:
        start = struct.pack(">BB", first, 128 | size)
    elif size < 65_536:
        start = struct.pack(">BBH", first, 254, size)
    else:
        start = struct.pack(">BBQ", first, 255, size)
    key = b"\x5a\x01\xfe\x33"
    mask = (key * (size // 4 + 1))[:size]
    return start + key + (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)


def message(encoding: str, op: str, **fields: Any) -> bytes:
    """A command's bytes."""
    body = {"op": op, **fields}
    if encoding == MSGPACK:
        return msgspec.msgpack.encode(body)
    text = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in body.items()
    }
    return msgspec.json.encode(text)


def command(encoding: str, op: str, **fields: Any) -> bytes:
    """A command's frame."""
    return frame(message(encoding, op, **fields), BINARY if encoding == MSGPACK else TEXT)


def frames_of(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """([(opcode, payload)], what is left) of a server's stream; asserts that nothing is masked or a fragment."""
    found, at = [], 0
    while at + 2 <= len(data):
        size, start = data[at + 1], 2
        assert data[at] & 0xF0 == 0x80 and size < 128, f"byte {at}: {data[at : at + 2].hex()} is no head of a server"
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4]), 4
        elif size == 127:
            size, start = int.from_bytes(data[at + 2 : at + 10]), 10
        if len(data) < at + start + size:
            break
        found.append((data[at] & 15, data[at + start : at + start + size]))
        at += start + size
    return found, data[at:]


def answer(origin: int, counter: int, status: int = 0, sequence: int = 0, extra: int = 0) -> bytes:
    """One answer as the sequencer gives it."""
    return ANSWER.pack(origin, counter, 5, sequence, 1, 7, status, 0, extra)


def proposals(batch: bytes) -> list[tuple[int, int, bytes]]:
    """[(session, counter, payload)] of packed proposals."""
    found, at = [], 0
    while at < len(batch):
        size, _, origin, _, _, counter, _, _, type_size, _, payload_size = PROPOSAL.unpack_from(batch, at)
        assert size == PROPOSAL.size + type_size + payload_size
        found.append((origin & 0xFFFFFFFF, counter, batch[at + PROPOSAL.size + type_size : at + size]))
        at += size
    return found


class Peer:
    """A client's end of a connection."""

    def __init__(self, rig: Rig, encoding: str = MSGPACK, receive_bytes: int = 0) -> None:
        self.encoding = encoding
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(rig.address)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.ended = ""  # "end" or "reset" once it has come
        self.session = 0
        rig.peers.append(self)

    def send(self, data: bytes) -> int:
        """As much as the kernel takes."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def pump(self) -> bool:
        """Whether all that was given to `send` is with the kernel: here always, TLS may keep some."""
        return True

    def command(self, op: str, **fields: Any) -> None:
        """One command, whole."""
        data = command(self.encoding, op, **fields)
        assert self.send(data) == len(data)

    def read(self, most: int = 1 << 30) -> Peer:
        """Takes what has come, up to that many bytes; itself."""
        while not self.ended and most > 0:
            try:
                chunk = self.socket.recv(min(most, 1 << 18))
            except BlockingIOError:
                break
            except ConnectionError:
                self.ended = "reset"
                break
            most -= len(chunk)
            self.data += chunk
            if not chunk:
                self.ended = "end"
        return self

    def frames(self) -> list[tuple[int, bytes]]:
        """Frames that have come since the last call."""
        self.read()
        found, self.data = frames_of(self.data)
        return found

    def pushes(self) -> list[Any]:
        """Messages that have come since the last call, decoded."""
        decode = msgspec.msgpack.decode if self.encoding == MSGPACK else json.loads
        opcode = BINARY if self.encoding == MSGPACK else TEXT
        return [decode(payload) for kind, payload in self.frames() if kind == opcode]

    def close_code(self) -> int:
        """The code of the close frame that has come; 0 if none has."""
        return next((int.from_bytes(payload[:2]) for kind, payload in self.frames() if kind == CLOSE), 0)


class Rig:
    """A poller, its table and its clients; use as a context manager."""

    def __init__(
        self, sessions_max: int = 64, send_bytes: int = 0, buffers_bytes_max: int = 256 << 20, **options: Any
    ) -> None:
        self.table = SessionTable(sessions_max, buffers_bytes_max)
        self.poller = Poller(self.table, **options)
        self.fanout = Fanout(self.table, Interest(self.table), Ring(4 << 20))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        if send_bytes:  # connections inherit it
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        self.address = self.listener.getsockname()
        self.poller.listen(self.listener.fileno())
        self.peers: list[Peer] = []
        self.handles = True  # cold commands count as handled at once
        self.proposals = self.signals = b""
        self.commands: list[tuple[int, bytes]] = []
        self.closed: list[tuple[int, int]] = []
        self.writable: list[int] = []
        self.requests: list[tuple[int, bytes]] = []
        self._readable = select.poll()
        self._readable.register(self.poller.fileno(), select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.poller.shut()
        self.listener.close()
        for peer in self.peers:
            peer.socket.close()

    def ready(self, wait_ms: float = 0) -> bool:
        """Whether the poller's descriptor is readable within that time."""
        return bool(self._readable.poll(wait_ms))

    def turn(self, budget_us: int = BUDGET_US) -> Batch:
        """One round, whatever is ready."""
        batch = self.poller.run(budget_us)
        self.proposals += batch.proposals
        self.signals += batch.signals
        self.commands += batch.commands
        self.closed += batch.closed
        self.writable += batch.writable
        self.requests += batch.requests
        if self.handles and batch.commands:
            self.handle(batch.commands)
        self.flush()
        return batch

    def flush(self) -> None:
        """Sends what waits."""
        while self.fanout.flush(1_000):
            for origin in self.fanout.take_lost():
                self.poller.abort(origin)

    def handle(self, commands: Iterable[tuple[int, bytes]]) -> None:
        """Tells the poller that these have been handled."""
        sizes = [len(body) for _, body in commands]
        self.poller.handled(len(sizes), sum(sizes))

    def until(self, condition: Callable[[], Any], seconds: float = 3.0) -> Any:
        """Rounds as they come until something is so; what it is."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"still not so: {condition}"
            if self.ready(5):
                self.turn()
        return found

    def quiet(self, wait_ms: float = 2) -> None:
        """Rounds until nothing is ready for that long; the timer's ticks are farther apart."""
        for _ in range(10_000):
            if not self.ready(wait_ms):
                return
            self.turn()
        raise AssertionError("something is always ready")

    def peer(self, encoding: str = MSGPACK, **more: int) -> Peer:
        """A connection, before its handshake."""
        return Peer(self, encoding, **more)

    def upgraded(self, encoding: str = MSGPACK, **more: int) -> Peer:
        """A connection after its handshake."""
        peer = self.peer(encoding, **more)
        peer.send(head(encoding))
        self.until(lambda: peer.read() and b"\r\n\r\n" in peer.data)
        answered, _, peer.data = peer.data.partition(b"\r\n\r\n")
        assert answered.startswith(b"HTTP/1.1 101 "), answered
        return peer

    def device(
        self, encoding: str = MSGPACK, user: int = 7, expires_s: int = 0, state: int = READER, **more: int
    ) -> Peer:
        """A session after its hello."""
        peer = self.upgraded(encoding, **more)
        before, handles = len(self.commands), self.handles
        self.handles = True
        peer.command("hello", token="t")
        self.until(lambda: len(self.commands) > before)
        self.handles = handles
        peer.session = self.commands.pop()[0]
        self.poller.identify(peer.session, user, peer.session, expires_s, state)
        return peer
