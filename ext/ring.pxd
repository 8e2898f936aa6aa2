# The worker's ring of frames that are ready to be sent: entry n → the WebSocket frame of one event, once per encoding.
# Loop thread only. Entry numbers are u32 and wrap; frames of one encoding lie one behind the other in the order of
# their entries, so that a range of entries is one piece of memory (two where the ring begins again). A pointer into
# the ring is good until the next append. Nothing holds an entry: what is overwritten was late, see entry_at.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    RING_ENCODINGS = 2  # E_MSGPACK, E_JSON

cdef struct Entry:
    uint64_t sequence
    uint64_t at[2]  # bytes ever written before the frame, fillers included; place is this modulo bytes_room
    uint32_t size[2]  # 0: not made in this encoding

cdef class Ring:
    # entries
    cdef Entry *entries
    cdef readonly uint32_t entries_room  # power of two
    cdef readonly uint32_t next_entry
    cdef uint64_t appended  # entries ever
    # bytes, per encoding
    cdef uint8_t *bytes_of[2]
    cdef uint64_t head[2]
    cdef readonly uint64_t bytes_room
    # scratch for one JSON frame
    cdef uint8_t *json
    cdef size_t json_room

    cdef Entry *append(self, const uint8_t *record, uint32_t size, uint32_t encodings) except NULL nogil
    cdef Entry *entry_at(self, uint32_t number, uint32_t encoding) noexcept nogil  # NULL: overwritten
    cdef uint32_t piece(self, uint32_t first, uint32_t count, uint32_t encoding, const uint8_t **data,
                        size_t *size) noexcept nogil
    cdef uint32_t begun(self, uint32_t first, uint32_t count, uint32_t encoding, size_t sent,
                        size_t *rest) noexcept nogil
    cdef uint32_t fit(self, uint32_t first, uint32_t count, uint32_t encoding, size_t room,
                      size_t *size) noexcept nogil

cdef uint32_t frame_head_size(size_t size) noexcept nogil
cdef uint8_t *frame_head_put(uint8_t *to, uint8_t opcode, size_t size) noexcept nogil
cdef size_t event_frame_bound(const uint8_t *record, uint32_t size, uint32_t encoding) noexcept nogil
cdef size_t event_frame_put(uint8_t *to, const uint8_t *record, uint32_t size, uint32_t encoding) noexcept nogil
