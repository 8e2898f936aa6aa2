# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The timing wheel: pings, idle and hello timeouts, token expiry and the end of closing sessions, in one structure.

Turned by ext/deadlines. A session has at most one deadline, the nearest of what concerns it; when it comes, the owner
looks at the session and puts it back with the next one. Traffic does not touch the wheel: it only moves heard_ms.

Invariants: a deadline is never early and at most a tick late after due() is called; a clock that jumps makes deadlines
due, it loses none. Cost: constant for put and take; a session is looked at once a turn and when its time has come.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from ext.session_table cimport Session, SessionTable


cdef class Wheel:
    def __cinit__(self, SessionTable sessions not None, uint64_t now_ms):
        self.sessions = sessions
        self.tick = now_ms // TICK_MS

    cdef void put(self, uint32_t index, uint64_t due_ms) noexcept nogil:
        cdef Session *s = &self.sessions.at[index]
        if s.wheel_due:
            self.take(index)
        if due_ms < self.tick * TICK_MS:
            due_ms = self.tick * TICK_MS  # else its slot would be met a turn later
        s.wheel_due = <uint32_t>due_ms or 1
        self._link(index, s.wheel_due // TICK_MS % SLOTS)

    cdef void _link(self, uint32_t index, uint32_t slot) noexcept nogil:
        cdef Session *s = &self.sessions.at[index]
        s.wheel_prev = 0
        s.wheel_next = self.heads[slot]
        if s.wheel_next:
            self.sessions.at[s.wheel_next].wheel_prev = index
        self.heads[slot] = index

    cdef void take(self, uint32_t index) noexcept nogil:
        cdef Session *s = &self.sessions.at[index]
        if s.wheel_due == 0:
            return
        if s.wheel_next:
            self.sessions.at[s.wheel_next].wheel_prev = s.wheel_prev
        if s.wheel_prev:
            self.sessions.at[s.wheel_prev].wheel_next = s.wheel_next
        elif self.popped == index:
            self.popped = s.wheel_next
        else:
            self.heads[s.wheel_due // TICK_MS % SLOTS] = s.wheel_next
        s.wheel_due = s.wheel_next = s.wheel_prev = 0

    cdef uint32_t due(self, uint64_t now_ms) noexcept nogil:
        cdef uint64_t until = now_ms // TICK_MS
        cdef uint32_t index, slot
        cdef Session *s
        if until > self.tick + SLOTS:
            self.tick = until - SLOTS  # one look at each slot is enough
        while True:
            while self.popped:
                index = self.popped
                s = &self.sessions.at[index]
                if <int32_t>(s.wheel_due - <uint32_t>now_ms) <= 0:
                    self.take(index)
                    return index
                self.popped = s.wheel_next
                if s.wheel_next:
                    self.sessions.at[s.wheel_next].wheel_prev = 0
                self._link(index, s.wheel_due // TICK_MS % SLOTS)
            if self.tick >= until:
                return 0
            slot = <uint32_t>(self.tick % SLOTS)
            self.popped = self.heads[slot]
            self.heads[slot] = 0
            self.tick += 1
