# The kernel's file mappings, for pages of foreign files that are read in place.
cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ, MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int protection, int flags, int descriptor, long offset)
    int munmap(void *address, size_t length)

cdef extern from "<unistd.h>" nogil:
    int dup(int descriptor)
    int close(int descriptor)
    enum: SEEK_END
    long lseek(int descriptor, long offset, int whence)
