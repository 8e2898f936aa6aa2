"""A client of the simulation: one device of a user, which connects, says hello, writes and reads, byte by byte.

Does what PROTOCOL.md asks of a client and no more: it keeps a position and its unanswered writes, sends those again
with the same counters after a break, and gives each push to verdicts.py. How much it writes and reads at a time is
run.py's.
"""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from bench.simulation.judge import Write
from bench.simulation.truth import Wrong

MSGPACK, JSON = 0, 1
KEY = b"\x5a\x01\xfe\x33"
TEXT, BINARY, CLOSE = 1, 2, 8
NAMES = (
    "event",
    "receipt",
    "welcome",
    "gap",
    "reset",
    "advice",
    "error",
    "cursor",
    "typing",
    "presence",
    "pong",
    "conversations",
    "members",
    "history",
    "refreshed",
    "live",
)
RECEIPT = ("counter", "status", "conversation", "sequence", "conversation_sequence", "time", "extra")
EVENT = b"\x92\x01"


class Command:
    """A write that waits for its receipt."""

    __slots__ = ("body", "moment", "sends", "write")

    def __init__(self, write: Write, body: dict[str, Any]) -> None:
        self.write, self.body = write, body
        self.moment = -1  # where the log stood when it was first sent
        self.sends = 0


class Device:
    """What outlives connections; `session` is the connection of now."""

    def __init__(self, user: int, device: int, encoding: int) -> None:
        self.user, self.device, self.encoding = user, device, encoding
        self.counter = 0
        self.commands: dict[int, Command] = {}  # unanswered
        self.again: list[int] = []  # to be sent again
        self.position: tuple[int, int] | None = None  # epoch, sequence
        self.session: Session | None = None
        self.slow = False

    @property
    def name(self) -> str:
        """For traces."""
        return f"{self.user}/{self.device}"


class Session:
    """One connection: two buffers, and a state that follows the server's frames."""

    def __init__(self, device: Device, connection: socket.socket, hello: dict[str, Any]) -> None:
        self.device, self.connection = device, connection
        self.hello = hello
        self.phase = "upgrade"
        self.close_code = 0
        self.ended = False
        self.number = 0
        self._in = bytearray()
        protocol = "json" if device.encoding == JSON else "msgpack"
        self.out = bytearray(
            b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: gonets.v1." + protocol.encode() + b"\r\n\r\n"
        )
        self.say(hello)

    # Writing.

    def say(self, body: dict[str, Any]) -> None:
        """Puts one command behind what is still to be written."""
        if self.device.encoding == JSON:
            body = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in body.items()}
            self.out += frame(msgspec.json.encode(body), TEXT)
        else:
            self.out += frame(msgspec.msgpack.encode(body), BINARY)

    def write(self, most: int) -> int:
        """Gives some bytes to the socket."""
        if self.ended or not self.out:
            return 0
        try:
            sent = self.connection.send(self.out[:most])
        except BlockingIOError:
            return 0
        except ConnectionError:
            return 0  # what is left to read still counts
        del self.out[:sent]
        return sent

    # Reading.

    def read(self, most: int, take: Callable[[Session, str, Any], None]) -> int:
        """Takes some bytes from the socket and gives the whole frames to `take`."""
        if self.ended:
            return 0
        try:
            data = self.connection.recv(most)
        except BlockingIOError:
            return 0
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            return 0
        self._in += data
        if self.phase == "upgrade":
            head, found, rest = bytes(self._in).partition(b"\r\n\r\n")
            if not found:
                return len(data)
            if not head.startswith(b"HTTP/1.1 101 "):
                raise Wrong(f"the handshake is answered by {head!r}")
            self.phase = "hello"
            self._in[:] = rest
        self._frames(take)
        return len(data)

    def _frames(self, take: Callable[[Session, str, Any], None]) -> None:
        place, data = 0, bytes(self._in)
        while place + 2 <= len(data):
            opcode, size, start = data[place], data[place + 1], place + 2
            if opcode not in (0x81, 0x82, 0x88) or size > 127:
                raise Wrong(f"{self.device.name}: {data[place : place + 8].hex()} is no head of a server's frame")
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2]), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8]), start + 8
            if len(data) < start + size:
                break
            self._frame(opcode & 15, data[start : start + size], take)
            place = start + size
        del self._in[:place]

    def _frame(self, opcode: int, payload: bytes, take: Callable[[Session, str, Any], None]) -> None:
        if opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2])
            take(self, "close", payload[2:].decode())
        elif (opcode == TEXT) != (self.device.encoding == JSON):
            raise Wrong(f"{self.device.name}: a frame of the other encoding")
        elif opcode == TEXT:
            body = msgspec.json.decode(payload)
            take(self, body.pop("op"), body)
        elif payload.startswith(EVENT):
            take(self, "event", payload[2:])
        else:
            number, body = msgspec.msgpack.decode(payload)
            name = NAMES[number - 1]
            take(self, name, dict(zip(RECEIPT, body, strict=True)) if name == "receipt" else body)

    def end(self) -> None:
        """Breaks the connection."""
        self.ended = True
        self.connection.close()


def frame(payload: bytes, opcode: int) -> bytes:
    """A client's frame."""
    size = len(payload)
    if size < 126:
        start = struct.pack(">BB", 128 | opcode, 128 | size)
    elif size < 65_536:
        start = struct.pack(">BBH", 128 | opcode, 254, size)
    else:
        start = struct.pack(">BBQ", 128 | opcode, 255, size)
    mask = (KEY * (size // 4 + 1))[:size]
    return start + KEY + (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)
