# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Headers of a TLS client's stream, judged before OpenSSL gets a byte that it would make room for.

Used by ext/tls for each record. OpenSSL believes a ClientHello that claims 131 KB and reserves that much before any of
it has come: nine bytes hold 160 KB for as long as a connection may be silent. Here a client's first record must be of
the handshake, its first message a ClientHello of at most HELLO_BYTES_MAX by its own header, and so the second one, to
which the server may ask it (after CCS, or after early data that is skipped); however many records the header and the
body lie in. What else may come in the clear is the key exchange of TLS 1.2, behind which everything is enciphered.
All bodies are OpenSSL's to judge.

Cost: two headers are looked at a record; bodies are only counted.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

cdef enum:
    HEAD_BYTES = 5
    MESSAGE_HEAD_BYTES = 4
    MAJOR_VERSION = 3
    RECORD_CIPHERS = 20  # the first and the last type that there is
    RECORD_DATA = 23
    CLEAR_BYTES_MAX = 16384  # of a record in the clear
    RECORD_BYTES_MAX = 16384 + 2048  # of one that is enciphered (TLS 1.2 allows the most)
    CLIENT_HELLO = 1
    CLIENT_KEY_EXCHANGE = 16
    HELLOS_MAX = 2


cdef int headers_next(Headers *at, bint clear, const uint8_t *data, size_t size, size_t *taken) noexcept nogil:
    cdef size_t done = 0, part
    cdef int verdict
    taken[0] = 0
    if at.head_size < HEAD_BYTES:
        done = min(size, <size_t>(HEAD_BYTES - at.head_size))
        memcpy(at.head + at.head_size, data, done)
        at.head_size += <uint8_t>done
        if clear and at.head_size:
            verdict = _clear_head(at)
            if verdict != TH_WHOLE:
                return verdict
        if at.head_size < HEAD_BYTES:
            taken[0] = done
            return TH_MORE
        at.record_left = <uint32_t>at.head[3] << 8 | at.head[4]
        if at.record_left > RECORD_BYTES_MAX:
            return TH_OVERFLOW
    part = min(size - done, <size_t>at.record_left)
    if clear and not at.exchanged and at.head[0] == RECORD_HANDSHAKE:
        verdict = _messages(at, data + done, part)
        if verdict != TH_WHOLE:
            return verdict
    at.record_left -= <uint32_t>part
    taken[0] = done + part
    if at.record_left:
        return TH_MORE
    at.head_size = 0
    return TH_WHOLE


cdef bint headers_inside(const Headers *at) noexcept nogil:
    return at.head_size > 0


cdef int _clear_head(Headers *at) noexcept nogil:
    """A record's header as far as it has come; TH_WHOLE: nothing is wrong with it."""
    cdef uint32_t size
    if not RECORD_CIPHERS <= at.head[0] <= RECORD_DATA or at.hellos == 0 and at.head[0] != RECORD_HANDSHAKE:
        return TH_UNEXPECTED
    if at.head_size > 1 and at.head[1] != MAJOR_VERSION:
        return TH_VERSION
    if at.head_size < HEAD_BYTES:
        return TH_WHOLE
    at.records += 1
    if at.records > CLEAR_RECORDS_MAX:
        return TH_UNEXPECTED
    size = <uint32_t>at.head[3] << 8 | at.head[4]
    if at.head[0] == RECORD_HANDSHAKE and not at.exchanged:
        if size > CLEAR_BYTES_MAX:
            return TH_OVERFLOW
        if size == 0:
            return TH_UNEXPECTED  # a message's pieces have bytes
    return TH_WHOLE


cdef int _messages(Headers *at, const uint8_t *data, size_t size) noexcept nogil:
    """Bytes of handshake messages in the clear; TH_WHOLE: all of them may go on."""
    cdef size_t part
    cdef int verdict
    while size:
        if at.message_left:
            part = min(size, <size_t>at.message_left)
            at.message_left -= <uint32_t>part
            data += part
            size -= part
            continue
        part = min(size, <size_t>(MESSAGE_HEAD_BYTES - at.message_size))
        memcpy(at.message + at.message_size, data, part)
        at.message_size += <uint8_t>part
        data += part
        size -= part
        verdict = _message_head(at)
        if verdict != TH_WHOLE:
            return verdict
        if at.exchanged:
            return TH_WHOLE
        if at.message_size == MESSAGE_HEAD_BYTES:
            at.message_left = <uint32_t>at.message[1] << 16 | <uint32_t>at.message[2] << 8 | at.message[3]
            at.message_size = 0
            at.hellos += 1
    return TH_WHOLE


cdef int _message_head(Headers *at) noexcept nogil:
    """A message's header as far as it has come."""
    if at.message[0] == CLIENT_KEY_EXCHANGE and at.hellos:
        at.exchanged = True
        return TH_WHOLE
    if at.message[0] != CLIENT_HELLO or at.hellos >= HELLOS_MAX:
        return TH_UNEXPECTED
    if at.message_size > 1 and at.message[1]:
        return TH_TOO_LARGE
    if (at.message_size == MESSAGE_HEAD_BYTES
            and (<uint32_t>at.message[2] << 8 | at.message[3]) > HELLO_BYTES_MAX):
        return TH_TOO_LARGE
    return TH_WHOLE


def read_clear(pieces):
    """For tests: (verdict, bytes taken) of a client's stream before the handshake's end, each piece a bytes object; the
    verdict is the last one, of the first record that is refused."""
    cdef Headers at
    cdef const uint8_t[::1] view
    cdef size_t part, done, total = 0
    cdef int verdict = TH_MORE
    memset(&at, 0, sizeof(Headers))
    for piece in pieces:
        view = piece
        done = 0
        while done < <size_t>view.shape[0]:
            verdict = headers_next(&at, True, &view[done], <size_t>view.shape[0] - done, &part)
            total += part
            done += part
            if verdict > TH_WHOLE:
                return verdict, total
    return verdict, total
