# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sockets of sessions: accepting, the timer, sending what is not the fan-out's, and the end of a session.

Below ext/inbound (which reads) and ext/deadlines (which waits). An end has steps: the close frame is queued and the
session reported; the peer's close frame or close_timeout_ms; our direction is shut; the peer's end or the same time
again; the descriptor is closed. What comes meanwhile is read and thrown away: closing over unread bytes would send a
reset, which can destroy the close frame on its way.

Invariants: a session that was upgraded is reported once, in the batch of the round in which it ended or of the next
one; its slot is free only when that batch has been handled; once reported, nothing is appended to it and no user leads
to it (Session.user stays until then: the last signals of the batch are still its).
Cost: accept4 and epoll_ctl a connection, shutdown and close an end; nothing for a session that is idle.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, strlen

from ext.c_memory cimport pages_map, pages_unmap
from ext.c_socket cimport (
    CLOCK_MONOTONIC, CLOCK_REALTIME, EAGAIN, ECONNABORTED, EINTR, ENOBUFS, ENOMEM, EPOLLIN, EPOLL_CLOEXEC,
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, F_GETFL, F_SETFL, IPPROTO_TCP, O_NONBLOCK,
    SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SO_LINGER, TCP_NODELAY, TCP_NOTSENT_LOWAT, TFD_CLOEXEC,
    TFD_NONBLOCK, c_accept4, c_close, c_fcntl, c_read, c_setsockopt, c_shutdown, clock_gettime, epoll_create1,
    epoll_ctl, epoll_event, errno, itimerspec, linger, sockaddr, socklen_t, timerfd_create, timerfd_settime, timespec)
from ext.closes cimport CLOSE_NONE, close_name
from ext.doorway cimport Doorway, address_key, address_of
from ext.frames cimport CONTROL_BYTES_MAX, FR_CLOSE, SERVER_HEAD_BYTES_MAX, server_head_put
from ext.session_table cimport (
    F_BLOCKED, F_CLOSE_SEEN, F_CLOSE_SENT, F_DEAD, F_NO_READ, F_PINGED, F_PROXIED, F_REFUSE, F_REQUEST, F_SHUT, RESERVE,
    S_CLOSING, S_FREE, S_HANDSHAKE, S_LIVE, S_OPEN, S_READER, TLS_AWAITED, Session, SessionTable)
from ext.tls cimport Link, tls_say_end
from ext.wheel cimport TICK_MS, Wheel

cdef enum:
    ACCEPT_TURN = 64  # connections taken in before sessions have their turn
    ACCEPT_BURST_MS = 100  # of the allowed rate at once
    ASIDE_NS = 1000000  # how long whoever has its share leaves a connection to others
    NAME_BYTES = 128  # of any kind of address
    UNSENT_BYTES_MAX = 131072  # that the kernel queues for a peer whose window is full; else up to 4 MiB of its memory


