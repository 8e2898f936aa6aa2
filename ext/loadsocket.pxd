# Native WebSocket clients in one epoll set, for measuring: their sockets. Subprotocol gonets.v1.msgpack.
#
# Connections are indexes into an array of C structs, never Python objects; the array does not move. Memory of a
# connection: this struct, its hello, unfinished input, and from its first publish on the window of its unanswered ones.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ext.loadcheck cimport Stream
from ext.loadheard cimport Heard
from ext.tls cimport ClientContext, Link

cdef enum:
    STREAMS = 8
    NUMBERS = 32                # frame numbers that are counted
    NO_STREAM = 0xFFFFFFFF
    SLICE_NS = 200000000        # how long a signal may wait
    INPUT_BYTES = 1 << 20
    OUTPUT_BYTES = 1 << 20
    COMMAND_BYTES_MAX = 70000   # a publish of the largest payload

cdef enum Life:                 # NEW → CONNECTING → UPGRADING → HELLO → LIVE → DEAD, or → AWAY → CONNECTING again
    L_NEW = 0, L_CONNECTING = 1, L_UPGRADING = 2, L_HELLO = 3, L_LIVE = 4, L_DEAD = 5, L_AWAY = 6

cdef struct Slot:               # an unanswered command
    uint64_t intended_ns        # 0: none
    uint64_t index              # of its stream; 0: no publish of a stream
    uint32_t target, size       # size: of its payload
    uint32_t stream

cdef struct Connection:
    # life
    int fd
    Link *tls                   # NULL: plain
    uint8_t life
    uint8_t slow                # 1: reads so many bytes a second, as long as there is such a number
    uint8_t resumes             # 1: has been live before
    uint64_t opened_ns, hello_ns
    uint8_t *hello
    uint32_t hello_size
    # receiving
    uint8_t *rest               # unfinished frame, NULL when none
    uint32_t rest_size, rest_room
    uint64_t last_sequence      # its position
    uint64_t events
    Heard heard
    # sending
    uint8_t *out                # what the kernel did not take, NULL when nothing
    uint32_t out_size, out_sent, out_room
    uint32_t stream             # of its closed loop
    uint32_t writer             # whose turn it is there
    uint64_t counter            # last one used
    uint32_t unanswered
    Slot *slots                 # WINDOW of them, by counter; NULL before the first command

cdef class LoadSockets:
    # the array
    cdef Connection *at
    cdef uint32_t room, used, opened, pending, live, dead, number_from
    # streams
    cdef Stream streams[8]
    cdef uint32_t stream_count
    # sockets
    cdef int epoll_fd
    cdef uint32_t address, source
    cdef uint16_t port
    cdef uint8_t *input
    cdef uint8_t *output
    cdef uint8_t *scratch       # one command on its way into the output
    cdef ClientContext tls      # None: plain
    cdef uint8_t *upgrade
    cdef uint32_t upgrade_size
    cdef uint64_t random
    # away and back
    cdef uint32_t *away         # a ring of connections, the one that left first in front
    cdef uint64_t *away_due_ns
    cdef uint32_t away_from, away_count, pending_max
    cdef uint64_t away_ns, epoch
    cdef bint breaks_expected   # connections that the server breaks come back too
    cdef bint comes_again       # so do those that are answered 503
    cdef uint64_t dropped, resumes, reopened, retried
    cdef uint64_t *resume_ns    # hello → live, of those
    cdef uint64_t back_from_ns, back_to_ns      # when the first of them opened, and the last one was live
    # slow readers
    cdef uint32_t slow_bytes_per_s
    # time
    cdef bint publishing
    # counts
    cdef uint64_t sends, connects
    cdef uint32_t last_close
    cdef uint8_t last_text[160]
    cdef uint32_t last_text_size
    cdef readonly bint closed

    # opening
    cdef int _open(self, uint32_t k, uint64_t now) except -1 nogil
    cdef int _upgraded(self, uint32_t k, const uint8_t *data, uint32_t size) except -2 nogil
    cdef int _say_hello(self, uint32_t k) except -1 nogil
    cdef int _begin(self, uint32_t k) except -1 nogil
    cdef int _die(self, uint32_t k, uint32_t code) except -1 nogil
    cdef int _note(self, const uint8_t *text, uint32_t size) except -1 nogil
    # away and back
    cdef int _leave(self, uint32_t k, uint64_t now, uint64_t away_ns) except -1 nogil
    cdef int _return(self, uint64_t now) except -1 nogil
    # sending
    cdef uint32_t _frame(self, uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size) noexcept nogil
    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _writable(self, uint32_t k) except -1 nogil
    cdef uint32_t _looks_for(self, const Connection *c) noexcept nogil
