"""A session with a real socket pair under it: what a client received, frame by frame."""

from __future__ import annotations

import json
import socket
import struct

import msgspec

from ext.session_table import SessionTable
from ext.sessionprobe import probe, probe_close, probe_open, probe_writable

MSGPACK, JSON = 0, 1


class Outlet:
    """One connected device; `read` is the client's half."""

    def __init__(
        self,
        table: SessionTable,
        user: int,
        encoding: int,
        buffer_bytes: int = 4096,
        position: int = 0,
        live: bool = True,
    ) -> None:
        self.server, self.client = socket.socketpair()
        self.server.setblocking(False)
        self.client.setblocking(False)
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.table = table
        self.user = user
        self.encoding = encoding
        self.origin = probe_open(table, self.server.fileno(), user, encoding, position, live)
        self.received = bytearray()
        self.start = position

    def read(self, size: int = 1 << 20) -> int:
        """Takes up to that many bytes from the socket."""
        taken = 0
        while taken < size:
            try:
                data = self.client.recv(min(size - taken, 65536))
            except BlockingIOError:
                break
            if not data:
                break
            self.received += data
            taken += len(data)
        return taken

    def frames(self) -> list[tuple[int, bytes]]:
        """(opcode, payload) of whole frames; asserts that nothing is masked or odd."""
        found, at, data = [], 0, self.received
        while at + 2 <= len(data):
            assert data[at] in (0x81, 0x82), f"byte {at} is no frame head: {data[at]:#x}"
            size, head = data[at + 1], 2
            if size == 126:
                size, head = struct.unpack_from(">H", data, at + 2)[0], 4
            elif size == 127:
                size, head = struct.unpack_from(">Q", data, at + 2)[0], 10
            if at + head + size > len(data):
                break
            found.append((data[at], bytes(data[at + head : at + head + size])))
            at += head + size
        self.rest = len(data) - at
        return found

    def pushes(self) -> list[tuple[str, dict[str, object] | list[object]]]:
        """("event", fields) of each event, ("other", body) of the rest, whatever the encoding."""
        found: list[tuple[str, dict[str, object] | list[object]]] = []
        for opcode, payload in self.frames():
            if self.encoding == JSON:
                assert opcode == 0x81
                body = json.loads(payload)
                found.append((body.pop("op"), body))
            else:
                assert opcode == 0x82
                number, body = msgspec.msgpack.decode(payload)
                found.append(("event" if number == 1 else str(number), body))
        return found

    def sequences(self) -> list[int]:
        """Of the events received."""
        return [
            int(body["sequence"] if isinstance(body, dict) else body[0])  # type: ignore[call-overload]
            for name, body in self.pushes()
            if name == "event"
        ]

    def writable(self) -> bool:
        """What the poller does at EPOLLOUT; whether a blocked reader can take more now."""
        return probe_writable(self.table, self.origin)

    def inside(self) -> dict[str, int]:
        """What the session's struct says."""
        found = probe(self.table, self.origin)
        assert found is not None
        return found

    def close(self) -> None:
        """Both ends; the session's place is free again."""
        probe_close(self.table, self.origin)
        self.server.close()
        self.client.close()
