# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One stored event as bytes and as a tuple; layout and version rules stand in engine/LOG_FORMAT.md.

Written once, by admission; the same bytes lie in the log, in a MessagePack client's frame and in a page of history.

Invariants: what rec_put writes passes rec_good and is valid MessagePack; what passes rec_good can be read without
looking at sizes again. Fields behind the tenth are passed over, but for the key of whoever asks for it. Cost: a copy.
"""
from collections import namedtuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.c_prefetch cimport store_u64, swap_u64
from ext.c_python cimport PyObject_GC_UnTrack, PyType_GenericAlloc

Record = namedtuple(
    "Record",
    "sequence conversation conversation_sequence previous time sender device counter type payload",
    module=__name__,
)


cdef bint rec_good(const uint8_t *record, size_t size) noexcept nogil:
    cdef int field
    cdef size_t needed
    if size < FIXED_BYTES or not 0x9A <= record[ARRAY_AT] <= 0x9F:
        return False
    for field in range(INTEGERS):
        if record[FIRST_AT - 1 + 9 * field] != 0xCF:
            return False
    if record[TYPE_HEAD_AT] != 0xD9 or not 1 <= record[TYPE_LENGTH_AT] <= TYPE_LENGTH_MAX:
        return False
    needed = FIXED_BYTES + <size_t>record[TYPE_LENGTH_AT]
    if size < needed or record[needed - 5] != 0xC6 or rec_payload_len(record) > PAYLOAD_LENGTH_MAX:
        return False
    needed += rec_payload_len(record)
    return size == needed if record[ARRAY_AT] == 0x9A else size > needed


cdef uint32_t rec_put(uint8_t *out, uint64_t sequence, uint64_t conversation, uint64_t conversation_sequence,
                      uint64_t previous, uint64_t time_us, uint64_t sender, uint64_t device, uint64_t counter,
                      const uint8_t *type, uint32_t type_bytes, const uint8_t *payload,
                      uint32_t payload_bytes) noexcept nogil:
    cdef uint64_t numbers[8]
    cdef uint8_t *at = out + 1
    cdef int field
    numbers[0], numbers[1], numbers[2], numbers[3] = sequence, conversation, conversation_sequence, previous
    numbers[4], numbers[5], numbers[6], numbers[7] = time_us, sender, device, counter
    out[0] = 0x9A
    for field in range(INTEGERS):
        at[0] = 0xCF
        store_u64(at + 1, swap_u64(numbers[field]))
        at += 9
    at[0] = 0xD9
    at[1] = <uint8_t>type_bytes
    memcpy(at + 2, type, type_bytes)
    at += 2 + type_bytes
    at[0] = 0xC6
    at[1], at[2] = <uint8_t>(payload_bytes >> 24), <uint8_t>(payload_bytes >> 16)
    at[3], at[4] = <uint8_t>(payload_bytes >> 8), <uint8_t>payload_bytes
    memcpy(at + 5, payload, payload_bytes)
    return FIXED_BYTES + type_bytes + payload_bytes


cdef uint32_t rec_put_key(uint8_t *record, uint32_t size, const uint8_t *key) noexcept nogil:
    record[ARRAY_AT] = 0x9B
    record[size], record[size + 1] = 0xC4, 16
    memcpy(record + size + 2, key, 16)
    return size + KEY_FIELD_BYTES


cdef object rec_filled(object made, Py_ssize_t items, const uint8_t *record, str type):
    # A named tuple is a tuple of another class: made and filled as tuple.__new__ does, without a tuple in between.
    # The collector needn't know it: integers, text and bytes make no cycle.
    cdef object found = PyType_GenericAlloc(<PyTypeObject *>made, items), value
    cdef int field
    PyObject_GC_UnTrack(<void *>found)
    for field in range(INTEGERS):
        value = rec_u64(record, field)
        Py_INCREF(value)  # SET_ITEM takes this reference over; the tuple lets go of it
        PyTuple_SET_ITEM(found, field, value)
    Py_INCREF(type)  # as above
    PyTuple_SET_ITEM(found, INTEGERS, type)
    value = rec_payload(record)[:rec_payload_len(record)]
    Py_INCREF(value)  # as above
    PyTuple_SET_ITEM(found, INTEGERS + 1, value)
    return found


cdef object rec_decoded(const uint8_t *record, str type):
    return rec_filled(Record, INTEGERS + 2, record, type)


def decode(const uint8_t[::1] data not None):
    """The fields of a record; ValueError if the bytes are none. `type` is text, `payload` bytes."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t *record = &data[0] if size else NULL
    if not rec_good(record, size):
        raise ValueError(f"{size} bytes are no record: see engine/LOG_FORMAT.md, Record")
    return rec_decoded(record, rec_type(record)[:rec_type_len(record)].decode("utf-8", "replace"))


def record_key(const uint8_t[::1] data not None):
    """The key with which an event was published, b"" if none; ValueError if the bytes are no record."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t *record = &data[0] if size else NULL
    cdef const uint8_t *key
    if not rec_good(record, size):
        raise ValueError(f"{size} bytes are no record: see engine/LOG_FORMAT.md, Record")
    key = rec_key(record, size)
    return b"" if key == NULL else key[:16]


def encode(uint64_t sequence, uint64_t conversation, uint64_t conversation_sequence, uint64_t previous, uint64_t time,
           uint64_t sender, uint64_t device, uint64_t counter, str type not None, bytes payload not None,
           bytes key not None=b""):
    """The record of these fields; ValueError where a length is over its limit."""
    cdef bytes name = type.encode(), out
    cdef uint32_t size
    if not 1 <= len(name) <= TYPE_LENGTH_MAX or len(payload) > PAYLOAD_LENGTH_MAX:
        raise ValueError(f"a type of {len(name)} bytes (1 to {TYPE_LENGTH_MAX}), a payload of {len(payload)}"
                         f" (at most {PAYLOAD_LENGTH_MAX})")
    if len(key) not in (0, 16):
        raise ValueError(f"a key of {len(key)} bytes; it must have 16, or none")
    out = PyBytes_FromStringAndSize(NULL, FIXED_BYTES + len(name) + len(payload) + (KEY_FIELD_BYTES if key else 0))
    size = rec_put(out, sequence, conversation, conversation_sequence, previous, time, sender, device, counter, name,
                   <uint32_t>len(name), payload, <uint32_t>len(payload))
    if key:
        rec_put_key(out, size, key)
    return out
