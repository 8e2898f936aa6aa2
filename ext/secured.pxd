# TLS of the sessions that are read: what has come on a socket, as plain bytes. Loop thread only; everything here runs
# without the GIL. Owns the buffer of ciphertext, which all sessions share; a session's Link is freed with the session.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.session_table cimport SessionTable
from ext.sockets cimport Sockets

cdef class Secured:
    cdef Sockets sockets
    cdef SessionTable sessions
    cdef uint8_t *ciphertext  # TAKE_BYTES_MAX, as it has come
    # counters
    cdef uint64_t handshakes, failures, shed

    # Plain bytes for so many of `ciphertext`; 0 also where the connection was ended for them. `shut`: nobody is let in.
    cdef ssize_t take(self, uint32_t index, size_t size, bint shut, uint8_t *to, size_t room) except -1 nogil
    cdef int _no_tls(self, uint32_t index) except -1 nogil
    cdef int _turn_away(self, uint32_t index) except -1 nogil
