"""The publishing half of the load generator: closed loops, open loops by schedule, pings, repeats after a resume.

Between ext/loadsocket, which sends, and ext/loadloop, which receives and turns. The times of an open loop are fixed
before anything is sent: random (Poisson), even, or pauses of each writer drawn from a table; a profile changes the
rate over time. A publish that can't leave when it is due, because its writer's window is full or the thread was late,
leaves later with the time at which it was due.

Invariants: a connection has at most 64 publishes unanswered; what is said again is said with the same counter and
stamp. Cost: one frame and a share of one send a publish; pauses cost a heap's depth.
"""
from libc.math cimport log, sqrt
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from ext.c_load cimport store_be64
from ext.loadcheck cimport (
    ARRIVE_EVEN, ARRIVE_NEVER, ARRIVE_PAUSES, STAMP, WINDOW, Stream, Tables, Target, Writer, stamp_put)
from ext.loadhdr cimport hdr_at
from ext.loadsocket cimport L_LIVE, NO_STREAM, OUTPUT_BYTES, Connection, Slot

cdef enum:
    TRIES_MAX = 256             # writers that are asked whether they may, before the stream waits
    LOOK_AGAIN_NS = 1000000     # a writer with pauses whose window is full is looked at again after that

cdef double FOREVER_NS = 1e17   # three years

cdef const char *PING = b"\x81\xa2op\xa4ping"


