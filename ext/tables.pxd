# The hot state, natively: heads of conversations, windows of devices, roles for admission, dialogs.
# Three owners each have their own set of tables: admission (speculative), the saver and every view (committed).
# One thread owns a table. An address is valid until the next put into the table or sweep of it.
# An entry is either whole (E_LOADED: saved state and what came since) or a delta (what came since, from the log alone).
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.flat cimport E_LOADED, E_USED, Flat, flat_get, flat_prefetch

cdef enum:  # kinds and the one role that native code must know; engine/conversations.py asserts the same numbers
    K_NONE = 0  # known not to exist
    K_DIALOG = 1
    R_NONE = 0
    R_MEMBER = 3

cdef enum:  # flags of a head, beside E_*
    H_CLOSED = 0x10
    H_HISTORY = 0x20
    H_NEW = 0x40  # a dialog created by what was folded: its rows are not in the saved state yet

cdef enum:
    WINDOW = 64  # counters remembered for each device
    JUMP_MAX = 65536

cdef struct Head:  # 64 bytes: one cache line
    uint64_t conversation, zero
    uint64_t head  # sequence of the last event
    uint32_t flags
    uint32_t kind
    uint64_t conversation_sequence
    uint64_t first, second  # users of a dialog, first < second
    uint64_t created

cdef struct Window:
    uint64_t user, device
    uint64_t changed_at
    uint32_t flags
    uint32_t room  # slots of the ring: 0, 4, 8 … 64
    uint64_t highest
    uint64_t *ring  # sequence of counter c at c & (room - 1), 0 = none; only counters above highest - room

cdef struct Member:
    uint64_t conversation, user
    uint64_t changed_at
    uint32_t flags
    uint32_t role

cdef struct Dialog:
    uint64_t first, second
    uint64_t changed_at
    uint32_t flags, extra
    uint64_t conversation  # 0 = known not to exist

cdef class HeadTable(Flat):
    pass

cdef class WindowTable(Flat):
    cdef int add(self, Window *window, uint64_t counter, uint64_t sequence) except -1 nogil
    cdef int _grow(self, Window *window) except -1 nogil

cdef class MemberTable(Flat):
    pass

cdef class DialogTable(Flat):
    pass

cdef inline uint64_t window_find(const Window *window, uint64_t counter) noexcept nogil:  # sequence, 0 = not published
    if counter > window.highest or window.highest - counter >= window.room:
        return 0
    return window.ring[counter & (window.room - 1)]
