# Sockets of sessions: the epoll set with the listening socket and a timer in it, and a session's life from accept to
# the closed descriptor. Loop thread only; everything here runs without the GIL. Owns the descriptors of the epoll set,
# the timer and all sessions; borrows the listening socket.
# Methods that may end a session leave its slot: look at Session.fd (-1 once closed) before going on with it.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ext.doorway cimport Doorway
from ext.gathered cimport Gathered
from ext.session_table cimport Session, SessionTable
from ext.wheel cimport Wheel

cdef enum:
    EVENT_LISTENER = 1  # what epoll says instead of an origin; origins are above 2^32
    EVENT_TIMER = 2

cdef enum:
    OUT_HELD_BYTES = 65536  # output that may wait before a session that takes none is read no more
    CLOSE_REASON_BYTES_MAX = 123

cdef class Sockets:
    # what they are about
    cdef SessionTable sessions
    cdef Session *at  # the table's array
    cdef Wheel wheel
    cdef Gathered gathered
    cdef int epoll_fd, timer_fd, listener_fd
    # clock: ms and ns of CLOCK_MONOTONIC, seconds of CLOCK_REALTIME
    cdef uint64_t now_ms
    cdef int64_t now_ns, real_s
    cdef bint ticking, woken  # the timer runs; it has been set to go off at once
    # accepting
    cdef uint32_t sessions_max, connects_per_s_max, hello_timeout_ms
    cdef uint32_t close_timeout_ms  # for the peer's close frame after ours, and again for its end after our end
    cdef int64_t accept_tokens_milli
    cdef uint64_t accept_ms  # when the tokens were counted
    cdef bint accept_paused
    cdef uint32_t share  # from so many sessions on others who accept from the same socket go first; 0: there are none
    cdef bint stood_aside  # the next to come is ours, whatever the share
    cdef void *tls_context  # of new sessions (SSL_CTX, kept alive by the poller); NULL: they are plain
    cdef Doorway doorway  # who has not said hello
    cdef uint64_t random  # for hints that are spread
    # ends: sessions to be reported, and those whose slot waits for that; each session is at most once in each
    cdef uint32_t *ended
    cdef uint32_t *dead
    cdef uint32_t ended_count, ended_reported, dead_count, dead_reported  # the first so many are in the last batch
    # counters
    cdef uint64_t accepted, refused, closed
    cdef uint64_t put_out  # of the doorway, for those who came later
    cdef uint64_t address_limited  # over the rate of their address
    cdef uint64_t untrusted  # came past the proxies
    cdef uint32_t identified

    # clock and timer
    cdef void tell_time(self) noexcept nogil
    cdef void tick(self) noexcept nogil  # the timer goes off now and then from here on
    cdef void wake(self) noexcept nogil  # ... and at once, so that the loop calls run() again
    cdef void wake_for_ends(self) noexcept nogil  # ... if an end is to be reported or a slot to be freed
    cdef void rest(self) noexcept nogil  # no more, if nothing waits for it
    cdef void ticked(self) noexcept nogil
    cdef void _set_timer(self, long first_ns, long every_ns) noexcept nogil

    # accepting
    cdef int listen_on(self, int fd) noexcept nogil  # 0, or -1: the socket can't be watched
    cdef void unlisten(self) noexcept nogil
    cdef void accept(self) noexcept nogil
    cdef void _take_in(self, int fd, const uint8_t *name) noexcept nogil
    cdef bint _make_place(self, uint32_t beside) noexcept nogil  # True: somebody was put out for it
    cdef void arrived(self, uint32_t index, const uint8_t *address) noexcept nogil  # its address is known
    cdef uint32_t spread(self, uint32_t middle) noexcept nogil  # from half to one and a half of it, at random
    cdef void _pause_accept(self, bint pause) noexcept nogil
    cdef bint _stand_aside(self) noexcept nogil
    cdef bint _may_accept(self) noexcept nogil

    # output
    cdef int send_now(self, uint32_t index, const uint8_t *data, size_t size) except -1 nogil
    cdef int send_out(self, uint32_t index) except -1 nogil
    cdef int writable(self, uint32_t index) except -1 nogil
    cdef void hold_if_full(self, uint32_t index) noexcept nogil

    # ends, in the order of a session's last moments
    cdef int end(self, uint32_t index, uint16_t code, const uint8_t *reason, size_t size) except -1 nogil
    cdef int end_named(self, uint32_t index, uint16_t code) except -1 nogil
    cdef int end_http(self, uint32_t index, const uint8_t *answer, size_t size) except -1 nogil
    cdef void _send_last(self, uint32_t index) noexcept nogil
    cdef void shut_down(self, uint32_t index) noexcept nogil
    cdef void drop(self, uint32_t index, bint reset) noexcept nogil
    cdef void _report(self, uint32_t index) noexcept nogil
    cdef void settle(self) noexcept nogil  # the last batch has been handled: its slots are free
    cdef void close_all(self) noexcept nogil
