# WebSocket frames of clients (RFC 6455, the server's side): bytes in, messages and control frames out, one at a time.
# Any thread. Frames that lie whole in the caller's buffer are unmasked there; only what is incomplete is kept, in a
# FrameState that the caller owns (free() it) and that is gone again when nothing is pending.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:  # what frame_next has found
    FR_MORE = 0  # all bytes used, nothing (more) complete
    FR_TEXT = 1  # a message, whole and valid UTF-8
    FR_BINARY = 2
    FR_CLOSE = 8  # Found.code, 1005 if it names none; data is code and reason as received
    FR_PING = 9
    FR_PONG = 10
    FR_BROKEN = 16  # the peer broke the rules: close with Found.code, read no more

cdef enum:
    UTF8_BAD = 0xFFFFFFFF
    CONTROL_BYTES_MAX = 125
    SERVER_HEAD_BYTES_MAX = 10

cdef struct Found:
    uint8_t *data  # good until the next frame_next of the same state, or the buffer's next use
    uint32_t size
    uint16_t code

cdef struct FrameState:  # of one connection; the bytes of its message so far follow the struct
    uint64_t frame_left  # payload bytes of the frame still to come
    uint32_t message_size
    uint32_t utf8  # of the text so far; 0 = between characters
    uint32_t seen_ms  # for whoever watches the time: when this was first seen unfinished; 0 = not yet
    uint8_t message_opcode  # 0 = no message begun
    uint8_t opcode, fin, in_payload  # of the frame
    uint8_t delivered  # what was found lies in here: forget it at the next call
    uint8_t phase  # of the mask
    uint8_t head_have, control_have
    uint8_t mask[4]
    uint8_t head[14]
    uint8_t control[125]

# Next message or control frame in *at … end; moves *at. `state` and `room` (bytes allocated) are the connection's.
cdef int frame_next(FrameState **state, uint32_t *room, uint8_t **at, uint8_t *end, uint32_t message_bytes_max,
                    Found *found) except -1 nogil

# The head of a frame of ours, never masked, never a fragment; its size.
cdef size_t server_head_put(uint8_t *to, uint8_t opcode, size_t size) noexcept nogil

# Runs UTF-8 on from a state; the new state, UTF8_BAD as soon as no continuation could be valid.
cdef uint32_t utf8_run(uint32_t state, const uint8_t *data, size_t size) noexcept nogil

cdef class FrameReader:
    cdef FrameState *state
    cdef uint32_t room, message_bytes_max
    cdef bint broken
