# Native clients of other servers in one epoll set, for measuring: publishers whose packs are stamped in place, listeners
# whose payloads are compared with what was sent.
#
# One PeerLoop belongs to one thread. Connections are indexes into an array of C structs, never Python objects; the array
# does not move. Memory of a connection: this struct, its opening, its pack, its follow-up, and unfinished input.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ext.peerread cimport Reading, Token

cdef enum:
    SENT = 8192                 # messages whose bytes are remembered
    NAME_BYTES = 48
    AGAIN_BYTES_MAX = 512
    INPUT_BYTES = 1 << 20
    SAMPLES_MAX = 1 << 21
    SLICE_NS = 200000000        # how long a signal may wait
    NOBODY = 0xFFFFFFFF

cdef enum Life:                 # NEW → CONNECTING → OPENING → LIVE → DEAD
    S_NEW = 0, S_CONNECTING = 1, S_OPENING = 2, S_LIVE = 3, S_DEAD = 4

cdef struct Pack:               # what a publisher sends at once
    uint8_t *data
    uint32_t size
    uint32_t messages
    uint32_t *payload_at        # of each
    uint32_t numbers
    uint32_t *number_at         # where the number of the pack goes, 16 hexadecimal digits
    uint32_t answers            # that the other side gives to all of it

cdef struct Peer:
    # life
    int fd
    uint8_t life
    uint8_t *opening            # sent when connected; its first part alone until that is answered
    uint32_t opening_size, first_size
    uint32_t answers, first_answers
    # receiving
    Reading reading
    uint8_t *rest               # unfinished token, NULL when none
    uint32_t rest_size, rest_room
    uint64_t last_index
    uint64_t deliveries
    uint32_t follows            # the publisher whose messages it gets, NOBODY: all of them
    # what it asks for when a reply is whole (every 0) or so many messages have come
    uint8_t *again
    uint32_t again_size, again_every, again_have
    uint8_t again_named         # the name read last goes behind it
    uint8_t name[48]
    uint32_t name_size
    # sending
    uint8_t *out                # what the kernel did not take
    uint32_t out_size, out_sent, out_room
    uint32_t owed               # answers
    uint64_t intended_ns        # of the pack that they are for
    Pack pack

cdef struct Message:            # as it was sent
    uint64_t index              # 0 none
    uint64_t intended_ns
    uint32_t publisher

cdef struct Samples:
    uint64_t *ns
    uint32_t count, room

cdef class PeerLoop:
    # the array
    cdef Peer *at
    cdef uint32_t room, used, opened, pending, live, dead
    cdef int protocol
    # sockets
    cdef int epoll_fd
    cdef uint32_t address, source
    cdef uint16_t port
    cdef uint8_t *input
    # messages
    cdef uint32_t payload_bytes
    cdef uint8_t *fill          # what stands behind the stamp, payload_bytes - STAMP
    cdef Message *sent_at       # SENT of them
    cdef uint8_t *sent_bytes
    cdef bint remembers         # what comes is compared with sent_bytes, else with the fill
    # how it is driven
    cdef uint32_t recipients    # of each message; 0: an answer brings the next pack
    cdef uint32_t *publisher_at
    cdef uint32_t publishers, publisher_room, turn
    cdef uint64_t interval_ns, due_ns, stall_ns, progress_ns
    cdef uint64_t limit         # messages in all; 0: as many as the time allows
    cdef bint publishing, measuring
    cdef uint64_t random
    # counts
    cdef uint64_t sent, packs, answered, refused, deliveries, given_up
    cdef uint64_t given_up_to   # the last index of which anything was
    cdef uint64_t corrupted, disordered, strays, broken, reads, sends, bytes_in
    cdef uint64_t last_sent_ns
    cdef uint64_t window_from_ns, window_to_ns, busy_ns
    cdef uint64_t sent_from, answered_from, deliveries_from, sent_to, answered_to, deliveries_to
    cdef Samples waits          # of deliveries, or of answers where nobody listens
    cdef Samples late           # how long after it was due a paced pack left
    cdef uint8_t last_text[200]
    cdef uint32_t last_text_size
    cdef readonly bint closed

    # opening
    cdef int _open(self, uint32_t k) except -1 nogil
    cdef int _begin(self, uint32_t k) except -1 nogil
    cdef int _die(self, uint32_t k) except -1 nogil
    cdef int _note(self, const uint8_t *text, uint32_t size) except -1 nogil
    # receiving
    cdef int _readable(self, uint32_t k) except -1 nogil
    cdef int64_t _consume(self, uint32_t k, const uint8_t *data, uint32_t size, uint64_t now) except -2 nogil
    cdef int _token(self, uint32_t k, const uint8_t *data, const Token *t, uint64_t now) except -1 nogil
    cdef int _answer(self, uint32_t k, bint refused, uint64_t now) except -1 nogil
    cdef int _payload(self, uint32_t k, const uint8_t *payload, uint32_t size, uint64_t now) except -1 nogil
    cdef int _count_up(self, uint32_t k) except -1 nogil
    cdef int _follow_up(self, uint32_t k) except -1 nogil
    cdef int _sample(self, Samples *to, uint64_t ns) except -1 nogil
    # sending
    cdef int _send(self, uint32_t k, const uint8_t *data, uint32_t size) except -1 nogil
    cdef int _writable(self, uint32_t k) except -1 nogil
    cdef int _publish(self, uint32_t k, uint64_t intended_ns) except -1 nogil
    cdef int _remember(self, uint32_t k, const uint8_t *payload, uint64_t intended_ns) except -1 nogil
    cdef int _closed_loop(self, uint64_t now) except -1 nogil
    cdef int _paced(self, uint64_t now) except -1 nogil
    # the loop
    cdef int _step(self, uint64_t wait_ns) except -1 nogil
    cdef int _turn(self, uint64_t until_ns, uint64_t wanted, bint until_settled) except -1 nogil
    cdef bint _settled(self) noexcept nogil
    cdef int _look(self, uint64_t until_ns) except -1 nogil
    cdef int _run(self, uint64_t until_ns, uint64_t wanted, bint until_settled) except -1
