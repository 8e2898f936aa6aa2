# The events of a block as Python objects that are made as they are asked for: the block's bytes are shared, not copied.
# Any thread. An event holds its whole block in memory (a MiB at most); `record` and `decoded` are copies of their own.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

@cython.final
cdef class Event:
    cdef bytes block  # that `at` leads into
    cdef const uint8_t *at
    cdef uint32_t size

@cython.final
cdef class BlockEvents:
    cdef readonly bytes block
    cdef const uint8_t *data  # of the block
    cdef uint64_t first  # sequence of its first event
    cdef uint32_t index, count  # the next one to give, and how many there are
