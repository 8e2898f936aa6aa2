# The bytes of a load generator's connection on their way: plain, or through TLS. Any thread, one for each connection;
# owns nothing: descriptor, Link and what is kept are the connection's.

from libc.stdint cimport uint8_t, uint32_t

from ext.tls cimport Link

cdef ssize_t wire_send(int fd, Link *tls, const uint8_t *data, size_t size) noexcept nogil  # as send(2), errno too
cdef ssize_t wire_recv(int fd, Link *tls, uint8_t *to, size_t room) noexcept nogil  # as recv(2): 0 = the end
cdef bint wire_waits(const Link *tls) noexcept nogil  # ciphertext that the kernel has not taken
cdef int wire_widen(uint8_t **data, uint32_t *room, uint32_t size) except -1 nogil  # to size; what is there stays
cdef int wire_keep(uint8_t **rest, uint32_t *rest_size, uint32_t *rest_room, const uint8_t *data,
                   uint32_t size) except -1 nogil  # an unfinished frame, instead of what was kept before
