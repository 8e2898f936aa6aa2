"""Native WebSocket clients that remember what they received, so that millions of deliveries can be verified.

Used by bench/replay.py alone. Sockets, frames, and the comparison of each delivery with the first one of the same
event are native; Python is told of each turn in notes: what it must look at itself (welcomes, receipts, the first
frame of each event in each encoding, frames that differ) and nothing else. Judging is Python's: here nothing is
dropped, mended or put in order.

Invariants: a delivery is recorded exactly when its frame is complete; slots are never reused before forget().
Cost: one recv for all that is ready on a socket, one hash look-up, one memcmp and 8 bytes per delivery.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

import ipaddress

from ext.c_load cimport (
    EAGAIN, EINTR, EPOLL_CLOEXEC, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, close, connect_from, epoll_create1,
    epoll_event, errno, load_be64, mask_bytes, now_ns, recv, send, socket_error, wait_ns, watch)
from ext.c_replay cimport reset_on_close, unwatch

OPENED, MESSAGE, FIRST = <int>NOTE_OPENED, <int>NOTE_MESSAGE, <int>NOTE_FIRST
DIFFERS, CLOSED, BROKEN = <int>NOTE_DIFFERS, <int>NOTE_CLOSED, <int>NOTE_BROKEN

cdef enum:
    INPUT_BYTES = 1 << 20       # a message from the server must fit
    READY = 512                 # sockets that one epoll_wait may name
    NOTES_PAUSE_BYTES = 4 << 20 # notes after which a turn ends early
    MASKED = 0x80
    SLOTS_FIRST = 1 << 12

# The key of the handshake is the RFC's own example, hence the answer is a constant.
cdef bytes ACCEPT_BYTES = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
cdef const uint8_t *ACCEPT = ACCEPT_BYTES
cdef bytes SWITCHING_BYTES = b"HTTP/1.1 101"
cdef const uint8_t *SWITCHING = SWITCHING_BYTES
cdef bytes JSON_EVENT_BYTES = b'{"op":"event","sequence":'
cdef const uint8_t *JSON_EVENT = JSON_EVENT_BYTES
cdef uint32_t JSON_EVENT_SIZE = 25
cdef bytes TOO_LARGE_BYTES = b"a message larger than 1 MiB"
cdef bytes FRAGMENT_BYTES = b"a masked, reserved or fragmented frame"
cdef bytes NO_UPGRADE_BYTES = b"an HTTP head of more than 1 MiB"
cdef const uint8_t *TOO_LARGE = TOO_LARGE_BYTES
cdef const uint8_t *FRAGMENT = FRAGMENT_BYTES
cdef const uint8_t *NO_UPGRADE = NO_UPGRADE_BYTES

cdef uint64_t LATE_US_MAX = <uint64_t>0xFFFFFFFF
cdef uint64_t MIX = <uint64_t>0x9E3779B9 << 32 | 0x7F4A7C15


cdef inline uint32_t place(uint64_t sequence, uint32_t mask) noexcept nogil:
    """Where the look-up of a sequence begins: pure arithmetic."""
    return <uint32_t>(sequence * MIX >> 32) & mask


cdef int keep(uint8_t **to, uint32_t *size, uint32_t *room, const uint8_t *data, uint32_t more) except -1 nogil:
    """Appends to a growing buffer."""
    cdef uint64_t wanted = <uint64_t>size[0] + more
    cdef uint8_t *moved
    if wanted > room[0]:
        if wanted > <uint64_t>1 << 30:
            with gil:
                raise MemoryError(f"a buffer of {wanted} bytes")
        wanted += wanted // 2 + 64
        moved = <uint8_t *>realloc(to[0], wanted)
        if moved == NULL:
            with gil:
                raise MemoryError(f"no memory for {wanted} bytes")
        to[0], room[0] = moved, <uint32_t>wanted
    memcpy(to[0] + size[0], data, more)
    size[0] += more
    return 0


cdef class ReplayWire:
    def __cinit__(self, uint32_t devices_max):
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)  # before anything raises: 0 would be somebody's, and closed
        if not 1 <= devices_max <= 1_000_000:
            raise ValueError(f"devices_max is {devices_max}; it must be 1 to 1,000,000")
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.devices_max = devices_max
        self.at = <Device *>calloc(devices_max, sizeof(Device))
        self.input = <uint8_t *>malloc(INPUT_BYTES)
        self.random = now_ns() | 1
        if self.at == NULL or self.input == NULL:
            raise MemoryError(f"no memory for {devices_max} devices")
        self._grow_table()

    def __dealloc__(self):
        cdef uint32_t k
        if self.at != NULL:
            for k in range(self.devices_max):
                if self.at[k].life != W_NONE:
                    close(self.at[k].fd)
                free(self.at[k].rest)
                free(self.at[k].out)
                free(self.at[k].slots)
                free(self.at[k].late_us)
        for k in range(self.slot_count):
            free(self.slots[k].frame[0])
            free(self.slots[k].frame[1])
        for k in range(self.deaf_count):
            close(self.deaf[k])
        free(self.at)
        free(self.slots)
        free(self.table)
        free(self.input)
        free(self.deaf)
        free(self.notes)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    cdef Device *_known(self, uint32_t k) except NULL:
        if k >= self.devices_max:
            raise ValueError(f"device {k} is unknown; there are {self.devices_max}")
        return &self.at[k]

    # ---- life ----------------------------------------------------------------------------------------------------

    def connect(self, uint32_t device, int encoding, str address, uint16_t port, uint32_t source, bytes upgrade):
        """Begins a connection; `upgrade` is the HTTP request. OPENED or CLOSED will tell."""
        cdef Device *d = self._known(device)
        cdef uint32_t where = int(ipaddress.IPv4Address(address))
        if d.life != W_NONE:
            raise ValueError(f"device {device} is connected already")
        if not 0 <= encoding <= 1:
            raise ValueError(f"encoding {encoding}: 0 is msgpack, 1 is JSON")
        d.fd = connect_from(source, where, port)
        if d.fd < 0:
            raise OSError(errno, f"can't connect to {address}:{port}")
        d.life, d.encoding, d.blocked = W_CONNECTING, encoding, 1
        d.generation += 1
        d.rest_size = d.out_sent = d.out_size = 0
        keep(&d.out, &d.out_size, &d.out_room, upgrade, len(upgrade))
        if watch(self.epoll_fd, d.fd, EPOLLIN | EPOLLOUT, <uint64_t>d.generation << 32 | device, 0) < 0:
            close(d.fd)
            d.life = W_NONE
            raise OSError(errno, "epoll_ctl failed")

    def close(self, uint32_t device, bint reset=False):
        """Ends a connection without a note; with `reset` the server sees RST."""
        cdef Device *d = self._known(device)
        if d.life == W_NONE:
            return
        if reset:
            reset_on_close(d.fd)
        close(d.fd)
        d.life = W_NONE

    def abandon(self, uint32_t device):
        """Leaves a connection half-open: the server hears nothing of it, and nobody reads."""
        cdef Device *d = self._known(device)
        cdef int *moved
        if d.life == W_NONE:
            return
        if self.deaf_count == self.deaf_room:
            moved = <int *>realloc(self.deaf, (self.deaf_room * 2 + 64) * sizeof(int))
            if moved == NULL:
                raise MemoryError("no memory for half-open connections")
            self.deaf, self.deaf_room = moved, self.deaf_room * 2 + 64
        unwatch(self.epoll_fd, d.fd)
        self.deaf[self.deaf_count] = d.fd
        self.deaf_count += 1
        d.life = W_NONE

    def close_abandoned(self):
        """Closes what abandon() left; how many there were."""
        cdef uint32_t k, count = self.deaf_count
        for k in range(count):
            close(self.deaf[k])
        self.deaf_count = 0
        return count

    def is_open(self, uint32_t device):
        return self._known(device).life == W_OPEN

    cdef int _note(self, uint32_t kind, uint32_t k, uint32_t slot, const uint8_t *data, uint32_t size) except -1 nogil:
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

    cdef int _die(self, uint32_t k, uint32_t kind, const uint8_t *data, uint32_t size) except -1 nogil:
        close(self.at[k].fd)
        self.at[k].life = W_NONE
        return self._note(kind, k, 0, data, size)

    # ---- sending -------------------------------------------------------------------------------------------------

    def send(self, uint32_t device, uint8_t opcode, bytes body):
        """One WebSocket message."""
        cdef Device *d = self._known(device)
        if d.life != W_OPEN:
            raise ValueError(f"device {device} is not connected")
        if not 1 <= opcode <= 10:
            raise ValueError(f"opcode {opcode}: 1 is text, 2 is binary, 8 to 10 are control frames")
        self._frame(device, opcode, body, len(body))

    def raw(self, uint32_t device, bytes data):
        """Bytes as they are: half a frame, for example."""
        if self._known(device).life != W_OPEN:
            raise ValueError(f"device {device} is not connected")
        self._send(device, data, len(data))

    cdef int _frame(self, uint32_t k, uint8_t opcode, const uint8_t *body, uint32_t size) except -1 nogil:
        cdef uint8_t head[14]
        cdef uint32_t head_size = 2, key, i
        cdef uint8_t *whole
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        key = <uint32_t>(self.random >> 16)
        head[0] = MASKED | opcode
        if size < 126:
            head[1] = MASKED | <uint8_t>size
        elif size < 65536:
            head[1], head[2], head[3] = MASKED | 126, <uint8_t>(size >> 8), <uint8_t>size
            head_size = 4
        else:
            head[1] = MASKED | 127
            for i in range(8):
                head[2 + i] = <uint8_t>(<uint64_t>size >> (56 - 8 * i))
            head_size = 10
        whole = <uint8_t *>malloc(head_size + 4 + size)
        if whole == NULL:
            with gil:
                raise MemoryError(f"no memory for a message of {size} bytes")
        memcpy(whole, head, head_size)
        memcpy(whole + head_size, &key, 4)
        if size:
            memcpy(whole + head_size + 4, body, size)
            mask_bytes(whole + head_size + 4, size, key)
        try:
            return self._send(k, whole, head_size + 4 + size)
        finally:
            free(whole)

    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil:
        cdef Device *d = &self.at[k]
        cdef ssize_t taken
        if d.out_size == d.out_sent and not d.blocked:
            taken = send(d.fd, data, size, MSG_NOSIGNAL)
            if taken == <ssize_t>size:
                return 0
            if taken < 0:
                taken = 0       # whatever it is, reading will find it too
            data += taken
            size -= <uint32_t>taken
        keep(&d.out, &d.out_size, &d.out_room, data, size)
        if not d.blocked:
            d.blocked = 1
            watch(self.epoll_fd, d.fd, EPOLLIN | EPOLLOUT, <uint64_t>d.generation << 32 | k, 1)
        return 0

    cdef int _writable(self, uint32_t k) except -1 nogil:
        cdef Device *d = &self.at[k]
        cdef ssize_t taken
        taken = send(d.fd, d.out + d.out_sent, d.out_size - d.out_sent, MSG_NOSIGNAL)
        if taken > 0:
            d.out_sent += <uint32_t>taken
        if d.out_sent == d.out_size:
            free(d.out)
            d.out = NULL
            d.out_sent = d.out_size = d.out_room = 0
            d.blocked = 0
            watch(self.epoll_fd, d.fd, EPOLLIN, <uint64_t>d.generation << 32 | k, 1)
        return 0

    # ---- receiving -----------------------------------------------------------------------------------------------

    def poll(self, uint32_t wait_us):
        """One turn: waits for sockets, reads all that are ready; the notes as (kind, device, slot, bytes)."""
        cdef NoteHead head
        cdef size_t at = 0
        self.notes_size = 0
        with nogil:  # no Python objects: devices, slots and notes are C memory of this object
            self._turn(<uint64_t>wait_us * 1000)
        found = []
        while at < self.notes_size:
            memcpy(&head, self.notes + at, sizeof(NoteHead))
            at += sizeof(NoteHead)
            found.append((head.kind, head.device, head.slot, self.notes[at:at + head.size]))
            at += head.size
        return found

    cdef int _turn(self, uint64_t wait) except -1 nogil:
        cdef epoll_event ready[READY]
        cdef int count, i, error
        cdef uint32_t k
        cdef uint32_t events
        cdef Device *d
        count = wait_ns(self.epoll_fd, ready, READY, wait)
        for i in range(count):
            k = <uint32_t>ready[i].data.u64
            events = ready[i].events
            d = &self.at[k]
            if d.life == W_NONE or d.generation != <uint32_t>(ready[i].data.u64 >> 32):
                continue
            if d.life == W_CONNECTING:
                error = socket_error(d.fd)
                if error:
                    self._die(k, NOTE_CLOSED, NULL, 0)
                    continue
                if events & EPOLLOUT == 0:
                    continue
                d.life = W_UPGRADING
            if events & EPOLLOUT:
                self._writable(k)
            if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self._readable(k)
            if self.notes_size > NOTES_PAUSE_BYTES:
                break
        return 0

    cdef int _readable(self, uint32_t k) except -1 nogil:
        cdef Device *d = &self.at[k]
        cdef ssize_t got
        cdef int64_t used
        cdef uint32_t size
        cdef uint64_t now
        if d.rest_size:
            memcpy(self.input, d.rest, d.rest_size)
        got = recv(d.fd, self.input + d.rest_size, INPUT_BYTES - d.rest_size, 0)
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if got <= 0:
            return self._die(k, NOTE_CLOSED, NULL, 0)
        now = now_ns()
        self.reads += 1
        self.bytes_in += <uint64_t>got
        size = d.rest_size + <uint32_t>got
        used = 0
        if d.life == W_UPGRADING:
            used = self._upgraded(k, self.input, size)
            if used < 0:
                return 0
        if d.life == W_OPEN:
            got = self._frames(k, self.input + used, size - <uint32_t>used, now)
            if got < 0:
                return 0
            used += got
        size -= <uint32_t>used
        if size == INPUT_BYTES:
            return self._die(k, NOTE_BROKEN, TOO_LARGE, <uint32_t>27)
        if size == 0:
            if d.rest != NULL:
                free(d.rest)
                d.rest = NULL
                d.rest_size = d.rest_room = 0
            return 0
        d.rest_size = 0
        return keep(&d.rest, &d.rest_size, &d.rest_room, self.input + used, size)

    cdef int64_t _upgraded(self, uint32_t k, const uint8_t *data, uint32_t size) except -2 nogil:
        """Bytes of the HTTP head; 0 if it is not whole, -1 if this is no upgrade."""
        cdef uint32_t i, end = 0
        cdef bint accepted = False
        for i in range(3, size):
            if data[i] == 10 and data[i - 1] == 13 and data[i - 2] == 10 and data[i - 3] == 13:
                end = i + 1
                break
        if end == 0:
            if size < INPUT_BYTES:
                return 0
            self._die(k, NOTE_BROKEN, NO_UPGRADE, 31)
            return -1
        for i in range(end - 28 if end > 28 else 0):
            if memcmp(data + i, ACCEPT, 28) == 0:
                accepted = True
                break
        if not accepted or memcmp(data, SWITCHING, 12) != 0:
            self._die(k, NOTE_BROKEN, data, end if end < 200 else 200)
            return -1
        self.at[k].life = W_OPEN
        self._note(NOTE_OPENED, k, 0, NULL, 0)
        return end

    cdef int64_t _frames(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil:
        """Bytes of the frames that were whole; -1 if the connection ended."""
        cdef uint32_t at = 0, head
        cdef uint64_t length
        cdef uint8_t opcode
        while size - at >= 2:
            opcode = data[at] & 15
            if data[at] & 0xF0 != 0x80 or data[at + 1] & MASKED:
                self._die(k, NOTE_BROKEN, FRAGMENT, 38)
                return -1
            length = data[at + 1]
            head = 2
            if length == 126:
                if size - at < 4:
                    break
                length = <uint64_t>data[at + 2] << 8 | data[at + 3]
                head = 4
            elif length == 127:
                if size - at < 10:
                    break
                length = load_be64(data + at + 2)
                head = 10
            if length > INPUT_BYTES:
                self._die(k, NOTE_BROKEN, TOO_LARGE, 27)
                return -1
            if size - at - head < length:
                break
            if opcode <= 2:
                self._message(k, data + at + head, <uint32_t>length, now)
            elif opcode == 8:
                self._die(k, NOTE_CLOSED, data + at + head, <uint32_t>length)
                return -1
            elif opcode == 9:
                self._frame(k, 10, data + at + head, <uint32_t>length)
            at += head + <uint32_t>length
        return at

    cdef int _message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        """An event in the form that both encodings fix is recorded here; everything else is Python's."""
        cdef uint64_t sequence = 0
        cdef uint32_t i
        if self.at[k].encoding == 0:
            if size >= 12 and body[0] == 0x92 and body[1] == 1 and 0x9a <= body[2] <= 0x9f and body[3] == 0xcf:
                return self._event(k, load_be64(body + 4), body, size, now)
        elif size > JSON_EVENT_SIZE + 1 and memcmp(body, JSON_EVENT, JSON_EVENT_SIZE) == 0:
            i = JSON_EVENT_SIZE
            while i < size and i < JSON_EVENT_SIZE + 17 and 48 <= body[i] <= 57:
                sequence = sequence * 10 + (body[i] - 48)
                i += 1
            if i > JSON_EVENT_SIZE and i < size and (body[i] == 44 or body[i] == 125):
                return self._event(k, sequence, body, size, now)
        return self._note(NOTE_MESSAGE, k, 0, body, size)

    def event(self, uint32_t device, uint64_t sequence, bytes frame):
        """Records an event whose frame has another form than the usual one; Python took it apart."""
        self.notes_size = 0
        self._known(device)
        self._event(device, sequence, frame, len(frame), now_ns())

    cdef int _event(self, uint32_t k, uint64_t sequence, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        cdef Device *d = &self.at[k]
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
            self._note(NOTE_FIRST, k, slot, NULL, 0)
        elif s.size[e] == size and memcmp(s.frame[e], body, size) == 0:
            s.copies[e] += 1
        else:
            self._note(NOTE_DIFFERS, k, slot, body, size)
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
        return self._known(device).position

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
        return self._known(device).count

    def received(self, uint32_t device):
        """Slots in order of arrival, and how many µs after the first delivery; 4 bytes each, in machine order."""
        cdef Device *d = self._known(device)
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
            free(self.at[k].slots)
            free(self.at[k].late_us)
            self.at[k].slots = self.at[k].late_us = NULL
            self.at[k].count = self.at[k].room = 0
        free(self.slots)
        free(self.table)
        self.slots, self.table = NULL, NULL
        self.slot_count = self.slot_room = 0
        self._grow_table()
