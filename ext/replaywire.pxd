# Sockets of the replay: WebSocket clients in one epoll set.
#
# A device is an index into an array of C structs that does not move; what it received is in the half below
# (ext/replayheard). One ReplayWire belongs to one thread, which is the only caller.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.replayheard cimport ReplayHeard

cdef enum Life:                 # NONE → CONNECTING → UPGRADING → OPEN → NONE, and again
    W_NONE = 0, W_CONNECTING = 1, W_UPGRADING = 2, W_OPEN = 3

cdef struct Device:
    # life
    int fd
    uint8_t life, blocked
    uint32_t generation
    # receiving
    uint8_t *rest               # unfinished frame, NULL when none
    uint32_t rest_size, rest_room
    # sending
    uint8_t *out                # what the kernel did not take, NULL when nothing
    uint32_t out_size, out_sent, out_room

cdef class ReplayWire(ReplayHeard):
    # devices
    cdef Device *at
    # sockets
    cdef int epoll_fd
    cdef bint has_epoll
    cdef uint8_t *input
    cdef uint64_t random
    cdef int *deaf              # half-open connections: never read again, closed at the end
    cdef uint32_t deaf_count, deaf_room
    # counts
    cdef readonly uint64_t reads, bytes_in

    # receiving
    cdef int _readable(self, uint32_t k) except -1 nogil
    cdef int64_t _upgraded(self, uint32_t k, const uint8_t *data, uint32_t size) except -2 nogil
    cdef int64_t _frames(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil
    # sending
    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _frame(self, uint32_t k, uint8_t opcode, const uint8_t *body, uint32_t size) except -1 nogil
    cdef int _writable(self, uint32_t k) except -1 nogil
    # life
    cdef int _die(self, uint32_t k, uint32_t kind, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _turn(self, uint64_t wait) except -1 nogil
    cdef Device *_known(self, uint32_t k) except NULL
