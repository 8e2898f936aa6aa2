# The receiving half of the load generator, and its loop. One LoadLoop belongs to one thread.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.loadcheck cimport Event
from ext.loadpublish cimport LoadPublishers
from ext.loadsocket cimport Connection

cdef struct Receipt:            # of a command that is no publish of a stream
    uint32_t connection
    uint64_t counter, conversation, sequence
    uint8_t status_size
    char status[20]

cdef class LoadLoop(LoadPublishers):
    # time
    cdef uint64_t window_from_ns, window_to_ns, busy_ns, slow_due_ns
    # counts
    cdef uint64_t numbers[32]
    cdef uint64_t others, events, broken, disordered, doubled, missing, gaps, gapped, unmatched, bytes_in, reads
    cdef uint64_t *hello_ns     # opened → live, the first time
    cdef uint64_t *tick_counts  # deliveries of this second
    cdef uint64_t tick_max_ns
    cdef Receipt *receipts
    cdef uint32_t receipt_count, receipt_room
    cdef uint64_t commands_open

    # receiving
    cdef int _readable(self, uint32_t k, uint32_t room) except -1 nogil
    cdef int64_t _consume(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil
    cdef int _message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _welcome(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil
    cdef int _live(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _gap(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil
    cdef int _event(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _ours(self, uint32_t k, const Event *event, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _receipt(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _keep_receipt(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil
    cdef int _read_slowly(self, uint64_t now) except -1 nogil
    # the loop
    cdef int _step(self, uint64_t wait_ns) except -1 nogil
    cdef int _turn(self, uint64_t until_ns, bint until_settled) except -1 nogil
    cdef bint _settled(self) noexcept nogil
    cdef int _start(self, uint32_t stream) except -1
    cdef int _run(self, uint64_t until_ns, bint until_settled) except -1
