# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tags in the origins of proposals, answers divided by them, and the proposals that wait for an answer.

Between the links of engine/hub.py and engine/follower.py and the batches of the sequencer. The sequencer gives an origin
back untouched; its highest eleven bits, which no session uses, carry the number of the link that the proposal came by.
So answers find their worker in bulk, and those for a worker that is gone find nobody.

Invariants: what `split` gives has the origins that came to `tag`; an answer is handed on once for each proposal added,
so that one that was given up and refused is not answered again.
Cost: a pass over the batch; 16 bytes and a look-up for each unanswered proposal.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef enum:
    PROPOSAL_BYTES = 64
    PROPOSAL_ORIGIN_AT = 8
    PROPOSAL_COUNTER_AT = 32
    ANSWER_BYTES = 56
    ANSWER_COUNTER_AT = 8
    ANSWER_STATUS_AT = 48
    ANSWER_EXTRA_AT = 52
    ROOM_MIN = 256

TAG_MAX = TAGS - 1

cdef uint64_t ORIGIN_MASK = (<uint64_t>1 << TAG_SHIFT) - 1


cdef inline uint64_t _u64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline size_t _proposal(const uint8_t *data, size_t at, size_t size) noexcept nogil:
    """The length of the proposal there; 0 if it is none."""
    cdef uint32_t length
    if size - at < PROPOSAL_BYTES:
        return 0
    memcpy(&length, data + at, 4)
    return length if PROPOSAL_BYTES <= length <= size - at else 0


cdef Py_ssize_t _count(const uint8_t *data, size_t size) noexcept nogil:
    """How many proposals; -1 where it is no batch, or an origin is 0 or has a tag already."""
    cdef size_t at = 0, length
    cdef uint64_t origin
    cdef Py_ssize_t count = 0
    while at < size:
        length = _proposal(data, at, size)
        if length == 0:
            return -1
        origin = _u64(data + at + PROPOSAL_ORIGIN_AT)
        if origin == 0 or origin > ORIGIN_MASK:
            return -1
        at += length
        count += 1
    return count


cdef void _put_tag(uint8_t *data, size_t size, uint64_t bits) noexcept nogil:
    """Into a batch that has been counted."""
    cdef size_t at = 0
    cdef uint64_t origin
    while at < size:
        origin = _u64(data + at + PROPOSAL_ORIGIN_AT) | bits
        memcpy(data + at + PROPOSAL_ORIGIN_AT, &origin, 8)
        at += _proposal(data, at, size)


def tag(bytearray batch not None, uint64_t number):
    """Puts a number into all origins of a batch, in place; how many proposals. ValueError, and nothing changed, if it
    is no batch, or an origin is 0 or has a tag."""
    cdef uint8_t[::1] view = batch
    cdef Py_ssize_t count = 0
    if not 1 <= number < TAGS:
        raise ValueError(f"tag {number} must be 1 to {TAGS - 1}")
    if view.shape[0]:
        with nogil:  # no Python objects: the batch is pinned by its view
            count = _count(&view[0], view.shape[0])
            if count > 0:
                _put_tag(&view[0], view.shape[0], number << TAG_SHIFT)
    if count < 0:
        raise ValueError(f"{len(batch)} bytes are no batch of proposals")
    return count


