# What one connection has heard of each conversation: the last conversation sequence, so that a hole shows at once.
# A Heard belongs to its connection, and is touched by the generator's thread only. 16 bytes a conversation, none
# before the first event.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct Place:
    uint64_t conversation       # 0: free
    uint64_t last               # conversation sequence
    uint32_t missing            # left out before it, and not come since
    uint32_t gapped             # 1: the server has said that some are left out

cdef struct Heard:
    Place *at
    uint32_t used, room         # room: a power of two, or 0

cdef enum Hearing:
    HEARD_NEXT = 0              # the one after the last, or the first of its conversation
    HEARD_HOLE = 1              # some before it have not come
    HEARD_GAP = 2               # the same, and the server had said so

cdef int heard_event(Heard *heard, uint64_t conversation, uint64_t sequence, uint64_t *left_out) except -1 nogil
cdef bint heard_before(Heard *heard, uint64_t conversation, uint64_t sequence) noexcept nogil
cdef int64_t heard_gap(Heard *heard, uint64_t conversation, uint64_t newest) except -1 nogil
cdef void heard_free(Heard *heard) noexcept nogil
