# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames for one session that never touch Python: receipts, pongs, `rate_limited` and `hello_first`.

Between the sequencer's answers and a session's output. The bodies are those of gateway/PROTOCOL.md; a test compares
the names of statuses with engine/errors.py and the texts of errors with gateway/errors.py.

Invariants: integers of receipts are 9 bytes wide in MessagePack; an `id` comes back as the bytes that came.
Cost: a copy of some hundred bytes.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from ext.frames cimport FR_BINARY, FR_TEXT, server_head_put
from ext.session_table cimport E_JSON
from ext.values cimport V_ABSENT, V_TEXT, Value

cdef enum:
    STATUSES = 28
    NUMBER_RECEIPT = 2
    NUMBER_ERROR = 7
    NUMBER_PONG = 11

cdef const char *NAMES[28]
NAMES[:] = [
    b"appended", b"repeat", b"", b"", b"", b"", b"", b"", b"", b"", b"too_old", b"counter_jump", b"conflict",
    b"unknown_conversation", b"forbidden", b"closed", b"bad_type", b"payload_too_large", b"bad_target", b"bad_payload",
    b"member_limit", b"unchanged", b"bad_id", b"too_many_unanswered", b"rate_limited", b"overloaded", b"unavailable",
    b"bad_counter",
]


cdef inline const char *_name(uint16_t status) noexcept nogil:
    if status >= STATUSES:
        return b""
    return NAMES[status]


# ---- pieces ----------------------------------------------------------------------------------------------------------

cdef inline size_t _put(uint8_t *to, size_t at, const char *text) noexcept nogil:
    cdef size_t size = strlen(text)
    memcpy(to + at, text, size)
    return at + size


cdef inline size_t _digits(uint8_t *to, size_t at, uint64_t number) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int n = 20
    while True:
        n -= 1
        digits[n] = <uint8_t>(48 + number % 10)
        number //= 10
        if number == 0:
            break
    memcpy(to + at, digits + n, 20 - n)
    return at + 20 - n


cdef inline size_t _wide(uint8_t *to, size_t at, uint64_t number) noexcept nogil:
    cdef int i
    to[at] = 0xCF
    for i in range(8):
        to[at + 1 + i] = <uint8_t>(number >> (56 - 8 * i))
    return at + 9


cdef inline size_t _text(uint8_t *to, size_t at, const char *text) noexcept nogil:
    """A MessagePack string of up to 255 bytes."""
    cdef size_t size = strlen(text)
    if size < 32:
        to[at] = <uint8_t>(0xA0 | size)
        at += 1
    else:
        to[at] = 0xD9
        to[at + 1] = <uint8_t>size
        at += 2
    memcpy(to + at, text, size)
    return at + size


cdef inline size_t _raw(uint8_t *to, size_t at, const Value *id) noexcept nogil:
    memcpy(to + at, id.raw, id.raw_size)
    return at + id.raw_size


cdef size_t _framed(uint8_t *to, uint8_t encoding, const uint8_t *body, size_t size) noexcept nogil:
    cdef size_t head = server_head_put(to, FR_TEXT if encoding == E_JSON else FR_BINARY, size)
    memcpy(to + head, body, size)
    return head + size


# ---- frames ----------------------------------------------------------------------------------------------------------

cdef size_t receipt_put(uint8_t *to, uint8_t encoding, const Answer *answer) noexcept nogil:
    cdef uint8_t body[RECEIPT_FRAME_BYTES_MAX]
    cdef size_t at
    if encoding == E_JSON:
        at = _digits(body, _put(body, 0, b'{"op":"receipt","counter":'), answer.counter)
        at = _put(body, _put(body, at, b',"status":"'), _name(answer.status))
        at = _digits(body, _put(body, at, b'","conversation":'), answer.conversation)
        at = _digits(body, _put(body, at, b',"sequence":'), answer.sequence)
        at = _digits(body, _put(body, at, b',"conversation_sequence":'), answer.conversation_sequence)
        at = _digits(body, _put(body, at, b',"time":'), answer.time)
        at = _digits(body, _put(body, at, b',"extra":'), answer.extra)
        return _framed(to, encoding, body, _put(body, at, b"}"))
    body[0], body[1], body[2] = 0x92, NUMBER_RECEIPT, 0x97
    at = _text(body, _wide(body, 3, answer.counter), _name(answer.status))
    at = _wide(body, at, answer.conversation)
    at = _wide(body, at, answer.sequence)
    at = _wide(body, at, answer.conversation_sequence)
    at = _wide(body, at, answer.time)
    return _framed(to, encoding, body, _wide(body, at, answer.extra))


