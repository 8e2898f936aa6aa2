"""Bare limits for `gonets bench publish` and `gonets bench fanout`: what the kernel and the disk allow.

Publishes: one loop reads the frames, gathers those that come while the last group syncs, hands the group to a
committing thread (LMDB through py-lmdb, as the log does it) and answers each with a receipt of the real size. The next
group starts before the receipts of the last one leave. Fan-out: a C loop of one `send` a socket, with all events that
have gathered. Handshakes, hellos, tokens, members, numbering and checks are left out: frames are read as far as their
length, receipts count, events are a template with a number. Cost: what is measured.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset, strlen

from ext.c_load cimport (
    EAGAIN, EFD_CLOEXEC, EPOLL_CLOEXEC, EPOLLIN, MSG_NOSIGNAL, accept_next, await_writable, close, epoll_create1,
    epoll_event, errno, eventfd, find_bytes, mask_bytes, read, recv, send, store_be64, wait_ns, watch, write)
from ext.loadwire cimport wire_keep

cdef enum:
    INPUT_BYTES = 1 << 20
    FRESH = 64                  # events of one send
    RECEIPT_BYTES = 68          # [2, [counter, "appended", conversation, sequence, conversation sequence, time, 0]]
    RECEIPTS = 256              # of one peer in one send
    KEY_LISTEN = 0xFFFFFFFF
    KEY_SYNCED = 0xFFFFFFFE

cdef const char *UPGRADED = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                             b"Sec-WebSocket-Protocol: gonets.v1.msgpack\r\n\r\n")


cdef inline void put_int(uint8_t *at, uint64_t value) noexcept nogil:
    at[0] = 0xCF
    store_be64(at + 1, value)


cdef void put_receipt(uint8_t *to, uint64_t counter, uint64_t sequence) noexcept nogil:
    cdef uint32_t i
    to[0], to[1], to[2], to[3], to[4] = 0x82, RECEIPT_BYTES - 2, 0x92, 0x02, 0x97
    put_int(to + 5, counter)
    to[14] = 0xA8
    memcpy(to + 15, b"appended", 8)
    for i in range(5):
        put_int(to + 23 + 9 * i, sequence)


cdef class BareServer:
    def __cinit__(self, int listen_fd, bytes welcome, *, int connections_max=20_000, uint32_t payload_bytes=0):
        cdef uint32_t i
        self.epoll_fd = self.given_fd = self.synced_fd = -1  # 0 would be somebody's, and closed
        if payload_bytes and not 64 <= payload_bytes <= 4096:
            raise ValueError(f"payload_bytes is {payload_bytes}; it must be 0 (commit publishes) or 64 to 4096")
        self.listen_fd, self.room, self.payload_bytes = listen_fd, connections_max, payload_bytes
        self.welcome, self.welcome_data, self.welcome_size = welcome, welcome, len(welcome)
        self.frame_bytes = 4 + 2 + 75 + 7 + 5 + payload_bytes
        self.publisher = KEY_LISTEN
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.given_fd = eventfd(0, EFD_CLOEXEC)
        self.synced_fd = eventfd(0, EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.given_fd < 0 or self.synced_fd < 0:
            raise OSError(errno, "no descriptors for a bare server")
        self.at = <Peer *>calloc(connections_max, sizeof(Peer))
        self.input = <uint8_t *>malloc(INPUT_BYTES)
        self.output = <uint8_t *>malloc(RECEIPTS * RECEIPT_BYTES)
        self.fresh_frames = <uint8_t *>malloc(FRESH * self.frame_bytes)
        if self.at == NULL or self.input == NULL or self.output == NULL or self.fresh_frames == NULL:
            raise MemoryError(f"no memory for {connections_max} connections")
        for i in range(2):
            self.groups[i].room, self.groups[i].owed_room = 1 << 20, 1 << 14
            self.groups[i].data = <uint8_t *>malloc(self.groups[i].room)
            self.groups[i].owed = <Owed *>malloc(self.groups[i].owed_room * sizeof(Owed))
            if self.groups[i].data == NULL or self.groups[i].owed == NULL:
                raise MemoryError("no memory for a group")

    def __dealloc__(self):
        cdef uint32_t k
        for k in range(self.used if self.at != NULL else 0):
            if self.at[k].life != B_GONE:
                close(self.at[k].fd)
            free(self.at[k].rest)
        for k in range(2):
            free(self.groups[k].data)
            free(self.groups[k].owed)
        free(self.at)
        free(self.input)
        free(self.output)
        free(self.fresh_frames)
        for fd in (self.epoll_fd, self.given_fd, self.synced_fd):
            if fd >= 0:
                close(fd)

    # ---- what the two threads call --------------------------------------------------------------------------------

    def serve(self):
        """Until stop()."""
        watch(self.epoll_fd, self.listen_fd, EPOLLIN, KEY_LISTEN, 0)
        watch(self.epoll_fd, self.synced_fd, EPOLLIN, KEY_SYNCED, 0)
        with nogil:  # no Python objects: self is held by the caller, welcome by self
            self._loop()

    def take(self):
        """The next group to commit, valid until synced(); None after stop()."""
        cdef uint64_t one
        cdef Group *g
        with nogil:  # no Python objects: waits on a descriptor of self
            read(self.given_fd, &one, 8)
        if self.stopping:
            return None
        g = &self.groups[self.gathering ^ 1]
        return PyMemoryView_FromMemory(<char *>g.data, g.size, PyBUF_READ)

    def synced(self):
        """What take() gave is on disk: the loop may answer it."""
        cdef uint64_t one = 1
        write(self.synced_fd, &one, 8)

    def stop(self):
        cdef uint64_t one = 1
        self.stopping = True
        write(self.given_fd, &one, 8)
        write(self.synced_fd, &one, 8)

    # ---- the loop -------------------------------------------------------------------------------------------------

    cdef int _loop(self) except -1 nogil:
        cdef epoll_event ready[512]
        cdef int i, count
        cdef uint64_t key, one
        cdef Group *done
        while not self.stopping:
            count = wait_ns(self.epoll_fd, ready, 512, 1_000_000_000)
            done = NULL
            for i in range(count):
                key = ready[i].data.u64
                if key == KEY_LISTEN:
                    self._accept()
                elif key == KEY_SYNCED:
                    read(self.synced_fd, &one, 8)
                    self.committing = False
                    done = &self.groups[self.gathering ^ 1]
                else:
                    self._readable(<uint32_t>key)
            if self.groups[self.gathering].size and not self.committing:
                self._give()
            if done != NULL:
                self._answer(done)
            if self.fresh:
                self._fan_out()
        return 0

    cdef int _accept(self) except -1 nogil:
        cdef int fd
        if self.open == 0 and not self.committing and self.groups[self.gathering].size == 0:
            self._forget()  # a run is over: the next one gets the same places, and no walk past the last one's
        while self.used < self.room:
            fd = accept_next(self.listen_fd)
            if fd < 0:
                return 0
            memset(&self.at[self.used], 0, sizeof(Peer))
            self.at[self.used].fd = fd
            watch(self.epoll_fd, fd, EPOLLIN, self.used, 0)
            self.used += 1
            self.open += 1
        return 0

    cdef void _forget(self) noexcept nogil:
        cdef uint32_t k
        for k in range(self.used):
            free(self.at[k].rest)
        self.used = 0

    cdef int _gone(self, uint32_t k) except -1 nogil:
        if self.at[k].life != B_GONE:
            self.at[k].life = B_GONE
            self.open -= 1
            close(self.at[k].fd)
        return 0

    cdef int _whole(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil:
        """Sends all of it, waiting for a receiver that is behind."""
        cdef ssize_t sent
        cdef uint32_t at = 0
        while at < size and self.at[k].life != B_GONE:
            sent = send(self.at[k].fd, data + at, size - at, MSG_NOSIGNAL)
            if sent >= 0:
                at += <uint32_t>sent
            elif errno == EAGAIN:
                await_writable(self.at[k].fd)
            else:
                self._gone(k)
        return 0

    # ---- receiving ------------------------------------------------------------------------------------------------

    cdef int _readable(self, uint32_t k) except -1 nogil:
        cdef Peer *p = &self.at[k]
        cdef uint32_t have = p.rest_size
        cdef ssize_t got
        cdef int used
        if p.life == B_GONE:
            return 0
        if have:
            memcpy(self.input, p.rest, have)
        got = recv(p.fd, self.input + have, INPUT_BYTES - have, 0)
        if got < 0 and errno == EAGAIN:
            return 0
        if got <= 0:
            return self._gone(k)
        used = self._consume(k, self.input, have + <uint32_t>got)
        if used < 0:
            return self._gone(k)
        return wire_keep(&p.rest, &p.rest_size, &p.rest_room, self.input + used, have + <uint32_t>got - <uint32_t>used)

    cdef int _consume(self, uint32_t k, uint8_t *data, uint32_t size) except -2 nogil:
        """Whole frames from the front; the bytes used, or -1 at a goodbye."""
        cdef Peer *p = &self.at[k]
        cdef const uint8_t *end
        cdef uint32_t at = 0, length, head, first, count = 0
        if p.life == B_UPGRADING:
            end = find_bytes(data, size, b"\r\n\r\n", 4)
            if end == NULL:
                return 0
            at = <uint32_t>(end - data) + 4
            p.life = B_HELLO
            self._whole(k, <const uint8_t *>UPGRADED, <uint32_t>strlen(UPGRADED))
        first = at
        while size - at >= 4:  # even the shortest masked frame has six
            length, head = data[at + 1] & 0x7F, 6
            if length == 126:
                length, head = data[at + 2] << 8 | data[at + 3], 8
            if size - at < head + length:
                break
            if data[at] & 0x0F == 8:
                return -1
            at += head + length
            if p.life == B_HELLO:
                p.life = B_OPEN
                first = at
                self._whole(k, self.welcome_data, self.welcome_size)
            elif self.payload_bytes:
                self._event(k, data + at - head - length, head + length)
            else:
                count += 1
        if count:
            self._gather(k, data + first, at - first, count)
        return <int>at

    # ---- publishes ------------------------------------------------------------------------------------------------

    cdef int _gather(self, uint32_t k, const uint8_t *frames, uint32_t size, uint32_t count) except -1 nogil:
        cdef Group *g = &self.groups[self.gathering]
        cdef Owed *owed
        if g.size + size > g.room or g.owed_count == g.owed_room:
            while g.size + size > g.room:
                g.room *= 2
            g.owed_room *= 2
            g.data = <uint8_t *>realloc(g.data, g.room)
            g.owed = <Owed *>realloc(g.owed, g.owed_room * sizeof(Owed))
            if g.data == NULL or g.owed == NULL:
                with gil:
                    raise MemoryError(f"no memory for a group of {g.room} bytes")
        memcpy(g.data + g.size, frames, size)
        g.size += size
        owed = &g.owed[g.owed_count]
        g.owed_count += 1
        owed.peer, owed.count, owed.first = k, count, self.at[k].counter + 1
        self.at[k].counter += count
        return 0

    cdef int _give(self) except -1 nogil:
        """What has gathered goes to the committer."""
        cdef uint64_t one = 1
        self.gathering ^= 1
        self.committing = True
        self.commits += 1
        return -1 if write(self.given_fd, &one, 8) != 8 else 0

    cdef int _answer(self, Group *g) except -1 nogil:
        """Receipts of a synced group, one send for what a peer sent together; the next group syncs meanwhile, and
        what arrives after this call gathers where the answered one was."""
        cdef Owed *owed
        cdef uint32_t i, j, at
        for i in range(g.owed_count):
            owed = &g.owed[i]
            at = 0
            for j in range(owed.count):
                self.sequence += 1
                put_receipt(self.output + at, owed.first + j, self.sequence)
                at += RECEIPT_BYTES
                if at == RECEIPTS * RECEIPT_BYTES:
                    self._whole(owed.peer, self.output, at)
                    at = 0
            self._whole(owed.peer, self.output, at)
            self.publishes += owed.count
        g.size = g.owed_count = 0
        return 0

    # ---- fan-out --------------------------------------------------------------------------------------------------

    cdef int _event(self, uint32_t k, const uint8_t *frame, uint32_t size) except -1 nogil:
        """The event frame of one publish, whose payload is the end of its frame."""
        cdef uint8_t *to
        cdef uint8_t *r
        cdef uint32_t i, key = 0, room = self.payload_bytes
        cdef uint32_t head = 4 if frame[1] & 0x7F == 126 else 2
        cdef uint32_t shift
        if size < head + 4 + room:
            return 0
        if self.fresh == FRESH:
            self._fan_out()
        self.sequence += 1
        self.at[k].counter += 1
        self.publisher = k
        to = self.fresh_frames + <size_t>self.fresh * self.frame_bytes
        to[0], to[1], to[2], to[3] = 0x82, 126, (self.frame_bytes - 4) >> 8, (self.frame_bytes - 4) & 0xFF
        to[4], to[5], to[6] = 0x92, 0x01, 0x9A
        r = to + 6
        for i in range(8):
            put_int(r + 1 + 9 * i, self.sequence)
        store_be64(r + 2 + 9 * 7, self.at[k].counter)
        r[73], r[74] = 0xD9, 7
        memcpy(r + 75, b"message", 7)
        r[82], r[83], r[84], r[85], r[86] = 0xC6, 0, 0, room >> 8, room & 0xFF
        memcpy(r + 87, frame + size - room, room)
        # The mask runs from the frame's own payload, so it has to be turned to where ours begins.
        shift = (size - room - head - 4) & 3
        for i in range(4):
            (<uint8_t *>&key)[i] = frame[head + ((i + shift) & 3)]
        mask_bytes(r + 87, room, key)
        self.fresh += 1
        return 0

    cdef int _fan_out(self) except -1 nogil:
        """One send a socket; the publisher gets its receipts in a second one."""
        cdef uint32_t i, k, size = self.fresh * self.frame_bytes, receipts = self.fresh * RECEIPT_BYTES
        for i in range(self.fresh):
            put_receipt(self.output + i * RECEIPT_BYTES, self.at[self.publisher].counter - self.fresh + 1 + i,
                        self.sequence)
        for k in range(self.used):
            if self.at[k].life == B_OPEN:
                if k == self.publisher:
                    self._whole(k, self.output, receipts)
                self._whole(k, self.fresh_frames, size)
                self.deliveries += self.fresh
        self.fresh = 0
        return 0
