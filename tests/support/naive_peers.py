"""Naive servers of the protocols that ext/peerload speaks: pub/sub in Python, byte by byte, with faults on demand.

Written from the protocols' descriptions and not from ext/: RESP2, NATS, MQTT 3.1.1, WebSocket with Centrifugo's JSON.
`spoil` sees each delivery before it leaves (listener, number of the delivery there, payload) and gives what leaves
instead.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

Spoil = Callable[[int, int, bytes], list[bytes]]
Item = tuple[Any, ...]  # ("listen", name), ("publish", name, payload), ("greet",), ("over",)


def honest(listener: int, number: int, payload: bytes) -> list[bytes]:
    """As it is."""
    return [payload]


class Incomplete(Exception):
    """More bytes are needed."""


def line_of(data: bytes) -> tuple[bytes, bytes]:
    """The first line without its end, and the rest."""
    line, end, rest = data.partition(b"\r\n")
    if not end:
        raise Incomplete
    return line, rest


class Resp:
    """Redis."""

    def take(self, data: bytes) -> tuple[list[Item], bytes]:
        """One command, and what is behind it."""
        head, rest = line_of(data)
        assert head[:1] == b"*", data[:40]
        words = []
        for _ in range(int(head[1:])):
            size, rest = line_of(rest)
            assert size[:1] == b"$", data[:40]
            length = int(size[1:])
            if len(rest) < length + 2:
                raise Incomplete
            assert rest[length : length + 2] == b"\r\n"
            words.append(rest[:length])
            rest = rest[length + 2 :]
        match words[0]:
            case b"SUBSCRIBE":
                return [("listen", words[1].decode())], rest
            case b"PUBLISH":
                return [("publish", words[1].decode(), words[2])], rest
            case b"PING":
                return [("greet",)], rest
        raise AssertionError(words)

    def greeting(self) -> bytes:
        """To PING."""
        return b"+PONG\r\n"

    def listening(self, name: str) -> bytes:
        """The subscription is confirmed."""
        return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(name), name.encode())

    def published(self, listeners: int) -> bytes:
        """The number of those who got it."""
        return b":%d\r\n" % listeners

    def delivery(self, name: str, payload: bytes) -> bytes:
        """One message."""
        return b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name.encode(), len(payload), payload)


class Nats:
    """NATS core."""

    def take(self, data: bytes) -> tuple[list[Item], bytes]:
        """One line, with its payload."""
        line, rest = line_of(data)
        words = line.split(b" ")
        match words[0]:
            case b"CONNECT":
                json.loads(line.split(b" ", 1)[1])
                return [], rest
            case b"SUB":
                return [("subscribed", words[1].decode())], rest
            case b"PING":
                return [("greet",)], rest
            case b"PONG":
                return [], rest
            case b"PUB":
                size = int(words[-1])
                if len(rest) < size + 2:
                    raise Incomplete
                assert rest[size : size + 2] == b"\r\n"
                return [("publish", words[1].decode(), rest[:size])], rest[size + 2 :]
        raise AssertionError(line)

    def greeting(self) -> bytes:
        """To PING; INFO may come at any time."""
        return b'INFO {"server_id":"X"}\r\nPING\r\nPONG\r\n'

    def listening(self, name: str) -> bytes:
        """Nothing."""
        return b""

    def published(self, listeners: int) -> bytes:
        """Nothing."""
        return b""

    def delivery(self, name: str, payload: bytes) -> bytes:
        """One message."""
        return b"MSG %b 1 %d\r\n%b\r\n" % (name.encode(), len(payload), payload)


class Mqtt:
    """MQTT 3.1.1, quality of service 0."""

    def take(self, data: bytes) -> tuple[list[Item], bytes]:
        """One packet."""
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(data):
                raise Incomplete
            length |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                break
        body, rest = data[at : at + length], data[at + length :]
        if len(body) < length:
            raise Incomplete
        match data[0]:
            case 0x10:
                assert body[:7] == b"\x00\x04MQTT\x04", body
                (size,) = struct.unpack_from(">H", body, 10)
                assert len(body) == 12 + size and size > 0
                return [("greet",)], rest
            case 0x82:
                (size,) = struct.unpack_from(">H", body, 2)
                assert body[4 + size :] == b"\x00", body
                return [("listen", body[4 : 4 + size].decode())], rest
            case 0x30:
                (size,) = struct.unpack_from(">H", body)
                return [("publish", body[2 : 2 + size].decode(), body[2 + size :])], rest
        raise AssertionError(data[:20])

    def greeting(self) -> bytes:
        """CONNACK."""
        return b"\x20\x02\x00\x00"

    def listening(self, name: str) -> bytes:
        """SUBACK of packet 1."""
        return b"\x90\x03\x00\x01\x00"

    def published(self, listeners: int) -> bytes:
        """Nothing."""
        return b""

    def delivery(self, name: str, payload: bytes) -> bytes:
        """PUBLISH."""
        body = struct.pack(">H", len(name)) + name.encode() + payload
        length, size = b"", len(body)
        while True:
            size, digit = size >> 7, size & 0x7F
            length += bytes([digit | (0x80 if size else 0)])
            if not size:
                return b"\x30" + length + body


class Json:
    """Centrifugo's JSON over WebSocket."""

    def take(self, data: bytes) -> tuple[list[Item], bytes]:
        """The upgrade, or one frame of lines."""
        if data.startswith(b"GET "):
            _, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                raise Incomplete
            return [("upgrade",)], rest
        if len(data) < 2:
            raise Incomplete
        assert data[0] == 0x81 and data[1] & 0x80, data[:4]
        length, at = data[1] & 0x7F, 2
        if length == 126:
            length, at = struct.unpack_from(">H", data, 2)[0], 4
        if len(data) < at + 4 + length:
            raise Incomplete
        key = data[at : at + 4]
        text = bytes(byte ^ key[i % 4] for i, byte in enumerate(data[at + 4 : at + 4 + length]))
        found: list[Item] = []
        for line in text.split(b"\n"):
            said = json.loads(line)
            if "connect" in said:
                found.append(("answer", said["id"]))
            elif "subscribe" in said:
                found += [("subscribed", said["subscribe"]["channel"]), ("answer", said["id"])]
            elif "publish" in said:
                body = said["publish"]
                found += [("publish", body["channel"], body["data"].encode()), ("answer", said["id"])]
        return found, data[at + 4 + length :]

    def greeting(self) -> bytes:
        """The answer to the upgrade."""
        return b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    def listening(self, name: str) -> bytes:
        """Nothing but the answer."""
        return b""

    def published(self, listeners: int) -> bytes:
        """Nothing but the answer."""
        return b""

    def frame(self, *lines: object) -> bytes:
        """Lines in one unmasked frame."""
        text = b"\n".join(json.dumps(line, separators=(",", ":")).encode() for line in lines)
        if len(text) < 126:
            return b"\x81" + bytes([len(text)]) + text
        if len(text) < 65_536:
            return b"\x81\x7e" + struct.pack(">H", len(text)) + text
        return b"\x81\x7f" + struct.pack(">Q", len(text)) + text

    def answer(self, number: int) -> bytes:
        """To a command."""
        return self.frame({"id": number, "publish": {}})

    def delivery(self, name: str, payload: bytes) -> bytes:
        """One push; a ping rides along."""
        return self.frame({"push": {"channel": name, "pub": {"data": payload.decode("latin-1")}}}, {})


