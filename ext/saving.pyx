# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows of the saved state from tables, and tables from rows: sorting, coding and merging without Python per field.

Between ext/fold, which gathers a million events into tables, and engine/state/saver.py, which moves the rows; also
engine/loader.py, which brings cold rows back. Heads are saved in slabs of 408 (one page each), windows as varint
deltas: what is written for a million events is a fraction of their bytes, though they touch every page.

Invariants: encode(decode(x)) = x; merging is a union, so that saving the same events twice changes nothing.
Cost: a sort without the GIL a save, then about half a microsecond a row.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy, memset

from ext.c_prefetch cimport load_u32, load_u64, store_u32, store_u64, swap_u64
from ext.c_python cimport PyObject_GC_UnTrack, PyType_GenericAlloc
from ext.flat cimport SUBTABLES, Entry, Flat
from ext.tables cimport E_LOADED, E_USED, H_CLOSED, H_HISTORY, H_NEW, K_DIALOG, R_MEMBER, flat_get

cdef enum:
    ROW_CLOSED = 1
    ROW_HISTORY = 2

HEADS_PER_SLAB = SLAB


cdef int _compare(const void *a, const void *b) noexcept nogil:
    cdef const uint64_t *x = <const uint64_t *>a
    cdef const uint64_t *y = <const uint64_t *>b
    if x[0] != y[0]:
        return 1 if x[0] > y[0] else -1
    if x[1] != y[1]:
        return 1 if x[1] > y[1] else -1
    return 0


cdef void *_sorted_copy(Flat table) except? NULL nogil:
    """All entries of a table by key; NULL if it is empty. The caller frees it."""
    cdef size_t n = 0, size = table.entry_bytes
    cdef uint32_t sub, at
    cdef uint8_t *copy
    cdef uint8_t *entry
    if table.count == 0:
        return NULL
    copy = <uint8_t *>malloc(table.count * size)
    if copy == NULL:
        with gil:
            raise MemoryError(f"{table.count * size} bytes to sort a table")
    for sub in range(SUBTABLES):
        if table.slots[sub] == NULL:
            continue
        for at in range(table.masks[sub] + 1):
            entry = table.slots[sub] + <size_t>at * size
            if (<Entry *>entry).key != 0:
                memcpy(copy + n * size, entry, size)
                n += 1
    qsort(copy, n, size, _compare)
    return copy


# Windows.

cdef inline size_t _put_varint(uint8_t *out, uint64_t value) noexcept nogil:
    cdef size_t n = 0
    while value >= 0x80:
        out[n] = <uint8_t>(value | 0x80)
        value >>= 7
        n += 1
    out[n] = <uint8_t>value
    return n + 1


cdef inline const uint8_t *_get_varint(const uint8_t *at, const uint8_t *end, uint64_t *value) noexcept nogil:
    """What follows the varint, NULL if there is none."""
    cdef uint32_t shift = 0
    value[0] = 0
    while at < end and shift < 64:
        value[0] |= <uint64_t>(at[0] & 0x7F) << shift
        if at[0] < 0x80:
            return at + 1
        at += 1
        shift += 7
    return NULL


cdef void span_of(const Window *w, Span *span) noexcept nogil:
    cdef uint64_t back
    memset(span, 0, sizeof(Span))
    span.highest = w.highest
    span.changed_at = w.changed_at
    for back in range(w.room):
        if back >= w.highest:
            break
        span.back[back] = w.ring[(w.highest - back) & (w.room - 1)]


