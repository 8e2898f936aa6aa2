"""The epoll loop under the load generator: sockets, frames, publishes and receipts of thousands of clients.

The native half of ext/loadgen, which prepares it and reads what it counted. One thread, no GIL while it runs, except
to look for signals every 200 ms. Frames that can't be understood are counted, and end their connection.

Invariants: a connection never has more than 64 publishes unanswered; a receipt is matched to one unanswered counter;
sequences of a connection ascend, what doesn't is counted as disordered and as nothing else.
Cost: one recv per ready socket, one send per publish or pack of publishes, no allocation per event.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport log
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from ext.c_load cimport (
    EAGAIN, EINTR, EPOLL_CLOEXEC, EPOLLIN, EPOLLOUT, close, connect_from, epoll_create1, epoll_event, errno, find_bytes,
    load_be64, now_ns, sharp_timers, socket_error, store_be64, wait_ns, watch)
from ext.loadcheck cimport (BUCKETS, EVENT_BROKEN, EVENT_CORRUPT, EVENT_OURS, WINDOW, Event, Stream, bucket_of,
    event_arrived, event_check, frame_put, has_room, stamp_put, stream_free)
from ext.loadwire cimport wire_recv, wire_send, wire_waits
from ext.tls cimport LINK_READY, tls_connect, tls_flush, tls_free

cdef enum:
    READY = 512                 # sockets that one wait may name

cdef const char *ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="   # the answer to loadgen's one nonce
cdef const char *PING = b"\x81\xa2op\xa4ping"


cdef class LoadLoop:
    def __cinit__(self, int connections_max=1):
        self.closed = False
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)  # before anything raises: 0 would be somebody's, and closed
        if not 1 <= connections_max <= 1_000_000:
            raise ValueError(f"connections_max is {connections_max}; it must be 1 to 1,000,000")
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.room = connections_max
        self.at = <Connection *>calloc(connections_max, sizeof(Connection))
        self.input = <uint8_t *>malloc(INPUT_BYTES)
        self.output = <uint8_t *>malloc(OUTPUT_BYTES)
        self.hello_ns = <uint64_t *>calloc(BUCKETS, 8)
        if self.at == NULL or self.input == NULL or self.output == NULL or self.hello_ns == NULL:
            raise MemoryError(f"no memory for {connections_max} connections")
        self.random = now_ns() | 1
        # A block of source addresses that an earlier run, still in TIME_WAIT, probably did not use.
        self.source = <uint32_t>(0x7F000000 | (16 + (self.random >> 12) % 200) << 16 | 1 + (self.random >> 24) % 250)

    def __dealloc__(self):
        cdef uint32_t k
        cdef Connection *c
        for k in range(self.used if self.at != NULL else 0):
            c = &self.at[k]
            if c.life != L_NEW and c.life != L_DEAD:
                close(c.fd)
            if c.tls != NULL:
                tls_free(c.tls)
            for block in (<uintptr_t>c.hello, <uintptr_t>c.rest, <uintptr_t>c.out, <uintptr_t>c.publish.body):
                free(<void *><uintptr_t>block)
        for k in range(self.stream_count):
            stream_free(&self.streams[k])
        for block in (<uintptr_t>self.at, <uintptr_t>self.input, <uintptr_t>self.output, <uintptr_t>self.upgrade,
                      <uintptr_t>self.hello_ns, <uintptr_t>self.receipts):
            free(<void *><uintptr_t>block)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    # ---- opening --------------------------------------------------------------------------------------------------

    cdef int _open(self, uint32_t k, uint64_t now) except -1 nogil:
        """512 connections a source address: few enough that connect finds a free port at once."""
        cdef Connection *c = &self.at[k]
        c.opened_ns = now
        c.fd = connect_from(self.source + ((k >> 9) << 8), self.address, self.port)
        if c.fd < 0:
            with gil:
                raise OSError(errno, f"connection {k} can't be opened: raise the limit of descriptors (ulimit -n)?")
        c.life = L_CONNECTING
        self.pending += 1
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
            self._note(data, head)
            return -1
        c.life = L_HELLO
        self._send(k, self.output, self._frame(self.output, 2, c.hello, c.hello_size))
        return <int>head

    cdef int _begin(self, uint32_t k) except -1 nogil:
        """Connected: the request, behind the handshake of TLS if there is one."""
        cdef Connection *c = &self.at[k]
        if c.life != L_CONNECTING:
            return 0
        if self.tls is not None and c.tls == NULL:
            c.tls = tls_connect(self.tls.context, c.fd)
            if c.tls == NULL:
                return self._die(k, 0)
        if c.tls != NULL and not c.tls.flags & LINK_READY:
            return 0
        c.life = L_UPGRADING
        return self._send(k, self.upgrade, self.upgrade_size)

    cdef int _die(self, uint32_t k, uint32_t code) except -1 nogil:
        cdef Connection *c = &self.at[k]
        if c.life == L_LIVE:
            self.live -= 1
        elif c.life != L_DEAD:
            self.pending -= 1
        c.life = L_DEAD
        self.dead += 1
        self.last_close = code
        close(c.fd)
        return 0

    cdef int _note(self, const uint8_t *text, uint32_t size) except -1 nogil:
        """What the other side said last, for the error message."""
        self.last_text_size = min(size, <uint32_t>sizeof(self.last_text))
        memcpy(self.last_text, text, self.last_text_size)
        return 0

    # ---- receiving ------------------------------------------------------------------------------------------------

    cdef int _readable(self, uint32_t k) except -1 nogil:
        cdef Connection *c = &self.at[k]
        cdef ssize_t got
        cdef int64_t used
        cdef uint32_t have, room
        while c.life != L_DEAD:
            have = c.rest_size
            room = INPUT_BYTES - have
            if have:
                memcpy(self.input, c.rest, have)
            got = wire_recv(c.fd, c.tls, self.input + have, room)
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and errno == EAGAIN:
                return self._begin(k) if c.tls != NULL else 0
            if got <= 0:
                return self._die(k, 0)
            self.reads += 1
            self.bytes_in += <uint64_t>got
            used = self._consume(k, self.input, have + <uint32_t>got, now_ns())
            if used < 0 or have + got - used == INPUT_BYTES:
                return 0 if c.life == L_DEAD else self._die(k, 1002)
            self._keep_rest(c, self.input + used, <uint32_t>(have + got - used))
            if got < room and c.tls == NULL:
                return 0
        return 0

    cdef int _keep_rest(self, Connection *c, const uint8_t *data, uint32_t size) except -1 nogil:
        if size > c.rest_room:
            self._widen(&c.rest, &c.rest_room, size)
        if size:
            memcpy(c.rest, data, size)
        c.rest_size = size
        return 0

    cdef int _widen(self, uint8_t **data, uint32_t *room, uint32_t size) except -1 nogil:
        cdef uint8_t *wider = <uint8_t *>realloc(data[0], size)
        if wider == NULL:
            with gil:
                raise MemoryError(f"no memory for {size} bytes of a connection")
        data[0], room[0] = wider, size
        return 0

    cdef int64_t _consume(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil:
        """Whole frames from the front of data; the bytes used, or -1 for a connection that has to end."""
        cdef Connection *c = &self.at[k]
        cdef uint32_t at = 0, head, length, opcode
        cdef int upgraded
        if c.life == L_UPGRADING:
            upgraded = self._upgraded(k, data, size)
            if upgraded <= 0:
                return upgraded
            at = <uint32_t>upgraded
        while size - at >= 2:
            head, length, opcode = 2, data[at + 1] & 0x7F, data[at] & 0x0F
            if data[at] & 0xF0 != 0x80 or data[at + 1] & 0x80:
                return -1
            if length == 126:
                head = 4
                if size - at < 4:
                    break
                length = data[at + 2] << 8 | data[at + 3]
            elif length == 127:
                head = 10
                if size - at < 10:
                    break
                if load_be64(data + at + 2) > INPUT_BYTES - 16:
                    return -1
                length = <uint32_t>load_be64(data + at + 2)
            if size - at < head + length:
                break
            if opcode == 2:
                self._message(k, data + at + head, length, now)
            elif opcode == 9:
                self._send(k, self.output, self._frame(self.output, 10, data + at + head, length))
            elif opcode == 8:
                self._note(data + at + head + 2, max(length, 2) - 2)
                self._die(k, data[at + head] << 8 | data[at + head + 1] if length >= 2 else 1005)
                return -1
            at += head + length
            if c.life == L_DEAD:
                return -1
        if c.stream != NO_STREAM and c.life == L_LIVE:
            self._closed_loop(k, now)
        return at

    cdef int _message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        """One server frame: [number, body]."""
        cdef Connection *c = &self.at[k]
        cdef uint32_t number
        if size < 3 or body[0] != 0x92 or body[1] >= NUMBERS:
            self.broken += 1
            return 0
        number = body[1]
        self.numbers[number] += 1
        if number == 1:
            return self._event(k, body, size, now)
        if number == 2:
            return self._receipt(k, body, size, now)
        if number == 7:
            return self._note(body, size)
        if number == 16 and c.life == L_HELLO:
            c.life = L_LIVE
            self.pending -= 1
            self.live += 1
            self.hello_ns[bucket_of(now - c.opened_ns)] += 1
        return 0

    cdef int _event(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        cdef Connection *c = &self.at[k]
        cdef Stream *s
        cdef Event event
        cdef int arrived, verdict = event_check(self.streams, self.stream_count, body, size, &event)
        self.events += 1
        if verdict == EVENT_BROKEN:
            self.broken += 1
            return 0
        if event.sequence <= c.last_sequence:
            self.disordered += 1
            return 0
        c.last_sequence = event.sequence
        c.events += 1
        if verdict == EVENT_OURS:
            s = &self.streams[event.stream]
            arrived = event_arrived(s, &event, body, size)
            if arrived != 2:
                s.deliveries += 1
                s.deliver_ns[bucket_of(now - event.intended_ns if now > event.intended_ns else 0)] += 1
                return self._broadcast(s, now) if arrived == 1 and not s.interval_ns else 0
            verdict = EVENT_CORRUPT
        if verdict == EVENT_CORRUPT:
            self.streams[event.stream].corrupted += 1
        self.others += verdict != EVENT_CORRUPT
        return 0

    cdef int _receipt(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        """[2, [counter, status, …]]: matched to what is unanswered."""
        cdef Connection *c = &self.at[k]
        cdef Stream *s
        cdef uint32_t bucket
        cdef uint64_t counter, slot
        if size < 13 + 1 or body[2] != 0x97 or body[3] != 0xCF or body[12] & 0xE0 != 0xA0 or size < 13 + (
                body[12] & 31) + 18:
            self.broken += 1
            return 0
        counter = load_be64(body + 4)
        slot = counter & (WINDOW - 1)
        if counter > c.counter or counter + WINDOW <= c.counter or not c.intended_ns[slot]:
            self.unmatched += 1
            return 0
        c.unanswered -= 1
        if c.command_bits >> slot & 1:
            c.command_bits &= ~(<uint64_t>1 << slot)
            c.intended_ns[slot] = 0
            self.commands_open -= 1
            return self._keep_receipt(k, body, size)
        s = &self.streams[c.stream]
        bucket = bucket_of(now - c.intended_ns[slot] if now > c.intended_ns[slot] else 0)
        if body[12] == 0xA8 and memcmp(body + 13, b"appended", 8) == 0:
            s.receipts += 1
            s.receipt_ns[bucket] += 1
        else:
            s.refused += 1
            s.refused_ns[bucket] += 1
            self._note(body + 13, body[12] & 31)
        c.intended_ns[slot] = 0
        return self._broadcast(s, now) if s.broadcast and not s.interval_ns else 0

    cdef int _keep_receipt(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil:
        cdef Receipt *r
        cdef uint32_t status = body[12] & 31
        if self.receipt_count == self.receipt_room:
            self.receipt_room = self.receipt_room * 2 if self.receipt_room else 256
            r = <Receipt *>realloc(self.receipts, self.receipt_room * sizeof(Receipt))
            if r == NULL:
                with gil:
                    raise MemoryError(f"no memory for {self.receipt_room} receipts")
            self.receipts = r
        r = &self.receipts[self.receipt_count]
        r.connection, r.counter, r.status_size = k, load_be64(body + 4), <uint8_t>status
        memcpy(r.status, body + 13, status)
        r.conversation = load_be64(body + 13 + status + 1)
        r.sequence = load_be64(body + 13 + status + 10)
        self.receipt_count += 1
        return 0

    # ---- sending --------------------------------------------------------------------------------------------------

    cdef uint32_t _frame(self, uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size) noexcept nogil:
        """A masked client frame; its size. Masks need to differ, not to be secret: xorshift."""
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return frame_put(to, opcode, body, size, <uint32_t>(self.random >> 16))

    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil:
        """Sends, or keeps what the kernel does not take."""
        cdef Connection *c = &self.at[k]
        cdef ssize_t sent = 0
        if c.life == L_DEAD:
            return 0
        if not c.out_size:
            sent = wire_send(c.fd, c.tls, data, size)
            self.sends += 1
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return 0  # the reading side learns why
                sent = 0
            if sent == <ssize_t>size:
                return watch(self.epoll_fd, c.fd, EPOLLIN | EPOLLOUT, k, 1) if wire_waits(c.tls) else 0
        if c.out_size + size - sent > c.out_room:
            self._widen(&c.out, &c.out_room, c.out_size + size)
        memcpy(c.out + c.out_size, data + sent, size - sent)
        c.out_size += size - <uint32_t>sent
        return watch(self.epoll_fd, c.fd, EPOLLIN | EPOLLOUT, k, 1)

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
        return 0 if c.out_size or wire_waits(c.tls) else watch(self.epoll_fd, c.fd, EPOLLIN, k, 1)

    cdef int _publish(self, uint32_t k, uint32_t count, uint64_t intended_ns) except -1 nogil:
        """`count` publishes in one send."""
        cdef Connection *c = &self.at[k]
        cdef Stream *s = &self.streams[c.stream]
        cdef uint32_t i, at = 0
        for i in range(count):
            c.counter += 1
            s.sent += 1
            c.unanswered += 1
            c.intended_ns[c.counter & (WINDOW - 1)] = intended_ns
            store_be64(c.publish.body + c.publish.counter_at, c.counter)
            stamp_put(c.publish.body + c.publish.payload_at, c.stream, k, <uint32_t>c.counter, s.sent, intended_ns)
            at += self._frame(self.output + at, 2, c.publish.body, c.publish.size)
        return self._send(k, self.output, at)

    cdef int _closed_loop(self, uint32_t k, uint64_t now) except -1 nogil:
        """Answers have come: as many publishes again as fill the window, in packs."""
        cdef Connection *c = &self.at[k]
        cdef Stream *s = &self.streams[c.stream]
        if not self.publishing or s.interval_ns or s.broadcast or c.life != L_LIVE:
            return 0
        while has_room(c.intended_ns, c.counter, c.unanswered, s) and (not s.limit or s.sent + s.per_send <= s.limit):
            self._publish(k, s.per_send, now)
        return 0

    cdef int _broadcast(self, Stream *s, uint64_t now) except -1 nogil:
        """Everybody has one more event: its place in flight is free."""
        cdef uint32_t k
        if not self.publishing or not s.publishers:
            return 0
        k = s.publisher_at[0]
        while (s.sent - s.completed + s.per_send <= s.in_flight and self.at[k].unanswered + s.per_send <= WINDOW
                and (not s.limit or s.sent + s.per_send <= s.limit) and self.at[k].life == L_LIVE):
            self._publish(k, s.per_send, now)
        return 0

    cdef int _paced(self, Stream *s, uint64_t now) except -1 nogil:
        """Open loop: what is due goes out by whoever is free, with the time at which it was due."""
        cdef uint32_t i, k
        cdef Connection *c
        while s.due_ns <= now and s.publishers and (not s.limit or s.sent < s.limit):
            for i in range(s.publishers):
                s.turn = s.turn + 1 if s.turn + 1 < s.publishers else 0
                k = s.publisher_at[s.turn]
                c = &self.at[k]
                if c.life == L_LIVE and has_room(c.intended_ns, c.counter, c.unanswered, s):
                    break
            else:
                return 0
            self._publish(k, s.per_send, s.due_ns)
            s.late_ns[bucket_of(now - s.due_ns)] += s.per_send
            # Poisson arrivals; the random state has just been moved on by the frame's mask.
            s.due_ns += <uint64_t>(-log(((self.random >> 11) + 1) * 1.1102230246251565e-16) * s.interval_ns)
        return 0

    cdef int _ping(self, uint64_t now) except -1 nogil:
        """Pings of all connections, spread over the interval."""
        cdef uint32_t k
        while self.ping_interval_ns and self.ping_due_ns <= now and self.used:
            k = self.ping_next
            if self.at[k].life == L_LIVE:
                self._send(k, self.output, self._frame(self.output, 2, <const uint8_t *>PING, 9))
            self.ping_next = k + 1 if k + 1 < self.used else 0
            self.ping_due_ns += self.ping_interval_ns // self.used + 1
        return 0

    # ---- the loop -------------------------------------------------------------------------------------------------

    cdef int _step(self, uint64_t timeout_ns) except -1 nogil:
        cdef epoll_event ready[READY]
        cdef uint32_t k
        cdef int i
        for i in range(wait_ns(self.epoll_fd, ready, READY, timeout_ns)):
            k = <uint32_t>ready[i].data.u64
            if ready[i].events & EPOLLOUT and self.at[k].life != L_DEAD:
                self._writable(k)
            if ready[i].events & ~EPOLLOUT and self.at[k].life != L_DEAD:
                self._readable(k)
        return 0

    cdef bint _settled(self) noexcept nogil:
        cdef uint32_t i
        cdef Stream *s
        if self.commands_open:
            return False
        for i in range(self.stream_count):
            s = &self.streams[i]
            if s.receipts + s.refused < s.sent or s.deliveries + s.corrupted < s.receipts * s.recipients:
                return False
            if self.publishing and (not s.limit or s.sent + s.per_send <= s.limit):
                return False
        return True

    cdef int _turn(self, uint64_t until_ns, bint until_settled) except -1 nogil:
        """Turns until the time is over, or until nothing is open and nothing more is to come."""
        cdef uint64_t now, next_ns
        cdef uint32_t i
        cdef Stream *s
        while True:
            now = now_ns()
            if now >= until_ns or (until_settled and self._settled()):
                return 0
            next_ns = until_ns
            for i in range(self.stream_count if self.publishing else 0):
                s = &self.streams[i]
                if s.interval_ns:
                    self._paced(s, now)
                    if s.due_ns > now and s.due_ns < next_ns:
                        next_ns = s.due_ns
            if self.ping_interval_ns:
                self._ping(now)
                next_ns = min(next_ns, self.ping_due_ns)
            now = now_ns()
            self._step(next_ns - now if next_ns > now else 0)

    cdef int _start(self, uint32_t stream) except -1:
        cdef Stream *s = &self.streams[stream]
        cdef uint32_t i
        if s.broadcast and not s.interval_ns:
            return self._broadcast(s, now_ns())
        for i in range(s.publishers):
            self._closed_loop(s.publisher_at[i], now_ns())
        return 0

    cdef int _run(self, uint64_t until_ns, bint until_settled) except -1:
        cdef uint64_t slice_ns
        sharp_timers()
        while now_ns() < until_ns and not (until_settled and self._settled()):
            slice_ns = min(until_ns, now_ns() + SLICE_NS)
            with nogil:  # no Python objects: the arrays belong to self, which the caller holds
                self._turn(slice_ns, until_settled)
            PyErr_CheckSignals()
        return 0
