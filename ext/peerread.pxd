# How the answers of other servers are taken apart: RESP (Redis), the protocols of NATS, MQTT 3.1.1, and the WebSocket
# and JSON of Centrifugo.
#
# Called by ext/peerloop with the bytes of one connection; owns nothing, keeps what must survive between two reads in
# the connection's Reading. A token is a whole thing of the protocol, its bytes are places in what was given.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    STAMP = 36                  # first bytes of a payload: "GNPL", index and intended time in 16 hexadecimal digits each
    DEPTH = 6                   # arrays in arrays of one RESP reply
    TOKEN_BYTES_MAX = 1 << 19   # longer ones are broken

cdef enum Protocol:
    P_RESP = 1, P_NATS = 2, P_MQTT = 3, P_JSON = 4

cdef enum Kind:
    K_NOTHING = 0               # read over
    K_PAYLOAD = 1               # a stamped payload
    K_ANSWER = 2                # to something that was asked
    K_REFUSED = 3               # the same, and it was no: `at` and `size` are the words
    K_PING = 4                  # wants a pong
    K_NAME = 5                  # RESP: a string that is no payload (ids of a stream's entries are)
    K_WORDS = 6                 # something that the other side says unasked

cdef struct Reading:
    uint32_t left[6]            # RESP: what each open array still lacks; JSON: bytes of the frame still to come
    uint32_t depth

cdef struct Token:
    uint32_t kind
    uint32_t at, size           # of the payload or the words
    uint32_t ends               # RESP: the reply is whole with it

# Bytes that the first token takes: 0 it isn't whole yet, -1 no token of this protocol.
cdef int64_t token_next(int protocol, Reading *r, const uint8_t *data, uint32_t size, Token *t) noexcept nogil
cdef uint64_t hex16(const uint8_t *p) noexcept nogil
cdef void hex16_put(uint8_t *p, uint64_t value) noexcept nogil
