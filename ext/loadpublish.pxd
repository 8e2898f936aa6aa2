# What the load generator sends and when: publishes of closed and open loops, pings, what has to be said again.
#
# The schedule of a stream is in its Stream struct; here is who acts on it. The generator's thread only.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.loadcheck cimport Stream
from ext.loadsocket cimport Connection, LoadSockets, Slot

cdef class LoadPublishers(LoadSockets):
    # time
    cdef uint64_t ping_interval_ns, ping_due_ns
    cdef uint32_t ping_next
    cdef uint64_t count_from_ns, count_to_ns    # what was intended in between is in the histograms

    cdef uint64_t _draw(self) noexcept nogil
    cdef double _share(self) noexcept nogil
    cdef bint _has_room(self, const Connection *c, const Stream *s) noexcept nogil
    cdef int _window_of(self, Connection *c) except -1 nogil
    cdef uint32_t _size(self, const Stream *s, uint32_t target) noexcept nogil
    cdef uint32_t _put(self, uint8_t *to, uint32_t k, const Slot *slot, uint64_t counter) noexcept nogil
    cdef int _publish(self, uint32_t stream, uint32_t writer, uint32_t count, uint64_t intended_ns) except -1 nogil
    cdef int _say_again(self, uint32_t k) except -1 nogil
    # closed loops
    cdef int _closed_loop(self, uint32_t k, uint64_t now) except -1 nogil
    cdef int _broadcast(self, uint32_t stream, uint64_t now) except -1 nogil
    # open loops
    cdef uint64_t _after(self, const Stream *s, uint64_t at_ns, double ns) noexcept nogil
    cdef double _pause(self, const Stream *s) noexcept nogil
    cdef double _rest_of_pause(self, const Stream *s) noexcept nogil
    cdef int64_t _whose_turn(self, Stream *s, uint64_t now) noexcept nogil
    cdef int _arrange(self, Stream *s, uint64_t from_ns) noexcept nogil
    cdef void _sift(self, Stream *s, uint32_t at) noexcept nogil
    cdef int _paced(self, uint32_t stream, uint64_t now) except -1 nogil
    cdef int _ping(self, uint64_t now) except -1 nogil
