"""The epoll loop under the clients of other servers: sockets, packs, answers and payloads of thousands of connections.

The native half of ext/peerload, which prepares it and reads what it counted. One thread, no GIL while it runs, except
to look for signals every 200 ms. What is published is a pack that Python made; here it is stamped and sent. What comes
back is compared byte for byte with what was sent under its index, and must ascend on each connection.

Invariants: a publisher has one pack under way in a closed loop; a message counts as delivered once a connection.
Cost: one recv per ready socket, one send per pack, one comparison and no allocation per message.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport log
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from ext.c_load cimport (
    EAGAIN, EINTR, EPOLL_CLOEXEC, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, close, connect_from, epoll_create1, epoll_event,
    errno, now_ns, recv, send, sharp_timers, socket_error, wait_ns, watch)
from ext.loadwire cimport wire_keep, wire_widen
from ext.peerread cimport (
    K_ANSWER, K_NAME, K_PAYLOAD, K_PING, K_REFUSED, K_WORDS, P_JSON, P_NATS, P_RESP, STAMP, Reading, Token, hex16,
    hex16_put, token_next)

cdef enum:
    READY = 512                 # sockets that one wait may name

cdef const char *NATS_PONG = b"PONG\r\n"
cdef const char *JSON_PONG = b"\x81\x82\x00\x00\x00\x00{}"   # a frame masked with zeros


cdef class PeerLoop:
    def __cinit__(self, int protocol, uint32_t payload_bytes, uint32_t connections_max, *unused, **others):
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)  # before anything raises: 0 would be somebody's, and closed
        if not 1 <= connections_max <= 1_000_000:
            raise ValueError(f"connections_max is {connections_max}; it must be 1 to 1,000,000")
        if not STAMP <= payload_bytes <= 4096:
            raise ValueError(f"payload_bytes is {payload_bytes}; it must be {STAMP} to 4096")
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.protocol, self.payload_bytes, self.room = protocol, payload_bytes, connections_max
        self.at = <Peer *>calloc(connections_max, sizeof(Peer))
        self.input = <uint8_t *>malloc(INPUT_BYTES)
        self.fill = <uint8_t *>malloc(payload_bytes)
        self.sent_at = <Message *>calloc(SENT, sizeof(Message))
        self.sent_bytes = <uint8_t *>malloc(<size_t>SENT * payload_bytes)
        if self.at == NULL or self.input == NULL or self.fill == NULL or self.sent_at == NULL or self.sent_bytes == NULL:
            raise MemoryError(f"no memory for {connections_max} connections")
        self.random = now_ns() | 1
        # A block of source addresses that an earlier run, still in TIME_WAIT, probably did not use.
        self.source = <uint32_t>(0x7F000000 | (16 + (self.random >> 12) % 200) << 16 | 1 + (self.random >> 24) % 250)

    def __dealloc__(self):
        cdef uint32_t k
        cdef Peer *c
        for k in range(self.used if self.at != NULL else 0):
            c = &self.at[k]
            if c.life != S_NEW and c.life != S_DEAD:
                close(c.fd)
            for block in (<uintptr_t>c.opening, <uintptr_t>c.rest, <uintptr_t>c.again, <uintptr_t>c.out,
                          <uintptr_t>c.pack.data, <uintptr_t>c.pack.payload_at, <uintptr_t>c.pack.number_at):
                free(<void *><uintptr_t>block)
        for block in (<uintptr_t>self.at, <uintptr_t>self.input, <uintptr_t>self.fill, <uintptr_t>self.sent_at,
                      <uintptr_t>self.sent_bytes, <uintptr_t>self.publisher_at, <uintptr_t>self.waits.ns,
                      <uintptr_t>self.late.ns):
            free(<void *><uintptr_t>block)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    # ---- opening --------------------------------------------------------------------------------------------------

    cdef int _open(self, uint32_t k) except -1 nogil:
        """512 connections a source address: few enough that connect finds a free port at once."""
        cdef Peer *c = &self.at[k]
        c.fd = connect_from(self.source + ((k >> 9) << 8), self.address, self.port)
        if c.fd < 0:
            with gil:
                raise OSError(errno, f"connection {k} can't be opened: raise the limit of descriptors (ulimit -n)?")
        c.life = S_CONNECTING
        self.pending += 1
        return watch(self.epoll_fd, c.fd, EPOLLIN | EPOLLOUT, k, 0)

    cdef int _begin(self, uint32_t k) except -1 nogil:
        """Connected, or all that was asked so far is answered: the next part of the opening, or live."""
        cdef Peer *c = &self.at[k]
        if c.life == S_CONNECTING:
            c.life = S_OPENING
            c.owed = c.first_answers
            if c.first_size:
                self._send(k, c.opening, c.first_size)
            if c.owed:
                return 0
        if c.first_size < c.opening_size:
            c.owed = c.answers
            self._send(k, c.opening + c.first_size, c.opening_size - c.first_size)
            c.first_size = c.opening_size
            if c.owed:
                return 0
        c.life = S_LIVE
        self.pending -= 1
        self.live += 1
        return 0

    cdef int _die(self, uint32_t k) except -1 nogil:
        """A connection that ends while something is measured ends the measurement: it could only be smaller."""
        cdef Peer *c = &self.at[k]
        if c.life == S_LIVE:
            self.live -= 1
        elif c.life != S_DEAD:
            self.pending -= 1
        c.life = S_DEAD
        c.owed = 0
        self.dead += 1
        self.publishing = False
        close(c.fd)
        return 0

    cdef int _note(self, const uint8_t *text, uint32_t size) except -1 nogil:
        """What the other side said last, for the error message."""
        self.last_text_size = min(size, <uint32_t>sizeof(self.last_text))
        memcpy(self.last_text, text, self.last_text_size)
        return 0

    # ---- receiving ------------------------------------------------------------------------------------------------

    cdef int _readable(self, uint32_t k) except -1 nogil:
        cdef Peer *c = &self.at[k]
        cdef ssize_t got
        cdef int64_t used
        cdef uint32_t have, room
        while c.life != S_DEAD:
            have = c.rest_size
            room = INPUT_BYTES - have
            if have:
                memcpy(self.input, c.rest, have)
            got = recv(c.fd, self.input + have, room, 0)
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and errno == EAGAIN:
                return 0
            if got <= 0:
                return self._die(k)
            self.reads += 1
            self.bytes_in += <uint64_t>got
            used = self._consume(k, self.input, have + <uint32_t>got, now_ns())
            if used < 0 or have + got - used == INPUT_BYTES:
                self.broken += c.life != S_DEAD
                return 0 if c.life == S_DEAD else self._die(k)
            wire_keep(&c.rest, &c.rest_size, &c.rest_room, self.input + used, <uint32_t>(have + got - used))
            if got < room:
                return 0
        return 0

    cdef int64_t _consume(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil:
        """Whole tokens from the front of data; the bytes used, or -1 for a connection that has to end."""
        cdef Peer *c = &self.at[k]
        cdef Token token
        cdef int64_t used = 0, one
        while True:
            one = token_next(self.protocol, &c.reading, data + used, size - <uint32_t>used, &token)
            if one <= 0:
                return used if one == 0 else -1
            self._token(k, data + used, &token, now)
            if c.life == S_DEAD:
                return -1
            used += one

    cdef int _token(self, uint32_t k, const uint8_t *data, const Token *t, uint64_t now) except -1 nogil:
        cdef Peer *c = &self.at[k]
        if t.kind == K_PAYLOAD:
            self._payload(k, data + t.at, t.size, now)
        elif t.kind == K_ANSWER:
            self._answer(k, False, now)
        elif t.kind == K_REFUSED or t.kind == K_WORDS:
            self._note(data + t.at, t.size)
            if t.kind == K_REFUSED and self.protocol != P_RESP:
                self._answer(k, True, now)
            elif t.kind == K_REFUSED and not t.ends:
                self.refused += 1           # one of a transaction's
        elif t.kind == K_PING:
            if self.protocol == P_NATS:
                self._send(k, <const uint8_t *>NATS_PONG, 6)
            elif self.protocol == P_JSON:
                self._send(k, <const uint8_t *>JSON_PONG, 8)
        elif t.kind == K_NAME and t.size > 2 and c.again_named:
            c.name_size = min(t.size, <uint32_t>NAME_BYTES)
            memcpy(c.name, data + t.at, c.name_size)
        if t.ends:
            self._answer(k, t.kind == K_REFUSED, now)
            if c.again_size and not c.again_every:
                self._follow_up(k)
        return 0

    cdef int _answer(self, uint32_t k, bint refused, uint64_t now) except -1 nogil:
        """One thing less that this connection waits for; with the last one the next step follows."""
        cdef Peer *c = &self.at[k]
        if refused:
            self.refused += 1
            if c.life == S_OPENING:
                return self._die(k)
        if not c.owed:
            return 0
        c.owed -= 1
        if c.owed:
            return 0
        if c.life == S_OPENING:
            return self._begin(k)
        if not c.pack.size or not c.intended_ns:
            return 0
        self.answered += c.pack.messages
        self.progress_ns = max(self.progress_ns, now)
        if not self.recipients:
            if self.measuring:
                self._sample(&self.waits, now - c.intended_ns)
            if self.publishing and not self.interval_ns:
                c.intended_ns = 0
                return self._publish(k, now)
        c.intended_ns = 0
        return 0

    cdef int _payload(self, uint32_t k, const uint8_t *payload, uint32_t size, uint64_t now) except -1 nogil:
        """One message: mostly the next one, as it was sent."""
        cdef Peer *c = &self.at[k]
        cdef uint64_t index = c.last_index + 1
        cdef const Message *message = &self.sent_at[index & (SENT - 1)]
        if size != self.payload_bytes:
            self.corrupted += 1
            return 0
        if not self.remembers:
            if memcmp(payload + STAMP, self.fill, size - STAMP) != 0:
                self.corrupted += 1
            elif hex16(payload + 4) != index:
                self.disordered += 1
            else:
                self.deliveries += 1
            c.last_index = max(c.last_index, hex16(payload + 4))
            return self._count_up(k)
        if message.index != index or memcmp(
                payload, self.sent_bytes + (index & (SENT - 1)) * self.payload_bytes, size) != 0:
            index = hex16(payload + 4)
            message = &self.sent_at[index & (SENT - 1)]
            if message.index != index or memcmp(
                    payload, self.sent_bytes + (index & (SENT - 1)) * self.payload_bytes, size) != 0:
                self.corrupted += 1
                return 0
        if c.follows != NOBODY and message.publisher != c.follows:
            self.strays += 1
            return 0
        if index <= c.last_index:
            self.disordered += 1
            return 0
        if index <= self.given_up_to and self.given_up:
            self.given_up -= 1              # late and not lost
        c.last_index = index
        c.deliveries += 1
        self.deliveries += 1
        if self.measuring and self.interval_ns:
            self._sample(&self.waits, now - message.intended_ns if now > message.intended_ns else 0)
        return self._count_up(k)

    cdef int _count_up(self, uint32_t k) except -1 nogil:
        """One message of those after which it asks for more."""
        cdef Peer *c = &self.at[k]
        c.again_have += 1
        if c.again_every and c.again_have == c.again_every:
            c.again_have = 0
            return self._follow_up(k)
        return 0

    cdef int _follow_up(self, uint32_t k) except -1 nogil:
        """Asks for more: from behind the name that came last, where the protocol wants it said."""
        cdef Peer *c = &self.at[k]
        cdef uint8_t text[AGAIN_BYTES_MAX + NAME_BYTES + 8]
        cdef uint32_t at = c.again_size
        if not c.again_named:
            return self._send(k, c.again, c.again_size)
        if not c.name_size:
            return 0
        memcpy(text, c.again, at)
        text[at] = 36                       # $size CR LF name CR LF
        text[at + 1], text[at + 2], text[at + 3] = 48 + c.name_size // 10, 48 + c.name_size % 10, 13
        text[at + 4] = 10
        memcpy(text + at + 5, c.name, c.name_size)
        at += 5 + c.name_size
        text[at], text[at + 1] = 13, 10
        return self._send(k, text, at + 2)

    cdef int _sample(self, Samples *to, uint64_t ns) except -1 nogil:
        cdef uint64_t *wider
        if to.count == to.room:
            if to.room == SAMPLES_MAX:
                return 0                    # the first two million speak for the rest
            to.room = to.room * 2 if to.room else 4096
            wider = <uint64_t *>realloc(to.ns, to.room * sizeof(uint64_t))
            if wider == NULL:
                with gil:
                    raise MemoryError(f"no memory for {to.room} samples")
            to.ns = wider
        to.ns[to.count] = ns
        to.count += 1
        return 0

    # ---- sending --------------------------------------------------------------------------------------------------

    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil:
        """Sends, or keeps what the kernel does not take."""
        cdef Peer *c = &self.at[k]
        cdef ssize_t sent = 0
        if c.life == S_DEAD:
            return 0
        if not c.out_size:
            sent = send(c.fd, data, size, MSG_NOSIGNAL)
            self.sends += 1
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return 0                # the reading side learns why
                sent = 0
            if sent == <ssize_t>size:
                return 0
        if c.out_size + size - sent > c.out_room:
            wire_widen(&c.out, &c.out_room, c.out_size + size)
        memcpy(c.out + c.out_size, data + sent, size - sent)
        c.out_size += size - <uint32_t>sent
        return watch(self.epoll_fd, c.fd, EPOLLIN | EPOLLOUT, k, 1)

    cdef int _writable(self, uint32_t k) except -1 nogil:
        cdef Peer *c = &self.at[k]
        cdef ssize_t sent
        if c.life == S_CONNECTING:
            if socket_error(c.fd):
                return self._die(k)
            self._begin(k)
        elif c.out_size:
            sent = send(c.fd, c.out + c.out_sent, c.out_size - c.out_sent, MSG_NOSIGNAL)
            self.sends += 1
            c.out_sent += <uint32_t>max(sent, 0)
            if c.out_sent < c.out_size:
                return 0
            c.out_size = c.out_sent = 0
        return 0 if c.out_size or c.life == S_DEAD else watch(self.epoll_fd, c.fd, EPOLLIN, k, 1)

    cdef int _publish(self, uint32_t k, uint64_t intended_ns) except -1 nogil:
        """One pack in one send."""
        cdef Peer *c = &self.at[k]
        cdef uint8_t *payload
        cdef uint32_t i
        if self.limit and self.sent + c.pack.messages > self.limit:
            self.publishing = False
            return 0
        self.packs += 1
        for i in range(c.pack.numbers):
            hex16_put(c.pack.data + c.pack.number_at[i], self.packs)
        for i in range(c.pack.messages):
            payload = c.pack.data + c.pack.payload_at[i]
            self.sent += 1
            hex16_put(payload + 4, self.sent)
            hex16_put(payload + 20, intended_ns)
            if self.recipients:
                self._remember(k, payload, intended_ns)
        c.owed += c.pack.answers
        c.intended_ns = intended_ns
        return self._send(k, c.pack.data, c.pack.size)

    cdef int _remember(self, uint32_t k, const uint8_t *payload, uint64_t intended_ns) except -1 nogil:
        cdef uint64_t slot = self.sent & (SENT - 1)
        self.sent_at[slot].index, self.sent_at[slot].publisher = self.sent, k
        self.sent_at[slot].intended_ns = intended_ns
        memcpy(self.sent_bytes + slot * self.payload_bytes, payload, self.payload_bytes)
        return 0

    cdef int _closed_loop(self, uint64_t now) except -1 nogil:
        """Everybody has the last pack, or what is missing is given up: the next one."""
        cdef uint32_t k = self.publisher_at[0]
        cdef uint64_t due = self.sent * self.recipients
        if self.deliveries + self.given_up < due or self.at[k].owed:
            if now - self.progress_ns < self.stall_ns:
                return 0
            self.given_up, self.given_up_to = due - self.deliveries, self.sent
            self.progress_ns = now
        if self.at[k].life == S_LIVE:
            self._publish(k, now)
        return 0

    cdef int _paced(self, uint64_t now) except -1 nogil:
        """Open loop: what is due goes out, with the time at which it was due; publishers take turns."""
        cdef uint32_t k
        while self.due_ns <= now:
            k = self.publisher_at[self.turn]
            self.turn = self.turn + 1 if self.turn + 1 < self.publishers else 0
            self._publish(k, self.due_ns)
            if self.measuring:
                self._sample(&self.late, now - self.due_ns)
            self.random ^= self.random << 13
            self.random ^= self.random >> 7
            self.random ^= self.random << 17
            # Poisson arrivals.
            self.due_ns += <uint64_t>(-log(((self.random >> 11) + 1) * 1.1102230246251565e-16) * self.interval_ns)
        return 0

    # ---- the loop -------------------------------------------------------------------------------------------------

    cdef int _step(self, uint64_t timeout_ns) except -1 nogil:
        cdef epoll_event ready[READY]
        cdef uint32_t k
        cdef uint64_t before = self.deliveries
        cdef int i
        for i in range(wait_ns(self.epoll_fd, ready, READY, timeout_ns)):
            k = <uint32_t>ready[i].data.u64
            if ready[i].events & EPOLLOUT and self.at[k].life != S_DEAD:
                self._writable(k)
            if ready[i].events & ~EPOLLOUT and self.at[k].life != S_DEAD:
                self._readable(k)
        if self.deliveries != before:
            self.progress_ns = now_ns()
        return 0

    cdef bint _settled(self) noexcept nogil:
        """Everything that was sent is answered and delivered, or given up."""
        cdef uint32_t i
        if self.publishing:
            return False
        if now_ns() - self.progress_ns > self.stall_ns:
            return True                     # what hasn't come by now is lost
        if self.deliveries + self.given_up < self.sent * self.recipients:
            return False
        for i in range(self.publishers):
            if self.at[self.publisher_at[i]].owed:
                return False
        return True

    cdef int _turn(self, uint64_t until_ns, uint64_t wanted, bint until_settled) except -1 nogil:
        """Turns until the time is over, so much was delivered, nothing is open, or a connection has ended."""
        cdef uint64_t now, next_ns
        while True:
            now = now_ns()
            if now >= until_ns or (until_settled and self._settled()) or self.dead:
                return 0
            if wanted and self.deliveries + self.corrupted + self.disordered >= wanted:
                return 0
            next_ns = until_ns
            if self.publishing and self.interval_ns:
                self._paced(now)
                next_ns = min(until_ns, self.due_ns)
            elif self.publishing and self.recipients:
                self._closed_loop(now)
                if not self.publishing:
                    continue                # that was the last pack: perhaps all is settled
                next_ns = min(until_ns, self.progress_ns + self.stall_ns)
            elif until_settled and not self.publishing:
                next_ns = min(until_ns, self.progress_ns + self.stall_ns)
            now = now_ns()
            self._step(min(next_ns - now, <uint64_t>SLICE_NS) if next_ns > now else 0)

    cdef int _look(self, uint64_t until_ns) except -1 nogil:
        """Reads what has come already. The last delivery settles a run, and a double that the server sent before it
        may lie unread on another connection."""
        cdef uint64_t seen = self.bytes_in + 1
        while self.bytes_in != seen and not self.dead and now_ns() < until_ns:
            seen = self.bytes_in
            self._step(0)
        return 0

    cdef int _run(self, uint64_t until_ns, uint64_t wanted, bint until_settled) except -1:
        cdef uint64_t slice_ns, now
        sharp_timers()
        while True:
            now = now_ns()
            if now >= until_ns or self.dead or (until_settled and self._settled()):
                return 0
            if wanted and self.deliveries + self.corrupted + self.disordered >= wanted:
                return 0
            slice_ns = min(until_ns, now + SLICE_NS)
            with nogil:  # no Python objects: the arrays belong to self, which the caller holds
                self._turn(slice_ns, wanted, until_settled)
            PyErr_CheckSignals()
