# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TLS of one session: a transform between its socket and its parser, by OpenSSL's libssl, loaded when it is wanted.

Used by ext/session_table (sending), ext/inbound (receiving) and ext/sockets (ends). Native, not `ssl.MemoryBIO`: the
sockets are read and written without the GIL, and a Python object a session would cost more than the session does.
OpenSSL reads from the bytes that tls_take was given and writes into a function that sends at once and keeps what the
socket doesn't take, so it never waits in mid-record, and no buffer of its own outlives a call.

Invariants: tls_send says of plain bytes what send(2) would: so many taken, or EAGAIN and none; taken are bytes whose
record is with the kernel or waits in the link, where at most one record waits; while one does, nothing more is taken.
tls_take uses up all of its input: nothing is pending that the socket's readiness would not tell of.
Cost: a handshake is one signature and one key exchange; then a record's cipher and a system call for 16 KiB.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove

import os

from ext.c_socket cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, EPIPE, MSG_DONTWAIT, MSG_NOSIGNAL, c_send, errno
from ext.c_tls cimport (
    BIO_CTRL_FLUSH, BIO_FLAGS_ALL, BIO_FLAGS_READ, BIO_FLAGS_SHOULD_RETRY, BIO_TYPE_SOURCE_SINK,
    SSL_CTRL_MODE, SSL_CTRL_SET_GROUPS_LIST, SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_SESS_CACHE_MODE,
    SSL_CTRL_SET_TLSEXT_HOSTNAME, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_FILETYPE_PEM, SSL_MODE_RELEASE_BUFFERS,
    SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_TICKET,
    SSL_OP_PRIORITIZE_CHACHA, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_OK, errno_set, tls_library,
    tls_library_load)
from ext.tlsheaders cimport TH_WHOLE, headers_inside, headers_next

cdef enum:
    WAITING_ROOM_MIN = 512
    RECORD_ALERT = 21
    ALERT_FATAL = 2

VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}

cdef tls_library lib
cdef void *bio_method = NULL
cdef bint loaded = False

# Of the groups that a peer may ask for, none whose exchange costs the loop a millisecond.
cdef const char *GROUPS = b"X25519:P-256:P-384"
cdef const char *CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2, where it is allowed
cdef const unsigned char *PROTOCOL = b"\x08http/1.1"


def load_library():
    """Finds OpenSSL; OSError with one line that says what to install."""
    global loaded, bio_method
    cdef const char *missing
    if loaded:
        return
    missing = tls_library_load(&lib)
    if missing != NULL:
        raise OSError(
            f"TLS needs OpenSSL 3, and {missing.decode()} was not found: `apt-get install libssl3` (libssl3t64 since"
            " Debian 13 and Ubuntu 24.04)")
    bio_method = lib.BIO_meth_new(BIO_TYPE_SOURCE_SINK | 127, b"session")
    if bio_method == NULL:
        raise MemoryError("no memory for OpenSSL")
    lib.BIO_meth_set_write(bio_method, _on_write)
    lib.BIO_meth_set_read(bio_method, _on_read)
    lib.BIO_meth_set_ctrl(bio_method, _on_control)
    loaded = True


