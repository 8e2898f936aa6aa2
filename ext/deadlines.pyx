# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Deadlines: hello that doesn't come, silence, messages and records that don't end, output that doesn't move, tokens, slow ends.

Turns ext/wheel for ext/poller. Traffic moves no deadline: a session is looked at when its old one comes, and what has
happened since (heard_ms, flags) decides. A session that is blocked is known by its look only; then it counts whether
the peer's kernel has acknowledged a byte more.

Invariants: after hello, a look comes at least every look_ms; a blocked session is not called idle (its ping could not
leave), nor is one whose output moves called slow.
Cost: an idle session is looked at and pinged once a ping interval; pings that are due together leave together.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from ext.c_socket cimport (
    IPPROTO_TCP, SIOCOUTQ, TCP_INFO, c_getsockopt, c_ioctl, socklen_t, tcp_info)
from ext.closes cimport CLOSE_EXPIRED, CLOSE_HELLO_TIMEOUT, CLOSE_IDLE, CLOSE_SLOW
from ext.frames cimport FR_PING, SERVER_HEAD_BYTES_MAX, FrameState, server_head_put
from ext.gathered cimport Gathered
from ext.handshake cimport HANDSHAKE_ANSWER_BYTES_MAX, refusal_answer
from ext.session_table cimport (
    F_BLOCKED, F_CLOSE_SENT, F_NO_READ, F_PINGED, F_REQUEST, F_SHUT, S_CLOSING, S_FREE, S_HANDSHAKE, S_OPEN, TLS_AWAITED,
    Session)
from ext.sockets cimport Sockets
from ext.tlsheaders cimport headers_inside

cdef enum:
    HELLO_RETRY_MS = 1000  # while Python has the hello
    CLOCK_EVERY = 16  # looks between two at the clock


cdef uint32_t _progress(int fd) noexcept nogil:
    """A number that changes when the peer's kernel has taken more."""
    cdef tcp_info info
    cdef socklen_t size = sizeof(tcp_info)
    cdef int waiting = 0
    memset(&info, 0, sizeof(tcp_info))
    if c_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 and info.tcpi_bytes_acked:
        return <uint32_t>info.tcpi_bytes_acked
    c_ioctl(fd, SIOCOUTQ, &waiting)  # no TCP: what has not been read yet
    return <uint32_t>waiting


