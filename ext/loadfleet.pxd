# One of the processes of a fleet: a load generator that is driven step by step, by a clock that all of them share.
from libc.stdint cimport uint64_t

from ext.loadgen cimport LoadGenerator

cdef class FleetGenerator(LoadGenerator):
    cdef uint64_t cpu_from_ns

    cdef int _pending_until(self, uint64_t until_ns) except -1
