# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""WebSocket frames of clients, read strictly as RFC 6455 says (Autobahn sections 1 to 7, 9 and 10).

Between the bytes that ext/poller has received and the messages that ext/commands decodes. A frame that is whole and
is a message of its own, nearly always the case, is unmasked where it lies. Everything else, a head cut in two, a large
frame, fragments, goes byte by byte through a FrameState, so that cutting a stream anywhere changes nothing.

Invariants: nothing is allocated because a head announces it, only for bytes that came; invalid UTF-8 is refused at the
first byte that can't be continued; masks are required, reserved bits and opcodes, overlong lengths and fragmented
control frames are 1002, too large messages 1009. Cost: one pass over the payload, two for text.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

cdef enum:
    FIN = 0x80
    RESERVED = 0x70
    MASKED = 0x80
    CLOSE_NONE = 1005
    PROTOCOL_ERROR = 1002
    BAD_UTF8 = 1007
    TOO_BIG = 1009
    MESSAGE_ROOM_MIN = 256
    ONE_MORE = 1 | 0x80 << 8 | 0xBF << 16  # UTF-8 states: bytes to come, lowest and highest value of the next one


# ---- UTF-8 and masks -------------------------------------------------------------------------------------------------

cdef uint32_t utf8_run(uint32_t state, const uint8_t *data, size_t size) noexcept nogil:
    cdef size_t i = 0
    cdef uint64_t word
    cdef uint8_t byte
    while i < size:
        if state == 0:
            while i + 8 <= size:
                memcpy(&word, data + i, 8)
                if word & <uint64_t>0x8080808080808080:
                    break
                i += 8
            if i == size:
                break
            byte = data[i]
            i += 1
            if byte < 0x80:
                continue
            if byte < 0xC2 or byte > 0xF4:
                return UTF8_BAD
            if byte < 0xE0:
                state = ONE_MORE
            elif byte < 0xF0:
                state = 2 | (0xA0 if byte == 0xE0 else 0x80) << 8 | (0x9F if byte == 0xED else 0xBF) << 16
            else:
                state = 3 | (0x90 if byte == 0xF0 else 0x80) << 8 | (0x8F if byte == 0xF4 else 0xBF) << 16
        else:
            byte = data[i]
            i += 1
            if byte < (state >> 8 & 0xFF) or byte > state >> 16:
                return UTF8_BAD
            state = 0 if state & 0xFF == 1 else ((state & 0xFF) - 1) | (ONE_MORE & 0xFFFF00)
    return state


cdef void _unmask(uint8_t *data, size_t size, const uint8_t *mask, uint32_t phase) noexcept nogil:
    """XORs with the mask, beginning at its byte `phase`."""
    cdef uint8_t turned[8]
    cdef uint64_t key, word
    cdef size_t i
    for i in range(8):
        turned[i] = mask[(i + phase) & 3]
    memcpy(&key, turned, 8)
    i = 0
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        word ^= key
        memcpy(data + i, &word, 8)
        i += 8
    while i < size:
        data[i] ^= turned[i & 7]
        i += 1


# ---- heads -----------------------------------------------------------------------------------------------------------

cdef inline uint32_t _head_size(uint8_t second) noexcept nogil:
    return 6 + (2 if second & 0x7F == 126 else 8 if second & 0x7F == 127 else 0)


cdef bint _head_allowed(uint8_t first, uint8_t second, uint8_t message_opcode) noexcept nogil:
    """Whether a frame may begin with these two bytes while a message of that opcode (0: none) is under way."""
    cdef uint8_t opcode = first & 0x0F
    if first & RESERVED or not second & MASKED:
        return False
    if opcode >= 8:
        return opcode <= FR_PONG and first & FIN and second & 0x7F <= CONTROL_BYTES_MAX
    if opcode == 0:
        return message_opcode != 0
    return opcode <= FR_BINARY and message_opcode == 0


cdef uint64_t _payload_size(const uint8_t *head) noexcept nogil:
    """The announced size; 2^64-1 if it is not in its shortest form or has its highest bit set."""
    cdef uint64_t size = head[1] & 0x7F
    cdef uint32_t i
    if size == 126:
        size = <uint64_t>head[2] << 8 | head[3]
        return size if size > 125 else <uint64_t>-1
    if size == 127:
        size = 0
        for i in range(2, 10):
            size = size << 8 | head[i]
        return size if 0xFFFF < size < <uint64_t>1 << 63 else <uint64_t>-1
    return size


