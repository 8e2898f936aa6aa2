# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What sessions send: from bytes of a ready socket to proposals, signals, pongs, and messages for Python.

Between ext/sockets (whose sockets are ready) and ext/gathered (what the round brings). One recv a turn into one shared
buffer, every frame in it judged at once; ext/handshake, ext/frames and ext/commands say what the bytes are.

The order rule: what a session sent in order is taken in order. A message given to Python (cold: hello too) has a
number; while Python has not handled it, the session's later messages are cold as well and wait behind it, and so does
its end, by a close frame or a broken one. The queue of cold messages is one for all sessions and handled in order, so
one number says how far it is.

Invariants: a session that is closing sends nothing that counts; before hello only hello is heard; memory of a session
is its incomplete message (frame_bytes_max), and answers to what it may send at once.
Cost: one recv, one pass over the bytes, no allocation for whole frames.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from ext.c_memory cimport pages_map, pages_unmap
from ext.c_socket cimport EAGAIN, EINTR, MSG_DONTWAIT, MSG_PEEK, c_recv, errno
from ext.commands cimport (
    C_COLD, C_DELIVERED, C_HELLO, C_PING, C_PUBLISH, C_READ, C_REFUSED, C_TYPING, N_ID, PROPOSAL_HEAD_BYTES,
    STATUS_BAD_COUNTER, STATUS_BAD_ID, STATUS_OVERLOADED, STATUS_RATE_LIMITED, STATUS_TOO_MANY_UNANSWERED, Command,
    command_read, proposal_put)
from ext.closes cimport CLOSE_ABUSE, CLOSE_BAD_COMMAND, CLOSE_UNSUPPORTED
from ext.frames cimport (
    FR_BINARY, FR_BROKEN, FR_CLOSE, FR_MORE, FR_PING, FR_PONG, FR_TEXT, SERVER_HEAD_BYTES_MAX, Found,
    FrameState, frame_next, server_head_put)
from ext.gathered cimport SIGNAL_DELIVERED, SIGNAL_READ, SIGNAL_TYPING, Gathered
from ext.handshake cimport (
    HANDSHAKE_ANSWER_BYTES_MAX, HS_MORE, HS_REQUEST, HS_UPGRADE, Handshake, busy_answer, handshake_answer,
    handshake_read)
from ext.proxied cimport PROXIED_BYTES_MAX, PX_BAD, PX_MORE, Proxied, proxied_read
from ext.receipts cimport (
    PUSH_FRAME_BYTES_MAX, RECEIPT_FRAME_BYTES_MAX, Answer, hello_first_put, pong_put, rate_limited_put, receipt_put)
from ext.secured cimport Secured
from ext.session_table cimport (
    E_JSON, E_MSGPACK, F_BLOCKED, F_CLOSE_SEEN, F_CLOSE_SENT, F_HELLO, F_NO_READ, F_PINGED, F_PROXIED, F_REFUSE,
    F_REQUEST, F_SHUT, S_CLOSING, S_HANDSHAKE, S_LIVE, S_OPEN, TLS_AWAITED, Session)
from ext.sockets cimport OUT_HELD_BYTES, Sockets
from ext.tls cimport BARREN_MAX, LINK_BARREN, LINK_BROKEN, LINK_ENDED, TAKE_BYTES_MAX

cdef enum:
    HEAD_ROOM_BYTES_MIN = 512
    REFUSED_MOST = 0xFFFF

cdef const char *PATH = b"/v1"


