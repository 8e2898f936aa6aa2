# Who stands in the doorway: connections that have not said hello, in the order in which they came, and how many of
# them an address has. Loop thread only. Owns its two arrays, which never grow; knows sessions only by their index.
# A place is a number from enter() to leave(), kept by the caller; 0 is none.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum:
    SET_ENTRIES = 8  # places that an address may have in the table
    NETWORKS_MAX = 64  # of proxies

cdef struct Place:
    uint32_t session  # 0: free
    uint32_t entry  # of its address, 0: none
    uint32_t before, after  # by age, of those that may be put out; after: also the next free one
    uint32_t before_same, after_same  # the same of its address
    bint kept  # has said hello: it waits for us, and is in neither list

cdef struct Entry:  # of an address: an IPv4 address, or the /64 of an IPv6 one
    uint64_t address  # 0: free
    uint32_t count  # of its connections in the doorway
    uint32_t oldest, newest  # places
    uint32_t tokens_milli  # connects that it may make now
    uint32_t at_ms  # when those were counted

cdef struct Network:
    uint8_t address[16]
    uint32_t bits

cdef class Doorway:
    # limits
    cdef readonly uint32_t places_max, address_max, connects_per_s, connects_burst, failed_cost
    cdef uint32_t entries_room
    # state
    cdef Place *places
    cdef Entry *entries
    cdef uint32_t used, free_head, high, oldest, newest
    cdef uint64_t seed
    cdef readonly bint pressed  # the process is short of time: an address that is over its rate is refused
    # proxies
    cdef readonly bint proxied  # every connection begins with a PROXY header, and comes from one of these networks
    cdef Network networks[64]
    cdef uint32_t network_count

    cdef bint trusts(self, const uint8_t *address) noexcept nogil
    cdef bint is_full(self) noexcept nogil
    cdef uint32_t enter(self, uint32_t session) noexcept nogil  # 0: full
    cdef bint come_from(self, uint32_t place, uint64_t address, uint32_t now_ms) noexcept nogil  # False: over its rate
    cdef bint is_crowded(self, uint32_t place) noexcept nogil  # its address has more than it may have
    cdef uint32_t first(self) noexcept nogil  # the session that has waited longest; 0: all have said hello
    cdef uint32_t first_of(self, uint32_t place) noexcept nogil  # ... of the same address
    cdef void keep(self, uint32_t place, uint32_t session) noexcept nogil
    cdef void fail(self, uint32_t place, uint32_t session, uint32_t now_ms) noexcept nogil
    cdef void leave(self, uint32_t place, uint32_t session) noexcept nogil
    cdef Entry *_entry(self, uint64_t address, uint32_t now_ms) noexcept nogil
    cdef void _refill(self, Entry *entry, uint32_t now_ms) noexcept nogil
    cdef void _unlink(self, uint32_t place) noexcept nogil

cdef uint64_t address_key(const uint8_t *address) noexcept nogil  # of 16 bytes; never 0
cdef bint address_of(const uint8_t *name, uint8_t *to) noexcept nogil  # of a sockaddr; False: it has none
