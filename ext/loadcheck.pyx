"""Streams of the load generator: stamped payloads, client frames, verified events.

Feeds on whole WebSocket payloads from ext/loadloop. The first 32 bytes of each payload name stream, size, connection,
device counter, index and intended time; the rest is the stream's fill. An event counts as delivered only if its record
is well formed, its stamp belongs to its counter, and its fill is the one that was sent, in its whole length; of a
broadcast each further copy must equal the first one byte for byte, so the server's numbers and times are compared too.
Connections are numbered over all processes of a fleet, so an event of any of them can be verified by any other.

Invariants: an event is counted once per session (the caller refuses sequences that do not ascend); a frame that is
not exactly as long as its record says is broken. Cost: one pass over the frame, no allocation.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from ext.c_load cimport (
    load_be32, load_be64, load_le32, load_le64, mask_bytes, store_be64, store_le32, store_le64)
from ext.loadhdr cimport hdr_open


cdef int stream_open(Stream *s, const uint8_t *fill, uint32_t fill_size) except -1:
    """Takes what it needs; the caller calls stream_free also after a failure."""
    cdef uint32_t i
    s.fill = <uint8_t *>malloc(fill_size + 1)
    if s.fill == NULL:
        raise MemoryError("no memory for a stream of the load generator")
    s.receipt_ns, s.deliver_ns, s.refused_ns, s.late_ns = hdr_open(), hdr_open(), hdr_open(), hdr_open()
    memcpy(s.fill, fill, fill_size)
    s.fill_size = fill_size
    if s.broadcast:
        s.seen_room = RECORD_FIXED + 2 + 64 + 5 + STAMP + fill_size
        s.seen = <Seen *>calloc(SEEN, sizeof(Seen))
        s.seen_bytes = <uint8_t *>malloc(<size_t>SEEN * s.seen_room)
        if s.seen == NULL or s.seen_bytes == NULL:
            raise MemoryError(f"no memory to remember {SEEN} broadcast events of {s.seen_room} bytes")
        for i in range(SEEN):
            s.seen[i].bytes_at = s.seen_bytes + <size_t>i * s.seen_room
    return 0


cdef void stream_free(Stream *s) noexcept:
    cdef uint32_t i
    for i in range(s.target_count):
        free(s.targets[i].body)
    free(s.targets)
    free(s.writers)
    free(s.heap)
    free(s.tables)
    free(s.fill)
    free(s.receipt_ns)
    free(s.refused_ns)
    free(s.late_ns)
    free(s.deliver_ns)
    free(s.seen)
    free(s.seen_bytes)
    s.fill = s.seen_bytes = NULL
    s.receipt_ns = s.deliver_ns = s.refused_ns = s.late_ns = NULL
    s.seen = NULL
    s.targets = NULL
    s.writers = NULL
    s.heap = NULL
    s.tables = NULL
    s.target_count = s.writer_count = 0


cdef uint32_t frame_put(uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size, uint32_t key) noexcept nogil:
    """One whole client frame, masked; its size. `to` has room for 14 bytes more than the body."""
    cdef uint32_t head = 2
    to[0] = 0x80 | opcode
    if size < 126:
        to[1] = 0x80 | size
    elif size < 65536:
        to[1], to[2], to[3] = 0x80 | 126, size >> 8, size & 0xFF
        head = 4
    else:
        to[1] = 0x80 | 127
        store_be64(to + 2, size)
        head = 10
    memcpy(to + head, &key, 4)
    memcpy(to + head + 4, body, size)
    mask_bytes(to + head + 4, size, key)
    return head + 4 + size


cdef void stamp_put(uint8_t *payload, uint32_t stream, uint32_t size, uint32_t connection, uint32_t counter,
                    uint64_t index, uint64_t intended_ns) noexcept nogil:
    memcpy(payload, b"GNLG", 4)
    store_le32(payload + 4, stream << 24 | size)
    store_le32(payload + 8, connection)
    store_le32(payload + 12, counter)
    store_le64(payload + 16, index)
    store_le64(payload + 24, intended_ns)


cdef int event_check(Stream *streams, uint32_t count, const uint8_t *body, uint32_t size, Event *event) noexcept nogil:
    """Verdict on the payload of one event frame; `event` is filled as far as the verdict allows."""
    cdef const uint8_t *r = body + 2
    cdef const uint8_t *payload
    cdef uint32_t i, type_size, payload_size
    cdef Stream *s
    event.sequence = 0
    if size < 2 + RECORD_FIXED + 6 or not 0x9A <= r[0] <= 0x9F or r[73] != 0xD9:
        return EVENT_BROKEN
    for i in range(8):
        if r[1 + 9 * i] != 0xCF:
            return EVENT_BROKEN
    type_size = r[74]
    if size < 2 + RECORD_FIXED + type_size + 5 or r[75 + type_size] != 0xC6:
        return EVENT_BROKEN
    payload_size = load_be32(r + 76 + type_size)
    if r[0] == 0x9A and size != 2 + RECORD_FIXED + type_size + 5 + payload_size:
        return EVENT_BROKEN
    if size < 2 + RECORD_FIXED + type_size + 5 + payload_size:  # fields behind the tenth are passed over
        return EVENT_BROKEN
    event.sequence = load_be64(r + 2)
    event.conversation = load_be64(r + 11)
    event.conversation_sequence = load_be64(r + 20)
    payload = r + 80 + type_size
    if type_size != 7 or memcmp(r + 75, b"message", 7) != 0:
        return EVENT_OTHER
    if payload_size < STAMP or memcmp(payload, b"GNLG", 4) != 0:
        return EVENT_OTHER
    event.stream = load_le32(payload + 4) >> 24
    event.connection = load_le32(payload + 8)
    event.index = load_le64(payload + 16)
    event.intended_ns = load_le64(payload + 24)
    if event.stream >= count:
        return EVENT_OTHER
    s = &streams[event.stream]
    if (event.index == 0 or payload_size > STAMP + s.fill_size
            or payload_size != load_le32(payload + 4) & 0xFFFFFF
            or load_le32(payload + 12) != <uint32_t>load_be64(r + 2 + 9 * 7)
            or memcmp(payload + STAMP, s.fill, payload_size - STAMP) != 0):
        return EVENT_CORRUPT
    return EVENT_OURS


cdef int event_arrived(Stream *s, const Event *event, const uint8_t *body, uint32_t size) noexcept nogil:
    """One more session has it: 1 if it was the last one of a broadcast, 2 if its bytes differ from the first copy."""
    cdef Seen *seen
    if s.seen == NULL:
        return 0
    seen = &s.seen[event.index & (SEEN - 1)]
    if seen.index != event.index:
        if size > s.seen_room:
            return 2
        seen.index = event.index
        seen.arrived = 0
        seen.size = size
        memcpy(seen.bytes_at, body, size)
    elif size != seen.size or memcmp(seen.bytes_at, body, size) != 0:
        return 2
    seen.arrived += 1
    if seen.arrived == s.recipients:
        s.completed += 1
        return 1
    return 0
