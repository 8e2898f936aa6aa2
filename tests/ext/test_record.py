"""Records: round trips against MessagePack and against plain Python; what is none is refused, whatever it holds."""

from __future__ import annotations

import random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.record import Record, decode, encode, record_key
from tests.support.naive_log import record_bytes

U64 = st.integers(0, (1 << 64) - 1)
TYPES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=16)
RECORDS = st.builds(Record, U64, U64, U64, U64, U64, U64, U64, U64, TYPES, st.binary(max_size=300))
PLAIN = Record(1042, 77, 5, 1038, 1_795_515_000_000_000, 1, 7, 3, "message", b"hello")


@given(RECORDS)
def test_a_round_trip_that_any_msgpack_library_reads(fields: Record) -> None:
    """L1: the bytes are those of the naive encoder, and of the array of ten that they claim to be."""
    data = encode(*fields)
    assert data == record_bytes(*fields)
    assert decode(data) == fields
    assert decode(memoryview(data)) == fields
    assert msgpack.unpackb(data) == list(fields)
    assert len(data) == 80 + len(fields.type.encode()) + len(fields.payload)


@given(RECORDS, st.binary(min_size=16, max_size=16))
def test_a_record_with_a_key_is_the_same_and_a_field_more(fields: Record, key: bytes) -> None:
    """What doesn't know of keys reads the ten fields; any MessagePack library reads eleven."""
    data = encode(*fields, key)
    assert data == record_bytes(*fields, key)
    assert (decode(data), record_key(data), record_key(memoryview(data))) == (fields, key, key)
    assert msgpack.unpackb(data) == [*fields, key]
    assert record_key(encode(*fields)) == b""


@pytest.mark.parametrize("key", [b"x" * 15, b"x" * 17])
def test_a_key_has_sixteen_bytes(key: bytes) -> None:
    with pytest.raises(ValueError, match=f"a key of {len(key)} bytes"):
        encode(*PLAIN, key)


def test_what_else_lies_behind_the_tenth_field_is_no_key() -> None:
    """Of another type or length, or cut short; a field behind the key is passed over."""
    for more in (
        b"\xc0",
        b"\xc4\x0f" + b"k" * 15,
        b"\xc4\x11" + b"k" * 17,
        b"\xd8\x10" + b"k" * 16,
        b"\xc4\x10" + b"k" * 15,
    ):
        assert record_key(b"\x9b" + encode(*PLAIN)[1:] + more) == b""
    assert record_key(b"\x9c" + encode(*PLAIN)[1:] + b"\xc4\x10" + b"k" * 16 + b"\xc0") == b"k" * 16
    with pytest.raises(ValueError, match="are no record"):
        record_key(encode(*PLAIN)[:-1])


@pytest.mark.parametrize(("type_bytes", "payload_bytes"), [(1, 0), (64, 0), (1, 65_536), (64, 65_536)])
def test_the_ends_of_what_fits(type_bytes: int, payload_bytes: int) -> None:
    """A type of 1 to 64 bytes, a payload of 0 to 65,536."""
    fields = PLAIN._replace(type="t" * type_bytes, payload=b"p" * payload_bytes)
    assert decode(encode(*fields)) == fields
    assert msgpack.unpackb(encode(*fields)) == list(fields)


@pytest.mark.parametrize(
    "fields", [PLAIN._replace(type=""), PLAIN._replace(type="t" * 65), PLAIN._replace(payload=b"p" * 65_537)]
)
def test_what_does_not_fit_is_refused_at_both_ends(fields: Record) -> None:
    """Neither written nor believed."""
    with pytest.raises(ValueError, match="at most 65536"):
        encode(*fields)
    with pytest.raises(ValueError, match="are no record"):
        decode(record_bytes(*fields))


@pytest.mark.parametrize("fields", [11, 12, 13, 14, 15])
def test_a_later_version_with_more_fields_is_read(fields: int) -> None:
    """What is behind the tenth is passed over."""
    more = b"".join(msgpack.packb(value) for value in (list(range(40)), "x" * 40, None, 1 << 63, b"z")[: fields - 10])
    data = bytes([0x90 + fields]) + encode(*PLAIN)[1:] + more
    assert decode(data) == PLAIN
    assert msgpack.unpackb(data)[:10] == list(PLAIN)


@pytest.mark.parametrize("head", [0x90, 0x99, 0xA0, 0xDC, 0x00])
def test_fewer_fields_or_no_array_at_all_are_refused(head: int) -> None:
    """0x9a is the first version's; nothing below, and no other way to write an array."""
    for more in (b"", b"\x00"):
        with pytest.raises(ValueError, match="are no record"):
            decode(bytes([head]) + encode(*PLAIN)[1:] + more)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(*PLAIN) + b"\x00",  # an array of ten has nothing behind its tenth field
        b"\x9b" + encode(*PLAIN)[1:],  # an array of eleven has
    ],
)
def test_a_length_that_the_head_denies_is_refused(data: bytes) -> None:
    """The size is the record's own."""
    with pytest.raises(ValueError, match="are no record"):
        decode(data)


def test_every_truncation_is_refused() -> None:
    """Nothing is read behind the end."""
    data = encode(*PLAIN)
    for size in range(len(data)):
        with pytest.raises(ValueError, match="are no record"):
            decode(data[:size])


def test_every_marker_counts() -> None:
    """The byte in front of each field says how it is written; another one makes it another thing."""
    data = encode(*PLAIN)
    for at in [*range(1, 73, 9), 73, 75 + len(PLAIN.type)]:
        for marker in {0x00, 0xCE, 0xCF, 0xD3, 0xD9, 0xDA, 0xC4, 0xC6, 0xFF} - {data[at]}:
            with pytest.raises(ValueError, match="are no record"):
                decode(data[:at] + bytes([marker]) + data[at + 1 :])


def test_random_and_mutated_bytes_are_decoded_or_refused() -> None:
    """No crash, and what is accepted is what MessagePack reads in the same bytes."""
    random_ = random.Random(10)
    base = encode(*PLAIN)
    for _ in range(20_000):
        data = bytearray(base if random_.random() < 0.9 else random_.randbytes(random_.randrange(200)))
        for _ in range(random_.randrange(1, 4)):
            if data:
                data[random_.randrange(len(data))] = random_.randrange(256)
        if random_.random() < 0.3:
            data = data[: random_.randrange(len(data) + 1)] + random_.randbytes(random_.randrange(20))
        try:
            fields = decode(bytes(data))
        except ValueError:
            continue
        if data[0] == 0x9A:
            assert list(fields) == msgpack.unpackb(bytes(data), unicode_errors="replace")
