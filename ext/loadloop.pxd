# Native WebSocket clients in one epoll set, for measuring: subprotocol gonets.v1.msgpack.
#
# One LoadLoop belongs to one thread. Connections are indexes into an array of C structs, never Python objects;
# the array does not move. Memory of a connection: this struct, its hello and publish templates, and unfinished input.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ext.loadcheck cimport WINDOW, Stream
from ext.tls cimport ClientContext, Link

cdef enum:
    STREAMS = 8
    NUMBERS = 32                # frame numbers that are counted
    NO_STREAM = 0xFFFFFFFF
    SLICE_NS = 200000000        # how long a signal may wait
    INPUT_BYTES = 1 << 20
    OUTPUT_BYTES = 1 << 20
    TEMPLATE_BYTES_MAX = 8192   # WINDOW of them, framed, fit into the output

cdef enum Life:                 # NEW → CONNECTING → UPGRADING → HELLO → LIVE → DEAD
    L_NEW = 0, L_CONNECTING = 1, L_UPGRADING = 2, L_HELLO = 3, L_LIVE = 4, L_DEAD = 5

cdef struct Template:           # a publish command, its places to stamp
    uint8_t *body
    uint32_t size, counter_at, payload_at

cdef struct Connection:
    # life
    int fd
    Link *tls                   # NULL: plain
    uint8_t life
    uint8_t blocked             # EAGAIN seen, EPOLLOUT armed
    uint64_t opened_ns
    uint8_t *hello
    uint32_t hello_size
    # receiving
    uint8_t *rest               # unfinished frame, NULL when none
    uint32_t rest_size, rest_room
    uint64_t last_sequence
    uint64_t events
    # sending
    uint8_t *out                # what the kernel did not take, NULL when nothing
    uint32_t out_size, out_sent, out_room
    uint32_t stream
    Template publish
    uint64_t counter            # last one used
    uint32_t unanswered
    uint64_t intended_ns[64]    # by counter, 0 when answered
    uint64_t command_bits       # those of them that are no stream's publishes

cdef struct Receipt:            # of a command that is no publish of a stream
    uint32_t connection
    uint64_t counter, conversation, sequence
    uint8_t status_size
    char status[20]

cdef class LoadLoop:
    # the array
    cdef Connection *at
    cdef uint32_t room, used, opened, pending, live, dead
    # streams
    cdef Stream streams[8]
    cdef uint32_t stream_count
    # sockets
    cdef int epoll_fd
    cdef uint32_t address, source
    cdef uint16_t port
    cdef uint8_t *input
    cdef uint8_t *output
    cdef ClientContext tls      # None: plain
    cdef uint8_t *upgrade
    cdef uint32_t upgrade_size
    cdef uint64_t random
    # time
    cdef uint64_t ping_interval_ns, ping_due_ns
    cdef uint32_t ping_next
    cdef uint64_t from_ns, to_ns, window_from_ns, window_to_ns, busy_ns
    cdef bint publishing
    # counts
    cdef uint64_t numbers[32]
    cdef uint64_t others, events, broken, disordered, unmatched, bytes_in, reads, sends
    cdef uint64_t *hello_ns
    cdef Receipt *receipts
    cdef uint32_t receipt_count, receipt_room
    cdef uint64_t commands_open
    cdef uint32_t last_close
    cdef uint8_t last_text[160]
    cdef uint32_t last_text_size
    cdef readonly bint closed

    # opening
    cdef int _open(self, uint32_t k, uint64_t now) except -1 nogil
    cdef int _upgraded(self, uint32_t k, const uint8_t *data, uint32_t size) except -2 nogil
    cdef int _begin(self, uint32_t k) except -1 nogil
    cdef int _die(self, uint32_t k, uint32_t code) except -1 nogil
    cdef int _note(self, const uint8_t *text, uint32_t size) except -1 nogil
    # receiving
    cdef int _readable(self, uint32_t k) except -1 nogil
    cdef int _keep_rest(self, Connection *c, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _widen(self, uint8_t **data, uint32_t *room, uint32_t size) except -1 nogil
    cdef int64_t _consume(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil
    cdef int _message(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _event(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _receipt(self, uint32_t k, const uint8_t *body, uint32_t size, uint64_t now) except -1 nogil
    cdef int _keep_receipt(self, uint32_t k, const uint8_t *body, uint32_t size) except -1 nogil
    # sending
    cdef uint32_t _frame(self, uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size) noexcept nogil
    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _writable(self, uint32_t k) except -1 nogil
    cdef int _publish(self, uint32_t k, uint32_t count, uint64_t intended_ns) except -1 nogil
    cdef int _closed_loop(self, uint32_t k, uint64_t now) except -1 nogil
    cdef int _broadcast(self, Stream *s, uint64_t now) except -1 nogil
    cdef int _paced(self, Stream *s, uint64_t now) except -1 nogil
    cdef int _ping(self, uint64_t now) except -1 nogil
    # the loop
    cdef int _step(self, uint64_t wait_ns) except -1 nogil
    cdef int _turn(self, uint64_t until_ns, bint until_settled) except -1 nogil
    cdef bint _settled(self) noexcept nogil
    cdef int _start(self, uint32_t stream) except -1
    cdef int _run(self, uint64_t until_ns, bint until_settled) except -1
