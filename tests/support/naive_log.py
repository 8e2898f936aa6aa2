"""A log in a list, with blocks as LOG_FORMAT has them: the second implementation behind fan-out and catch-up tests.

Events are appended as plain values; state is recomputed from the whole list at each question, so that nothing
incremental can be wrong here in the same way as in the engine.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.errors import LogDamaged, RecordDamaged, Trimmed


def record_bytes(
    sequence: int,
    conversation: int,
    conversation_sequence: int,
    previous: int,
    time: int,
    sender: int,
    device: int,
    counter: int,
    type_name: str,
    payload: bytes,
    key: bytes = b"",
) -> bytes:
    """A record, field by field."""
    numbers = (sequence, conversation, conversation_sequence, previous, time, sender, device, counter)
    name = type_name.encode()
    return (
        (b"\x9b" if key else b"\x9a")
        + b"".join(b"\xcf" + struct.pack(">Q", number) for number in numbers)
        + b"\xd9"
        + bytes([len(name)])
        + name
        + b"\xc6"
        + struct.pack(">I", len(payload))
        + payload
        + (b"\xc4\x10" + key if key else b"")
    )


def block_bytes(records: list[bytes], first: int) -> bytes:
    """A block around records; checksums are left zero, nothing here looks at them."""
    table, at = b"", 0
    for record in records:
        table += struct.pack("<II", at, 0)
        at += len(record)
    head = struct.pack("<4sHHIIQII32sqII", b"GNB1", 1, 0, len(records), at, first, 0, 1, bytes(32), -1, 0, 0)
    assert len(head) == 80
    return head + table + b"".join(records)


@dataclass
class Event:
    """One event as the model sees it."""

    sequence: int
    conversation: int
    type: str
    sender: int
    payload: dict[str, Any] | bytes
    record: bytes


@dataclass
class NaiveLog:
    """Appends events; answers like LogReader."""

    events: list[Event] = field(default_factory=list)
    blocks: list[tuple[int, bytes]] = field(default_factory=list)
    heads: dict[int, tuple[int, int]] = field(default_factory=dict)
    trimmed_below: int = 1
    damaged: set[int] = field(default_factory=set)
    hops: int = 0

    def append(self, events: Sequence[tuple[int, str, int, dict[str, Any] | bytes]]) -> bytes:
        """(conversation, type, sender, payload)… become one block."""
        first = len(self.events) + 1
        records = []
        for conversation, type_name, sender, payload in events:
            sequence = len(self.events) + 1
            previous, count = self.heads.get(conversation, (0, 0))
            self.heads[conversation] = (sequence, count + 1)
            packed = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
            record = record_bytes(
                sequence,
                conversation,
                count + 1,
                previous,
                1_000_000 + sequence,
                sender,
                1,
                sequence,
                type_name,
                packed,
            )
            records.append(record)
            self.events.append(Event(sequence, conversation, type_name, sender, payload, record))
        block = block_bytes(records, first)
        self.blocks.append((first, block))
        return block

    # LogReader

    def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
        """As the port says."""
        if sequence + 1 < self.trimmed_below:
            raise Trimmed(f"sequence {sequence + 1} is below {self.trimmed_below}")
        begins, following = self.stretch(sequence + 1)
        if sequence < len(self.events) and self.damaged.intersection(range(begins, following or begins)):
            raise LogDamaged(f"block {begins}")
        found: list[bytes] = []
        for place, (_first, block) in enumerate(self.blocks):
            end = self.blocks[place + 1][0] if place + 1 < len(self.blocks) else len(self.events) + 1
            if found and self.damaged.intersection(range(_first, end)):
                break
            if end > sequence + 1 and (not found or sum(map(len, found)) < limit_bytes):
                found.append(block)
        return found

    def stretch(self, sequence: int) -> tuple[int, int | None]:
        """As the port says."""
        begins = max((first for first, _ in self.blocks if first <= sequence), default=1)
        return begins, min((first for first, _ in self.blocks if first > sequence), default=len(self.events) + 1)

    def record(self, sequence: int) -> bytes | None:
        """As the port says."""
        if sequence < self.trimmed_below:
            raise Trimmed(f"sequence {sequence} is below {self.trimmed_below}")
        if sequence in self.damaged:
            raise RecordDamaged(f"sequence {sequence}")
        return self.events[sequence - 1].record if sequence <= len(self.events) else None

    def walk(self, head: int, conversation: int, after: int, limit: int) -> list[bytes]:
        """As the port says."""
        found: list[bytes] = []
        while head > after and len(found) < limit:
            record = self.record(head)
            assert record is not None
            assert int.from_bytes(record[11:19], "big") == conversation
            found.append(record)
            self.hops += 1
            head = int.from_bytes(record[29:37], "big")
        return found
