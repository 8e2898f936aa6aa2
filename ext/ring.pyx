# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The ring of ready frames: what the tail has copied once, and every outbox refers to by number.

Between the route loop of ext/fanout, which appends an entry for each record that has a recipient here, and its
flush, which sends pieces of the ring as they lie. An entry has a frame in an encoding only if somebody needed it.

Invariants: frames of an encoding lie without holes in the order of their entries, except that none crosses the end
of the ring (the rest of the lap is filler); an entry is valid as long as none of its bytes may have been overwritten,
and a range of entries is valid if its first one is. Nothing is told to those who refer to evicted entries: they find
out when they look, and read the log instead.
Cost: one copy of a record per encoding in use; 40 bytes an entry. Pages are touched only as the ring first fills.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from ext.c_memory cimport pages_map, pages_unmap
from ext.jsonevent cimport json_event_bound, json_event_put
from ext.record cimport rec_u64

cdef enum:
    MSGPACK = 0
    OPCODE_TEXT = 0x81  # FIN and opcode; frames of a server have no mask
    OPCODE_BINARY = 0x82
    HEAD_MAX = 10
    PUSH_EVENT = 1
    ENTRY_BYTES_USUAL = 128  # entries are sized for frames of this size; more numerous ones are evicted earlier


cdef uint32_t frame_head_size(size_t size) noexcept nogil:
    return 2 if size < 126 else 4 if size < 65536 else 10


cdef uint8_t *frame_head_put(uint8_t *to, uint8_t opcode, size_t size) noexcept nogil:
    """Writes a WebSocket frame head; behind it."""
    cdef int i
    to[0] = opcode
    if size < 126:
        to[1] = <uint8_t>size
        return to + 2
    if size < 65536:
        to[1] = 126
        to[2] = <uint8_t>(size >> 8)
        to[3] = <uint8_t>size
        return to + 4
    to[1] = 127
    for i in range(8):
        to[2 + i] = <uint8_t>((<uint64_t>size) >> (56 - 8 * i))
    return to + 10


cdef size_t event_frame_bound(const uint8_t *record, uint32_t size, uint32_t encoding) noexcept nogil:
    return HEAD_MAX + (2 + size if encoding == MSGPACK else json_event_bound(record, size))


cdef size_t event_frame_put(uint8_t *to, const uint8_t *record, uint32_t size, uint32_t encoding) noexcept nogil:
    """The frame of a record's event push; its size. `to` has room for event_frame_bound."""
    cdef uint8_t *at
    cdef size_t length
    if encoding == MSGPACK:
        at = frame_head_put(to, OPCODE_BINARY, size + 2)
        at[0] = 0x92
        at[1] = PUSH_EVENT
        memcpy(at + 2, record, size)
        return <size_t>(at + 2 + size - to)
    length = json_event_put(to + HEAD_MAX, record, size)  # the head's size is known only now
    at = frame_head_put(to, OPCODE_TEXT, length)
    if at != to + HEAD_MAX:
        memmove(at, to + HEAD_MAX, length)
    return <size_t>(at + length - to)


cdef uint32_t _entries_for(uint64_t bytes_room) noexcept:
    cdef uint32_t room = 1024
    while room < 1 << 30 and <uint64_t>room * ENTRY_BYTES_USUAL < bytes_room:
        room *= 2
    return room


