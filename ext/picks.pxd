# Picks: records that were picked out of blocks, as places in them, and what they become when they leave.
# A Picks keeps alive what it points into; `clear` lets go of it. Few records of a large block are copied, so that they
# don't hold it: what is held is at most HELD_TIMES the records. One thread owns it.
# Blocks come from a reader of the log, which has checked them. Packed bytes come from a socket and are checked here.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ext.record cimport F_CONVERSATION, rec_u64

cdef enum:
    SHARE_COUNT = 256  # of an ordered subscription: a conversation belongs to one, for ever
    PACKED_HEAD_BYTES = 6  # before each packed record, little-endian: u32 its size, u16 how often it was delivered
    DELIVERIES_MAX = 65535  # that often or more
    HELD_TIMES = 4

cdef struct Pick:
    const uint8_t *at  # the record, in one of the blocks or copies
    uint64_t sequence
    uint32_t size
    uint16_t deliveries  # 1 until ext/inflight knows better
    uint8_t share
    uint8_t mark  # ext/inflight's, while it delivers

cdef inline uint64_t splitmix64(uint64_t value) noexcept nogil:
    value += <uint64_t>0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)

cdef inline uint8_t share_number(uint64_t conversation) noexcept nogil:
    return <uint8_t>splitmix64(conversation)

@cython.final
cdef class Picks:
    # what was picked, and what it lies in
    cdef Pick *picked
    cdef Py_ssize_t count, room
    cdef list blocks
    cdef readonly uint64_t bytes  # of all records

    # picking
    cdef int hold(self, bytes block, Py_ssize_t begin) except -1  # after the last append of one of its records
    cdef int grow(self) except -1
    cdef int cut(self, Py_ssize_t count) except -1  # only the first so many are left
    cdef int clip(self, Py_ssize_t start, Py_ssize_t *stop) except -1  # checks a range; -1 is the end

    # showing
    cdef object column(self, int field)

    # one more, out of a block that `hold` is told of before the caller returns
    cdef inline int append(self, const uint8_t *record, uint32_t size, uint64_t sequence) except -1:
        cdef Pick *pick
        if self.count == self.room:
            self.grow()
        pick = &self.picked[self.count]
        pick.at, pick.sequence, pick.size, pick.deliveries = record, sequence, size, 1
        pick.share, pick.mark = share_number(rec_u64(record, F_CONVERSATION)), 0
        self.count += 1
        self.bytes += size
        return 0
