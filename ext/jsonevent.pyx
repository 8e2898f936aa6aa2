# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Stored record → the text of a JSON event push, for live frames, pages of resume and history alike.

Payloads of the engine's own types are MessagePack maps and become `data`, an object (bytes inside as base64);
all others are opaque and become `payload`, base64. A payload that should be a map and is not well-formed is shown as
`payload` too: a client gets odd bytes, never an odd frame.

Invariants: the output is valid UTF-8 and valid JSON whatever the payload holds (broken UTF-8 becomes U+FFFD,
surrogates included); it never exceeds json_event_bound; nesting is limited to 16.
Cost: one pass; about 1 ns a byte.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from ext.record cimport rec_payload, rec_payload_len, rec_type, rec_type_len, rec_u64

cdef enum:
    DEPTH_MAX = 16
    FIXED_BYTES = 1024  # names, quotes, eight integers of up to 20 digits, a type of up to 64 bytes, escaped
    EXPANSION_MAX = 6  # worst of any payload byte: a control character as \u00XX, `false,` from one byte

cdef const char *BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef const char *HEX = b"0123456789abcdef"


cdef inline uint8_t *_text(uint8_t *to, const char *text, size_t size) noexcept nogil:
    memcpy(to, text, size)
    return to + size


cdef uint8_t *_number(uint8_t *to, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int n = 20
    while True:
        n -= 1
        digits[n] = <uint8_t>(48 + value % 10)
        value //= 10
        if value == 0:
            break
    memcpy(to, digits + n, 20 - n)
    return to + 20 - n


cdef uint8_t *_base64(uint8_t *to, const uint8_t *data, size_t size) noexcept nogil:
    """Quoted."""
    cdef size_t i = 0
    cdef uint32_t v
    to[0] = c'"'
    to += 1
    while i + 3 <= size:
        v = (<uint32_t>data[i] << 16) | (<uint32_t>data[i + 1] << 8) | data[i + 2]
        to[0] = BASE64[v >> 18]
        to[1] = BASE64[(v >> 12) & 63]
        to[2] = BASE64[(v >> 6) & 63]
        to[3] = BASE64[v & 63]
        to += 4
        i += 3
    if i < size:
        v = <uint32_t>data[i] << 16
        if i + 1 < size:
            v |= <uint32_t>data[i + 1] << 8
        to[0] = BASE64[v >> 18]
        to[1] = BASE64[(v >> 12) & 63]
        to[2] = BASE64[(v >> 6) & 63] if i + 1 < size else c'='
        to[3] = c'='
        to += 4
    to[0] = c'"'
    return to + 1


cdef size_t _utf8_size(const uint8_t *data, size_t left) noexcept nogil:
    """Bytes of the well-formed character at `data`, 0 if there is none."""
    cdef uint8_t a = data[0], b
    if a < 0x80:
        return 1
    if a < 0xC2 or left < 2:
        return 0
    b = data[1]
    if a < 0xE0:
        return 2 if b & 0xC0 == 0x80 else 0
    if left < 3 or data[2] & 0xC0 != 0x80:
        return 0
    if a < 0xF0:
        if b & 0xC0 != 0x80 or (a == 0xE0 and b < 0xA0) or (a == 0xED and b > 0x9F):
            return 0
        return 3
    if left < 4 or a > 0xF4 or data[3] & 0xC0 != 0x80 or b & 0xC0 != 0x80:
        return 0
    return 0 if (a == 0xF0 and b < 0x90) or (a == 0xF4 and b > 0x8F) else 4


cdef uint8_t *_string(uint8_t *to, const uint8_t *data, size_t size) noexcept nogil:
    """Quoted and escaped."""
    cdef size_t i = 0, n
    cdef uint8_t c
    to[0] = c'"'
    to += 1
    while i < size:
        c = data[i]
        if c >= 0x20 and c < 0x7F and c != c'"' and c != c'\\':
            to[0] = c
            to += 1
            i += 1
        elif c == c'"' or c == c'\\':
            to[0] = c'\\'
            to[1] = c
            to += 2
            i += 1
        elif c < 0x20 or c == 0x7F:
            to = _text(to, b"\\u00", 4)
            to[0] = HEX[c >> 4]
            to[1] = HEX[c & 15]
            to += 2
            i += 1
        else:
            n = _utf8_size(data + i, size - i)
            if n:
                memcpy(to, data + i, n)
                to += n
                i += n
            else:
                to = _text(to, b"\xef\xbf\xbd", 3)
                i += 1
    to[0] = c'"'
    return to + 1


cdef inline uint64_t _big(const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint32_t i
    for i in range(size):
        value = (value << 8) | data[i]
    return value


cdef struct Item:
    uint8_t kind  # n nil, t true, f false, u unsigned, i negative, s string, b bytes, a array, m map
    uint64_t value  # number, or length, or count
    const uint8_t *data  # of strings and bytes


cdef const uint8_t *_item_sized(const uint8_t *at, const uint8_t *end, uint8_t kind, uint32_t width,
                                Item *item) noexcept nogil:
    """An item whose length or count is the next `width` bytes."""
    if end - at < width:
        return NULL
    item.kind = kind
    item.value = _big(at, width)
    at += width
    if kind == c's' or kind == c'b':
        if <uint64_t>(end - at) < item.value:
            return NULL
        item.data = at
        at += item.value
    return at


cdef const uint8_t *_item(const uint8_t *at, const uint8_t *end, Item *item) noexcept nogil:
    """Reads one MessagePack head; behind it, or NULL if it is cut, or of a kind that payloads don't use."""
    cdef uint8_t c
    cdef int64_t negative
    cdef uint32_t width
    if at >= end:
        return NULL
    c = at[0]
    at += 1
    if c < 0x80 or c >= 0xE0:
        item.kind = c'u' if c < 0x80 else c'i'
        item.value = c if c < 0x80 else 256 - <uint64_t>c
        return at
    if c < 0xC0:
        item.value = c & (0x0F if c < 0xA0 else 0x1F)
        item.kind = c'm' if c < 0x90 else c'a' if c < 0xA0 else c's'
        if c >= 0xA0:
            if <uint64_t>(end - at) < item.value:
                return NULL
            item.data = at
            at += item.value
        return at
    if c == 0xC0 or c == 0xC2 or c == 0xC3:
        item.kind = c'n' if c == 0xC0 else c'f' if c == 0xC2 else c't'
        return at
    if 0xC4 <= c <= 0xC6:
        return _item_sized(at, end, c'b', <uint32_t>1 << (c - 0xC4), item)
    if 0xCC <= c <= 0xD3:
        width = <uint32_t>1 << ((c - 0xCC) & 3)
        at = _item_sized(at, end, c'u', width, item)
        if at != NULL and c >= 0xD0:
            negative = <int64_t>(item.value << (64 - 8 * width)) >> (64 - 8 * width)
            if negative < 0:
                item.kind = c'i'
                item.value = <uint64_t>0 - <uint64_t>negative
        return at
    if 0xD9 <= c <= 0xDB:
        return _item_sized(at, end, c's', <uint32_t>1 << (c - 0xD9), item)
    if 0xDC <= c <= 0xDF:
        return _item_sized(at, end, c'a' if c < 0xDE else c'm', 2 if not c & 1 else 4, item)
    return NULL


cdef const uint8_t *_value(const uint8_t *at, const uint8_t *end, uint8_t **to, uint32_t depth) noexcept nogil:
    """Writes one value; behind it, or NULL."""
    cdef Item item
    cdef uint64_t i
    at = _item(at, end, &item)
    if at == NULL:
        return NULL
    if item.kind == c'n':
        to[0] = _text(to[0], b"null", 4)
    elif item.kind == c't':
        to[0] = _text(to[0], b"true", 4)
    elif item.kind == c'f':
        to[0] = _text(to[0], b"false", 5)
    elif item.kind == c'u' or item.kind == c'i':
        if item.kind == c'i':
            to[0] = _text(to[0], b"-", 1)
        to[0] = _number(to[0], item.value)
    elif item.kind == c's':
        to[0] = _string(to[0], item.data, item.value)
    elif item.kind == c'b':
        to[0] = _base64(to[0], item.data, item.value)
    else:
        if depth >= DEPTH_MAX:
            return NULL
        to[0] = _text(to[0], b"[" if item.kind == c'a' else b"{", 1)
        for i in range(item.value):
            if i:
                to[0] = _text(to[0], b",", 1)
            if item.kind == c'm':
                if at >= end or not (0xA0 <= at[0] < 0xC0 or 0xD9 <= at[0] <= 0xDB):
                    return NULL
                at = _value(at, end, to, depth + 1)
                if at == NULL:
                    return NULL
                to[0] = _text(to[0], b":", 1)
            at = _value(at, end, to, depth + 1)
            if at == NULL:
                return NULL
        to[0] = _text(to[0], b"]" if item.kind == c'a' else b"}", 1)
    return at


cdef bint _has_data(const uint8_t *name, uint32_t size) noexcept nogil:
    """Whether the type is one whose payload the engine defines."""
    if size > 13 and memcmp(name, b"conversation.", 13) == 0:
        return True
    if size > 7 and memcmp(name, b"member.", 7) == 0:
        return True
    if size == 14 and memcmp(name, b"message.edited", 14) == 0:
        return True
    if size == 15 and memcmp(name, b"message.deleted", 15) == 0:
        return True
    return size == 16 and memcmp(name, b"message.reaction", 16) == 0


cdef size_t json_event_bound(const uint8_t *record, uint32_t size) noexcept nogil:
    cdef size_t payload = rec_payload_len(record)
    if _has_data(rec_type(record), rec_type_len(record)):
        return FIXED_BYTES + EXPANSION_MAX * payload
    return FIXED_BYTES + (payload + 2) // 3 * 4


cdef size_t json_event_put(uint8_t *to, const uint8_t *record, uint32_t size) noexcept nogil:
    cdef uint8_t *start = to
    cdef uint8_t *mark
    cdef const uint8_t *payload = rec_payload(record)
    cdef uint32_t payload_size = rec_payload_len(record)
    cdef const uint8_t *name = rec_type(record)
    cdef uint32_t name_size = rec_type_len(record)
    to = _number(_text(to, b'{"op":"event","sequence":', 25), rec_u64(record, 0))
    to = _number(_text(to, b',"conversation":', 16), rec_u64(record, 1))
    to = _number(_text(to, b',"conversation_sequence":', 25), rec_u64(record, 2))
    to = _number(_text(to, b',"previous":', 12), rec_u64(record, 3))
    to = _number(_text(to, b',"time":', 8), rec_u64(record, 4))
    to = _number(_text(to, b',"sender":', 10), rec_u64(record, 5))
    to = _number(_text(to, b',"device":', 10), rec_u64(record, 6))
    to = _number(_text(to, b',"counter":', 11), rec_u64(record, 7))
    to = _string(_text(to, b',"type":', 8), name, name_size)
    mark = to
    if (_has_data(name, name_size) and payload_size
            and (0x80 <= payload[0] < 0x90 or payload[0] == 0xDE or payload[0] == 0xDF)):
        to = _text(to, b',"data":', 8)
        if _value(payload, payload + payload_size, &to, 0) == payload + payload_size:
            return <size_t>(_text(to, b"}", 1) - start)
        to = mark
    to = _base64(_text(to, b',"payload":', 11), payload, payload_size)
    return <size_t>(_text(to, b"}", 1) - start)


def json_event(const uint8_t[::1] record):
    """The JSON object of a record, as UTF-8."""
    cdef const uint8_t *data = &record[0]
    cdef uint32_t size = <uint32_t>record.shape[0]
    cdef uint8_t *text = <uint8_t *>malloc(json_event_bound(data, size))
    if text == NULL:
        raise MemoryError("no memory for the JSON text of an event")
    try:
        return text[:json_event_put(text, data, size)]
    finally:
        free(text)
