# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The opening handshake of WebSocket, natively: request line, headers, key, subprotocol, and the answer.

Between the first bytes of a connection and its frames. It accepts what browsers and proxies send: names of headers in
any case, lists (`Connection: keep-alive, Upgrade`), lists over several headers. What is no HTTP is refused at its first
impossible byte, not at the end of a head that never ends.

Invariants: a refusal names what was wrong and ends the connection; the client's order decides between subprotocols;
extensions are declined by not answering them.
Cost: one pass over the head and one SHA-1 of 60 bytes; no allocation.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen

from ext.session_table cimport E_JSON, E_MSGPACK

cdef enum:
    KEY_BYTES = 24  # 16 bytes in base64
    ACCEPT_BYTES = 28
    SHA1_BYTES = 20

cdef const char *GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef const char *ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef struct Span:
    const uint8_t *at
    size_t size

cdef struct Heads:  # what the headers have said so far
    bint host, upgrade_websocket, connection_upgrade, version, version_good, body, offered, chosen, twice
    uint8_t encoding
    Span key


# ---- text ------------------------------------------------------------------------------------------------------------

cdef inline uint8_t _lower(uint8_t byte) noexcept nogil:
    return byte + 32 if 65 <= byte <= 90 else byte


cdef bint _same(Span text, const char *word) noexcept nogil:
    """Equal whatever the case; `word` is in lower case."""
    cdef size_t i
    if text.size != strlen(word):
        return False
    for i in range(text.size):
        if _lower(text.at[i]) != <uint8_t>word[i]:
            return False
    return True


cdef bint _exactly(Span text, const char *word) noexcept nogil:
    return text.size == strlen(word) and memcmp(text.at, word, text.size) == 0


cdef inline bint _is_token(uint8_t b) noexcept nogil:
    """A character of a header's name or a method (RFC 9110, tchar)."""
    if 48 <= b <= 57 or 65 <= b <= 90 or 94 <= b <= 122 or b == 124 or b == 126:
        return True
    return b == 33 or 35 <= b <= 39 or b == 42 or b == 43 or b == 45 or b == 46


cdef Span _trimmed(const uint8_t *at, size_t size) noexcept nogil:
    cdef Span found
    while size and (at[0] == 32 or at[0] == 9):
        at += 1
        size -= 1
    while size and (at[size - 1] == 32 or at[size - 1] == 9):
        size -= 1
    found.at = at
    found.size = size
    return found


cdef bint _next_item(Span *rest, Span *item) noexcept nogil:
    """Cuts the next non-empty entry off a comma-separated list."""
    cdef size_t i
    while rest.size:
        i = 0
        while i < rest.size and rest.at[i] != 44:
            i += 1
        item[0] = _trimmed(rest.at, i)
        rest.at += i
        rest.size -= i
        if rest.size:
            rest.at += 1
            rest.size -= 1
        if item.size:
            return True
    return False


cdef bint _lists(Span value, const char *word) noexcept nogil:
    cdef Span item
    while _next_item(&value, &item):
        if _same(item, word):
            return True
    return False


# ---- the head --------------------------------------------------------------------------------------------------------

cdef int _refuse(Handshake *out, uint16_t status, const char *reason) noexcept nogil:
    out.status = status
    out.reason = reason
    return HS_REFUSED


cdef int handshake_read(const uint8_t *data, size_t size, size_t looked, size_t head_bytes_max, const uint8_t *path,
                        size_t path_size, bint any_client, Handshake *out) noexcept nogil:
    cdef size_t i = looked - 3 if looked > 3 else 0
    cdef uint8_t byte
    cdef bint ended = False
    memset(out, 0, sizeof(Handshake))
    while i < size:
        byte = data[i]
        if byte < 32 and byte != 13 and byte != 10 and byte != 9 or byte == 127:
            return _refuse(out, 400, b"this is not HTTP")
        if byte == 10:
            if i == 0 or data[i - 1] != 13:
                return _refuse(out, 400, b"lines end with CR LF")
            if i >= 3 and data[i - 2] == 10:
                ended = True
                i += 1
                break
        i += 1
    if i > head_bytes_max:
        return _refuse(out, 431, b"the head of the request is too large")
    if not ended:
        if size and not _is_token(data[0]):
            return _refuse(out, 400, b"this is not HTTP")
        return HS_MORE if size < head_bytes_max else _refuse(out, 431, b"the head of the request is too large")
    out.head_size = <uint32_t>i
    return _judge(data, i, path, path_size, any_client, out)


