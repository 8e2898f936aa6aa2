# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a load generator's connection sends and receives: the socket's bytes, or what TLS makes of them.

Below ext/loadloop, which knows sockets only by these calls; ext/peerloop and ext/bare keep what is unfinished by the
same. The client's half of TLS is the same code as the server's (ext/tls), so that both cost alike. Cost: a test of a pointer where a connection is plain.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from ext.c_load cimport EAGAIN, MSG_NOSIGNAL, errno, recv, send
from ext.c_tls cimport errno_set
from ext.tls cimport LINK_BROKEN, LINK_ENDED, TAKE_BYTES_MAX, tls_send, tls_take

cdef enum:
    PLAIN_BYTES_MAX = 2 * TAKE_BYTES_MAX  # that one call of tls_take may give


cdef ssize_t wire_send(int fd, Link *tls, const uint8_t *data, size_t size) noexcept nogil:
    return send(fd, data, size, MSG_NOSIGNAL) if tls == NULL else tls_send(tls, data, size)


cdef ssize_t wire_recv(int fd, Link *tls, uint8_t *to, size_t room) noexcept nogil:
    cdef uint8_t ciphertext[TAKE_BYTES_MAX]
    cdef ssize_t got
    if tls == NULL:
        return recv(fd, to, room, 0)
    if room < PLAIN_BYTES_MAX:
        return 0  # frames that large are not read here
    got = recv(fd, ciphertext, TAKE_BYTES_MAX, 0)
    if got <= 0:
        return got
    got = tls_take(tls, ciphertext, <size_t>got, to, room)
    if got == 0 and not tls.flags & (LINK_ENDED | LINK_BROKEN):
        errno_set(EAGAIN)
        return -1
    return got


cdef bint wire_waits(const Link *tls) noexcept nogil:
    return tls != NULL and tls.waiting_size > 0


cdef int wire_widen(uint8_t **data, uint32_t *room, uint32_t size) except -1 nogil:
    cdef uint8_t *wider = <uint8_t *>realloc(data[0], size)
    if wider == NULL:
        with gil:
            raise MemoryError(f"no memory for {size} bytes of a connection")
    data[0], room[0] = wider, size
    return 0


cdef int wire_keep(uint8_t **rest, uint32_t *rest_size, uint32_t *rest_room, const uint8_t *data,
                   uint32_t size) except -1 nogil:
    if size > rest_room[0]:
        wire_widen(rest, rest_room, size)
    if size:
        memcpy(rest[0], data, size)
    rest_size[0] = size
    return 0
