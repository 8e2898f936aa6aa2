# Foreign C: memory straight from the kernel, and hints to the processor, for the native tables and rings.
# Whole pages, zeroed, untouched ones cost nothing; given back at once when unmapped (free() may keep them).

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <stddef.h>
    #include <stdint.h>
    #include <sys/mman.h>

    static inline void *pages_map(size_t bytes) {
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    static inline void *pages_remap(void *old, size_t old_bytes, size_t bytes) {
        void *p = mremap(old, old_bytes, bytes, MREMAP_MAYMOVE);
        return p == MAP_FAILED ? NULL : p;
    }
    static inline void pages_unmap(void *p, size_t bytes) { if (p) munmap(p, bytes); }
    #define fetch_ahead(p) __builtin_prefetch((const void *)(p), 0, 3)
    """
    void *pages_map(size_t bytes) noexcept nogil  # NULL when there is none
    void *pages_remap(void *old, size_t old_bytes, size_t bytes) noexcept nogil  # may move; NULL: old is as it was
    void pages_unmap(void *pages, size_t bytes) noexcept nogil
    void fetch_ahead(const void *address) noexcept nogil
