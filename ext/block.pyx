# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The events of one commit as one value: built by admission, checked by whoever reads it back.

Between ext/admission, which writes records into a builder, and engine/log, which stores what `finish` gives and checks
what LMDB gives back. Layout, versions and what each checksum covers: engine/LOG_FORMAT.md.

Invariants: what finish() gives passes check(); a check never reads outside the bytes it was given, whatever they
hold; a record found in a damaged block is either right, by its own checksum, or refused.
Cost: building copies the records once; a check is one CRC32C over all bytes, about 0.1 ms a megabyte, without the GIL.
"""
from collections import namedtuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from ext.c_prefetch cimport load_u16, load_u32, load_u64, store_u16, store_u32, store_u64
from ext.crc32c cimport crc, crc_on
from ext.record cimport F_SEQUENCE, rec_good, rec_u64

HEADER_SIZE = HEADER_BYTES
FAULTS = (
    "good", "its size is not what its header says", "it does not begin with GNB1", "its version is unknown",
    "the checksum of its header and offset table is wrong", "its offset table leads astray",
    "the checksum of a record is wrong", "a record is malformed", "a record has another's sequence",
)
Header = namedtuple(
    "Header", "version flags count records_bytes first_sequence shard epoch previous_hash kafka_offset", module=__name__)


cdef Fault blk_check(const uint8_t *block, size_t size, bint records_too, uint32_t *where) noexcept nogil:
    cdef uint32_t i, count, begin, end, bytes_of_records
    cdef size_t table_bytes
    cdef const uint8_t *records
    cdef const uint8_t *table
    where[0] = 0
    if size < HEADER_BYTES or size > BLOCK_BYTES_MAX:
        return BAD_SIZE
    if memcmp(block, <const char *>b"GNB1", 4) != 0:
        return BAD_MAGIC
    if load_u16(block + VERSION_AT) != VERSION:
        return BAD_VERSION
    count, bytes_of_records = load_u32(block + COUNT_AT), load_u32(block + RECORDS_BYTES_AT)
    table_bytes = <size_t>ENTRY_BYTES * count
    if count == 0 or HEADER_BYTES + table_bytes + bytes_of_records != size:
        return BAD_SIZE
    table = block + HEADER_BYTES
    if load_u32(block + CRC_AT) != crc_on(crc(block, CRC_AT), table, table_bytes):
        return BAD_HEADER
    records = table + table_bytes
    for i in range(count):
        where[0] = i
        begin = load_u32(table + ENTRY_BYTES * i)
        end = load_u32(table + ENTRY_BYTES * (i + 1)) if i + 1 < count else bytes_of_records
        if begin >= end or end > bytes_of_records or (i == 0 and begin != 0):
            return BAD_TABLE
        if not records_too:
            continue
        if crc(records + begin, end - begin) != load_u32(table + ENTRY_BYTES * i + 4):
            return BAD_RECORD
        if not rec_good(records + begin, end - begin):
            return BAD_SHAPE
        if rec_u64(records + begin, F_SEQUENCE) != load_u64(block + FIRST_AT) + i:
            return BAD_SEQUENCE
    return OK


cdef const uint8_t *blk_find(const uint8_t *block, size_t block_size, uint64_t sequence, uint32_t *size,
                             Fault *fault) noexcept nogil:
    cdef uint32_t count, bytes_of_records, begin, end
    cdef uint64_t i
    cdef const uint8_t *table = block + HEADER_BYTES
    cdef const uint8_t *record
    fault[0] = BAD_SIZE
    if block_size < HEADER_BYTES or block_size > BLOCK_BYTES_MAX:
        return NULL
    count, bytes_of_records = load_u32(block + COUNT_AT), load_u32(block + RECORDS_BYTES_AT)
    if HEADER_BYTES + <size_t>ENTRY_BYTES * count + bytes_of_records != block_size:
        return NULL
    fault[0] = BAD_TABLE
    i = sequence - load_u64(block + FIRST_AT)
    if i >= count:
        return NULL
    begin = load_u32(table + ENTRY_BYTES * i)
    end = load_u32(table + ENTRY_BYTES * (i + 1)) if i + 1 < count else bytes_of_records
    if begin >= end or end > bytes_of_records:
        return NULL
    record = table + <size_t>ENTRY_BYTES * count + begin
    size[0] = end - begin
    if crc(record, size[0]) != load_u32(table + ENTRY_BYTES * i + 4):
        fault[0] = BAD_RECORD
    elif not rec_good(record, size[0]):
        fault[0] = BAD_SHAPE
    elif rec_u64(record, F_SEQUENCE) != sequence:
        fault[0] = BAD_SEQUENCE
    else:
        fault[0] = OK
        return record
    return NULL


def header(const uint8_t[::1] block not None):
    """The fields of a block's header, unchecked but for their presence; ValueError if the bytes are too few."""
    cdef const uint8_t *at
    if block.shape[0] < HEADER_BYTES:
        raise ValueError(f"{block.shape[0]} bytes are no block: its header alone has {HEADER_BYTES}")
    at = &block[0]
    return Header(
        load_u16(at + VERSION_AT), load_u16(at + FLAGS_AT), load_u32(at + COUNT_AT), load_u32(at + RECORDS_BYTES_AT),
        load_u64(at + FIRST_AT), load_u32(at + SHARD_AT), load_u32(at + EPOCH_AT),
        at[PREVIOUS_HASH_AT:PREVIOUS_HASH_AT + 32], <int64_t>load_u64(at + KAFKA_OFFSET_AT))


