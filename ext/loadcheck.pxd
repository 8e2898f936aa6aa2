# What the load generator knows of the events it caused, and how it checks the ones that come back.
#
# A stream is one kind of load (so many dialogs, one broadcast …) with its own counts and histograms. It owns its
# fill, its histograms and the frames it remembers; the generator's thread is the only caller.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    WINDOW = 64                 # unanswered publishes a device may have
    BUCKETS = 1024              # 16 buckets an octave of nanoseconds
    SEEN = 4096                 # events of a broadcast that may be on their way at once
    STAMP = 32                  # first bytes of a payload, written by the generator
    RECORD_FIXED = 75           # bytes of a record before its type

cdef enum Verdict:
    EVENT_BROKEN = -1           # not a record
    EVENT_OTHER = 0             # a record, but no message of a stream
    EVENT_OURS = 1
    EVENT_CORRUPT = 2           # ours, but not as it was sent

cdef struct Event:
    uint64_t sequence
    uint32_t stream
    uint32_t connection         # that published it
    uint64_t index              # which event of its stream, from 1
    uint64_t intended_ns        # when it should have been sent

cdef struct Seen:               # a broadcast event, as its first recipient got it
    uint64_t index              # 0 none
    uint32_t arrived
    uint32_t size
    uint8_t *bytes_at

cdef struct Stream:
    # how it is driven
    uint32_t in_flight          # unanswered publishes of a connection (broadcast: events not yet with everybody)
    uint32_t per_send           # publishes that leave in one send
    uint64_t interval_ns        # mean time between publishes of an open loop; 0 closed loop
    uint64_t due_ns             # intended time of the next one
    uint64_t limit              # publishes in all; 0 as many as the time allows
    uint32_t recipients         # sessions that get each event
    uint32_t broadcast          # 1: the next goes out when everybody has the last one
    uint32_t turn               # publisher whose turn it is
    uint32_t publishers
    uint32_t *publisher_at
    uint32_t publisher_room
    # what the payload is after the stamp
    uint8_t *fill
    uint32_t fill_size
    # counts
    uint64_t sent, receipts, refused, deliveries, corrupted, completed
    uint64_t refused_from, refused_to
    uint64_t receipts_from, receipts_to, deliveries_from, deliveries_to, completed_from, completed_to
    uint64_t *receipt_ns        # histograms, BUCKETS each
    uint64_t *deliver_ns
    uint64_t *refused_ns
    uint64_t *late_ns           # how long after it was due a paced publish left
    Seen *seen                  # SEEN of them, broadcast only
    uint8_t *seen_bytes
    uint32_t seen_room

cdef uint32_t bucket_of(uint64_t ns) noexcept nogil
cdef uint64_t bucket_ns(uint32_t bucket) noexcept nogil
cdef int stream_open(Stream *s, const uint8_t *fill, uint32_t fill_size) except -1
cdef void stream_free(Stream *s) noexcept
cdef uint32_t frame_put(uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size, uint32_t key) noexcept nogil
cdef void stamp_put(uint8_t *payload, uint32_t stream, uint32_t connection, uint32_t counter, uint64_t index,
                    uint64_t intended_ns) noexcept nogil
cdef int event_check(Stream *streams, uint32_t count, const uint8_t *body, uint32_t size, Event *event) noexcept nogil
cdef int event_arrived(Stream *s, const Event *event, const uint8_t *body, uint32_t size) noexcept nogil
cdef bint has_room(const uint64_t *intended_ns, uint64_t counter, uint32_t unanswered, const Stream *s) noexcept nogil