cdef int _judge(const uint8_t *data, size_t size, const uint8_t *path, size_t path_size, bint any_client,
                Handshake *out) noexcept nogil:
    cdef Heads heads
    cdef Span method, target
    cdef size_t line = 0, at
    cdef bint get
    memset(&heads, 0, sizeof(Heads))
    while data[line] != 13:
        line += 1
    if data[line + 1] != 10 or not _request_line(data, line, &method, &target):
        return _refuse(out, 400, b"the request line is not METHOD SP target SP HTTP/1.1")
    get = _exactly(method, b"GET")
    if not get and not _exactly(method, b"HEAD"):
        return _refuse(out, 405, b"only GET is served here")
    at = line + 2
    while at + 2 < size:
        line = at
        while data[line] != 13 or data[line + 1] != 10:
            line += 1
        if not _header(data + at, line - at, &heads):
            return _refuse(out, 400, b"a header is malformed")
        at = line + 2
    if not heads.host:
        return _refuse(out, 400, b"exactly one Host header is needed")
    if heads.body:
        return _refuse(out, 400, b"a request here has no body")
    if heads.twice:
        return _refuse(out, 400, b"a header that may come once came twice")
    if not heads.upgrade_websocket:
        return HS_REQUEST
    return _judge_upgrade(&heads, get, target, path, path_size, any_client, out)


cdef Span _path_of(Span target) noexcept nogil:
    """A target without its query, and in the absolute form (RFC 9112, 3.2.2) without scheme and host."""
    cdef Span scheme = target
    cdef size_t i = 0
    scheme.size = min(target.size, <size_t>8)
    if _same(scheme, b"https://"):
        i = 8
    scheme.size = min(target.size, <size_t>7)
    if _same(scheme, b"http://"):
        i = 7
    if i:
        while i < target.size and target.at[i] != 47 and target.at[i] != 63:
            i += 1
        target.at += i
        target.size -= i
    i = 0
    while i < target.size and target.at[i] != 63:
        i += 1
    target.size = i
    return target


cdef int _judge_upgrade(const Heads *heads, bint get, Span target, const uint8_t *path, size_t path_size,
                        bint any_client, Handshake *out) noexcept nogil:
    if not get:
        return _refuse(out, 405, b"WebSocket begins with GET")
    target = _path_of(target)
    if not any_client and (target.size != path_size or memcmp(target.at, path, path_size) != 0):
        return _refuse(out, 404, b"WebSocket is not served at this path")
    if not heads.connection_upgrade:
        return _refuse(out, 400, b"Upgrade needs Connection: Upgrade")
    if not heads.version_good:
        return _refuse(out, 426, b"Sec-WebSocket-Version must be 13")
    if not _key_good(heads.key):
        return _refuse(out, 400, b"Sec-WebSocket-Key must be 16 bytes in base64")
    if not heads.chosen and not any_client:
        return _refuse(out, 400, b"offer the subprotocol gonets.v1.msgpack or gonets.v1.json")
    out.encoding = heads.encoding
    out.subprotocol = heads.chosen
    _accept_of(heads.key.at, <uint8_t *>out.accept)
    out.status = 101
    return HS_UPGRADE


cdef bint _request_line(const uint8_t *data, size_t size, Span *method, Span *target) noexcept nogil:
    cdef size_t i = 0
    method.at = data
    while i < size and _is_token(data[i]):
        i += 1
    method.size = i
    if i == 0 or i >= size or data[i] != 32:
        return False
    i += 1
    target.at = data + i
    while i < size and data[i] > 32:
        i += 1
    target.size = data + i - target.at
    return target.size > 0 and size - i == 9 and memcmp(data + i, b" HTTP/1.1", 9) == 0


