"""The epoll loop under the load generator: frames, receipts and events of thousands of clients.

The native half of ext/loadgen, which prepares it and reads what it counted. One thread, no GIL while it runs, except
to look for signals every 200 ms. Frames that can't be understood are counted, and end their connection.

Invariants: a receipt is matched to one unanswered counter; sequences of a connection ascend; an event whose sequence
does not is a double or disorder, and counts as nothing else; a hole in a conversation is counted when the event behind
it comes. Cost: one recv per ready socket, no allocation per event.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from ext.c_load cimport (
    EAGAIN, EINTR, EPOLLIN, EPOLLOUT, epoll_event, errno, find_bytes, load_be32, load_be64, now_ns, sharp_timers,
    wait_ns, watch)
from ext.loadcheck cimport (
    EVENT_BROKEN, EVENT_CORRUPT, EVENT_OURS, WINDOW, Event, Stream, event_arrived, event_check)
from ext.loadhdr cimport HDR_COUNTS, TICK_COUNTS, hdr_at, tick_at
from ext.loadheard cimport HEARD_GAP, HEARD_HOLE, heard_before, heard_event, heard_gap
from ext.loadsocket cimport (
    INPUT_BYTES, L_AWAY, L_DEAD, L_HELLO, L_LIVE, L_UPGRADING, NO_STREAM, NUMBERS, SLICE_NS, Connection, Slot)
from ext.loadwire cimport wire_keep, wire_recv

cdef enum:
    READY = 512                 # sockets that one wait may name
    SLOW_NS = 100000000         # how often a slow reader reads


cdef uint64_t number_after(const uint8_t *body, uint32_t size, const char *key, uint32_t key_size) noexcept nogil:
    """The integer behind a key of a map, in any width; 0 if there is none."""
    cdef const uint8_t *at = find_bytes(body, size, key, key_size)
    cdef uint64_t value = 0
    cdef uint32_t i, width
    if at == NULL or <uint64_t>(at - body) + key_size + 9 > size + 8:
        return 0
    at += key_size
    if at[0] < 0x80:
        return at[0]
    if at[0] < 0xCC or at[0] > 0xCF:
        return 0
    width = 1 << (at[0] - 0xCC)
    if <uint64_t>(at - body) + 1 + width > size:
        return 0
    for i in range(width):
        value = value << 8 | at[1 + i]
    return value


cdef class LoadLoop(LoadPublishers):
    def __cinit__(self, int connections_max=1):
        self.hello_ns = <uint64_t *>calloc(HDR_COUNTS, 8)
        self.tick_counts = <uint64_t *>calloc(TICK_COUNTS, 8)
        if self.hello_ns == NULL or self.tick_counts == NULL:
            raise MemoryError("no memory for histograms")

    def __dealloc__(self):
        for block in (<uintptr_t>self.hello_ns, <uintptr_t>self.tick_counts, <uintptr_t>self.receipts):
            free(<void *><uintptr_t>block)

    # ---- receiving ------------------------------------------------------------------------------------------------

    cdef int _readable(self, uint32_t k, uint32_t room) except -1 nogil:
        """All that is there, by at most `room` bytes a recv; of a slow reader one recv."""
        cdef Connection *c = &self.at[k]
        cdef ssize_t got
        cdef int64_t used
        cdef uint32_t have, take
        cdef bint slow = c.slow and self.slow_bytes_per_s and c.life == L_LIVE
        while c.life != L_DEAD and c.life != L_AWAY:
            have = c.rest_size
            take = min(room, INPUT_BYTES - have)
            if have:
                memcpy(self.input, c.rest, have)
            got = wire_recv(c.fd, c.tls, self.input + have, take)
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and errno == EAGAIN:
                return self._begin(k) if c.tls != NULL else 0
            if got <= 0:
                return self._die(k, 0)
            self.reads += 1
            self.bytes_in += <uint64_t>got
            used = self._consume(k, self.input, have + <uint32_t>got, now_ns())
            if c.life == L_DEAD or c.life == L_AWAY:
                return 0
            if used < 0 or have + got - used == INPUT_BYTES:
                return self._die(k, 1002)
            wire_keep(&c.rest, &c.rest_size, &c.rest_room, self.input + used, <uint32_t>(have + got - used))
            if got < take and c.tls == NULL or slow:
                return 0
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
            if c.life == L_DEAD or c.life == L_AWAY:
                return -1
        if c.stream != NO_STREAM and c.life == L_LIVE:
            self._closed_loop(k, now)
        return at

    cdef int _message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        """One server frame: [number, body]."""
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
        if number == 3:
            return self._welcome(k, body, size)
        if number == 4:
            return self._gap(k, body, size)
        if number == 7:
            return self._note(body, size)
        if number == 16 and self.at[k].life == L_HELLO:
            return self._live(k, body, size, now)
        return 0

    cdef int _welcome(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil:
        """The device's last counter, where this generator is not the first that uses it; and the epoch of positions."""
        cdef Connection *c = &self.at[k]
        if not c.unanswered:
            c.counter = max(c.counter, number_after(body, size, b"\xa7counter", 8))
        self.epoch = number_after(body, size, b"\xa5epoch", 6)
        return 0

    cdef int _live(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        cdef Connection *c = &self.at[k]
        c.life = L_LIVE
        self.pending -= 1
        self.live += 1
        c.last_sequence = max(c.last_sequence, number_after(body, size, b"\xa8sequence", 9))
        if c.slow:
            watch(self.epoll_fd, c.fd, self._looks_for(c), k, 1)
        if not c.resumes:
            self.hello_ns[hdr_at(now - c.opened_ns)] += 1
            return 0
        self.resumes += 1
        self.back_to_ns = now
        self.resume_ns[hdr_at(now - c.hello_ns)] += 1
        return self._say_again(k)

    cdef int _gap(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil:
        """Events of a conversation that the server leaves out of a resume: how many, from its newest one."""
        cdef const uint8_t *newest = find_bytes(body, size, b"\xa6newest", 7)
        cdef uint64_t last = 0
        cdef uint32_t at
        self.gaps += 1
        if newest != NULL:
            at = <uint32_t>(newest - body) + 7
            at += 1 if at < size and body[at] < 0xDC else 3  # an array's head
            if at + 28 <= size and 0x9A <= body[at] <= 0x9F:
                last = load_be64(body + at + 20)
        self.gapped += <uint64_t>heard_gap(
            &self.at[k].heard, number_after(body, size, b"\xacconversation", 13), last)
        return 0

    cdef int _event(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        cdef Connection *c = &self.at[k]
        cdef Event event
        cdef uint64_t left_out
        cdef int verdict = event_check(self.streams, self.stream_count, body, size, &event)
        self.events += 1
        if verdict == EVENT_BROKEN:
            self.broken += 1
            return 0
        if event.sequence <= c.last_sequence:
            if heard_before(&c.heard, event.conversation, event.conversation_sequence):
                self.doubled += 1
            else:
                self.disordered += 1
            return 0
        c.last_sequence = event.sequence
        c.events += 1
        if verdict == EVENT_OURS:
            return self._ours(k, &event, body, size, now)
        if verdict == EVENT_CORRUPT:
            heard_event(&c.heard, event.conversation, event.conversation_sequence, &left_out)
            self.streams[event.stream].corrupted += 1
        self.others += verdict != EVENT_CORRUPT
        return 0

    cdef int _ours(self, uint32_t k, const Event *event, const uint8_t *body, uint32_t size,
                   uint64_t now) except -1 nogil:
        """A message of a stream, whole."""
        cdef Connection *c = &self.at[k]
        cdef Stream *s = &self.streams[event.stream]
        cdef uint64_t left_out, late = now - event.intended_ns if now > event.intended_ns else 0
        cdef int heard = heard_event(&c.heard, event.conversation, event.conversation_sequence, &left_out)
        cdef int arrived = event_arrived(s, event, body, size)
        if arrived == 2 or self.number_from <= event.connection < self.number_from + self.used and event.index > s.sent:
            s.corrupted += 1
            return 0
        if heard == HEARD_HOLE:
            self.missing += left_out
        elif heard == HEARD_GAP:
            self.gapped += left_out
        s.deliveries += 1
        if c.slow:
            s.slow_deliveries += 1
        elif self.count_from_ns <= event.intended_ns < self.count_to_ns:
            s.deliver_ns[hdr_at(late)] += 1
        if not c.slow:
            self.tick_counts[tick_at(late)] += 1
            self.tick_max_ns = max(self.tick_max_ns, late)
        return self._broadcast(event.stream, now) if arrived == 1 and not s.interval_ns else 0

    cdef int _receipt(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil:
        """[2, [counter, status, …]]: matched to what is unanswered."""
        cdef Connection *c = &self.at[k]
        cdef Stream *s
        cdef Slot *slot
        cdef uint64_t counter, waited
        cdef bint counts
        if size < 13 + 1 or body[2] != 0x97 or body[3] != 0xCF or body[12] & 0xE0 != 0xA0 or size < 13 + (
                body[12] & 31) + 18:
            self.broken += 1
            return 0
        counter = load_be64(body + 4)
        if (c.slots == NULL or counter > c.counter or counter + WINDOW <= c.counter
                or not c.slots[counter & (WINDOW - 1)].intended_ns):
            self.unmatched += 1
            return 0
        slot = &c.slots[counter & (WINDOW - 1)]
        c.unanswered -= 1
        if not slot.index:
            slot.intended_ns = 0
            self.commands_open -= 1
            return self._keep_receipt(k, body, size)
        s = &self.streams[slot.stream]
        waited = now - slot.intended_ns if now > slot.intended_ns else 0
        counts = self.count_from_ns <= slot.intended_ns < self.count_to_ns
        if body[12] == 0xA8 and memcmp(body + 13, b"appended", 8) == 0 or body[12] == 0xA6 and memcmp(
                body + 13, b"repeat", 6) == 0:
            s.receipts += 1
            s.expected += s.targets[slot.target].recipients
            s.receipt_ns[hdr_at(waited)] += counts
        else:
            s.refused += 1
            s.refused_ns[hdr_at(waited)] += counts
            self._note(body + 13, body[12] & 31)
        slot.intended_ns = 0
        return self._broadcast(slot.stream, now) if s.broadcast and not s.interval_ns else 0

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

    cdef int _read_slowly(self, uint64_t now) except -1 nogil:
        """Ten times a second each slow reader takes its share of bytes, and no more."""
        cdef uint32_t k
        if now < self.slow_due_ns:
            return 0
        self.slow_due_ns = now + SLOW_NS
        for k in range(self.used):
            if self.at[k].slow and self.at[k].life == L_LIVE:
                self._readable(k, max(self.slow_bytes_per_s // 10, <uint32_t>1))
        return 0

    # ---- the loop -------------------------------------------------------------------------------------------------

    cdef int _step(self, uint64_t timeout_ns) except -1 nogil:
        cdef epoll_event ready[READY]
        cdef Connection *c
        cdef uint32_t k
        cdef int i
        for i in range(wait_ns(self.epoll_fd, ready, READY, timeout_ns)):
            k = <uint32_t>ready[i].data.u64
            c = &self.at[k]
            if ready[i].events & EPOLLOUT and c.life != L_DEAD and c.life != L_AWAY:
                self._writable(k)
            if ready[i].events & ~EPOLLOUT and c.life != L_DEAD and c.life != L_AWAY:
                self._readable(k, INPUT_BYTES)
        return 0

    cdef bint _settled(self) noexcept nogil:
        cdef uint32_t i
        cdef Stream *s
        if self.commands_open:
            return False
        for i in range(self.stream_count):
            s = &self.streams[i]
            if s.receipts + s.refused < s.sent or s.deliveries + s.corrupted < s.expected:
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
                    self._paced(i, now)
                    if s.due_ns > now and s.due_ns < next_ns:
                        next_ns = s.due_ns
            if self.ping_interval_ns:
                self._ping(now)
                next_ns = min(next_ns, self.ping_due_ns)
            if self.away_count:
                self._return(now)
                if self.away_count and self.pending < self.pending_max:
                    next_ns = min(next_ns, self.away_due_ns[self.away_from])
            if self.slow_bytes_per_s:
                self._read_slowly(now)
                next_ns = min(next_ns, self.slow_due_ns)
            now = now_ns()
            self._step(next_ns - now if next_ns > now else 0)

    cdef int _start(self, uint32_t stream) except -1:
        cdef Stream *s = &self.streams[stream]
        cdef uint32_t i
        if s.broadcast and not s.interval_ns:
            return self._broadcast(stream, now_ns())
        for i in range(s.writer_count):
            if self.at[s.writers[i].connection].stream == stream:
                self._closed_loop(s.writers[i].connection, now_ns())
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
