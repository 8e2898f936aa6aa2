"""The replay's sockets: frames in any pieces, deliveries counted once, everything else told."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ext.replaywire import BROKEN, CLOSED, DIFFERS, FIRST, MESSAGE, OPENED, ReplayWire

ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
Note = tuple[int, int, int, bytes]


def frame(body: bytes, opcode: int = 2) -> bytes:
    if len(body) < 126:
        return struct.pack("!BB", 0x80 | opcode, len(body)) + body
    if len(body) < 65_536:
        return struct.pack("!BBH", 0x80 | opcode, 126, len(body)) + body
    return struct.pack("!BBQ", 0x80 | opcode, 127, len(body)) + body


def event(sequence: int, rest: bytes = b"rest") -> bytes:
    return b"\x92\x01\x9a\xcf" + struct.pack("!Q", sequence) + rest


def json_event(sequence: int, rest: str = "") -> bytes:
    return f'{{"op":"event","sequence":{sequence},"x":"{rest}"}}'.encode()


class Server:
    """Accepts by hand."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.wire = ReplayWire(8)
        self.port = self.listener.getsockname()[1]

    def open(self, device: int, encoding: int = 0, answer: bytes = ACCEPT) -> socket.socket:
        self.wire.connect(device, encoding, "127.0.0.1", self.port, 0, b"GET / HTTP/1.1\r\n\r\n")
        peer, _ = self.listener.accept()
        self.until(lambda notes: True, 20_000)
        assert peer.recv(100) == b"GET / HTTP/1.1\r\n\r\n"
        peer.sendall(answer)
        if answer is ACCEPT:
            assert self.notes(1) == [(OPENED, device, 0, b"")]
        return peer

    def until(self, enough: object, wait_us: int = 100_000) -> list[Note]:
        notes: list[Note] = []
        end = time.monotonic() + 5
        while time.monotonic() < end:
            notes += self.wire.poll(wait_us)
            if enough(notes):  # type: ignore[operator]
                return notes
        raise AssertionError(f"only {notes}")

    def notes(self, count: int) -> list[Note]:
        return self.until(lambda notes: len(notes) >= count)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.listener.close()


def slots(server: Server, device: int) -> list[int]:
    raw, late = server.wire.received(device)
    assert len(raw) == len(late)
    table = np.frombuffer(server.wire.events(), np.uint64).reshape(-1, 2)
    return [int(table[slot, 0]) for slot in np.frombuffer(raw, np.uint32)]


def test_frames_in_any_pieces(server: Server) -> None:
    """Every cut of a stream of frames of all three length forms gives the same messages."""
    messages = [b"\x81a", b"m" * 125, b"m" * 126, event(5), b"m" * 65_535, b"m" * 65_536, b"x" * 300_000, b""]
    stream = b"".join(map(frame, messages))
    chance = random.Random(1)
    for device in range(4):
        peer = server.open(device)
        got: list[Note] = []
        at = 0
        while at < len(stream):
            size = 1 if device == 0 and at < 600 else chance.randrange(1, 90_000)
            peer.sendall(stream[at : at + size])
            at += size
            got += server.wire.poll(0)
        while len(got) < len(messages) - (device > 0):
            got += server.notes(1)
        told = [data for kind, _, _, data in got if kind == MESSAGE]
        assert told == [message for message in messages if message != event(5)]
        assert slots(server, device) == [5] and server.wire.position(device) == 5
        peer.close()
    assert server.wire.frame(0, 0) == event(5) and server.wire.copies(0, 0) == 4


def test_json_and_msgpack_are_kept_apart(server: Server) -> None:
    one, two = server.open(0, 0), server.open(1, 1)
    one.sendall(frame(event(7)) + frame(event(9, b"r" * 200)))
    two.sendall(frame(json_event(7), 1) + frame(b'{"op":"event","sequence": 8}', 1) + frame(json_event(9), 1))
    notes = server.notes(5)
    told = sorted((kind, device) for kind, device, _, _ in notes)
    assert told == [(MESSAGE, 1)] + [(FIRST, 0)] * 2 + [(FIRST, 1)] * 2
    assert slots(server, 0) == slots(server, 1) == [7, 9]
    assert server.wire.frame(0, 1) == json_event(7) and server.wire.frame(1, 0) == event(9, b"r" * 200)
    server.wire.event(1, 8, b'{"op":"event","sequence": 8}')
    assert slots(server, 1) == [7, 9, 8] and server.wire.position(1) == 9
    assert server.wire.deliveries == 5


