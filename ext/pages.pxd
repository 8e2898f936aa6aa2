# Pages of records and ephemeral signals for single sessions. Loop thread only. Owns a scratch for one send; borrows
# everything else from its Fanout.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.fanout cimport Fanout
from ext.session_table cimport Session

cdef enum:
    SCRATCH_BYTES = 1 << 20  # the largest frame fits
    PAGE_FRAMES_MAX = 4096  # frames of one send

cdef struct Cut:  # a frame in the scratch: where it ends; the position once it has begun
    size_t end
    uint64_t sequence

cdef class Pages:
    cdef Fanout fanout
    cdef uint32_t signal_bytes_max
    cdef uint64_t shed
    cdef uint8_t *scratch
    cdef Cut *cuts

    cdef Session *_reader(self, uint64_t session) noexcept
    cdef int _send_page(self, uint32_t index, list records, Py_ssize_t start) except -2
    cdef int _signal(self, uint32_t index, const uint8_t *data, size_t size) except -1