cdef size_t span_encode(const Span *span, uint8_t *out) noexcept nogil:
    cdef size_t n
    cdef uint32_t back, size = 0
    cdef uint64_t before = span.changed_at
    cdef int64_t step
    for back in range(WINDOW):
        if span.back[back]:
            size = back + 1
    n = _put_varint(out, span.highest)
    n += _put_varint(out + n, span.changed_at)
    out[n] = <uint8_t>size
    n += 1
    memset(out + n, 0, (size + 7) // 8)
    for back in range(size):
        if span.back[back]:
            out[n + back // 8] |= <uint8_t>(1 << (back % 8))
    n += (size + 7) // 8
    for back in range(size):
        if span.back[back]:
            step = <int64_t>(before - span.back[back])
            before = span.back[back]
            n += _put_varint(out + n, (<uint64_t>step << 1) ^ <uint64_t>(step >> 63))
    return n


cdef int span_decode(const uint8_t *data, size_t size, Span *span) noexcept nogil:
    cdef const uint8_t *at = data
    cdef const uint8_t *end = data + size
    cdef const uint8_t *bits
    cdef uint64_t value = 0, before
    cdef uint32_t back, slots
    memset(span, 0, sizeof(Span))
    at = _get_varint(at, end, &span.highest)
    if at == NULL:
        return -1
    at = _get_varint(at, end, &span.changed_at)
    if at == NULL or at >= end or at[0] > WINDOW:
        return -1
    slots = at[0]
    bits = at + 1
    at = bits + (slots + 7) // 8
    if at > end:
        return -1
    before = span.changed_at
    for back in range(slots):
        if bits[back // 8] & (1 << (back % 8)):
            at = _get_varint(at, end, &value)
            if at == NULL:
                return -1
            before -= (value >> 1) ^ (0 - (value & 1))
            span.back[back] = before
    return 0 if at == end else -1


cdef void span_merge(const Span *old, Span *new) noexcept nogil:
    cdef uint64_t shift, back
    cdef Span swapped
    if old.highest > new.highest:  # the newer part holds only older counters
        swapped = new[0]
        new[0] = old[0]
        span_merge(&swapped, new)
        return
    shift = new.highest - old.highest
    for back in range(WINDOW):
        if back + shift < WINDOW and new.back[back + shift] == 0:
            new.back[back + shift] = old.back[back]
    if old.changed_at > new.changed_at:
        new.changed_at = old.changed_at


cdef int _decode(bytes row, Span *span) except -1:
    if span_decode(<const uint8_t *>PyBytes_AS_STRING(row), PyBytes_GET_SIZE(row), span) != 0:
        raise ValueError(f"a device window of {len(row)} bytes can't be read: {row[:32].hex()}")
    return 0


cdef tuple _window_row(const Window *w, bytes key, bytes old):
    cdef Span span, before
    cdef uint8_t out[WINDOW_BYTES_MAX]
    span_of(w, &span)
    if old is not None:
        _decode(old, &before)
        span_merge(&before, &span)
    return key, PyBytes_FromStringAndSize(<char *>out, span_encode(&span, out))


cdef bytes _key1(uint64_t number):
    cdef uint64_t key = swap_u64(number)
    return PyBytes_FromStringAndSize(<char *>&key, 8)


cdef bytes _key2(uint64_t first, uint64_t second):
    cdef uint64_t key[2]
    key[0], key[1] = swap_u64(first), swap_u64(second)
    return PyBytes_FromStringAndSize(<char *>key, 16)


cdef class SortedWindows:
    """All windows of a table by (user, device)."""

    def __cinit__(self, WindowTable table):
        self.table = table  # keeps the rings alive
        with nogil:  # no Python objects: the table is pinned by self and has one owner thread
            self.at = <Window *>_sorted_copy(table)
        self.count = table.count

    def __dealloc__(self):
        free(self.at)

    def keys(self, size_t start, size_t limit):
        """Keys of `limit` windows from `start`, ascending."""
        cdef size_t i
        return [_key2(self.at[i].user, self.at[i].device) for i in range(start, min(start + limit, self.count))]

    def rows(self, size_t start, list keys, list found):
        """(key, value) of the windows of `keys`, each merged with its saved row if `found` has one."""
        cdef size_t i
        cdef dict saved = dict(found)
        return [_window_row(&self.at[start + i], key, saved.get(key)) for i, key in enumerate(keys)]


def load_windows(WindowTable table, list keys, list found):
    """Makes the windows of `keys` whole: merges the saved rows in `found`; a key without a row is a new device."""
    cdef dict saved = dict(found)
    cdef const uint8_t *key
    cdef Window *w
    cdef Span span
    cdef bytes key_bytes, row
    cdef int back
    cdef uint64_t changed_at
    for key_bytes in keys:
        key = <const uint8_t *>PyBytes_AS_STRING(key_bytes)
        w = <Window *>table.put(swap_u64(load_u64(key)), swap_u64(load_u64(key + 8)))
        if w.flags & E_LOADED:
            continue
        w.flags |= E_LOADED | E_USED
        row = saved.get(key_bytes)
        if row is None:
            continue
        _decode(row, &span)
        changed_at = w.changed_at
        for back in range(WINDOW - 1, -1, -1):
            if span.back[back]:
                table.add(w, span.highest - back, span.back[back])
        w.changed_at = max(changed_at, span.changed_at)


def window_highest(bytes row):
    """The highest counter of a saved window."""
    cdef Span span
    _decode(row, &span)
    return span.highest


def window_decode(bytes row):
    """(highest, changed_at, {counter: sequence}) of a saved window."""
    cdef Span span
    cdef uint64_t back
    _decode(row, &span)
    return span.highest, span.changed_at, {span.highest - back: span.back[back] for back in range(WINDOW) if span.back[back]}


# Heads.

cdef class SortedHeads:
    """All heads of a table by conversation."""

    def __cinit__(self, HeadTable table):
        with nogil:  # no Python objects: the table is pinned by the caller's argument
            self.at = <Head *>_sorted_copy(table)
        self.count = table.count

    def __dealloc__(self):
        free(self.at)

    def slabs(self):
        """(key, first index) of each slab that these heads touch, ascending."""
        cdef size_t i
        cdef uint64_t slab, last = 0
        cdef list out = []
        for i in range(self.count):
            slab = self.at[i].conversation // SLAB + 1
            if slab != last:
                out.append((_key1(slab - 1), i))
                last = slab
        return out

    def patch(self, size_t start, bytes old):
        """The slab of the head at `start`: its saved row, if any, with all these heads put in."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, SLAB * HEAD_BYTES)
        cdef uint8_t *row = <uint8_t *>PyBytes_AS_STRING(out)
        cdef uint8_t *at
        cdef uint64_t slab = self.at[start].conversation // SLAB
        cdef uint64_t head
        if old is None:
            memset(row, 0, SLAB * HEAD_BYTES)
        elif PyBytes_GET_SIZE(old) != SLAB * HEAD_BYTES:
            raise ValueError(f"a slab of heads has {len(old)} bytes, not {SLAB * HEAD_BYTES}")
        else:
            memcpy(row, PyBytes_AS_STRING(old), SLAB * HEAD_BYTES)
        while start < self.count and self.at[start].conversation // SLAB == slab:
            at = row + (self.at[start].conversation % SLAB) * HEAD_BYTES
            head = self.at[start].head
            if head > (load_u32(at) | <uint64_t>at[4] << 32 | <uint64_t>at[5] << 40):
                store_u32(at, <uint32_t>head)
                at[4] = <uint8_t>(head >> 32)
                at[5] = <uint8_t>(head >> 40)
                store_u32(at + 6, <uint32_t>self.at[start].conversation_sequence)
            start += 1
        return out


cdef inline uint64_t _slab_head(const uint8_t *at) noexcept nogil:
    return load_u32(at) | <uint64_t>at[4] << 32 | <uint64_t>at[5] << 40


def slab_head(bytes slab, uint64_t conversation):
    """(head, conversation sequence) of a conversation in its slab."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(slab) + (conversation % SLAB) * HEAD_BYTES
    if PyBytes_GET_SIZE(slab) != SLAB * HEAD_BYTES:
        raise ValueError(f"a slab of heads has {len(slab)} bytes, not {SLAB * HEAD_BYTES}")
    return _slab_head(at), load_u32(at + 6)


def memberships(rows not None, uint64_t user, type made not None, dict kinds not None, dict roles not None):
    """A user's memberships among (key, row) of `members`, which begin with theirs and end where another's come: tuples
    of the class `made`, of (user, conversation, kind, role, intervals, changed_at)."""
    cdef list found = []
    cdef bytes key, row
    cdef const uint8_t *at
    cdef uint32_t count, i
    cdef object person = user, membership, intervals
    for key, row in rows:
        if swap_u64(load_u64(<const uint8_t *>PyBytes_AS_STRING(key))) != user:
            break
        at = <const uint8_t *>PyBytes_AS_STRING(row)
        count = load_u32(at + 4) if PyBytes_GET_SIZE(row) >= MEMBER_BYTES else 0
        if <size_t>PyBytes_GET_SIZE(row) != MEMBER_BYTES + <size_t>INTERVAL_BYTES * count:
            raise ValueError(f"the row of a membership of user {user} has {len(row)} bytes")
        if count == 1:
            intervals = (_interval(at + MEMBER_BYTES),)
        else:
            intervals = tuple([_interval(at + MEMBER_BYTES + INTERVAL_BYTES * i) for i in range(count)])
        membership = PyType_GenericAlloc(<PyTypeObject *>made, 6)
        PyObject_GC_UnTrack(<void *>membership)  # numbers, texts and tuples of numbers make no cycle
        _fill(membership, 0, person)
        _fill(membership, 1, swap_u64(load_u64(<const uint8_t *>PyBytes_AS_STRING(key) + 8)))
        _fill(membership, 2, kinds[at[1]])
        _fill(membership, 3, roles[at[0]])
        _fill(membership, 4, intervals)
        _fill(membership, 5, load_u64(at + 8))
        found.append(membership)
    return found


cdef inline tuple _interval(const uint8_t *at):
    cdef uint64_t last = load_u64(at + 8)
    return load_u64(at), last if last else None


cdef inline int _fill(object made, Py_ssize_t place, object value) except -1:
    Py_INCREF(value)  # SET_ITEM takes this reference over; the tuple lets go of it
    PyTuple_SET_ITEM(made, place, value)
    return 0


def load_heads(HeadTable table, list keys, list found, dict slabs):
    """Makes the heads of `keys` (conversations, big-endian) whole: `found` are their saved conversation rows, `slabs`
    the slabs by number. A key without a row is a conversation that does not exist."""
    cdef dict rows = dict(found)
    cdef const uint8_t *row
    cdef const uint8_t *at
    cdef uint64_t conversation
    cdef bytes key, value, slab
    cdef Head *h
    for key in keys:
        conversation = swap_u64(load_u64(<const uint8_t *>PyBytes_AS_STRING(key)))
        h = <Head *>table.put(conversation, 0)
        if h.flags & E_LOADED:
            continue
        h.flags |= E_LOADED | E_USED
        value = rows.get(key)
        if value is None:
            continue
        if PyBytes_GET_SIZE(value) < CONVERSATION_BYTES:
            raise ValueError(f"the row of conversation {conversation} has {len(value)} bytes")
        row = <const uint8_t *>PyBytes_AS_STRING(value)
        h.kind = row[0]
        h.flags |= (H_CLOSED if row[1] & ROW_CLOSED else 0) | (H_HISTORY if row[1] & ROW_HISTORY else 0)
        h.created, h.first, h.second = load_u64(row + 8), load_u64(row + 24), load_u64(row + 32)
        slab = slabs.get(conversation // SLAB)
        if slab is None or PyBytes_GET_SIZE(slab) != SLAB * HEAD_BYTES:
            raise ValueError(f"conversation {conversation} has a row but no head")
        at = <const uint8_t *>PyBytes_AS_STRING(slab) + (conversation % SLAB) * HEAD_BYTES
        if _slab_head(at) > h.head:
            h.head, h.conversation_sequence = _slab_head(at), load_u32(at + 6)


# Dialogs that came into being since the last save.

cdef class SortedDialogs:
    """New dialogs among sorted heads, with their rows in the order of each database."""

    def __cinit__(self, SortedHeads heads):
        cdef size_t i, n = 0
        cdef Head *h
        for i in range(heads.count):
            n += 1 if heads.at[i].flags & H_NEW else 0
        self.count = n
        if n == 0:
            return
        self.dialogs = <DialogRow *>malloc(n * sizeof(DialogRow))
        self.members = <DialogRow *>malloc(2 * n * sizeof(DialogRow))
        if self.dialogs == NULL or self.members == NULL:
            raise MemoryError(f"rows of {n} new dialogs")
        n = 0
        for i in range(heads.count):
            h = &heads.at[i]
            if not h.flags & H_NEW:
                continue
            self.dialogs[n] = DialogRow(h.first, h.second, h.conversation, h.created)
            self.members[2 * n] = DialogRow(h.first, h.conversation, 0, h.created)
            self.members[2 * n + 1] = DialogRow(h.second, h.conversation, 0, h.created)
            n += 1
        if n:  # else there are no arrays
            with nogil:  # no Python objects: both belong to self
                qsort(self.members, 2 * n, sizeof(DialogRow), _compare)

    def __dealloc__(self):
        free(self.dialogs)
        free(self.members)

    def conversation_rows(self, size_t start, size_t limit):
        """(key, value) by conversation; call before dialog_rows, which sorts anew."""
        cdef size_t i
        cdef uint8_t row[CONVERSATION_BYTES]
        cdef list out = []
        for i in range(start, min(start + limit, self.count)):
            memset(row, 0, CONVERSATION_BYTES)
            row[0], row[1] = K_DIALOG, ROW_HISTORY
            store_u32(row + 4, 2)
            store_u64(row + 8, self.dialogs[i].created)
            store_u64(row + 16, self.dialogs[i].created)
            store_u64(row + 24, self.dialogs[i].key)
            store_u64(row + 32, self.dialogs[i].key2)
            out.append((_key1(self.dialogs[i].conversation),
                        PyBytes_FromStringAndSize(<char *>row, CONVERSATION_BYTES)))
        return out

    def sort_by_users(self):
        """Puts the dialogs in the order of their database."""
        if self.count:  # else there is no array
            with nogil:  # no Python objects: it belongs to self
                qsort(self.dialogs, self.count, sizeof(DialogRow), _compare)

    def dialog_rows(self, size_t start, size_t limit):
        """(key, value) by the two users, after sort_by_users()."""
        cdef size_t i
        return [(_key2(self.dialogs[i].key, self.dialogs[i].key2), _key1(self.dialogs[i].conversation))
                for i in range(start, min(start + limit, self.count))]

    def member_rows(self, size_t start, size_t limit):
        """(key, value) by user and conversation."""
        cdef size_t i
        cdef uint8_t row[MEMBER_BYTES + 16]
        cdef list out = []
        for i in range(start, min(start + limit, 2 * self.count)):
            memset(row, 0, MEMBER_BYTES + 16)
            row[0], row[1] = R_MEMBER, K_DIALOG
            store_u32(row + 4, 1)
            store_u64(row + 8, self.members[i].created)
            store_u64(row + 16, self.members[i].created)
            out.append((_key2(self.members[i].key, self.members[i].key2),
                        PyBytes_FromStringAndSize(<char *>row, MEMBER_BYTES + 16)))
        return out
