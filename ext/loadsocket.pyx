"""Sockets of the load generator: connecting, shaking hands, hello, sending, leaving and coming back.

Below ext/loadpublish, which decides what is sent, and ext/loadloop, which receives. A connection that left keeps its
position, its counter and what is unanswered; it says hello with that position, and resumes. Positions are of one shard.

Invariants: a connection is counted in exactly one of new, pending, live, away and dead; those away come back in the
order in which they left, so many at a time as may be pending. Cost: one send for what is sent together.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from ext.c_load cimport (
    EAGAIN, EINTR, EPOLL_CLOEXEC, EPOLLIN, EPOLLOUT, close, connect_from, epoll_create1, errno, find_bytes, now_ns,
    socket_error, store_be64, watch)
from ext.c_slow cimport receive_buffer
from ext.loadcheck cimport frame_put, stream_free
from ext.loadhdr cimport HDR_COUNTS
from ext.loadheard cimport heard_free
from ext.loadwire cimport wire_send, wire_waits, wire_widen
from ext.tls cimport LINK_READY, tls_connect, tls_flush, tls_free

cdef enum:
    SLOW_BUFFER_BYTES = 4096    # receive buffer of a slow connection, before the kernel doubles it
    AGAIN_NS = 200000000        # pause of a connection that could not come back
    RESUME_BYTES_MAX = 64       # what a resume adds to a hello
    LOOPBACK = 127              # the first byte of addresses whose every source address is this machine's

cdef const char *ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="   # the answer to loadgen's one nonce
# The end of a map: positions: [{shard: 0, epoch: …, sequence: …}], both numbers behind it.
cdef const char *POSITIONS = b"\xa9positions\x91\x83\xa5shard\x00\xa5epoch\xcf"
cdef const char *SEQUENCE = b"\xa8sequence\xcf"


cdef class LoadSockets:
    def __cinit__(self, int connections_max=1):
        self.closed = False
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)  # before anything raises: 0 would be somebody's, and closed
        if not 1 <= connections_max <= 1_000_000:
            raise ValueError(f"connections_max is {connections_max}; it must be 1 to 1,000,000")
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.room, self.pending_max = connections_max, 256
        self.at = <Connection *>calloc(connections_max, sizeof(Connection))
        self.input = <uint8_t *>malloc(INPUT_BYTES)
        self.output = <uint8_t *>malloc(OUTPUT_BYTES)
        self.scratch = <uint8_t *>malloc(COMMAND_BYTES_MAX)
        self.away = <uint32_t *>malloc(connections_max * sizeof(uint32_t))
        self.away_due_ns = <uint64_t *>malloc(connections_max * sizeof(uint64_t))
        self.resume_ns = <uint64_t *>calloc(HDR_COUNTS, 8)
        for block in (<uintptr_t>self.at, <uintptr_t>self.input, <uintptr_t>self.output, <uintptr_t>self.scratch,
                      <uintptr_t>self.away, <uintptr_t>self.away_due_ns, <uintptr_t>self.resume_ns):
            if not block:
                raise MemoryError(f"no memory for {connections_max} connections")
        self.random = now_ns() | 1
        # A block of source addresses that an earlier run, still in TIME_WAIT, probably did not use.
        self.source = <uint32_t>(0x7F000000 | (16 + (self.random >> 12) % 200) << 16 | 1 + (self.random >> 24) % 250)

    def __dealloc__(self):
        cdef uint32_t k
        cdef Connection *c
        for k in range(self.used if self.at != NULL else 0):
            c = &self.at[k]
            if c.life != L_NEW and c.life != L_DEAD and c.life != L_AWAY:
                close(c.fd)
            if c.tls != NULL:
                tls_free(c.tls)
            heard_free(&c.heard)
            for block in (<uintptr_t>c.hello, <uintptr_t>c.rest, <uintptr_t>c.out, <uintptr_t>c.slots):
                free(<void *><uintptr_t>block)
        for k in range(self.stream_count):
            stream_free(&self.streams[k])
        for block in (<uintptr_t>self.at, <uintptr_t>self.input, <uintptr_t>self.output, <uintptr_t>self.scratch,
                      <uintptr_t>self.upgrade, <uintptr_t>self.away, <uintptr_t>self.away_due_ns,
                      <uintptr_t>self.resume_ns):
            free(<void *><uintptr_t>block)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    # ---- opening --------------------------------------------------------------------------------------------------

    cdef int _open(self, uint32_t k, uint64_t now) except -1 nogil:
        """512 connections a source address on loopback: few enough that connect finds a free port at once.

        To another machine the system chooses the address and port: as many connections as it has ports.
        """
        cdef Connection *c = &self.at[k]
        cdef uint32_t source = self.source + ((k >> 9) << 8) if self.address >> 24 == LOOPBACK else 0
        c.opened_ns = now
        c.fd = connect_from(source, self.address, self.port)
        if c.fd < 0:
            with gil:
                raise OSError(errno, f"connection {k} can't be opened: raise the limit of descriptors (ulimit -n)?")
        if c.slow:
            receive_buffer(c.fd, SLOW_BUFFER_BYTES)
        c.life = L_CONNECTING
        self.pending += 1
        self.connects += 1
        return watch(self.epoll_fd, c.fd, EPOLLIN | EPOLLOUT, k, 0)

    cdef int _upgraded(self, uint32_t k, const uint8_t *data, uint32_t size) except -2 nogil:
        """Bytes of the HTTP answer, once it is whole (else 0); then the hello goes out."""
        cdef Connection *c = &self.at[k]
        cdef const uint8_t *end = find_bytes(data, size, b"\r\n\r\n", 4)
        cdef uint32_t head
        if end == NULL:
            return 0
        head = <uint32_t>(end - data) + 4
        if head < 16 or memcmp(data, b"HTTP/1.1 101", 12) != 0 or find_bytes(data, head, ACCEPT, 28) == NULL:
            end = find_bytes(data, head, b"\r\n", 2)
            self._note(data, <uint32_t>(end - data))  # the status; headers say nothing
            if self.comes_again and head >= 16 and memcmp(data, b"HTTP/1.1 503", 12) == 0:
                self.retried += 1
                self._leave(k, now_ns(), AGAIN_NS)
            return -1
        c.life = L_HELLO
        c.hello_ns = now_ns()
        self._say_hello(k)
        return <int>head

    cdef int _say_hello(self, uint32_t k) except -1 nogil:
        """As it was given; of one that has been live before, with its position as one more key of the map."""
        cdef Connection *c = &self.at[k]
        cdef uint32_t at = c.hello_size
        if not c.resumes or not self.epoch or c.hello[0] & 0xF0 != 0x80 or at + RESUME_BYTES_MAX > COMMAND_BYTES_MAX:
            return self._send(k, self.output, self._frame(self.output, 2, c.hello, c.hello_size))
        memcpy(self.scratch, c.hello, at)
        self.scratch[0] += 1
        memcpy(self.scratch + at, POSITIONS, 26)
        store_be64(self.scratch + at + 26, self.epoch)
        memcpy(self.scratch + at + 34, SEQUENCE, 10)
        store_be64(self.scratch + at + 44, c.last_sequence)
        return self._send(k, self.output, self._frame(self.output, 2, self.scratch, at + 52))

    cdef int _begin(self, uint32_t k) except -1 nogil:
        """Connected: the request, behind the handshake of TLS if there is one."""
        cdef Connection *c = &self.at[k]
        if c.life != L_CONNECTING:
            return 0
        if self.tls is not None and c.tls == NULL:
            c.tls = tls_connect(self.tls, c.fd)
            if c.tls == NULL:
                return self._die(k, 0)
        if c.tls != NULL and not c.tls.flags & LINK_READY:
            return 0
        c.life = L_UPGRADING
        return self._send(k, self.upgrade, self.upgrade_size)

    cdef int _die(self, uint32_t k, uint32_t code) except -1 nogil:
        """The other side has ended it; where that was to be expected, it comes back."""
        cdef Connection *c = &self.at[k]
        self.last_close = code
        if self.breaks_expected or c.resumes and c.life != L_LIVE:
            return self._leave(k, now_ns(), self.away_ns if c.life == L_LIVE else <uint64_t>AGAIN_NS)
        if c.life == L_LIVE:
            self.live -= 1
        elif c.life != L_DEAD:
            self.pending -= 1
        c.life = L_DEAD
        self.dead += 1
        close(c.fd)
        return 0

    cdef int _note(self, const uint8_t *text, uint32_t size) except -1 nogil:
        """What the other side said last, for the error message."""
        self.last_text_size = min(size, <uint32_t>sizeof(self.last_text))
        memcpy(self.last_text, text, self.last_text_size)
        return 0

    # ---- away and back --------------------------------------------------------------------------------------------

    cdef int _leave(self, uint32_t k, uint64_t now, uint64_t away_ns) except -1 nogil:
        """Closes at once, without a word, and is due to come back."""
        cdef Connection *c = &self.at[k]
        cdef uint32_t at = (self.away_from + self.away_count) % self.room
        if c.life == L_LIVE:
            self.live -= 1
            self.dropped += 1
            c.resumes = 1
        else:
            self.pending -= 1
        close(c.fd)
        if c.tls != NULL:
            tls_free(c.tls)
            c.tls = NULL
        c.life = L_AWAY
        c.rest_size = c.out_size = c.out_sent = 0
        self.away[at] = k
        self.away_due_ns[at] = now + away_ns
        self.away_count += 1
        return 0

    cdef int _return(self, uint64_t now) except -1 nogil:
        """Opens what is due, as long as few enough are pending."""
        cdef uint32_t k
        while self.away_count and self.pending < self.pending_max and self.away_due_ns[self.away_from] <= now:
            k = self.away[self.away_from]
            self.away_from = (self.away_from + 1) % self.room
            self.away_count -= 1
            self.reopened += 1
            self.back_from_ns = self.back_from_ns or now
            self._open(k, now)
        return 0

    # ---- sending --------------------------------------------------------------------------------------------------

    cdef uint32_t _frame(self, uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size) noexcept nogil:
        """A masked client frame; its size. Masks need to differ, not to be secret: xorshift."""
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return frame_put(to, opcode, body, size, <uint32_t>(self.random >> 16))

    cdef uint32_t _looks_for(self, const Connection *c) noexcept nogil:
        """Input, but of a slow reader who is live: that one looks by its clock."""
        return 0 if c.slow and self.slow_bytes_per_s and c.life == L_LIVE else EPOLLIN

    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil:
        """Sends, or keeps what the kernel does not take."""
        cdef Connection *c = &self.at[k]
        cdef ssize_t sent = 0
        if c.life == L_DEAD or c.life == L_AWAY:
            return 0
        if not c.out_size:
            sent = wire_send(c.fd, c.tls, data, size)
            self.sends += 1
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return 0  # the reading side learns why
                sent = 0
            if sent == <ssize_t>size:
                return watch(self.epoll_fd, c.fd, self._looks_for(c) | EPOLLOUT, k, 1) if wire_waits(c.tls) else 0
        if c.out_size + size - sent > c.out_room:
            wire_widen(&c.out, &c.out_room, c.out_size + size)
        memcpy(c.out + c.out_size, data + sent, size - sent)
        c.out_size += size - <uint32_t>sent
        return watch(self.epoll_fd, c.fd, self._looks_for(c) | EPOLLOUT, k, 1)

    cdef int _writable(self, uint32_t k) except -1 nogil:
        cdef Connection *c = &self.at[k]
        cdef ssize_t sent
        cdef int error
        if c.life == L_CONNECTING:
            error = socket_error(c.fd)
            if error:
                return self._die(k, error)
            self._begin(k)
        elif c.tls != NULL and tls_flush(c.tls) < 1:
            return 0
        elif c.out_size:
            sent = wire_send(c.fd, c.tls, c.out + c.out_sent, c.out_size - c.out_sent)
            self.sends += 1
            c.out_sent += <uint32_t>max(sent, 0)
            if c.out_sent < c.out_size:
                return 0
            c.out_size = c.out_sent = 0
        if c.out_size or wire_waits(c.tls):
            return 0
        return watch(self.epoll_fd, c.fd, self._looks_for(c), k, 1)
