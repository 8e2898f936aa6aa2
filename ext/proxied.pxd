# The header of the PROXY protocol, versions 1 and 2 (haproxy's specification): bytes in, the client's address out.
# Any thread, pure: borrows the caller's bytes for the call, allocates nothing.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:  # verdicts
    PX_MORE = 0  # all of it is header so far, and more must come
    PX_DONE = 1
    PX_BAD = 2

cdef enum:
    PROXIED_BYTES_MAX = 4096  # with all additions (TLVs): who needs more is refused

cdef struct Proxied:
    uint32_t size  # of the header; what follows is the client's
    uint8_t family  # 4 or 6; 0: the proxy speaks for itself (LOCAL), or doesn't know (UNKNOWN, AF_UNSPEC, AF_UNIX)
    uint8_t address[16]  # of the client; IPv4 as ::ffff:a.b.c.d

cdef int proxied_read(const uint8_t *data, size_t size, Proxied *out) noexcept nogil
