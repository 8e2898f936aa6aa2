# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The poller: all sockets of a worker's sessions as one descriptor of its loop.

When fileno() is readable, run() serves for its budget what is ready (accept, handshake, frames, hot commands, timers)
and gives Python one batch of what needs it. What the budget leaves is served first in the next round; the kernel
turns its list of ready sockets by itself, so nobody waits for long. Answers of the sequencer come back as receipts.
The other direction, pushes and ends, is one call a session. Output waits in Session.out_data for the flush of
ext/fanout, so that receipts and events of a step leave in one send.

Invariants: a batch reports each end once, and its session's slot isn't used again before the next run(); an origin of
an earlier tenant finds nobody; a round that fails for want of memory costs the one session that it was about.
Cost: two system calls a round, one recv for a ready socket; no Python object for a connection.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from ext.c_socket cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, epoll_event, epoll_wait
from ext.commands cimport STATUS_TOO_MANY_UNANSWERED
from ext.closes cimport CLOSE_GOING_AWAY, CLOSE_OVERLOADED
from ext.frames cimport FR_BINARY, FR_TEXT, SERVER_HEAD_BYTES_MAX, server_head_put
from ext.doorway cimport Doorway
from ext.gathered cimport MESSAGE_BYTES
from ext.handshake cimport HANDSHAKE_ANSWER_BYTES_MAX, busy_answer
from ext.inbound cimport BUSY_RETRY_S, COLD_WAITING_BYTES_MOST, RECEIVE_BYTES, UNANSWERED_RETRY_MS
from ext.receipts cimport Answer
from ext.session_table cimport (
    E_JSON, F_BLOCKED, F_CLOSE_SENT, F_NO_READ, F_REQUEST, RESERVE, S_CLOSING, S_FREE, S_HANDSHAKE, S_LIVE, S_OPEN, S_READER,
    SHARE_OF_REST, Session, SessionTable)
from ext.sockets cimport EVENT_LISTENER, EVENT_TIMER, OUT_HELD_BYTES
from ext.tls cimport INSIDE_BYTES, LINK_BYTES, SHAKING_BYTES, TAKE_BYTES_MAX, WAITING_BYTES_MAX, Context, Link

cdef enum:
    CLOCK_EVERY = 8  # sockets between two looks at the clock, and at what has been gathered
    ROUND_BYTES_MAX = 4 << 20  # of publishes in a round
    FOREVER_S = 0xFFFFFFFF
    UNLIMITED = 0x7FFFFFFF  # publishes of a round


cdef class Batch:
    """What one round brought."""


