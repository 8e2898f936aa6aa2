# Frames that native code makes for one session: receipts, pongs, and the two errors of the hot path.
# Any thread, pure: written whole, head included, into the caller's room.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ext.values cimport Value

cdef enum:
    RECEIPT_FRAME_BYTES_MAX = 320
    PUSH_FRAME_BYTES_MAX = 512

cdef struct Answer:  # as the sequencer gives it (engine/sequencer.py)
    uint64_t origin, counter, conversation, sequence, conversation_sequence, time
    uint16_t status, reserved
    uint32_t extra

cdef size_t receipt_put(uint8_t *to, uint8_t encoding, const Answer *answer) noexcept nogil
cdef size_t pong_put(uint8_t *to, uint8_t encoding, const Value *id) noexcept nogil
cdef size_t hello_first_put(uint8_t *to, uint8_t encoding, const Value *id) noexcept nogil
cdef size_t rate_limited_put(uint8_t *to, uint8_t encoding, const Value *id, uint32_t retry_after_ms) noexcept nogil
