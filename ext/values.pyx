# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Values of MessagePack and JSON off a cursor, for the hot commands.

Below ext/commands, which knows what fields mean. Here is only what a value is: its kind, its number or its bytes, and
where it ends. Nested values are checked and passed over, as unknown fields must be.

Invariants: what is taken as valid here is valid by the specifications (RFC 8259, MessagePack with UTF-8 strings);
what is given up here may still be valid: then Python judges it. No recursion for MessagePack, a bounded one for JSON.
Cost: one pass, no allocation.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ext.frames cimport utf8_run

cdef enum:
    DEPTH_MAX = 32
    NO_DIGIT = 255

cdef uint8_t SIXES[256]  # base64 character -> its six bits


cdef void _fill_tables() noexcept:
    cdef const char *alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef int i
    memset(SIXES, NO_DIGIT, 256)
    for i in range(64):
        SIXES[<uint8_t>alphabet[i]] = <uint8_t>i


_fill_tables()


# ---- MessagePack -----------------------------------------------------------------------------------------------------

cdef inline uint64_t _big(const uint8_t *at, int size) noexcept nogil:
    cdef uint64_t number = 0
    cdef int i
    for i in range(size):
        number = number << 8 | at[i]
    return number


cdef int64_t pack_map(Cursor *c) noexcept nogil:
    cdef uint8_t head
    cdef int64_t count
    if c.at == c.end:
        return -1
    head = c.at[0]
    if head & 0xF0 == 0x80:
        c.at += 1
        return head & 15
    if head == 0xDE and c.end - c.at >= 3:
        count = <int64_t>_big(c.at + 1, 2)
        c.at += 3
        return count
    if head == 0xDF and c.end - c.at >= 5:
        count = <int64_t>_big(c.at + 1, 4)
        c.at += 5
        return count
    return -1


cdef bint _pack_integer(Cursor *c, Value *v, uint8_t head) noexcept nogil:
    """Widths 0xcc to 0xd3; the head is taken."""
    cdef int size = 1 << (head & 3), shift
    if c.end - c.at < size:
        return False
    v.number = _big(c.at, size)
    v.kind = V_INTEGER
    if head >= 0xD0 and c.at[0] & 0x80:
        v.kind = V_OUTSIDE
    c.at += size
    return True


cdef bint _pack_span(Cursor *c, Value *v, int length_bytes, uint64_t extra, uint8_t kind) noexcept nogil:
    """Text, bytes or an extension whose length stands in so many bytes."""
    cdef uint64_t size
    if c.end - c.at < length_bytes:
        return False
    size = _big(c.at, length_bytes) + extra
    c.at += length_bytes
    return _pack_content(c, v, size, kind)


cdef bint _pack_content(Cursor *c, Value *v, uint64_t size, uint8_t kind) noexcept nogil:
    if <uint64_t>(c.end - c.at) < size:
        return False
    v.kind = kind
    v.at = c.at
    v.size = v.plain_size = <uint32_t>size
    c.at += size
    return kind != V_TEXT or utf8_run(0, v.at, v.size) == 0


cdef bint _pack_one(Cursor *c, Value *v, uint64_t *inside) noexcept nogil:
    """A scalar, or the head of a container: then *inside says how many values follow."""
    cdef uint8_t head
    inside[0] = 0
    if c.at == c.end:
        return False
    head = c.at[0]
    c.at += 1
    v.kind = V_OTHER
    if head < 0x80:
        v.kind = V_INTEGER
        v.number = head
        return True
    if head < 0x90:
        inside[0] = 2 * (head & 15)
        return True
    if head < 0xA0:
        inside[0] = head & 15
        return True
    if head < 0xC0:
        return _pack_content(c, v, head & 31, V_TEXT)
    if head >= 0xE0:
        v.kind = V_OUTSIDE
        return True
    if 0xCC <= head <= 0xD3:
        return _pack_integer(c, v, head)
    if 0xD9 <= head <= 0xDB:
        return _pack_span(c, v, 1 << (head - 0xD9), 0, V_TEXT)
    if 0xC4 <= head <= 0xC6:
        return _pack_span(c, v, 1 << (head - 0xC4), 0, V_BYTES)
    if head == 0xC0 or head == 0xC2 or head == 0xC3:
        return True
    if head == 0xCA or head == 0xCB:
        return _pack_content(c, v, 4 if head == 0xCA else 8, V_OTHER)
    if 0xC7 <= head <= 0xC9:
        return _pack_span(c, v, 1 << (head - 0xC7), 1, V_OTHER)
    if 0xD4 <= head <= 0xD8:
        return _pack_content(c, v, 1 + (1 << (head - 0xD4)), V_OTHER)
    if 0xDC <= head <= 0xDF:
        if c.end - c.at < 2 << (head & 1):
            return False
        inside[0] = _big(c.at, 2 << (head & 1)) << (0 if head < 0xDE else 1)
        c.at += 2 << (head & 1)
        return True
    return False


