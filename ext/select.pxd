# Selections: what a subscription wants of the log, asked of each record of a block where it lies.
# One thread owns a selection, the table of kinds that it asks, and the picks that it fills. Blocks have passed their check.
# A selection never changes; the table of kinds is shared by all selections of a process and filled by who knows the state.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.flat cimport Flat
from ext.picks cimport Picks
from ext.summary cimport Summary

cdef enum:
    KIND_MAX = 15  # a kind takes half a byte, 0 = not known
    GROUP_SHIFT = 5  # of the 32 conversations of an entry of the table
    KIND_BYTES_MIN = 4194304  # the kinds of a block's conversations fit, however far apart the ids are
    VERDICTS = 16
    SKIPPED_MAX = 10000  # blocks in one go: less than a millisecond
    AHEAD = 24  # records: so far ahead the line of the table is asked for

cdef struct Prefix:
    uint8_t length
    uint8_t text[64]

cdef struct Verdict:  # of a type that was looked at before
    uint8_t length  # 0 = free
    bint wanted
    uint8_t text[64]

cdef struct Ids:  # a set: open addressing, at most half full; 0 marks a free slot
    uint64_t *slots  # NULL = empty
    uint64_t mask, seed, count

@cython.final
cdef class KindTable:
    cdef Flat groups  # one entry for 32 conversations: their kinds lie where other tables have position and flags
    cdef readonly uint64_t bytes_max
    cdef readonly uint64_t clears  # how often it was full and forgot everything

    cdef uint8_t kind_of(self, uint64_t conversation) noexcept nogil  # 0 = not known

@cython.final
cdef class Selection:
    # what is wanted: of each what is named, or all if nothing is
    cdef Prefix *prefixes
    cdef uint32_t prefix_count
    cdef uint32_t kinds_mask
    cdef Ids conversations, senders
    cdef readonly KindTable kinds
    # memory of the last types
    cdef Verdict verdicts[VERDICTS]

    cdef bint wants(self, const uint8_t *record, uint64_t conversation) noexcept nogil  # by all but its kind
    cdef bint type_wanted(self, const uint8_t *record) noexcept nogil
    cdef bint _matches(self, const uint8_t *type, uint32_t length) noexcept nogil
    cdef bint may_want(self, Summary summary) noexcept nogil  # False: nothing of its block
    cdef uint32_t scan(self, const uint8_t *data, uint32_t i, uint32_t end, const uint8_t *shares,
                       Picks picks, Py_ssize_t events_max, uint64_t bytes_max, uint64_t *missing) except? 0
