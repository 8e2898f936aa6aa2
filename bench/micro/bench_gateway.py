"""What a client's bytes go through, and what is answered: handshake, frames, commands, receipts, events as JSON."""

from __future__ import annotations

import json
import random
import struct

import msgpack
from pytest_benchmark.fixture import BenchmarkFixture

from bench.clients import publish_template
from bench.micro.measured import SEED, measure, records_of
from ext.commands import read_command
from ext.frames import FrameReader
from ext.handshake import read_head
from ext.jsonevent import json_event
from ext.receipts import receipt_frame

MSGPACK, JSON = 0, 1
TIMES = 1_000
PAYLOAD_BYTES = 97  # a frame of 158 bytes
HEAD = (
    b"GET /v1 HTTP/1.1\r\nHost: gonets.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko\r\n"
    b"Accept: */*\r\nAccept-Language: ru,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: https://gonets.example\r\nSec-WebSocket-Protocol: gonets.v1.msgpack\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Connection: keep-alive, Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"
)
STATUS_APPENDED = 0


def _masked(body: bytes, draw: random.Random) -> bytes:
    """A client's binary frame."""
    mask = draw.randbytes(4)
    head = b"\x82" + (bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + struct.pack(">H", len(body)))
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))


def bench_handshake(benchmark: BenchmarkFixture) -> None:
    """A browser's request, to the whole answer."""
    assert b"101 Switching Protocols" in read_head(HEAD)[4]

    def run() -> None:
        for _ in range(TIMES):
            read_head(HEAD)

    measure(benchmark, TIMES, run)


def bench_frames(benchmark: BenchmarkFixture) -> None:
    """Publishes of one device in one stretch of bytes: found, unmasked, given to Python."""
    draw = random.Random(SEED)
    body = publish_template("conversation", 77, PAYLOAD_BYTES).body
    stream = b"".join(_masked(body, draw) for _ in range(TIMES))
    reader = FrameReader()
    assert measure(benchmark, TIMES, lambda: reader.feed(stream))[-1][1] == body


def bench_command_msgpack(benchmark: BenchmarkFixture) -> None:
    """A publish, to its fields."""
    body = publish_template("conversation", 77, PAYLOAD_BYTES).body
    assert read_command(MSGPACK, body)[2] == 77

    def run() -> None:
        for _ in range(TIMES):
            read_command(MSGPACK, body)

    measure(benchmark, TIMES, run)


def bench_command_json(benchmark: BenchmarkFixture) -> None:
    """The same with a text."""
    body = json.dumps({"op": "publish", "counter": 3, "conversation": 77, "text": "x" * PAYLOAD_BYTES}).encode()
    assert read_command(JSON, body)[2] == 77

    def run() -> None:
        for _ in range(TIMES):
            read_command(JSON, body)

    measure(benchmark, TIMES, run)


def bench_receipt_msgpack(benchmark: BenchmarkFixture) -> None:
    """A frame."""
    values = (3, STATUS_APPENDED, 77, 1_042, 5, 1_795_515_000_000_000, 0)
    assert msgpack.unpackb(receipt_frame(MSGPACK, *values)[2:])[1][2] == 77

    def run() -> None:
        for _ in range(TIMES):
            receipt_frame(MSGPACK, *values)

    measure(benchmark, TIMES, run)


def bench_receipt_json(benchmark: BenchmarkFixture) -> None:
    """A frame."""
    values = (3, STATUS_APPENDED, 77, 1_042, 5, 1_795_515_000_000_000, 0)
    assert b'"conversation":77' in receipt_frame(JSON, *values)

    def run() -> None:
        for _ in range(TIMES):
            receipt_frame(JSON, *values)

    measure(benchmark, TIMES, run)


def bench_json_event(benchmark: BenchmarkFixture) -> None:
    """A stored record as a JSON client gets it: once an event, whatever the number of clients."""
    records = records_of(TIMES)
    assert json.loads(json_event(records[0]))["op"] == "event"
    measure(benchmark, TIMES, lambda: list(map(json_event, records)))
