# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What consumers have been given and not all acked: which event, who has it, how often, until when.

Beneath the state machines of subscriptions; ext/picks brings what is delivered and takes the counts along. An array
sorted by sequence: deliveries are mostly appended, acks mostly come from its front, and a cursor is its first entry.

Invariants: sequences ascend, each is held once; the first entry is not acked, so that all before it is; counts of
states and shares are those of the entries; an event is IN_FLIGHT with one consumer at a time.
Cost: some ns an event to deliver and ack in order, a binary search out of order; looking at times, at a consumer or
a share walks over what is held, and times only when one may be over. The GIL is kept: a walk over 100,000 entries
takes 0.1 ms.
"""
from array import array

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from ext.picks cimport DELIVERIES_MAX, SHARE_COUNT, Pick, Picks

IN_FLIGHT, WAITING, READY, ACKED = F_IN_FLIGHT, F_WAITING, F_READY, F_ACKED

cdef uint64_t NEVER = <uint64_t>0xFFFFFFFFFFFFFFFF


cdef class InFlight:
    """Empty at first, at position 0."""

    def __cinit__(self):
        self.expiry_us = self.due_us = NEVER

    def __dealloc__(self):
        free(self.entries)

    # --- looking ------------------------------------------------------------------------------------------------------

    def __len__(self):
        return self.tail - self.head - self.counts[F_ACKED]

    cdef uint64_t floor_now(self) noexcept nogil:
        return self.entries[self.head].sequence - 1 if self.head < self.tail else self.position

    @property
    def floor(self):
        """Everything up to here is acked."""
        return self.floor_now()

    @property
    def oldest(self):
        """The first that is not acked; 0 = none."""
        return self.entries[self.head].sequence if self.head < self.tail else 0

    @property
    def span(self):
        """Entries held: not acked, or acked behind one that isn't."""
        return self.tail - self.head

    @property
    def waiting(self):
        """Of those not acked, how many nobody has now."""
        return self.counts[F_WAITING] + self.counts[F_READY]

    @property
    def ready(self):
        """How many could be delivered again at once."""
        return self.counts[F_READY]

    @property
    def next_us(self):
        """Before this time nothing expires or comes due; 2**64 - 1 = nothing ever will."""
        return min(self.expiry_us, self.due_us)

    @property
    def bytes(self):
        """Of memory."""
        return self.room * sizeof(Flight)

    cdef Py_ssize_t lower(self, uint64_t sequence, Py_ssize_t near) noexcept nogil:
        cdef Py_ssize_t low = near, high = self.tail, middle
        if low > self.head and self.entries[low - 1].sequence >= sequence:
            low = self.head  # the caller's sequences don't ascend here
        if low < high and self.entries[low].sequence >= sequence:
            return low  # mostly: the next one in order
        while low < high:
            middle = (low + high) >> 1
            if self.entries[middle].sequence < sequence:
                low = middle + 1
            else:
                high = middle
        return low

    cdef Flight *entry_of(self, uint64_t sequence) noexcept nogil:
        cdef Py_ssize_t at = self.lower(sequence, self.head)
        return &self.entries[at] if at < self.tail and self.entries[at].sequence == sequence else NULL

    def find(self, uint64_t sequence):
        """(share, deliveries, consumer, until when, state), or None if it isn't held."""
        cdef const Flight *flight = self.entry_of(sequence)
        if flight == NULL:
            return None
        return flight.share, flight.deliveries, flight.consumer, flight.at_us, flight.state

    def of_consumer(self, uint32_t consumer):
        """The sequences in flight with it."""
        cdef Py_ssize_t i
        cdef list found = []
        for i in range(self.head, self.tail):
            if self.entries[i].state == F_IN_FLIGHT and self.entries[i].consumer == consumer:
                found.append(self.entries[i].sequence)
        return array("Q", found)

    def of_share(self, uint8_t share):
        """How many of a share are not acked."""
        return self.shares[share]

    def floor_of(self, uint8_t share, uint64_t default):
        """The sequence before the first of a share that isn't acked; `default` if all are."""
        cdef Py_ssize_t i
        if self.shares[share]:
            for i in range(self.head, self.tail):
                if self.entries[i].share == share and self.entries[i].state != F_ACKED:
                    return self.entries[i].sequence - 1
        return default

    def floors(self, uint64_t[::1] into not None):
        """Writes the floor of each share that has one not acked; the others are left as they are."""
        cdef uint8_t seen[SHARE_COUNT]
        cdef uint32_t left = 0, share
        cdef Py_ssize_t i = self.head
        if into.shape[0] != SHARE_COUNT:
            raise ValueError(f"{into.shape[0]} floors: one for each of {SHARE_COUNT} shares is wanted")
        memset(seen, 0, SHARE_COUNT)
        for share in range(SHARE_COUNT):
            left += self.shares[share] != 0
        while left:
            share = self.entries[i].share
            if not seen[share] and self.entries[i].state != F_ACKED:
                seen[share], into[share] = 1, self.entries[i].sequence - 1
                left -= 1
            i += 1

    # --- delivering ---------------------------------------------------------------------------------------------------

    def advance(self, uint64_t position):
        """Everything up to here has been read, wanted or not."""
        self.position = max(self.position, position)

    cdef void turn(self, Flight *flight, uint8_t state) noexcept nogil:
        self.counts[flight.state] -= 1
        self.counts[state] += 1
        if state == F_ACKED and flight.state != F_ACKED:
            self.shares[flight.share] -= 1
        flight.state = state

    cdef void trim(self) noexcept nogil:
        while self.head < self.tail and self.entries[self.head].state == F_ACKED:
            self.counts[F_ACKED] -= 1
            self.head += 1
        if self.head == self.tail:
            self.head = self.tail = 0
            self.expiry_us = self.due_us = NEVER
            if self.room > ROOM_KEPT:
                free(self.entries)
                self.entries, self.room = NULL, 0

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t held = self.tail - self.head, room
        cdef void *grown
        if self.tail + more <= self.room:
            return 0
        if self.head:
            memmove(self.entries, self.entries + self.head, held * sizeof(Flight))
            self.head, self.tail = 0, held
        if 2 * (held + more) > self.room:  # else the next entries would be moved again soon
            room = 2 * (held + more) + 32
            grown = realloc(self.entries, room * sizeof(Flight))
            if grown == NULL:
                raise MemoryError(f"no memory for {room} events in flight")
            self.entries, self.room = <Flight *>grown, room
        return 0

    cdef Py_ssize_t judge(self, Picks picks, dict known) except -1:
        """What each pick is here; nothing is changed yet but the picks' marks and counts."""
        cdef Py_ssize_t i, at = self.head, fresh = 0
        cdef uint64_t before = 0
        cdef Pick *pick
        cdef object count
        for i in range(picks.count):
            pick = &picks.picked[i]
            if pick.sequence <= before:
                raise ValueError(f"{pick.sequence} is picked behind {before}: picks ascend to be delivered")
            before = pick.sequence
            if self.head < self.tail and pick.sequence <= self.entries[self.tail - 1].sequence:
                at = self.lower(pick.sequence, at)
                if self.entries[at].sequence == pick.sequence:
                    pick.mark = M_AGAIN if self.entries[at].state in (F_WAITING, F_READY) else M_NOT
                    continue
            pick.mark, pick.deliveries = M_NEW, 1
            fresh += 1
            if known is not None:
                count = known.get(pick.sequence)
                if count is not None:
                    pick.deliveries = <uint16_t>(min(<uint64_t>count, <uint64_t>DELIVERIES_MAX - 1) + 1)
        return fresh

    cdef int deliver_again(self, Picks picks, uint32_t consumer, uint64_t deadline_us) except -1:
        """Those that were delivered before."""
        cdef Py_ssize_t i
        cdef Pick *pick
        cdef Flight *flight
        for i in range(picks.count):
            pick = &picks.picked[i]
            if pick.mark == M_AGAIN:
                flight = self.entry_of(pick.sequence)
                flight.deliveries += flight.deliveries < DELIVERIES_MAX
                flight.consumer, flight.at_us, pick.deliveries = consumer, deadline_us, flight.deliveries
                self.turn(flight, F_IN_FLIGHT)
        return 0

    cdef int merge(self, Picks picks, Py_ssize_t fresh, uint32_t consumer, uint64_t deadline_us) except -1:
        """The new ones, in their places, from the back: where all lie behind the last entry, none is moved."""
        cdef Py_ssize_t from_ = self.tail - 1, to = self.tail + fresh - 1, i = picks.count - 1
        cdef Flight *flight
        cdef const Pick *pick
        self.tail += fresh
        self.counts[F_IN_FLIGHT] += fresh
        while fresh:
            pick = &picks.picked[i]
            if pick.mark != M_NEW:
                i -= 1
                continue
            flight = &self.entries[to]
            to -= 1
            if from_ >= self.head and self.entries[from_].sequence > pick.sequence:
                flight[0] = self.entries[from_]
                from_ -= 1
                continue
            flight.sequence, flight.at_us, flight.consumer = pick.sequence, deadline_us, consumer
            flight.deliveries, flight.share, flight.state = pick.deliveries, pick.share, F_IN_FLIGHT
            self.shares[pick.share] += 1
            i -= 1
            fresh -= 1
        return 0

    def deliver(self, Picks picks not None, uint32_t consumer, uint64_t deadline_us, dict known=None):
        """All that was picked goes to a consumer, but for what is acked or with somebody: that leaves `picks`.

        How many are left there, each with its count of deliveries. `known`: counts from before a restart.
        """
        cdef Py_ssize_t fresh = self.judge(picks, known), i, to = 0
        self.reserve(fresh)
        self.deliver_again(picks, consumer, deadline_us)
        self.merge(picks, fresh, consumer, deadline_us)
        for i in range(picks.count):
            if picks.picked[i].mark != M_NOT:
                picks.picked[to] = picks.picked[i]
                to += 1
        if picks.count:
            self.position = max(self.position, picks.picked[picks.count - 1].sequence)
        picks.cut(to)
        if to:
            self.expiry_us = min(self.expiry_us, deadline_us)
        return to

    # --- what consumers say -------------------------------------------------------------------------------------------

    def ack(self, const uint64_t[::1] sequences not None, uint32_t consumer):
        """They are handled. Those that the consumer doesn't have are given back; acked before, one is passed over."""
        cdef Py_ssize_t i, at = self.head
        cdef uint64_t floor = self.floor_now()
        cdef Flight *flight
        cdef list refused = []
        for i in range(sequences.shape[0]):
            if sequences[i] <= floor:
                continue
            at = self.lower(sequences[i], at)
            flight = &self.entries[at] if at < self.tail and self.entries[at].sequence == sequences[i] else NULL
            if flight != NULL and flight.state == F_ACKED:
                continue
            if flight == NULL or flight.state == F_WAITING or flight.consumer != consumer:
                refused.append(sequences[i])
            else:
                self.turn(flight, F_ACKED)
                at += 1
        self.trim()
        return refused

    def ack_up_to(self, uint64_t sequence, uint32_t consumer):
        """All in flight with the consumer up to a sequence; how many these were."""
        cdef Py_ssize_t i = self.head, acked = 0
        while i < self.tail and self.entries[i].sequence <= sequence:
            if self.entries[i].state == F_IN_FLIGHT and self.entries[i].consumer == consumer:
                self.turn(&self.entries[i], F_ACKED)
                acked += 1
            i += 1
        self.trim()
        return acked

    def settle(self, uint64_t sequence):
        """It counts as acked, whoever has it; False if it isn't held, or acked."""
        cdef Flight *flight = self.entry_of(sequence)
        if flight == NULL or flight.state == F_ACKED:
            return False
        self.turn(flight, F_ACKED)
        self.trim()
        return True

    def extend(self, const uint64_t[::1] sequences not None, uint32_t consumer, uint64_t deadline_us):
        """They have until then; those that aren't in flight with the consumer are given back."""
        cdef Py_ssize_t i
        cdef Flight *flight
        cdef list refused = []
        for i in range(sequences.shape[0]):
            flight = self.entry_of(sequences[i])
            if flight == NULL or flight.state != F_IN_FLIGHT or flight.consumer != consumer:
                refused.append(sequences[i])
            else:
                flight.at_us = deadline_us
                self.expiry_us = min(self.expiry_us, deadline_us)
        return refused

    def retry(self, uint64_t sequence, uint32_t consumer, uint64_t due_us, *, bint share_too=False):
        """It waits until it is due; how often it was delivered, 0 if the consumer doesn't have it.

        `share_too`: the later ones of its share that aren't acked wait at least as long.
        """
        cdef Py_ssize_t at = self.lower(sequence, self.head), i, end = self.tail if share_too else at + 1
        cdef Flight *flight = &self.entries[at]
        cdef uint8_t share
        if at >= self.tail or flight.sequence != sequence or flight.consumer != consumer or (
                flight.state != F_IN_FLIGHT and flight.state != F_READY):
            return 0
        self.turn(flight, F_WAITING)
        flight.at_us, share = due_us, flight.share
        self.due_us = min(self.due_us, due_us)
        for i in range(at + 1, end):
            if self.entries[i].share == share and self.entries[i].state != F_ACKED:
                if self.entries[i].state != F_WAITING or self.entries[i].at_us < due_us:
                    self.entries[i].at_us = due_us
                self.turn(&self.entries[i], F_WAITING)
        return flight.deliveries

    # --- time, and consumers that go ----------------------------------------------------------------------------------

    def expire(self, uint64_t now_us, Py_ssize_t limit):
        """At most so many in flight whose time is over, READY from now on: (sequence, share, deliveries, consumer)."""
        cdef Py_ssize_t i
        cdef uint64_t earliest = NEVER
        cdef Flight *flight
        cdef list found = []
        if now_us < self.expiry_us:
            return found
        for i in range(self.head, self.tail):
            flight = &self.entries[i]
            if flight.state != F_IN_FLIGHT:
                continue
            if flight.at_us > now_us:
                earliest = min(earliest, flight.at_us)
            elif len(found) == limit:
                return found
            else:
                found.append((flight.sequence, flight.share, flight.deliveries, flight.consumer))
                self.turn(flight, F_READY)
        self.expiry_us = earliest
        return found

    cdef void ready_when_due(self, uint64_t now_us) noexcept nogil:
        cdef Py_ssize_t i
        if now_us < self.due_us:
            return
        self.due_us = NEVER
        for i in range(self.head, self.tail):
            if self.entries[i].state != F_WAITING:
                continue
            if self.entries[i].at_us <= now_us:
                self.turn(&self.entries[i], F_READY)
            else:
                self.due_us = min(self.due_us, self.entries[i].at_us)

    def due(self, uint64_t now_us, Py_ssize_t limit):
        """The first so many that can be delivered again; those whose wait is over are among them."""
        cdef Py_ssize_t i = self.head
        cdef list found = []
        self.ready_when_due(now_us)
        limit = min(limit, self.counts[F_READY])
        while len(found) < limit:
            if self.entries[i].state == F_READY:
                found.append(self.entries[i].sequence)
            i += 1
        return array("Q", found)
