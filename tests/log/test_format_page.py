"""LOG_FORMAT.md says what the code does: its bytes bit by bit, its tables field by field, its crash states by name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgpack

from engine import schema
from engine.answers import key_of
from engine.log import format as fmt
from ext import block as blocks
from ext.record import Record, decode, encode, record_key
from tests.support.naive_block import block_bytes

PAGE = (Path(__file__).resolve().parents[2] / "engine" / "LOG_FORMAT.md").read_text(encoding="utf-8")
PREVIOUS_HASH = hashlib.sha256(b"").digest()
FIRST = Record(1042, 77, 5, 1038, 1_795_515_000_000_000, 1, 7, 3, "message", b"hello")
SECOND = FIRST._replace(
    sequence=1043, conversation_sequence=6, previous=1042, sender=2, device=9, counter=1, payload=b"hi"
)


def hex_block(name: str) -> bytes:
    """The bytes of an annotated block of the page."""
    found = re.search(rf"```{name}\n(.*?)```", PAGE, re.S)
    assert found
    lines = [re.match(r"((?:[0-9a-f]{2}(?: |$))+)", line) for line in found.group(1).splitlines()]
    assert all(lines)
    return b"".join(bytes.fromhex(line.group(1)) for line in lines if line)


def table(title: str) -> list[list[str]]:
    """The rows of the first table of a section."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section
    rows = re.findall(r"^\| (.*) \|$", section.group(1), re.M)
    return [[cell.strip(" `") for cell in row.split("|")] for row in rows[1:] if not row.startswith("---")]


def built(*records: bytes) -> bytes:
    """The block of the page around these records."""
    builder = blocks.BlockBuilder()
    for record in records:
        builder.add(record)
    return builder.finish(first_sequence=1042, shard=0, epoch=1, previous_hash=PREVIOUS_HASH)


def test_the_header_of_a_segment() -> None:
    """Made and read."""
    header = fmt.SegmentHeader(0, 1042, PREVIOUS_HASH, ((1, 1), (2, 900)))
    data = hex_block("segment")
    assert fmt.pack_header(header) == data
    assert fmt.unpack_header(data, Path(fmt.segment_name(1042)), 0) == header


def test_a_record() -> None:
    """Made, read, and read by any MessagePack library."""
    data = hex_block("record")
    assert encode(*FIRST) == data
    assert decode(data) == FIRST
    assert msgpack.unpackb(data) == list(FIRST)


def test_a_record_with_a_key() -> None:
    """Made from the text of the key, read, and read by any MessagePack library."""
    data, fields, key = hex_block("keyed"), FIRST._replace(device=0, counter=0), key_of(1, "order 7")
    assert encode(*fields, key) == data
    assert (decode(data), record_key(data), record_key(hex_block("record"))) == (fields, key, b"")
    assert msgpack.unpackb(data) == [*fields, key]


def test_a_block() -> None:
    """The page shows header and table, and says what both records are."""
    data = hex_block("block")
    records = [encode(*FIRST), encode(*SECOND)]
    assert [len(record) for record in records] == [92, 89]
    made = built(*records)
    assert made[:-181] == data
    assert made == block_bytes(records, 1042, previous_hash=PREVIOUS_HASH)
    assert blocks.check(made)[0] == 0


def test_a_whole_block_is_pinned() -> None:
    """Whatever else changes, these bytes mean this to every version from now on."""
    data = built(encode(*FIRST), encode(*SECOND._replace(payload=bytes(range(256)))))
    assert len(data) == 96 + 92 + 343
    assert hashlib.sha256(data).hexdigest() == "4cba172778f6c44aab97ad31ff24e6d6cc295e31e7bc2db05b53f74af88be5ee"


def test_places_of_the_tables_are_those_of_the_code() -> None:
    """Each row begins where the one before ends, and holds what the code reads there."""
    block = block_bytes([encode(*FIRST)], 1042, shard=3, epoch=9, previous_hash=PREVIOUS_HASH, kafka_offset=5, flags=6)
    expected = {
        "magic": b"GNB1", "version": 1, "flags": 6, "count": 1, "records bytes": 92, "first sequence": 1042,
        "shard": 3, "epoch": 9, "previous hash": PREVIOUS_HASH, "Kafka offset": 5,
    }  # fmt: skip
    at = 0
    for offset, size, kind, name, _ in table("Block")[:-2]:
        assert int(offset) == at
        stored = block[at : at + int(size)]
        at += int(size)
        if name in expected:
            assert (stored if kind == "bytes" else int.from_bytes(stored, "little")) == expected.pop(name), name
    assert not expected
    assert at == blocks.HEADER_SIZE
    names = [row[3].replace(" ", "_") for row in table("Record")[1:]]
    assert names == [*Record._fields, "key"]
    for row, value in zip(table("Record")[1:9], FIRST[:8], strict=True):
        assert int.from_bytes(hex_block("record")[int(row[0]) + 1 :][:8], "big") == value, row


def test_the_engines_own_events() -> None:
    """Each type with the fields of its payload, in the order in which they are written."""
    listed = {row[0]: row[1].split(", ") for row in table("The engine's own events")}
    assert listed == {
        name: list(schema.SCHEMA[name].__struct_fields__) for name in schema.SCHEMA if name in schema.SYSTEM
    }


def test_every_invariant_is_named_where_it_is_checked() -> None:
    """L1 to L9: `gonets log check` cites each, and the page defines each."""
    check = (Path(fmt.__file__).parent / "check.py").read_text(encoding="utf-8")
    for number in range(1, 10):
        assert f"L{number}." in PAGE
        assert re.search(rf"[\"{{]L{number}\b", check), number
