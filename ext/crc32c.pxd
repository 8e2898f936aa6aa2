# CRC32C (Castagnoli) of bytes. Any thread, pure; the way it is computed is chosen when the module is imported.
from libc.stdint cimport uint8_t, uint32_t

cdef uint32_t crc(const uint8_t *at, size_t size) noexcept nogil
cdef uint32_t crc_on(uint32_t before, const uint8_t *at, size_t size) noexcept nogil  # of what `before` is of, and this
