# The trees of an LMDB 0.9 file, read and judged in place without LMDB, which believes every byte of them.
# Any thread, with the GIL held: the mapping is made anew when the file has grown. No pointer leaves a call.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum Fault:
    SOUND = 0
    OUTSIDE = 1  # a page, or a value, beyond the file's end or the last page
    NUMBER = 2  # a page says that it is another one
    KIND = 3  # a branch, a leaf or the first page of a value is due
    NODES = 4  # nodes overlap, leave a gap, or do not end where the page ends
    ORDER = 5  # a key is not where it sorts
    KEY = 6  # a key is no sequence and not that of the header; or, of free pages, no transaction
    NODE_KIND = 7  # a node with flags that this log never sets
    TWICE = 8  # a page in use by two, or in use and free
    LIST = 9  # free pages that are no descending list
    DEEP = 10  # deeper or less deep than its meta page says

cdef enum:
    BRANCH_PAGE = 1
    LEAF_PAGE = 2
    VALUE_PAGE = 4
    PAGE_HEAD = 16
    NODE_HEAD = 8
    BIG_NODE = 1
    DEPTH_MAX = 32
    META_DEPTH = 94  # in a meta page: of the tree of keys
    META_ROOT = 128
    META_LAST_PAGE = 136
    META_TRANSACTION = 144
    META_END = 152
    WORDS_MAX = 16384  # two-byte words of the largest page

cdef struct Walk:  # of one tree
    const uint8_t *base
    uint64_t page_bytes, file_pages, last_page
    uint8_t *used  # a byte a page, 1 once it was met; NULL: not asked
    const uint8_t *free  # the same of free pages, which no path may lead to; NULL: not asked
    uint32_t depth
    bint is_free
    uint64_t branches, leaves, values, entries  # met so far; `values` counts pages of values
    uint64_t found, following  # of a path: the greatest key up to the one looked for, and the next
    const uint8_t *value  # of the one found, in the file; and its size
    uint64_t value_bytes
    uint64_t page  # where the fault is

cdef class Trees:
    cdef const uint8_t *_base
    cdef size_t _mapped  # bytes, of which the first size() are there
    cdef int _descriptor

    cdef Fault _page(self, Walk *walk, uint64_t number, uint16_t kind) noexcept
    cdef Fault _use(self, Walk *walk, uint64_t number, uint64_t count) noexcept
    cdef Fault _key(self, Walk *walk, const uint8_t *node, uint64_t *key) noexcept
    cdef Fault _value(self, Walk *walk, const uint8_t *node, const uint8_t **value, uint64_t *size) noexcept
    cdef Fault _list(self, Walk *walk, const uint8_t *node) noexcept
    cdef Fault _branch(self, Walk *walk, uint64_t number, uint32_t level, uint64_t low, uint64_t high) noexcept
    cdef Fault _leaf(self, Walk *walk, uint64_t number, uint64_t low, uint64_t high) noexcept
    cdef Fault _found(self, Walk *walk, uint64_t number, uint64_t key, uint64_t high) noexcept
    cdef Fault _tree(self, Walk *walk, uint64_t number, uint32_t level, uint64_t low, uint64_t high) noexcept
    cdef Fault _head(self, Walk *walk, uint64_t number, uint16_t kind) noexcept
    cdef Fault _probe(self, Walk *walk, const uint8_t *page, uint16_t kind, uint64_t key, int *index) noexcept
    cdef Fault _touched(self, Walk *walk, const uint8_t *page, int index, uint16_t kind, uint64_t *key) noexcept
    cdef Fault _way(self, Walk *walk, uint64_t root, uint64_t key) noexcept
    cdef Fault _path(self, Walk *walk, uint64_t root, uint64_t key) noexcept