cdef size_t pong_put(uint8_t *to, uint8_t encoding, const Value *id) noexcept nogil:
    cdef uint8_t body[PUSH_FRAME_BYTES_MAX]
    cdef size_t at
    if encoding == E_JSON:
        at = _put(body, 0, b'{"op":"pong"')
        if id.kind != V_ABSENT:
            at = _raw(body, _put(body, at, b',"id":'), id)
        return _framed(to, encoding, body, _put(body, at, b"}"))
    body[0], body[1], body[2] = 0x92, NUMBER_PONG, 0x80
    at = 3
    if id.kind != V_ABSENT:
        body[2] = 0x81
        at = _raw(body, _text(body, at, b"id"), id)
    return _framed(to, encoding, body, at)


cdef size_t _error_put(uint8_t *to, uint8_t encoding, const char *code, const char *message, const char *hint,
                       bint retryable, const Value *id, uint32_t retry_after_ms) noexcept nogil:
    cdef uint8_t body[PUSH_FRAME_BYTES_MAX]
    cdef size_t at
    if encoding == E_JSON:
        at = _put(body, _put(body, 0, b'{"op":"error","code":"'), code)
        at = _put(body, _put(body, at, b'","message":"'), message)
        at = _put(body, _put(body, at, b'","hint":"'), hint)
        at = _put(body, _put(body, at, b'","retryable":'), b"true" if retryable else b"false")
        if id.kind != V_ABSENT:
            at = _raw(body, _put(body, at, b',"id":'), id)
        if retry_after_ms:
            at = _digits(body, _put(body, at, b',"retry_after_ms":'), retry_after_ms)
        return _framed(to, encoding, body, _put(body, at, b"}"))
    body[0], body[1] = 0x92, NUMBER_ERROR
    body[2] = <uint8_t>(0x84 + (id.kind != V_ABSENT) + (retry_after_ms != 0))
    at = _text(body, _text(body, 3, b"code"), code)
    at = _text(body, _text(body, at, b"message"), message)
    at = _text(body, _text(body, at, b"hint"), hint)
    at = _text(body, at, b"retryable")
    body[at] = 0xC3 if retryable else 0xC2
    at += 1
    if id.kind != V_ABSENT:
        at = _raw(body, _text(body, at, b"id"), id)
    if retry_after_ms:
        at = _wide(body, _text(body, at, b"retry_after_ms"), retry_after_ms)
    return _framed(to, encoding, body, at)


cdef size_t hello_first_put(uint8_t *to, uint8_t encoding, const Value *id) noexcept nogil:
    return _error_put(to, encoding, b"hello_first", b"nothing is served before hello",
                      b"say hello before anything else", False, id, 0)


cdef size_t rate_limited_put(uint8_t *to, uint8_t encoding, const Value *id, uint32_t retry_after_ms) noexcept nogil:
    return _error_put(to, encoding, b"rate_limited", b"more commands than this session may send",
                      b"slow down to limits.rate_per_s; retry after retry_after_ms", True, id, retry_after_ms)


def receipt_frame(uint8_t encoding, uint64_t counter, uint16_t status, uint64_t conversation, uint64_t sequence,
                  uint64_t conversation_sequence, uint64_t time, uint32_t extra):
    """The WebSocket frame of a receipt."""
    cdef uint8_t frame[RECEIPT_FRAME_BYTES_MAX]
    cdef Answer answer
    answer.counter, answer.status, answer.conversation, answer.sequence = counter, status, conversation, sequence
    answer.conversation_sequence, answer.time, answer.extra = conversation_sequence, time, extra
    return frame[:receipt_put(frame, encoding, &answer)]


def push_frames(uint8_t encoding, bytes id, uint32_t retry_after_ms):
    """The frames of a pong, `hello_first` and `rate_limited`; `id` as the bytes that came, empty for none."""
    cdef uint8_t frame[PUSH_FRAME_BYTES_MAX]
    cdef Value given
    given.raw, given.raw_size = id, <uint32_t>len(id)
    given.kind = V_TEXT if id else V_ABSENT
    pong = frame[:pong_put(frame, encoding, &given)]
    hello_first = frame[:hello_first_put(frame, encoding, &given)]
    return pong, hello_first, frame[:rate_limited_put(frame, encoding, &given, retry_after_ms)]


def status_names():
    """Number to name of the statuses that native code can write."""
    return {number: NAMES[number].decode() for number in range(STATUSES) if NAMES[number][0]}
