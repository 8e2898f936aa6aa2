# Folding committed blocks into tables. The one native reading of what events do to heads, windows and dialogs.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:  # the payload that admission writes for a new dialog (engine/schema.py pack_dialog makes the same bytes)
    DIALOG_BYTES = 72
    DIALOG_FIRST_AT = 40
    DIALOG_SECOND_AT = 57

cdef void dialog_put(uint8_t *out, uint64_t first, uint64_t second) noexcept nogil
cdef bint dialog_read(const uint8_t *payload, uint32_t size, uint64_t *first, uint64_t *second) noexcept nogil
