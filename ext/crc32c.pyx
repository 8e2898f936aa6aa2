# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""CRC32C, the checksum of records and blocks (RFC 3720, 12.1): the processor's instruction where it has one.

Used by ext/block for every record written and read. The portable way is a table of 8 KiB; a test compares both.

Invariants: a crc of nothing is 0; crc_on(crc(a), b) is crc(a + b). Cost: about 0.4 ns for 8 bytes by instruction.
"""
from libc.stdint cimport uint8_t, uint32_t

from ext.c_crc32c cimport crc32c_by_table, crc32c_choose, crc32c_has_instruction, crc32c_run

crc32c_choose()
HARDWARE = bool(crc32c_has_instruction())


cdef uint32_t crc(const uint8_t *at, size_t size) noexcept nogil:
    return ~crc32c_run(0xFFFFFFFF, at, size)


cdef uint32_t crc_on(uint32_t before, const uint8_t *at, size_t size) noexcept nogil:
    return ~crc32c_run(~before, at, size)


def crc32c(const uint8_t[::1] data not None, uint32_t before=0):
    """Of the bytes that `before` is the checksum of, followed by data."""
    return crc_on(before, &data[0], data.shape[0]) if data.shape[0] else before


def crc32c_portable(const uint8_t[::1] data not None):
    """The same without the instruction: what another processor would compute."""
    return <uint32_t>~crc32c_by_table(0xFFFFFFFF, &data[0], data.shape[0]) if data.shape[0] else 0
