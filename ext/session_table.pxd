# The table of sessions: one C struct for each connected device, addressed by index (u32, 0 = none).
# Loop thread only. The array never moves (its address space is reserved at construction, pages come as they are
# touched), so `at` and pointers into it may be used without the GIL as long as the table lives.
# Buffers: every pointer in a Session is malloc'ed or NULL and is freed with the session; `refs` and `follows` are
# filled by ext/fanout and ext/interest, everything else by ext/poller.

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ext.tls cimport Link

cdef enum:  # states
    S_FREE = 0
    S_HANDSHAKE = 1  # HTTP: the head is being read, or a plain request answered
    S_OPEN = 2  # WebSocket, hello not accepted yet
    S_READER = 3  # catching up from the log: the router adds no references
    S_LIVE = 4
    S_CLOSING = 5  # close frame queued or sent; already reported as closed; no more frames may be appended

cdef enum:  # encodings
    E_MSGPACK = 0
    E_JSON = 1

cdef enum:  # flags
    F_DIRTY = 0x01  # has something to flush; set by mark_dirty, cleared by pop_*
    F_PRIORITY = 0x02  # ... before the bulk
    F_BLOCKED = 0x04  # EAGAIN seen, EPOLLOUT armed; flush skips it until the poller clears this
    F_IN_BULK = 0x08  # linked in the bulk queue (may be stale: then F_DIRTY is clear)
    F_IN_PRIORITY = 0x10  # linked in the priority queue
    F_NO_READ = 0x20  # EPOLLIN off: too much output pending, or a plain request awaits its answer
    F_PINGED = 0x40  # our ping awaits any sign of life
    F_HELLO = 0x80  # hello handed to Python
    F_CLOSE_SENT = 0x100  # close frame or final HTTP answer queued
    F_CLOSE_SEEN = 0x200  # the peer's close frame has come
    F_SHUT = 0x400  # our direction is shut down; what still comes is thrown away
    F_REQUEST = 0x800  # plain HTTP request handed to Python
    F_REFUSE = 0x1000  # accepted over the limit, only to be told so
    F_DEAD = 0x2000  # fd closed; the slot waits until its end has been reported
    F_PROXIED = 0x4000  # its PROXY header has not come yet
    F_PRESERVED = 0x18  # F_IN_BULK | F_IN_PRIORITY outlive a session: its slot may still be linked

cdef enum:
    RESERVE = 256  # slots beyond sessions_max: connections that are only told that there is no place
    SHARE_OF_REST = 8  # one session may hold so many'th of what the others leave of buffers_bytes_max
    TLS_AWAITED = 1  # a session of a port that speaks TLS, before anything has come

cdef struct Session:
    uint64_t user, device  # 0 until identified
    uint64_t position  # sequence of the last event whose frame was begun on this socket
    uint8_t *in_data  # handshake: the head so far; after it: FrameState of ext/frames. NULL when nothing is pending
    uint32_t in_size, in_room  # in_size after the handshake: 0, or the end that waits for Python, see ext/inbound
    uint8_t *out_data  # control frames and the rest of the one frame begun; NULL when empty
    uint32_t out_size, out_sent, out_room  # bytes held, of these sent, allocated
    uint32_t user_next  # next session of the same user; before hello: place in ext/doorway; in free slots: next free slot
    uint32_t *refs  # outbox: ring entry numbers, ascending
    uint32_t ref_count, ref_room
    uint64_t *follows  # conversations of its interest
    uint32_t follow_count, follow_room
    uint32_t wheel_next, wheel_prev, wheel_due  # due in ms of the loop's clock, modulo 2^32
    uint32_t dirty_next, priority_next
    uint32_t generation  # of the slot; never 0 while open
    uint32_t expires_s  # UNIX time of the token's end, 0 = none
    uint32_t heard_ms  # when the peer was last heard
    # When it was accepted; later when the ping went out, or output last advanced. Low bits of tcpi_bytes_acked then.
    uint32_t ping_ms, acked_mark
    int32_t rate_tokens_milli
    uint32_t rate_at_ms
    int32_t fd  # -1 once closed
    uint16_t unanswered, flags
    uint16_t refused  # commands over the rate, less those within it since: far above is abuse
    uint8_t state, encoding
    uint32_t cold  # number of its last message that was handed to Python, see ext/inbound
    Link *tls  # NULL: plain; TLS_AWAITED until its first byte has come
    uint64_t hello_ns  # when its hello was, CLOCK_MONOTONIC; 0 before
    uint64_t token_mark  # of its token's id (see gateway/revocation.py), 0 = the token has none
    uint32_t issued_s  # UNIX time of its token's `iat`, 0 = it has none
    uint32_t weight  # bytes of its buffers, as they were last weighed

