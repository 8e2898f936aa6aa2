# What the load generator knows of the events it caused, and how it checks the ones that come back.
#
# A stream is one kind of load (so many dialogs, one broadcast …) with its own counts and histograms. It owns its
# targets, fill, histograms and the frames it remembers; the generator's thread is the only caller.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    WINDOW = 64                 # unanswered publishes a device may have
    SEEN = 4096                 # events of a broadcast that may be on their way at once
    STAMP = 32                  # first bytes of a payload, written by the generator
    RECORD_FIXED = 75           # bytes of a record before its type
    TABLE_ROWS = 64             # of sizes, pauses and profile

cdef enum Arrivals:             # when the next publish of an open loop is due
    ARRIVE_POISSON = 0          # at random times
    ARRIVE_EVEN = 1             # at even distances
    ARRIVE_PAUSES = 2           # each writer by itself, with pauses drawn from a table
    ARRIVE_NEVER = 3            # only when it is told to

cdef enum Verdict:
    EVENT_BROKEN = -1           # not a record
    EVENT_OTHER = 0             # a record, but no message of a stream
    EVENT_OURS = 1
    EVENT_CORRUPT = 2           # ours, but not as it was sent

cdef struct Event:
    uint64_t sequence
    uint64_t conversation, conversation_sequence
    uint32_t stream
    uint32_t connection         # that published it
    uint64_t index              # which event of its stream, from 1
    uint64_t intended_ns        # when it should have been sent

cdef struct Target:             # what all publishes to one conversation, or of one person to another, have in common
    uint8_t *body               # the whole command
    uint32_t size, counter_at, payload_at
    uint32_t head_size          # of it, before the payload's own length; 0: that isn't where it should be
    uint32_t recipients         # sessions that get each event

cdef struct Writer:             # a connection that publishes to a target
    uint32_t connection, target
    uint32_t next               # its next one in this stream, in a ring
    uint64_t due_ns             # of ARRIVE_PAUSES: intended time of its next publish
    uint64_t look_ns            # ... and when to look at it: later, where its window was full

cdef struct Tables:             # what is drawn for each publish
    uint32_t sizes, pauses, profile             # rows of each; 0: not drawn
    uint32_t size_bytes[64]
    double size_share[64]                       # cumulative, ascends to 1
    double pause_share[64]                      # quantiles from 0 to 1
    double pause_ns[64]
    int64_t profile_ns[64]                      # since the window began
    double profile_factor[64]

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
    uint64_t free_ns            # when the last wait for a writer with room in its window was over; 0: it isn't
    uint64_t origin_ns          # where its profile begins
    uint64_t limit              # publishes in all; 0 as many as the time allows
    uint32_t recipients         # sessions that get each event, where a target doesn't say it
    uint32_t broadcast          # 1: the next goes out when everybody has the last one
    uint32_t arrivals
    Tables *tables              # NULL: Poisson, one size, one rate
    uint32_t turn               # writer whose turn it is
    Target *targets
    uint32_t target_count, target_room
    Writer *writers
    uint32_t writer_count, writer_room
    uint32_t *heap              # of ARRIVE_PAUSES: writers, the one due first on top
    # what the payload is after the stamp
    uint8_t *fill
    uint32_t fill_size
    # counts
    uint64_t sent, receipts, refused, deliveries, corrupted, completed
    uint64_t expected           # deliveries that the receipts make due
    uint64_t slow_deliveries    # of them, to connections that read slowly
    uint64_t refused_from, refused_to, sent_from, sent_to
    uint64_t receipts_from, receipts_to, deliveries_from, deliveries_to, completed_from, completed_to
    uint64_t *receipt_ns        # histograms of ext/loadhdr
    uint64_t *deliver_ns
    uint64_t *refused_ns
    uint64_t *late_ns           # how long after it was due, and its writer free, a paced publish left
    Seen *seen                  # SEEN of them, broadcast only
    uint8_t *seen_bytes
    uint32_t seen_room

cdef int stream_open(Stream *s, const uint8_t *fill, uint32_t fill_size) except -1
cdef void stream_free(Stream *s) noexcept
cdef uint32_t frame_put(uint8_t *to, uint32_t opcode, const uint8_t *body, uint32_t size, uint32_t key) noexcept nogil
cdef void stamp_put(uint8_t *payload, uint32_t stream, uint32_t size, uint32_t connection, uint32_t counter,
                    uint64_t index, uint64_t intended_ns) noexcept nogil
cdef int event_check(Stream *streams, uint32_t count, const uint8_t *body, uint32_t size, Event *event) noexcept nogil
cdef int event_arrived(Stream *s, const Event *event, const uint8_t *body, uint32_t size) noexcept nogil
