"""The bytes around blocks: names of files, keys, and the header of a segment. What they mean: engine/LOG_FORMAT.md.

Used by everything in engine/log. Blocks and records have their bytes in ext/block and ext/record.

Invariants: a header that is not wholly right is refused, by version (LogVersion) or by damage (LogDamaged).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import LogDamaged, LogVersion
from ext import block as blocks
from ext.crc32c import crc32c

SEGMENT_MAGIC: Final = b"GNS1"
SEGMENT_VERSION: Final = 1
LMDB_ENGINE: Final = 0  # the 0.9 series; its files and those of 1.0 can't read each other
HEADER_KEY: Final = b"\x00"  # sorts before every sequence
SUFFIX: Final = ".lmdb"
MAKING_SUFFIX: Final = ".new"
LMDB_LOCK_SUFFIX: Final = "-lock"
LOCK_NAME: Final = "lock"
FOLDER: Final = "log"

_HEADER = struct.Struct("<4sHHIIQ32sII")
_EPOCH = struct.Struct("<IIQ")
_CRC = struct.Struct("<I")
NO_HASH: Final = bytes(32)


class SegmentHeader(NamedTuple):
    """What a segment says of itself. `epochs` lists (epoch, first sequence) as known when it was begun."""

    shard: int
    first_sequence: int
    previous_hash: bytes
    epochs: tuple[tuple[int, int], ...]


def key_of(sequence: int) -> bytes:
    """The key of the block whose first event has this sequence."""
    return sequence.to_bytes(8, "big")


def segment_name(first_sequence: int) -> str:
    """The file of the segment that begins with this sequence."""
    return f"{first_sequence:020d}{SUFFIX}"


def first_of_name(name: str) -> int | None:
    """The first sequence in the name of a segment's file; None if it is another file."""
    digits = name.removesuffix(SUFFIX)
    return (
        int(digits) if name.endswith(SUFFIX) and len(digits) == 20 and digits.isascii() and digits.isdigit() else None
    )


def pack_header(header: SegmentHeader) -> bytes:
    """Stored bytes of a segment's header."""
    fixed = _HEADER.pack(
        SEGMENT_MAGIC,
        SEGMENT_VERSION,
        LMDB_ENGINE,
        header.shard,
        0,
        header.first_sequence,
        header.previous_hash,
        len(header.epochs),
        0,
    )
    body = fixed + b"".join(_EPOCH.pack(epoch, 0, first) for epoch, first in header.epochs)
    return body + _CRC.pack(crc32c(body))


def unpack_header(data: bytes | None, path: Path, shard: int | None) -> SegmentHeader:
    """The header of stored bytes; `shard` None takes any. Raises LogVersion, LogDamaged."""
    if data is None or len(data) < _HEADER.size + _CRC.size or data[:4] != SEGMENT_MAGIC:
        raise LogDamaged(f"segment {path} has no header: it is no segment of a Gonets log, or damaged")
    if crc32c(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise LogDamaged(f"the header of segment {path} is damaged: its checksum is wrong")
    _, version, engine, found_shard, _, first, previous_hash, count, _ = _HEADER.unpack_from(data)
    if version != SEGMENT_VERSION or engine != LMDB_ENGINE:
        raise LogVersion(
            f"segment {path} has format {version} on LMDB engine {engine}; this program writes and reads"
            f" format {SEGMENT_VERSION} on engine {LMDB_ENGINE}"
        )
    body_bytes = _HEADER.size + count * _EPOCH.size
    if len(data) != body_bytes + _CRC.size:
        raise LogDamaged(
            f"the header of segment {path} has {len(data)} bytes, its epochs take {body_bytes + _CRC.size}"
        )
    if shard is not None and found_shard != shard:
        raise LogVersion(
            f"segment {path} belongs to shard {found_shard}, not {shard}",
            hint=f"set log.shard = {found_shard}, or choose another data directory",
        )
    if first_of_name(path.name) != first:
        raise LogDamaged(f"segment {path} says that it begins with sequence {first}: the file was renamed")
    epochs = tuple((epoch, first) for epoch, _, first in _EPOCH.iter_unpack(data[_HEADER.size : body_bytes]))
    return SegmentHeader(found_shard, first, previous_hash, epochs)


def fault_text(segment: str, key: int, fault: int, index: int = 0) -> str:
    """One line that names segment, block and event of a fault of ext/block."""
    return f"segment {segment}, block {key}, event {key + index}: {blocks.FAULTS[fault]}"
