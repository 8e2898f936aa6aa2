# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Records picked out of blocks for the consumers of subscriptions: places, then bytes or tuples as they leave.

Between ext/select, which picks, and the doors of the backends. What is picked is not copied until it is packed for a
socket or decoded for a caller, unless its block holds little else. `unpack` is the client's end of `packed`.

Invariants: a place stays good because its block (or copy) is held; every number that comes from outside (a range, packed
bytes) is checked before it is followed; deliveries are those of ext/inflight.
Cost: 24 bytes a pick, a copy to pack it, some 300 ns to decode or unpack it. The GIL is kept: the longest call copies
what one take holds.
"""
from array import array

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from ext.block cimport HEADER_BYTES, blk_count, blk_first, blk_record
from ext.c_prefetch cimport load_u16, load_u32, store_u16, store_u32
from ext.record cimport (
    F_CONVERSATION, F_SENDER, F_SEQUENCE, INTEGERS, rec_filled, rec_good, rec_type, rec_type_len, rec_u64)

SHARES = SHARE_COUNT

cdef enum:
    FIELDS = INTEGERS + 4  # type, payload, deliveries, away


def share_of(uint64_t conversation):
    """The share, 0 to 255, that a conversation belongs to."""
    return share_number(conversation)


cdef int _check_made(object made) except -1:
    """Only a class that adds nothing to a tuple can be filled natively."""
    if not (isinstance(made, type) and issubclass(made, tuple) and len(getattr(made, "_fields", ())) == FIELDS
            and made.__basicsize__ == tuple.__basicsize__ and made.__dictoffset__ == 0):
        raise TypeError(f"{made!r}: a NamedTuple of {FIELDS} fields is wanted: a record's ten, deliveries, away")
    return 0


cdef str _named(const uint8_t *record, const uint8_t *before, str name):
    """The type of a record as text; most types are that of the record before."""
    if before != NULL and rec_type_len(before) == rec_type_len(record) and memcmp(
            rec_type(before), rec_type(record), rec_type_len(record)) == 0:
        return name
    return rec_type(record)[:rec_type_len(record)].decode("utf-8", "replace")


cdef object _event(object made, const uint8_t *record, str name, uint16_t deliveries):
    """As the caller's tuple."""
    cdef object found = rec_filled(made, FIELDS, record, name), value = deliveries
    Py_INCREF(value)  # SET_ITEM takes this reference over; the tuple lets go of it
    PyTuple_SET_ITEM(found, INTEGERS + 2, value)
    value = ()
    Py_INCREF(value)  # as above
    PyTuple_SET_ITEM(found, INTEGERS + 3, value)
    return found


def unpack(const uint8_t[::1] data not None, made not None):
    """What `packed` has packed, as a list of `made`; ValueError names the byte where it is malformed."""
    cdef Py_ssize_t size = data.shape[0], at = 0
    cdef const uint8_t *bytes_of = &data[0] if size else NULL
    cdef const uint8_t *record
    cdef const uint8_t *before = NULL
    cdef uint32_t record_size
    cdef str name = ""
    cdef list found = []
    _check_made(made)
    while at < size:
        if size - at < PACKED_HEAD_BYTES:
            raise ValueError(f"packed events end at byte {at} of {size}, within a head of {PACKED_HEAD_BYTES} bytes")
        record_size = load_u32(bytes_of + at)
        record = bytes_of + at + PACKED_HEAD_BYTES
        if record_size > size - at - PACKED_HEAD_BYTES or not rec_good(record, record_size):
            raise ValueError(f"packed events: at byte {at} of {size} is no record of {record_size} bytes")
        name, before = _named(record, before, name), record
        found.append(_event(made, record, name, load_u16(bytes_of + at + 4)))
        at += PACKED_HEAD_BYTES + record_size
    return found


