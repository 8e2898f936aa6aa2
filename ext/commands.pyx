# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Hot commands: from a message to a proposal, a signal or a ping, without a Python object.

Between ext/frames (whole messages) and ext/poller (batches). Keys come in any order, unknown ones are passed over,
integers have any width. A publish that is wrong in a way that has a status gets it here; whatever else is unusual
(missing or doubled keys, other types of values, escapes in names) is cold: Python decodes it with the full schema and
either takes it or says what is wrong.

Invariants: nothing is taken here that Python's schema would not take (but unknown fields of MessagePack may nest deeper
than its recursion goes); a counter, id or sequence of a command that is not refused is 1 to 2^53-1.
Cost: one pass, and one more over a base64 payload.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ext.values cimport (
    V_ABSENT, V_BYTES, V_INTEGER, V_OUTSIDE, V_TEXT, Cursor, Value, base64_put, base64_size, json_peek, json_text_put,
    json_value, pack_map, pack_value)
from ext.session_table cimport E_JSON

cdef uint64_t NUMBER_MAX = (<uint64_t>1 << 53) - 1

assert sizeof(Proposal) == PROPOSAL_HEAD_BYTES


# ---- fields ----------------------------------------------------------------------------------------------------------

cdef inline bint _is(const uint8_t *at, size_t size, const char *word, size_t word_size) noexcept nogil:
    return size == word_size and memcmp(at, word, word_size) == 0


cdef int _field(const uint8_t *at, size_t size) noexcept nogil:
    """Which field a key names; NO_FIELD for unknown ones."""
    if size == 2:
        return N_OP if memcmp(at, b"op", 2) == 0 else N_ID if memcmp(at, b"id", 2) == 0 else NO_FIELD
    if size == 4:
        if memcmp(at, b"user", 4) == 0:
            return N_USER
        return N_TEXT if memcmp(at, b"text", 4) == 0 else N_TYPE if memcmp(at, b"type", 4) == 0 else NO_FIELD
    if size == 7:
        return (N_COUNTER if memcmp(at, b"counter", 7) == 0
                else N_PAYLOAD if memcmp(at, b"payload", 7) == 0 else NO_FIELD)
    if _is(at, size, b"conversation", 12):
        return N_CONVERSATION
    if _is(at, size, b"expected", 8):
        return N_EXPECTED
    if _is(at, size, b"target", 6):
        return N_TARGET
    return N_CONVERSATION_SEQUENCE if _is(at, size, b"conversation_sequence", 21) else NO_FIELD


cdef bint _pack_fields(Cursor *c, Command *out) noexcept nogil:
    """All of a MessagePack map; False if it is none, or has something that is Python's to judge."""
    cdef int64_t count = pack_map(c)
    cdef Value key, unknown
    cdef Value *place
    cdef int field
    if count < 0:
        return False
    while count:
        count -= 1
        if not pack_value(c, &key) or key.kind != V_TEXT:
            return False
        field = _field(key.at, key.size)
        place = &unknown if field == NO_FIELD else &out.fields[field]
        if field != NO_FIELD and place.kind != V_ABSENT or not pack_value(c, place):
            return False
    return c.at == c.end


cdef bint _json_fields(Cursor *c, Command *out) noexcept nogil:
    """All of a JSON object; as above."""
    cdef Value key, unknown
    cdef Value *place
    cdef int field
    cdef uint8_t found
    if json_peek(c) != c'{':
        return False
    c.at += 1
    found = json_peek(c)
    if found == c'}':
        return False
    while True:
        if json_peek(c) != c'"' or not json_value(c, &key, 0) or key.escaped or json_peek(c) != c':':
            return False
        c.at += 1
        field = _field(key.at, key.size)
        place = &unknown if field == NO_FIELD else &out.fields[field]
        if field != NO_FIELD and place.kind != V_ABSENT or not json_value(c, place, 0):
            return False
        found = json_peek(c)
        c.at += 1
        if found == c'}':
            break
        if found != c',':
            return False
    return json_peek(c) == 0 and c.at == c.end


