"""The conversations of one connection, as far as it has heard of them: finds holes, and tells doubles from disorder.

Used by ext/loadloop for the events of its own streams. Numbers within a conversation are gapless, so an event whose
number is not the one after the last says that others are missing, whoever published them: no process of a fleet needs
to know what the others sent. An event that comes too late takes its place among the missing; one that had come is a
double. After a gap of the server the numbers that it spans are left out, and no fault.

Cost: one look-up in an open-addressing table of a few entries.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    ROOM_FIRST = 4

cdef uint64_t MIX = <uint64_t>0x9E3779B9 << 32 | 0x7F4A7C15


cdef Place *find(Heard *heard, uint64_t conversation) noexcept nogil:
    """Its place, or the free one where it would be; the table has room."""
    cdef uint32_t mask = heard.room - 1
    cdef uint32_t at = <uint32_t>(conversation * MIX >> 32) & mask
    while heard.at[at].conversation and heard.at[at].conversation != conversation:
        at = (at + 1) & mask
    return &heard.at[at]


cdef int widen(Heard *heard) except -1 nogil:
    """Twice the room when it is three quarters full."""
    cdef Heard wider
    cdef uint32_t i
    if heard.room and heard.used * 4 < heard.room * 3:
        return 0
    wider.room = heard.room * 2 if heard.room else ROOM_FIRST
    wider.used = heard.used
    wider.at = <Place *>calloc(wider.room, sizeof(Place))
    if wider.at == NULL:
        with gil:
            raise MemoryError(f"no memory for {wider.room} conversations of a connection")
    for i in range(heard.room):
        if heard.at[i].conversation:
            find(&wider, heard.at[i].conversation)[0] = heard.at[i]
    free(heard.at)
    heard[0] = wider
    return 0


cdef int heard_event(Heard *heard, uint64_t conversation, uint64_t sequence, uint64_t *left_out) except -1 nogil:
    """An event whose sequence ascends; `left_out`: how many of its conversation lie between it and the last."""
    cdef Place *place
    cdef uint64_t last
    left_out[0] = 0
    if not conversation:
        return HEARD_NEXT
    widen(heard)
    place = find(heard, conversation)
    last = place.last
    if not place.conversation:
        place.conversation = conversation
        heard.used += 1
        last = sequence - 1
    if sequence > place.last:
        place.last = sequence
    if sequence <= last + 1:
        return HEARD_NEXT
    left_out[0] = sequence - last - 1
    if place.gapped:
        place.gapped = 0
        return HEARD_GAP
    place.missing += <uint32_t>left_out[0]
    return HEARD_HOLE


cdef bint heard_before(Heard *heard, uint64_t conversation, uint64_t sequence) noexcept nogil:
    """An event whose sequence does not ascend: True if it is a double, False if it is one of those that were missing."""
    cdef Place *place
    if not heard.room:
        return False
    place = find(heard, conversation)
    if not place.conversation or sequence > place.last:
        return False
    if place.missing:
        place.missing -= 1
        return False
    return True


cdef int64_t heard_gap(Heard *heard, uint64_t conversation, uint64_t newest) except -1 nogil:
    """The server leaves out what lies before `newest` (a conversation sequence, 0: it doesn't say): how many that is,
    as far as it is known."""
    cdef Place *place
    cdef uint64_t left_out
    if not conversation:
        return 0
    widen(heard)
    place = find(heard, conversation)
    if not place.conversation:
        place.conversation = conversation
        place.last = newest
        heard.used += 1
        return 0
    if newest <= place.last:
        place.gapped = 1
        return 0
    left_out = newest - place.last
    place.last = newest
    return <int64_t>left_out


cdef void heard_free(Heard *heard) noexcept nogil:
    free(heard.at)
    heard.at = NULL
    heard.used = heard.room = 0