cdef bint _header(const uint8_t *data, size_t size, Heads *heads) noexcept nogil:
    """Takes one header line in; False if it is malformed."""
    cdef Span name, value, item
    cdef size_t i = 0
    while i < size and _is_token(data[i]):
        i += 1
    if i == 0 or i >= size or data[i] != 58:
        return False  # also a folded line, and a space before the colon
    name.at = data
    name.size = i
    value = _trimmed(data + i + 1, size - i - 1)
    for i in range(value.size):
        if value.at[i] == 13 or value.at[i] == 10:
            return False
    if _same(name, b"host"):
        heads.twice |= heads.host
        heads.host = True
    elif _same(name, b"upgrade"):
        heads.upgrade_websocket |= _lists(value, b"websocket")
    elif _same(name, b"connection"):
        heads.connection_upgrade |= _lists(value, b"upgrade")
    elif _same(name, b"sec-websocket-version"):
        heads.twice |= heads.version
        heads.version = True
        heads.version_good = _exactly(value, b"13")
    elif _same(name, b"sec-websocket-key"):
        heads.twice |= heads.key.at != NULL
        heads.key = value
    elif _same(name, b"sec-websocket-protocol"):
        while not heads.chosen and _next_item(&value, &item):
            if _exactly(item, b"gonets.v1.msgpack"):
                heads.chosen = True
                heads.encoding = E_MSGPACK
            elif _exactly(item, b"gonets.v1.json"):
                heads.chosen = True
                heads.encoding = E_JSON
    elif _same(name, b"content-length"):
        heads.body |= not _exactly(value, b"0")
    elif _same(name, b"transfer-encoding"):
        heads.body = True
    return True


cdef bint _key_good(Span key) noexcept nogil:
    cdef size_t i
    cdef uint8_t b
    if key.at == NULL or key.size != KEY_BYTES or key.at[22] != 61 or key.at[23] != 61:
        return False
    for i in range(22):
        b = key.at[i]
        if not (65 <= b <= 90 or 97 <= b <= 122 or 47 <= b <= 57 or b == 43):
            return False
    return True


# ---- answers ---------------------------------------------------------------------------------------------------------

cdef size_t _put(uint8_t *to, size_t at, const char *text) noexcept nogil:
    cdef size_t size = strlen(text)
    memcpy(to + at, text, size)
    return at + size