def check(const uint8_t[::1] block not None):
    """(fault, index of the record concerned): fault 0 if every byte that a checksum covers is right."""
    cdef uint32_t where = 0
    cdef size_t size = block.shape[0]
    cdef Fault fault
    if size == 0:
        return BAD_SIZE, 0
    with nogil:  # no Python objects: the block is pinned by its view
        fault = blk_check(&block[0], size, True, &where)
    return fault, where


def check_header(const uint8_t[::1] block not None):
    """The fault of header and offset table, 0 if they are right; the records are not looked at."""
    cdef uint32_t where = 0
    return blk_check(&block[0], block.shape[0], False, &where) if block.shape[0] else BAD_SIZE


def copy_checked(const uint8_t[::1] block not None):
    """(a copy, 0, 0), or (None, fault, index of the record concerned). The copy is what was checked."""
    cdef uint32_t where = 0
    cdef size_t size = block.shape[0]
    cdef Fault fault
    cdef bytes copy
    cdef uint8_t *to
    if size == 0 or size > BLOCK_BYTES_MAX:
        return None, BAD_SIZE, 0
    copy = PyBytes_FromStringAndSize(NULL, size)
    to = <uint8_t *>PyBytes_AS_STRING(copy)
    with nogil:  # no Python objects: the source is pinned by its view, the copy is known here alone
        memcpy(to, &block[0], size)
        fault = blk_check(to, size, True, &where)
    return (copy, OK, 0) if fault == OK else (None, fault, where)


def find(const uint8_t[::1] block not None, uint64_t sequence):
    """(a copy of the record of a sequence, 0), or (None, fault). Looks at nothing but this record."""
    cdef uint32_t size = 0
    cdef Fault fault = BAD_SIZE
    cdef const uint8_t *record = NULL
    if block.shape[0]:
        record = blk_find(&block[0], block.shape[0], sequence, &size, &fault)
    return (record[:size] if record != NULL else None), fault


def holds(const uint8_t[::1] block not None, uint64_t sequence):
    """Whether a sequence lies in a block, by its header."""
    if block.shape[0] < HEADER_BYTES:
        return False
    return sequence - blk_first(&block[0]) < blk_count(&block[0])