# ---- commands --------------------------------------------------------------------------------------------------------

cdef void command_read(uint8_t encoding, const uint8_t *data, size_t size, Command *out) noexcept nogil:
    cdef Cursor c
    cdef Value *op = &out.fields[N_OP]
    memset(out, 0, sizeof(Command))
    out.encoding = encoding
    c.at = data
    c.end = data + size
    if not (_json_fields(&c, out) if encoding == E_JSON else _pack_fields(&c, out)) or not _id_usual(&out.fields[N_ID]):
        out.fields[N_ID].kind = V_ABSENT  # half read, or too large for native errors
        return
    if op.kind != V_TEXT or op.escaped:
        return
    if _is(op.at, op.size, b"publish", 7):
        _read_publish(out)
    elif _is(op.at, op.size, b"delivered", 9):
        _read_mark(out, C_DELIVERED)
    elif _is(op.at, op.size, b"read", 4):
        _read_mark(out, C_READ)
    elif _is(op.at, op.size, b"typing", 6):
        if _number(&out.fields[N_CONVERSATION], 1):
            out.target = out.fields[N_CONVERSATION].number
            out.kind = C_TYPING
    elif _is(op.at, op.size, b"ping", 4):
        out.kind = C_PING
    elif _is(op.at, op.size, b"hello", 5):
        out.kind = C_HELLO


cdef inline bint _number(const Value *v, uint64_t least) noexcept nogil:
    return v.kind == V_INTEGER and least <= v.number <= NUMBER_MAX


cdef bint _id_usual(const Value *v) noexcept nogil:
    """Absent, a short text without escapes, or a number: what may be echoed as it stands."""
    if v.kind == V_ABSENT or v.kind == V_INTEGER and v.number <= NUMBER_MAX:
        return True
    return v.kind == V_TEXT and not v.escaped and v.size <= ID_BYTES_MAX


cdef void _read_mark(Command *out, uint8_t kind) noexcept nogil:
    if _number(&out.fields[N_CONVERSATION], 1) and _number(&out.fields[N_CONVERSATION_SEQUENCE], 1):
        out.target = out.fields[N_CONVERSATION].number
        out.value = out.fields[N_CONVERSATION_SEQUENCE].number
        out.kind = kind


cdef void _read_publish(Command *out) noexcept nogil:
    """Publish; its receipts for what is wrong, in this order: counter, id, type, size."""
    cdef Value *fields = &out.fields[0]
    cdef Value *type = &fields[N_TYPE]
    cdef Value *target = &fields[N_CONVERSATION]
    cdef int64_t size = _payload_size(out)
    cdef int allowed = 1
    if fields[N_COUNTER].kind != V_INTEGER or fields[N_TARGET].kind != V_ABSENT or size < 0:
        return
    if target.kind == V_ABSENT:
        target = &fields[N_USER]
        out.flags = P_TO_PERSON
    elif fields[N_USER].kind != V_ABSENT:
        return
    if target.kind != V_INTEGER and target.kind != V_OUTSIDE:
        return
    if fields[N_EXPECTED].kind != V_ABSENT:
        if not _number(&fields[N_EXPECTED], 0):
            return
        out.flags |= P_EXPECTED
        out.expected = fields[N_EXPECTED].number
    out.type, out.type_size = <const uint8_t *>b"message", 7
    if type.kind != V_ABSENT:
        if type.kind != V_TEXT or type.escaped:
            return
        out.type, out.type_size = type.at, type.size
        allowed = type_allowed(type.at, type.size)
        if allowed < 0:
            return
    out.counter = fields[N_COUNTER].number
    out.target = target.number if target.kind == V_INTEGER else 0
    out.payload_size = <uint32_t>size
    out.kind = C_REFUSED
    if not _number(&fields[N_COUNTER], 1):
        out.status = STATUS_BAD_COUNTER
    elif not _number(target, 1):
        out.status = STATUS_BAD_ID
    elif not allowed:
        out.status = STATUS_BAD_TYPE
    elif size > PAYLOAD_BYTES_MAX:
        out.status = STATUS_PAYLOAD_TOO_LARGE
        out.extra = PAYLOAD_BYTES_MAX
    else:
        out.kind = C_PUBLISH


