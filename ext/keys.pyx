# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The keys of the publishes of a day, by which a service's repeat is known: key → sequence and time.

Beside ext/tables: ext/admission asks and fills it, ext/fold gathers in one what a save has to write, ext/verify looks
for a key that is there twice. Keys go in the order in which they came, so they lie in a ring, which is also the order
of their rows in the saved state; what is too old falls off its front. Nothing is loaded singly: a table is whole.

Invariants: what is in it is a function of the events put and of the newest time given: a key whose event is at most
`keep_us` older; of two events with one key the first counts, while it is kept. Places of the index never point at rows
that are gone.
Cost: 32 bytes a key and 8 of index, over the filling of a power of two; a look-up is a line of index and one of the
ring, and some 0.2 µs for each that is forgotten. Growing lays both out anew: some 30 ms for a million, once.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ext.c_prefetch cimport load_u64, store_u64, swap_u64
from ext.flat cimport flat_draw, flat_hash

cdef enum:
    ROOM_MIN = 64
    ROOM_MAX = 1 << 30


cdef int _read(bytes key, uint64_t *out) except -1:
    if PyBytes_GET_SIZE(key) != KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes; it must have {KEY_BYTES}")
    memcpy(out, PyBytes_AS_STRING(key), KEY_BYTES)
    if out[0] == 0 and out[1] == 0:
        raise ValueError("a key of zeros is none")
    return 0


