# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The table of sessions: a C struct for each connected device, an index from users to them, and the dirty queues.

Between the poller (opens, fills, closes), the fan-out (references, flush) and Python, which knows a session only as
its index, or as `origin = generation << 32 | index` where an answer may come late. Every method for Python takes
either; an origin of an earlier tenant of the slot finds nothing.

Invariants: the array never moves; a slot is reused only after the batch that reported its end has been handled; an
entry of a dirty queue without F_DIRTY is skipped, so that neither closing nor flushing ever searches a queue;
out_data holds whole frames, of which the first may be partly sent. All buffers of all sessions together stay within
buffers_bytes_max: one session may hold an eighth of what the others leave of it, so that a few that are slow or send
nothing whole can't take it all, and many can't leave the next one nothing. The poller ends whoever holds more.
Cost: 192 bytes a session, and 4 to 8 for each user; an idle session has no buffer but what OpenSSL keeps for TLS.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset

from ext.c_memory cimport pages_map, pages_unmap
from ext.c_socket cimport (
    EAGAIN, EINTR, ENOBUFS, ENOMEM, EPIPE, EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD, MSG_DONTWAIT, MSG_NOSIGNAL, c_send, epoll_ctl,
    epoll_event, errno)
from ext.c_tls cimport errno_set
from ext.tls cimport tls_flush, tls_free, tls_held_bytes, tls_say_end, tls_send

cdef enum:
    OUT_ROOM_BYTES_MIN = 128
    USER_ROOM_MIN = 64

SESSION_BYTES = sizeof(Session)
assert SESSION_BYTES <= 192


cdef inline uint64_t _mixed(uint64_t user) noexcept nogil:
    user ^= user >> 32
    user *= <uint64_t>0x9E3779B97F4A7C15
    return user ^ (user >> 29)