cdef int _broken(Found *found, uint16_t code) noexcept nogil:
    found.data = NULL
    found.size = 0
    found.code = code
    return FR_BROKEN


cdef int _control(uint8_t opcode, uint8_t *data, uint32_t size, Found *found) noexcept nogil:
    """A whole control frame; a close frame is judged by its code and reason."""
    cdef uint16_t code
    found.data = data
    found.size = size
    found.code = CLOSE_NONE
    if opcode != FR_CLOSE or size == 0:
        return opcode
    if size == 1:
        return _broken(found, PROTOCOL_ERROR)
    code = <uint16_t>(data[0] << 8 | data[1])
    if not (3000 <= code <= 4999 or 1000 <= code <= 1014 and not 1004 <= code <= 1006):
        return _broken(found, PROTOCOL_ERROR)
    if utf8_run(0, data + 2, size - 2) != 0:
        return _broken(found, BAD_UTF8)
    found.code = code
    return FR_CLOSE


cdef size_t server_head_put(uint8_t *to, uint8_t opcode, size_t size) noexcept nogil:
    cdef int i
    to[0] = FIN | opcode
    if size < 126:
        to[1] = <uint8_t>size
        return 2
    if size < 65_536:
        to[1], to[2], to[3] = 126, <uint8_t>(size >> 8), <uint8_t>size
        return 4
    to[1] = 127
    for i in range(8):
        to[2 + i] = <uint8_t>(<uint64_t>size >> (56 - 8 * i))
    return 10


# ---- frames ----------------------------------------------------------------------------------------------------------

cdef int frame_next(FrameState **state, uint32_t *room, uint8_t **at, uint8_t *end, uint32_t message_bytes_max,
                    Found *found) except -1 nogil:
    cdef FrameState *st = state[0]
    cdef int kind
    if st != NULL and st.delivered:
        st.delivered = False
        st.control_have = 0
        if st.message_opcode == 0:
            free(st)
            state[0] = st = NULL
            room[0] = 0
    if st == NULL:
        kind = _whole(at, end, message_bytes_max, found)
        if kind >= 0:
            return kind
        if at[0] == end:
            return FR_MORE
        _state_grow(state, room, 0)
    return _pieces(state, room, at, end, message_bytes_max, found)


cdef int _whole(uint8_t **at, uint8_t *end, uint32_t message_bytes_max, Found *found) noexcept nogil:
    """A frame that is all there and no fragment; -2 if the next one is not of that kind."""
    cdef uint8_t *p = at[0]
    cdef size_t have = end - p
    cdef uint32_t head
    cdef uint64_t size
    cdef uint8_t opcode
    if have < 2:
        return -2
    if not _head_allowed(p[0], p[1], 0):
        return _broken(found, PROTOCOL_ERROR)
    head = _head_size(p[1])
    if have < head or not p[0] & FIN:
        return -2
    size = _payload_size(p)
    if size == <uint64_t>-1:
        return _broken(found, PROTOCOL_ERROR)
    opcode = p[0] & 0x0F
    if opcode < 8 and size > message_bytes_max:
        return _broken(found, TOO_BIG)
    if have - head < size:
        return -2
    _unmask(p + head, size, p + head - 4, 0)
    at[0] = p + head + size
    if opcode >= 8:
        return _control(opcode, p + head, <uint32_t>size, found)
    if opcode == FR_TEXT and utf8_run(0, p + head, size) != 0:
        return _broken(found, BAD_UTF8)
    found.data = p + head
    found.size = <uint32_t>size
    return opcode


cdef int _pieces(FrameState **state, uint32_t *room, uint8_t **at, uint8_t *end, uint32_t message_bytes_max,
                 Found *found) except -1 nogil:
    """Goes on with what is pending."""
    cdef FrameState *st
    cdef int outcome
    cdef size_t taken
    while True:
        st = state[0]
        if not st.in_payload:
            outcome = _head_piece(st, at, end, message_bytes_max, found)
            if outcome != -2:
                return outcome
        taken = min(<uint64_t>(end - at[0]), st.frame_left)
        if taken:
            if st.opcode >= 8:
                memcpy(st.control + st.control_have, at[0], taken)
                _unmask(st.control + st.control_have, taken, st.mask, st.phase)
                st.control_have += <uint8_t>taken
            else:
                if not _message_piece(state, room, at[0], taken):
                    return _broken(found, BAD_UTF8)
                st = state[0]
            st.phase = (st.phase + taken) & 3
            st.frame_left -= taken
            at[0] += taken
        if st.frame_left:
            return FR_MORE
        st.in_payload = False
        st.head_have = 0
        if st.opcode >= 8:
            st.delivered = True
            return _control(st.opcode, st.control, st.control_have, found)
        if st.fin:
            if st.message_opcode == FR_TEXT and st.utf8 != 0:
                return _broken(found, BAD_UTF8)
            found.data = <uint8_t *>st + sizeof(FrameState)
            found.size = st.message_size
            outcome = st.message_opcode
            st.message_opcode = 0
            st.delivered = True
            return outcome
        if at[0] == end:
            return FR_MORE


