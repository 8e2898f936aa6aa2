# Stored record → the JSON text of its event push. Pure functions over borrowed bytes, any thread.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef size_t json_event_bound(const uint8_t *record, uint32_t size) noexcept nogil  # bytes that always suffice
cdef size_t json_event_put(uint8_t *to, const uint8_t *record, uint32_t size) noexcept nogil  # bytes written
