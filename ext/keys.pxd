# Keys of publishes: which were appended lately, and where. A ring in the order of the log, and a hash index into it.
# One thread owns a table; no locks. An address that key_find gives is valid until the next put or expire.
# A key is its 16 bytes as two u64, as they lie in the record; a key of zeros is no key and is never put.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.flat cimport flat_hash

cdef enum:
    KEY_BYTES = 16
    KEY_ROW_BYTES = 24  # of the saved state, under the sequence, big-endian: u64 time, little-endian, 16 bytes key

cdef struct KeyRow:
    uint64_t key, key2
    uint64_t sequence
    uint64_t time_us  # of the event

cdef class KeyTable:
    # ring: rows first … first + count - 1, each at its number & room - 1, ascending by sequence and time
    cdef KeyRow *rows
    cdef uint32_t room, first  # room is 0 or a power of two
    cdef readonly uint32_t count
    # index: a place of the ring + 1, 0 = free; twice as many as room. Of equal keys only the first is in it.
    cdef uint32_t *places
    cdef uint64_t seed  # drawn once a table: whoever publishes chooses the text of a key
    # limits and counters
    cdef readonly uint64_t keep_us  # a row this much older than the newest time is forgotten
    cdef readonly uint64_t time_us  # of the newest event that was folded
    cdef readonly uint64_t bytes

    cdef int put(self, uint64_t key, uint64_t key2, uint64_t sequence, uint64_t time_us) except -1 nogil
    cdef void expire(self, uint64_t time_us) noexcept nogil  # forgets what is too old at that time
    cdef uint64_t oldest_us(self) noexcept nogil  # the time of the oldest row, 0 if there is none
    cdef void _forget_first(self) noexcept nogil
    cdef void _enter(self, uint32_t place) noexcept nogil
    cdef int _grow(self) except -1 nogil

cdef inline KeyRow *key_find(KeyTable table, uint64_t key, uint64_t key2) noexcept nogil:  # NULL if absent
    if table.count == 0:
        return NULL
    cdef uint32_t mask = 2 * table.room - 1
    cdef uint32_t at = <uint32_t>flat_hash(table.seed, key, key2) & mask
    cdef KeyRow *row
    while table.places[at] != 0:
        row = &table.rows[table.places[at] - 1]
        if row.key == key and row.key2 == key2:
            return row
        at = (at + 1) & mask
    return NULL
