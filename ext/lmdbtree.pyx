# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The trees of an LMDB 0.9 file judged page by page: what LMDB would follow blindly, and crash or show less of the log.

Asked by engine/log/structure.py, which knows the meta pages and says what a finding means. Checksums cover blocks, not
LMDB's own pages, so these are judged by what they must be beside each other: each page has its number and kind, nodes
fill it without gap or overlap, keys ascend inside what the page above says, a page has one use.

Invariants: nothing is read outside of the file or of a page, whatever the bytes are; the file is only read. A free page
of the list may be any page, once. Bytes that LMDB never looks at are not judged.
Cost: 0.1 µs a page and a few ns a node, half a microsecond to seek; of a block with pages of its own only the first is touched.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ext.c_maps cimport MAP_FAILED, MAP_SHARED, PROT_READ, SEEK_END, close, dup, lseek, mmap, munmap
from ext.c_prefetch cimport load_u16, load_u32, load_u64, swap_u64

FAULTS = (
    "sound", "it lies outside of the file", "it says that it is another page", "it is a page of another kind",
    "its nodes do not fill it", "a key is out of order", "a key is no sequence", "a node of an unknown kind",
    "it is in use twice, or in use and free", "a list of free pages that is none", "it is not as deep as it should be",
)

cdef enum:
    MAP_MORE_BYTES = 1 << 24

cdef uint64_t NONE = 0xFFFFFFFFFFFFFFFF


cdef inline uint16_t _count(const uint8_t *page) noexcept:
    return (load_u16(page + 12) - PAGE_HEAD) // 2


cdef inline const uint8_t *_node(const uint8_t *page, uint32_t index) noexcept:
    return page + load_u16(page + PAGE_HEAD + 2 * index)


cdef inline uint64_t _child(const uint8_t *node) noexcept:
    return load_u32(node) | <uint64_t>load_u16(node + 4) << 32


cdef inline bint _is_size(uint64_t page_bytes) noexcept:
    return 512 <= page_bytes <= 2 * WORDS_MAX