@cython.final
cdef class SessionTable:
    # array
    cdef Session *at
    cdef readonly uint32_t room  # indexes are 1 .. room - 1
    cdef uint32_t high, free_head  # highest index ever used; chain of free slots
    cdef readonly uint32_t open_count
    # user -> first session: open addressing over indexes, keys are at[index].user
    cdef uint32_t *user_slots
    cdef uint32_t user_room, user_count
    # dirty queues, FIFO, linked through dirty_next and priority_next
    cdef uint32_t bulk_head, bulk_tail, priority_head, priority_tail
    cdef uint64_t sent_bytes  # by out_flush
    # buffers of all sessions: incomplete messages, output, outboxes, ciphertext; who holds too much is listed, once or more
    cdef readonly uint64_t buffers_bytes, buffers_bytes_max
    cdef uint64_t *overfull  # origins
    cdef uint32_t overfull_count
    cdef int epoll_fd  # set by the poller; -1 without one (arm_writable then only sets flags)

    # life (ext/poller)
    cdef uint32_t acquire(self, int fd) noexcept nogil  # 0 = table full
    cdef void release(self, uint32_t index) noexcept nogil  # frees buffers and slot; the fd is the caller's
    cdef uint64_t origin_of(self, uint32_t index) noexcept nogil  # generation << 32 | index
    cdef void empty(self, uint32_t index) noexcept nogil  # gives back the buffers of one whose descriptor is closed
    cdef void weigh(self, uint32_t index) noexcept nogil  # whoever may have changed the room of its buffers says so
    cpdef uint32_t resolve(self, uint64_t session) noexcept nogil  # index or origin -> index; 0 = gone or stale

    # users
    cdef int link_user(self, uint32_t index, uint64_t user, uint64_t device) except -1 nogil
    cdef void unlink_user(self, uint32_t index) noexcept nogil
    cdef uint32_t first_of_user(self, uint64_t user) noexcept nogil  # then at[i].user_next; 0 ends
    cdef uint32_t _user_place(self, uint64_t user) noexcept nogil
    cdef void _close_gap(self, uint32_t gap) noexcept nogil
    cdef int _grow_users(self) except -1 nogil

    # output: whoever appends calls mark_dirty; ext/fanout's flush sends out_data, then references
    cdef int out_append(self, Session *session, const uint8_t *data, size_t size) except -1 nogil
    cdef uint8_t *out_reserve(self, Session *session, size_t size) except NULL nogil  # then out_size += what was written
    cdef int out_flush(self, Session *session) noexcept nogil  # 1 all gone, 0 would block, -1 connection lost
    cdef bint out_waits(self, Session *session) noexcept nogil  # something has not reached the kernel
    # The one way out of a session, as send(2) with its errno; below TLS taken may mean: waits in the link, EPOLLOUT armed
    cdef ssize_t send(self, Session *session, const uint8_t *data, size_t size) noexcept nogil
    cdef void end_tls(self, Session *session, bint say) noexcept nogil  # close_notify, and what OpenSSL holds is freed
    cdef void mark_dirty(self, uint32_t index, bint priority) noexcept nogil
    cdef uint32_t pop_priority(self) noexcept nogil  # next session to flush, flags cleared; 0 = none
    cdef uint32_t pop_bulk(self) noexcept nogil
    cdef void arm_writable(self, uint32_t index) noexcept nogil  # after EAGAIN: sets F_BLOCKED, asks for EPOLLOUT
    cdef void set_events(self, uint32_t index) noexcept nogil  # tells epoll what the flags say
