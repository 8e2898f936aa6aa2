# Verifying records against each other: one pass over the blocks of a log, with a table of conversations and devices.
# One thread. For `gonets log check`; nothing in the data path uses it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.flat cimport Flat
from ext.keys cimport KeyTable
from ext.tables cimport Head, HeadTable, Window, WindowTable

cdef enum Disagreement:
    AGREES = 0
    CONVERSATION_SEQUENCE = 1  # not one more than the conversation's last
    PREVIOUS = 2  # not the conversation's last event, but one before that, or none
    TIME = 3  # before that of the event before it
    SHARD = 4  # a conversation of another shard, or none
    COUNTER = 5  # the device has published with this counter before
    SKIPPED = 6  # PREVIOUS, but an event after the conversation's last: one that was not seen
    KEY = 7  # an event with this key is there already, and not too old

cdef class Verifier:
    cdef readonly uint64_t events
    cdef uint64_t shard, time_us
    cdef HeadTable heads
    cdef WindowTable windows
    cdef KeyTable keys

    cdef Disagreement _one(self, const uint8_t *record, uint32_t size) except? SKIPPED nogil
    cdef bint _is_keyed_twice(self, const uint8_t *record, uint32_t size) except -1 nogil
    cdef Disagreement _chain(self, const uint8_t *record, Head *head, Disagreement found) noexcept nogil  # L5

    cdef int _put_all(self, Flat table, uint32_t sub, bytearray out) except -1
    cdef int _put_head(self, bytearray out, const Head *head) except -1
    cdef int _put_keys(self, bytearray out) except -1
    cdef int _put_window(self, bytearray out, const Window *window) except -1
