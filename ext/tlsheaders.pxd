# Headers of what a TLS client sends: of records always, of handshake messages while they come in the clear. Any thread,
# pure: a Headers (zeroed at first, never freed) says where the stream stands; borrows the caller's bytes for the call.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:  # verdicts; anything above TH_WHOLE is a refusal: the alert that says why (RFC 8446, 6)
    TH_MORE = 0  # the record goes on behind these bytes
    TH_WHOLE = 1  # these bytes end a record
    TH_UNEXPECTED = 10
    TH_OVERFLOW = 22
    TH_TOO_LARGE = 47  # illegal_parameter
    TH_VERSION = 70

cdef enum:
    HELLO_BYTES_MAX = 16384  # of a ClientHello; today's largest, with post-quantum keys, have about 2,000
    CLEAR_RECORDS_MAX = 256  # before the handshake's end: a ClientHello may come in pieces, not in dust
    RECORD_HANDSHAKE = 22  # the first byte of a client that speaks TLS

cdef struct Headers:
    uint8_t head[5]  # of the record: type, version, size
    uint8_t message[4]  # of the handshake message: type, size
    uint8_t head_size, message_size  # bytes of each that have come
    uint8_t hellos
    bint exchanged  # TLS 1.2: the client's key has come, what follows is enciphered
    uint16_t records
    uint32_t record_left, message_left  # bytes of their bodies that are still to come

# One record at most: takes bytes to its end (*taken of them), as far as there are. `clear`: the handshake is not over.
cdef int headers_next(Headers *at, bint clear, const uint8_t *data, size_t size, size_t *taken) noexcept nogil
cdef bint headers_inside(const Headers *at) noexcept nogil  # a record has begun and is not whole
