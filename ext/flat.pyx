# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The hash table under all of the engine's hot state: fixed-size entries, two u64 as the key, linear probing.

Beneath ext/tables. Entries lie in the slots themselves, so that a look-up is one cache line and can be prefetched.
Nothing is ever deleted singly: shedding rebuilds one sub-table (1/256 of all) without the entries that the saved
state already holds, which also gives their memory back; hence no tombstones and no long pause, neither when growing.

Invariants: a sub-table is at most 3/4 full; key 0 marks a free slot; rebuilding keeps every entry that isn't shed.
Cost: one probe of one to two cache lines; growing a sub-table copies 1/256 of the table.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

import os

cdef object _seeds = os.urandom

cdef enum:
    SLOTS_MIN = 8



def seeds_from(source):
    """Tables made from now on draw their 8 bytes by source(8); returns the source before. By default os.urandom."""
    global _seeds
    before, _seeds = _seeds, source
    return before


cdef uint64_t flat_draw() except? 0:
    return int.from_bytes(_seeds(8), "little")


cdef class Flat:
    def __cinit__(self):
        self.entry_bytes = sizeof(Entry)
        self.seed = flat_draw()

    def __dealloc__(self):
        self.clear()

    def __len__(self):
        return self.count

    cdef void release(self, uint8_t *entry) noexcept nogil:
        pass

    cdef int clear(self) except -1 nogil:
        cdef uint32_t sub, at
        for sub in range(SUBTABLES):
            if self.slots[sub] == NULL:
                continue
            for at in range(self.masks[sub] + 1):
                if (<Entry *>(self.slots[sub] + <size_t>at * self.entry_bytes)).key != 0:
                    self.release(self.slots[sub] + <size_t>at * self.entry_bytes)
            free(self.slots[sub])
            self.slots[sub] = NULL
            self.masks[sub] = self.counts[sub] = 0
        self.count = self.bytes = 0
        return 0

    cdef uint8_t *put(self, uint64_t key, uint64_t key2) except NULL nogil:
        cdef uint64_t h = flat_hash(self.seed, key, key2)
        cdef uint32_t sub = <uint32_t>(h >> 56)
        cdef uint8_t *found = flat_get(self, key, key2)
        cdef uint32_t at
        cdef Entry *entry
        if found != NULL:
            return found
        if self.slots[sub] == NULL:
            self._rebuild(sub, SLOTS_MIN, 0, False, False)
        elif (self.counts[sub] + 1) * 4 > (self.masks[sub] + 1) * 3:
            self._rebuild(sub, (self.masks[sub] + 1) * 2, 0, False, False)
        at = <uint32_t>h & self.masks[sub]
        while True:
            entry = <Entry *>(self.slots[sub] + <size_t>at * self.entry_bytes)
            if entry.key == 0:
                entry.key = key
                entry.key2 = key2
                self.counts[sub] += 1
                self.count += 1
                return <uint8_t *>entry
            at = (at + 1) & self.masks[sub]

    cdef int sweep_one(self, uint64_t position, bint keep_used) except -1 nogil:
        """Looks at the next sub-table; number of entries shed. Clears E_USED of those that stay."""
        cdef uint32_t sub = self.sweep_next
        cdef uint32_t at, kept = 0, slots = SLOTS_MIN, before = self.counts[sub]
        cdef Entry *entry
        self.sweep_next = (sub + 1) % SUBTABLES
        if self.slots[sub] == NULL:
            return 0
        for at in range(self.masks[sub] + 1):
            entry = <Entry *>(self.slots[sub] + <size_t>at * self.entry_bytes)
            if entry.key != 0 and not (entry.changed_at <= position and not (keep_used and entry.flags & E_USED)):
                kept += 1
        if kept == before:
            for at in range(self.masks[sub] + 1):
                (<Entry *>(self.slots[sub] + <size_t>at * self.entry_bytes)).flags &= ~<uint32_t>E_USED
            return 0
        while kept * 2 > slots:
            slots *= 2
        self._rebuild(sub, slots, position, True, keep_used)
        return <int>(before - kept)

    cdef int _rebuild(self, uint32_t sub, uint32_t slots, uint64_t position, bint shed, bint keep_used) except -1 nogil:
        cdef uint8_t *old = self.slots[sub]
        cdef uint32_t old_slots = self.masks[sub] + 1 if old != NULL else 0
        cdef uint8_t *new = NULL
        cdef uint32_t at, to, kept = 0
        cdef Entry *entry
        # On cache lines: an entry of 64 bytes is then one line, not two.
        if posix_memalign(<void **>&new, 64, <size_t>slots * self.entry_bytes) != 0:
            with gil:
                raise MemoryError(f"{slots * self.entry_bytes} bytes for a table")
        memset(new, 0, <size_t>slots * self.entry_bytes)
        for at in range(old_slots):
            entry = <Entry *>(old + <size_t>at * self.entry_bytes)
            if entry.key == 0:
                continue
            if shed:
                if entry.changed_at <= position and not (keep_used and entry.flags & E_USED):
                    self.release(<uint8_t *>entry)
                    continue
                entry.flags &= ~<uint32_t>E_USED
            to = <uint32_t>flat_hash(self.seed, entry.key, entry.key2) & (slots - 1)
            while (<Entry *>(new + <size_t>to * self.entry_bytes)).key != 0:
                to = (to + 1) & (slots - 1)
            memcpy(new + <size_t>to * self.entry_bytes, <uint8_t *>entry, self.entry_bytes)
            kept += 1
        free(old)
        self.slots[sub] = new
        self.masks[sub] = slots - 1
        self.count = self.count - self.counts[sub] + kept
        self.counts[sub] = kept
        self.bytes += <uint64_t>slots * self.entry_bytes
        self.bytes -= <uint64_t>old_slots * self.entry_bytes
        return 0
