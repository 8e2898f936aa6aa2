# What the devices of a replay received.
#
# An event is a slot: the frame that first brought it, once per encoding; every later delivery of it must have the same
# bytes. What a device received is a list of slots. One ReplayHeard belongs to one thread, which is the only caller.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum Note:                 # what Python is told after a turn
    NOTE_OPENED = 1             # the handshake is done
    NOTE_MESSAGE = 2            # a message that is no event
    NOTE_FIRST = 3              # the first frame of an event in this encoding: check its content
    NOTE_DIFFERS = 4            # an event whose bytes are not those of the first frame
    NOTE_CLOSED = 5             # the connection ended: payload of the close frame, or nothing
    NOTE_BROKEN = 6             # the server broke the protocol: what it did

cdef struct NoteHead:
    uint32_t kind, device, slot, size

cdef struct Slot:
    uint64_t sequence
    uint64_t first_ns           # when its first delivery arrived
    uint8_t *frame[2]           # message bytes by encoding, NULL until seen
    uint32_t size[2]
    uint32_t copies[2]          # deliveries with exactly those bytes

cdef struct Heard:              # of one device, in order of arrival
    uint8_t encoding
    uint64_t position           # highest sequence received
    uint32_t *slots
    uint32_t *late_us           # after the first delivery of the same event
    uint32_t count, room

cdef class ReplayHeard:
    # devices
    cdef Heard *of
    cdef uint32_t devices_max
    # events
    cdef Slot *slots
    cdef uint32_t slot_count, slot_room
    cdef uint32_t *table        # hash of a sequence → slot + 1
    cdef uint32_t table_mask
    # what happened in this turn
    cdef uint8_t *notes
    cdef size_t notes_size, notes_room
    # counts
    cdef readonly uint64_t deliveries

    # for the sockets
    cdef int check(self, uint32_t k) except -1
    cdef int note(self, uint32_t kind, uint32_t k, uint32_t slot, const uint8_t *data, uint32_t size) except -1 nogil
    cdef list told(self)
    cdef int message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    # inside
    cdef int _event(self, uint32_t k, uint64_t sequence, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int64_t _slot(self, uint64_t sequence, uint64_t now) except -1 nogil
    cdef int _grow_table(self) except -1 nogil
