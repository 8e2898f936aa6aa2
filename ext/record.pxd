# Records: one stored event, a MessagePack array whose integers are all 0xcf + 8 bytes, so that fields lie at fixed
# places (engine/LOG_FORMAT.md). Borrowed: every pointer leads into the caller's bytes. Any thread, pure.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.c_prefetch cimport load_u64, swap_u64

cdef enum:  # fields by number, for rec_u64
    F_SEQUENCE = 0
    F_CONVERSATION = 1
    F_CONVERSATION_SEQUENCE = 2
    F_PREVIOUS = 3
    F_TIME = 4
    F_SENDER = 5
    F_DEVICE = 6
    F_COUNTER = 7
    INTEGERS = 8

cdef enum:  # places of bytes
    ARRAY_AT = 0  # 0x9a; 0x9b with the key of its publish; a later version with more fields has up to 0x9f
    FIRST_AT = 2  # of the first integer, behind its 0xcf; the next ones every 9 bytes
    TYPE_HEAD_AT = 73  # 0xd9
    TYPE_LENGTH_AT = 74
    TYPE_AT = 75
    FIXED_BYTES = 80  # of a record without type and payload
    KEY_FIELD_BYTES = 18  # 0xc4, 16, the key
    TYPE_LENGTH_MAX = 64
    PAYLOAD_LENGTH_MAX = 65536

# The five below take a record that has passed rec_good.
cdef inline uint64_t rec_u64(const uint8_t *record, int field) noexcept nogil:
    return swap_u64(load_u64(record + FIRST_AT + 9 * field))

cdef inline const uint8_t *rec_type(const uint8_t *record) noexcept nogil:
    return record + TYPE_AT

cdef inline uint32_t rec_type_len(const uint8_t *record) noexcept nogil:
    return record[TYPE_LENGTH_AT]

cdef inline const uint8_t *rec_payload(const uint8_t *record) noexcept nogil:
    return record + FIXED_BYTES + record[TYPE_LENGTH_AT]

cdef inline uint32_t rec_payload_len(const uint8_t *record) noexcept nogil:
    cdef const uint8_t *at = record + FIXED_BYTES + record[TYPE_LENGTH_AT] - 4
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]

# The 16 bytes of the eleventh field; NULL if it has none, or another one than a key.
cdef inline const uint8_t *rec_key(const uint8_t *record, size_t size) noexcept nogil:
    cdef size_t end
    if record[ARRAY_AT] == 0x9A:
        return NULL
    end = FIXED_BYTES + <size_t>record[TYPE_LENGTH_AT] + rec_payload_len(record)
    if size < end + KEY_FIELD_BYTES or record[end] != 0xC4 or record[end + 1] != 16:
        return NULL
    return record + end + 2

# Whether the bytes are a record: everything where it belongs, nothing outside `size`.
cdef bint rec_good(const uint8_t *record, size_t size) noexcept nogil

# All fields of a record that has passed rec_good as ext.record.Record; `type` is its type as text.
cdef object rec_decoded(const uint8_t *record, str type)

# The same as an instance of `made`, a named tuple of `items` fields: the first ten are set, the caller sets the others.
cdef object rec_filled(object made, Py_ssize_t items, const uint8_t *record, str type)

# Writes a record; its size, FIXED_BYTES + type_bytes + payload_bytes. The lengths are the caller's to check.
cdef uint32_t rec_put(uint8_t *out, uint64_t sequence, uint64_t conversation, uint64_t conversation_sequence,
                      uint64_t previous, uint64_t time_us, uint64_t sender, uint64_t device, uint64_t counter,
                      const uint8_t *type, uint32_t type_bytes, const uint8_t *payload,
                      uint32_t payload_bytes) noexcept nogil

# Puts a key behind what rec_put has written in `size` bytes; the size with it.
cdef uint32_t rec_put_key(uint8_t *record, uint32_t size, const uint8_t *key) noexcept nogil