cdef int _head_piece(FrameState *st, uint8_t **at, uint8_t *end, uint32_t message_bytes_max,
                     Found *found) noexcept nogil:
    """Collects a head and judges it; -2 when it is complete."""
    cdef uint64_t size
    while True:
        if st.head_have >= 2 and st.head_have == _head_size(st.head[1]):
            break
        if at[0] == end:
            return FR_MORE
        st.head[st.head_have] = at[0][0]
        st.head_have += 1
        at[0] += 1
        if st.head_have == 2 and not _head_allowed(st.head[0], st.head[1], st.message_opcode):
            return _broken(found, PROTOCOL_ERROR)
    size = _payload_size(st.head)
    if size == <uint64_t>-1:
        return _broken(found, PROTOCOL_ERROR)
    st.opcode = st.head[0] & 0x0F
    st.fin = st.head[0] & FIN
    if st.opcode < 8:
        if st.opcode:
            st.message_opcode = st.opcode
            st.message_size = 0
            st.utf8 = 0
        if size > message_bytes_max - st.message_size:
            return _broken(found, TOO_BIG)
    memcpy(st.mask, st.head + st.head_have - 4, 4)
    st.phase = 0
    st.control_have = 0
    st.frame_left = size
    st.in_payload = True
    return -2


cdef bint _message_piece(FrameState **state, uint32_t *room, const uint8_t *data, size_t size) except? False nogil:
    """Bytes of a message: kept, unmasked, and text looked at; False if it can't be UTF-8 any more."""
    cdef FrameState *st = _state_grow(state, room, state[0].message_size + <uint32_t>size)
    cdef uint8_t *to = <uint8_t *>st + sizeof(FrameState) + st.message_size
    memcpy(to, data, size)
    _unmask(to, size, st.mask, st.phase)
    st.message_size += <uint32_t>size
    if st.message_opcode == FR_TEXT:
        st.utf8 = utf8_run(st.utf8, to, size)
        return st.utf8 != UTF8_BAD
    return True


cdef FrameState *_state_grow(FrameState **state, uint32_t *room, uint32_t message_bytes) except NULL nogil:
    """Room for that much of a message; makes the state if there is none."""
    cdef size_t needed = sizeof(FrameState) + message_bytes
    cdef void *moved
    if state[0] == NULL or needed > room[0]:
        if message_bytes:
            needed = sizeof(FrameState) + max(message_bytes + message_bytes // 2, MESSAGE_ROOM_MIN)
        moved = realloc(state[0], needed)
        if moved == NULL:
            with gil:
                raise MemoryError(f"no memory for {needed} bytes of a message")
        if state[0] == NULL:
            memset(moved, 0, sizeof(FrameState))
        state[0] = <FrameState *>moved
        room[0] = <uint32_t>needed
    return state[0]


cdef class FrameReader:
    def __cinit__(self, uint32_t message_bytes_max=131_072):
        self.message_bytes_max = message_bytes_max

    def __dealloc__(self):
        free(self.state)

    def feed(self, const uint8_t[::1] data):
        """What these bytes complete: (kind, data), for a close frame or an error (kind, code)."""
        copied = bytearray(data)
        cdef uint8_t[::1] view
        cdef Found found
        cdef uint8_t *at
        cdef uint8_t *end
        cdef int kind
        results = []
        if self.broken or not copied:
            return results
        view = copied
        at = &view[0]
        end = at + view.shape[0]
        while True:
            kind = frame_next(&self.state, &self.room, &at, end, self.message_bytes_max, &found)
            if kind == FR_MORE:
                return results
            if kind == FR_BROKEN:
                self.broken = True
                results.append((kind, found.code))
                return results
            results.append((kind, found.code if kind == FR_CLOSE else found.data[:found.size]))

    def pending_bytes(self):
        """What is allocated for what is incomplete."""
        return self.room
