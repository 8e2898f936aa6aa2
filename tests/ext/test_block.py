"""Blocks: built natively and in plain Python alike; no flipped bit stays unseen; no bytes make a check read outside."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext import block as blocks
from ext.record import Record, encode
from tests.support.naive_block import block_bytes, crc32c, mended

BAD_SIZE, BAD_MAGIC, BAD_VERSION, BAD_HEADER, BAD_TABLE, BAD_RECORD, BAD_SHAPE, BAD_SEQUENCE = range(1, 9)
PAYLOADS = st.lists(st.binary(max_size=40), min_size=1, max_size=8)
U32, HASHES = st.integers(0, (1 << 32) - 1), st.binary(min_size=32, max_size=32)


def records_of(payloads: list[bytes], first: int) -> list[bytes]:
    """Records of consecutive sequences."""
    return [
        encode(*Record(first + i, 77, 1 + i, 0, 1_000 + i, 1, 7, 1 + i, "message", payload))
        for i, payload in enumerate(payloads)
    ]


def built(records: list[bytes], first: int, **fields: Any) -> bytes:
    """A block by the builder."""
    builder = blocks.BlockBuilder()
    for record in records:
        builder.add(record)
    assert builder.count == len(records)
    usual: dict[str, Any] = {"shard": 0, "epoch": 1, "previous_hash": bytes(32)}
    return builder.finish(first_sequence=first, **(usual | fields))


RECORDS = records_of([b"hello", b"", b"world!"], 1042)
BLOCK = built(RECORDS, 1042)


@given(PAYLOADS, st.integers(1, 1 << 53), U32, U32, HASHES, st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_round_trip_against_plain_python(
    payloads: list[bytes], first: int, shard: int, epoch: int, previous_hash: bytes, kafka_offset: int
) -> None:
    """The same bytes from both, and everything that went in comes out."""
    records = records_of(payloads, first)
    fields: dict[str, Any] = {
        "shard": shard, "epoch": epoch, "previous_hash": previous_hash, "kafka_offset": kafka_offset,
    }  # fmt: skip
    block = built(records, first, **fields)
    assert block == block_bytes(records, first, **fields)
    size = sum(map(len, records))
    assert blocks.header(block) == (1, 0, len(records), size, first, shard, epoch, previous_hash, kafka_offset)
    assert blocks.check(block)[0] == 0
    assert blocks.check_header(block) == 0
    assert blocks.copy_checked(memoryview(block)) == (block, 0, 0)
    assert list(blocks.records(block)) == records
    for i, record in enumerate(records):
        assert blocks.find(block, first + i) == (record, 0)
        assert blocks.holds(block, first + i)
    for sequence in (first - 1, first + len(records)):
        assert blocks.find(block, sequence) == (None, BAD_TABLE)
        assert not blocks.holds(block, sequence)


def test_a_builder_begins_anew_after_each_block() -> None:
    """And grows as far as it must."""
    builder = blocks.BlockBuilder()
    for first, count in ((1, 3), (4, 5_000), (5_004, 1)):
        records = records_of([b"x" * (first % 50)] * count, first)
        for record in records:
            builder.add(record)
        block = builder.finish(first_sequence=first, shard=0, epoch=1, previous_hash=bytes(32))
        assert builder.count == 0
        assert blocks.check(block)[0] == 0
        assert list(blocks.records(block)) == records


def test_what_is_no_block_is_not_built() -> None:
    """Nothing in it, a hash of another size, more than readers believe."""
    builder = blocks.BlockBuilder()
    with pytest.raises(ValueError, match="a block of 0 records"):
        builder.finish(first_sequence=1, shard=0, epoch=1, previous_hash=bytes(32))
    for record in records_of([b"x" * 65_536] * 256, 1):
        builder.add(record)
    with pytest.raises(ValueError, match="a hash of 31 bytes"):
        builder.finish(first_sequence=1, shard=0, epoch=1, previous_hash=bytes(31))
    with pytest.raises(ValueError, match="16777216 bytes are the limits"):
        builder.finish(first_sequence=1, shard=0, epoch=1, previous_hash=bytes(32))


def flipped(block: bytes, bit: int) -> bytes:
    """The block with one bit the other way."""
    changed = bytearray(block)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_is_found() -> None:
    """L1: by the check of the whole, by the checked copy, and by a look at the record in which it lies."""
    table, area = 80, 80 + 8 * len(RECORDS)
    begins = [area]
    for record in RECORDS:
        begins.append(begins[-1] + len(record))
    for bit in range(8 * len(BLOCK)):
        bad, at = flipped(BLOCK, bit), bit // 8
        fault, index = blocks.check(bad)
        assert fault, bit
        assert blocks.copy_checked(bad) == (None, fault, index)
        assert bool(blocks.check_header(bad)) == (at < area)
        for i, record in enumerate(RECORDS):
            found = blocks.find(bad, 1042 + i)
            assert found in [(record, 0), (None, found[1])], bit  # the right bytes or none
            if begins[i] <= at < begins[i + 1]:
                assert found == (None, BAD_RECORD)
                assert (fault, index) == (BAD_RECORD, i)
            elif at >= area:
                assert found == (record, 0)  # a damaged neighbour harms nobody
        if table <= at < area:
            assert fault == BAD_HEADER


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (b"", BAD_SIZE),
        (BLOCK[:79], BAD_SIZE),
        (BLOCK[:-1], BAD_SIZE),
        (BLOCK + b"\x00", BAD_SIZE),
        (b"GNB2" + BLOCK[4:], BAD_MAGIC),
        (BLOCK[:4] + b"\x02" + BLOCK[5:], BAD_VERSION),
        (BLOCK[:8] + bytes(4) + BLOCK[12:], BAD_SIZE),  # no records
        (BLOCK[:24] + b"\x01" + BLOCK[25:], BAD_HEADER),
        (block_bytes([RECORDS[0], b"no record", RECORDS[2]], 1042), BAD_SHAPE),
        (block_bytes([RECORDS[0], RECORDS[2], RECORDS[1]], 1042), BAD_SEQUENCE),
        (block_bytes(RECORDS, 1043), BAD_SEQUENCE),
    ],
)
def test_each_fault_has_its_number(changed: bytes, fault: int) -> None:
    """What is wrong, in the order in which it is looked at."""
    assert blocks.check(changed)[0] == fault
    assert blocks.copy_checked(changed)[:2] == (None, fault)
    assert blocks.FAULTS[fault]


def with_table(offsets: list[int]) -> bytes:
    """The block with another offset table, and a header whose checksum is right for it."""
    table = b"".join(offset.to_bytes(4, "little") + BLOCK[84 + 8 * i : 88 + 8 * i] for i, offset in enumerate(offsets))
    return BLOCK[:76] + crc32c(BLOCK[:76] + table).to_bytes(4, "little") + table + BLOCK[104:]


def test_a_table_that_leads_astray_is_refused() -> None:
    """Even if its checksum is right: no record outside the block, none inside another."""
    good = [0, len(RECORDS[0]), len(RECORDS[0]) + len(RECORDS[1])]
    assert with_table(good) == BLOCK
    astray = [[1, *good[1:]], [0, 0, good[2]], [0, good[2], good[1]], [0, good[1], 1 << 31], [0, 1 << 31, good[2]]]
    for offsets in astray:
        assert blocks.check_header(with_table(offsets)) == BAD_TABLE, offsets
        assert blocks.check(with_table(offsets))[0] in (BAD_TABLE, BAD_RECORD), offsets  # what comes first
    assert blocks.find(with_table([0, good[1], 1 << 31]), 1044) == (None, BAD_TABLE)
    assert blocks.find(with_table([0, 0, good[2]]), 1042) == (None, BAD_TABLE)


def test_unknown_flags_are_passed_over() -> None:
    """LOG_FORMAT: a reader passes over bits that it doesn't know."""
    block = block_bytes(RECORDS, 1042, flags=0xFFFF)
    assert blocks.check(block)[0] == 0
    assert blocks.header(block).flags == 0xFFFF


