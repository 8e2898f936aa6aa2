# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Fan-out: records to outboxes, outboxes to sockets.

Fed by the router with committed blocks, in order; asks ext/interest who follows, copies what somebody needs once into
ext/ring, and sends, one system call a session and flush. A session whose socket is full, whose entries were overtaken
by the ring or whose outbox has too many ranges becomes S_READER at its position and is reported once (take_behind):
the log is its outbox from then on.

Invariants: a live session has everything up to `sequence` that it may see on its socket or in its outbox, each once,
ascending; out_data holds at most control frames and the rest of one event frame; a position moves when the first
byte of a frame is with the kernel; nothing is appended for a session that is not live. Sessions with events of small
conversations are flushed before broadcasts, and a slice ends when its time is over.
Cost: routing is one look-up a record and a few ns a recipient and run; a flush is the kernel's `send` and little else.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from ext.block cimport blk_count, blk_record
from ext.c_memory cimport fetch_ahead, pages_map, pages_unmap
from ext.c_socket cimport (
    CLOCK_MONOTONIC, EAGAIN, EINTR, ENOBUFS, ENOMEM, clock_gettime, errno, timespec)
from ext.interest cimport Interest
from ext.record cimport rec_u64
from ext.ring cimport Entry, Ring
from ext.session_table cimport (
    F_BLOCKED, F_DIRTY, F_PRIORITY, S_LIVE, S_READER, Session, SessionTable)

cdef enum:
    AHEAD = 16  # records whose interest is fetched before it is asked for
    SESSIONS_AHEAD = 8
    ALL = 0xFFFFFFFF
    CLOCK_EVERY = 4  # sessions between two looks at the clock
    BULK_EVERY = 8  # one in so many is of the bulk even while small conversations wait: broadcasts don't starve


cdef int64_t _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef void outbox_free(Session *s) noexcept nogil:
    """The outbox of a session that needs none any more."""
    free(s.refs)
    s.refs = NULL
    s.ref_count = s.ref_room = 0


cdef void _clear_control(Session *s) noexcept nogil:
    free(s.out_data)
    s.out_data = NULL
    s.out_size = s.out_sent = s.out_room = 0


cdef int _report(Origins *list_of, uint64_t origin) except -1 nogil:
    cdef uint32_t room
    cdef void *moved
    if list_of.count == list_of.room:
        room = list_of.room * 2 + 64
        moved = realloc(list_of.at, <size_t>room * 8)
        if moved == NULL:
            with gil:
                raise MemoryError(f"no memory to report {room} sessions")
        list_of.at = <uint64_t *>moved
        list_of.room = room
    list_of.at[list_of.count] = origin
    list_of.count += 1
    return 0


cdef list _take(Origins *list_of):
    cdef uint32_t i
    taken = [list_of.at[i] for i in range(list_of.count)]
    free(list_of.at)
    list_of.at = NULL
    list_of.count = list_of.room = 0
    return taken


