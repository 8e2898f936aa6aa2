# Buckets of the load generator's histograms. Pure arithmetic on counters that belong to the caller; any thread.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    HDR_COUNTS = 33792          # counters of HdrHistogram(1, 3.6e12, 3): 33 halves of 2,048
    TICK_COUNTS = 1024          # of a second's histogram: 16 buckets an octave of nanoseconds

cdef uint32_t hdr_at(uint64_t ns) noexcept nogil      # HdrHistogram's own index
cdef uint64_t hdr_ns(uint32_t at) noexcept nogil      # middle of the bucket
cdef uint64_t hdr_lowest_ns(uint32_t at) noexcept nogil
cdef uint32_t tick_at(uint64_t ns) noexcept nogil
cdef uint64_t tick_ns(uint32_t at) noexcept nogil     # middle of the bucket
cdef uint64_t *hdr_open() except NULL                 # the caller frees it
cdef bytes hdr_bytes(const uint64_t *counts)          # (index, count) of what isn't 0, 8 bytes each, little-endian
