# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What readers get: pages of stored records, and the flip to live; and signals, which nobody gets twice.

Beside ext/fanout, on the same sessions. engine/catchup.py decides what a reader is owed and gives it here in
ascending pages; the frames are encoded for the one session, sent, and forgotten.

Invariants: records at or below a session's position are never sent to it again; a page stops where the socket is full,
with at most one frame's rest kept; a session becomes live only at exactly the sequence up to which all was routed.
Signals (typing, presence, cursors) are shed for sessions that are blocked, busy or not live.
Cost: one copy of each record, one send for up to a megabyte.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ext.c_memory cimport pages_map, pages_unmap
from ext.c_socket cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from ext.fanout cimport Fanout, outbox_free
from ext.record cimport rec_u64
from ext.ring cimport event_frame_bound, event_frame_put, frame_head_put
from ext.session_table cimport E_JSON, F_BLOCKED, S_LIVE, S_OPEN, S_READER, Session

cdef enum:
    OPCODE_TEXT = 0x81
    OPCODE_BINARY = 0x82


cdef class Pages:
    def __cinit__(self, Fanout fanout not None, uint32_t signal_bytes_max=2048):
        self.fanout = fanout
        self.signal_bytes_max = signal_bytes_max
        self.scratch = <uint8_t *>pages_map(SCRATCH_BYTES)
        self.cuts = <Cut *>malloc(PAGE_FRAMES_MAX * sizeof(Cut))
        if self.scratch == NULL or self.cuts == NULL:
            raise MemoryError("no memory for the scratch of pages")

    def __dealloc__(self):
        pages_unmap(self.scratch, SCRATCH_BYTES)
        free(self.cuts)

    cdef Session *_reader(self, uint64_t session) noexcept:
        """The session if it is open and a reader."""
        cdef uint32_t index = self.fanout.sessions.resolve(session)
        if index == 0 or self.fanout.sessions.at[index].state != S_READER:
            return NULL
        return &self.fanout.sessions.at[index]

    def user_of(self, uint64_t session):
        """0 if it is gone."""
        cdef uint32_t index = self.fanout.sessions.resolve(session)
        return self.fanout.sessions.at[index].user if index else 0

    def origin_of(self, uint64_t session):
        """generation << 32 | index, which no later tenant of the place has; 0 if it is gone."""
        cdef uint32_t index = self.fanout.sessions.resolve(session)
        return self.fanout.sessions.origin_of(index) if index else 0

    def position_of(self, uint64_t session):
        """Sequence up to which the session has everything; None if it is gone."""
        cdef uint32_t index = self.fanout.sessions.resolve(session)
        return self.fanout.sessions.at[index].position if index else None

    def read_on(self, uint64_t session, uint64_t position):
        """Makes an open session a reader from a position; False if it is gone or closing."""
        cdef uint32_t index = self.fanout.sessions.resolve(session)
        cdef Session *s = &self.fanout.sessions.at[index]
        if index == 0 or not S_OPEN <= s.state <= S_LIVE:
            return False
        outbox_free(s)
        s.position = position
        s.state = S_READER
        return True

    def skip_to(self, uint64_t session, uint64_t position):
        """A reader needs nothing up to there: moves its position on, never back."""
        cdef Session *s = self._reader(session)
        if s != NULL and s.position < position:
            s.position = position

    def go_live(self, uint64_t session):
        """The flip, in the step in which the reader has all that was routed; False if it is not so."""
        cdef Session *s = self._reader(session)
        if s == NULL or s.position != self.fanout.sequence:
            return False
        s.state = S_LIVE
        return True

    def can_send(self, uint64_t session):
        """Whether a reader's socket is worth a page now."""
        cdef Session *s = self._reader(session)
        return s != NULL and s.fd >= 0 and not s.flags & F_BLOCKED

    def send_control(self, uint64_t session):
        """Sends what waits in front of the events; whether a reader's socket can take more."""
        cdef Session *s = self._reader(session)
        if s == NULL or s.fd < 0:
            return False
        if s.out_size and not s.flags & F_BLOCKED:
            self.fanout._flush_control(self.fanout.sessions.resolve(session))
        return s.state == S_READER and s.out_size == 0 and not s.flags & F_BLOCKED

    def send_records(self, uint64_t session, list records not None):
        """Sends stored records, ascending, to a reader until its socket is full; how many were begun."""
        cdef uint32_t index = self.fanout.sessions.resolve(session)
        cdef Py_ssize_t taken = 0, count = len(records)
        cdef int n
        cdef Session *s
        if index == 0:
            return 0
        s = &self.fanout.sessions.at[index]
        while taken < count and s.state == S_READER and s.fd >= 0 and not s.flags & F_BLOCKED:
            if s.out_size and not self.send_control(session):
                break
            n = self._send_page(index, records, taken)
            if n < 0:
                break
            taken += n
        return taken

    cdef int _send_page(self, uint32_t index, list records, Py_ssize_t start) except -2:
        """One send of as many records as fit the scratch; how many were begun, -1 if the connection broke."""
        cdef Session *s = &self.fanout.sessions.at[index]
        cdef const uint8_t *data
        cdef size_t fill = 0
        cdef uint32_t n = 0, k
        cdef ssize_t sent
        cdef int error
        cdef uint64_t last = s.position
        while n < PAGE_FRAMES_MAX and start + n < len(records):
            record = <bytes?>records[start + n]
            data = record
            if fill + event_frame_bound(data, <uint32_t>len(record), s.encoding) > SCRATCH_BYTES:
                break
            if rec_u64(data, 0) > last:  # else the session has it already
                last = rec_u64(data, 0)
                fill += event_frame_put(self.scratch + fill, data, <uint32_t>len(record), s.encoding)
            self.cuts[n].end = fill
            self.cuts[n].sequence = last
            n += 1
        if fill == 0:
            return <int>n
        while True:
            with nogil:  # no Python objects: the scratch and the session's descriptor
                sent = self.fanout.sessions.send(s, self.scratch, fill)
                error = errno if sent < 0 else 0
            self.fanout.sends += 1
            if error != EINTR:
                break
        if error and error != EAGAIN and error != ENOBUFS and error != ENOMEM:
            self.fanout._lose(index)
            return -1
        sent = max(sent, 0)
        self.fanout.sent_bytes += sent
        k = n
        if <size_t>sent < fill:
            k = 0
            while k < n and (self.cuts[k - 1].end if k else 0) < <size_t>sent:
                k += 1  # frame k has begun
            self.fanout.blocked += 1
            if k and self.cuts[k - 1].end > <size_t>sent:
                self.fanout.sessions.out_append(s, self.scratch + sent, self.cuts[k - 1].end - <size_t>sent)
            self.fanout.sessions.arm_writable(index)
        if k:
            s.position = self.cuts[k - 1].sequence
        self.fanout.delivered += k
        return <int>k

    # signals: never in the log, shed first

    def signal(self, uint64_t conversation, bytes msgpack not None, bytes json not None, uint64_t except_session=0):
        """One ephemeral message to the live sessions that follow a conversation; how many got it."""
        return self.signal_to(self.fanout.interest.sessions_of(conversation), msgpack, json, except_session)

    def signal_to(self, sessions, bytes msgpack not None, bytes json not None, uint64_t except_session=0):
        """One ephemeral message to these sessions, as far as they are live and not busy; how many got it."""
        cdef uint32_t except_index = self.fanout.sessions.resolve(except_session), index, done = 0
        cdef bytes frame, binary = _framed(msgpack, OPCODE_BINARY), text = _framed(json, OPCODE_TEXT)
        for session in sessions:
            index = self.fanout.sessions.resolve(session)
            if index == 0 or index == except_index:
                continue
            frame = text if self.fanout.sessions.at[index].encoding == E_JSON else binary
            if self._signal(index, frame, <size_t>len(frame)):
                done += 1
            else:
                self.shed += 1
        return done

    cdef int _signal(self, uint32_t index, const uint8_t *data, size_t size) except -1:
        cdef Session *s = &self.fanout.sessions.at[index]
        if (s.state != S_LIVE or s.flags & F_BLOCKED or s.ref_count > 1
                or s.out_size - s.out_sent + size > self.signal_bytes_max):
            return 0
        self.fanout.sessions.out_append(s, data, size)
        self.fanout.sessions.mark_dirty(index, False)
        return 1

    @property
    def signals_shed(self):
        return self.shed


cdef bytes _framed(bytes message, uint8_t opcode):
    """An unmasked WebSocket frame."""
    cdef uint8_t head[10]
    cdef uint8_t *end = frame_head_put(head, opcode, <size_t>len(message))
    return (<const uint8_t *>head)[:end - head] + message