cdef size_t handshake_answer(const Handshake *handshake, uint8_t *to) noexcept nogil:
    cdef size_t at
    if handshake.status != 101:
        return refusal_answer(handshake.status, handshake.reason, to)
    at = _put(to, 0, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: ")
    memcpy(to + at, handshake.accept, ACCEPT_BYTES)
    at += ACCEPT_BYTES
    if handshake.subprotocol:
        at = _put(to, at, b"\r\nSec-WebSocket-Protocol: gonets.v1.")
        at = _put(to, at, b"json" if handshake.encoding == E_JSON else b"msgpack")
    return _put(to, at, b"\r\n\r\n")


cdef size_t refusal_answer(uint16_t status, const char *reason, uint8_t *to) noexcept nogil:
    cdef size_t at = _put(to, 0, b"HTTP/1.1 ")
    if status == 404:
        at = _put(to, at, b"404 Not Found")
    elif status == 405:
        at = _put(to, at, b"405 Method Not Allowed\r\nAllow: GET, HEAD")
    elif status == 408:
        at = _put(to, at, b"408 Request Timeout")
    elif status == 426:
        at = _put(to, at, b"426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           b"Sec-WebSocket-Version: 13")
    elif status == 431:
        at = _put(to, at, b"431 Request Header Fields Too Large")
    elif status == 503:
        at = _put(to, at, b"503 Service Unavailable")
    else:
        at = _put(to, at, b"400 Bad Request")
    return _body_put(reason, to, at)


cdef size_t busy_answer(uint32_t retry_after_s, const char *reason, uint8_t *to) noexcept nogil:
    cdef size_t at = _put(to, 0, b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: ")
    if retry_after_s >= 100:
        to[at] = <uint8_t>(48 + retry_after_s // 100 % 10)
        at += 1
    if retry_after_s >= 10:
        to[at] = <uint8_t>(48 + retry_after_s // 10 % 10)
        at += 1
    to[at] = <uint8_t>(48 + retry_after_s % 10)
    return _body_put(reason, to, at + 1)


cdef size_t _body_put(const char *reason, uint8_t *to, size_t at) noexcept nogil:
    cdef size_t size = strlen(reason) + 1
    at = _put(to, at, b"\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: ")
    if size >= 100:
        to[at] = <uint8_t>(48 + size // 100)
        at += 1
    to[at] = <uint8_t>(48 + size // 10 % 10)
    to[at + 1] = <uint8_t>(48 + size % 10)
    at = _put(to, at + 2, b"\r\n\r\n")
    at = _put(to, at, reason)
    return _put(to, at, b"\n")


cdef void _accept_of(const uint8_t *key, uint8_t *to) noexcept nogil:
    """base64(SHA-1(key, GUID)): 28 characters."""
    cdef uint8_t text[60]
    cdef uint8_t digest[21]
    cdef uint32_t bits, i, j
    memcpy(text, key, KEY_BYTES)
    memcpy(text + KEY_BYTES, GUID, 36)
    sha1(text, 60, digest)
    digest[20] = 0
    for i in range(7):
        bits = <uint32_t>digest[3 * i] << 16 | <uint32_t>digest[3 * i + 1] << 8 | digest[3 * i + 2]
        for j in range(4):
            to[4 * i + j] = ALPHABET[bits >> (18 - 6 * j) & 63]
    to[27] = 61


cdef inline uint32_t _rotated(uint32_t word, int bits) noexcept nogil:
    return word << bits | word >> (32 - bits)


cdef void sha1(const uint8_t *data, size_t size, uint8_t *digest) noexcept nogil:
    """FIPS 180-4, for what fits two blocks."""
    cdef uint8_t padded[128]
    cdef uint32_t h[5]
    cdef size_t blocks = 1 if size <= 55 else 2, i
    memset(padded, 0, 128)
    memcpy(padded, data, size)
    padded[size] = 0x80
    padded[64 * blocks - 2] = <uint8_t>(size * 8 >> 8)
    padded[64 * blocks - 1] = <uint8_t>(size * 8)
    h[0], h[1], h[2] = 0x67452301, <uint32_t>0xEFCDAB89, <uint32_t>0x98BADCFE
    h[3], h[4] = 0x10325476, <uint32_t>0xC3D2E1F0
    for i in range(blocks):
        _sha1_block(h, padded + 64 * i)
    for i in range(SHA1_BYTES):
        digest[i] = <uint8_t>(h[i // 4] >> (24 - 8 * (i % 4)))


cdef void _sha1_block(uint32_t *h, const uint8_t *block) noexcept nogil:
    cdef uint32_t w[80]
    cdef uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f, k, turned
    cdef int i
    for i in range(16):
        w[i] = (<uint32_t>block[4 * i] << 24 | <uint32_t>block[4 * i + 1] << 16 | <uint32_t>block[4 * i + 2] << 8
                | block[4 * i + 3])
    for i in range(16, 80):
        w[i] = _rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1)
    for i in range(80):
        if i < 20:
            f, k = (b & c) | (~b & d), 0x5A827999
        elif i < 40:
            f, k = b ^ c ^ d, 0x6ED9EBA1
        elif i < 60:
            f, k = (b & c) | (b & d) | (c & d), <uint32_t>0x8F1BBCDC
        else:
            f, k = b ^ c ^ d, <uint32_t>0xCA62C1D6
        turned = _rotated(a, 5) + f + e + k + w[i]
        e, d, c, b, a = d, c, _rotated(b, 30), a, turned
    h[0] += a
    h[1] += b
    h[2] += c
    h[3] += d
    h[4] += e


def read_head(const uint8_t[::1] data, size_t looked=0, size_t head_bytes_max=8_192, bytes path=b"/v1",
              bint any_client=False):
    """(verdict, status, encoding, head size, answer) for tests; the answer is b"" while there is none."""
    cdef Handshake found
    cdef uint8_t text[HANDSHAKE_ANSWER_BYTES_MAX]
    cdef size_t size = 0
    cdef const uint8_t *at = &data[0] if data.shape[0] else NULL
    cdef int verdict = handshake_read(at, data.shape[0], looked, head_bytes_max, path, len(path), any_client, &found)
    if verdict == HS_UPGRADE or verdict == HS_REFUSED:
        size = handshake_answer(&found, text)
    return verdict, found.status, found.encoding, found.head_size, text[:size]
