# The timing wheel: one deadline a session, linked through Session.wheel_next and wheel_prev. Loop thread only.
# Times are ms of the caller's clock; a session that is on the wheel has wheel_due != 0.

from libc.stdint cimport uint32_t, uint64_t

from ext.session_table cimport SessionTable

cdef enum:
    TICK_MS = 64
    SLOTS = 1024  # power of two; a turn is 65 s, later deadlines stay for another

cdef class Wheel:
    cdef SessionTable sessions
    cdef uint32_t heads[1024]
    cdef uint32_t popped  # list of the slot that is being looked through
    cdef uint64_t tick  # the next one to look at

    cdef void put(self, uint32_t index, uint64_t due_ms) noexcept nogil  # moves it if it is on the wheel already
    cdef void take(self, uint32_t index) noexcept nogil
    cdef uint32_t due(self, uint64_t now_ms) noexcept nogil  # the next whose time has come, taken off; 0 = none
    cdef void _link(self, uint32_t index, uint32_t slot) noexcept nogil
