# Cache prefetch and unaligned little-endian loads of the native tables: compiler built-ins without a header of their own.
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the formats of ext/ are little-endian and read in place"
    #endif
    static inline void prefetch(const void *at) { __builtin_prefetch(at, 0, 3); }
    static inline uint64_t load_u64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }
    static inline uint32_t load_u32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
    static inline uint16_t load_u16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
    static inline void store_u64(uint8_t *at, uint64_t v) { memcpy(at, &v, 8); }
    static inline void store_u32(uint8_t *at, uint32_t v) { memcpy(at, &v, 4); }
    static inline void store_u16(uint8_t *at, uint16_t v) { memcpy(at, &v, 2); }
    static inline uint64_t swap_u64(uint64_t v) { return __builtin_bswap64(v); }
    """
    void prefetch(const void *at) noexcept nogil
    uint64_t load_u64(const uint8_t *at) noexcept nogil
    uint32_t load_u32(const uint8_t *at) noexcept nogil
    uint16_t load_u16(const uint8_t *at) noexcept nogil
    void store_u64(uint8_t *at, uint64_t v) noexcept nogil
    void store_u32(uint8_t *at, uint32_t v) noexcept nogil
    void store_u16(uint8_t *at, uint16_t v) noexcept nogil
    uint64_t swap_u64(uint64_t v) noexcept nogil
