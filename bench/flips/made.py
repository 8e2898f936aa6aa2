"""Logs to flip bits of: small ones with every kind of LMDB's pages in few bytes, large ones of tens of megabytes.

Written by the real writer, block by block, from a seed.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from engine.log import format as fmt
from engine.log.writer import Log
from ext.block import BlockBuilder
from ext.record import encode

CONVERSATIONS = 5


class Made:
    """A log, and the records that it holds in the order of their sequences."""

    def __init__(self, data: Path, segment_bytes: int, seed: int) -> None:
        self.data = data
        self.records: list[bytes] = []
        self._log = Log.open(data, segment_bytes=segment_bytes)
        self._hash = fmt.NO_HASH
        self._chance = random.Random(seed)
        self._heads: dict[int, tuple[int, int]] = {}

    @property
    def files(self) -> list[Path]:
        """The segments, in order."""
        return sorted((self.data / fmt.FOLDER).glob(f"*{fmt.SUFFIX}"))

    def next_block(self, count: int, size: int) -> tuple[bytes, list[bytes]]:
        """The block that would follow, of `count` events with payloads of `size` bytes, and its records."""
        builder, records, first = BlockBuilder(), [], len(self.records) + 1
        for sequence in range(first, first + count):
            conversation = 1 + self._chance.randrange(CONVERSATIONS)
            previous, number = self._heads.get(conversation, (0, 0))
            self._heads[conversation] = (sequence, number + 1)
            payload = self._chance.randbytes(size)
            records.append(encode(sequence, conversation, number + 1, previous, sequence, 1, 1, sequence, "m", payload))
            builder.add(records[-1])
        block = builder.finish(first_sequence=first, shard=0, epoch=1, previous_hash=self._hash)
        return block, records

    def append(self, count: int, size: int) -> None:
        """One commit."""
        block, records = self.next_block(count, size)
        self._log.append(block)
        self._hash = hashlib.sha256(block).digest()
        self.records += records

    def close(self) -> None:
        """No file is open any more."""
        self._log.close()


def small(data: Path, seed: int) -> Made:
    """Two segments of a few pages each: leaves with blocks inside, a branch, and blocks with pages of their own."""
    made = Made(data, 40 << 10, seed)
    number, end = 0, 0
    while len(made.files) < 2 or number < end:
        made.append(*((2, 100), (3, 300), (1, 700), (5, 60), (9, 700))[4 if number % 11 == 7 else number % 4])
        number += 1
        end = end or (len(made.files) > 1) * (number + 2)
    made.close()
    return made


def large(data: Path, seed: int, megabytes: int) -> Made:
    """Three segments and a part of a fourth."""
    made = Made(data, (megabytes << 20) // 4, seed)
    number = 0
    while len(made.files) < 4:
        made.append(*((40, 300), (1, 60), (400, 500), (3, 900))[number % 4])
        number += 1
    made.close()
    return made
