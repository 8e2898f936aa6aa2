"""What the devices of a replay received: each event's first frame in each encoding, every delivery compared with it.

Below ext/replaywire, which has the sockets and takes frames apart. A delivery is a slot in a device's list and a count
at the slot; what Python must look at itself (what is no event, the first frame of one, frames that differ) waits as
notes until the turn ends. Judging is Python's: here nothing is dropped, mended or put in order.

Invariants: a delivery is recorded exactly when its frame is complete; slots are never reused before forget().
Cost: one hash look-up, one memcmp and 8 bytes per delivery.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from ext.c_load cimport load_be64, now_ns

cdef enum:
    SLOTS_FIRST = 1 << 12

cdef bytes JSON_EVENT_BYTES = b'{"op":"event","sequence":'
cdef const uint8_t *JSON_EVENT = JSON_EVENT_BYTES
cdef uint32_t JSON_EVENT_SIZE = 25

cdef uint64_t LATE_US_MAX = <uint64_t>0xFFFFFFFF
cdef uint64_t MIX = <uint64_t>0x9E3779B9 << 32 | 0x7F4A7C15


cdef inline uint32_t place(uint64_t sequence, uint32_t mask) noexcept nogil:
    """Where the look-up of a sequence begins: pure arithmetic."""
    return <uint32_t>(sequence * MIX >> 32) & mask


cdef class ReplayHeard:
    def __cinit__(self, uint32_t devices_max):
        if not 1 <= devices_max <= 1_000_000:
            raise ValueError(f"devices_max is {devices_max}; it must be 1 to 1,000,000")
        self.devices_max = devices_max
        self.of = <Heard *>calloc(devices_max, sizeof(Heard))
        if self.of == NULL:
            raise MemoryError(f"no memory for {devices_max} devices")
        self._grow_table()

    def __dealloc__(self):
        cdef uint32_t k
        if self.of != NULL:
            for k in range(self.devices_max):
                free(self.of[k].slots)
                free(self.of[k].late_us)
        for k in range(self.slot_count):
            free(self.slots[k].frame[0])
            free(self.slots[k].frame[1])
        free(self.of)
        free(self.slots)
        free(self.table)
        free(self.notes)

    cdef int check(self, uint32_t k) except -1:
        if k >= self.devices_max:
            raise ValueError(f"device {k} is unknown; there are {self.devices_max}")
        return 0

    # ---- notes ---------------------------------------------------------------------------------------------------

    cdef int note(self, uint32_t kind, uint32_t k, uint32_t slot, const uint8_t *data, uint32_t size) except -1 nogil:
        cdef size_t wanted = self.notes_size + sizeof(NoteHead) + size
        cdef NoteHead head
        cdef uint8_t *moved
        if wanted > self.notes_room:
            wanted += wanted // 2 + 4096
            moved = <uint8_t *>realloc(self.notes, wanted)
            if moved == NULL:
                with gil:
                    raise MemoryError("no memory for notes")
            self.notes, self.notes_room = moved, wanted
        head.kind, head.device, head.slot, head.size = kind, k, slot, size
        memcpy(self.notes + self.notes_size, &head, sizeof(NoteHead))
        if size:
            memcpy(self.notes + self.notes_size + sizeof(NoteHead), data, size)
        self.notes_size += sizeof(NoteHead) + size
        return 0

    cdef list told(self):
        """The notes of this turn as (kind, device, slot, bytes)."""
        cdef NoteHead head
        cdef size_t at = 0
        found = []
        while at < self.notes_size:
            memcpy(&head, self.notes + at, sizeof(NoteHead))
            at += sizeof(NoteHead)
            found.append((head.kind, head.device, head.slot, self.notes[at:at + head.size]))
            at += head.size
        return found

    # ---- events --------------------------------------------------------------------------------------------------

    cdef int message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        """An event in the form that both encodings fix is recorded here; everything else is Python's."""
        cdef uint64_t sequence = 0
        cdef uint32_t i
        if self.of[k].encoding == 0:
            if size >= 12 and body[0] == 0x92 and body[1] == 1 and 0x9a <= body[2] <= 0x9f and body[3] == 0xcf:
                return self._event(k, load_be64(body + 4), body, size, now)
        elif size > JSON_EVENT_SIZE + 1 and memcmp(body, JSON_EVENT, JSON_EVENT_SIZE) == 0:
            i = JSON_EVENT_SIZE
            while i < size and i < JSON_EVENT_SIZE + 17 and 48 <= body[i] <= 57:
                sequence = sequence * 10 + (body[i] - 48)
                i += 1
            if i > JSON_EVENT_SIZE and i < size and (body[i] == 44 or body[i] == 125):
                return self._event(k, sequence, body, size, now)
        return self.note(NOTE_MESSAGE, k, 0, body, size)

    def event(self, uint32_t device, uint64_t sequence, bytes frame):
        """Records an event whose frame has another form than the usual one; Python took it apart."""
        self.notes_size = 0
        self.check(device)
        self._event(device, sequence, frame, len(frame), now_ns())

    cdef int _event(self, uint32_t k, uint64_t sequence, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        cdef Heard *d = &self.of[k]
        cdef uint8_t e = d.encoding
        cdef uint32_t room
        cdef uint32_t *moved
        cdef uint64_t late
        cdef uint32_t slot = <uint32_t>self._slot(sequence, now)
        cdef Slot *s = &self.slots[slot]
        self.deliveries += 1
        if s.frame[e] == NULL:
            s.frame[e] = <uint8_t *>malloc(size + 1)
            if s.frame[e] == NULL:
                with gil:
                    raise MemoryError("no memory for a frame")
            memcpy(s.frame[e], body, size)
            s.size[e], s.copies[e] = size, 1
            self.note(NOTE_FIRST, k, slot, NULL, 0)
        elif s.size[e] == size and memcmp(s.frame[e], body, size) == 0:
            s.copies[e] += 1
        else:
            self.note(NOTE_DIFFERS, k, slot, body, size)
        if d.count == d.room:
            room = d.room * 2 + 64
            moved = <uint32_t *>realloc(d.slots, room * 4)
            if moved != NULL:
                d.slots = moved
                moved = <uint32_t *>realloc(d.late_us, room * 4)
            if moved == NULL:
                with gil:
                    raise MemoryError("no memory for deliveries")
            d.late_us, d.room = moved, room
        late = (now - s.first_ns) // 1000
        d.slots[d.count] = slot
        d.late_us[d.count] = <uint32_t>(late if late < LATE_US_MAX else LATE_US_MAX)
        d.count += 1
        if sequence > d.position:
            d.position = sequence
        return 0

    cdef int64_t _slot(self, uint64_t sequence, uint64_t now) except -1 nogil:
        cdef uint32_t at = place(sequence, self.table_mask)
        cdef Slot *s
        while self.table[at]:
            if self.slots[self.table[at] - 1].sequence == sequence:
                return self.table[at] - 1
            at = (at + 1) & self.table_mask
        if self.slot_count == self.slot_room:
            self._grow_table()
            return self._slot(sequence, now)
        s = &self.slots[self.slot_count]
        s.sequence, s.first_ns = sequence, now
        s.frame[0] = s.frame[1] = NULL
        s.size[0] = s.size[1] = s.copies[0] = s.copies[1] = 0
        self.slot_count += 1
        self.table[at] = self.slot_count
        return self.slot_count - 1

    cdef int _grow_table(self) except -1 nogil:
        """Twice the slots, and a table four times as large as those: at most a quarter full."""
        cdef uint32_t room = self.slot_room * 2 if self.slot_room else SLOTS_FIRST
        cdef uint32_t mask = room * 4 - 1, k, at
        cdef Slot *slots = <Slot *>realloc(self.slots, room * sizeof(Slot))
        cdef uint32_t *table = NULL
        if slots != NULL:
            self.slots = slots
            table = <uint32_t *>calloc(<size_t>mask + 1, 4)
        if table == NULL:
            with gil:
                raise MemoryError(f"no memory for {room} events")
        for k in range(self.slot_count):
            at = place(slots[k].sequence, mask)
            while table[at]:
                at = (at + 1) & mask
            table[at] = k + 1
        free(self.table)
        self.table, self.table_mask, self.slot_room = table, mask, room
        return 0

    # ---- what was received ---------------------------------------------------------------------------------------

    def position(self, uint32_t device):
        """The highest sequence that the device has received, 0 if none."""
        self.check(device)
        return self.of[device].position

    def frame(self, uint32_t slot, int encoding):
        """The message that first brought the event in this encoding; empty if none did."""
        if slot >= self.slot_count or not 0 <= encoding <= 1:
            raise ValueError(f"slot {slot} of {self.slot_count}, encoding {encoding}")
        if self.slots[slot].frame[encoding] == NULL:
            return b""
        return self.slots[slot].frame[encoding][:self.slots[slot].size[encoding]]

    def copies(self, uint32_t slot, int encoding):
        """How many deliveries had exactly those bytes."""
        if slot >= self.slot_count or not 0 <= encoding <= 1:
            raise ValueError(f"slot {slot} of {self.slot_count}, encoding {encoding}")
        return self.slots[slot].copies[encoding]

    def events(self):
        """(sequence, time of the first delivery in ns) of each slot, 8 bytes each, in machine order."""
        cdef uint32_t k
        cdef bytes out = bytes(16 * self.slot_count)
        cdef char *to = out
        for k in range(self.slot_count):
            memcpy(to + 16 * k, &self.slots[k].sequence, 16)
        return out

    def received_count(self, uint32_t device):
        self.check(device)
        return self.of[device].count

    def received(self, uint32_t device):
        """Slots in order of arrival, and how many µs after the first delivery; 4 bytes each, in machine order."""
        self.check(device)
        cdef Heard *d = &self.of[device]
        if d.count == 0:
            return b"", b""
        return (<char *>d.slots)[:4 * d.count], (<char *>d.late_us)[:4 * d.count]

    def forget(self):
        """Drops all events and deliveries; positions stay."""
        cdef uint32_t k
        for k in range(self.slot_count):
            free(self.slots[k].frame[0])
            free(self.slots[k].frame[1])
        for k in range(self.devices_max):
            free(self.of[k].slots)
            free(self.of[k].late_us)
            self.of[k].slots = self.of[k].late_us = NULL
            self.of[k].count = self.of[k].room = 0
        free(self.slots)
        free(self.table)
        self.slots, self.table = NULL, NULL
        self.slot_count = self.slot_room = 0
        self._grow_table()