cdef class KeyTable:
    """Key → (sequence, time) of the events of the last `keep_us`."""

    def __cinit__(self, uint64_t keep_us):
        self.keep_us = keep_us
        self.seed = flat_draw()

    def __dealloc__(self):
        free(self.rows)
        free(self.places)

    def __len__(self):
        return self.count

    # Native.

    cdef int put(self, uint64_t key, uint64_t key2, uint64_t sequence, uint64_t time_us) except -1 nogil:
        """The next event with a key. It isn't asked whether the key is known."""
        cdef uint32_t place
        if self.count == self.room:
            self._grow()
        place = (self.first + self.count) & (self.room - 1)
        self.rows[place] = KeyRow(key, key2, sequence, time_us)
        if key_find(self, key, key2) == NULL:
            self._enter(place)
        self.count += 1
        return 0

    cdef void expire(self, uint64_t time_us) noexcept nogil:
        cdef uint64_t newest_us = self.rows[(self.first + self.count - 1) & (self.room - 1)].time_us if self.count else 0
        if self.count != 0 and time_us > newest_us and time_us - newest_us > self.keep_us:  # all at once
            memset(self.places, 0, <size_t>self.room * 2 * sizeof(uint32_t))
            self.count = 0
            return
        while self.count != 0 and time_us > self.rows[self.first].time_us:
            if time_us - self.rows[self.first].time_us <= self.keep_us:
                return
            self._forget_first()

    cdef uint64_t oldest_us(self) noexcept nogil:
        return self.rows[self.first].time_us if self.count != 0 else 0

    cdef void _enter(self, uint32_t place) noexcept nogil:
        cdef uint32_t mask = 2 * self.room - 1
        cdef uint32_t at = <uint32_t>flat_hash(self.seed, self.rows[place].key, self.rows[place].key2) & mask
        while self.places[at] != 0:
            at = (at + 1) & mask
        self.places[at] = place + 1

    cdef void _forget_first(self) noexcept nogil:
        cdef uint32_t mask = 2 * self.room - 1, at, gap, home
        cdef KeyRow *row = &self.rows[self.first]
        at = <uint32_t>flat_hash(self.seed, row.key, row.key2) & mask
        while self.places[at] != 0 and self.places[at] != self.first + 1:
            at = (at + 1) & mask
        if self.places[at] != 0:  # else another event with this key was first
            gap = at
            while True:  # what stood behind it because of it moves up
                at = (at + 1) & mask
                if self.places[at] == 0:
                    break
                row = &self.rows[self.places[at] - 1]
                home = <uint32_t>flat_hash(self.seed, row.key, row.key2) & mask
                if ((at - home) & mask) >= ((at - gap) & mask):
                    self.places[gap] = self.places[at]
                    gap = at
            self.places[gap] = 0
        self.first = (self.first + 1) & (self.room - 1)
        self.count -= 1

    cdef int _grow(self) except -1 nogil:
        cdef uint32_t room = self.room * 2 if self.room else ROOM_MIN, i
        cdef KeyRow *rows = <KeyRow *>malloc(<size_t>room * sizeof(KeyRow)) if room <= ROOM_MAX else NULL
        cdef uint32_t *places = <uint32_t *>calloc(<size_t>room * 2, sizeof(uint32_t)) if rows != NULL else NULL
        cdef uint32_t held = self.count
        if places == NULL:
            free(rows)
            with gil:
                raise MemoryError(f"{room} keys of publishes")
        for i in range(held):
            rows[i] = self.rows[(self.first + i) & (self.room - 1)]
        free(self.rows)
        free(self.places)
        self.rows, self.places = rows, places
        self.room, self.first = room, 0
        self.bytes = <uint64_t>room * (sizeof(KeyRow) + 2 * sizeof(uint32_t))
        self.count = 0
        for i in range(held):  # in their order: of equal keys the first
            if key_find(self, rows[i].key, rows[i].key2) == NULL:
                self._enter(i)
            self.count += 1
        return 0

    # Python.

    def note(self, bytes key not None, uint64_t sequence, uint64_t time_us):
        """An event with a key, newer than all before."""
        cdef uint64_t[2] number
        _read(key, number)
        self.put(number[0], number[1], sequence, time_us)

    def known(self, bytes key not None):
        """(sequence, time) of the event with this key, or None."""
        cdef uint64_t[2] number
        cdef KeyRow *row
        _read(key, number)
        row = key_find(self, number[0], number[1])
        return None if row == NULL else (row.sequence, row.time_us)

    def forget(self, uint64_t time_us):
        """Forgets what is too old at that time."""
        self.expire(time_us)

    def saved_rows(self, uint32_t start, uint32_t limit):
        """(key, value) of the saved state, ascending, of `limit` rows from the `start`th on."""
        cdef uint32_t i
        cdef uint64_t sequence
        cdef KeyRow *row
        cdef uint8_t out[KEY_ROW_BYTES]
        cdef list found = []
        for i in range(start, min(start + limit, self.count)):
            row = &self.rows[(self.first + i) & (self.room - 1)]
            sequence = swap_u64(row.sequence)
            store_u64(out, row.time_us)
            memcpy(out + 8, &row.key, KEY_BYTES)
            found.append((PyBytes_FromStringAndSize(<char *>&sequence, 8),
                          PyBytes_FromStringAndSize(<char *>out, KEY_ROW_BYTES)))
        return found

    def load(self, list rows not None):
        """Takes rows of the saved state in, ascending. Raises ValueError where one is none."""
        cdef bytes key, value
        cdef const uint8_t *at
        for key, value in rows:
            if PyBytes_GET_SIZE(key) != 8 or PyBytes_GET_SIZE(value) != KEY_ROW_BYTES:
                raise ValueError(f"the row {key.hex()} of a publish's key has {len(value)} bytes, not {KEY_ROW_BYTES}")
            at = <const uint8_t *>PyBytes_AS_STRING(value)
            self.put(load_u64(at + 8), load_u64(at + 16), swap_u64(load_u64(<const uint8_t *>PyBytes_AS_STRING(key))),
                     load_u64(at))


def row_time_us(bytes row not None):
    """The time of a row of the saved state. Raises ValueError where it is none."""
    if PyBytes_GET_SIZE(row) != KEY_ROW_BYTES:
        raise ValueError(f"the row of a publish's key has {len(row)} bytes, not {KEY_ROW_BYTES}")
    return load_u64(<const uint8_t *>PyBytes_AS_STRING(row))