def memory_bytes(uint64_t ring_bytes):
    """What a ring of so many bytes takes with its entries, once all of it has been used."""
    return ring_bytes + _entries_for(ring_bytes // 2) * sizeof(Entry)


cdef class Ring:
    def __cinit__(self, uint64_t ring_bytes, uint32_t first_entry=0):
        """Each encoding has half of `ring_bytes`."""
        cdef int k
        if ring_bytes < 1 << 20:
            raise ValueError(f"ring_bytes = {ring_bytes}: at least {1 << 20}, so that the largest frame fits")
        self.bytes_room = ring_bytes // 2
        self.entries_room = _entries_for(self.bytes_room)
        self.next_entry = first_entry
        self.entries = <Entry *>pages_map(<size_t>self.entries_room * sizeof(Entry))
        for k in range(RING_ENCODINGS):
            self.bytes_of[k] = <uint8_t *>pages_map(self.bytes_room)
        if self.entries == NULL or self.bytes_of[0] == NULL or self.bytes_of[1] == NULL:
            raise MemoryError(f"no memory for a ring of {ring_bytes} bytes")

    def __dealloc__(self):
        cdef int k
        pages_unmap(self.entries, <size_t>self.entries_room * sizeof(Entry))
        for k in range(RING_ENCODINGS):
            pages_unmap(self.bytes_of[k], self.bytes_room)
        free(self.json)

    cdef Entry *append(self, const uint8_t *record, uint32_t size, uint32_t encodings) except NULL nogil:
        """The next entry, with frames in the encodings whose bits are set."""
        cdef Entry *entry = &self.entries[self.next_entry & (self.entries_room - 1)]
        cdef size_t length, bound
        cdef uint64_t lap_left
        cdef void *moved
        cdef uint32_t k
        entry.sequence = rec_u64(record, 0)
        for k in range(RING_ENCODINGS):
            entry.size[k] = 0
            if not encodings & (<uint32_t>1 << k):
                continue
            if k == MSGPACK:
                length = frame_head_size(size + 2) + 2 + size
            else:
                bound = event_frame_bound(record, size, k)
                if bound > self.json_room:
                    moved = realloc(self.json, bound)
                    if moved == NULL:
                        with gil:
                            raise MemoryError(f"no memory for a frame of {bound} bytes")
                    self.json = <uint8_t *>moved
                    self.json_room = bound
                length = event_frame_put(self.json, record, size, k)
            lap_left = self.bytes_room - self.head[k] % self.bytes_room
            if length > lap_left:
                self.head[k] += lap_left
            entry.at[k] = self.head[k]
            entry.size[k] = <uint32_t>length
            if k == MSGPACK:
                event_frame_put(self.bytes_of[k] + self.head[k] % self.bytes_room, record, size, k)
            else:
                memcpy(self.bytes_of[k] + self.head[k] % self.bytes_room, self.json, length)
            self.head[k] += length
        self.next_entry += 1
        self.appended += 1
        return entry

    cdef Entry *entry_at(self, uint32_t number, uint32_t encoding) noexcept nogil:
        """The entry, or NULL if it is no longer (or was never) there in this encoding."""
        cdef uint32_t behind = self.next_entry - number
        cdef Entry *entry = &self.entries[number & (self.entries_room - 1)]
        if behind == 0 or behind > self.entries_room or behind > self.appended:
            return NULL
        if entry.size[encoding] == 0 or self.head[encoding] - entry.at[encoding] > self.bytes_room:
            return NULL
        return entry

    cdef uint32_t piece(self, uint32_t first, uint32_t count, uint32_t encoding, const uint8_t **data,
                        size_t *size) noexcept nogil:
        """How many of the valid entries first … first+count-1 lie in one piece, and where."""
        cdef uint32_t mask = self.entries_room - 1, low = 1, high = count, middle
        cdef Entry *begin = &self.entries[first & mask]
        cdef Entry *last = &self.entries[(first + count - 1) & mask]
        cdef uint64_t lap = begin.at[encoding] // self.bytes_room
        if last.at[encoding] // self.bytes_room != lap:
            while low < high:  # the most entries that begin in this lap
                middle = low + (high - low + 1) // 2
                if self.entries[(first + middle - 1) & mask].at[encoding] // self.bytes_room == lap:
                    low = middle
                else:
                    high = middle - 1
            last = &self.entries[(first + low - 1) & mask]
            count = low
        data[0] = self.bytes_of[encoding] + begin.at[encoding] % self.bytes_room
        size[0] = <size_t>(last.at[encoding] + last.size[encoding] - begin.at[encoding])
        return count

    cdef uint32_t begun(self, uint32_t first, uint32_t count, uint32_t encoding, size_t sent,
                        size_t *rest) noexcept nogil:
        """Of a piece of which `sent` > 0 bytes are gone: frames begun, and what the last of them still lacks."""
        cdef uint32_t mask = self.entries_room - 1, low = 1, high = count, middle
        cdef uint64_t gone = self.entries[first & mask].at[encoding] + sent
        cdef Entry *last
        while low < high:
            middle = low + (high - low + 1) // 2
            if self.entries[(first + middle - 1) & mask].at[encoding] < gone:
                low = middle
            else:
                high = middle - 1
        last = &self.entries[(first + low - 1) & mask]
        rest[0] = <size_t>(last.at[encoding] + last.size[encoding] - gone)
        return low

    cdef uint32_t fit(self, uint32_t first, uint32_t count, uint32_t encoding, size_t room,
                      size_t *size) noexcept nogil:
        """How many whole frames of a piece take at most `room` bytes, and how many bytes they take."""
        cdef uint32_t mask = self.entries_room - 1, low = 0, high = count, middle
        cdef uint64_t begin = self.entries[first & mask].at[encoding]
        cdef Entry *last
        size[0] = 0
        while low < high:
            middle = low + (high - low + 1) // 2
            last = &self.entries[(first + middle - 1) & mask]
            if last.at[encoding] + last.size[encoding] - begin <= room:
                low = middle
                size[0] = <size_t>(last.at[encoding] + last.size[encoding] - begin)
            else:
                high = middle - 1
        return low

    # for tests and tools

    def add(self, const uint8_t[::1] record, uint32_t encodings=3):
        """Appends a record; its entry number."""
        self.append(&record[0], <uint32_t>record.shape[0], encodings)
        return <uint32_t>(self.next_entry - 1)

    def frames_copy(self, uint32_t first, uint32_t count=1, uint32_t encoding=0):
        """The bytes of consecutive entries, or None if the first is no longer there."""
        cdef const uint8_t *data
        cdef size_t size
        cdef uint32_t done = 0, n
        pieces = []
        if self.entry_at(first, encoding) == NULL:
            return None
        while done < count:
            n = self.piece(first + done, count - done, encoding, &data, &size)
            pieces.append(data[:size])
            done += n
        return b"".join(pieces)

    def begun_copy(self, uint32_t first, uint32_t count, uint32_t encoding, size_t sent):
        """(entries begun, bytes lacking) after `sent` bytes of a piece."""
        cdef size_t rest = 0
        cdef uint32_t n = self.begun(first, count, encoding, sent, &rest)
        return n, rest
