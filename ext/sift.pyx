# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Picks the records of some conversations out of a committed block.

For sessions so far behind that walking back over all they missed, page after page, would cost more than reading the
log forward once. Whether an event may be seen is not decided here: the caller checks what is returned.

Invariants: records come in ascending sequence; all that lie in (after, reached] and belong to a wanted conversation
are returned. Cost: about 20 ns a record that isn't wanted.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.block cimport blk_count, blk_first, blk_record
from ext.record cimport rec_u64


cdef bint _wanted(const uint64_t *conversations, Py_ssize_t count, uint64_t conversation) noexcept nogil:
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if conversations[middle] < conversation:
            low = middle + 1
        else:
            high = middle
    return low < count and conversations[low] == conversation


cdef uint32_t _next(const uint8_t *block, uint32_t i, uint32_t end, const uint64_t *conversations,
                    Py_ssize_t count) noexcept nogil:
    """The first wanted record from i on, or end."""
    cdef uint32_t size
    while i < end and not _wanted(conversations, count, rec_u64(blk_record(block, i, &size), 1)):
        i += 1
    return i


def sift(const uint8_t[::1] block, const uint64_t[::1] conversations, uint64_t after, uint64_t upto, size_t bytes_max):
    """(records, reached): copies of what is wanted, until they hold `bytes_max`; `conversations` ascend."""
    cdef const uint8_t *data = &block[0]
    cdef const uint8_t *record
    cdef uint64_t first = blk_first(data)
    cdef uint32_t count = blk_count(data), i, end, size
    cdef Py_ssize_t n = conversations.shape[0]
    cdef const uint64_t *wanted = &conversations[0] if n else NULL
    cdef size_t held = 0
    if upto < first or after >= first + count:
        return [], after
    i = <uint32_t>(after + 1 - first) if after >= first else 0
    end = count if upto >= first + count - 1 else <uint32_t>(upto - first + 1)
    picked = []
    while held < bytes_max:
        with nogil:  # no Python objects: block and conversations are pinned by their views
            i = _next(data, i, end, wanted, n)
        if i >= end:
            break
        record = blk_record(data, i, &size)
        picked.append(record[:size])
        held += size
        i += 1
    return picked, first + i - 1


def block_span(const uint8_t[::1] block):
    """(first sequence, count of records) of a block."""
    return blk_first(&block[0]), blk_count(&block[0])