cdef class LoadPublishers(LoadSockets):
    def __cinit__(self, int connections_max=1):
        self.count_to_ns = <uint64_t>-1

    cdef uint64_t _draw(self) noexcept nogil:
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return self.random

    cdef double _share(self) noexcept nogil:
        """Above 0, at most 1."""
        return ((self._draw() >> 11) + 1) * 1.1102230246251565e-16

    cdef bint _has_room(self, const Connection *c, const Stream *s) noexcept nogil:
        """Whether a connection may send one more pack. Refusals overtake what was accepted: the oldest unanswered
        counter, too, must stay within the window."""
        cdef uint32_t i
        if c.life != L_LIVE:
            return False
        if c.slots != NULL:
            for i in range(s.per_send):
                if c.slots[(c.counter + 1 + i) & (WINDOW - 1)].intended_ns:
                    return False
        return c.unanswered + s.per_send <= s.in_flight

    cdef int _window_of(self, Connection *c) except -1 nogil:
        """Memory for its unanswered commands, from the first one on."""
        if c.slots == NULL:
            c.slots = <Slot *>calloc(WINDOW, sizeof(Slot))
            if c.slots == NULL:
                with gil:
                    raise MemoryError("no memory for the window of a connection")
        return 0

    cdef uint32_t _size(self, const Stream *s, uint32_t target) noexcept nogil:
        """Bytes of the next payload."""
        cdef const Target *t = &s.targets[target]
        cdef uint32_t i = 0
        cdef double share
        if s.tables == NULL or not s.tables.sizes:
            return t.size - t.payload_at
        share = self._share()
        while i + 1 < s.tables.sizes and share > s.tables.size_share[i]:
            i += 1
        return s.tables.size_bytes[i]

    cdef uint32_t _put(self, uint8_t *to, uint32_t k, const Slot *slot, uint64_t counter) noexcept nogil:
        """The frame of one publish; its size."""
        cdef Stream *s = &self.streams[slot.stream]
        cdef Target *t = &s.targets[slot.target]
        cdef uint8_t *payload
        cdef uint32_t i
        store_be64(t.body + t.counter_at, counter)
        if slot.size == t.size - t.payload_at:
            stamp_put(t.body + t.payload_at, slot.stream, slot.size, self.number_from + k, <uint32_t>counter, slot.index,
                      slot.intended_ns)
            return self._frame(to, 2, t.body, t.size)
        memcpy(self.scratch, t.body, t.head_size)
        self.scratch[t.head_size] = 0xC6
        for i in range(4):
            self.scratch[t.head_size + 1 + i] = <uint8_t>(slot.size >> (24 - 8 * i))
        payload = self.scratch + t.head_size + 5
        stamp_put(payload, slot.stream, slot.size, self.number_from + k, <uint32_t>counter, slot.index,
                  slot.intended_ns)
        memcpy(payload + STAMP, s.fill, slot.size - STAMP)
        return self._frame(to, 2, self.scratch, t.head_size + 5 + slot.size)

    cdef int _publish(self, uint32_t stream, uint32_t writer, uint32_t count, uint64_t intended_ns) except -1 nogil:
        """`count` publishes in one send."""
        cdef Stream *s = &self.streams[stream]
        cdef Writer *w = &s.writers[writer]
        cdef Connection *c = &self.at[w.connection]
        cdef Slot *slot
        cdef uint32_t i, at = 0
        self._window_of(c)
        for i in range(count):
            c.counter += 1
            s.sent += 1
            c.unanswered += 1
            slot = &c.slots[c.counter & (WINDOW - 1)]
            slot.intended_ns, slot.index, slot.stream, slot.target = intended_ns, s.sent, stream, w.target
            slot.size = self._size(s, w.target)
            at += self._put(self.output + at, w.connection, slot, c.counter)
        return self._send(w.connection, self.output, at)

    cdef int _say_again(self, uint32_t k) except -1 nogil:
        """Live again: what had no answer when the connection broke, with the same counters, in their order."""
        cdef Connection *c = &self.at[k]
        cdef Slot *slot
        cdef uint64_t counter = c.counter - WINDOW if c.counter > WINDOW else 0
        if c.slots == NULL or not c.unanswered:
            return 0
        while counter < c.counter:
            counter += 1
            slot = &c.slots[counter & (WINDOW - 1)]
            if slot.intended_ns and slot.index:
                self._send(k, self.output, self._put(self.output, k, slot, counter))
        return 0

    # ---- closed loops ---------------------------------------------------------------------------------------------

    cdef int _closed_loop(self, uint32_t k, uint64_t now) except -1 nogil:
        """Answers have come: as many publishes again as fill the window, in packs."""
        cdef Connection *c = &self.at[k]
        cdef Stream *s = &self.streams[c.stream]
        cdef uint32_t writer
        if not self.publishing or s.interval_ns or s.broadcast:
            return 0
        while self._has_room(c, s) and (not s.limit or s.sent + s.per_send <= s.limit):
            writer = c.writer
            c.writer = s.writers[writer].next
            self._publish(c.stream, writer, s.per_send, now)
        return 0

    cdef int _broadcast(self, uint32_t stream, uint64_t now) except -1 nogil:
        """Everybody has one more event: its place in flight is free."""
        cdef Stream *s = &self.streams[stream]
        cdef Connection *c
        if not self.publishing or not s.writer_count:
            return 0
        c = &self.at[s.writers[0].connection]
        while (s.sent - s.completed + s.per_send <= s.in_flight and c.unanswered + s.per_send <= WINDOW
                and (not s.limit or s.sent + s.per_send <= s.limit) and c.life == L_LIVE):
            self._publish(stream, 0, s.per_send, now)
        return 0

    # ---- open loops -----------------------------------------------------------------------------------------------

    cdef uint64_t _after(self, const Stream *s, uint64_t at_ns, double ns) noexcept nogil:
        """The moment at which so many nanoseconds of a rate without profile are over: the profile, linear between its
        points and level outside, is integrated from here on."""
        cdef const Tables *t = s.tables
        cdef int64_t at = <int64_t>(at_ns - s.origin_ns)
        cdef uint32_t i = 0
        cdef double from_factor, to_factor, area, length, slope
        if t == NULL or not t.profile:
            return at_ns + <uint64_t>ns
        while i < t.profile and t.profile_ns[i] <= at:
            i += 1
        while True:
            to_factor = t.profile_factor[i if i < t.profile else i - 1]
            from_factor = to_factor
            length, slope = <double>(t.profile_ns[i] - at) if i < t.profile else FOREVER_NS, 0.0
            if 0 < i < t.profile:
                slope = (to_factor - t.profile_factor[i - 1]) / <double>(t.profile_ns[i] - t.profile_ns[i - 1])
                from_factor = to_factor - slope * length
            area = length * (from_factor + to_factor) / 2
            if area >= ns:
                return s.origin_ns + <uint64_t>(
                    at + <int64_t>(2 * ns / (from_factor + sqrt(max(from_factor * from_factor + 2 * slope * ns, 0.0)))))
            if i == t.profile:
                return s.origin_ns + <uint64_t>(at + <int64_t>FOREVER_NS)
            ns -= area
            at = t.profile_ns[i]
            i += 1

    cdef double _pause(self, const Stream *s) noexcept nogil:
        """Nanoseconds from an arrival to the next one, of the stream or, with pauses, of one writer."""
        cdef const Tables *t = s.tables
        cdef double share
        cdef uint32_t i = 1
        if s.arrivals == ARRIVE_EVEN:
            return s.interval_ns
        if s.arrivals != ARRIVE_PAUSES:
            return -log(self._share()) * s.interval_ns
        share = self._share()
        while i + 1 < t.pauses and share > t.pause_share[i]:
            i += 1
        return 1 + t.pause_ns[i - 1] + (t.pause_ns[i] - t.pause_ns[i - 1]) * (share - t.pause_share[i - 1]) / (
            t.pause_share[i] - t.pause_share[i - 1])

    cdef double _rest_of_pause(self, const Stream *s) noexcept nogil:
        """Nanoseconds from any moment to a writer's next publish, as if it had been writing for ever: a moment lies in a
        long pause more often than in a short one, and anywhere in it. With a fresh pause instead all would begin at once,
        at several times the rate, for as long as the longest pauses take (Cox, Renewal Theory, 1962, chapter 5)."""
        cdef const Tables *t = s.tables
        cdef double share, a, b, whole = 0, weight = 0
        cdef uint32_t i = 0
        for i in range(1, t.pauses):
            whole += (t.pause_share[i] - t.pause_share[i - 1]) * (t.pause_ns[i] + t.pause_ns[i - 1])
        share = self._share() * whole
        i = 1
        while True:
            a, b = t.pause_ns[i - 1], t.pause_ns[i]
            weight += (t.pause_share[i] - t.pause_share[i - 1]) * (a + b)
            if i + 1 == t.pauses or share <= weight:
                return self._share() * sqrt(a * a + self._share() * (b * b - a * a))
            i += 1

    cdef int64_t _whose_turn(self, Stream *s, uint64_t now) noexcept nogil:
        """The writer of what is due, -1 if nobody may now."""
        cdef uint32_t i
        cdef Writer *w
        if s.arrivals == ARRIVE_PAUSES:
            for i in range(TRIES_MAX):
                w = &s.writers[s.heap[0]]
                if w.look_ns > now:
                    break
                if self._has_room(&self.at[w.connection], s):
                    return s.heap[0]
                w.look_ns = now + LOOK_AGAIN_NS
                self._sift(s, 0)
            s.due_ns = s.writers[s.heap[0]].look_ns
            return -1
        for i in range(min(s.writer_count, <uint32_t>TRIES_MAX)):
            s.turn = s.turn + 1 if s.turn + 1 < s.writer_count else 0
            if self._has_room(&self.at[s.writers[s.turn].connection], s):
                return s.turn
        return -1

    cdef int _arrange(self, Stream *s, uint64_t from_ns) noexcept nogil:
        """First times. Writers with pauses are somewhere in one of them, each for itself."""
        cdef uint32_t i
        s.due_ns = s.free_ns = from_ns
        if not s.interval_ns or not s.writer_count:
            return 0
        if s.arrivals == ARRIVE_NEVER:
            s.due_ns = <uint64_t>-1
            return 0
        if s.arrivals != ARRIVE_PAUSES:
            s.due_ns = self._after(s, from_ns, self._share() * s.interval_ns)
            return 0
        for i in range(s.writer_count):
            s.heap[i] = i
            s.writers[i].due_ns = s.writers[i].look_ns = self._after(s, from_ns, self._rest_of_pause(s))
        for i in range(s.writer_count // 2, 0, -1):
            self._sift(s, i - 1)
        s.due_ns = s.writers[s.heap[0]].look_ns
        return 0

    cdef void _sift(self, Stream *s, uint32_t at) noexcept nogil:
        """The entry at this place of the heap is due later than before: down to where it belongs."""
        cdef uint32_t moved = s.heap[at], child
        while True:
            child = 2 * at + 1
            if child >= s.writer_count:
                break
            if child + 1 < s.writer_count and s.writers[s.heap[child + 1]].look_ns < s.writers[s.heap[child]].look_ns:
                child += 1
            if s.writers[s.heap[child]].look_ns >= s.writers[moved].look_ns:
                break
            s.heap[at] = s.heap[child]
            at = child
        s.heap[at] = moved

    cdef int _paced(self, uint32_t stream, uint64_t now) except -1 nogil:
        """Open loop: what is due goes out by whoever is free, with the time at which it was due."""
        cdef Stream *s = &self.streams[stream]
        cdef Writer *w
        cdef int64_t writer
        cdef uint64_t due, could
        while s.due_ns <= now and s.writer_count and (not s.limit or s.sent < s.limit):
            writer = self._whose_turn(s, now)
            if writer < 0:
                s.free_ns = 0
                return 0
            s.free_ns = s.free_ns or now
            w = &s.writers[writer]
            due = w.due_ns if s.arrivals == ARRIVE_PAUSES else s.due_ns
            could = max(due, w.look_ns if s.arrivals == ARRIVE_PAUSES else s.free_ns)
            self._publish(stream, <uint32_t>writer, s.per_send, due)
            if self.count_from_ns <= due < self.count_to_ns:
                s.late_ns[hdr_at(now - could if now > could else 0)] += s.per_send
            due = self._after(s, due, self._pause(s))
            if s.arrivals == ARRIVE_PAUSES:
                w.due_ns = w.look_ns = due
                self._sift(s, 0)
                due = s.writers[s.heap[0]].look_ns
            s.due_ns = due
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
