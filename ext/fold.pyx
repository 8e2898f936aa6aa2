# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Committed blocks → tables: the native half of folding the log into state.

After the commit; the saver, opening and every view call it with their own tables, and engine/state/overlay.py applies
the control events that it names. Everything it needs is in the record itself, so that nothing is loaded first: a
head is the newest record's sequences, a window gains a counter, a new dialog carries its two users. Keys of publishes
are gathered where there is a table for them.

Invariants: an event at or below an entry's changed_at changes nothing; records at or below `after` are not looked at.
Cost: about a tenth of a microsecond a record, without the GIL; Python only for control events of groups and channels.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from ext.block cimport blk_count, blk_record
from ext.c_prefetch cimport load_u64, store_u64, swap_u64
from ext.keys cimport KeyTable
from ext.record cimport F_TIME, rec_key, rec_payload, rec_payload_len, rec_type, rec_type_len, rec_u64
from ext.tables cimport (
    E_LOADED, H_HISTORY, H_NEW, K_DIALOG, Dialog, DialogTable, Head, HeadTable, Window, WindowTable, flat_prefetch)

cdef bytes _HEAD_BYTES = b"\x84\xa4kind\xa6dialog\xa5title\xa0\xa7history\xc3\xa7members\x92\x92\xcf"
cdef bytes _ROLE_BYTES = b"\xa6member"
cdef bytes _SECOND_BYTES = b"\xa6member\x92\xcf"
cdef const uint8_t *_HEAD = _HEAD_BYTES
cdef const uint8_t *_ROLE = _ROLE_BYTES
cdef const uint8_t *_SECOND = _SECOND_BYTES


cdef void dialog_put(uint8_t *out, uint64_t first, uint64_t second) noexcept nogil:
    memcpy(out, _HEAD, DIALOG_FIRST_AT)
    store_u64(out + DIALOG_FIRST_AT, swap_u64(first))
    memcpy(out + DIALOG_FIRST_AT + 8, _SECOND, 9)
    store_u64(out + DIALOG_SECOND_AT, swap_u64(second))
    memcpy(out + DIALOG_SECOND_AT + 8, _ROLE, 7)


cdef bint dialog_read(const uint8_t *payload, uint32_t size, uint64_t *first, uint64_t *second) noexcept nogil:
    if (size != DIALOG_BYTES or memcmp(payload, _HEAD, DIALOG_FIRST_AT) != 0
            or memcmp(payload + DIALOG_FIRST_AT + 8, _SECOND, 9) != 0
            or memcmp(payload + DIALOG_SECOND_AT + 8, _ROLE, 7) != 0):
        return False
    first[0] = swap_u64(load_u64(payload + DIALOG_FIRST_AT))
    second[0] = swap_u64(load_u64(payload + DIALOG_SECOND_AT))
    return True


cdef uint64_t SYSTEM_NUMBER = (<uint64_t>1 << 40) - 1  # of the system conversation, which is not allocated

cdef enum:  # what a record's type means to a fold
    T_PLAIN = 0
    T_CREATED = 1
    T_CONTROL = 2


cdef inline int _type_of(const uint8_t *record) noexcept nogil:
    cdef const uint8_t *name = rec_type(record)
    cdef uint32_t size = rec_type_len(record)
    if size > 13 and memcmp(name, <const char *>b"conversation.", 13) == 0:
        return T_CREATED if size == 20 and memcmp(name + 13, <const char *>b"created", 7) == 0 else T_CONTROL
    if size > 7 and memcmp(name, <const char *>b"member.", 7) == 0:
        return T_CONTROL
    if size == 15 and memcmp(name, <const char *>b"message.deleted", 15) == 0:
        return T_CONTROL
    return T_PLAIN


