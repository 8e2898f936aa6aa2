"""Readers of the protocols of other servers, token by token, as little of them as counting and checking needs.

Below ext/peerloop. A token that isn't whole is read again when more has come; RESP replies are taken apart by their
strings, so that a reply of megabytes needs no buffer of its own, and how many of its parts are still to come is in the
connection's Reading. What no server of that kind says is broken, never skipped.
Cost: one pass over heads; payloads are not touched.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from ext.c_load cimport find_bytes, load_be64

cdef enum:
    NUMBER_DIGITS_MAX = 9
    UPGRADE_BYTES_MAX = 4096


cdef uint64_t hex16(const uint8_t *p) noexcept nogil:
    """Sixteen hexadecimal digits, lower case; what is none counts as some digit: callers compare what they wrote."""
    cdef uint64_t value = 0
    cdef uint32_t i, c
    for i in range(16):
        c = p[i]
        value = value << 4 | ((c & 15) + (9 if c >= 97 else 0))
    return value


cdef void hex16_put(uint8_t *p, uint64_t value) noexcept nogil:
    cdef const uint8_t *digits = b"0123456789abcdef"
    cdef int i
    for i in range(15, -1, -1):
        p[i] = digits[value & 15]
        value >>= 4


cdef int64_t line_end(const uint8_t *data, uint32_t size) noexcept nogil:
    """Bytes of the first line with its CR LF; 0 it isn't whole, -1 too long for one."""
    cdef const uint8_t *found = <const uint8_t *>memchr(data, 10, size)
    if found == NULL:
        return -1 if size > TOKEN_BYTES_MAX else 0
    if found == data or (found - 1)[0] != 13:
        return -1
    return found - data + 1


cdef int64_t number(const uint8_t *p, const uint8_t *end) noexcept nogil:
    """Decimal digits up to the end; -1 stands for themselves, -2 for what is no number."""
    cdef int64_t value = 0
    if end - p == 2 and p[0] == 45 and p[1] == 49:
        return -1
    if p >= end or end - p > NUMBER_DIGITS_MAX:
        return -2
    while p < end:
        if not 48 <= p[0] <= 57:
            return -2
        value = value * 10 + p[0] - 48
        p += 1
    return value


cdef bint stamped(const uint8_t *p, int64_t size) noexcept nogil:
    return size >= STAMP and memcmp(p, b"GNPL", 4) == 0


# ---- RESP ------------------------------------------------------------------------------------------------------------


cdef void leaf(Reading *r, Token *t) noexcept nogil:
    """One part of the reply is read: the arrays that end with it, and the reply if all do."""
    while r.depth:
        r.left[r.depth - 1] -= 1
        if r.left[r.depth - 1]:
            return
        r.depth -= 1
    t.ends = 1


cdef int64_t resp_next(Reading *r, const uint8_t *data, uint32_t size, Token *t) noexcept nogil:
    cdef int64_t head = line_end(data, size), value = 0
    cdef const uint8_t *end = data + head - 2
    if head <= 0:
        return head
    if data[0] == 43 or data[0] == 58:      # + :
        leaf(r, t)
        return head
    if data[0] == 45:                       # -
        t.kind, t.at, t.size = K_REFUSED, 1, <uint32_t>head - 3
        leaf(r, t)
        return head
    if data[0] != 36 and data[0] != 42:     # $ *
        return -1
    value = number(data + 1, end)
    if value < -1 or value > TOKEN_BYTES_MAX:
        return -1
    if data[0] == 42:
        if value <= 0:
            leaf(r, t)
        elif r.depth == DEPTH:
            return -1
        else:
            r.left[r.depth] = <uint32_t>value
            r.depth += 1
        return head
    if value == -1:
        leaf(r, t)
        return head
    if size < head + value + 2:
        return 0
    if data[head + value] != 13 or data[head + value + 1] != 10:
        return -1
    t.at, t.size = <uint32_t>head, <uint32_t>value
    t.kind = K_PAYLOAD if stamped(data + head, value) else K_NAME
    leaf(r, t)
    return head + value + 2


# ---- NATS ------------------------------------------------------------------------------------------------------------


cdef int64_t nats_message(const uint8_t *data, uint32_t size, int64_t head, bint headers, Token *t) noexcept nogil:
    """MSG and HMSG: the last word of the line is the size of all, the one before it (HMSG) that of the headers."""
    cdef const uint8_t *end = data + head - 2
    cdef const uint8_t *word = end
    cdef int64_t total, skipped = 0
    while word > data and (word - 1)[0] != 32:
        word -= 1
    total = number(word, end)
    if headers and word > data:
        end = word - 1
        word = end
        while word > data and (word - 1)[0] != 32:
            word -= 1
        skipped = number(word, end)
    if total < 0 or total > TOKEN_BYTES_MAX or skipped < 0 or skipped > total:
        return -1
    if size < head + total + 2:
        return 0
    if data[head + total] != 13 or data[head + total + 1] != 10:
        return -1
    t.at, t.size = <uint32_t>(head + skipped), <uint32_t>(total - skipped)
    if stamped(data + t.at, t.size):
        t.kind = K_PAYLOAD
    elif skipped == total:                  # a status: the request is over
        t.kind, t.at, t.size = K_REFUSED, <uint32_t>head, <uint32_t>skipped
    elif find_bytes(data + t.at, t.size, b'"error":', 8) != NULL:
        t.kind = K_REFUSED
    else:
        t.kind = K_ANSWER
    return head + total + 2


