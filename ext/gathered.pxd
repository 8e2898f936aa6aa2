# What one round of the poller gathers for Python: bytes and numbers, appended without the GIL, taken once at its end.
# Loop thread only. Buffers grow with what comes, are used again, and are given back when a round was unusually large.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    KEPT_BYTES_MAX = 1 << 20  # room that a buffer keeps for the next round
    MESSAGE_BYTES = 192  # what Python's objects for a message take beside its bytes

cdef enum:  # kinds of signals
    SIGNAL_DELIVERED = 1
    SIGNAL_READ = 2
    SIGNAL_TYPING = 3

cdef struct Bytes:
    uint8_t *at
    size_t size, room

cdef struct Signal:  # as gateway/signals.py unpacks it
    uint32_t kind, session
    uint64_t conversation, value

cdef struct Message:  # before the bytes of a command or request
    uint32_t session, size
    bint text  # str for Python, else bytes

cdef class Gathered:
    cdef Bytes proposals, signals, commands, requests, writable
    # cold messages: number of the last one given to Python, and of the last one that it has handled; both run over
    cdef uint32_t given, handled
    cdef uint64_t waiting_bytes  # of those in between, MESSAGE_BYTES for each included

    # gathering: pointers are good until the next call
    cdef uint8_t *room_for(self, Bytes *buffer, size_t size) except NULL nogil  # then buffer.size += what was written
    cdef int add_signal(self, uint32_t kind, uint32_t session, uint64_t conversation, uint64_t value) except -1 nogil
    cdef int add_message(self, Bytes *buffer, uint32_t session, const uint8_t *data, size_t size,
                         bint text) except -1 nogil
    cdef uint32_t add_cold(self, uint32_t session, const uint8_t *data, size_t size,
                           bint text) except? 0 nogil  # its number
    cdef bint is_waiting(self, uint32_t number) noexcept nogil  # given and not handled
    cdef int add_writable(self, uint32_t session) except -1 nogil

    # taking, once each
    cdef bytes take_bytes(self, Bytes *buffer)
    cdef list take_messages(self, Bytes *buffer)
    cdef list take_writable(self)

cdef void bytes_clear(Bytes *buffer) noexcept nogil