cdef bint pack_value(Cursor *c, Value *v) noexcept nogil:
    cdef const uint8_t *start = c.at
    cdef uint64_t left, inside
    cdef Value nested
    if not _pack_one(c, v, &left):
        return False
    while left:
        if left > <uint64_t>(c.end - c.at) or not _pack_one(c, &nested, &inside):
            return False  # each value takes a byte at least
        left += inside - 1
    v.raw = start
    v.raw_size = <uint32_t>(c.at - start)
    return True


# ---- JSON ------------------------------------------------------------------------------------------------------------

cdef uint8_t json_peek(Cursor *c) noexcept nogil:
    cdef uint8_t byte
    while c.at < c.end:
        byte = c.at[0]
        if byte != 32 and byte != 9 and byte != 10 and byte != 13:
            return byte
        c.at += 1
    return 0


cdef inline bint _is_digit(Cursor *c) noexcept nogil:
    return c.at < c.end and 48 <= c.at[0] <= 57


cdef bint _json_number(Cursor *c, Value *v) noexcept nogil:
    cdef uint64_t number = 0, digit
    cdef bint negative = c.at[0] == c'-'
    v.kind = V_INTEGER
    c.at += negative
    if not _is_digit(c):
        return False
    if c.at[0] == c'0':
        c.at += 1
    else:
        while _is_digit(c):
            digit = c.at[0] - 48
            if number > (<uint64_t>-1 - digit) // 10:
                v.kind = V_OUTSIDE
            number = number * 10 + digit
            c.at += 1
    v.number = number
    if negative:
        v.kind = V_OUTSIDE
    if c.at < c.end and c.at[0] == c'.':
        v.kind = V_OTHER
        c.at += 1
        if not _is_digit(c):
            return False
        while _is_digit(c):
            c.at += 1
    if c.at < c.end and c.at[0] | 32 == c'e':
        v.kind = V_OTHER
        c.at += 1
        if c.at < c.end and (c.at[0] == c'+' or c.at[0] == c'-'):
            c.at += 1
        if not _is_digit(c):
            return False
        while _is_digit(c):
            c.at += 1
    return True


cdef int _hex4(const uint8_t *at) noexcept nogil:
    """Four hexadecimal digits; -1 if they aren't."""
    cdef int number = 0, i
    cdef uint8_t b
    for i in range(4):
        b = at[i]
        if 48 <= b <= 57:
            b -= 48
        elif 97 <= b | 32 <= 102:
            b = (b | 32) - 87
        else:
            return -1
        number = number << 4 | b
    return number


cdef int _escape(const uint8_t *at, const uint8_t *end, int *taken) noexcept nogil:
    """The character of an escape that begins at its backslash; -1 if it is none (a lone surrogate too)."""
    cdef int character, second
    if end - at < 2:
        return -1
    taken[0] = 2
    if at[1] == c'"' or at[1] == c'\\' or at[1] == c'/':
        return at[1]
    if at[1] == c'n':
        return 10
    if at[1] == c't':
        return 9
    if at[1] == c'r':
        return 13
    if at[1] == c'b':
        return 8
    if at[1] == c'f':
        return 12
    if at[1] != c'u' or end - at < 6:
        return -1
    taken[0] = 6
    character = _hex4(at + 2)
    if not 0xD800 <= character <= 0xDFFF:
        return character
    if character >= 0xDC00 or end - at < 12 or at[6] != c'\\' or at[7] != c'u':
        return -1
    second = _hex4(at + 8)
    if not 0xDC00 <= second <= 0xDFFF:
        return -1
    taken[0] = 12
    return 0x10000 + ((character - 0xD800) << 10) + (second - 0xDC00)


cdef inline int _utf8_size(int character) noexcept nogil:
    return 1 if character < 0x80 else 2 if character < 0x800 else 3 if character < 0x10000 else 4


cdef bint _json_text(Cursor *c, Value *v) noexcept nogil:
    cdef const uint8_t *at = c.at + 1
    cdef int character, taken
    cdef uint32_t saved = 0
    v.kind = V_TEXT
    v.at = at
    v.escaped = False
    while True:
        if at >= c.end or at[0] < 32:
            return False
        if at[0] == c'"':
            break
        if at[0] != c'\\':
            at += 1
            continue
        character = _escape(at, c.end, &taken)
        if character < 0:
            return False
        v.escaped = True
        saved += <uint32_t>(taken - _utf8_size(character))
        at += taken
    v.size = <uint32_t>(at - v.at)
    v.plain_size = v.size - saved
    c.at = at + 1
    return True


