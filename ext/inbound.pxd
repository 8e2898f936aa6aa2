# What sessions send: handshake, frames, commands; judged and gathered. Loop thread only; everything runs without the
# GIL. Owns the receive buffers, which all sessions share; what is incomplete lies in Session.in_data until the rest comes.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ext.commands cimport Command
from ext.frames cimport Found
from ext.gathered cimport Gathered
from ext.handshake cimport Handshake
from ext.receipts cimport Answer
from ext.secured cimport Secured
from ext.session_table cimport Session, SessionTable
from ext.sockets cimport Sockets

cdef enum:
    RECEIVE_BYTES = 65536
    COLD_WAITING_BYTES_MAX = 8 << 20  # of messages that Python has not handled yet: who gives more is not read
    COLD_WAITING_BYTES_MOST = 24 << 20  # ... and from here on nobody is
    ABUSE_BURSTS = 10  # so many bursts refused, beyond what was taken meanwhile, end a session
    UNANSWERED_RETRY_MS = 100
    OVERLOADED_RETRY_MS = 400  # spread
    BUSY_RETRY_S = 10  # spread

cdef class Inbound:
    cdef Sockets sockets
    cdef Gathered gathered
    cdef SessionTable sessions
    cdef Session *at  # the table's array
    cdef uint8_t *buffer
    cdef Secured secured  # reads where a session speaks TLS
    # limits
    cdef uint32_t frame_bytes_max, handshake_bytes_max, unanswered_max
    cdef uint32_t rate_per_s, rate_milli_max, refused_max
    cdef bint any_client  # every path, no subprotocol; all messages, text and binary, are Python's
    # sessions that are not read until Python has handled more (origins, each once)
    cdef uint64_t *held
    cdef uint32_t held_count
    # sessions that end when Python has handled what they sent before (origins)
    cdef uint64_t *ending
    cdef uint32_t ending_count
    cdef bint refusing  # every upgrade is answered 503: the process is ending
    # overload: what is let in. Whether to shed, and how much, is decided by Python (gateway/load.py)
    cdef bint busy  # every upgrade is answered 503
    cdef int64_t publish_room  # publishes that may go on to the engine in this round
    # counters
    cdef uint64_t received_bytes, received_messages, rate_limited
    cdef uint64_t bad_proxied, shed_publishes, shed_connections

    # bytes
    cdef int receive(self, uint32_t index) except -1 nogil
    cdef int _proxied(self, uint32_t index) except -1 nogil
    cdef int _judge_link(self, uint32_t index) except -1 nogil
    cdef int _handshake(self, uint32_t index, size_t got) except -1 nogil
    cdef int _keep(self, Session *s, const uint8_t *data, size_t size) except -1 nogil
    cdef int _verdict(self, uint32_t index, int verdict, Handshake *found, uint8_t *data, size_t size) except -1 nogil
    cdef int _frames(self, uint32_t index, uint8_t *data, size_t size) except -1 nogil
    cdef int _ping(self, uint32_t index, const Found *found) except -1 nogil
    cdef int _last(self, uint32_t index, int kind, uint16_t code) except -1 nogil
    cdef int _end(self, uint32_t index, int kind, uint16_t code) except -1 nogil
    cdef int end_waiting(self) except -1 nogil  # those for whom Python has handled enough

    # commands
    cdef int _message(self, uint32_t index, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _hot(self, uint32_t index, const Command *command, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _publish(self, uint32_t index, const Command *command) except -1 nogil
    cdef int _cold(self, uint32_t index, const uint8_t *data, uint32_t size, bint text=*) except -1 nogil
    cdef int _hello_first(self, uint32_t index, const Command *command) except -1 nogil

    # limits
    cdef void refill(self, Session *s) noexcept nogil
    cdef uint32_t _over_rate(self, Session *s) noexcept nogil  # ms to wait; 0 = it may, and is counted
    cdef int _limited(self, uint32_t index, const Command *command, uint32_t wait_ms) except -1 nogil
    cdef int refuse(self, uint32_t index, uint64_t counter, uint32_t status, uint32_t extra) except -1 nogil
    cdef int receipt(self, uint32_t index, const Answer *answer) except -1 nogil
    cdef void _hold(self, uint32_t index) noexcept nogil
    cdef void unhold(self) noexcept nogil
