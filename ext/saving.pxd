# What a fold gathered, sorted and coded as rows of the saved state; and rows read back into tables.
# A Sorted* object holds copies of entries (for windows: pointers to their rings) of one table: don't touch the table
# while it lives. Row layouts, little-endian, keys big-endian (engine/state/saved.py says the same for Python):
#   heads          slab number        → SLAB × (u48 head, u32 conversation sequence)
#   conversations  conversation       → u8 kind, u8 flags, u16 0, u32 members, u64 created, changed_at, first, second, title
#   dialogs        first, second      → u64 conversation (big-endian)
#   members        user, conversation → u8 role, u8 kind, u16 0, u32 intervals, u64 changed_at, n × (u64 first, u64 last)
#   windows        user, device       → varints: highest, changed_at; u8 span; bitmap; zigzag varints of sequences
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.tables cimport WINDOW, Dialog, DialogTable, Head, HeadTable, Window, WindowTable

cdef enum:
    SLAB = 408  # heads in one row: with LMDB's page header exactly one overflow page of 4,096 bytes
    HEAD_BYTES = 10
    CONVERSATION_BYTES = 40
    MEMBER_BYTES = 16
    INTERVAL_BYTES = 16
    WINDOW_BYTES_MAX = 704

cdef struct Span:  # a device's window taken apart: sequences by distance from the highest counter
    uint64_t highest, changed_at
    uint64_t back[64]

cdef struct DialogRow:
    uint64_t key, key2, conversation, created

cdef void span_of(const Window *window, Span *span) noexcept nogil
cdef int span_decode(const uint8_t *data, size_t size, Span *span) noexcept nogil  # 0, or -1: not a window row
cdef size_t span_encode(const Span *span, uint8_t *out) noexcept nogil
cdef void span_merge(const Span *old, Span *new) noexcept nogil  # what the old one still remembers, into the new

cdef class SortedHeads:
    cdef Head *at
    cdef readonly size_t count

cdef class SortedWindows:
    cdef WindowTable table
    cdef Window *at
    cdef readonly size_t count

cdef class SortedDialogs:
    cdef DialogRow *dialogs
    cdef DialogRow *members
    cdef readonly size_t count
