# Batches on their way between gateway workers and the sequencer's process: whose they are, and what is unanswered.
# `tag` and `split` are pure; an Unanswered belongs to one thread at a time. Layouts: ext/admission.pxd.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    TAG_SHIFT = 53  # origins of sessions stay below 2^53, see ext/session_table
    TAGS = 2048  # 0 = not tagged

cdef struct Pair:
    uint64_t origin  # 0 = free place
    uint64_t counter

cdef class Unanswered:
    cdef Pair *pairs  # open addressing, linear; the same pair may be in it more than once
    cdef size_t room
    cdef readonly size_t count

    cdef int _grow(self) except -1 nogil
    cdef void _put(self, uint64_t origin, uint64_t counter) noexcept nogil
    cdef bint _remove(self, uint64_t origin, uint64_t counter) noexcept nogil
