"""The least of Kafka's protocol: one connection that produces batches and fetches them again.

Used by kafka.py. Requests of the versions before the flexible ones, which brokers of 4.x still take: Metadata 4 (makes
the topic), Produce 7, Fetch 11. A batch is made once and stamped anew: its number goes into the first record, then the
checksum over all. What is fetched is compared byte for byte from the checksum on: the broker sets only what is before.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.peers.child import PeerError
from ext.crc32c import crc32c

PRODUCE, FETCH, METADATA = (0, 7), (1, 11), (3, 4)
CLIENT: Final = b"bench"
RETRIABLE: Final = (3, 5, 6)  # the topic or its leader isn't there yet
CRC_AT: Final = 17
BODY_AT: Final = 21
COUNT_AT: Final = 23  # offset of the last record from the first
NUMBER_DIGITS: Final = 16
TIMEOUT_S: Final = 30.0
WAIT_MS: Final = 500


def text(value: bytes) -> bytes:
    """A string of the protocol."""
    return struct.pack(">h", len(value)) + value


def varint(value: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


class Batch:
    """Records with equal values, of which the first begins with the number of the batch."""

    def __init__(self, value: bytes, count: int) -> None:
        records = []
        for number in range(count):
            body = b"\x00\x00" + varint(number) + varint(-1) + varint(len(value)) + value + b"\x00"
            records.append(varint(len(body)) + body)
        fields = struct.pack(">hiqqqhii", 0, count - 1, 0, 0, -1, -1, -1, count)
        self._body = bytearray(fields + b"".join(records))
        self._number_at = len(fields) + records[0].index(value)
        self.count = count
        self.size = BODY_AT + len(self._body)

    def numbered(self, number: int) -> bytes:
        """The whole batch with this number."""
        self._body[self._number_at : self._number_at + NUMBER_DIGITS] = b"%016x" % number
        body = bytes(self._body)
        head = struct.pack(">qiibI", 0, self.size - 12, -1, 2, crc32c(body))
        return head + body

    def same(self, data: memoryview, number: int) -> bool:
        """Whether a fetched batch is the one with this number."""
        return data[CRC_AT:] == memoryview(self.numbered(number))[CRC_AT:]


def batches_of(records: memoryview) -> Iterator[tuple[memoryview, int]]:
    """Whole batches and how many records each has; the last one of an answer may be cut."""
    at = 0
    while at + BODY_AT + 6 <= len(records):
        size = 12 + int(struct.unpack_from(">i", records, at + 8)[0])
        if at + size > len(records):
            return
        yield records[at : at + size], 1 + int(struct.unpack_from(">i", records, at + COUNT_AT)[0])
        at += size


class Fetched(NamedTuple):
    """The answer to a fetch."""

    records: memoryview  # whole batches, the last one perhaps cut
    high_watermark: int


class Connection:
    """One socket; a request at a time, or several under way with `send` and `receive`."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Ends it."""
        self.socket.close()

    def send(self, kind: tuple[int, int], body: bytes) -> None:
        """One request."""
        head = struct.pack(">hhi", *kind, 0) + text(CLIENT)
        self.socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)

    def receive(self) -> memoryview:
        """The body of the next answer."""
        (size,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(size)[4:]

    def _exactly(self, size: int) -> memoryview:
        buffer, at = memoryview(bytearray(size)), 0
        while at < size:
            got = self.socket.recv_into(buffer[at:])
            if not got:
                raise PeerError("the broker closed the connection")
            at += got
        return buffer

    def make_topic(self, topic: bytes) -> None:
        """Asks for it, which makes it."""
        self.send(METADATA, struct.pack(">i", 1) + text(topic) + b"\x01")
        self.receive()

    def produce(self, topic: bytes, batch: bytes, acks: int = -1) -> int:
        """Waits for the answer; the error code. Raises PeerError for those that don't pass by themselves."""
        self.send_batch(topic, batch, acks)
        return self.produced(topic)

    def send_batch(self, topic: bytes, batch: bytes, acks: int = -1) -> None:
        """Without waiting."""
        head = struct.pack(">hhii", -1, acks, 30_000, 1) + text(topic) + struct.pack(">iii", 1, 0, len(batch))
        self.send(PRODUCE, head + batch)

    def produced(self, topic: bytes) -> int:
        """The answer to the oldest batch."""
        answer = self.receive()
        (error,) = struct.unpack_from(">h", answer, 4 + 2 + len(topic) + 4 + 4)
        if error and error not in RETRIABLE:
            raise PeerError(f"the broker refused a batch with error {error}")
        return int(error)

    def ask(self, topic: bytes, offset: int, bytes_max: int) -> None:
        """Asks for records from this offset on; waits up to half a second for the first byte."""
        body = struct.pack(">iiiibiii", -1, WAIT_MS, 1, bytes_max, 0, 0, -1, 1) + text(topic)
        body += struct.pack(">iiiqqi", 1, 0, -1, offset, -1, bytes_max) + struct.pack(">i", 0) + text(b"")
        self.send(FETCH, body)

    def fetched(self, topic: bytes) -> Fetched:
        """The answer to the oldest question."""
        answer = self.receive()
        error, responses = struct.unpack_from(">h", answer, 4)[0], struct.unpack_from(">i", answer, 10)[0]
        if error or not responses:
            raise PeerError(f"the broker refused a fetch with error {error}")
        at = 14 + 2 + len(topic) + 4
        _, error, high, _, _, aborted = struct.unpack_from(">ihqqqi", answer, at)
        if error:
            raise PeerError(f"the broker refused a fetch with error {error}")
        at += 34 + 16 * max(aborted, 0) + 4
        (size,) = struct.unpack_from(">i", answer, at)
        return Fetched(answer[at + 4 : at + 4 + max(size, 0)], high)
