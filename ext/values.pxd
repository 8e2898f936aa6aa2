# Values of MessagePack and JSON: one at a time off a cursor, checked whole, nested ones passed over.
# Any thread, pure: a Value leads into the caller's bytes. ext/commands builds commands from them.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:  # kinds
    V_ABSENT = 0
    V_INTEGER = 1  # 0 to 2^64-1: number
    V_OUTSIDE = 2  # an integer that is not
    V_TEXT = 3  # valid UTF-8 (JSON: as far as the message is)
    V_BYTES = 4
    V_OTHER = 5

cdef struct Value:
    const uint8_t *at  # text and bytes: the content; in JSON what stands between the quotes
    uint32_t size
    uint32_t plain_size  # bytes once the escapes of JSON are resolved
    uint64_t number
    const uint8_t *raw  # the whole value as it stands
    uint32_t raw_size
    uint8_t kind
    bint escaped

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end

# Takes the next value off the cursor; False if there is no valid one. JSON nests at most 32 deep here.
cdef bint pack_value(Cursor *c, Value *v) noexcept nogil
cdef bint json_value(Cursor *c, Value *v, int depth) noexcept nogil

# Number of entries if a MessagePack map begins here, else -1.
cdef int64_t pack_map(Cursor *c) noexcept nogil

# The next character that is no white space of JSON, not taken; 0 at the end.
cdef uint8_t json_peek(Cursor *c) noexcept nogil

# Resolves the escapes of a JSON text into plain_size bytes.
cdef void json_text_put(const Value *v, uint8_t *to) noexcept nogil

# Standard, padded base64: the size of what it holds, -1 if it can't be any; decodes, False if it isn't.
cdef int64_t base64_size(const uint8_t *at, size_t size) noexcept nogil
cdef bint base64_put(const uint8_t *at, size_t size, uint8_t *to) noexcept nogil
