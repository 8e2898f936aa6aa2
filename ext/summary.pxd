# Summaries: a block, and in short what it holds, so that who wants nothing of it learns so without a pass over its records.
# Built when first asked, then asked by every selection (ext/select). Never wrong where it says no; where it says yes, look.
# A summary keeps its block alive. One thread asks. Blocks come from a reader of the log, which has checked them.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    SMALL = 64  # records: a block of no more is summed up for the first who asks, a larger one for the second
    TYPES_KEPT = 16  # distinct ones; a block of more says yes to every type

cdef struct Tags:  # a set of 32-bit hashes: open addressing, at most half full; 0 marks a free slot
    uint32_t *slots
    uint32_t mask

@cython.final
cdef class Summary:
    # what it is of
    cdef readonly bytes block
    cdef const uint8_t *data  # the block's
    cdef readonly uint64_t first, last  # the sequences that it stands for: more than it holds where damage lies before it
    cdef readonly uint32_t count  # records
    cdef bint was_asked
    # what is in it, once that was needed
    cdef readonly bint is_built
    cdef Tags conversations, senders
    cdef const uint8_t *types[TYPES_KEPT]  # a record of each, in the block
    cdef uint32_t type_count  # TYPES_KEPT + 1: more than that

    cdef int build(self) except -1
    cdef int note_type(self, const uint8_t *record) except -1

cdef bint tags_have(const Tags *tags, uint64_t number) noexcept nogil
