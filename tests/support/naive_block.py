"""Blocks and CRC32C in plain Python, from LOG_FORMAT.md alone: the other implementation behind ext/block, ext/crc32c.

`Chain` goes on to make the blocks of a whole log, as admission would, and remembers what a reader must give back.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

from tests.support.naive_log import record_bytes

POLYNOMIAL = 0x82F63B78
TIME_US = 1_795_515_000_000_000
HEADER = struct.Struct("<4sHHIIQII32sqI")


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


TABLE = [_entry(byte) for byte in range(256)]


def crc32c(data: bytes, before: int = 0) -> int:
    """RFC 3720, one byte at a time."""
    crc = before ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def block_bytes(
    records: Sequence[bytes],
    first: int,
    *,
    shard: int = 0,
    epoch: int = 1,
    previous_hash: bytes = bytes(32),
    kafka_offset: int = -1,
    flags: int = 0,
) -> bytes:
    """A block around records, checksums and all."""
    table, at = b"", 0
    for record in records:
        table += struct.pack("<II", at, crc32c(record))
        at += len(record)
    head = HEADER.pack(b"GNB1", 1, flags, len(records), at, first, shard, epoch, previous_hash, kafka_offset, 0)
    return head + struct.pack("<I", crc32c(head + table)) + table + b"".join(records)


def mended(block: bytes) -> bytes:
    """A block that somebody has changed, with all checksums right again: what only the other invariants can find."""
    count = int.from_bytes(block[8:12], "little")
    records = block[80 + 8 * count :]
    starts = [int.from_bytes(block[80 + 8 * i : 84 + 8 * i], "little") for i in range(count)]
    table = b"".join(
        struct.pack("<II", begin, crc32c(records[begin:end]))
        for begin, end in zip(starts, [*starts[1:], len(records)], strict=True)
    )
    return block[:76] + struct.pack("<I", crc32c(block[:76] + table)) + table + records


class Chain:
    """Blocks of a log that is right. An event is (conversation, payload); sequences begin at `first`."""

    def __init__(self, shard: int = 0, first: int = 1, previous_hash: bytes = bytes(32)) -> None:
        self.shard, self.first, self.hash = shard, first, previous_hash
        self.records: list[bytes] = []
        self.blocks: list[bytes] = []
        self.heads: dict[int, tuple[int, int]] = {}
        self._before: tuple[int, dict[int, tuple[int, int]], bytes] = (0, {}, previous_hash)  # the last block

    @property
    def last(self) -> int:
        """The newest sequence."""
        return self.first - 1 + len(self.records)

    def block(self, events: Iterable[tuple[int, bytes]]) -> bytes:
        """The next block."""
        self._before = (len(self.records), dict(self.heads), self.hash)
        begins = self.last + 1
        new: list[bytes] = []
        for conversation, payload in events:
            sequence = begins + len(new)
            previous, number = self.heads.get(conversation, (0, 0))
            self.heads[conversation] = (sequence, number + 1)
            new.append(
                record_bytes(
                    sequence,
                    (self.shard << 40) + conversation,
                    number + 1,
                    previous,
                    TIME_US + sequence,
                    1 + conversation % 5,
                    1,
                    sequence,
                    "message",
                    payload,
                )
            )
        made = block_bytes(new, begins, shard=self.shard, previous_hash=self.hash)
        self.records += new
        self.blocks.append(made)
        self.hash = hashlib.sha256(made).digest()
        return made

    def forget(self) -> None:
        """The last block never came to be."""
        kept, self.heads, self.hash = self._before
        del self.records[kept:], self.blocks[-1:]

    def record(self, sequence: int) -> bytes:
        """A record by its sequence."""
        return self.records[sequence - self.first]

    def blocks_after(self, sequence: int, limit_bytes: int) -> list[bytes]:
        """What a reader must give."""
        found: list[bytes] = []
        begins = self.first
        for block in self.blocks:
            begins += int.from_bytes(block[8:12], "little")
            if begins > sequence + 1 and sum(map(len, found)) < max(limit_bytes, 1):
                found.append(block)
        return found

    def walk(self, head: int, after: int, limit: int) -> list[bytes]:
        """The chain from head back."""
        found: list[bytes] = []
        while head > after and len(found) < limit:
            found.append(self.record(head))
            head = int.from_bytes(found[-1][29:37], "big")
        return found