cdef class Trees:
    """Over a file's descriptor, of which it keeps a duplicate."""

    def __cinit__(self, int descriptor):
        self._descriptor = dup(descriptor)
        if self._descriptor < 0:
            raise OSError("no descriptor is left")

    def __dealloc__(self):
        if self._base is not NULL:
            munmap(<void *>self._base, self._mapped)
        if self._descriptor >= 0:
            close(self._descriptor)

    def size(self):
        """Bytes of the file by now; all of them can be looked at.

        Mapped is more than there is, and never looked at beyond it: a log grows with each commit, and what is unmapped
        has to be forgotten by every core that runs the process, and faulted in again.
        """
        cdef long size = lseek(self._descriptor, 0, SEEK_END)
        cdef size_t room
        cdef void *base
        if size < 0:
            raise OSError("the file's size can't be asked")
        if <size_t>size > self._mapped:
            room = <size_t>size + <size_t>size // 2 + MAP_MORE_BYTES
            base = mmap(NULL, room, PROT_READ, MAP_SHARED, self._descriptor, 0)
            if base == MAP_FAILED:
                raise OSError("the file can't be mapped")
            if self._base is not NULL:
                munmap(<void *>self._base, self._mapped)
            self._base, self._mapped = <const uint8_t *>base, room
        return size

    def part(self, uint64_t at, uint64_t size):
        """A copy of some bytes; b"" where the file does not have all of them."""
        cdef uint64_t there = self.size()
        return self._base[at:at + size] if at <= there and size <= there - at else b""

    cdef Fault _page(self, Walk *walk, uint64_t number, uint16_t kind) noexcept:
        cdef uint8_t starts[WORDS_MAX]
        cdef const uint8_t *page
        cdef const uint8_t *node
        cdef uint32_t lower, upper, at, i, count, size
        walk.page = number
        if number < 2 or number > walk.last_page or number >= walk.file_pages:
            return OUTSIDE
        if walk.free is not NULL and walk.free[number]:
            return TWICE
        page = walk.base + number * walk.page_bytes
        if load_u64(page) != number:
            return NUMBER
        if load_u16(page + 10) != kind:
            return KIND
        lower, upper = load_u16(page + 12), load_u16(page + 14)
        if lower <= PAGE_HEAD or lower & 1 or upper & 1 or lower > upper or upper > walk.page_bytes:
            return NODES
        count = _count(page)
        memset(starts + upper // 2, 0, (walk.page_bytes - upper) // 2)
        for i in range(count):
            at = load_u16(page + PAGE_HEAD + 2 * i)
            if at < upper or at & 1 or at + NODE_HEAD > walk.page_bytes or starts[at // 2]:
                return NODES
            starts[at // 2] = 1
        at = upper
        for i in range(count):
            if at + NODE_HEAD > walk.page_bytes or not starts[at // 2]:
                return NODES
            node = page + at
            size = NODE_HEAD + load_u16(node + 6)
            if kind == LEAF_PAGE:
                if load_u16(node + 4) == BIG_NODE:
                    size += 8
                elif load_u16(node + 4) != 0:
                    return NODE_KIND
                elif load_u32(node) > walk.page_bytes:
                    return NODES
                else:
                    size += load_u32(node)
            at += size + (size & 1)
            if at > walk.page_bytes:
                return NODES
        return SOUND if at == walk.page_bytes else NODES

    cdef Fault _use(self, Walk *walk, uint64_t number, uint64_t count) noexcept:
        cdef uint64_t i
        walk.page = number
        if number < 2 or number > walk.last_page or count > walk.last_page - number + 1:
            return OUTSIDE
        if walk.used is not NULL:
            for i in range(number, number + count):
                if walk.used[i]:
                    walk.page = i
                    return TWICE
                walk.used[i] = 1
        return SOUND

    cdef Fault _key(self, Walk *walk, const uint8_t *node, uint64_t *key) noexcept:
        cdef uint16_t size = load_u16(node + 6)
        if size == 8:
            key[0] = load_u64(node + NODE_HEAD) if walk.is_free else swap_u64(load_u64(node + NODE_HEAD))
            return SOUND if key[0] != 0 and key[0] != NONE else KEY
        key[0] = 0  # the header's key sorts before all sequences
        return SOUND if size == 1 and node[NODE_HEAD] == 0 and not walk.is_free else KEY

    cdef Fault _value(self, Walk *walk, const uint8_t *node, const uint8_t **value, uint64_t *size) noexcept:
        # Where a leaf's value lies; all of it is in the file.
        cdef uint64_t first, count, leaf = walk.page
        cdef const uint8_t *page
        cdef Fault fault
        value[0], size[0] = node + NODE_HEAD + load_u16(node + 6), load_u32(node)
        if load_u16(node + 4) != BIG_NODE:
            return SOUND
        first, count = load_u64(value[0]), (PAGE_HEAD + size[0] + walk.page_bytes - 1) // walk.page_bytes
        fault = self._use(walk, first, count)
        if fault != SOUND:
            return fault
        if first >= walk.file_pages or count > walk.file_pages - first:
            return OUTSIDE
        page = walk.base + first * walk.page_bytes
        if load_u64(page) != first:
            return NUMBER
        if load_u16(page + 10) != VALUE_PAGE or load_u32(page + 12) != count:
            return KIND
        walk.values += count
        value[0] = page + PAGE_HEAD
        walk.page = leaf
        return SOUND

    cdef Fault _list(self, Walk *walk, const uint8_t *node) noexcept:
        # The free pages of one transaction: their count, and their numbers, descending.
        cdef const uint8_t *value = NULL
        cdef uint64_t size = 0, count, i, number, before = NONE, leaf = walk.page
        cdef Fault fault = self._value(walk, node, &value, &size)
        if fault != SOUND:
            return fault
        count = load_u64(value) if size >= 8 else NONE
        if size < 8 or count > size // 8 - 1:
            return LIST
        for i in range(count):
            number = load_u64(value + 8 + 8 * i)
            if number >= before:
                walk.page = leaf
                return LIST
            before = number
            fault = self._use(walk, number, 1)
            if fault != SOUND:
                return fault
        walk.page = leaf
        return SOUND

    cdef Fault _leaf(self, Walk *walk, uint64_t number, uint64_t low, uint64_t high) noexcept:
        cdef const uint8_t *page = walk.base + number * walk.page_bytes
        cdef const uint8_t *value = NULL
        cdef uint64_t key = 0, before = 0, size = 0
        cdef uint32_t i, count = _count(page)
        cdef Fault fault
        walk.leaves += 1
        walk.entries += count
        for i in range(count):
            fault = self._key(walk, _node(page, i), &key)
            if fault != SOUND:
                return fault
            if key < low or key >= high or (i > 0 and key <= before):
                return ORDER
            before = key
            if walk.used is NULL:
                continue
            if walk.is_free:
                fault = self._list(walk, _node(page, i))
            else:
                fault = self._value(walk, _node(page, i), &value, &size)
            if fault != SOUND:
                return fault
        return SOUND

    cdef Fault _found(self, Walk *walk, uint64_t number, uint64_t key, uint64_t high) noexcept:
        # In a leaf that is right: the greatest key up to `key`, its value, and the key that follows.
        cdef const uint8_t *page = walk.base + number * walk.page_bytes
        cdef uint64_t size = 0
        cdef uint32_t begin = 0, end = _count(page), middle
        walk.found, walk.following = NONE, high
        while begin < end:
            middle = (begin + end) // 2
            self._key(walk, _node(page, middle), &size)
            if size <= key:
                walk.found, begin = size, middle + 1
            else:
                walk.following, end = size, middle
        return self._value(walk, _node(page, begin - 1), &walk.value, &walk.value_bytes) if begin > 0 else SOUND

    cdef Fault _branch(self, Walk *walk, uint64_t number, uint32_t level, uint64_t low, uint64_t high) noexcept:
        cdef const uint8_t *page = walk.base + number * walk.page_bytes
        cdef uint64_t key = low, following = 0
        cdef uint32_t i, count = _count(page)
        cdef Fault fault
        walk.branches += 1
        for i in range(count):
            following = high
            if i + 1 < count:
                fault = self._key(walk, _node(page, i + 1), &following)
                if fault != SOUND:
                    return fault
                if following <= key or following >= high:
                    return ORDER
            fault = self._tree(walk, _child(_node(page, i)), level + 1, key, following)
            if fault != SOUND:
                return fault
            walk.page = number
            key = following
        return SOUND

    cdef Fault _tree(self, Walk *walk, uint64_t number, uint32_t level, uint64_t low, uint64_t high) noexcept:
        cdef Fault fault = self._use(walk, number, 1)
        if fault == SOUND:
            fault = self._page(walk, number, LEAF_PAGE if level == walk.depth else BRANCH_PAGE)
        if fault != SOUND:
            return fault
        return self._leaf(walk, number, low, high) if level == walk.depth else self._branch(walk, number, level, low, high)

    cdef Fault _path(self, Walk *walk, uint64_t root, uint64_t key) noexcept:
        # From the root to the leaf where a key would lie: what LMDB looks at to find it.
        cdef uint64_t number = root, low = 0, high = NONE, before, found
        cdef uint32_t level, i, count, chosen
        cdef const uint8_t *page
        cdef Fault fault
        for level in range(1, walk.depth):
            fault = self._page(walk, number, BRANCH_PAGE)
            if fault != SOUND:
                return fault
            page = walk.base + number * walk.page_bytes
            count, chosen, before, found = _count(page), 0, low, 0
            for i in range(1, count):
                fault = self._key(walk, _node(page, i), &found)
                if fault != SOUND:
                    return fault
                if found <= before or found >= high:
                    return ORDER
                before = found
                if found <= key:
                    chosen, low = i, found
            if chosen + 1 < count:
                self._key(walk, _node(page, chosen + 1), &high)
            number = _child(_node(page, chosen))
        fault = self._page(walk, number, LEAF_PAGE)
        if fault == SOUND:
            fault = self._leaf(walk, number, low, high)
        if fault == SOUND:
            fault = self._found(walk, number, key, high)
        if fault == SOUND and walk.found == NONE and low > 0:  # between a separator and the first key behind it
            found = walk.following
            fault = self._path(walk, root, low - 1)
            walk.following = found
        return fault

    def seek(self, uint64_t page_bytes, uint64_t key):
        """`path` in the tree of keys that the newer meta page names, by what LMDB will look at and no more."""
        cdef Walk walk
        cdef Fault fault
        cdef uint64_t size = self.size()
        cdef const uint8_t *meta
        if not _is_size(page_bytes) or size < page_bytes + META_END:
            return <int>OUTSIDE, 0, None, None
        meta = self._base
        if load_u64(meta + META_TRANSACTION) < load_u64(meta + page_bytes + META_TRANSACTION):
            meta += page_bytes
        memset(&walk, 0, sizeof(Walk))
        walk.base, walk.page_bytes, walk.file_pages = self._base, page_bytes, size // page_bytes
        walk.last_page, walk.depth = load_u64(meta + META_LAST_PAGE), load_u16(meta + META_DEPTH)
        fault = DEEP if walk.depth < 1 or walk.depth > DEPTH_MAX else self._way(&walk, load_u64(meta + META_ROOT), key)
        if fault != SOUND:
            return <int>fault, walk.page, None, None
        return 0, 0, None if walk.found == NONE else walk.found, None if walk.following == NONE else walk.following

    def path(self, uint64_t page_bytes, uint64_t root, uint32_t depth, uint64_t last_page, uint64_t key, bint is_free,
             const uint8_t[::1] free=None):
        """(fault, page, greatest key up to `key`, the one that follows): of the pages that lead there. The header's key
        is 0; None: there is no such key, or, of the one that follows, none (it may be below, never above). `free` has a byte a page, set for those
        that can't be on the way: what was there before a commit looks like what is."""
        cdef Walk walk
        cdef Fault fault
        memset(&walk, 0, sizeof(Walk))
        walk.file_pages = <uint64_t>self.size() // max(page_bytes, <uint64_t>1)
        walk.base, walk.page_bytes, walk.last_page, walk.depth = self._base, page_bytes, last_page, depth
        walk.is_free = is_free
        if free is not None:
            if <uint64_t>free.shape[0] <= last_page:
                raise ValueError("a byte for each page")
            walk.free = &free[0]
        if depth < 1 or depth > DEPTH_MAX or not _is_size(page_bytes):
            return <int>DEEP, root, None, None
        fault = self._path(&walk, root, key)
        if fault != SOUND:
            return <int>fault, walk.page, None, None
        return 0, 0, None if walk.found == NONE else walk.found, None if walk.following == NONE else walk.following

    cdef Fault _head(self, Walk *walk, uint64_t number, uint16_t kind) noexcept:
        cdef const uint8_t *page
        cdef uint32_t lower, upper
        walk.page = number
        if number < 2 or number > walk.last_page or number >= walk.file_pages:
            return OUTSIDE
        page = walk.base + number * walk.page_bytes
        lower, upper = load_u16(page + 12), load_u16(page + 14)
        if load_u64(page) != number:
            return NUMBER
        if load_u16(page + 10) != kind:
            return KIND
        return NODES if lower <= PAGE_HEAD or lower & 1 or lower > upper or upper > walk.page_bytes else SOUND

    cdef Fault _touched(self, Walk *walk, const uint8_t *page, int index, uint16_t kind, uint64_t *key) noexcept:
        # One node, and its key; of a page whose head is right.
        cdef uint32_t at = load_u16(page + PAGE_HEAD + 2 * index)
        cdef uint64_t end
        if at < load_u16(page + 14) or at + NODE_HEAD > walk.page_bytes:
            return NODES
        end = at + NODE_HEAD + load_u16(page + at + 6)
        if kind == LEAF_PAGE:
            if load_u16(page + at + 4) > BIG_NODE:
                return NODE_KIND
            end += 8 if load_u16(page + at + 4) == BIG_NODE else load_u32(page + at)
        if end > walk.page_bytes:
            return NODES
        if kind == BRANCH_PAGE and index == 0:
            return SOUND
        return self._key(walk, page + at, key)

    cdef Fault _probe(self, Walk *walk, const uint8_t *page, uint16_t kind, uint64_t key, int *index) noexcept:
        # The last node whose key is up to `key`, −1 for none, by the very nodes at which LMDB looks for it.
        cdef int low = 1 if kind == BRANCH_PAGE else 0, high = _count(page) - 1, middle
        cdef uint64_t found = 0
        cdef Fault fault
        index[0] = low - 1
        while low <= high:
            middle = (low + high) >> 1
            fault = self._touched(walk, page, middle, kind, &found)
            if fault != SOUND:
                return fault
            if found <= key:
                index[0], low = middle, middle + 1
            else:
                high = middle - 1
            if found == key:
                break
        return SOUND

    cdef Fault _way(self, Walk *walk, uint64_t root, uint64_t key) noexcept:
        # As `_path`, but only of what LMDB touches on its way: a head a page, and the nodes that its search compares.
        cdef uint64_t number = root, low = 0, high = NONE, found = 0
        cdef uint32_t level
        cdef int index = 0
        cdef const uint8_t *page = NULL
        cdef Fault fault
        cdef uint16_t kind
        for level in range(1, walk.depth + 1):
            kind = LEAF_PAGE if level == walk.depth else BRANCH_PAGE
            fault = self._head(walk, number, kind)
            if fault == SOUND:
                page = walk.base + number * walk.page_bytes
                fault = self._probe(walk, page, kind, key, &index)
            if fault == SOUND and index + 1 < _count(page):
                fault = self._touched(walk, page, index + 1, kind, &found)
                if fault == SOUND and not low <= found < high:
                    fault = ORDER
                high = found
            if fault == SOUND and index >= 0:
                found = low
                fault = self._touched(walk, page, index, kind, &found)
                if fault == SOUND and not low <= found < high:
                    fault = ORDER
                low = found
            if fault != SOUND:
                return fault
            if kind == BRANCH_PAGE:
                number = _child(_node(page, index))
        walk.following = high
        if index < 0:  # between a separator and the first key behind it, or before all
            walk.found = NONE
            if low > 0:
                found = high
                fault = self._way(walk, root, low - 1)
                walk.following = found
            return fault
        walk.found = low
        if low != key:  # LMDB will be asked for this one, and look at other nodes for it
            found = high
            fault = self._way(walk, root, low)
            walk.following = found
            return fault
        return self._value(walk, _node(page, index), &walk.value, &walk.value_bytes)

    def last_value(self, uint64_t page_bytes, uint64_t root, uint32_t depth, uint64_t last_page):
        """A copy of the value of the tree's last key; b"" where the way there is not right."""
        cdef Walk walk
        memset(&walk, 0, sizeof(Walk))
        walk.file_pages = <uint64_t>self.size() // max(page_bytes, <uint64_t>1)
        walk.base, walk.page_bytes, walk.last_page, walk.depth = self._base, page_bytes, last_page, depth
        if depth < 1 or depth > DEPTH_MAX or not _is_size(page_bytes):
            return b""
        return walk.value[:walk.value_bytes] if self._path(&walk, root, NONE - 1) == SOUND else b""

    def tree(self, uint64_t page_bytes, uint64_t root, uint32_t depth, uint64_t last_page, bint is_free,
             uint8_t[::1] used not None):
        """(fault, page, branches, leaves, pages of values, entries) of a whole tree. `used` has a byte a page, set for
        each that is met."""
        cdef Walk walk
        cdef Fault fault
        if <uint64_t>used.shape[0] <= last_page:
            raise ValueError("a byte for each page")
        memset(&walk, 0, sizeof(Walk))
        walk.file_pages = <uint64_t>self.size() // max(page_bytes, <uint64_t>1)
        walk.base, walk.page_bytes, walk.last_page, walk.depth = self._base, page_bytes, last_page, depth
        walk.used, walk.is_free = &used[0], is_free
        fault = DEEP if depth < 1 or depth > DEPTH_MAX or not _is_size(page_bytes) else self._tree(&walk, root, 1, 0, NONE)
        return <int>fault, walk.page, walk.branches, walk.leaves, walk.values, walk.entries
