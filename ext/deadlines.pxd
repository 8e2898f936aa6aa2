# What happens to sessions by time alone: each is looked at when its deadline comes, and given its next one. Loop thread
# only; everything runs without the GIL. Owns nothing.

from libc.stdint cimport int64_t, uint32_t

from ext.gathered cimport Gathered
from ext.session_table cimport Session, SessionTable
from ext.sockets cimport Sockets

cdef class Deadlines:
    cdef Sockets sockets
    cdef Gathered gathered
    cdef SessionTable sessions
    cdef Session *at  # the table's array
    # limits
    cdef uint32_t hello_timeout_ms, ping_interval_ms, idle_timeout_ms, slow_timeout_ms
    cdef uint32_t look_ms  # the longest time between two looks at a session after hello
    cdef uint32_t serving  # the session being looked at

    cdef bint run(self, int64_t until_ns) except -1 nogil  # True: the time is over, more are due
    cdef void next_for(self, uint32_t index, uint32_t due_ms) noexcept nogil
    cdef int _look(self, uint32_t index) except -1 nogil
    cdef int _look_before_hello(self, uint32_t index) except -1 nogil
    cdef int _look_at_end(self, uint32_t index) except -1 nogil
    cdef uint32_t _unfinished_ms(self, Session *s) noexcept nogil
    cdef uint32_t _since(self, Session *s, uint32_t *seen_ms) noexcept nogil
    cdef uint32_t _look_blocked(self, uint32_t index) except? 0 nogil
    cdef uint32_t _look_silent(self, uint32_t index) except? 0 nogil
