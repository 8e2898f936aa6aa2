# Blocks: the events of one commit as one value (engine/LOG_FORMAT.md, Block). Header, offset table, records.
# The inline readers take a block that has passed its check, or one that was just built; they look at nothing twice.
# A builder belongs to one thread; what reserve gives is good until the next reserve or finish.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ext.c_prefetch cimport load_u32, load_u64

cdef enum:  # places in the header, little-endian
    MAGIC_AT = 0  # "GNB1"
    VERSION_AT = 4
    FLAGS_AT = 6
    COUNT_AT = 8
    RECORDS_BYTES_AT = 12
    FIRST_AT = 16
    SHARD_AT = 24
    EPOCH_AT = 28
    PREVIOUS_HASH_AT = 32
    KAFKA_OFFSET_AT = 64
    RESERVED_AT = 72
    CRC_AT = 76  # over bytes 0 … 75 and the offset table
    HEADER_BYTES = 80
    ENTRY_BYTES = 8  # of the offset table: u32 offset of the record, u32 its CRC32C
    VERSION = 1
    BLOCK_BYTES_MAX = 16777216  # what a reader believes; writers stay below 1 MiB and one record

cdef enum Fault:  # what a check has found; engine/log/format.py has the words
    OK = 0
    BAD_SIZE = 1  # shorter or longer than its header says
    BAD_MAGIC = 2
    BAD_VERSION = 3
    BAD_HEADER = 4  # the checksum of header and offset table
    BAD_TABLE = 5  # offsets that don't ascend, or lead out of the block
    BAD_RECORD = 6  # the checksum of a record
    BAD_SHAPE = 7  # a record whose checksum is right, and which is none
    BAD_SEQUENCE = 8  # a record at another place than its own

cdef inline uint32_t blk_count(const uint8_t *block) noexcept nogil:
    return load_u32(block + COUNT_AT)

cdef inline uint64_t blk_first(const uint8_t *block) noexcept nogil:
    return load_u64(block + FIRST_AT)

cdef inline const uint8_t *blk_record(const uint8_t *block, uint32_t i, uint32_t *size) noexcept nogil:
    cdef uint32_t count = load_u32(block + COUNT_AT), begin = load_u32(block + HEADER_BYTES + ENTRY_BYTES * i), end
    if i + 1 < count:
        end = load_u32(block + HEADER_BYTES + ENTRY_BYTES * (i + 1))
    else:
        end = load_u32(block + RECORDS_BYTES_AT)
    size[0] = end - begin
    return block + HEADER_BYTES + <size_t>ENTRY_BYTES * count + begin

# The whole block, or its header and table alone; `where` gets the index of the record at fault.
cdef Fault blk_check(const uint8_t *block, size_t size, bint records_too, uint32_t *where) noexcept nogil

# One record, believed only after its own checksum and number; NULL and a fault if it can't be.
cdef const uint8_t *blk_find(const uint8_t *block, size_t block_size, uint64_t sequence, uint32_t *size,
                             Fault *fault) noexcept nogil

cdef class BlockBuilder:
    # records so far, and their table
    cdef uint8_t *records
    cdef size_t records_bytes, records_room
    cdef uint8_t *table
    cdef uint32_t table_room
    cdef readonly uint32_t count

    cdef uint8_t *reserve(self, size_t size) except NULL nogil  # room for one record of at most so many bytes
    cdef int commit(self, uint32_t size) except -1 nogil  # it has been written there, so long
    cdef size_t block_bytes(self) noexcept nogil  # of the block if it were finished now
