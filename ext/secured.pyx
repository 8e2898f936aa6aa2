# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TLS of the sessions that are read: from the ciphertext of a ready socket to the plain bytes that ext/inbound judges.

Between ext/inbound and ext/tls, where a session's first bytes decide: no TLS at all (told so in HTTP), nobody is let in
(an alert), or a handshake. A handshake costs hundreds of times what reading its first record does, so who would only
be told 503 behind it is turned away in front of it; there is no alert that says "busy", internal_error is what clients
take as a connection that failed. Cost: no allocation but a Link a connection.
"""

from libc.stdint cimport uint8_t, uint32_t

from ext.c_memory cimport pages_map, pages_unmap
from ext.handshake cimport HANDSHAKE_ANSWER_BYTES_MAX, refusal_answer
from ext.session_table cimport F_BLOCKED, F_REFUSE, TLS_AWAITED, Session
from ext.tls cimport ALERT_BYTES, LINK_BROKEN, LINK_READY, TAKE_BYTES_MAX, tls_alert, tls_open, tls_take
from ext.tlsheaders cimport RECORD_HANDSHAKE

cdef enum:
    INTERNAL_ERROR = 80


cdef class Secured:
    def __cinit__(self, Sockets sockets not None):
        self.sockets = sockets
        self.sessions = sockets.sessions
        self.ciphertext = <uint8_t *>pages_map(TAKE_BYTES_MAX)
        if self.ciphertext == NULL:
            raise MemoryError("no memory to read TLS")

    def __dealloc__(self):
        pages_unmap(self.ciphertext, TAKE_BYTES_MAX)

    cdef ssize_t take(self, uint32_t index, size_t size, bint shut, uint8_t *to, size_t room) except -1 nogil:
        cdef Session *s = &self.sessions.at[index]
        cdef ssize_t got
        cdef uint8_t flags
        if <size_t>s.tls == TLS_AWAITED:
            if self.ciphertext[0] != RECORD_HANDSHAKE:
                self._no_tls(index)
                return 0
            if shut:
                self._turn_away(index)
                return 0
            s.tls = tls_open(self.sockets.tls_context, s.fd)
            if s.tls == NULL:
                with gil:
                    raise MemoryError("no memory for the TLS of a session")
        flags = s.tls.flags
        got = tls_take(s.tls, self.ciphertext, size, to, room)
        if s.tls.flags & LINK_READY and not flags & LINK_READY:
            self.handshakes += 1
        elif s.tls.flags & LINK_BROKEN:
            self.failures += 1
        if s.tls.waiting_size and not s.flags & F_BLOCKED:
            self.sessions.arm_writable(index)
        return got

    cdef int _no_tls(self, uint32_t index) except -1 nogil:
        """What doesn't begin like TLS gets a plain answer if it may be HTTP, and an end in any case."""
        cdef uint8_t answer[HANDSHAKE_ANSWER_BYTES_MAX]
        self.failures += 1
        self.sockets.refused += 1
        if not b'A' <= self.ciphertext[0] <= b'Z':
            self.sockets.drop(index, False)
            return 0
        self.sessions.at[index].tls = NULL
        return self.sockets.end_http(index, answer, refusal_answer(
            400, b"this port speaks TLS: connect with wss:// or https://", answer))

    cdef int _turn_away(self, uint32_t index) except -1 nogil:
        cdef Session *s = &self.sessions.at[index]
        cdef uint8_t alert[ALERT_BYTES]
        self.sockets.refused += 1
        self.shed += not s.flags & F_REFUSE
        s.tls = NULL
        tls_alert(INTERNAL_ERROR, alert)
        return self.sockets.end_http(index, alert, ALERT_BYTES)
