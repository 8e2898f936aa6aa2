# The poller as Python sees it: one native epoll set whose descriptor is a reader of the loop, and the batch of a round.
# Loop thread only; a round and a batch of answers leave the GIL. Owns all sockets of sessions until shut().

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.c_socket cimport epoll_event
from ext.deadlines cimport Deadlines
from ext.gathered cimport Gathered
from ext.inbound cimport Inbound
from ext.session_table cimport SessionTable
from ext.sockets cimport Sockets
from ext.tls cimport Context

cdef enum:
    EVENTS = 512  # taken from the kernel at a time

cdef class Batch:
    cdef readonly bytes proposals  # layout: Proposal in ext/commands
    cdef readonly bytes signals  # layout: Signal in ext/gathered
    cdef readonly list commands  # [(session, message)], cold, in order; any_client: text messages are str
    cdef readonly list closed  # [(session, origin)]
    cdef readonly list writable  # [session], readers that can go on
    cdef readonly list requests  # [(session, head)], plain HTTP

cdef class Poller:
    cdef readonly SessionTable sessions
    cdef Sockets sockets
    cdef Inbound inbound
    cdef Deadlines deadlines
    cdef Gathered gathered
    cdef Context tls  # of new sessions; None: they are plain
    # the round: what the kernel has named and is not served yet is served first in the next one
    cdef epoll_event events[EVENTS]
    cdef uint32_t event_at, event_count
    cdef uint32_t serving  # if something goes wrong, whose it was
    cdef uint64_t rounds, overfull  # the latter: ended for the memory that they held
    # a pass: from the moment at which somebody is ready until everybody who was has been served
    cdef int64_t pass_ns  # when it began; 0: none is under way
    cdef int64_t pass_took_ns, pass_most_ns  # the last one, the longest since it was asked for

    cdef int _round(self, int64_t budget_ns) except -1 nogil
    cdef void _pass_ends(self) noexcept nogil
    cdef int _end_overfull(self) except -1 nogil
    cdef int _serve(self, const epoll_event *event) except -1 nogil
    cdef Batch _taken(self)
    cdef int _answer(self, const uint8_t *data, size_t size) except -1 nogil
    cdef uint32_t _open(self, uint64_t session) noexcept nogil
