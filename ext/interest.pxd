# Which sessions of this worker follow a conversation: 256 sub-tables of 12-byte slots, and lists for more than one.
# Loop thread only; nothing is borrowed beyond the next add, remove or drop. Owns slots and lists. The reverse lists
# (Session.follows) are written here alone and belong to their session.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.session_table cimport Session, SessionTable

cdef enum:
    LISTED = 0x80000000  # bit of Slot.value: the rest is the word where a list begins
    LIST_COUNT_MASK = 0x07FFFFFF  # first word of a list: class << 27 | count
    LIST_CLASS_SHIFT = 27
    LIST_ARRAYS = 7  # classes below hold plain arrays, the others sets with empty (0) places
    LIST_CLASSES = 27

cdef packed struct Slot:
    uint64_t conversation  # 0 = empty
    uint32_t value  # the only session, or LISTED | word

cdef struct SubTable:
    Slot *slots  # room of them and a tail, the last one always empty
    uint32_t room, used, used_max

cdef class Interest:
    # table
    cdef SubTable tables[256]
    cdef SessionTable sessions
    # lists: one area of words, blocks of fixed classes with free chains
    cdef uint32_t *words
    cdef uint64_t words_room, words_used
    cdef uint32_t free_block[27]
    # counts
    cdef readonly uint64_t entries  # pairs of conversation and session
    cdef readonly uint64_t conversations
    cdef uint64_t table_bytes

    # looking up (values stay true until the next change)
    cdef void fetch(self, uint64_t conversation) noexcept nogil
    cdef uint32_t find(self, uint64_t conversation) noexcept nogil  # 0 = nobody here
    cdef const uint32_t *places(self, uint32_t *value, uint32_t *room, uint32_t *count) noexcept nogil

    # changing
    cdef int put(self, uint64_t conversation, uint32_t session) except -1 nogil  # 1 added, 0 was there
    cdef int cut(self, uint64_t conversation, uint32_t session) except -1 nogil  # 1 removed, 0 was not there
    cdef int _resize(self, SubTable *table, uint32_t room) except -1 nogil
    cdef int _insert(self, SubTable *table, uint64_t conversation, uint64_t mixed, uint32_t value) except -1 nogil
    cdef uint32_t _block_new(self, uint32_t kind) except 0 nogil
    cdef void _block_free(self, uint32_t word) noexcept nogil
    cdef uint32_t _block_move(self, uint32_t word, uint32_t kind) except 0 nogil
    cdef int _list_put(self, uint32_t *word, uint32_t session) except -1 nogil
    cdef int _list_cut(self, uint32_t *word, uint32_t session) except -1 nogil
    cdef uint32_t _resolve(self, uint64_t session) except 0
    cdef int _follow(self, uint32_t index, uint64_t conversation, uint32_t expected) except -1