cdef class Deadlines:
    def __cinit__(self, Sockets sockets not None, Gathered gathered not None, uint32_t hello_timeout_ms,
                  uint32_t ping_interval_ms, uint32_t idle_timeout_ms, uint32_t slow_timeout_ms):
        if not (hello_timeout_ms and ping_interval_ms and slow_timeout_ms and ping_interval_ms < idle_timeout_ms):
            raise ValueError(f"ping_interval_ms = {ping_interval_ms} must be below idle_timeout_ms = {idle_timeout_ms},"
                             " and no time 0")
        self.sockets = sockets
        self.gathered = gathered
        self.sessions = sockets.sessions
        self.at = sockets.at
        self.hello_timeout_ms = hello_timeout_ms
        self.ping_interval_ms = ping_interval_ms
        self.idle_timeout_ms = idle_timeout_ms
        self.slow_timeout_ms = slow_timeout_ms
        self.look_ms = max(min(ping_interval_ms, slow_timeout_ms // 2), <uint32_t>1)

    cdef bint run(self, int64_t until_ns) except -1 nogil:
        cdef uint32_t looks = 0
        while True:
            self.serving = self.sockets.wheel.due(self.sockets.now_ms)
            if self.serving == 0:
                return False
            self._look(self.serving)
            looks += 1
            if looks % CLOCK_EVERY == 0:
                self.sockets.tell_time()
                if self.sockets.now_ns >= until_ns:
                    self.serving = 0
                    return True

    cdef int _look(self, uint32_t index) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint32_t due
        if s.fd < 0 or s.state == S_FREE:
            return 0
        if s.flags & F_CLOSE_SENT:
            return self._look_at_end(index)
        if s.state <= S_OPEN:
            return self._look_before_hello(index)
        if s.expires_s and self.sockets.real_s >= s.expires_s:
            return self.sockets.end_named(index, CLOSE_EXPIRED)
        if self._unfinished_ms(s) >= self.slow_timeout_ms:
            return self.sockets.end_named(index, CLOSE_SLOW)
        due = self._look_blocked(index) if s.flags & F_BLOCKED else self._look_silent(index)
        if s.state != S_CLOSING and s.fd >= 0:
            self.next_for(index, due)
        return 0

    cdef void next_for(self, uint32_t index, uint32_t due_ms) noexcept nogil:
        """The next look of a session after hello: in due_ms, sooner if its token ends before."""
        cdef Session *s = &self.at[index]
        cdef int64_t left_s
        due_ms = min(due_ms, self.look_ms)
        if s.expires_s:
            left_s = <int64_t>s.expires_s - self.sockets.real_s
            if left_s * 1000 < due_ms:
                due_ms = <uint32_t>max(left_s, <int64_t>0) * 1000
        self.sockets.wheel.put(index, self.sockets.now_ms + due_ms)

    cdef int _look_before_hello(self, uint32_t index) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint8_t answer[HANDSHAKE_ANSWER_BYTES_MAX]
        cdef uint32_t waited = <uint32_t>self.sockets.now_ms - s.ping_ms
        if waited < self.hello_timeout_ms:
            self.sockets.wheel.put(index, self.sockets.now_ms + self.hello_timeout_ms - waited)
        elif s.state == S_HANDSHAKE and (s.in_size == 0 or s.flags & F_REQUEST):
            self.sockets.drop(index, False)  # it has asked for nothing, or it is us who don't answer
        elif s.state == S_HANDSHAKE:
            self.sockets.refused += 1
            return self.sockets.end_http(index, answer, refusal_answer(
                408, b"the head of the request did not come in time", answer))
        elif self.gathered.is_waiting(s.cold):
            self.sockets.wheel.put(index, self.sockets.now_ms + HELLO_RETRY_MS)
        else:
            return self.sockets.end_named(index, CLOSE_HELLO_TIMEOUT)
        return 0

    cdef int _look_at_end(self, uint32_t index) except -1 nogil:
        """The time of a step of the end is over."""
        cdef Session *s = &self.at[index]
        if s.flags & F_SHUT or self.sessions.out_waits(s):
            self.sockets.drop(index, self.sessions.out_waits(s))
        else:
            self.sockets.shut_down(index)
        return 0

    cdef uint32_t _unfinished_ms(self, Session *s) noexcept nogil:
        """How long a message, or a record of TLS, is known to be under way."""
        cdef uint32_t waited = 0
        if s.in_data != NULL:
            waited = self._since(s, &(<FrameState *>s.in_data).seen_ms)
        if <size_t>s.tls > TLS_AWAITED and headers_inside(&s.tls.headers):
            waited = max(waited, self._since(s, &s.tls.begun_ms))
        return waited

    cdef uint32_t _since(self, Session *s, uint32_t *seen_ms) noexcept nogil:
        """How long it has been known. While we don't read, it is not the peer's fault."""
        cdef uint32_t now = <uint32_t>self.sockets.now_ms
        if s.flags & F_NO_READ:
            seen_ms[0] = 0
        elif seen_ms[0]:
            return now - seen_ms[0]
        else:
            seen_ms[0] = max(now, <uint32_t>1)
        return 0

    cdef uint32_t _look_blocked(self, uint32_t index) except? 0 nogil:
        """ms to the next look at a session whose socket is full."""
        cdef Session *s = &self.at[index]
        cdef uint32_t now = <uint32_t>self.sockets.now_ms, mark = _progress(s.fd), still
        if mark != s.acked_mark:
            s.acked_mark = mark
            s.ping_ms = now
            return self.slow_timeout_ms
        still = now - s.ping_ms
        if still >= self.slow_timeout_ms:
            self.sockets.end_named(index, CLOSE_SLOW)
            return 1
        return self.slow_timeout_ms - still

    cdef uint32_t _look_silent(self, uint32_t index) except? 0 nogil:
        """ms to the next look at a session that may have nothing to say."""
        cdef Session *s = &self.at[index]
        cdef uint8_t frame[SERVER_HEAD_BYTES_MAX]
        cdef uint32_t now = <uint32_t>self.sockets.now_ms
        cdef uint32_t silent = now - s.heard_ms, grace = self.idle_timeout_ms - self.ping_interval_ms, waited
        if s.flags & F_NO_READ:  # held while Python is behind: what it says waits in its socket
            s.heard_ms = now
            return self.ping_interval_ms
        if not s.flags & F_PINGED:
            if silent < self.ping_interval_ms:
                return self.ping_interval_ms - silent
            s.flags |= F_PINGED
            s.ping_ms = now
            self.sockets.send_now(index, frame, server_head_put(frame, FR_PING, 0))
            return grace
        waited = now - s.ping_ms
        if waited < grace:
            return grace - waited
        self.sockets.end_named(index, CLOSE_IDLE)
        return 1