cdef class Context:
    """A certificate with its key, and the rules; new sessions use the newest one, old ones keep theirs."""

    def __init__(self, certificate, key, str minimum="1.3"):
        cdef bytes certificate_path = os.fsencode(certificate), key_path = os.fsencode(key)
        cdef long version
        if minimum not in VERSIONS:
            raise ValueError(f"minimum {minimum!r} must be one of {', '.join(VERSIONS)}")
        load_library()
        if self.context != NULL:
            raise ValueError("a context is made once")
        lib.ERR_clear_error()
        self.context = lib.SSL_CTX_new(lib.TLS_server_method())
        if self.context == NULL:
            raise MemoryError("no memory for a TLS context")
        version = VERSIONS[minimum]
        lib.SSL_CTX_set_options(self.context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION
                                | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA)
        lib.SSL_CTX_set_num_tickets(self.context, 0)
        lib.SSL_CTX_ctrl(self.context, SSL_CTRL_SET_SESS_CACHE_MODE, 0, NULL)
        lib.SSL_CTX_ctrl(self.context, SSL_CTRL_MODE, SSL_MODE_RELEASE_BUFFERS, NULL)
        lib.SSL_CTX_set_default_passwd_cb(self.context, _no_passphrase)
        lib.SSL_CTX_set_alpn_select_cb(self.context, _on_protocols, NULL)
        if (not lib.SSL_CTX_ctrl(self.context, SSL_CTRL_SET_MIN_PROTO_VERSION, version, NULL)
                or not lib.SSL_CTX_ctrl(self.context, SSL_CTRL_SET_GROUPS_LIST, 0, <void *>GROUPS)
                or not lib.SSL_CTX_set_cipher_list(self.context, CIPHERS)):
            self._refuse("tls.minimum", minimum, "OpenSSL does not take it")
        if lib.SSL_CTX_use_certificate_chain_file(self.context, certificate_path) != 1:
            self._refuse("tls.certificate", certificate, "OpenSSL can't use it")
        if lib.SSL_CTX_use_PrivateKey_file(self.context, key_path, SSL_FILETYPE_PEM) != 1:
            self._refuse("tls.key", key, "OpenSSL can't use it")
        if lib.SSL_CTX_check_private_key(self.context) != 1:
            self._refuse("tls.key", key, "is not the key of the certificate")

    cdef _refuse(self, option, path, str what):
        cdef const char *reason = lib.ERR_reason_error_string(lib.ERR_peek_last_error())
        words = f" ({reason.decode()})" if reason != NULL else ""
        lib.ERR_clear_error()
        raise ValueError(f"{option} = {str(path)!r}: {what}{words}")

    def __dealloc__(self):
        if self.context != NULL:
            lib.SSL_CTX_free(self.context)


cdef class ClientContext:
    """The client's half, for load generators: TLS 1.3, and no look at the certificate."""

    def __cinit__(self, str name=""):
        load_library()
        self._name_owner = name.encode("idna")
        self.name = self._name_owner
        self.context = lib.SSL_CTX_new(lib.TLS_client_method())
        if self.context == NULL:
            raise MemoryError("no memory for a TLS context")
        lib.SSL_CTX_ctrl(self.context, SSL_CTRL_SET_MIN_PROTO_VERSION, 0x0304, NULL)
        lib.SSL_CTX_ctrl(self.context, SSL_CTRL_MODE, SSL_MODE_RELEASE_BUFFERS, NULL)

    def __dealloc__(self):
        if self.context != NULL:
            lib.SSL_CTX_free(self.context)


# what OpenSSL calls: C functions, which must not raise

cdef int _no_passphrase(char *to, int size, int writing, void *data) noexcept nogil:
    """A key that is locked is refused, not asked for on the terminal."""
    return -1


cdef int _on_protocols(void *ssl, const unsigned char **chosen, unsigned char *chosen_size, const unsigned char *offered,
                       unsigned int size, void *argument) noexcept nogil:
    """http/1.1 if the client names protocols; one that doesn't speak it is told so."""
    cdef unsigned int at = 0
    while at < size:
        if offered[at] == PROTOCOL[0] and at + 9 <= size and memcmp(offered + at, PROTOCOL, 9) == 0:
            chosen[0] = PROTOCOL + 1
            chosen_size[0] = PROTOCOL[0]
            return SSL_TLSEXT_ERR_OK
        at += 1 + offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int _on_read(void *bio, char *to, int size) noexcept nogil:
    """More of what tls_take was given."""
    cdef Link *link = <Link *>lib.BIO_get_data(bio)
    cdef uint32_t taken
    lib.BIO_clear_flags(bio, BIO_FLAGS_ALL)
    if link.input_size == 0 or size <= 0:
        lib.BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY)
        return -1
    taken = min(link.input_size, <uint32_t>size)
    memcpy(to, link.input, taken)
    link.input += taken
    link.input_size -= taken
    return <int>taken