def test_a_record_at_anothers_place_is_not_given() -> None:
    """find() believes a record's own number, not its place."""
    swapped = block_bytes([RECORDS[1], RECORDS[0], RECORDS[2]], 1042)
    assert blocks.find(swapped, 1042) == (None, BAD_SEQUENCE)
    assert blocks.find(swapped, 1044) == (RECORDS[2], 0)
    assert blocks.find(block_bytes([b"no record", RECORDS[1]], 1042), 1042) == (None, BAD_SHAPE)


def fuzzed(random_: random.Random) -> bytes:
    """Mutated, truncated, lengthened, or nothing but noise; half of them with checksums that are right again."""
    data = bytearray(BLOCK if random_.random() < 0.9 else random_.randbytes(random_.randrange(300)))
    for _ in range(random_.randrange(5)):
        if not data:
            break
        at = random_.choice([random_.randrange(len(data)), random_.randrange(min(len(data), 104))])
        data[at : at + 4] = random_.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", random_.randbytes(4)])
    if random_.random() < 0.3:
        data = data[: random_.randrange(len(data) + 1)] + random_.randbytes(random_.randrange(30))
    if random_.random() < 0.5 and len(data) >= 80:
        count = int.from_bytes(data[8:12], "little")
        if count and 80 + 8 * count <= len(data):
            return mended(bytes(data))
    return bytes(data)


def test_no_bytes_make_a_check_fall() -> None:
    """Each function answers or raises ValueError for anything; under ASAN this finds reads outside."""
    random_ = random.Random(11)
    good = 0
    for _ in range(20_000):
        data = fuzzed(random_)
        fault, index = blocks.check(data)
        good += not fault
        copy, copy_fault, copy_index = blocks.copy_checked(data)
        assert (copy_fault, copy_index if fault else 0) == (fault, index if fault else 0)
        assert copy == (None if fault else data)
        blocks.check_header(data)
        if len(data) >= 80:
            head = blocks.header(data)
        else:
            with pytest.raises(ValueError, match="are no block"):
                blocks.header(data)
            assert not blocks.holds(data, 1042)
            head = None
        for sequence in (0, 1041, 1042, 1043, 1044, 1045, (1 << 64) - 1):
            record, record_fault = blocks.find(data, sequence)
            assert (record is None) == bool(record_fault)
            if record is not None:
                assert int.from_bytes(record[2:10], "big") == sequence
                assert head is not None
                assert blocks.holds(data, sequence)
        if not fault:
            assert len(list(blocks.records(data))) == blocks.header(data).count
    assert good > 100  # the fuzz also reaches what lies behind the checks
