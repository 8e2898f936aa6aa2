"""CRC32C: the vectors of RFC 3720, the instruction against the table against plain Python, and in parts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.crc32c import HARDWARE, crc32c, crc32c_portable
from tests.support.naive_block import crc32c as naive

VECTORS = [  # RFC 3720, B.4, and the check value of the polynomial
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 0000001828000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_the_vectors_of_the_standard(data: bytes, expected: int) -> None:
    """By whatever the processor has, by the table, and by the naive implementation that other tests lean on."""
    assert crc32c(data) == crc32c_portable(data) == naive(data) == expected


def test_whether_the_instruction_is_used_is_what_the_processor_says() -> None:
    """Else the comparison above compares the table with itself."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = {word for line in file if line.startswith(("flags", "Features")) for word in line.split()}
    except OSError:
        pytest.skip("the processor's features can't be read here")
    assert bool({"sse4_2", "crc32"} & flags) == HARDWARE


def test_every_length_and_alignment() -> None:
    """Both ways take 8 bytes a step and the rest one by one, from any address."""
    data = random.Random(3720).randbytes(200)
    view = memoryview(data)
    for begin in range(9):
        for end in range(begin, begin + 80):
            part = view[begin:end]
            assert crc32c(part) == crc32c_portable(part) == naive(data[begin:end]), (begin, end)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_in_parts_it_is_the_same(first: bytes, second: bytes) -> None:
    """crc(a + b) from crc(a): how header and offset table get one checksum."""
    assert crc32c(second, crc32c(first)) == crc32c(first + second) == naive(second, naive(first))


def test_a_megabyte() -> None:
    """As long as a block."""
    data = random.Random(1).randbytes((1 << 20) + 5)
    assert crc32c(data) == crc32c_portable(data)
    assert crc32c(data[:-1]) != crc32c(data)