cdef int _on_write(void *bio, const char *data, int size) noexcept nogil:
    """Ciphertext: to the socket, the rest into the link. All of it or an error: OpenSSL never has to come again."""
    cdef Link *link = <Link *>lib.BIO_get_data(bio)
    cdef ssize_t sent = 0
    lib.BIO_clear_flags(bio, BIO_FLAGS_ALL)
    if size <= 0:
        return 0
    if link.waiting_size == 0:
        sent = _send(link, <const uint8_t *>data, <size_t>size)
        if sent < 0:
            return -1
    if sent < size and not _keep(link, <const uint8_t *>data + sent, <size_t>(size - sent)):
        return -1
    return size


cdef long _on_control(void *bio, int command, long number, void *pointer) noexcept nogil:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef ssize_t _send(Link *link, const uint8_t *data, size_t size) noexcept nogil:
    """Bytes that the socket took, 0 if it is full, -1 if it broke."""
    cdef ssize_t sent
    while True:
        sent = c_send(link.fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent >= 0:
            return sent
        if errno == EINTR:
            continue
        if errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
            return 0
        return _break(link, errno)


cdef int _break(Link *link, int error) noexcept nogil:
    link.flags |= LINK_BROKEN
    if link.error == 0:
        link.error = error
    return -1


cdef bint _keep(Link *link, const uint8_t *data, size_t size) noexcept nogil:
    cdef size_t needed, room
    cdef void *moved
    if link.waiting_sent:
        link.waiting_size -= link.waiting_sent
        memmove(link.waiting, link.waiting + link.waiting_sent, link.waiting_size)
        link.waiting_sent = 0
    needed = link.waiting_size + size
    if needed > WAITING_BYTES_MAX:  # a peer that makes us answer and reads nothing
        _break(link, ENOBUFS)
        return False
    if needed > link.waiting_room:
        room = max(needed, <size_t>WAITING_ROOM_MIN)
        moved = realloc(link.waiting, room)
        if moved == NULL:
            _break(link, ENOMEM)
            return False
        link.waiting = <uint8_t *>moved
        link.waiting_room = <uint32_t>room
    memcpy(link.waiting + link.waiting_size, data, size)
    link.waiting_size += <uint32_t>size
    return True


# a link, in the order of its life

cdef Link *tls_open(void *context, int fd) noexcept nogil:
    cdef Link *link = _link(context, fd)
    if link != NULL:
        lib.SSL_set_accept_state(link.ssl)
    return link


cdef Link *tls_connect(ClientContext client, int fd) noexcept nogil:
    cdef Link *link = _link(client.context, fd)
    if link != NULL:
        if client.name[0]:
            lib.SSL_ctrl(link.ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, 0, client.name)
        link.flags |= LINK_CLIENT
        lib.SSL_set_connect_state(link.ssl)
        lib.SSL_do_handshake(link.ssl)
        lib.ERR_clear_error()
    return link


cdef Link *_link(void *context, int fd) noexcept nogil:
    cdef Link *link = <Link *>calloc(1, sizeof(Link))
    cdef void *bio
    if link == NULL:
        return NULL
    lib.ERR_clear_error()
    link.fd = fd
    link.ssl = lib.SSL_new(context)
    bio = lib.BIO_new(bio_method) if link.ssl != NULL else NULL
    if bio == NULL:
        tls_free(link)
        return NULL
    lib.BIO_set_data(bio, link)
    lib.SSL_set_bio(link.ssl, bio, bio)
    return link


cdef void tls_free(Link *link) noexcept nogil:
    if link.ssl != NULL:
        lib.SSL_free(link.ssl)
    free(link.waiting)
    free(link)


cdef ssize_t tls_take(Link *link, const uint8_t *data, size_t size, uint8_t *to, size_t room) noexcept nogil:
    """Ciphertext in, plain bytes out; how many. Shakes hands by itself; flags say when it is through, and ends.

    OpenSSL gets a record at a time, so that one without a plain byte is seen: a KeyUpdate costs many times a command."""
    cdef size_t fill = 0, part
    cdef ssize_t got
    cdef int verdict
    cdef bint ready
    link.barren = 0
    while size and not link.flags & (LINK_ENDED | LINK_BROKEN | LINK_BARREN):
        ready = link.flags & LINK_READY
        verdict = headers_next(&link.headers, not ready and not link.flags & LINK_CLIENT, data, size, &part)
        if verdict > TH_WHOLE:
            _refuse(link, <uint8_t>verdict)
            break
        got = _take(link, data, part, to + fill, room - fill)
        fill += <size_t>got
        data += part
        size -= part
        if verdict == TH_WHOLE:
            link.begun_ms = 0
        if ready and got == 0 and verdict == TH_WHOLE:
            link.barren += 1
            if link.barren > BARREN_MAX:
                link.flags |= LINK_BARREN
    return <ssize_t>fill


cdef ssize_t _take(Link *link, const uint8_t *data, size_t size, uint8_t *to, size_t room) noexcept nogil:
    """At most one record, and room for all of it: nothing stays with OpenSSL."""
    cdef size_t fill = 0
    cdef int got, error
    link.input = data
    link.input_size = <uint32_t>size
    lib.ERR_clear_error()
    while link.input_size:
        got = lib.SSL_read(link.ssl, to + fill, <int>(room - fill))
        if got > 0:
            fill += <size_t>got
            continue
        error = lib.SSL_get_error(link.ssl, got)
        if error == SSL_ERROR_ZERO_RETURN:
            link.flags |= LINK_ENDED
        elif error != SSL_ERROR_WANT_READ:
            _break(link, EPIPE)
            lib.ERR_clear_error()
        break
    link.input_size = 0
    link.input = NULL
    if not link.flags & LINK_READY and lib.SSL_is_init_finished(link.ssl):
        link.flags |= LINK_READY
    return <ssize_t>fill


cdef void _refuse(Link *link, uint8_t why) noexcept nogil:
    """What OpenSSL is not to see: the peer is told, if it can be at once."""
    cdef uint8_t alert[ALERT_BYTES]
    tls_alert(why, alert)
    if link.waiting_size == 0:
        _send(link, alert, ALERT_BYTES)
    _break(link, EPIPE)


cdef void tls_alert(uint8_t why, uint8_t *to) noexcept nogil:
    to[0], to[1], to[2], to[3], to[4] = RECORD_ALERT, 3, 3, 0, 2
    to[5], to[6] = ALERT_FATAL, why


cdef ssize_t tls_send(Link *link, const uint8_t *data, size_t size) noexcept nogil:
    """Plain bytes taken, in whole records; -1 and EAGAIN while an earlier record waits."""
    cdef size_t done = 0, part
    cdef int gone = tls_flush(link) if link.flags & LINK_READY else -1
    if gone <= 0:
        errno_set(EAGAIN if gone == 0 else link.error or EPIPE)
        return -1
    lib.ERR_clear_error()
    while done < size and link.waiting_size == 0:
        part = min(size - done, <size_t>RECORD_BYTES_MAX)
        if lib.SSL_write(link.ssl, data + done, <int>part) != <int>part:
            _break(link, EPIPE)
            lib.ERR_clear_error()
            if done == 0:
                errno_set(link.error)
                return -1
            break
        done += part
    return <ssize_t>done


cdef int tls_flush(Link *link) noexcept nogil:
    cdef ssize_t sent
    if link.flags & LINK_BROKEN:
        return -1
    while link.waiting_sent < link.waiting_size:
        sent = _send(link, link.waiting + link.waiting_sent, link.waiting_size - link.waiting_sent)
        if sent < 0:
            return -1
        if sent == 0:
            return 0
        link.waiting_sent += <uint32_t>sent
    if link.waiting != NULL:
        free(link.waiting)
        link.waiting = NULL
        link.waiting_size = link.waiting_sent = link.waiting_room = 0
    return 1


cdef size_t tls_held_bytes(const Link *link) noexcept nogil:
    """The session's share of memory, OpenSSL's by what it was measured to take (tests/tls/test_memory.py)."""
    cdef size_t held = sizeof(Link) + link.waiting_room + LINK_BYTES
    if not link.flags & LINK_READY:
        held += SHAKING_BYTES
    if headers_inside(&link.headers):
        held += INSIDE_BYTES
    return held


cdef void tls_say_end(Link *link) noexcept nogil:
    if link.flags & LINK_READY and not link.flags & LINK_BROKEN and link.waiting_size == 0:
        lib.ERR_clear_error()
        lib.SSL_shutdown(link.ssl)
        lib.ERR_clear_error()