def records(const uint8_t[::1] block not None):
    """Copies of all records of a block that has passed its check, in order."""
    cdef uint32_t i, size = 0
    cdef const uint8_t *record
    cdef list out = []
    for i in range(blk_count(&block[0])):
        record = blk_record(&block[0], i, &size)
        out.append(record[:size])
    return out


cdef class BlockBuilder:
    """The open block: records are written in place and checksummed while they are in the cache."""

    def __dealloc__(self):
        free(self.records)
        free(self.table)

    cdef uint8_t *reserve(self, size_t size) except NULL nogil:
        cdef size_t room
        cdef void *grown
        if self.records_bytes + size > self.records_room:
            room = self.records_room * 2 + size + 65536
            grown = realloc(self.records, room)
            if grown == NULL:
                with gil:
                    raise MemoryError(f"no memory for a block of {room} bytes")
            self.records = <uint8_t *>grown
            self.records_room = room
        if self.count == self.table_room:
            grown = realloc(self.table, (<size_t>self.table_room * 2 + 1024) * ENTRY_BYTES)
            if grown == NULL:
                with gil:
                    raise MemoryError(f"no memory for a block of {self.count} records")
            self.table = <uint8_t *>grown
            self.table_room = self.table_room * 2 + 1024
        return self.records + self.records_bytes

    cdef int commit(self, uint32_t size) except -1 nogil:
        cdef uint8_t *entry = self.table + <size_t>ENTRY_BYTES * self.count
        store_u32(entry, <uint32_t>self.records_bytes)
        store_u32(entry + 4, crc(self.records + self.records_bytes, size))
        self.records_bytes += size
        self.count += 1
        return 0

    cdef size_t block_bytes(self) noexcept nogil:
        return HEADER_BYTES + <size_t>ENTRY_BYTES * self.count + self.records_bytes

    def add(self, bytes record not None):
        """Appends a record that is there already."""
        memcpy(self.reserve(len(record)), <const uint8_t *>record, len(record))
        self.commit(<uint32_t>len(record))

    def finish(self, *, uint64_t first_sequence, uint32_t shard, uint32_t epoch, bytes previous_hash not None,
               int64_t kafka_offset=-1):
        """The block of all that was added; the builder is empty again."""
        cdef size_t table_bytes = <size_t>ENTRY_BYTES * self.count, size = self.block_bytes()
        cdef bytes block
        cdef uint8_t *at
        if len(previous_hash) != 32:
            raise ValueError(f"a hash of {len(previous_hash)} bytes; SHA-256 has 32")
        if self.count == 0 or size > BLOCK_BYTES_MAX:
            raise ValueError(f"a block of {self.count} records and {size} bytes: 1 record and {BLOCK_BYTES_MAX} bytes"
                             " are the limits")
        block = PyBytes_FromStringAndSize(NULL, size)
        at = <uint8_t *>PyBytes_AS_STRING(block)
        memset(at, 0, HEADER_BYTES)
        memcpy(at, <const char *>b"GNB1", 4)
        store_u16(at + VERSION_AT, VERSION)
        store_u32(at + COUNT_AT, self.count)
        store_u32(at + RECORDS_BYTES_AT, <uint32_t>self.records_bytes)
        store_u64(at + FIRST_AT, first_sequence)
        store_u32(at + SHARD_AT, shard)
        store_u32(at + EPOCH_AT, epoch)
        memcpy(at + PREVIOUS_HASH_AT, <const uint8_t *>previous_hash, 32)
        store_u64(at + KAFKA_OFFSET_AT, <uint64_t>kafka_offset)
        with nogil:  # no Python objects: the block is known here alone, records and table are self's
            memcpy(at + HEADER_BYTES, self.table, table_bytes)
            memcpy(at + HEADER_BYTES + table_bytes, self.records, self.records_bytes)
            store_u32(at + CRC_AT, crc_on(crc(at, CRC_AT), at + HEADER_BYTES, table_bytes))
        self.count = 0
        self.records_bytes = 0
        return block