def test_other_bytes_under_one_sequence_are_told(server: Server) -> None:
    peers = [server.open(device) for device in range(3)]
    for peer, rest in zip(peers, (b"a", b"a", b"b"), strict=True):
        peer.sendall(frame(event(4, rest)))
        server.until(lambda notes: True, 20_000)
    assert server.wire.copies(0, 0) == 2 and server.wire.deliveries == 3
    peers[0].sendall(frame(event(4, b"longer")))
    assert server.notes(1) == [(DIFFERS, 0, 0, event(4, b"longer"))]
    assert slots(server, 0) == [4, 4]


def test_pings_are_answered_and_closes_told(server: Server) -> None:
    peer = server.open(0)
    peer.sendall(frame(b"are you there", 9) + frame(b"\x0f\xa1drain", 8))
    assert server.notes(1) == [(CLOSED, 0, 0, b"\x0f\xa1drain")]
    pong = peer.recv(100)
    assert pong[0] == 0x8A and pong[1] == 0x80 | 13
    assert bytes(byte ^ pong[2 + i % 4] for i, byte in enumerate(pong[6:])) == b"are you there"
    assert not server.wire.is_open(0)
    peer = server.open(0)
    peer.close()
    assert server.notes(1) == [(CLOSED, 0, 0, b"")]


@pytest.mark.parametrize("bad", [b"\x02\x01x", b"\xc2\x01x", b"\x82\x81mask1", b"\x82\x7f" + b"\xff" * 8])
def test_broken_frames_end_the_connection(server: Server, bad: bytes) -> None:
    peer = server.open(0)
    peer.sendall(bad)
    ((kind, device, _, what),) = server.notes(1)
    assert (kind, device) == (BROKEN, 0) and what and not server.wire.is_open(0)


def test_refused_handshakes_are_told(server: Server) -> None:
    server.open(0, 0, b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    assert server.notes(1)[0][0] == BROKEN
    port = server.port
    server.listener.close()
    try:
        server.wire.connect(1, 0, "127.0.0.1", port, 0, b"x")
    except ConnectionRefusedError:
        return
    assert server.notes(1)[0][0] == CLOSED


def test_large_sends_wait_for_the_socket(server: Server) -> None:
    peer = server.open(0)
    body = bytes(range(256)) * 20_000
    server.wire.send(0, 2, body)
    got = b""
    while len(got) < len(body) + 14:
        server.wire.poll(0)
        got += peer.recv(1 << 20)
    assert got[:2] == b"\x82\xff" and struct.unpack("!Q", got[2:10])[0] == len(body)
    mask = np.frombuffer(got[10:14], np.uint8)
    assert (np.frombuffer(got[14:], np.uint8) ^ np.resize(mask, len(body))).tobytes() == body


def test_rude_endings(server: Server) -> None:
    peer = server.open(0)
    server.wire.close(0, reset=True)
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    peer = server.open(0)
    server.wire.abandon(0)
    other = server.open(0)
    peer.sendall(frame(event(1)))
    other.sendall(frame(event(2)))
    assert [kind for kind, *_ in server.notes(1)] == [FIRST]
    assert slots(server, 0) == [2] and server.wire.close_abandoned() == 1


def test_many_events_and_forgetting(server: Server) -> None:
    peer = server.open(0)
    total = 20_000
    peer.sendall(b"".join(frame(event(sequence * 3)) for sequence in range(1, total + 1)))
    server.until(lambda notes: server.wire.received_count(0) == total)
    assert slots(server, 0) == [sequence * 3 for sequence in range(1, total + 1)]
    server.wire.forget()
    assert server.wire.received(0) == (b"", b"") and server.wire.events() == b""
    assert server.wire.position(0) == total * 3
    peer.sendall(frame(event(1)))
    server.notes(1)
    assert slots(server, 0) == [1]


def test_bad_arguments() -> None:
    kept = os.fstat(0)
    with pytest.raises(ValueError, match="devices_max is 0"):
        ReplayWire(0)
    assert os.fstat(0) == kept, "what was never opened is not closed"
    with pytest.raises(ValueError, match="devices_max"):
        ReplayWire(0)
    wire = ReplayWire(1)
    for call in (
        lambda: wire.send(0, 1, b""),
        lambda: wire.position(1),
        lambda: wire.frame(0, 0),
        lambda: wire.connect(0, 2, "127.0.0.1", 1, 0, b""),
    ):
        with pytest.raises(ValueError):
            call()
