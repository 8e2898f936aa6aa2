# Sockets of the replay: WebSocket clients in one epoll set that keep what each device received.
#
# A device is an index into an array of C structs that does not move. An event is a slot: the frame that first brought
# it, once per encoding; every later delivery of it must have the same bytes. What a device received is a list of
# slots. One ReplayWire belongs to one thread, which is the only caller.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum Life:                 # NONE → CONNECTING → UPGRADING → OPEN → NONE, and again
    W_NONE = 0, W_CONNECTING = 1, W_UPGRADING = 2, W_OPEN = 3

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

cdef struct Device:
    # life
    int fd
    uint8_t life, encoding, blocked
    uint32_t generation
    # receiving
    uint8_t *rest               # unfinished frame, NULL when none
    uint32_t rest_size, rest_room
    uint64_t position           # highest sequence received
    # sending
    uint8_t *out                # what the kernel did not take, NULL when nothing
    uint32_t out_size, out_sent, out_room
    # what it received, in order of arrival
    uint32_t *slots
    uint32_t *late_us           # after the first delivery of the same event
    uint32_t count, room

cdef class ReplayWire:
    # devices
    cdef Device *at
    cdef uint32_t devices_max
    # events
    cdef Slot *slots
    cdef uint32_t slot_count, slot_room
    cdef uint32_t *table        # hash of a sequence → slot + 1
    cdef uint32_t table_mask
    # sockets
    cdef int epoll_fd
    cdef uint8_t *input
    cdef uint64_t random
    cdef int *deaf              # half-open connections: never read again, closed at the end
    cdef uint32_t deaf_count, deaf_room
    # what happened in this turn
    cdef uint8_t *notes
    cdef size_t notes_size, notes_room
    # counts
    cdef readonly uint64_t deliveries, reads, bytes_in

    # receiving
    cdef int _readable(self, uint32_t k) except -1 nogil
    cdef int64_t _upgraded(self, uint32_t k, const uint8_t *data, uint32_t size) except -2 nogil
    cdef int64_t _frames(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil
    cdef int _message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _event(self, uint32_t k, uint64_t sequence, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int64_t _slot(self, uint64_t sequence, uint64_t now) except -1 nogil
    cdef int _grow_table(self) except -1 nogil
    # sending
    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _frame(self, uint32_t k, uint8_t opcode, const uint8_t *body, uint32_t size) except -1 nogil
    cdef int _writable(self, uint32_t k) except -1 nogil
    # life
    cdef int _note(self, uint32_t kind, uint32_t k, uint32_t slot, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _die(self, uint32_t k, uint32_t kind, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _turn(self, uint64_t wait) except -1 nogil
    cdef Device *_known(self, uint32_t k) except NULL