cdef int _fold_one(const uint8_t *record, int meaning, HeadTable heads, WindowTable windows,
                   DialogTable dialogs) except -1 nogil:
    """1 if it was a dialog's beginning, which needs no Python."""
    cdef uint64_t sequence = rec_u64(record, 0), conversation = rec_u64(record, 1), counter = rec_u64(record, 7)
    cdef uint64_t first = 0, second = 0
    cdef Head *head = <Head *>heads.put(conversation, 0)
    cdef Window *window
    cdef Dialog *dialog
    if sequence > head.head:
        head.head = sequence
        head.conversation_sequence = rec_u64(record, 2)
    if counter != 0:
        window = <Window *>windows.put(rec_u64(record, 5), rec_u64(record, 6))
        windows.add(window, counter, sequence)
    if meaning != T_CREATED or not dialog_read(rec_payload(record), rec_payload_len(record), &first, &second):
        return 0
    head.flags |= E_LOADED | H_NEW | H_HISTORY
    head.kind, head.first, head.second, head.created = K_DIALOG, first, second, sequence
    dialog = <Dialog *>dialogs.put(first, second)
    dialog.conversation, dialog.changed_at = conversation, sequence
    dialog.flags |= E_LOADED
    return 1


cdef int _fold_key(const uint8_t *record, uint32_t size, KeyTable keys) except -1 nogil:
    cdef const uint8_t *key = rec_key(record, size)
    if key != NULL:
        keys.put(load_u64(key), load_u64(key + 8), rec_u64(record, 0), rec_u64(record, F_TIME))
    return 0


cdef int _fold(const uint8_t *block, uint64_t after, bint dialogs_too, HeadTable heads, WindowTable windows,
               DialogTable dialogs, KeyTable keys, uint32_t *controls, uint64_t *number) except -1 nogil:
    """Number of control events, whose indexes are in `controls`."""
    cdef uint32_t i, size = 0, count = blk_count(block)
    cdef int found = 0, meaning, handled
    cdef uint64_t conversation
    cdef const uint8_t *record
    cdef const uint8_t *ahead
    for i in range(count):
        if i + 8 < count:
            ahead = blk_record(block, i + 8, &size)
            flat_prefetch(heads, rec_u64(ahead, 1), 0)
            flat_prefetch(windows, rec_u64(ahead, 5), rec_u64(ahead, 6))
        record = blk_record(block, i, &size)
        if rec_u64(record, 0) <= after:
            continue
        meaning = _type_of(record)
        handled = _fold_one(record, meaning, heads, windows, dialogs)
        if keys is not None:
            _fold_key(record, size, keys)
            keys.time_us = max(keys.time_us, rec_u64(record, F_TIME))
        conversation = rec_u64(record, 1)
        if meaning == T_CREATED and conversation > number[0] and conversation & SYSTEM_NUMBER != SYSTEM_NUMBER:
            number[0] = conversation
        if meaning != T_PLAIN and (dialogs_too or not handled):
            controls[found] = i
            found += 1
    return found


def fold(const uint8_t[::1] block, uint64_t after, bint dialogs_too, HeadTable heads not None,
         WindowTable windows not None, DialogTable dialogs not None, KeyTable keys=None):
    """([(index, record)…] of control events, highest conversation allocated or 0). The block must have passed its
    check. With `dialogs_too` the beginnings of dialogs are among them, else they are complete with this. Without
    `keys` nothing is done about keys."""
    cdef uint32_t *controls = <uint32_t *>malloc(<size_t>(blk_count(&block[0]) + 1) * sizeof(uint32_t))
    cdef uint64_t number = 0
    cdef uint32_t size = 0
    cdef int found, i
    cdef const uint8_t *record
    cdef list out
    if controls == NULL:
        raise MemoryError("control events of a block")
    try:
        with nogil:  # no Python objects: the block's buffer and the tables are pinned by the arguments
            found = _fold(&block[0], after, dialogs_too, heads, windows, dialogs, keys, controls, &number)
        out = []
        for i in range(found):
            record = blk_record(&block[0], controls[i], &size)
            out.append((controls[i], PyBytes_FromStringAndSize(<const char *>record, size)))
        return out, number
    finally:
        free(controls)
