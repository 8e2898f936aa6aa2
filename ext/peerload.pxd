# What Python prepares, starts and reads of the clients of other servers; the loop is peerloop's. Same thread, same
# ownership: packs, openings and follow-ups are copies that live as long as the object.
from libc.stdint cimport uint32_t, uint64_t

from ext.peerloop cimport Peer, PeerLoop, Samples

cdef class PeerLoad(PeerLoop):
    cdef Peer *_known(self, uint32_t connection) except NULL
    cdef int _connect(self, uint64_t pending_max, uint64_t until_ns) except -1
    cdef int _connect_until(self, uint64_t pending_max, uint64_t until_ns) except -1 nogil
    cdef bytes _taken(self, const Samples *samples)
