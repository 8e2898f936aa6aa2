"""Latency histograms of the load generator: HdrHistogram's own bucket layout, and a coarse one for each second.

Used by all of ext/load*. With a lowest value of 1 ns, a highest of an hour and three significant digits, index and
bounds of each bucket are those of the library, so that its readers can add, compare and plot what was counted here.
What is above the highest value is counted as the highest. The coarse one (6 % wide) is small enough to be sent and
emptied each second.

Cost: a dozen instructions a value; 270 KB a histogram.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from ext.c_load cimport log2_floor, store_le64

HDR = (1, 3_600_000_000_000, 3)     # lowest ns, highest ns, digits: what the library must be made with

cdef uint64_t HIGHEST_NS = <uint64_t>3_600_000_000_000


cdef uint32_t hdr_at(uint64_t ns) noexcept nogil:
    cdef uint32_t bucket
    if ns > HIGHEST_NS:
        ns = HIGHEST_NS
    bucket = log2_floor(ns | 2047) - 10
    return ((bucket + 1) << 10) + <uint32_t>(ns >> bucket) - 1024


cdef uint64_t hdr_lowest_ns(uint32_t at) noexcept nogil:
    cdef uint32_t bucket = at >> 10, inside = (at & 1023) + 1024
    if bucket == 0:
        return at
    return <uint64_t>inside << (bucket - 1)


cdef uint64_t hdr_ns(uint32_t at) noexcept nogil:
    cdef uint32_t bucket = at >> 10
    return hdr_lowest_ns(at) + (<uint64_t>1 << (bucket - 1) >> 1 if bucket else 0)


cdef uint32_t tick_at(uint64_t ns) noexcept nogil:
    cdef uint32_t exponent
    if ns < 16:
        return <uint32_t>ns
    exponent = log2_floor(ns)
    return (exponent - 3) * 16 + <uint32_t>((ns >> (exponent - 4)) & 15)


cdef uint64_t tick_ns(uint32_t at) noexcept nogil:
    cdef uint32_t exponent
    if at < 16:
        return at
    exponent = at // 16 + 3
    return ((<uint64_t>(16 + at % 16)) << (exponent - 4)) + ((<uint64_t>1 << (exponent - 4)) >> 1)


cdef uint64_t *hdr_open() except NULL:
    cdef uint64_t *counts = <uint64_t *>calloc(HDR_COUNTS, 8)
    if counts == NULL:
        raise MemoryError(f"no memory for a histogram of {HDR_COUNTS} counters")
    return counts


cdef bytes hdr_bytes(const uint64_t *counts):
    cdef uint32_t i
    cdef uint8_t pair[16]
    parts = []
    for i in range(HDR_COUNTS):
        if counts[i]:
            store_le64(pair, i)
            store_le64(pair + 8, counts[i])
            parts.append(pair[:16])
    return b"".join(parts)


def hdr_bucket(uint64_t ns):
    """Index of the bucket that counts this latency."""
    return hdr_at(ns)


def hdr_lowest(uint32_t bucket):
    """The lowest latency that a bucket counts."""
    if bucket >= HDR_COUNTS:
        raise ValueError(f"bucket {bucket} is unknown; there are {HDR_COUNTS}")
    return hdr_lowest_ns(bucket)