cdef class Picks:
    """Places of records, in the order in which they were picked."""

    def __cinit__(self):
        self.blocks = []

    def __dealloc__(self):
        free(self.picked)

    def __len__(self):
        return self.count

    cdef int hold(self, bytes block, Py_ssize_t begin) except -1:
        cdef size_t size = 0
        cdef Py_ssize_t i
        cdef bytes copy
        cdef uint8_t *to
        if self.blocks and self.blocks[len(self.blocks) - 1] is block:
            return 0
        for i in range(begin, self.count):
            size += self.picked[i].size
        if size == 0:
            return 0
        if size * HELD_TIMES >= <size_t>len(block):
            self.blocks.append(block)
            return 0
        copy = PyBytes_FromStringAndSize(NULL, size)
        self.blocks.append(copy)
        to = <uint8_t *>PyBytes_AS_STRING(copy)
        for i in range(begin, self.count):
            memcpy(to, self.picked[i].at, self.picked[i].size)
            self.picked[i].at = to
            to += self.picked[i].size
        return 0

    cdef int grow(self) except -1:
        cdef Py_ssize_t room = self.room * 2 if self.room else 64
        cdef void *grown = realloc(self.picked, room * sizeof(Pick))
        if grown == NULL:
            raise MemoryError(f"no memory for {room} picks")
        self.picked, self.room = <Pick *>grown, room
        return 0

    cdef int cut(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t i
        self.bytes, self.count = 0, count
        for i in range(count):
            self.bytes += self.picked[i].size
        if count == 0:
            self.blocks.clear()
        return 0

    cdef int clip(self, Py_ssize_t start, Py_ssize_t *stop) except -1:
        if stop[0] == -1:
            stop[0] = self.count
        if not 0 <= start <= stop[0] <= self.count:
            raise ValueError(f"picks {start} to {stop[0]}: there are {self.count}")
        return 0

    def clear(self):
        """None are left, and no block is held."""
        self.cut(0)

    def add(self, bytes block not None, const uint64_t[::1] sequences not None, Py_ssize_t start=0):
        """Picks those of the ascending `sequences` from `start` on that lie in a block, wanted or not.

        The index of the first that lies behind the block: where to go on in the next one.
        """
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(block)
        cdef const uint8_t *record
        cdef uint64_t first
        cdef uint32_t count, size
        cdef Py_ssize_t before = self.count
        if len(block) < HEADER_BYTES:
            raise ValueError(f"{len(block)} bytes are no block")
        if start < 0:
            raise ValueError(f"sequences from {start} on: 0 is the first")
        first, count = blk_first(data), blk_count(data)
        try:
            while start < sequences.shape[0] and sequences[start] < first + count:
                if sequences[start] >= first:
                    record = blk_record(data, <uint32_t>(sequences[start] - first), &size)
                    self.append(record, size, sequences[start])
                start += 1
            self.hold(block, before)
        except BaseException:
            self.cut(before)  # nothing may point into what isn't held
            raise
        return start

    def keep(self, bytes wanted not None):
        """One byte a pick: those whose byte is 0 are thrown out."""
        cdef const uint8_t *kept = <const uint8_t *>PyBytes_AS_STRING(wanted)
        cdef Py_ssize_t i, to = 0
        if len(wanted) != self.count:
            raise ValueError(f"{len(wanted)} bytes for {self.count} picks: one for each is wanted")
        for i in range(self.count):
            if kept[i]:
                self.picked[to] = self.picked[i]
                to += 1
        self.cut(to)

    cdef object column(self, int field):
        """One integer of each record."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, self.count * 8)
        cdef uint64_t *to = <uint64_t *>PyBytes_AS_STRING(out)
        cdef Py_ssize_t i
        for i in range(self.count):
            to[i] = rec_u64(self.picked[i].at, field)
        return array("Q", out)

    def sequences(self):
        """One a pick."""
        return self.column(F_SEQUENCE)

    def conversations(self):
        """One a pick."""
        return self.column(F_CONVERSATION)

    def senders(self):
        """One a pick."""
        return self.column(F_SENDER)

    def shares(self):
        """One byte a pick."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, self.count)
        cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(out)
        cdef Py_ssize_t i
        for i in range(self.count):
            to[i] = self.picked[i].share
        return out

    def records(self, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """Copies of the stored bytes."""
        cdef list found = []
        cdef Py_ssize_t i
        self.clip(start, &stop)
        for i in range(start, stop):
            found.append(self.picked[i].at[:self.picked[i].size])
        return found

    def fit(self, Py_ssize_t start, uint64_t bytes_max):
        """The stop with which `packed` has at most so many bytes; one pick at least, if there is one."""
        cdef Py_ssize_t i = self.count
        cdef uint64_t held
        self.clip(start, &i)
        if start == self.count:
            return start
        held, i = PACKED_HEAD_BYTES + self.picked[start].size, start + 1
        while i < self.count and held + PACKED_HEAD_BYTES + self.picked[i].size <= bytes_max:
            held += PACKED_HEAD_BYTES + self.picked[i].size
            i += 1
        return i

    def packed(self, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """As they leave over a socket: each record behind its size and its deliveries."""
        cdef Py_ssize_t size = 0, i
        cdef Pick *pick
        cdef bytes out
        cdef uint8_t *to
        self.clip(start, &stop)
        for i in range(start, stop):
            size += PACKED_HEAD_BYTES + self.picked[i].size
        out = PyBytes_FromStringAndSize(NULL, size)
        to = <uint8_t *>PyBytes_AS_STRING(out)
        for i in range(start, stop):
            pick = &self.picked[i]
            store_u32(to, pick.size)
            store_u16(to + 4, pick.deliveries)
            memcpy(to + PACKED_HEAD_BYTES, pick.at, pick.size)
            to += PACKED_HEAD_BYTES + pick.size
        return out

    def decoded(self, made not None, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """As a list of `made`, a NamedTuple of a record's ten fields, deliveries, and away, which is ()."""
        cdef list found = []
        cdef const uint8_t *record
        cdef const uint8_t *before = NULL
        cdef str name = ""
        cdef Py_ssize_t i
        _check_made(made)
        self.clip(start, &stop)
        for i in range(start, stop):
            record = self.picked[i].at
            name, before = _named(record, before, name), record
            found.append(_event(made, record, name, self.picked[i].deliveries))
        return found