cdef class SessionTable:
    def __cinit__(self, uint32_t sessions_max=100_000, uint64_t buffers_bytes_max=256 << 20):
        if not 1 <= sessions_max <= 1 << 24:
            raise ValueError(f"sessions_max = {sessions_max} must be 1 to {1 << 24}")
        self.room = sessions_max + RESERVE + 1
        self.buffers_bytes_max = buffers_bytes_max
        self.epoll_fd = -1
        self.user_room = USER_ROOM_MIN
        self.user_slots = <uint32_t *>calloc(self.user_room, 4)
        self.at = <Session *>pages_map(<size_t>self.room * sizeof(Session))
        self.overfull = <uint64_t *>pages_map(<size_t>self.room * 8)
        if self.at == NULL or self.user_slots == NULL or self.overfull == NULL:
            raise MemoryError(f"no memory for a table of {sessions_max} sessions")

    def __dealloc__(self):
        cdef uint32_t i
        if self.at != NULL:
            for i in range(1, self.high + 1):
                _free_buffers(&self.at[i])
            pages_unmap(self.at, <size_t>self.room * sizeof(Session))
        if self.overfull != NULL:
            pages_unmap(self.overfull, <size_t>self.room * 8)
        free(self.user_slots)

    # life

    cdef uint32_t acquire(self, int fd) noexcept nogil:
        cdef uint32_t index = self.free_head, generation
        cdef uint32_t dirty_next, priority_next
        cdef uint16_t preserved
        cdef Session *s
        if index:
            self.free_head = self.at[index].user_next
        elif self.high + 1 < self.room:
            self.high += 1
            index = self.high
        else:
            return 0
        s = &self.at[index]
        # A slot may still be linked in a dirty queue from its last tenant; it is skipped there or used again.
        generation, dirty_next, priority_next = s.generation, s.dirty_next, s.priority_next
        preserved = s.flags & F_PRESERVED
        memset(s, 0, sizeof(Session))
        s.generation = (generation + 1) & 0x1FFFFF or 1  # origins stay below 2^53: exact wherever they travel
        s.dirty_next, s.priority_next, s.flags = dirty_next, priority_next, preserved
        s.state = S_HANDSHAKE
        s.fd = fd
        self.open_count += 1
        return index

    cdef void release(self, uint32_t index) noexcept nogil:
        cdef Session *s = &self.at[index]
        if s.state == S_FREE:
            return
        if s.user:
            self.unlink_user(index)
        _free_buffers(s)
        self.weigh(index)
        s.state = S_FREE
        s.fd = -1
        s.flags &= F_PRESERVED
        s.user_next = self.free_head
        self.free_head = index
        self.open_count -= 1

    cdef void empty(self, uint32_t index) noexcept nogil:
        cdef Session *s = &self.at[index]
        _free_output(s)
        free(s.in_data)
        s.in_data = NULL
        s.in_size = s.in_room = 0
        self.weigh(index)

    cdef uint64_t origin_of(self, uint32_t index) noexcept nogil:
        return <uint64_t>self.at[index].generation << 32 | index

    cdef void weigh(self, uint32_t index) noexcept nogil:
        cdef Session *s = &self.at[index]
        cdef uint32_t before = s.weight
        cdef uint64_t others = self.buffers_bytes - before
        s.weight = s.in_room + s.out_room + s.ref_room * 8
        if <size_t>s.tls > TLS_AWAITED:
            s.weight += s.tls.waiting_room
        self.buffers_bytes = others + s.weight
        if s.weight > before and self.overfull_count < self.room and (
                others >= self.buffers_bytes_max or s.weight > (self.buffers_bytes_max - others) // SHARE_OF_REST):
            self.overfull[self.overfull_count] = self.origin_of(index)
            self.overfull_count += 1

    cpdef uint32_t resolve(self, uint64_t session) noexcept nogil:
        """Index or origin to index; 0 if it is gone. A session that is ending still has its index."""
        cdef uint32_t index = <uint32_t>session, generation = <uint32_t>(session >> 32)
        if index == 0 or index > self.high or self.at[index].state == S_FREE:
            return 0
        return index if generation == 0 or generation == self.at[index].generation else 0

    # users

    cdef int link_user(self, uint32_t index, uint64_t user, uint64_t device) except -1 nogil:
        cdef uint32_t place
        if (self.user_count + 1) * 4 > self.user_room * 3:
            self._grow_users()
        place = self._user_place(user)
        if self.user_slots[place] == 0:
            self.user_count += 1
        self.at[index].user = user
        self.at[index].device = device
        self.at[index].user_next = self.user_slots[place]
        self.user_slots[place] = index
        return 0

    cdef void unlink_user(self, uint32_t index) noexcept nogil:
        cdef Session *s = &self.at[index]
        cdef uint32_t place, before
        if s.user == 0:
            return
        place = self._user_place(s.user)
        before = self.user_slots[place]
        if before == index:
            self.user_slots[place] = s.user_next
            if s.user_next == 0:
                self._close_gap(place)
        else:
            while before and self.at[before].user_next != index:
                before = self.at[before].user_next
            if before:
                self.at[before].user_next = s.user_next
        s.user = s.device = 0
        s.user_next = 0

    cdef uint32_t first_of_user(self, uint64_t user) noexcept nogil:
        return self.user_slots[self._user_place(user)]

    cdef uint32_t _user_place(self, uint64_t user) noexcept nogil:
        """The place of a user, or the empty one where it would be."""
        cdef uint32_t mask = self.user_room - 1
        cdef uint32_t place = <uint32_t>_mixed(user) & mask
        while self.user_slots[place] and self.at[self.user_slots[place]].user != user:
            place = (place + 1) & mask
        return place

    cdef void _close_gap(self, uint32_t gap) noexcept nogil:
        """Moves what follows back, so that no search ends early."""
        cdef uint32_t mask = self.user_room - 1, place = gap, home
        self.user_count -= 1
        while True:
            place = (place + 1) & mask
            if self.user_slots[place] == 0:
                break
            home = <uint32_t>_mixed(self.at[self.user_slots[place]].user) & mask
            if ((place - home) & mask) >= ((place - gap) & mask):
                self.user_slots[gap] = self.user_slots[place]
                gap = place
        self.user_slots[gap] = 0

    cdef int _grow_users(self) except -1 nogil:
        cdef uint32_t old_room = self.user_room, i
        cdef uint32_t *old = self.user_slots
        cdef uint32_t *grown = <uint32_t *>calloc(<size_t>old_room * 2, 4)
        if grown == NULL:
            with gil:
                raise MemoryError(f"no memory for an index of {old_room * 2} users")
        self.user_slots = grown
        self.user_room = old_room * 2
        for i in range(old_room):
            if old[i]:
                grown[self._user_place(self.at[old[i]].user)] = old[i]
        free(old)
        return 0

    # output

    cdef int out_append(self, Session *session, const uint8_t *data, size_t size) except -1 nogil:
        cdef uint8_t *to = self.out_reserve(session, size)
        memcpy(to, data, size)
        session.out_size += <uint32_t>size
        return 0

    cdef uint8_t *out_reserve(self, Session *session, size_t size) except NULL nogil:
        cdef size_t needed, room
        cdef void *moved
        if session.out_sent:
            session.out_size -= session.out_sent
            memmove(session.out_data, session.out_data + session.out_sent, session.out_size)
            session.out_sent = 0
        needed = session.out_size + size
        if needed > session.out_room or session.out_data == NULL:
            room = max(OUT_ROOM_BYTES_MIN, session.out_room + session.out_room // 2, needed)
            moved = NULL
            if room < <size_t>1 << 31:
                moved = realloc(session.out_data, room)
            if moved == NULL:
                with gil:
                    raise MemoryError(f"no memory for {room} bytes of a session's output")
            session.out_data = <uint8_t *>moved
            session.out_room = <uint32_t>room
            self.weigh(<uint32_t>(session - self.at))
        return session.out_data + session.out_size

    cdef int out_flush(self, Session *session) noexcept nogil:
        cdef ssize_t sent
        while session.out_sent < session.out_size:
            sent = self.send(session, session.out_data + session.out_sent, session.out_size - session.out_sent)
            if sent < 0:
                if errno == EINTR:
                    continue
                return 0 if errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM else -1
            session.out_sent += <uint32_t>sent
            self.sent_bytes += <uint64_t>sent
        _free_output(session)
        self.weigh(<uint32_t>(session - self.at))
        return 1 if <size_t>session.tls <= TLS_AWAITED else tls_flush(session.tls)

    cdef bint out_waits(self, Session *session) noexcept nogil:
        return session.out_size > 0 or <size_t>session.tls > TLS_AWAITED and session.tls.waiting_size > 0

    cdef ssize_t send(self, Session *session, const uint8_t *data, size_t size) noexcept nogil:
        cdef ssize_t taken
        if session.tls == NULL:
            return c_send(session.fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if <size_t>session.tls == TLS_AWAITED:
            errno_set(EPIPE)
            return -1
        taken = tls_send(session.tls, data, size)
        if session.tls.waiting_size and not session.flags & F_BLOCKED:
            self.arm_writable(<uint32_t>(session - self.at))
        return taken

    cdef void end_tls(self, Session *session, bint say) noexcept nogil:
        if <size_t>session.tls > TLS_AWAITED:
            if say:
                tls_say_end(session.tls)
            tls_free(session.tls)
        session.tls = NULL

    cdef void mark_dirty(self, uint32_t index, bint priority) noexcept nogil:
        cdef Session *s = &self.at[index]
        if priority:
            s.flags |= F_DIRTY | F_PRIORITY
            if not s.flags & F_IN_PRIORITY:
                s.flags |= F_IN_PRIORITY
                s.priority_next = 0
                if self.priority_tail:
                    self.at[self.priority_tail].priority_next = index
                else:
                    self.priority_head = index
                self.priority_tail = index
        elif not s.flags & F_DIRTY:
            s.flags |= F_DIRTY
            if not s.flags & F_IN_BULK:
                s.flags |= F_IN_BULK
                s.dirty_next = 0
                if self.bulk_tail:
                    self.at[self.bulk_tail].dirty_next = index
                else:
                    self.bulk_head = index
                self.bulk_tail = index

    cdef uint32_t pop_priority(self) noexcept nogil:
        cdef uint32_t index
        cdef Session *s
        while self.priority_head:
            index = self.priority_head
            s = &self.at[index]
            self.priority_head = s.priority_next
            if self.priority_head == 0:
                self.priority_tail = 0
            s.flags &= ~F_IN_PRIORITY
            if s.flags & F_PRIORITY:
                s.flags &= ~(F_DIRTY | F_PRIORITY)
                return index
        return 0

    cdef uint32_t pop_bulk(self) noexcept nogil:
        cdef uint32_t index
        cdef Session *s
        while self.bulk_head:
            index = self.bulk_head
            s = &self.at[index]
            self.bulk_head = s.dirty_next
            if self.bulk_head == 0:
                self.bulk_tail = 0
            s.flags &= ~F_IN_BULK
            if s.flags & F_DIRTY:
                s.flags &= ~(F_DIRTY | F_PRIORITY)
                return index
        return 0

    cdef void arm_writable(self, uint32_t index) noexcept nogil:
        self.at[index].flags |= F_BLOCKED
        self.set_events(index)

    cdef void set_events(self, uint32_t index) noexcept nogil:
        cdef epoll_event event
        cdef Session *s = &self.at[index]
        if self.epoll_fd < 0 or s.fd < 0:
            return
        event.events = 0 if s.flags & F_NO_READ else EPOLLIN
        if s.flags & F_BLOCKED:
            event.events |= EPOLLOUT
        event.data.u64 = self.origin_of(index)
        epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, s.fd, &event)

    # for Python: sessions may be indexes or origins

    def origin(self, uint64_t session):
        """What names a session for good: generation << 32 | index; 0 if it is gone."""
        cdef uint32_t index = self.resolve(session)
        return self.origin_of(index) if index else 0

    def state(self, uint64_t session):
        """Its state (S_*); 0 if it is gone."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].state if index else S_FREE

    def encoding(self, uint64_t session):
        """0 MessagePack, 1 JSON."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].encoding if index else E_MSGPACK

    def user(self, uint64_t session):
        """0 before identity and after its end."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].user if index else 0

    def device(self, uint64_t session):
        """0 before identity and after its end."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].device if index else 0

    def unanswered(self, uint64_t session):
        """Writes that have not got their receipt."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].unanswered if index else 0

    def unsent_bytes(self, uint64_t session):
        """Output that waits, events aside."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].out_size - self.at[index].out_sent if index else 0

    def of_user(self, uint64_t user):
        """Indexes of a user's identified sessions, the newest first."""
        cdef uint32_t index = self.first_of_user(user) if user else 0
        found = []
        while index:
            found.append(index)
            index = self.at[index].user_next
        return found

    def count_of_user(self, uint64_t user):
        """How many."""
        cdef uint32_t index = self.first_of_user(user) if user else 0
        cdef uint32_t count = 0
        while index:
            count += 1
            index = self.at[index].user_next
        return count

    def find_device(self, uint64_t user, uint64_t device):
        """The index of a device's session; 0 if there is none."""
        cdef uint32_t index = self.first_of_user(user) if user else 0
        while index and self.at[index].device != device:
            index = self.at[index].user_next
        return index

    def issued_s(self, uint64_t session):
        """When its token was issued, UNIX time; 0 if the token doesn't say."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].issued_s if index else 0

    def hello_ns(self, uint64_t session):
        """When it said hello, CLOCK_MONOTONIC; 0 if it hasn't, or is gone."""
        cdef uint32_t index = self.resolve(session)
        return self.at[index].hello_ns if index else 0

    def marked(self, uint32_t first, uint32_t count, const uint64_t[::1] marks not None):
        """Origins among the next `count` places whose token has one of these marks (ascending), and the place behind
        them: 0 when that was all."""
        cdef uint32_t i = max(first, <uint32_t>1), end
        cdef uint64_t last = min(<uint64_t>i + count, <uint64_t>self.high + 1)
        cdef Py_ssize_t low, top, middle
        end = <uint32_t>last
        found = []
        for i in range(i, end):
            if self.at[i].token_mark == 0 or not S_OPEN < self.at[i].state < S_CLOSING:
                continue
            low, top = 0, marks.shape[0]
            while low < top:
                middle = (low + top) // 2
                if marks[middle] < self.at[i].token_mark:
                    low = middle + 1
                else:
                    top = middle
            if low < marks.shape[0] and marks[low] == self.at[i].token_mark:
                found.append(self.origin_of(i))
        return found, end if end <= self.high else 0

    def origins(self):
        """Origins of all sessions that have not begun to end."""
        cdef uint32_t i
        return [self.origin_of(i) for i in range(1, self.high + 1) if S_FREE < self.at[i].state < S_CLOSING]

    @property
    def identified_count(self):
        """Sessions after hello."""
        cdef uint32_t i, count = 0
        for i in range(1, self.high + 1):
            count += self.at[i].state == S_READER or self.at[i].state == S_LIVE
        return count

    @property
    def reader_count(self):
        """Sessions that read the log: resuming, or too slow."""
        cdef uint32_t i, count = 0
        for i in range(1, self.high + 1):
            count += self.at[i].state == S_READER
        return count

    def memory_bytes(self):
        """What the table holds: the touched part of the array, the index of users, and all buffers of sessions."""
        cdef uint32_t i
        cdef Session *s
        cdef uint64_t total = (<uint64_t>self.high + 1) * sizeof(Session) + <uint64_t>self.user_room * 4
        for i in range(1, self.high + 1):
            s = &self.at[i]
            total += <uint64_t>s.in_room + s.out_room + <uint64_t>s.ref_room * 8 + <uint64_t>s.follow_room * 8
            if <size_t>s.tls > TLS_AWAITED:
                total += tls_held_bytes(s.tls)
        return total

    def held_buffers(self):
        """Buffers that sessions hold now, (input, output): zero of both while all are idle."""
        cdef uint32_t i, inputs = 0, outputs = 0
        for i in range(1, self.high + 1):
            inputs += self.at[i].in_data != NULL
            outputs += self.at[i].out_data != NULL
        return inputs, outputs


cdef void _free_output(Session *s) noexcept nogil:
    free(s.out_data)
    s.out_data = NULL
    s.out_size = s.out_sent = s.out_room = 0


cdef void _free_buffers(Session *s) noexcept nogil:
    _free_output(s)
    if <size_t>s.tls > TLS_AWAITED:
        tls_free(s.tls)
    s.tls = NULL
    free(s.in_data)
    free(s.refs)
    free(s.follows)
    s.in_data = NULL
    s.refs = NULL
    s.follows = NULL
    s.in_size = s.in_room = s.ref_count = s.ref_room = s.follow_count = s.follow_room = 0