def split(bytes answers not None):
    """[(tag, answers without it)] in order of first appearance; the order inside each is kept."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(answers)
    cdef size_t size = <size_t>len(answers), at
    cdef uint32_t counts[TAGS]
    cdef uint8_t *to[TAGS]
    cdef uint64_t origin
    cdef uint32_t number
    if size % ANSWER_BYTES:
        raise ValueError(f"{size} bytes are no whole number of answers")
    memset(counts, 0, sizeof(counts))
    order = []
    for at in range(0, size, ANSWER_BYTES):
        number = <uint32_t>(_u64(data + at) >> TAG_SHIFT)
        if counts[number] == 0:
            order.append(number)
        counts[number] += 1
    found = []
    for number in order:
        part = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>counts[number] * ANSWER_BYTES)
        to[number] = <uint8_t *>PyBytes_AS_STRING(part)
        found.append((number, part))
    for at in range(0, size, ANSWER_BYTES):
        origin = _u64(data + at)
        number = <uint32_t>(origin >> TAG_SHIFT)
        memcpy(to[number], data + at, ANSWER_BYTES)
        origin &= ORIGIN_MASK
        memcpy(to[number], &origin, 8)
        to[number] += ANSWER_BYTES
    return found


cdef inline size_t _place(uint64_t origin, uint64_t counter, size_t room) noexcept nogil:
    cdef uint64_t mixed = (origin ^ (counter * <uint64_t>0x9E3779B97F4A7C15)) * <uint64_t>0xD6E8FEB86659FD93
    return <size_t>((mixed ^ (mixed >> 32)) & (room - 1))


cdef class Unanswered:
    """Proposals (origin, counter) that were sent and have no answer."""

    def __cinit__(self):
        self.room = ROOM_MIN
        self.pairs = <Pair *>calloc(self.room, sizeof(Pair))
        if self.pairs == NULL:
            raise MemoryError("no memory for unanswered proposals")

    def __dealloc__(self):
        free(self.pairs)

    cdef int _grow(self) except -1 nogil:
        cdef Pair *old = self.pairs
        cdef size_t old_room = self.room, i
        cdef Pair *made = <Pair *>calloc(old_room * 2, sizeof(Pair))
        if made == NULL:
            raise MemoryError("no memory for unanswered proposals")
        self.pairs, self.room, self.count = made, old_room * 2, 0
        for i in range(old_room):
            if old[i].origin:
                self._put(old[i].origin, old[i].counter)
        free(old)
        return 0

    cdef void _put(self, uint64_t origin, uint64_t counter) noexcept nogil:
        cdef size_t at = _place(origin, counter, self.room)
        while self.pairs[at].origin:
            at = (at + 1) & (self.room - 1)
        self.pairs[at].origin, self.pairs[at].counter = origin, counter
        self.count += 1

    cdef bint _remove(self, uint64_t origin, uint64_t counter) noexcept nogil:
        cdef size_t mask = self.room - 1, at = _place(origin, counter, self.room), gap, home
        while self.pairs[at].origin != origin or self.pairs[at].counter != counter:
            if self.pairs[at].origin == 0:
                return False
            at = (at + 1) & mask
        gap = at
        while True:  # what stood behind it because of it moves up
            at = (at + 1) & mask
            if self.pairs[at].origin == 0:
                break
            home = _place(self.pairs[at].origin, self.pairs[at].counter, self.room)
            if ((at - home) & mask) >= ((at - gap) & mask):
                self.pairs[gap] = self.pairs[at]
                gap = at
        self.pairs[gap].origin = 0
        self.count -= 1
        return True

    def add(self, bytes batch not None):
        """Remembers a batch; how many proposals. ValueError, and nothing remembered, if it is no batch."""
        cdef uint8_t *data = <uint8_t *>PyBytes_AS_STRING(batch)
        cdef size_t size = <size_t>len(batch), at = 0
        cdef Py_ssize_t count = _count(data, size)
        if count < 0:
            raise ValueError(f"{size} bytes are no batch of proposals")
        while (self.count + <size_t>count) * 4 > self.room * 3:
            self._grow()
        while at < size:
            self._put(_u64(data + at + PROPOSAL_ORIGIN_AT), _u64(data + at + PROPOSAL_COUNTER_AT))
            at += _proposal(data, at, size)
        return count

    def take(self, bytes answers not None):
        """Those of the answers that somebody waits for; nobody does any more."""
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(answers)
        cdef size_t size = <size_t>len(answers), at
        if size % ANSWER_BYTES:
            raise ValueError(f"{size} bytes are no whole number of answers")
        strange = set()
        for at in range(0, size, ANSWER_BYTES):
            if not self._remove(_u64(data + at), _u64(data + at + ANSWER_COUNTER_AT)):
                strange.add(at)
        if not strange:
            return answers
        return b"".join([answers[i:i + ANSWER_BYTES] for i in range(0, size, ANSWER_BYTES) if i not in strange])

    def refuse_all(self, uint16_t status, uint32_t extra):
        """The same answer for everything that waits; nothing waits any more."""
        cdef uint8_t *to
        cdef size_t i
        answers = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(self.count * ANSWER_BYTES))
        to = <uint8_t *>PyBytes_AS_STRING(answers)
        memset(to, 0, self.count * ANSWER_BYTES)
        for i in range(self.room):
            if self.pairs[i].origin:
                memcpy(to, &self.pairs[i].origin, 8)
                memcpy(to + ANSWER_COUNTER_AT, &self.pairs[i].counter, 8)
                memcpy(to + ANSWER_STATUS_AT, &status, 2)
                memcpy(to + ANSWER_EXTRA_AT, &extra, 4)
                to += ANSWER_BYTES
        memset(self.pairs, 0, self.room * sizeof(Pair))
        self.count = 0
        return answers
