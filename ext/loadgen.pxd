# The face of the load generator: what Python prepares, starts and reads. All that is hot is inherited.
from libc.stdint cimport uint32_t, uint64_t

from ext.loadcheck cimport Stream
from ext.loadloop cimport LoadLoop

cdef class LoadGenerator(LoadLoop):
    cdef Stream *_known_stream(self, uint32_t i) except NULL
    cdef const uint64_t *_counts(self, uint32_t i, str which) except NULL
    cdef int _connect(self, uint32_t pending_max, uint64_t spacing_ns, uint64_t until_ns) except -1
    cdef int _connect_until(self, uint32_t pending_max, uint64_t spacing_ns, uint64_t until_ns) except -1 nogil