cdef int64_t nats_next(const uint8_t *data, uint32_t size, Token *t) noexcept nogil:
    cdef int64_t head = line_end(data, size)
    if head <= 0:
        return head
    if head > 6 and memcmp(data, b"MSG ", 4) == 0:
        return nats_message(data, size, head, False, t)
    if head > 7 and memcmp(data, b"HMSG ", 5) == 0:
        return nats_message(data, size, head, True, t)
    if head == 6 and memcmp(data, b"PING", 4) == 0:
        t.kind = K_PING
    elif head == 6 and memcmp(data, b"PONG", 4) == 0:
        t.kind = K_ANSWER
    elif head >= 6 and memcmp(data, b"-ERR", 4) == 0:
        t.kind, t.at, t.size = K_WORDS, 0, <uint32_t>head - 2
    elif not (head >= 6 and memcmp(data, b"INFO", 4) == 0) and not (head == 5 and memcmp(data, b"+OK", 3) == 0):
        return -1
    return head


# ---- MQTT ------------------------------------------------------------------------------------------------------------


cdef int64_t mqtt_next(const uint8_t *data, uint32_t size, Token *t) noexcept nogil:
    cdef uint32_t head = 1, shift = 0, length = 0, kind, skipped
    while True:
        if head >= size:
            return 0
        length |= <uint32_t>(data[head] & 0x7F) << shift
        shift += 7
        head += 1
        if not data[head - 1] & 0x80:
            break
        if shift > 21:
            return -1
    if length > TOKEN_BYTES_MAX:
        return -1
    if size < head + length:
        return 0
    kind = data[0] >> 4
    if kind == 3:
        if length < 2:
            return -1
        skipped = 2 + (data[head] << 8 | data[head + 1]) + (2 if data[0] & 6 else 0)
        if skipped > length:
            return -1
        t.at, t.size = head + skipped, length - skipped
        t.kind = K_PAYLOAD if stamped(data + t.at, t.size) else K_NOTHING
    elif kind == 2 and length == 2:
        t.kind, t.at, t.size = K_REFUSED if data[head + 1] else K_ANSWER, head, length
    elif kind == 9 and length >= 3:
        t.kind, t.at, t.size = K_REFUSED if data[head + 2] & 0x80 else K_ANSWER, head, length
    elif kind == 4 and length == 2:
        t.kind = K_ANSWER
    elif not (kind == 13 and length == 0):
        return -1
    return head + length


# ---- WebSocket with JSON ---------------------------------------------------------------------------------------------


cdef int64_t frame_head(Reading *r, const uint8_t *data, uint32_t size, Token *t) noexcept nogil:
    """The answer to the upgrade, or the head of a frame of text: what follows it is read by lines."""
    cdef const uint8_t *end
    cdef uint64_t length
    cdef int64_t head = 2
    if size >= 4 and memcmp(data, b"HTTP", 4) == 0:
        end = find_bytes(data, size, b"\r\n\r\n", 4)
        if end == NULL:
            return 0 if size < UPGRADE_BYTES_MAX else -1
        t.kind = K_ANSWER if memcmp(data + 8, b" 101 ", 5) == 0 else K_REFUSED
        t.size = <uint32_t>(end - data)
        return end - data + 4
    if size < 2:
        return 0
    if data[0] == 0x88:                     # goodbye: a code of two bytes and words, the last of the connection
        t.kind, t.at, t.size = K_WORDS, 2, min(data[1] & 0x7F, size - 2)
        return size
    if data[0] != 0x81 or data[1] & 0x80:
        return -1
    length = data[1]
    if length >= 126:
        head = 4 if length == 126 else 10
        if size < head:
            return 0
        length = data[2] << 8 | data[3] if head == 4 else load_be64(data + 2)
    if length > TOKEN_BYTES_MAX:
        return -1
    r.left[0] = <uint32_t>length
    return head


cdef int64_t json_next(Reading *r, const uint8_t *data, uint32_t size, Token *t) noexcept nogil:
    """One line of a frame; several pushes that leave together are lines of one."""
    cdef const uint8_t *end
    cdef const uint8_t *found
    cdef uint32_t line
    if not r.left[0]:
        return frame_head(r, data, size, t)
    end = <const uint8_t *>memchr(data, 10, min(size, r.left[0]))
    if end == NULL and size < r.left[0]:
        return 0
    line = r.left[0] if end == NULL else <uint32_t>(end - data) + 1
    r.left[0] -= line
    found = find_bytes(data, line, b'"data":"GNPL', 12)
    if found != NULL:
        end = <const uint8_t *>memchr(found + 8, 34, line - (found + 8 - data))
        t.at, t.size = <uint32_t>(found + 8 - data), 0 if end == NULL else <uint32_t>(end - found - 8)
        t.kind = K_PAYLOAD
    elif find_bytes(data, line, b'"error":', 8) != NULL:
        t.kind, t.size = K_REFUSED, line
    elif find_bytes(data, line, b'"id":', 5) != NULL:
        t.kind = K_ANSWER
    elif line <= 3 and data[0] == 123:      # {}
        t.kind = K_PING
    return line


cdef int64_t token_next(int protocol, Reading *r, const uint8_t *data, uint32_t size, Token *t) noexcept nogil:
    t.kind, t.at, t.size, t.ends = K_NOTHING, 0, 0, 0
    if size == 0:
        return 0
    if protocol == P_RESP:
        return resp_next(r, data, size, t)
    if protocol == P_NATS:
        return nats_next(data, size, t)
    if protocol == P_MQTT:
        return mqtt_next(data, size, t)
    return json_next(r, data, size, t)
