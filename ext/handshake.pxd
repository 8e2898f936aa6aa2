# The opening handshake (HTTP/1.1 upgrade, RFC 6455 section 4.2): a head in, a verdict and the answer out.
# Any thread, pure: borrows the caller's bytes for the call, allocates nothing.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:  # verdicts
    HS_MORE = 0  # the head is not complete
    HS_UPGRADE = 1
    HS_REQUEST = 2  # a plain GET or HEAD
    HS_REFUSED = 3  # Handshake.status and reason say why

cdef enum:
    HANDSHAKE_ANSWER_BYTES_MAX = 640

cdef struct Handshake:
    uint32_t head_size  # with the empty line; what follows are frames already
    uint16_t status
    uint8_t encoding  # E_MSGPACK or E_JSON
    bint subprotocol  # one was chosen
    char accept[28]
    const char *reason

# Looks at what has come of a head; `looked` bytes of it were there in the last call. `any_client` takes every path and
# needs no subprotocol.
cdef int handshake_read(const uint8_t *data, size_t size, size_t looked, size_t head_bytes_max, const uint8_t *path,
                        size_t path_size, bint any_client, Handshake *out) noexcept nogil

# Writes the 101 or the refusal, at most HANDSHAKE_ANSWER_BYTES_MAX; its size.
cdef size_t handshake_answer(const Handshake *handshake, uint8_t *to) noexcept nogil
cdef size_t refusal_answer(uint16_t status, const char *reason, uint8_t *to) noexcept nogil
cdef size_t busy_answer(uint32_t retry_after_s, const char *reason, uint8_t *to) noexcept nogil  # 503; s below 1000

cdef void sha1(const uint8_t *data, size_t size, uint8_t *digest) noexcept nogil  # size at most 119
