# InFlight: what was handed out to consumers and isn't acked by all before it: an array sorted by sequence.
# Of an ordered subscription each consumer has one, of a competing one the subscription has one. One thread owns it.
# It knows no clock: times are microseconds of whatever clock the caller goes by. 24 bytes an entry, and 1.2 KB.
#
#   (new) -> IN_FLIGHT -> ACKED -> (gone, once all before it are)
#             |    ^ '-> READY ----> ACKED        its time is over, or its consumer has left; a late ack is still good
#             v    '------'  ^                    READY -> IN_FLIGHT: delivered again
#           WAITING ---------'                    until it is due
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ext.picks cimport SHARE_COUNT, Picks

cdef enum:  # states
    F_IN_FLIGHT = 1  # with a consumer, until at_us
    F_WAITING = 2  # retry was asked: until at_us
    F_READY = 3  # to be delivered again
    F_ACKED = 4  # waits for those before it
    F_STATES = 5

cdef enum:  # what a pick is to `deliver`
    M_NEW = 0
    M_AGAIN = 1
    M_NOT = 2  # acked, or with somebody

cdef enum:
    ROOM_KEPT = 65536  # entries: more are given back once none is held

cdef struct Flight:
    uint64_t sequence
    uint64_t at_us
    uint32_t consumer  # that has it, or had it last
    uint16_t deliveries
    uint8_t share
    uint8_t state

@cython.final
cdef class InFlight:
    # entries, ascending by sequence; the first is never acked
    cdef Flight *entries
    cdef Py_ssize_t head, tail, room
    # counters
    cdef Py_ssize_t counts[F_STATES]  # entries in a state
    cdef uint32_t shares[SHARE_COUNT]  # unacked ones of a share
    cdef readonly uint64_t position  # everything up to here was read
    # times: no entry's is before; the true one is found by the next look at all of them
    cdef uint64_t expiry_us, due_us

    # looking
    cdef Py_ssize_t lower(self, uint64_t sequence, Py_ssize_t near) noexcept nogil  # first entry not before it; `near` is a guess
    cdef Flight *entry_of(self, uint64_t sequence) noexcept nogil  # NULL if it isn't held
    cdef uint64_t floor_now(self) noexcept nogil

    # changing
    cdef void turn(self, Flight *flight, uint8_t state) noexcept nogil  # into another state; counts follow
    cdef void trim(self) noexcept nogil  # acked ones at the front fall off
    cdef int reserve(self, Py_ssize_t more) except -1
    cdef Py_ssize_t judge(self, Picks picks, dict known) except -1  # marks each pick; how many are new
    cdef int deliver_again(self, Picks picks, uint32_t consumer, uint64_t deadline_us) except -1
    cdef int merge(self, Picks picks, Py_ssize_t fresh, uint32_t consumer, uint64_t deadline_us) except -1
    cdef void ready_when_due(self, uint64_t now_us) noexcept nogil
