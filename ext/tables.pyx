# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Heads, device windows, roles and dialogs as native tables; the hot part of the state.

Between ext/admission (reads and writes them while it admits), ext/fold (writes them from committed blocks) and
ext/saving (takes out what changed). Python sees entries only one at a time, for loading, tests and views.

Invariants: `changed_at` is the sequence of the last event applied, so that applying again changes nothing; a loaded
entry is never overwritten by a load that comes late; a window holds exactly the last 64 counters that were published.
Cost: a head 64 bytes, a window 48 + 8 for each slot of its ring, a role 32, a dialog 40; over the load factor.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef class HeadTable(Flat):
    """Conversation → head, conversation sequence, kind, flags, users of a dialog."""

    def __cinit__(self):
        self.entry_bytes = sizeof(Head)

    def get(self, uint64_t conversation):
        """(kind, head, conversation_sequence, created, first, second, closed, history, loaded) or None."""
        cdef Head *h = <Head *>flat_get(self, conversation, 0)
        if h == NULL:
            return None
        return (h.kind, h.head, h.conversation_sequence, h.created, h.first, h.second, bool(h.flags & H_CLOSED),
                bool(h.flags & H_HISTORY), bool(h.flags & E_LOADED))

    def heads_of(self, list conversations not None):
        """The head of each, 0 where it isn't known here."""
        cdef Head *h
        cdef list found = []
        cdef uint64_t conversation
        for conversation in conversations:
            h = <Head *>flat_get(self, conversation, 0)
            found.append(0 if h == NULL else h.head)
        return found

    def load(self, uint64_t conversation, uint32_t kind, uint64_t head, uint64_t conversation_sequence,
             uint64_t created, uint64_t first, uint64_t second, bint closed, bint history):
        """What the saved state knows; kind 0 = there is no such conversation. Never over a whole entry."""
        cdef Head *h = <Head *>self.put(conversation, 0)
        if h.flags & E_LOADED:
            return
        h.flags = E_LOADED | E_USED | (H_CLOSED if closed else 0) | (H_HISTORY if history else 0)
        h.kind, h.created, h.first, h.second = kind, created, first, second
        if head > h.head:
            h.head, h.conversation_sequence = head, conversation_sequence

    def create(self, uint64_t conversation, uint32_t kind, uint64_t created, bint history):
        """A group or channel that comes into being with the event at `created`."""
        cdef Head *h = <Head *>self.put(conversation, 0)
        h.flags = E_LOADED | E_USED | (H_HISTORY if history else 0)
        h.kind, h.created, h.first, h.second = kind, created, 0, 0

    def close(self, uint64_t conversation):
        """Marks a known conversation as closed."""
        cdef Head *h = <Head *>flat_get(self, conversation, 0)
        if h != NULL:
            h.flags |= H_CLOSED

    def note(self, uint64_t conversation, uint64_t head, uint64_t conversation_sequence):
        """One event of the conversation."""
        cdef Head *h = <Head *>self.put(conversation, 0)
        if head > h.head:
            h.head, h.conversation_sequence = head, conversation_sequence

    def sweep(self, uint64_t position, bint keep_used=True):
        """Sheds, in one sub-table, what the saved state at `position` holds; number of entries."""
        return self.sweep_one(position, keep_used)


