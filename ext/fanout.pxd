# Routes committed records to outboxes and flushes outboxes to sockets. Loop thread only; long loops leave the GIL.
# An outbox (Session.refs) is a list of ranges of ring entries, two u32 each: first, count; ref_count and ref_room count
# ranges. It is allocated here while something waits and freed when it is empty. Everything else of a session that is
# written here: position, state (S_LIVE → S_READER → S_LIVE), and out_data for the rest of a frame begun.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.interest cimport Interest
from ext.ring cimport Ring
from ext.session_table cimport Session, SessionTable

cdef enum:
    SCRATCH_BYTES = 1 << 20  # what is copied together for one send; the largest frame fits
    SENDS_MAX = 8  # sends to one session before the others have their turn

cdef struct Origins:  # sessions to be reported to Python
    uint64_t *at
    uint32_t count, room

cdef class Fanout:
    cdef readonly SessionTable sessions
    cdef readonly Interest interest
    cdef readonly Ring ring
    # limits
    cdef uint32_t priority_recipients_max, ranges_max
    cdef uint32_t turn  # sessions flushed, for fair turns
    # place
    cdef public uint64_t sequence  # of the last record routed; what is live has all up to here in its outbox
    # to be reported
    cdef Origins behind, lost
    # scratch
    cdef uint8_t *scratch
    # counters
    cdef uint64_t routed, references, delivered, sends, sent_bytes, blocked, evicted, overfull, fallen

    # routing
    cdef int _route(self, const uint8_t *block, uint32_t start, uint32_t end) except -1 nogil
    cdef int _deliver(self, const uint8_t *block, uint32_t first, uint32_t end, const uint32_t *places, uint32_t room,
                      uint32_t count) except -1 nogil
    cdef int _refer(self, Session *s, uint32_t first, uint32_t count) except -1 nogil

    # flushing
    cdef int _flush(self, int64_t budget_ns) except -1 nogil
    cdef int _flush_session(self, uint32_t index) except -1 nogil
    cdef int _flush_control(self, uint32_t index) except -1 nogil
    cdef int _send_outbox(self, uint32_t index) except -1 nogil
    cdef size_t _gather(self, Session *s) noexcept nogil
    cdef size_t _advance(self, Session *s, size_t sent) noexcept nogil
    cdef int _stop_short(self, uint32_t index, const uint8_t *rest, size_t rest_size) except -1 nogil

    # falling behind, breaking off
    cdef int _fall_behind(self, uint32_t index) except -1 nogil
    cdef int _lose(self, uint32_t index) except -1 nogil

cdef void outbox_free(Session *s) noexcept nogil