PROTOCOLS: dict[str, Any] = {"resp": Resp, "nats": Nats, "mqtt": Mqtt, "json": Json}


class NaiveServer:
    """One of them on a socket of its own, in a thread, until its `with` ends."""

    def __init__(self, protocol: str, spoil: Spoil = honest) -> None:
        self.protocol, self.spoil = PROTOCOLS[protocol](), spoil
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.host, self.port = self.listening.getsockname()
        self.listeners: dict[str, list[socket.socket]] = {}
        self.delivered: dict[socket.socket, int] = {}
        self.published: list[bytes] = []
        self.failure: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(10)
        self.listening.close()
        assert self.failure is None, self.failure

    def check(self) -> None:
        """It is part of this process: never gone."""

    def cpu_s(self) -> float:
        """Nobody asks a naive server."""
        return 0.0

    def _serve(self) -> None:
        buffers: dict[socket.socket, bytes] = {}
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.listening, selectors.EVENT_READ)
            while not self._ended.is_set():
                for key, _ in waiting.select(0.02):
                    if key.fileobj is self.listening:
                        accepted, _ = self.listening.accept()
                        # What is sent first arrives first, on whichever connection.
                        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        waiting.register(accepted, selectors.EVENT_READ)
                        buffers[accepted] = b""
                        continue
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    try:
                        data = connection.recv(1 << 20)
                        buffers[connection] = self._taken(connection, buffers[connection] + data)
                    except ConnectionError:
                        data = b""
                    except AssertionError as error:
                        self.failure, data = error, b""
                    if not data:
                        waiting.unregister(connection)
                        connection.close()
                        for group in self.listeners.values():
                            if connection in group:
                                group.remove(connection)
            for connection in buffers:
                connection.close()

    def _taken(self, connection: socket.socket, data: bytes) -> bytes:
        while data:
            try:
                items, data = self.protocol.take(data)
            except Incomplete:
                break
            for item in items:
                for answer in self._said(connection, *item):
                    connection.sendall(answer)
        return data

    def _said(self, connection: socket.socket, what: str, *more: Any) -> Iterator[bytes]:
        if what in ("greet", "upgrade"):
            yield self.protocol.greeting()
        elif what == "answer":
            yield self.protocol.answer(more[0])
        elif what in ("listen", "subscribed"):
            self.listeners.setdefault(more[0], []).append(connection)
            self.delivered[connection] = 0
            yield self.protocol.listening(more[0])
        else:
            name, payload = more
            self.published.append(payload)
            group = list(self.listeners.get(name, ()))
            for number, listener in enumerate(group):
                self.delivered[listener] += 1
                for spoiled in self.spoil(number, self.delivered[listener], payload):
                    listener.sendall(self.protocol.delivery(name, spoiled))
            yield self.protocol.published(len(group))