cdef int64_t _payload_size(const Command *out) noexcept nogil:
    """Bytes of the payload, or of the text in its place; -1 if there is not just one of them of the usual kind."""
    cdef const Value *payload = &out.fields[N_PAYLOAD]
    cdef const Value *text = &out.fields[N_TEXT]
    if text.kind == V_TEXT and payload.kind == V_ABSENT:
        return text.plain_size
    if text.kind != V_ABSENT:
        return -1
    if out.encoding == E_JSON:
        return base64_size(payload.at, payload.size) if payload.kind == V_TEXT and not payload.escaped else -1
    return payload.size if payload.kind == V_BYTES else -1


cdef int type_allowed(const uint8_t *type, size_t size) noexcept nogil:
    cdef size_t i
    cdef uint8_t b, before = c'.'
    if size == 0 or size > TYPE_BYTES_MAX:
        return 0
    for i in range(size):
        b = type[i]
        if b == c'.':
            if before == c'.':
                return 0
        elif not (97 <= b <= 122 or 48 <= b <= 57 or b == c'_'):
            return 0
        before = b
    if before == c'.':
        return 0
    if size > 8 and memcmp(type, b"message.", 8) == 0:
        if _is(type, size, b"message.edited", 14) or _is(type, size, b"message.deleted", 15):
            return -1
        return -1 if _is(type, size, b"message.reaction", 16) else 0
    if size > 13 and memcmp(type, b"conversation.", 13) == 0 or size > 7 and memcmp(type, b"member.", 7) == 0:
        return 0
    if size > 13 and memcmp(type, b"subscription.", 13) == 0 or size > 6 and memcmp(type, b"admin.", 6) == 0:
        return 0
    return 1


cdef bint proposal_put(const Command *command, uint64_t origin, uint64_t user, uint64_t device,
                       uint8_t *to) noexcept nogil:
    cdef Proposal head
    cdef const Value *payload = &command.fields[N_PAYLOAD]
    head.size = PROPOSAL_HEAD_BYTES + command.type_size + command.payload_size
    head.flags = command.flags
    head.origin = origin
    head.user = user
    head.device = device
    head.counter = command.counter
    head.target = command.target
    head.expected = command.expected
    head.type_size = <uint16_t>command.type_size
    head.reserved = 0
    head.payload_size = command.payload_size
    memcpy(to, &head, PROPOSAL_HEAD_BYTES)
    memcpy(to + PROPOSAL_HEAD_BYTES, command.type, command.type_size)
    to += PROPOSAL_HEAD_BYTES + command.type_size
    if payload.kind == V_ABSENT:
        json_text_put(&command.fields[N_TEXT], to)
        return True
    if command.encoding == E_JSON:
        return base64_put(payload.at, payload.size, to)
    memcpy(to, payload.at, payload.size)
    return True


def read_command(uint8_t encoding, const uint8_t[::1] data):
    """(kind, counter, target, flags, expected, value, status, type, payload) for tests; kind 0 alone says it all."""
    cdef Command found
    cdef const uint8_t *at = &data[0] if data.shape[0] else NULL
    cdef uint32_t type_size
    command_read(encoding, at, data.shape[0], &found)
    type_name = payload = b""
    if found.kind == C_PUBLISH:
        room = bytearray(PROPOSAL_HEAD_BYTES + found.type_size + found.payload_size)
        type_size = found.type_size
        if not proposal_put(&found, 0, 0, 0, <uint8_t *>room):
            return (C_COLD,) + (0,) * 6 + (b"", b"")
        type_name = bytes(room[PROPOSAL_HEAD_BYTES : PROPOSAL_HEAD_BYTES + type_size])
        payload = bytes(room[PROPOSAL_HEAD_BYTES + type_size :])
    if found.kind == C_COLD:
        return (C_COLD,) + (0,) * 6 + (b"", b"")
    return (found.kind, found.counter, found.target, found.flags, found.expected, found.value, found.status, type_name,
            payload)