cdef class Poller:
    def __cinit__(self, SessionTable sessions not None, *, uint32_t frame_bytes_max=131_072,
                  uint32_t handshake_bytes_max=16_384, Doorway doorway=None, uint32_t connects_per_s_max=20_000, uint32_t rate_per_s=100,
                  uint32_t rate_burst=300, uint32_t unanswered_max=64, uint32_t hello_timeout_ms=10_000,
                  uint32_t ping_interval_ms=30_000, uint32_t idle_timeout_ms=75_000, uint32_t slow_timeout_ms=60_000,
                  uint32_t close_timeout_ms=2_000, bint any_client=False):
        self.sessions = sessions
        self.gathered = Gathered()
        self.sockets = Sockets(sessions, self.gathered, connects_per_s_max, hello_timeout_ms, close_timeout_ms,
                               doorway or Doorway())
        self.inbound = Inbound(self.sockets, self.gathered, frame_bytes_max, handshake_bytes_max, rate_per_s,
                               rate_burst, unanswered_max, any_client)
        self.deadlines = Deadlines(self.sockets, self.gathered, hello_timeout_ms, ping_interval_ms, idle_timeout_ms,
                                   slow_timeout_ms)

    # sockets

    def fileno(self):
        """Readable when run() has something to do."""
        return self.sockets.epoll_fd

    def listen(self, int fd):
        """Accepts connections of a listening socket, which stays the caller's."""
        if self.sockets.listener_fd >= 0:
            raise ValueError(f"descriptor {self.sockets.listener_fd} is listened to already")
        if self.sockets.listen_on(fd) < 0:
            raise OSError(f"descriptor {fd} can't be watched")

    def use_tls(self, Context context not None):
        """New sessions speak TLS with this certificate; those that are open go on with theirs."""
        self.tls = context
        self.sockets.tls_context = context.context

    def unlisten(self):
        """Takes no more connections; those that are open go on."""
        self.sockets.unlisten()

    def share(self, uint32_t sessions):
        """From so many sessions on, others who accept from the same socket go first; 0: there are none."""
        self.sockets.share = sessions

    def refuse(self):
        """Answers every upgrade 503 from now on; connections are taken as before, plain requests answered."""
        self.inbound.refusing = True

    def shed(self, bint pressed, bint connections):
        """What is refused under load: connects over the rate of their address, and all upgrades."""
        self.sockets.doorway.pressed = pressed
        self.inbound.busy = connections

    def shed_publishes(self):
        """How many publishes were refused for want of room, ever."""
        return self.inbound.shed_publishes

    def waited_us(self):
        """How long somebody who is ready may have waited to be read, at most, since the last call."""
        cdef int64_t most = self.pass_most_ns
        self.pass_most_ns = 0
        if self.pass_ns:
            self.sockets.tell_time()
            most = max(most, self.sockets.now_ns - self.pass_ns)
        return most // 1000

    def shut(self):
        """Closes every connection and the epoll set; nothing is reported any more."""
        cdef uint32_t i
        if self.sockets.epoll_fd < 0:
            return
        for i in range(1, self.sessions.high + 1):
            self.sockets.end_named(i, CLOSE_GOING_AWAY)
        self.sockets.close_all()

    # a round

    def run(self, uint32_t budget_us, int64_t publish_room=UNLIMITED):
        """Serves what is ready for about that long; publishes beyond the room are answered `overloaded` at once."""
        cdef uint32_t index
        if self.sockets.epoll_fd < 0:
            return self._taken()
        self.sockets.settle()
        self.serving = 0
        self.inbound.publish_room = publish_room
        try:
            with nogil:  # no Python objects: sessions and buffers are the poller's own, which the caller holds
                self._round(<int64_t>budget_us * 1000)
        except MemoryError:
            index = self.deadlines.serving or self.serving
            if index == 0:
                raise
            self.sockets.drop(index, True)
        self.rounds += 1
        return self._taken()

    cdef int _round(self, int64_t budget_ns) except -1 nogil:
        cdef int count
        cdef int64_t until
        self.sockets.tell_time()
        until = self.sockets.now_ns + budget_ns
        if self.pass_ns == 0:
            self.pass_ns = self.sockets.now_ns
        if self.sessions.overfull_count:
            self._end_overfull()
        if self.deadlines.run(until):
            self.sockets.wake()
        while True:
            if self.event_at == self.event_count:
                count = epoll_wait(self.sockets.epoll_fd, self.events, EVENTS, 0)
                self.event_at = 0
                self.event_count = <uint32_t>max(count, 0)
            while self.event_at < self.event_count:
                self.event_at += 1
                self._serve(&self.events[self.event_at - 1])
                if self.event_at % CLOCK_EVERY == 0:
                    self.sockets.tell_time()
                    if self.sockets.now_ns >= until or self.gathered.proposals.size > ROUND_BYTES_MAX:
                        return 0
            if self.event_count < EVENTS:
                self._pass_ends()
                return 0  # that was all: Python's turn

    cdef void _pass_ends(self) noexcept nogil:
        self.sockets.tell_time()
        self.pass_took_ns = self.sockets.now_ns - self.pass_ns
        self.pass_most_ns = max(self.pass_most_ns, self.pass_took_ns)
        self.pass_ns = 0

    cdef int _end_overfull(self) except -1 nogil:
        """Ends those whose buffers hold more than their share: who takes what is sent is told why."""
        cdef uint32_t i, index
        cdef Session *s
        for i in range(self.sessions.overfull_count):
            index = self.sessions.resolve(self.sessions.overfull[i])
            s = &self.sessions.at[index]
            if index == 0 or s.fd < 0:
                continue
            self.serving = index
            self.overfull += 1
            free(s.in_data)
            s.in_data = NULL
            s.in_size = s.in_room = 0
            if not s.flags & F_BLOCKED and S_OPEN <= s.state <= S_LIVE:
                self.sockets.end_named(index, CLOSE_OVERLOADED)
            if s.fd >= 0 and (s.flags & F_BLOCKED or not s.flags & F_CLOSE_SENT):
                self.sockets.drop(index, True)
            if s.fd < 0:
                self.sessions.empty(index)
            self.sessions.weigh(index)
        self.sessions.overfull_count = 0
        return 0

    cdef int _serve(self, const epoll_event *event) except -1 nogil:
        cdef uint32_t index
        cdef Session *s
        if event.data.u64 == EVENT_LISTENER:
            self.sockets.accept()
            return 0
        if event.data.u64 == EVENT_TIMER:
            self.sockets.ticked()
            return 0
        index = self.sessions.resolve(event.data.u64)
        s = &self.sessions.at[index]
        if index == 0 or s.fd < 0:
            return 0
        self.serving = index
        if event.events & EPOLLOUT:
            self.sockets.writable(index)
            self.sessions.weigh(index)
            if s.fd < 0:
                return 0
        if event.events & EPOLLIN:
            if not s.flags & F_NO_READ:
                self.inbound.receive(index)
                self.sessions.weigh(index)
        elif event.events & (EPOLLHUP | EPOLLERR):
            self.sockets.drop(index, False)
        return 0

    cdef Batch _taken(self):
        cdef Batch batch = Batch.__new__(Batch)
        cdef Sockets sockets = self.sockets
        cdef uint32_t i
        batch.proposals = self.gathered.take_bytes(&self.gathered.proposals)
        batch.signals = self.gathered.take_bytes(&self.gathered.signals)
        batch.commands = self.gathered.take_messages(&self.gathered.commands)
        batch.requests = self.gathered.take_messages(&self.gathered.requests)
        batch.writable = self.gathered.take_writable()
        batch.closed = [(sockets.ended[i], self.sessions.origin_of(sockets.ended[i]))
                        for i in range(sockets.ended_count)]
        sockets.ended_reported = sockets.ended_count
        sockets.dead_reported = sockets.dead_count
        if sockets.epoll_fd >= 0:
            sockets.wake_for_ends()
            if self.sessions.overfull_count:
                sockets.wake()
            sockets.rest()
        return batch

    def handled(self, uint32_t commands, uint64_t size_bytes):
        """So many more of the cold commands given, the oldest first, have been handled; the bytes of their messages."""
        cdef uint64_t weight = size_bytes + <uint64_t>commands * MESSAGE_BYTES
        if commands > self.gathered.given - self.gathered.handled or weight > self.gathered.waiting_bytes:
            raise ValueError(f"{commands} commands of {size_bytes} bytes are more than wait")
        self.gathered.handled += commands
        self.gathered.waiting_bytes -= weight
        self.inbound.unhold()
        self.sockets.tell_time()
        self.inbound.end_waiting()
        self.sockets.wake_for_ends()

    # answers

    def answer(self, const uint8_t[::1] answers):
        """Receipts for the answers of the sequencer; those to sessions that are gone go nowhere."""
        if answers.shape[0] % sizeof(Answer):
            raise ValueError(f"{answers.shape[0]} bytes are no whole number of answers of {sizeof(Answer)} bytes")
        if answers.shape[0]:
            with nogil:  # no Python objects: the answers are pinned by the view
                self._answer(&answers[0], answers.shape[0])
                self._end_overfull()

    cdef int _answer(self, const uint8_t *data, size_t size) except -1 nogil:
        cdef Answer answer
        cdef size_t i
        cdef uint32_t index
        cdef Session *s
        for i in range(size // sizeof(Answer)):
            memcpy(&answer, data + i * sizeof(Answer), sizeof(Answer))
            index = self.sessions.resolve(answer.origin) if answer.origin >> 32 else 0
            s = &self.sessions.at[index]
            if index == 0 or s.state != S_READER and s.state != S_LIVE:
                continue
            s.unanswered -= s.unanswered > 0
            self.inbound.receipt(index, &answer)
        return 0

    def begin_unanswered(self, uint64_t session, uint64_t counter):
        """Counts a write that Python proposes; False, and its receipt, if the session has too many unanswered."""
        cdef uint32_t index = self._open(session)
        cdef Session *s = &self.sessions.at[index]
        if index == 0:
            return False
        if s.unanswered >= self.inbound.unanswered_max:
            self.inbound.refuse(index, counter, STATUS_TOO_MANY_UNANSWERED, UNANSWERED_RETRY_MS)
            return False
        s.unanswered += 1
        return True

    # one session

    cdef uint32_t _open(self, uint64_t session) noexcept nogil:
        """Its index if it is upgraded and not closing, else 0."""
        cdef uint32_t index = self.sessions.resolve(session)
        return index if S_OPEN <= self.sessions.at[index].state <= S_LIVE else 0

    def push(self, uint64_t session, message not None):
        """One message to one session, in front of the events that it has not got yet; a str is text in any encoding."""
        cdef bint text = isinstance(message, str)
        cdef bytes body = message.encode() if text else message
        cdef uint32_t index = self._open(session)
        cdef Session *s = &self.sessions.at[index]
        cdef uint8_t *to
        cdef size_t size = <size_t>len(body), head
        if index == 0:
            return
        to = self.sessions.out_reserve(s, SERVER_HEAD_BYTES_MAX + size)
        head = server_head_put(to, FR_TEXT if text or s.encoding == E_JSON else FR_BINARY, size)
        memcpy(to + head, <const uint8_t *>body, size)
        s.out_size += <uint32_t>(head + size)
        self.sessions.mark_dirty(index, True)
        if s.flags & F_BLOCKED:
            self.sockets.hold_if_full(index)
        if self.sessions.overfull_count:
            self._end_overfull()

    def respond(self, uint64_t session, bytes answer not None):
        """The answer to a plain request; the connection ends behind it."""
        cdef uint32_t index = self.sessions.resolve(session)
        if index and self.sessions.at[index].flags & F_REQUEST:
            self.sockets.end_http(index, answer, <size_t>len(answer))
            self.sockets.wake_for_ends()

    def identify(self, uint64_t session, uint64_t user, uint64_t device, uint64_t expires_s, uint8_t state):
        """Hello has been accepted; `expires_s` is UNIX time, 0: never."""
        cdef uint32_t index = self._open(session)
        cdef Session *s = &self.sessions.at[index]
        if state != S_READER and state != S_LIVE or user == 0:
            raise ValueError(f"user {user} can't be identified with state {state}")
        if index == 0 or s.state != S_OPEN:
            return
        self.sockets.doorway.leave(s.user_next, index)
        self.sessions.link_user(index, user, device)
        self.sockets.identified += 1
        self.sockets.tell_time()
        s.state = state
        s.expires_s = <uint32_t>min(expires_s, <uint64_t>FOREVER_S)
        self.deadlines.next_for(index, self.deadlines.look_ms)

    def charge(self, uint64_t session, uint32_t commands):
        """Takes so many more commands off a session's rate, all of its burst at most; 0, or the ms to wait if it has
        too few."""
        cdef uint32_t index = self._open(session), most = self.inbound.rate_milli_max
        cdef Session *s = &self.sessions.at[index]
        cdef uint64_t cost = min(<uint64_t>commands * 1000, <uint64_t>most - 1000)
        if index == 0:
            return 0
        self.sockets.tell_time()
        self.inbound.refill(s)
        if <uint64_t>s.rate_tokens_milli < cost:
            return (cost - <uint64_t>s.rate_tokens_milli) // self.inbound.rate_per_s + 1
        s.rate_tokens_milli -= <int>cost
        return 0

    def failed_hello(self, uint64_t session):
        """A token that is none: counts against the address that it came from."""
        cdef uint32_t index = self._open(session)
        if index and self.sessions.at[index].state == S_OPEN:
            self.sockets.tell_time()
            self.sockets.doorway.fail(self.sessions.at[index].user_next, index, <uint32_t>self.sockets.now_ms)

    def extend(self, uint64_t session, uint64_t expires_s):
        """A fresh token: a later end, or an earlier one."""
        cdef uint32_t index = self._open(session)
        if index and self.sessions.at[index].state != S_OPEN:
            self.sockets.tell_time()
            self.sessions.at[index].expires_s = <uint32_t>min(expires_s, <uint64_t>FOREVER_S)
            self.deadlines.next_for(index, self.deadlines.look_ms)

    def set_token(self, uint64_t session, uint64_t mark, uint64_t issued_s):
        """What revocation finds the session by: a mark of its token's id, and when the token was issued; 0 = neither."""
        cdef uint32_t index = self._open(session)
        if index:
            self.sessions.at[index].token_mark = mark
            self.sessions.at[index].issued_s = <uint32_t>min(issued_s, <uint64_t>FOREVER_S)

    def set_hello(self, uint64_t session, uint64_t at_ns):
        """When it said hello, CLOCK_MONOTONIC."""
        cdef uint32_t index = self._open(session)
        if index:
            self.sessions.at[index].hello_ns = at_ns

    def close(self, uint64_t session, uint16_t code, bytes reason not None):
        """Ends a session with a close frame; what came from it and is not handled yet doesn't count any more."""
        cdef uint32_t index = self.sessions.resolve(session)
        cdef Session *s = &self.sessions.at[index]
        cdef uint8_t answer[HANDSHAKE_ANSWER_BYTES_MAX]
        if index == 0 or s.state == S_FREE or s.state == S_CLOSING:
            return
        self.sockets.tell_time()
        if s.state == S_HANDSHAKE:
            if not s.flags & F_REQUEST:
                self.sockets.end_http(index, answer, busy_answer(
                    self.sockets.spread(BUSY_RETRY_S), b"this server takes no sessions now", answer))
                self.sockets.wake_for_ends()
            return
        self.sockets.end(index, code, reason, <size_t>len(reason))
        s.user = s.device = 0
        self.sockets.wake_for_ends()

    def abort(self, uint64_t session):
        """Ends a session whose connection is lost."""
        cdef uint32_t index = self.sessions.resolve(session)
        if index:
            self.sockets.drop(index, True)
            self.sessions.at[index].user = self.sessions.at[index].device = 0
            self.sockets.wake_for_ends()

    def counters(self):
        """For the metrics: what has happened since the start, and what there is now."""
        return {
            "accepted_sessions": self.sockets.accepted, "refused_sessions": self.sockets.refused,
            "closed_sessions": self.sockets.closed, "live_sessions": self.sockets.identified,
            "received_bytes": self.inbound.received_bytes, "sent_bytes": self.sessions.sent_bytes,
            "received_messages": self.inbound.received_messages, "rate_limited_commands": self.inbound.rate_limited,
            "put_out_connections": self.sockets.put_out, "address_limited_connections": self.sockets.address_limited,
            "overfull_sessions": self.overfull, "session_buffers_bytes": self.sessions.buffers_bytes,
            "untrusted_connections": self.sockets.untrusted, "bad_proxy_headers": self.inbound.bad_proxied,
            "shed_connections": self.inbound.shed_connections + self.inbound.secured.shed,
            "shed_publishes": self.inbound.shed_publishes, "doorway_connections": self.sockets.doorway.used,
            "loop_rounds": self.rounds, "session_bytes": self.sessions.memory_bytes(),
            "tls_handshakes": self.inbound.secured.handshakes, "tls_failures": self.inbound.secured.failures,
        }


def fixed_bytes():
    """Bounds of the native half of a worker that are no options, for the sum of memory (engine/limits.py)."""
    return {
        "slot": sizeof(Session) + 3 * sizeof(uint64_t) + 4 * sizeof(uint32_t),  # with its places in lists and indexes
        "slots_reserved": RESERVE, "share_of_rest": SHARE_OF_REST,
        "receive": RECEIVE_BYTES + TAKE_BYTES_MAX, "round": ROUND_BYTES_MAX + RECEIVE_BYTES,
        "cold": COLD_WAITING_BYTES_MOST + RECEIVE_BYTES, "output_held": OUT_HELD_BYTES + RECEIVE_BYTES,
        "link": sizeof(Link) + LINK_BYTES + INSIDE_BYTES, "link_opening": SHAKING_BYTES,  # the second is beside the first
        "link_waiting": WAITING_BYTES_MAX,
    }
