# Bare limits: the least that a server can do with the same bytes over the same sockets, in native code.
#
# One thread calls serve(); for publishes a second one calls take() and synced(). A group belongs to the loop while it
# gathers, to the committer from take() to synced(), then to the loop again, which answers it. Nothing is checked.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum Life:
    B_UPGRADING = 0, B_HELLO = 1, B_OPEN = 2, B_GONE = 3

cdef struct Peer:
    int fd
    uint8_t life
    uint8_t *rest               # unfinished frame
    uint32_t rest_size, rest_room
    uint64_t counter            # of its publishes, which count from 1 without a hole

cdef struct Owed:               # receipts for publishes of one peer that arrived together
    uint32_t peer, count
    uint64_t first

cdef struct Group:
    uint8_t *data               # frames as they came
    size_t size, room
    Owed *owed
    uint32_t owed_count, owed_room

cdef class BareServer:
    # peers
    cdef Peer *at
    cdef uint32_t room, used, open
    cdef int epoll_fd, listen_fd
    cdef uint8_t *input
    cdef uint8_t *output
    cdef bytes welcome          # frames that answer a hello; data points into it
    cdef const uint8_t *welcome_data
    cdef uint32_t welcome_size
    # publish: group commit
    cdef Group groups[2]
    cdef uint32_t gathering
    cdef bint committing
    cdef int given_fd, synced_fd
    # fan-out
    cdef uint32_t payload_bytes     # 0: the server commits publishes instead
    cdef uint32_t frame_bytes, fresh, publisher
    cdef uint8_t *fresh_frames      # events not yet sent
    cdef uint64_t sequence
    cdef bint stopping
    cdef readonly uint64_t publishes, commits, deliveries

    cdef int _loop(self) except -1 nogil
    cdef int _accept(self) except -1 nogil
    cdef int _readable(self, uint32_t k) except -1 nogil
    cdef int _consume(self, uint32_t k, uint8_t *data, uint32_t size) except -2 nogil
    cdef void _forget(self) noexcept nogil
    cdef int _gone(self, uint32_t k) except -1 nogil
    cdef int _whole(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _gather(self, uint32_t k, const uint8_t *frames, uint32_t size, uint32_t count) except -1 nogil
    cdef int _give(self) except -1 nogil
    cdef int _answer(self, Group *g) except -1 nogil
    cdef int _event(self, uint32_t k, const uint8_t *frame, uint32_t size) except -1 nogil
    cdef int _fan_out(self) except -1 nogil
