# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a block holds, in short: which conversations, senders and types occur in it.

Between the log's blocks and ext/select, which asks it what a hundred subscriptions want of a block: one pass over the
records is made for all of them, instead of one for each.

Invariants: what is in the block is found; what is not in it is found once in 2^32 look-ups, and costs a pass.
Cost: some 25 ns a record to build; 16 to 32 bytes a record while it is kept.

The GIL is kept: building takes as long as two passes of ext/select.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from ext.block cimport HEADER_BYTES, blk_count, blk_record
from ext.picks cimport splitmix64
from ext.record cimport F_CONVERSATION, F_SENDER, rec_type, rec_type_len, rec_u64

cdef enum:
    OBJECT_BYTES = 512  # this object, and the heads of those that it holds

# Of this process: who chooses ids must not choose collisions.
cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little")


cdef int _make(Tags *tags, uint32_t count) except -1:
    """Room for so many."""
    cdef uint64_t slots = 8
    free(tags.slots)  # of an attempt for which there was no memory
    while slots < 2 * <uint64_t>count:
        slots *= 2
    tags.slots = <uint32_t *>calloc(slots, 4)
    if tags.slots == NULL:
        raise MemoryError(f"no memory for the summary of {count} records")
    tags.mask = <uint32_t>(slots - 1)
    return 0


cdef inline void _note(Tags *tags, uint64_t number) noexcept nogil:
    cdef uint64_t hashed = splitmix64(number ^ SEED)
    cdef uint32_t tag = <uint32_t>hashed | 1, at = <uint32_t>(hashed >> 32) & tags.mask
    while tags.slots[at] != 0:
        if tags.slots[at] == tag:
            return
        at = (at + 1) & tags.mask
    tags.slots[at] = tag


cdef bint tags_have(const Tags *tags, uint64_t number) noexcept nogil:
    cdef uint64_t hashed = splitmix64(number ^ SEED)
    cdef uint32_t tag = <uint32_t>hashed | 1, at = <uint32_t>(hashed >> 32) & tags.mask
    while tags.slots[at] != 0:
        if tags.slots[at] == tag:
            return True
        at = (at + 1) & tags.mask
    return False


cdef class Summary:
    """Of a block that stands for the sequences `first` to `last`. ValueError if it is none."""

    def __cinit__(self, uint64_t first, uint64_t last, bytes block not None):
        if len(block) < HEADER_BYTES:
            raise ValueError(f"{len(block)} bytes are no block")
        self.block, self.data = block, <const uint8_t *>PyBytes_AS_STRING(block)
        self.first, self.last, self.count = first, last, blk_count(self.data)

    cdef int build(self) except -1:
        cdef const uint8_t *record
        cdef uint32_t i, size
        _make(&self.conversations, self.count)
        _make(&self.senders, self.count)
        for i in range(self.count):
            record = blk_record(self.data, i, &size)
            _note(&self.conversations, rec_u64(record, F_CONVERSATION))
            _note(&self.senders, rec_u64(record, F_SENDER))
            self.note_type(record)
        self.is_built = True
        return 0

    def __dealloc__(self):
        free(self.conversations.slots)
        free(self.senders.slots)

    cdef int note_type(self, const uint8_t *record) except -1:
        cdef uint32_t length = rec_type_len(record), i
        if self.type_count > TYPES_KEPT:
            return 0
        for i in range(self.type_count):
            if rec_type_len(self.types[i]) == length and memcmp(rec_type(self.types[i]), rec_type(record), length) == 0:
                return 0
        if self.type_count < TYPES_KEPT:
            self.types[self.type_count] = record
        self.type_count += 1
        return 0

    @property
    def own_bytes(self):
        """What it takes beside its block, at most."""
        cdef uint64_t slots = 8
        while slots < 2 * <uint64_t>self.count:
            slots *= 2
        return OBJECT_BYTES + 2 * 4 * slots
