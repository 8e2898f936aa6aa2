# Flat: an open-addressing hash table of fixed-size entries under two u64, in 256 sub-tables that grow and shrink alone.
# One thread owns a table; no locks. An entry's address is valid until the next put into the table or sweep of it.
# Every entry begins with the words of Entry; what follows belongs to the table's user (ext/tables).
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.c_prefetch cimport prefetch

cdef enum:
    SUBTABLES = 256

cdef enum:  # flags of an entry; higher bits belong to the table's user
    E_USED = 1  # looked up since the last sweep: survives one more
    E_LOADED = 2  # complete: what the saved state knows is in it

cdef struct Entry:
    uint64_t key, key2  # key is never 0; 0 marks a free slot
    uint64_t changed_at  # sequence of the last event applied to it; 0 = only loaded
    uint32_t flags
    uint32_t extra

cdef uint64_t flat_draw() except? 0  # a seed, from where all tables have theirs

cdef inline uint64_t flat_hash(uint64_t seed, uint64_t key, uint64_t key2) noexcept nogil:
    cdef uint64_t h = (key ^ seed) * <uint64_t>0xFF51AFD7ED558CCD
    h = (h ^ (h >> 32) ^ key2) * <uint64_t>0xC4CEB9FE1A85EC53
    h = (h ^ (h >> 29)) * <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 32)

cdef class Flat:
    # entries
    cdef uint8_t *slots[SUBTABLES]
    cdef uint32_t masks[SUBTABLES]  # slots - 1
    cdef uint32_t counts[SUBTABLES]
    cdef uint32_t entry_bytes
    cdef uint64_t seed  # drawn once a table: keys come from clients, who must not choose collisions
    cdef readonly uint64_t count
    # limits and counters
    cdef readonly uint64_t bytes  # of slots, and of what entries own beside them
    cdef uint32_t sweep_next  # sub-table that the next sweep looks at

    cdef uint8_t *put(self, uint64_t key, uint64_t key2) except NULL nogil  # found, or new and zeroed
    cdef int sweep_one(self, uint64_t position, bint keep_used) except -1 nogil  # sheds changed_at <= position
    cdef void release(self, uint8_t *entry) noexcept nogil  # frees what an entry owns; overridden
    cdef int clear(self) except -1 nogil
    cdef int _rebuild(self, uint32_t sub, uint32_t slots, uint64_t position, bint shed, bint keep_used) except -1 nogil

cdef inline uint8_t *flat_get(Flat table, uint64_t key, uint64_t key2) noexcept nogil:  # NULL if absent
    cdef uint64_t h = flat_hash(table.seed, key, key2)
    cdef uint32_t sub = <uint32_t>(h >> 56)
    cdef uint8_t *slots = table.slots[sub]
    if slots == NULL:
        return NULL
    cdef uint32_t mask = table.masks[sub]
    cdef uint32_t at = <uint32_t>h & mask
    cdef Entry *entry
    while True:
        entry = <Entry *>(slots + <size_t>at * table.entry_bytes)
        if entry.key == key and entry.key2 == key2:
            return <uint8_t *>entry
        if entry.key == 0:
            return NULL
        at = (at + 1) & mask

cdef inline void flat_prefetch(Flat table, uint64_t key, uint64_t key2) noexcept nogil:
    cdef uint64_t h = flat_hash(table.seed, key, key2)
    cdef uint32_t sub = <uint32_t>(h >> 56)
    if table.slots[sub] != NULL:
        prefetch(table.slots[sub] + <size_t>(<uint32_t>h & table.masks[sub]) * table.entry_bytes)