cdef class Fanout:
    def __cinit__(self, SessionTable sessions not None, Interest interest not None, Ring ring not None,
                  uint64_t sequence=0, uint32_t priority_recipients_max=64, uint32_t ranges_max=4096):
        self.sessions = sessions
        self.interest = interest
        self.ring = ring
        self.sequence = sequence
        self.priority_recipients_max = priority_recipients_max
        self.ranges_max = ranges_max
        self.scratch = <uint8_t *>pages_map(SCRATCH_BYTES)
        if self.scratch == NULL:
            raise MemoryError("no memory for the scratch of the fan-out")

    def __dealloc__(self):
        pages_unmap(self.scratch, SCRATCH_BYTES)
        free(self.behind.at)
        free(self.lost.at)

    # routing

    def route(self, const uint8_t[::1] block, uint32_t start, uint32_t end=ALL):
        """References to records start … end-1 (or to the last) for everyone who follows their conversations."""
        if end == ALL:
            end = blk_count(&block[0])
        if end > blk_count(&block[0]) or start > end:
            raise IndexError(f"records {start} to {end} of a block of {blk_count(&block[0])}")
        with nogil:  # no Python objects: the block is pinned by the view
            self._route(&block[0], start, end)

    def route_to(self, const uint8_t[::1] block, uint32_t index, sessions):
        """One record for the given sessions alone (indexes or origins, each once)."""
        cdef uint32_t room = <uint32_t>len(sessions), count = 0, found, size
        cdef const uint8_t *record
        cdef uint32_t *places
        if index >= blk_count(&block[0]):
            raise IndexError(f"record {index} of a block of {blk_count(&block[0])}")
        places = <uint32_t *>malloc((<size_t>room + 1) * 4)
        if places == NULL:
            raise MemoryError(f"no memory for a list of {room} sessions")
        try:
            for session in sessions:
                found = self.sessions.resolve(session)
                if found:
                    places[count] = found
                    count += 1
            if count:
                self._deliver(&block[0], index, index + 1, places, count, count)
            record = blk_record(&block[0], index, &size)
            self.sequence = rec_u64(record, 0)
        finally:
            free(places)

    cdef int _route(self, const uint8_t *block, uint32_t start, uint32_t end) except -1 nogil:
        cdef uint32_t i = start, next_run, ahead = start, size, value, room, count
        cdef uint64_t conversation, sequence = self.sequence
        cdef const uint32_t *places
        while i < end:
            while ahead < end and ahead < i + AHEAD:
                self.interest.fetch(rec_u64(blk_record(block, ahead, &size), 1))
                ahead += 1
            conversation = rec_u64(blk_record(block, i, &size), 1)
            next_run = i + 1
            while next_run < end and rec_u64(blk_record(block, next_run, &size), 1) == conversation:
                next_run += 1
            value = self.interest.find(conversation)
            if value:
                places = self.interest.places(&value, &room, &count)
                self._deliver(block, i, next_run, places, room, count)
            i = next_run
        if end > start:
            self.routed += end - start
            self.sequence = rec_u64(blk_record(block, end - 1, &size), 0)
        return 0

    cdef int _deliver(self, const uint8_t *block, uint32_t first, uint32_t end, const uint32_t *places, uint32_t room,
                      uint32_t count) except -1 nogil:
        """Records first … end-1, all of one conversation, to the sessions among `places` that are live."""
        cdef uint32_t k, index, size, needed = 0, entries = end - first, entry = self.ring.next_entry
        cdef bint priority = count <= self.priority_recipients_max
        cdef const uint8_t *record = blk_record(block, first, &size)
        cdef uint64_t before = rec_u64(record, 0) - 1
        cdef Session *at = self.sessions.at
        cdef Session *s
        for k in range(room):
            if k + SESSIONS_AHEAD < room:
                fetch_ahead(&at[places[k + SESSIONS_AHEAD]])
                fetch_ahead(<uint8_t *>&at[places[k + SESSIONS_AHEAD]] + 128)
            index = places[k]
            s = &at[index]
            if index == 0 or s.state != S_LIVE or s.position > before:
                continue
            if s.flags & F_BLOCKED:
                if s.ref_count == 0:
                    s.position = before  # all that came before this record is with the kernel or in out_data
                self._fall_behind(index)
                continue
            if not self._refer(s, entry, entries):
                self.overfull += 1
                self._fall_behind(index)
                continue
            needed |= <uint32_t>1 << s.encoding
            self.references += entries
            if not s.flags & F_DIRTY or (priority and not s.flags & F_PRIORITY):
                self.sessions.mark_dirty(index, priority)
        if needed:
            for k in range(first, end):
                record = blk_record(block, k, &size)
                self.ring.append(record, size, needed)
        return 0

    cdef int _refer(self, Session *s, uint32_t first, uint32_t count) except -1 nogil:
        """Puts a range behind the outbox; 0 if it is full."""
        cdef uint32_t *last
        cdef uint32_t room
        cdef void *moved
        if s.ref_count:
            last = s.refs + 2 * (s.ref_count - 1)
            if last[0] + last[1] == first:
                last[1] += count
                return 1
            if s.ref_count >= self.ranges_max:
                return 0
        if s.ref_count == s.ref_room:
            room = s.ref_room * 2 + 2
            moved = realloc(s.refs, <size_t>room * 8)
            if moved == NULL:
                with gil:
                    raise MemoryError(f"no memory for an outbox of {room} ranges")
            s.refs = <uint32_t *>moved
            s.ref_room = room
            self.sessions.weigh(<uint32_t>(s - self.sessions.at))
        last = s.refs + 2 * s.ref_count
        last[0] = first
        last[1] = count
        s.ref_count += 1
        return 1

    # flushing

    def flush(self, int64_t budget_us):
        """Sends for that long; True if more is left, or take_behind has something. Only between whole blocks."""
        cdef int more
        with nogil:  # no Python objects: tables and ring are owned by the loop's thread, which is here
            more = self._flush(budget_us * 1000)
        return bool(more or self.behind.count)

    cdef int _flush(self, int64_t budget_ns) except -1 nogil:
        cdef int64_t until = _now_ns() + budget_ns
        cdef uint32_t index
        while True:
            self.turn += 1
            index = 0 if self.turn % BULK_EVERY == 0 else self.sessions.pop_priority()
            if index == 0:
                index = self.sessions.pop_bulk()
            if index == 0:
                index = self.sessions.pop_priority()
            if index == 0:
                return 0
            self._flush_session(index)
            self.sessions.weigh(index)
            if self.turn % CLOCK_EVERY == 0 and _now_ns() >= until:
                return 1

    cdef int _flush_session(self, uint32_t index) except -1 nogil:
        cdef Session *s = &self.sessions.at[index]
        if s.fd < 0:
            outbox_free(s)
            return 0
        if s.state != S_LIVE and s.refs != NULL:
            outbox_free(s)
        if s.flags & F_BLOCKED:
            if s.ref_count:
                self._fall_behind(index)
            return 0
        if s.ref_count and self.ring.entry_at(s.refs[0], s.encoding) == NULL:
            self.evicted += 1
            self._fall_behind(index)
        if s.ref_count == 0:
            return self._flush_control(index) if s.out_size else 0
        return self._send_outbox(index)

    cdef int _flush_control(self, uint32_t index) except -1 nogil:
        cdef int gone = self.sessions.out_flush(&self.sessions.at[index])
        self.sends += 1
        if gone < 0:
            self._lose(index)
        elif gone == 0:
            self.blocked += 1
            self.sessions.arm_writable(index)
        return 0

    cdef int _send_outbox(self, uint32_t index) except -1 nogil:
        """Control frames and references of a live session whose first reference is valid."""
        cdef Session *s = &self.sessions.at[index]
        cdef const uint8_t *data
        cdef size_t size, control, rest, done
        cdef ssize_t sent
        cdef int turn
        for turn in range(SENDS_MAX):
            control = s.out_size - s.out_sent
            if control > SCRATCH_BYTES // 2:
                self._flush_control(index)
                if s.out_size or s.state != S_LIVE:
                    return self._fall_behind(index) if s.state == S_LIVE else 0
                continue
            if control == 0 and s.ref_count == 1:
                self.ring.piece(s.refs[0], s.refs[1], s.encoding, &data, &size)
            else:
                data = self.scratch
                size = self._gather(s)
            sent = self.sessions.send(s, data, size)
            self.sends += 1
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN and errno != ENOBUFS and errno != ENOMEM:
                    return self._lose(index)
                sent = 0
            self.sent_bytes += sent
            done = <size_t>sent
            if done < control:
                s.out_sent += <uint32_t>done
                return self._stop_short(index, NULL, 0)
            if control:
                _clear_control(s)
            rest = self._advance(s, done - control)
            if done < size:
                return self._stop_short(index, data + done, rest)
            if s.ref_count == 0:
                return 0
        self.sessions.mark_dirty(index, False)
        return 0

    cdef size_t _gather(self, Session *s) noexcept nogil:
        """Copies control frames and whole event frames into the scratch, as many as fit; their size."""
        cdef size_t fill = s.out_size - s.out_sent, size
        cdef uint32_t r, first, count, n
        cdef const uint8_t *data
        if fill:
            memcpy(self.scratch, s.out_data + s.out_sent, fill)
        for r in range(s.ref_count):
            first = s.refs[2 * r]
            count = s.refs[2 * r + 1]
            while count:
                n = self.ring.piece(first, count, s.encoding, &data, &size)
                if size > SCRATCH_BYTES - fill:
                    self.ring.fit(first, n, s.encoding, SCRATCH_BYTES - fill, &size)
                    memcpy(self.scratch + fill, data, size)
                    return fill + size
                memcpy(self.scratch + fill, data, size)
                fill += size
                first += n
                count -= n
        return fill

    cdef size_t _advance(self, Session *s, size_t sent) noexcept nogil:
        """Takes what was sent off the outbox and moves the position; what the frame cut through still lacks."""
        cdef size_t size, rest = 0
        cdef uint32_t r = 0, n
        cdef const uint8_t *data
        while sent > 0 and r < s.ref_count:
            n = self.ring.piece(s.refs[2 * r], s.refs[2 * r + 1], s.encoding, &data, &size)
            if sent >= size:
                sent -= size
            else:
                n = self.ring.begun(s.refs[2 * r], n, s.encoding, sent, &rest)
                sent = 0
            s.position = self.ring.entries[(s.refs[2 * r] + n - 1) & (self.ring.entries_room - 1)].sequence
            self.delivered += n
            s.refs[2 * r] += n
            s.refs[2 * r + 1] -= n
            if s.refs[2 * r + 1] == 0:
                r += 1
        if r == s.ref_count:
            outbox_free(s)
        elif r:
            s.ref_count -= r
            memmove(s.refs, s.refs + 2 * r, <size_t>s.ref_count * 8)
        return rest

    cdef int _stop_short(self, uint32_t index, const uint8_t *rest, size_t rest_size) except -1 nogil:
        """The socket is full: keeps the rest of the frame begun, and reads the log if more is owed."""
        cdef Session *s = &self.sessions.at[index]
        self.blocked += 1
        if rest_size:
            self.sessions.out_append(s, rest, rest_size)
        self.sessions.arm_writable(index)
        if s.ref_count:
            self._fall_behind(index)
        return 0

    # falling behind, breaking off

    cdef int _fall_behind(self, uint32_t index) except -1 nogil:
        """From live to reader. Up to just before its first reference everything is with the kernel."""
        cdef Session *s = &self.sessions.at[index]
        cdef Entry *entry
        if s.ref_count:
            entry = self.ring.entry_at(s.refs[0], s.encoding)
            if entry != NULL and entry.sequence - 1 > s.position:
                s.position = entry.sequence - 1
        outbox_free(s)
        s.state = S_READER
        self.fallen += 1
        return _report(&self.behind, self.sessions.origin_of(index))

    cdef int _lose(self, uint32_t index) except -1 nogil:
        """The connection broke: nothing more is sent; whoever takes the report closes the session."""
        cdef Session *s = &self.sessions.at[index]
        outbox_free(s)
        _clear_control(s)
        s.flags |= F_BLOCKED  # nobody tries again
        if s.state == S_LIVE:
            s.state = S_READER
        return _report(&self.lost, self.sessions.origin_of(index))

    def take_behind(self):
        """Origins of sessions that fell behind since the last call."""
        return _take(&self.behind)

    def take_lost(self):
        """Origins of sessions whose connection broke in a send since the last call."""
        return _take(&self.lost)

    @property
    def congested(self):
        """Whether the broadcast longest in the queue is half a ring old: route no more until it has been sent."""
        cdef uint32_t index = self.sessions.bulk_head
        cdef Session *s = &self.sessions.at[index]
        cdef Entry *entry
        if index == 0 or not s.flags & F_DIRTY or s.ref_count == 0:
            return False
        entry = self.ring.entry_at(s.refs[0], s.encoding)
        return (entry != NULL and (self.ring.head[s.encoding] - entry.at[s.encoding] > self.ring.bytes_room // 2
                                   or self.ring.next_entry - s.refs[0] > self.ring.entries_room // 2))

    def counters(self):
        """What has happened since the start, for the metrics."""
        return {
            "routed_events": self.routed, "references": self.references, "deliveries": self.delivered,
            "sends": self.sends, "sent_bytes": self.sent_bytes, "blocked_sends": self.blocked,
            "ring_evictions": self.evicted, "outbox_overflows": self.overfull, "fallen_behind": self.fallen,
        }