cdef bint _json_word(Cursor *c, Value *v, const char *word, size_t size) noexcept nogil:
    if <size_t>(c.end - c.at) < size or memcmp(c.at, word, size) != 0:
        return False
    v.kind = V_OTHER
    c.at += size
    return True


cdef bint _json_nested(Cursor *c, Value *v, int depth, bint named) noexcept nogil:
    """The inside of an object or array, from its opening bracket to its closing one."""
    cdef uint8_t closing = c'}' if named else c']', found
    cdef Value inner
    c.at += 1
    v.kind = V_OTHER
    if depth >= DEPTH_MAX:
        return False
    if json_peek(c) == closing:
        c.at += 1
        return True
    while True:
        if named:
            if json_peek(c) != c'"' or not _json_text(c, &inner) or json_peek(c) != c':':
                return False
            c.at += 1
        if not json_value(c, &inner, depth + 1):
            return False
        found = json_peek(c)
        if found != c',' and found != closing:
            return False
        c.at += 1
        if found == closing:
            return True


cdef bint json_value(Cursor *c, Value *v, int depth) noexcept nogil:
    cdef uint8_t first = json_peek(c)
    cdef const uint8_t *start = c.at
    cdef bint good
    if first == c'"':
        good = _json_text(c, v)
    elif first == c'-' or 48 <= first <= 57:
        good = _json_number(c, v)
    elif first == c'{' or first == c'[':
        good = _json_nested(c, v, depth, first == c'{')
    elif first == c't':
        good = _json_word(c, v, b"true", 4)
    elif first == c'f':
        good = _json_word(c, v, b"false", 5)
    else:
        good = _json_word(c, v, b"null", 4)
    v.raw = start
    v.raw_size = <uint32_t>(c.at - start)
    return good


cdef void json_text_put(const Value *v, uint8_t *to) noexcept nogil:
    cdef const uint8_t *at = v.at
    cdef const uint8_t *end = v.at + v.size
    cdef int character, taken = 0
    if not v.escaped:
        memcpy(to, at, v.size)
        return
    while at < end:
        if at[0] != c'\\':
            to[0] = at[0]
            at += 1
            to += 1
            continue
        character = _escape(at, end, &taken)
        at += taken
        if character < 0x80:
            to[0] = <uint8_t>character
        elif character < 0x800:
            to[0] = <uint8_t>(0xC0 | character >> 6)
            to[1] = <uint8_t>(0x80 | character & 63)
        elif character < 0x10000:
            to[0] = <uint8_t>(0xE0 | character >> 12)
            to[1] = <uint8_t>(0x80 | character >> 6 & 63)
            to[2] = <uint8_t>(0x80 | character & 63)
        else:
            to[0] = <uint8_t>(0xF0 | character >> 18)
            to[1] = <uint8_t>(0x80 | character >> 12 & 63)
            to[2] = <uint8_t>(0x80 | character >> 6 & 63)
            to[3] = <uint8_t>(0x80 | character & 63)
        to += _utf8_size(character)


# ---- base64 ----------------------------------------------------------------------------------------------------------

cdef int64_t base64_size(const uint8_t *at, size_t size) noexcept nogil:
    if size & 3:
        return -1
    if size == 0:
        return 0
    return <int64_t>(size // 4 * 3) - (at[size - 1] == c'=') - (at[size - 1] == c'=' and at[size - 2] == c'=')


cdef bint base64_put(const uint8_t *at, size_t size, uint8_t *to) noexcept nogil:
    cdef size_t whole = size
    cdef uint32_t a, b, c, d, bad = 0
    cdef size_t i = 0
    if size & 3:
        return False
    if size and at[size - 1] == c'=':
        whole = size - 4
    while i < whole:
        a, b, c, d = SIXES[at[i]], SIXES[at[i + 1]], SIXES[at[i + 2]], SIXES[at[i + 3]]
        bad |= a | b | c | d
        to[0] = <uint8_t>(a << 2 | b >> 4)
        to[1] = <uint8_t>(b << 4 | c >> 2)
        to[2] = <uint8_t>(c << 6 | d)
        to += 3
        i += 4
    if whole < size:
        a, b = SIXES[at[i]], SIXES[at[i + 1]]
        bad |= a | b
        to[0] = <uint8_t>(a << 2 | b >> 4)
        if at[i + 2] == c'=':
            bad |= (b & 15) << 6  # bits that stand for nothing must be 0
        else:
            c = SIXES[at[i + 2]]
            bad |= c | (c & 3) << 6
            to[1] = <uint8_t>(b << 4 | c >> 2)
    return bad < 64
