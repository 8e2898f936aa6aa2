"""Native WebSocket clients that remember what they received, so that millions of deliveries can be verified.

Used by bench/replay.py alone. Sockets and frames; what a frame brings is kept and compared by ext/replayheard. Python
is told of each turn in notes: what it must look at itself (welcomes, receipts, the first frame of each event in each
encoding, frames that differ) and nothing else.

Invariants: nothing is read of a connection that was abandoned; a frame that isn't whole waits until it is.
Cost: one recv for all that is ready on a socket.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

import ipaddress

from ext.c_load cimport (
    EAGAIN, EINTR, EPOLL_CLOEXEC, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, close, connect_from, epoll_create1,
    epoll_event, errno, load_be64, mask_bytes, now_ns, recv, send, socket_error, wait_ns, watch)
from ext.c_replay cimport reset_on_close, unwatch
from ext.replayheard cimport (
    NOTE_BROKEN, NOTE_CLOSED, NOTE_DIFFERS, NOTE_FIRST, NOTE_MESSAGE, NOTE_OPENED, ReplayHeard)

OPENED, MESSAGE, FIRST = <int>NOTE_OPENED, <int>NOTE_MESSAGE, <int>NOTE_FIRST
DIFFERS, CLOSED, BROKEN = <int>NOTE_DIFFERS, <int>NOTE_CLOSED, <int>NOTE_BROKEN

cdef enum:
    INPUT_BYTES = 1 << 20       # a message from the server must fit
    READY = 512                 # sockets that one epoll_wait may name
    NOTES_PAUSE_BYTES = 4 << 20 # notes after which a turn ends early
    MASKED = 0x80

# The key of the handshake is the RFC's own example, hence the answer is a constant.
cdef bytes ACCEPT_BYTES = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
cdef const uint8_t *ACCEPT = ACCEPT_BYTES
cdef bytes SWITCHING_BYTES = b"HTTP/1.1 101"
cdef const uint8_t *SWITCHING = SWITCHING_BYTES
cdef bytes TOO_LARGE_BYTES = b"a message larger than 1 MiB"
cdef bytes FRAGMENT_BYTES = b"a masked, reserved or fragmented frame"
cdef bytes NO_UPGRADE_BYTES = b"an HTTP head of more than 1 MiB"
cdef const uint8_t *TOO_LARGE = TOO_LARGE_BYTES
cdef const uint8_t *FRAGMENT = FRAGMENT_BYTES
cdef const uint8_t *NO_UPGRADE = NO_UPGRADE_BYTES


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


cdef class ReplayWire(ReplayHeard):
    def __cinit__(self, uint32_t devices_max):
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.has_epoll = True  # the other half may have raised before: 0 would be somebody's, and closed
        self.at = <Device *>calloc(devices_max, sizeof(Device))
        self.input = <uint8_t *>malloc(INPUT_BYTES)
        self.random = now_ns() | 1
        if self.at == NULL or self.input == NULL:
            raise MemoryError(f"no memory for {devices_max} devices")

    def __dealloc__(self):
        cdef uint32_t k
        if self.at != NULL:
            for k in range(self.devices_max):
                if self.at[k].life != W_NONE:
                    close(self.at[k].fd)
                free(self.at[k].rest)
                free(self.at[k].out)
        for k in range(self.deaf_count):
            close(self.deaf[k])
        free(self.at)
        free(self.input)
        free(self.deaf)
        if self.has_epoll:
            close(self.epoll_fd)

    cdef Device *_known(self, uint32_t k) except NULL:
        self.check(k)
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
        d.life, d.blocked = W_CONNECTING, 1
        self.of[device].encoding = encoding
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

    cdef int _die(self, uint32_t k, uint32_t kind, const uint8_t *data, uint32_t size) except -1 nogil:
        close(self.at[k].fd)
        self.at[k].life = W_NONE
        return self.note(kind, k, 0, data, size)

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
        self.notes_size = 0
        with nogil:  # no Python objects: devices, slots and notes are C memory of this object
            self._turn(<uint64_t>wait_us * 1000)
        return self.told()

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
        self.note(NOTE_OPENED, k, 0, NULL, 0)
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
                self.message(k, data + at + head, <uint32_t>length, now)
            elif opcode == 8:
                self._die(k, NOTE_CLOSED, data + at + head, <uint32_t>length)
                return -1
            elif opcode == 9:
                self._frame(k, 10, data + at + head, <uint32_t>length)
            at += head + <uint32_t>length
        return at
