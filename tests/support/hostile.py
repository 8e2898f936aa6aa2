"""Connections that misbehave on purpose, and what a test looks at in the server meanwhile and afterwards.

A `Foe` is a socket that does what its script says, turn by turn: bytes to send (each turn's at once), `RESET`, `STOP`
(sends nothing more, reads nothing more). `play` turns many of them together and returns when all have ended.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

import msgpack

from tests.support.gateway import GatewayProcess
from tests.support.poller_rig import BINARY, CLOSE, frame, frames_of, head

UPGRADE = head()
TURN_S = 0.02


def hello(gateway: GatewayProcess, user: int, device: int = 1, **more: Any) -> bytes:
    """The frame of a hello."""
    body = {"op": "hello", "token": gateway.token(user), "device": device, "protocol": 1, **more}
    return frame(msgpack.packb(body))


def command(op: str, **fields: Any) -> bytes:
    """The frame of a command in MessagePack."""
    return frame(msgpack.packb({"op": op, **fields}))


def connect(gateway: GatewayProcess, receive_bytes: int = 0) -> socket.socket:
    """A connection, blocking, with a time limit; `receive_bytes`: as small a window as the kernel gives."""
    place = urlsplit(gateway.url)
    made = socket.socket()
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(10)
    made.connect((place.hostname, place.port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def reset(connection: socket.socket) -> None:
    """Ends a connection by RST, whatever is under way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def one_by_one(data: bytes, last: bytes = b"") -> Iterator[bytes]:
    """A byte a turn; then `last` for ever, or nothing more."""
    for byte in data:
        yield bytes((byte,))
    if last:
        yield from repeat(last)


@dataclass
class Foe:
    """One connection with its script, and what came of it."""

    name: str
    script: Iterable[bytes]
    connection: socket.socket
    received: bytes = b""
    sent: int = 0
    ended_s: float = 0.0  # since `play` began; 0: it has not
    turns: Iterator[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.turns = iter(self.script)
        self.connection.setblocking(False)

    def turn(self, now_s: float) -> None:
        """Sends what its script says now, reads what has come."""
        try:
            if data := next(self.turns, b""):
                self.sent += self.connection.send(data)
        except OSError:
            pass  # full, or ended: reading says which
        try:
            while chunk := self.connection.recv(65_536):
                self.received += chunk
            self.ended_s = now_s
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended_s = now_s

    def outcome(self) -> int:
        """HTTP status of a refusal, or the code of the close frame; 0 if it ended without a word."""
        answered, _, rest = self.received.partition(b"\r\n\r\n")
        if not answered:
            return 0
        status = int(answered.split()[1])
        if status != 101:
            return status
        return next((int.from_bytes(body[:2]) for kind, body in frames_of(rest)[0] if kind == CLOSE), 0)


def play(foes: list[Foe], seconds: float, turn_s: float = TURN_S, beside: Iterable[Foe] = ()) -> None:
    """Turns all of them until each has ended, or the time is over; those beside them aren't waited for."""
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        waiting = [foe for foe in foes if not foe.ended_s]
        if not waiting:
            return
        for foe in (*waiting, *beside):
            foe.turn(max(now, 1e-9))
        time.sleep(turn_s)


def settled(gateway: GatewayProcess, sessions: int, seconds: float = 10) -> None:
    """Returns when the server holds just so many sessions and no buffer for them."""
    deadline = time.monotonic() + seconds
    while True:
        open_now, held = gateway.metric("gonets_sessions"), gateway.metric("gonets_session_bytes")
        if open_now == sessions:
            return
        assert time.monotonic() < deadline, f"{open_now} sessions with {held} bytes are left, not {sessions}"
        time.sleep(0.05)


def descriptors(gateway: GatewayProcess, most: int = 1 << 30) -> int:
    """Open descriptors of the server's process; if there are more than `most`, those that are about to go may go."""
    assert gateway.process is not None
    deadline = time.monotonic() + 5
    while (found := len(os.listdir(f"/proc/{gateway.process.pid}/fd"))) > most and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def resident_bytes(gateway: GatewayProcess) -> int:
    """Memory of the server's process."""
    assert gateway.process is not None
    with open(f"/proc/{gateway.process.pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def key() -> str:
    """A Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


__all__ = [
    "BINARY",
    "UPGRADE",
    "Foe",
    "command",
    "connect",
    "descriptors",
    "frame",
    "hello",
    "key",
    "one_by_one",
    "play",
    "reset",
    "resident_bytes",
    "settled",
]
