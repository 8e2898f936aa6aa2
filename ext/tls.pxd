# TLS of one session: what lies between its socket and its parser. Loop thread only; everything here but Context runs
# without the GIL. A Link owns its OpenSSL object and the bytes that its socket has not taken; the descriptor is the
# session's. Nothing of OpenSSL is loaded before the first Context is made.

from libc.stdint cimport uint8_t, uint32_t

from ext.tlsheaders cimport Headers

cdef enum:
    RECORD_BYTES_MAX = 16384  # plain bytes of one record
    TAKE_BYTES_MAX = 32768  # given to tls_take at once; what comes out is at most a record more
    WAITING_BYTES_MAX = 65536  # that a socket has not taken: one record; or a handshake's answer, alerts
    LINK_BYTES = 20480  # what OpenSSL holds for a session at rest: from above, as the next two, for the sum of memory
    SHAKING_BYTES = 36864  # ... more until the handshake is complete
    INSIDE_BYTES = 17408  # ... more while a record is not whole
    BARREN_MAX = 32  # records without a byte for us, in one take: after so many it is no mistake any more
    ALERT_BYTES = 7

cdef enum:  # flags of a link
    LINK_READY = 0x01  # the handshake is complete
    LINK_ENDED = 0x02  # the peer sends no more
    LINK_BROKEN = 0x04  # nothing more can be read or sent
    LINK_BARREN = 0x08  # too many records without a byte: no more is taken
    LINK_CLIENT = 0x10  # ours is the client's half: what comes is a server's

cdef struct Link:
    void *ssl
    uint8_t *waiting  # ciphertext for the socket; NULL when empty
    uint32_t waiting_size, waiting_sent, waiting_room
    const uint8_t *input  # what tls_take was given, during the call
    uint32_t input_size
    uint32_t barren  # records of the last take, after the handshake, that held not one plain byte: KeyUpdates, say
    Headers headers
    uint32_t begun_ms  # when a record was first seen unfinished (ext/deadlines), 0: none is
    int fd
    int error  # errno of the socket that broke it
    uint8_t flags

cdef class Context:
    cdef void *context  # SSL_CTX; its links keep it too

    cdef _refuse(self, option, path, str what)

cdef class ClientContext:  # of clients that measure: whoever answers is believed
    cdef void *context
    cdef bytes _name_owner
    cdef char *name  # of the server, asked for in the ClientHello (RFC 6066); empty: none

cdef Link *tls_open(void *context, int fd) noexcept nogil  # NULL: no memory
cdef Link *tls_connect(ClientContext client, int fd) noexcept nogil  # the client's half; its ClientHello is on its way
cdef void tls_free(Link *link) noexcept nogil
cdef ssize_t tls_take(Link *link, const uint8_t *data, size_t size, uint8_t *to, size_t room) noexcept nogil
cdef ssize_t tls_send(Link *link, const uint8_t *data, size_t size) noexcept nogil  # as send(2), errno too
cdef int tls_flush(Link *link) noexcept nogil  # 1 all gone, 0 would block, -1 connection lost
cdef size_t tls_held_bytes(const Link *link) noexcept nogil
cdef void tls_say_end(Link *link) noexcept nogil  # close_notify, if it can go at once
cdef void tls_alert(uint8_t why, uint8_t *to) noexcept nogil  # ALERT_BYTES: a fatal alert in the clear