cdef class WindowTable(Flat):
    """(user, device) → the last 64 counters with their sequences."""

    def __cinit__(self):
        self.entry_bytes = sizeof(Window)

    def __dealloc__(self):
        self.clear()  # here, because Flat's own dealloc no longer reaches release()

    cdef void release(self, uint8_t *entry) noexcept nogil:
        cdef Window *w = <Window *>entry
        self.bytes -= <uint64_t>w.room * 8
        free(w.ring)
        w.ring = NULL

    cdef int _grow(self, Window *w) except -1 nogil:
        cdef uint32_t room = w.room * 2 if w.room else 4
        cdef uint64_t *ring = <uint64_t *>calloc(room, 8)
        cdef uint64_t back
        if ring == NULL:
            with gil:
                raise MemoryError("a device window")
        for back in range(w.room):
            if back > w.highest:
                break
            ring[(w.highest - back) & (room - 1)] = w.ring[(w.highest - back) & (w.room - 1)]
        free(w.ring)
        self.bytes += (room - w.room) * 8
        w.ring = ring
        w.room = room
        return 0

    cdef int add(self, Window *w, uint64_t counter, uint64_t sequence) except -1 nogil:
        """Remembers a publish. Grows the ring only when a remembered counter would fall out that must stay."""
        cdef uint64_t step, back
        cdef bint lost
        if w.room == 0:
            self._grow(w)
        if counter > w.highest:
            step = counter - w.highest
            while w.room < WINDOW:
                lost = False
                # Counters highest-back that leave the ring (back + step >= room) though still within 64 of the new one.
                for back in range(w.room - step if step < w.room else 0, w.room):
                    if back + step < WINDOW and back <= w.highest:
                        if w.ring[(w.highest - back) & (w.room - 1)] != 0:
                            lost = True
                            break
                if not lost:
                    break
                self._grow(w)
            for back in range(1, (step if step < w.room else w.room) + 1):
                w.ring[(w.highest + back) & (w.room - 1)] = 0
            w.highest = counter
        elif w.highest - counter >= WINDOW:
            return 0
        else:
            while w.highest - counter >= w.room:
                self._grow(w)
        w.ring[counter & (w.room - 1)] = sequence
        if sequence > w.changed_at:
            w.changed_at = sequence
        return 0

    def note(self, uint64_t user, uint64_t device, uint64_t counter, uint64_t sequence):
        """One publish of the device."""
        self.add(<Window *>self.put(user, device), counter, sequence)

    def known(self, uint64_t user, uint64_t device):
        """(highest counter, {counter: sequence}, loaded) or None."""
        cdef Window *w = <Window *>flat_get(self, user, device)
        cdef uint64_t back
        cdef dict found = {}
        if w == NULL:
            return None
        for back in range(w.room):
            if back < w.highest and w.ring[(w.highest - back) & (w.room - 1)]:
                found[w.highest - back] = w.ring[(w.highest - back) & (w.room - 1)]
        return w.highest, found, bool(w.flags & E_LOADED)

    def sweep(self, uint64_t position, bint keep_used=True):
        """Sheds, in one sub-table, what the saved state at `position` holds; number of entries."""
        return self.sweep_one(position, keep_used)


cdef class MemberTable(Flat):
    """(conversation, user) → role, for admission; role 0 = known not to be a member."""

    def __cinit__(self):
        self.entry_bytes = sizeof(Member)

    def get(self, uint64_t conversation, uint64_t user):
        """The role or None if unknown."""
        cdef Member *m = <Member *>flat_get(self, conversation, user)
        return None if m == NULL else m.role

    def load(self, uint64_t conversation, uint64_t user, uint32_t role):
        """What the saved state knows; never over a known entry."""
        cdef Member *m = <Member *>self.put(conversation, user)
        if not m.flags & E_LOADED:
            m.flags = E_LOADED | E_USED
            m.role = role

    def set(self, uint64_t conversation, uint64_t user, uint32_t role, uint64_t sequence):
        """The role since the event at `sequence`."""
        cdef Member *m = <Member *>self.put(conversation, user)
        if sequence > m.changed_at:
            m.flags = E_LOADED | E_USED
            m.role = role
            m.changed_at = sequence

    def sweep(self, uint64_t position, bint keep_used=True):
        """Sheds, in one sub-table, what the saved state at `position` holds; number of entries."""
        return self.sweep_one(position, keep_used)


cdef class DialogTable(Flat):
    """(lower user, higher user) → their dialog; 0 = known to have none."""

    def __cinit__(self):
        self.entry_bytes = sizeof(Dialog)

    def get(self, uint64_t first, uint64_t second):
        """The dialog, 0 if known to be none, None if unknown."""
        cdef Dialog *d = <Dialog *>flat_get(self, first, second)
        return None if d == NULL else d.conversation

    def load(self, uint64_t first, uint64_t second, uint64_t conversation):
        """What the saved state knows; never over a known entry."""
        cdef Dialog *d = <Dialog *>self.put(first, second)
        if not d.flags & E_LOADED:
            d.flags = E_LOADED | E_USED
            d.conversation = conversation

    def sweep(self, uint64_t position, bint keep_used=True):
        """Sheds, in one sub-table, what the saved state at `position` holds; number of entries."""
        return self.sweep_one(position, keep_used)