cdef class Sockets:
    def __cinit__(self, SessionTable sessions not None, Gathered gathered not None, uint32_t connects_per_s_max,
                  uint32_t hello_timeout_ms, uint32_t close_timeout_ms, Doorway doorway not None):
        self.epoll_fd = self.timer_fd = self.listener_fd = -1
        if not 1 <= connects_per_s_max <= 1_000_000:
            raise ValueError(f"connects_per_s_max = {connects_per_s_max} must be 1 to 1000000")
        self.sessions = sessions
        self.at = sessions.at
        self.gathered = gathered
        self.doorway = doorway
        self.sessions_max = sessions.room - RESERVE - 1
        self.connects_per_s_max = connects_per_s_max
        self.hello_timeout_ms = hello_timeout_ms
        self.close_timeout_ms = close_timeout_ms
        self.ended = <uint32_t *>pages_map(<size_t>sessions.room * 4)
        self.dead = <uint32_t *>pages_map(<size_t>sessions.room * 4)
        if self.ended == NULL or self.dead == NULL:
            raise MemoryError(f"no memory for the ends of {sessions.room} sessions")
        self.tell_time()
        self.random = <uint64_t>self.now_ns | 1
        self.wheel = Wheel(sessions, self.now_ms)
        self._open()

    def __dealloc__(self):
        if self.epoll_fd > 0:  # 0 is no descriptor of ours: nothing has been opened yet
            c_close(self.epoll_fd)
        if self.timer_fd > 0:
            c_close(self.timer_fd)
        if self.at != NULL:
            pages_unmap(self.ended, <size_t>(self.sessions_max + RESERVE + 1) * 4)
            pages_unmap(self.dead, <size_t>(self.sessions_max + RESERVE + 1) * 4)

    def _open(self):
        cdef epoll_event event
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        event.events = EPOLLIN
        event.data.u64 = EVENT_TIMER
        if self.epoll_fd < 0 or self.timer_fd < 0 or epoll_ctl(
                self.epoll_fd, EPOLL_CTL_ADD, self.timer_fd, &event) < 0:
            raise OSError(errno, "no epoll set for the sessions")
        self.sessions.epoll_fd = self.epoll_fd

    # clock and timer

    cdef void tell_time(self) noexcept nogil:
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        self.now_ns = <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
        self.now_ms = <uint64_t>self.now_ns // 1000000
        clock_gettime(CLOCK_REALTIME, &now)
        self.real_s = now.tv_sec

    cdef void _set_timer(self, long first_ns, long every_ns) noexcept nogil:
        cdef itimerspec value
        value.it_value.tv_sec = first_ns // 1000000000
        value.it_value.tv_nsec = first_ns % 1000000000
        value.it_interval.tv_sec = every_ns // 1000000000
        value.it_interval.tv_nsec = every_ns % 1000000000
        timerfd_settime(self.timer_fd, 0, &value, NULL)

    cdef void tick(self) noexcept nogil:
        if not self.ticking:
            self.ticking = True
            self._set_timer(TICK_MS * 1000000, TICK_MS * 1000000)

    cdef void wake(self) noexcept nogil:
        if not self.woken:
            self.ticking = self.woken = True
            self._set_timer(1, TICK_MS * 1000000)

    cdef void wake_for_ends(self) noexcept nogil:
        if self.ended_count > self.ended_reported or self.dead_count:
            self.wake()

    cdef void rest(self) noexcept nogil:
        if self.ticking and not self.woken and self.sessions.open_count == 0 and not self.accept_paused:
            self.ticking = False
            self._set_timer(0, 0)

    cdef void ticked(self) noexcept nogil:
        cdef uint64_t expirations
        c_read(self.timer_fd, &expirations, sizeof(expirations))
        self.woken = False
        if self.accept_paused and self._may_accept():
            self._pause_accept(False)

    # accepting

    cdef int listen_on(self, int fd) noexcept nogil:
        cdef epoll_event event
        cdef int on = 1, unsent_bytes_max = UNSENT_BYTES_MAX
        # Connections inherit both from the listening socket: no system call for each.
        c_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        c_setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_bytes_max, sizeof(unsent_bytes_max))
        c_fcntl(fd, F_SETFL, c_fcntl(fd, F_GETFL, 0) | O_NONBLOCK)
        event.events = EPOLLIN
        event.data.u64 = EVENT_LISTENER
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            return -1
        self.listener_fd = fd
        self.accept_paused = False
        return 0

    cdef void unlisten(self) noexcept nogil:
        if self.listener_fd >= 0:
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, self.listener_fd, NULL)
        self.listener_fd = -1
        self.accept_paused = False

    cdef void _pause_accept(self, bint pause) noexcept nogil:
        """More wait in the kernel's queue; the timer goes on with them."""
        cdef epoll_event event
        event.events = 0 if pause else EPOLLIN
        event.data.u64 = EVENT_LISTENER
        epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, self.listener_fd, &event)
        self.accept_paused = pause
        if pause:
            self.tick()

    cdef bint _stand_aside(self) noexcept nogil:
        """Whether others shall have this one: who still waits a millisecond later finds nobody else with time."""
        if not self.share or self.sessions.open_count < self.share or self.stood_aside:
            self.stood_aside = False
            return False
        self.stood_aside = True
        self._pause_accept(True)
        if not self.woken:
            self._set_timer(ASIDE_NS, TICK_MS * 1000000)
        return True

    cdef bint _may_accept(self) noexcept nogil:
        """Counts what the rate allows up to now."""
        cdef int64_t most = max(<int64_t>self.connects_per_s_max * ACCEPT_BURST_MS, 1000)
        cdef uint64_t passed_ms = min(self.now_ms - self.accept_ms, <uint64_t>60000)
        self.accept_tokens_milli += <int64_t>passed_ms * self.connects_per_s_max
        self.accept_ms = self.now_ms
        if self.accept_tokens_milli > most:
            self.accept_tokens_milli = most
        return self.accept_tokens_milli >= 1000

    cdef void accept(self) noexcept nogil:
        cdef int fd, turn
        cdef uint8_t name[NAME_BYTES]
        cdef socklen_t size
        if self._stand_aside():
            return
        for turn in range(ACCEPT_TURN):
            if self.listener_fd < 0:
                return
            if self.accept_tokens_milli < 1000 and not self._may_accept():
                self._pause_accept(True)
                return
            size = NAME_BYTES
            name[0] = name[1] = 0
            fd = c_accept4(self.listener_fd, <sockaddr *>name, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.accept_tokens_milli -= 1000
                self._take_in(fd, name)
            elif errno == EAGAIN:
                return
            elif errno != EINTR and errno != ECONNABORTED:
                self._pause_accept(True)  # no descriptors or no memory: at the next tick again
                return

    cdef void _take_in(self, int fd, const uint8_t *name) noexcept nogil:
        cdef epoll_event event
        cdef uint8_t address[16]
        cdef bint known = address_of(name, address)
        cdef uint32_t index
        cdef Session *s
        if self.doorway.proxied and not (known and self.doorway.trusts(address)):
            self.untrusted += 1
            c_close(fd)
            return
        if self.doorway.is_full() and not self._make_place(0):
            self.refused += 1
            c_close(fd)
            return
        index = self.sessions.acquire(fd)
        s = &self.at[index]
        event.events = EPOLLIN
        if index:
            event.data.u64 = self.sessions.origin_of(index)
            if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
                self.sessions.release(index)
                index = 0
        if index == 0:
            self.refused += 1
            c_close(fd)
            return
        if self.sessions.open_count > self.sessions_max:
            s.flags |= F_REFUSE
        s.heard_ms = s.ping_ms = s.rate_at_ms = <uint32_t>self.now_ms
        s.cold = self.gathered.handled
        if self.tls_context != NULL:
            s.tls = <Link *><size_t>TLS_AWAITED
        self.wheel.put(index, self.now_ms + self.hello_timeout_ms)
        self.tick()
        s.user_next = self.doorway.enter(index)
        if self.doorway.proxied:
            s.flags |= F_PROXIED
        elif known:
            self.arrived(index, address)

    cdef bint _make_place(self, uint32_t beside) noexcept nogil:
        """Puts out who has waited longest without a word, of the address of `beside` if that is given."""
        cdef uint32_t index = self.doorway.first_of(self.at[beside].user_next) if beside else self.doorway.first()
        if index == 0 or index == beside:
            return False
        self.put_out += 1
        self.drop(index, True)
        return True

    cdef void arrived(self, uint32_t index, const uint8_t *address) noexcept nogil:
        cdef Session *s = &self.at[index]
        if not self.doorway.come_from(s.user_next, address_key(address), <uint32_t>self.now_ms):
            self.address_limited += 1
            s.flags |= F_REFUSE
        if self.doorway.is_crowded(s.user_next) and not self._make_place(index):
            self.address_limited += 1
            s.flags |= F_REFUSE

    cdef uint32_t spread(self, uint32_t middle) noexcept nogil:
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return middle // 2 + <uint32_t>(self.random >> 32) % (middle + 1)

    # output

    cdef int send_now(self, uint32_t index, const uint8_t *data, size_t size) except -1 nogil:
        """Sends a whole frame behind what waits; at once, and without a buffer, if nothing does."""
        cdef Session *s = &self.at[index]
        cdef ssize_t sent
        if s.out_size or s.flags & F_BLOCKED:
            self.sessions.out_append(s, data, size)
            self.sessions.mark_dirty(index, True)
            return 0
        sent = self.sessions.send(s, data, size)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
                self.drop(index, False)
                return 0
            sent = 0
        self.sessions.sent_bytes += <uint64_t>sent
        if <size_t>sent < size:
            self.sessions.out_append(s, data + sent, size - <size_t>sent)
            self.sessions.arm_writable(index)
        return 0

    cdef int send_out(self, uint32_t index) except -1 nogil:
        """Sends what waits in front of the events."""
        cdef int gone = self.sessions.out_flush(&self.at[index])
        if gone < 0:
            self.drop(index, False)
        elif gone == 0:
            self.sessions.arm_writable(index)
        return 0

    cdef int writable(self, uint32_t index) except -1 nogil:
        """The kernel takes bytes again: the peer is alive, and what was held back goes on."""
        cdef Session *s = &self.at[index]
        cdef int gone
        if not s.flags & F_BLOCKED:
            self.sessions.set_events(index)
            return 0
        gone = self.sessions.out_flush(s)
        if gone < 0:
            self.drop(index, False)
            return 0
        s.heard_ms = <uint32_t>self.now_ms
        if s.flags & F_NO_READ and not s.flags & F_REQUEST and s.out_size - s.out_sent <= OUT_HELD_BYTES // 2:
            s.flags &= ~F_NO_READ
            if not gone:
                self.sessions.set_events(index)
        if gone:
            s.flags &= ~(F_BLOCKED | F_PINGED)
            self.sessions.set_events(index)
            if s.flags & F_CLOSE_SENT:
                self._send_last(index)
            elif s.state == S_READER:
                self.gathered.add_writable(index)
        return 0

    cdef void hold_if_full(self, uint32_t index) noexcept nogil:
        """Who takes nothing is not read: what it asks for would only grow."""
        cdef Session *s = &self.at[index]
        cdef int gone
        if s.out_size - s.out_sent <= OUT_HELD_BYTES or s.flags & (F_NO_READ | F_CLOSE_SENT) or s.fd < 0:
            return
        if not s.flags & F_BLOCKED:
            gone = self.sessions.out_flush(s)
            if gone < 0:
                self.drop(index, False)
                return
            if gone:
                return
            s.flags |= F_BLOCKED
        if s.out_size - s.out_sent > OUT_HELD_BYTES:
            s.flags |= F_NO_READ
        self.sessions.set_events(index)

    # ends

    cdef int end(self, uint32_t index, uint16_t code, const uint8_t *reason, size_t size) except -1 nogil:
        """Queues the close frame of an upgraded session and reports it."""
        cdef Session *s = &self.at[index]
        cdef uint8_t body[CONTROL_BYTES_MAX]
        cdef uint8_t *to
        cdef size_t head
        if not S_OPEN <= s.state <= S_LIVE:
            return 0
        if code != CLOSE_NONE:
            size = min(size, <size_t>CLOSE_REASON_BYTES_MAX)
            body[0], body[1] = <uint8_t>(code >> 8), <uint8_t>code
            if size:
                memcpy(body + 2, reason, size)
            size += 2
        else:
            size = 0
        self._report(index)
        to = self.sessions.out_reserve(s, SERVER_HEAD_BYTES_MAX + size)
        head = server_head_put(to, FR_CLOSE, size)
        memcpy(to + head, body, size)
        s.out_size += <uint32_t>(head + size)
        self._send_last(index)
        return 0

    cdef int end_named(self, uint32_t index, uint16_t code) except -1 nogil:
        """The same with the code's own name as the reason."""
        cdef const char *name = close_name(code)
        return self.end(index, code, <const uint8_t *>name, strlen(name))

    cdef int end_http(self, uint32_t index, const uint8_t *answer, size_t size) except -1 nogil:
        """The only answer of a connection that was never upgraded."""
        cdef Session *s = &self.at[index]
        if s.state != S_HANDSHAKE or s.flags & F_CLOSE_SENT or s.fd < 0:
            return 0
        self.sessions.out_append(s, answer, size)
        s.flags &= ~F_REQUEST
        self._send_last(index)
        return 0

    cdef void _send_last(self, uint32_t index) noexcept nogil:
        """Sends what is left, the last frame at its end; reads on, for the peer's close frame or its end."""
        cdef Session *s = &self.at[index]
        cdef int gone = 0
        s.flags |= F_CLOSE_SENT
        if s.flags & F_NO_READ:
            s.flags &= ~F_NO_READ
            self.sessions.set_events(index)
        if not s.flags & F_BLOCKED:
            gone = self.sessions.out_flush(s)
            if gone < 0:
                self.drop(index, False)
                return
            if gone == 0:
                self.sessions.arm_writable(index)
        if gone and (s.state == S_HANDSHAKE or s.flags & F_CLOSE_SEEN):
            self.shut_down(index)
        else:
            self.wheel.put(index, self.now_ms + self.close_timeout_ms)

    cdef void shut_down(self, uint32_t index) noexcept nogil:
        """Nothing more goes out; what still comes in is thrown away."""
        cdef Session *s = &self.at[index]
        if s.flags & F_SHUT:
            return
        s.flags |= F_SHUT
        if <size_t>s.tls > TLS_AWAITED:
            tls_say_end(s.tls)
        c_shutdown(s.fd, SHUT_WR)
        self.wheel.put(index, self.now_ms + self.close_timeout_ms)

    cdef void drop(self, uint32_t index, bint reset) noexcept nogil:
        """Closes the descriptor now; the slot waits until its end has been reported and handled."""
        cdef Session *s = &self.at[index]
        cdef linger at_once
        if s.fd < 0 or s.state == S_FREE:
            return
        if S_OPEN <= s.state <= S_LIVE:
            self._report(index)
        self.doorway.leave(s.user_next, index)
        s.state = S_CLOSING
        s.flags |= F_DEAD
        self.wheel.take(index)
        self.sessions.end_tls(s, not reset and not s.flags & F_SHUT)
        if reset:  # the kernel gives back what it still holds for a peer that takes nothing
            at_once.l_onoff, at_once.l_linger = 1, 0
            c_setsockopt(s.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
        c_close(s.fd)
        s.fd = -1
        self.dead[self.dead_count] = index
        self.dead_count += 1

    cdef void _report(self, uint32_t index) noexcept nogil:
        """From open to closing: one entry of the next batch."""
        cdef Session *s = &self.at[index]
        cdef uint64_t user = s.user, device = s.device
        if s.state != S_OPEN:
            self.identified -= 1
        self.sessions.unlink_user(index)
        s.user, s.device = user, device
        s.state = S_CLOSING
        free(s.refs)
        s.refs = NULL
        s.ref_count = s.ref_room = 0
        self.sessions.weigh(index)
        self.ended[self.ended_count] = index
        self.ended_count += 1
        self.closed += 1

    cdef void settle(self) noexcept nogil:
        cdef uint32_t i
        cdef Session *s
        for i in range(self.ended_reported):
            s = &self.at[self.ended[i]]
            s.user = s.device = 0
        self.ended_count -= self.ended_reported
        memmove(self.ended, self.ended + self.ended_reported, <size_t>self.ended_count * 4)
        for i in range(self.dead_reported):
            self.sessions.release(self.dead[i])
        self.dead_count -= self.dead_reported
        memmove(self.dead, self.dead + self.dead_reported, <size_t>self.dead_count * 4)
        self.ended_reported = self.dead_reported = 0

    cdef void close_all(self) noexcept nogil:
        cdef uint32_t i
        self.unlisten()
        for i in range(1, self.sessions.high + 1):
            self.drop(i, False)
            self.sessions.release(i)
        self.ended_count = self.dead_count = self.ended_reported = self.dead_reported = 0
        self.sessions.epoll_fd = -1
        c_close(self.timer_fd)
        c_close(self.epoll_fd)
        self.timer_fd = self.epoll_fd = -1