cdef class Inbound:
    def __cinit__(self, Sockets sockets not None, Gathered gathered not None, uint32_t frame_bytes_max,
                  uint32_t handshake_bytes_max, uint32_t rate_per_s, uint32_t rate_burst, uint32_t unanswered_max,
                  bint any_client):
        if not (1 <= rate_per_s <= 1_000_000 and 1 <= rate_burst <= 1_000_000 and 1 <= unanswered_max <= 64):
            raise ValueError(f"rate_per_s = {rate_per_s} and rate_burst = {rate_burst} must be 1 to 1000000,"
                             f" unanswered_max = {unanswered_max} 1 to 64")
        self.sockets = sockets
        self.gathered = gathered
        self.secured = Secured(sockets)
        self.sessions = sockets.sessions
        self.at = sockets.at
        self.frame_bytes_max = frame_bytes_max
        self.handshake_bytes_max = handshake_bytes_max
        self.rate_per_s = rate_per_s
        self.rate_milli_max = rate_burst * 1000
        self.refused_max = min(rate_burst * ABUSE_BURSTS, <uint32_t>REFUSED_MOST)
        self.unanswered_max = unanswered_max
        self.any_client = any_client
        self.buffer = <uint8_t *>pages_map(RECEIVE_BYTES)
        self.held = <uint64_t *>pages_map(<size_t>self.sessions.room * 8)
        self.ending = <uint64_t *>pages_map(<size_t>self.sessions.room * 8)
        if self.buffer == NULL or self.held == NULL or self.ending == NULL:
            raise MemoryError(f"no memory to read from {self.sessions.room} sessions")

    def __dealloc__(self):
        pages_unmap(self.buffer, RECEIVE_BYTES)
        if self.held != NULL:
            pages_unmap(self.held, <size_t>self.sessions.room * 8)
        if self.ending != NULL:
            pages_unmap(self.ending, <size_t>self.sessions.room * 8)

    # bytes

    cdef int receive(self, uint32_t index) except -1 nogil:
        """One turn of a session whose socket is readable."""
        cdef Session *s = &self.at[index]
        cdef uint8_t *room = self.buffer if s.tls == NULL else self.secured.ciphertext
        cdef ssize_t got
        cdef uint64_t shed = self.shed_publishes
        if s.flags & F_PROXIED and not self._proxied(index):
            return 0
        if self.gathered.waiting_bytes > COLD_WAITING_BYTES_MOST:
            self._hold(index)
            return 0
        got = c_recv(s.fd, room, RECEIVE_BYTES if s.tls == NULL else TAKE_BYTES_MAX, MSG_DONTWAIT)
        if got <= 0:
            if got == 0 or errno != EAGAIN and errno != EINTR:
                self.sockets.drop(index, False)
            return 0
        s.heard_ms = <uint32_t>self.sockets.now_ms
        s.flags &= ~F_PINGED
        if s.flags & (F_SHUT | F_CLOSE_SEEN):
            return 0  # thrown away
        if s.tls != NULL:
            got = self.secured.take(index, <size_t>got, self.busy or s.flags & F_REFUSE, self.buffer, RECEIVE_BYTES)
        self.received_bytes += <uint64_t>got
        if got == 0:
            pass
        elif s.state != S_HANDSHAKE:
            self._frames(index, self.buffer, <size_t>got)
        elif not s.flags & F_CLOSE_SENT:
            self._handshake(index, <size_t>got)
        if <size_t>s.tls > TLS_AWAITED and (s.tls.barren or s.tls.flags & (LINK_ENDED | LINK_BROKEN)):
            self._judge_link(index)
        if self.shed_publishes != shed and s.fd >= 0 and not s.flags & F_BLOCKED:
            return self.sockets.send_out(index)  # refusals don't wait behind what others are sent
        self.sockets.hold_if_full(index)
        return 0

    cdef int _proxied(self, uint32_t index) except -1 nogil:
        """Takes the PROXY header off the socket, and no byte behind it; 1 once it is whole."""
        cdef Session *s = &self.at[index]
        cdef uint8_t header[PROXIED_BYTES_MAX]
        cdef Proxied found
        cdef uint32_t kept = s.in_size
        cdef ssize_t got = c_recv(s.fd, header + kept, PROXIED_BYTES_MAX - kept, MSG_DONTWAIT | MSG_PEEK)
        cdef int verdict
        if got <= 0:
            if got == 0 or errno != EAGAIN and errno != EINTR:
                self.sockets.drop(index, False)
            return 0
        if kept:
            memcpy(header, s.in_data, kept)
        verdict = proxied_read(header, kept + <size_t>got, &found)
        if verdict == PX_BAD:
            self.bad_proxied += 1
            self.sockets.drop(index, True)
            return 0
        if verdict == PX_MORE:
            c_recv(s.fd, self.buffer, <size_t>got, MSG_DONTWAIT)
            self._keep(s, header + kept, <size_t>got)
            return 0
        c_recv(s.fd, self.buffer, found.size - kept, MSG_DONTWAIT)
        free(s.in_data)
        s.in_data = NULL
        s.in_size = s.in_room = 0
        s.flags &= ~F_PROXIED
        if found.family:
            self.sockets.arrived(index, found.address)
        return s.fd >= 0

    cdef int _judge_link(self, uint32_t index) except -1 nogil:
        """What TLS itself has brought: its end, or records that cost time and are nothing to us; these count as
        commands over the rate do, and from a client that has not been upgraded none but a few are taken."""
        cdef Session *s = &self.at[index]
        cdef uint32_t i
        cdef bint upgraded = S_OPEN <= s.state <= S_LIVE
        cdef bint barren = s.tls.flags & LINK_BARREN
        if s.tls.flags & (LINK_ENDED | LINK_BROKEN):
            self.sockets.drop(index, False)
            return 0
        for i in range(s.tls.barren):
            if not upgraded or self._over_rate(s):
                self.rate_limited += 1
                s.refused += 1
        if upgraded and (barren or s.refused >= self.refused_max):
            s.flags |= F_CLOSE_SEEN  # nothing more is heard of it
            self.sockets.end_named(index, CLOSE_ABUSE)
        elif not upgraded and (barren or s.refused > BARREN_MAX):
            self.sockets.drop(index, False)
        return 0

    cdef int _handshake(self, uint32_t index, size_t got) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint8_t *data = self.buffer
        cdef uint8_t *kept
        cdef size_t looked = s.in_size, size = looked + got
        cdef Handshake found
        cdef int verdict
        if looked:
            self._keep(s, data, got)
            data = s.in_data
        verdict = handshake_read(data, size, looked, self.handshake_bytes_max, <const uint8_t *>PATH, 3,
                                 self.any_client, &found)
        if verdict == HS_MORE:
            return 0 if looked else self._keep(s, data, got)
        kept = s.in_data
        s.in_data = NULL  # frames begin with nothing pending
        s.in_size = s.in_room = 0
        self._verdict(index, verdict, &found, data, size)
        free(kept)
        return 0

    cdef int _keep(self, Session *s, const uint8_t *data, size_t size) except -1 nogil:
        """Keeps bytes of a head that is not complete."""
        cdef size_t needed = s.in_size + size
        cdef void *moved
        if needed > s.in_room:
            needed = max(needed, <size_t>HEAD_ROOM_BYTES_MIN)
            moved = realloc(s.in_data, needed)
            if moved == NULL:
                with gil:
                    raise MemoryError(f"no memory for {needed} bytes of a head")
            s.in_data = <uint8_t *>moved
            s.in_room = <uint32_t>needed
        memcpy(s.in_data + s.in_size, data, size)
        s.in_size += <uint32_t>size
        return 0

    cdef int _verdict(self, uint32_t index, int verdict, Handshake *found, uint8_t *data, size_t size) except -1 nogil:
        """A head that is complete or can't become one; what lies behind it are frames already."""
        cdef Session *s = &self.at[index]
        cdef uint8_t answer[HANDSHAKE_ANSWER_BYTES_MAX]
        cdef size_t head = found.head_size
        if verdict == HS_REQUEST:
            s.flags |= F_REQUEST | F_NO_READ
            self.sessions.set_events(index)
            return self.gathered.add_message(&self.gathered.requests, index, data, head, False)
        if verdict != HS_UPGRADE:
            self.sockets.refused += 1
            return self.sockets.end_http(index, answer, handshake_answer(found, answer))
        if s.flags & F_REFUSE or self.refusing or self.busy:
            self.sockets.refused += 1
            self.shed_connections += self.busy and not self.refusing
            return self.sockets.end_http(index, answer, busy_answer(
                self.sockets.spread(BUSY_RETRY_S),
                b"this server takes no sessions now" if self.refusing or self.busy
                else b"all places are taken; try again later", answer))
        s.encoding = E_MSGPACK if self.any_client else found.encoding
        s.state = S_OPEN
        s.rate_tokens_milli = <int>self.rate_milli_max
        s.rate_at_ms = <uint32_t>self.sockets.now_ms
        self.sockets.accepted += 1
        self.sockets.send_now(index, answer, handshake_answer(found, answer))
        if s.fd >= 0 and size > head:
            self._frames(index, data + head, size - head)
        return 0

    cdef int _frames(self, uint32_t index, uint8_t *data, size_t size) except -1 nogil:
        """Every frame that these bytes complete."""
        cdef Session *s = &self.at[index]
        cdef uint8_t *end = data + size
        cdef Found found
        cdef int kind
        while s.fd >= 0:
            kind = frame_next(<FrameState **>&s.in_data, &s.in_room, &data, end, self.frame_bytes_max, &found)
            if kind == FR_MORE:
                return 0
            if kind == FR_CLOSE or kind == FR_BROKEN:
                return self._last(index, kind, found.code)
            if s.state == S_CLOSING:
                continue  # only its close frame is waited for
            if (kind == FR_PING or kind == FR_PONG) and self._over_rate(s):  # a flood of them is as dear as one of commands
                self.rate_limited += 1
                s.refused += 1
                if s.refused >= self.refused_max:
                    self.sockets.end_named(index, CLOSE_ABUSE)
                continue
            if kind == FR_PING:
                self._ping(index, &found)
            elif kind == FR_TEXT or kind == FR_BINARY:
                self.received_messages += 1
                if self.any_client:
                    self._cold(index, found.data, found.size, kind == FR_TEXT)
                elif (kind == FR_TEXT) != (s.encoding == E_JSON):
                    self.sockets.end_named(index, CLOSE_UNSUPPORTED)
                else:
                    self._message(index, found.data, found.size)
        return 0

    cdef int _ping(self, uint32_t index, const Found *found) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint8_t *to
        cdef size_t head
        if s.out_size - s.out_sent > OUT_HELD_BYTES:
            return 0  # the next one is answered, if it reads by then
        to = self.sessions.out_reserve(s, SERVER_HEAD_BYTES_MAX + found.size)
        head = server_head_put(to, FR_PONG, found.size)
        memcpy(to + head, found.data, found.size)
        s.out_size += <uint32_t>(head + found.size)
        self.sessions.mark_dirty(index, True)
        return 0

    cdef int _last(self, uint32_t index, int kind, uint16_t code) except -1 nogil:
        """The last frame that is heard: close, or what breaks the rules."""
        cdef Session *s = &self.at[index]
        s.flags |= F_CLOSE_SEEN
        free(s.in_data)
        s.in_data = NULL
        s.in_room = 0
        if s.state == S_CLOSING:
            if not self.sessions.out_waits(s):
                self.sockets.shut_down(index)
        elif self.gathered.is_waiting(s.cold) and self.ending_count < self.sessions.room:
            s.in_size = <uint32_t>kind << 16 | code
            self.ending[self.ending_count] = self.sessions.origin_of(index)
            self.ending_count += 1
        else:
            return self._end(index, kind, code)
        return 0

    cdef int _end(self, uint32_t index, int kind, uint16_t code) except -1 nogil:
        if kind == FR_BROKEN:
            return self.sockets.end_named(index, code)
        return self.sockets.end(index, code, NULL, 0)

    cdef int end_waiting(self) except -1 nogil:
        """Python has handled more: ends those who wait for no more of it."""
        cdef uint32_t i, index, count = self.ending_count
        cdef Session *s
        self.ending_count = 0
        for i in range(count):
            index = self.sessions.resolve(self.ending[i])
            s = &self.at[index]
            if index == 0 or not S_OPEN <= s.state <= S_LIVE:
                continue
            if self.gathered.is_waiting(s.cold):
                self.ending[self.ending_count] = self.ending[i]
                self.ending_count += 1
            else:
                self._end(index, s.in_size >> 16, <uint16_t>s.in_size)
        return 0

    # commands

    cdef int _message(self, uint32_t index, const uint8_t *data, uint32_t size) except -1 nogil:
        """One whole message of a session that is open."""
        cdef Session *s = &self.at[index]
        cdef Command command
        cdef uint32_t wait_ms
        cdef bint waiting = self.gathered.is_waiting(s.cold)
        command_read(s.encoding, data, size, &command)
        if s.state == S_OPEN:
            if command.kind == C_HELLO:
                s.flags |= F_HELLO
                self.sockets.doorway.keep(s.user_next, index)
            elif command.kind != C_COLD and not waiting and not s.flags & F_HELLO:
                return self._hello_first(index, &command)
        wait_ms = self._over_rate(s)
        if wait_ms:
            return self._limited(index, &command, wait_ms)
        if waiting or s.state == S_OPEN:
            return self._cold(index, data, size)
        return self._hot(index, &command, data, size)

    cdef int _hot(self, uint32_t index, const Command *command, const uint8_t *data, uint32_t size) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint8_t *to
        if command.kind == C_PUBLISH:
            if self._publish(index, command):
                return 0
        elif command.kind == C_DELIVERED:
            return self.gathered.add_signal(SIGNAL_DELIVERED, index, command.target, command.value)
        elif command.kind == C_READ:
            return self.gathered.add_signal(SIGNAL_READ, index, command.target, command.value)
        elif command.kind == C_TYPING:
            return self.gathered.add_signal(SIGNAL_TYPING, index, command.target, 0)
        elif command.kind == C_PING:
            to = self.sessions.out_reserve(s, PUSH_FRAME_BYTES_MAX)
            s.out_size += <uint32_t>pong_put(to, s.encoding, &command.fields[N_ID])
            self.sessions.mark_dirty(index, True)
            return 0
        elif (command.kind == C_REFUSED and command.status != STATUS_BAD_ID
                and command.status != STATUS_BAD_COUNTER):  # Python's error names the field
            return self.refuse(index, command.counter, command.status, command.extra)
        return self._cold(index, data, size)

    cdef int _publish(self, uint32_t index, const Command *command) except -1 nogil:
        """1 if it was taken or refused here, 0 if it is Python's to judge."""
        cdef Session *s = &self.at[index]
        cdef size_t size = PROPOSAL_HEAD_BYTES + command.type_size + command.payload_size
        cdef uint8_t *to
        if s.unanswered >= self.unanswered_max:
            self.refuse(index, command.counter, STATUS_TOO_MANY_UNANSWERED, UNANSWERED_RETRY_MS)
            return 1
        if self.publish_room <= 0:
            self.shed_publishes += 1
            self.refuse(index, command.counter, STATUS_OVERLOADED, self.sockets.spread(OVERLOADED_RETRY_MS))
            return 1
        to = self.gathered.room_for(&self.gathered.proposals, size)
        if not proposal_put(command, self.sessions.origin_of(index), s.user, s.device, to):
            return 0
        self.gathered.proposals.size += size
        s.unanswered += 1
        self.publish_room -= 1
        return 1

    cdef int _cold(self, uint32_t index, const uint8_t *data, uint32_t size, bint text=False) except -1 nogil:
        """A message for Python; those behind it follow it."""
        self.at[index].cold = self.gathered.add_cold(index, data, size, text)
        if self.gathered.waiting_bytes > COLD_WAITING_BYTES_MAX:
            self._hold(index)
        return 0

    cdef int _hello_first(self, uint32_t index, const Command *command) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint8_t *to = self.sessions.out_reserve(s, PUSH_FRAME_BYTES_MAX)
        s.out_size += <uint32_t>hello_first_put(to, s.encoding, &command.fields[N_ID])
        return self.sockets.end_named(index, CLOSE_BAD_COMMAND)

    # limits

    cdef void refill(self, Session *s) noexcept nogil:
        cdef uint32_t now = <uint32_t>self.sockets.now_ms
        cdef uint64_t tokens = s.rate_tokens_milli + <uint64_t>(now - s.rate_at_ms) * self.rate_per_s
        s.rate_at_ms = now
        s.rate_tokens_milli = <int>min(tokens, <uint64_t>self.rate_milli_max)

    cdef uint32_t _over_rate(self, Session *s) noexcept nogil:
        cdef uint32_t tokens
        self.refill(s)
        tokens = <uint32_t>s.rate_tokens_milli
        if tokens >= 1000:
            tokens -= 1000
            s.rate_tokens_milli = <int>tokens
            s.refused -= s.refused > 0
            return 0
        s.rate_tokens_milli = <int>tokens
        return <uint32_t>((1000 - tokens + self.rate_per_s - 1) // self.rate_per_s)

    cdef int _limited(self, uint32_t index, const Command *command, uint32_t wait_ms) except -1 nogil:
        """A command over the rate: the answer says when to come again; far too many of them end the session."""
        cdef Session *s = &self.at[index]
        cdef uint8_t *to
        self.rate_limited += 1
        s.refused += 1
        if s.refused >= self.refused_max:
            return self.sockets.end_named(index, CLOSE_ABUSE)
        if command.kind == C_PUBLISH or command.kind == C_REFUSED:
            return self.refuse(index, command.counter, STATUS_RATE_LIMITED, wait_ms)
        to = self.sessions.out_reserve(s, PUSH_FRAME_BYTES_MAX)
        s.out_size += <uint32_t>rate_limited_put(to, s.encoding, &command.fields[N_ID], wait_ms)
        self.sessions.mark_dirty(index, True)
        return 0

    cdef int refuse(self, uint32_t index, uint64_t counter, uint32_t status, uint32_t extra) except -1 nogil:
        """The receipt of a publish that goes no further. Always given: who reads none of them is soon not read itself
        (hold_if_full), so that no more than one turn's commands are answered beyond what is held."""
        cdef Answer answer
        memset(&answer, 0, sizeof(Answer))
        answer.counter, answer.status, answer.extra = counter, <uint16_t>status, extra
        return self.receipt(index, &answer)

    cdef int receipt(self, uint32_t index, const Answer *answer) except -1 nogil:
        cdef Session *s = &self.at[index]
        cdef uint8_t *to = self.sessions.out_reserve(s, RECEIPT_FRAME_BYTES_MAX)
        s.out_size += <uint32_t>receipt_put(to, s.encoding, answer)
        self.sessions.mark_dirty(index, True)
        return 0

    cdef void _hold(self, uint32_t index) noexcept nogil:
        """Python is behind: who gives it more isn't read until it has caught up."""
        cdef Session *s = &self.at[index]
        if s.flags & F_NO_READ or self.held_count >= self.sessions.room:
            return
        s.flags |= F_NO_READ
        self.sessions.set_events(index)
        self.held[self.held_count] = self.sessions.origin_of(index)
        self.held_count += 1

    cdef void unhold(self) noexcept nogil:
        """Python has handled more."""
        cdef uint32_t i, index
        cdef Session *s
        if self.held_count == 0 or self.gathered.waiting_bytes > COLD_WAITING_BYTES_MAX // 2:
            return
        for i in range(self.held_count):
            index = self.sessions.resolve(self.held[i])
            s = &self.at[index]
            if index == 0 or not s.flags & F_NO_READ or s.flags & F_REQUEST:
                continue
            if not (s.flags & F_BLOCKED and s.out_size - s.out_sent > OUT_HELD_BYTES):
                s.flags &= ~F_NO_READ
                self.sessions.set_events(index)
        self.held_count = 0
