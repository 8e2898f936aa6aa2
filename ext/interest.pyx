# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Interest: conversation → sessions of this worker, and back.

Filled when a device says hello, changed by the router at the membership event itself, asked by ext/fanout for every
record. Most conversations have one session here: it lies in the slot. More lie in a list; up to 16 as an array,
beyond as a set in which a session's place is its number modulo the size. So a session leaves a broadcast of 100,000
in constant time, and yet the walk over a set meets sessions nearly in ascending order, which is what the flush wants.

Invariants: slots of a sub-table ascend by home place (a miss ends early, nothing is ever marked deleted); load is
0.75 to 0.85 after growth, grown by an eighth, one sub-table at a time; a pair is in the table exactly if the
conversation is in the session's `follows`. Whoever closes a session calls drop() before its number is used again.
Cost: at most 16 bytes an entry of its own; a look-up is about one cache miss, hidden by fetch().
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove, memset

from ext.c_memory cimport fetch_ahead, pages_map, pages_remap, pages_unmap
from ext.session_table cimport Session, SessionTable

cdef enum:
    TAIL_SLOTS = 64  # beyond the last home place; a run that would not fit makes the sub-table grow
    ROOM_FIRST = 8
    PAGES_FROM_BYTES = 65536  # sub-tables from this size on are mapped, so that growing leaves no holes
    WORDS_FIRST = 16384

cdef uint32_t ARRAY_ROOMS[7]
ARRAY_ROOMS[:] = [2, 3, 4, 6, 8, 12, 16]


cdef inline uint64_t _mix(uint64_t conversation) noexcept nogil:
    """Top 8 bits choose the sub-table, low 32 the home place."""
    cdef uint64_t x = conversation * 0x9E3779B97F4A7C15u
    x ^= x >> 32
    x *= 0xD6E8FEB86659FD93u
    return x ^ (x >> 32)


cdef inline uint32_t _home(uint64_t mixed, uint32_t room) noexcept nogil:
    return <uint32_t>(((mixed & 0xFFFFFFFFu) * room) >> 32)


cdef inline uint32_t _class_room(uint32_t kind) noexcept nogil:
    return ARRAY_ROOMS[kind] if kind < LIST_ARRAYS else <uint32_t>32 << (kind - LIST_ARRAYS)


cdef inline uint32_t _class_max(uint32_t kind) noexcept nogil:
    """Most entries that a list of this class takes; sets keep a quarter empty."""
    return ARRAY_ROOMS[kind] if kind < LIST_ARRAYS else <uint32_t>24 << (kind - LIST_ARRAYS)


cdef Slot *_slots_new(uint32_t room) noexcept nogil:
    cdef size_t size = (<size_t>room + TAIL_SLOTS) * sizeof(Slot)
    return <Slot *>pages_map(size) if size >= PAGES_FROM_BYTES else <Slot *>calloc(1, size)


cdef void _slots_free(Slot *slots, uint32_t room) noexcept nogil:
    cdef size_t size = (<size_t>room + TAIL_SLOTS) * sizeof(Slot)
    if size >= PAGES_FROM_BYTES:
        pages_unmap(slots, size)
    else:
        free(slots)


cdef int _slot_put(SubTable *table, uint64_t conversation, uint64_t mixed, uint32_t value) noexcept nogil:
    """Puts an absent conversation at its place in the order of homes; 0 if the run would leave the table."""
    cdef uint32_t home = _home(mixed, table.room), i = home, end
    cdef Slot *slots = table.slots
    while slots[i].conversation != 0 and _home(_mix(slots[i].conversation), table.room) <= home:
        i += 1
    end = i
    while slots[end].conversation != 0:
        end += 1
    if end >= table.room + TAIL_SLOTS - 1:
        return 0
    if end > i:
        memmove(&slots[i + 1], &slots[i], (end - i) * sizeof(Slot))
    slots[i].conversation = conversation
    slots[i].value = value
    table.used += 1
    return 1


cdef void _slot_cut(SubTable *table, uint32_t i) noexcept nogil:
    """Takes slot i out; what was displaced behind it moves up."""
    cdef Slot *slots = table.slots
    cdef uint32_t end = i + 1
    while slots[end].conversation != 0 and _home(_mix(slots[end].conversation), table.room) < end:
        end += 1
    memmove(&slots[i], &slots[i + 1], (end - 1 - i) * sizeof(Slot))
    slots[end - 1].conversation = 0
    slots[end - 1].value = 0
    table.used -= 1


cdef inline Slot *_slot_find(SubTable *table, uint64_t conversation, uint64_t mixed) noexcept nogil:
    cdef uint32_t home = _home(mixed, table.room), i = home
    cdef Slot *slots = table.slots
    if slots == NULL:
        return NULL
    while slots[i].conversation != 0:
        if slots[i].conversation == conversation:
            return &slots[i]
        if _home(_mix(slots[i].conversation), table.room) > home:
            return NULL
        i += 1
    return NULL


cdef class Interest:
    def __cinit__(self, SessionTable sessions):
        self.sessions = sessions
        self.words = <uint32_t *>pages_map(<size_t>WORDS_FIRST * 4)
        if self.words == NULL:
            raise MemoryError("no memory for the lists of the interest table")
        self.words_room = WORDS_FIRST
        self.words_used = 1  # word 0 is "none"

    def __dealloc__(self):
        cdef int i
        for i in range(256):
            if self.tables[i].slots != NULL:
                _slots_free(self.tables[i].slots, self.tables[i].room)
        pages_unmap(self.words, <size_t>self.words_room * 4)

    # looking up

    cdef void fetch(self, uint64_t conversation) noexcept nogil:
        cdef uint64_t mixed = _mix(conversation)
        cdef SubTable *table = &self.tables[mixed >> 56]
        if table.slots != NULL:
            fetch_ahead(&table.slots[_home(mixed, table.room)])

    cdef uint32_t find(self, uint64_t conversation) noexcept nogil:
        cdef uint64_t mixed = _mix(conversation)
        cdef Slot *slot = _slot_find(&self.tables[mixed >> 56], conversation, mixed)
        return slot.value if slot != NULL else 0

    cdef const uint32_t *places(self, uint32_t *value, uint32_t *room, uint32_t *count) noexcept nogil:
        """The places of a value of find(), of which `count` are sessions and the others 0. Borrows `value`."""
        cdef uint32_t *block
        if not value[0] & LISTED:
            room[0] = count[0] = 1 if value[0] else 0
            return value
        block = self.words + (value[0] & ~<uint32_t>LISTED)
        count[0] = block[0] & LIST_COUNT_MASK
        room[0] = _class_room(block[0] >> LIST_CLASS_SHIFT)
        if room[0] <= 16:
            room[0] = count[0]
        return block + 1

    # changing: the table

    cdef int _resize(self, SubTable *table, uint32_t room) except -1 nogil:
        cdef SubTable fresh
        cdef uint32_t i
        cdef bint whole
        while True:
            fresh.room = room
            fresh.used = 0
            fresh.used_max = room - room * 3 // 20
            fresh.slots = _slots_new(room)
            if fresh.slots == NULL:
                with gil:
                    raise MemoryError(f"no memory for {room} slots of the interest table")
            whole = True
            for i in range(table.room + TAIL_SLOTS if table.slots != NULL else 0):
                if table.slots[i].conversation != 0 and not _slot_put(
                        &fresh, table.slots[i].conversation, _mix(table.slots[i].conversation), table.slots[i].value):
                    whole = False
                    break
            if whole:
                break
            _slots_free(fresh.slots, room)
            room += room // 8 + 1
        if table.slots != NULL:
            self.table_bytes -= (<uint64_t>table.room + TAIL_SLOTS) * sizeof(Slot)
            _slots_free(table.slots, table.room)
        self.table_bytes += (<uint64_t>room + TAIL_SLOTS) * sizeof(Slot)
        table[0] = fresh
        return 0

    cdef int _insert(self, SubTable *table, uint64_t conversation, uint64_t mixed, uint32_t value) except -1 nogil:
        if table.slots == NULL:
            self._resize(table, ROOM_FIRST)
        elif table.used >= table.used_max:
            self._resize(table, table.room + table.room // 8 + 8)
        while not _slot_put(table, conversation, mixed, value):
            self._resize(table, table.room + table.room // 8 + 8)
        self.conversations += 1
        return 0

    cdef int put(self, uint64_t conversation, uint32_t session) except -1 nogil:
        cdef uint64_t mixed = _mix(conversation)
        cdef SubTable *table = &self.tables[mixed >> 56]
        cdef Slot *slot = _slot_find(table, conversation, mixed)
        cdef uint32_t word
        if slot == NULL:
            self._insert(table, conversation, mixed, session)
        elif slot.value & LISTED:
            word = slot.value & ~<uint32_t>LISTED
            if not self._list_put(&word, session):
                return 0
            slot.value = LISTED | word
        elif slot.value == session:
            return 0
        else:
            word = self._block_new(0)
            self.words[word + 1] = slot.value
            self.words[word + 2] = session
            self.words[word] = 2
            slot.value = LISTED | word
        self.entries += 1
        return 1

    cdef int cut(self, uint64_t conversation, uint32_t session) except -1 nogil:
        cdef uint64_t mixed = _mix(conversation)
        cdef SubTable *table = &self.tables[mixed >> 56]
        cdef Slot *slot = _slot_find(table, conversation, mixed)
        cdef uint32_t word, i
        if slot == NULL:
            return 0
        if slot.value & LISTED:
            word = slot.value & ~<uint32_t>LISTED
            if not self._list_cut(&word, session):
                return 0
            if self.words[word] & LIST_COUNT_MASK == 1:
                slot.value = self.words[word + 1]  # lists of one have shrunk to arrays long before
                self._block_free(word)
            else:
                slot.value = LISTED | word
        elif slot.value != session:
            return 0
        else:
            _slot_cut(table, <uint32_t>(slot - table.slots))
            self.conversations -= 1
            if table.room > 1024 and table.used < table.room * 2 // 5:
                self._resize(table, table.used + table.used // 4 + ROOM_FIRST)
        self.entries -= 1
        return 1

    # changing: the lists

    cdef uint32_t _block_new(self, uint32_t kind) except 0 nogil:
        """A zeroed block of a class; the area of words may move."""
        cdef uint32_t word = self.free_block[kind], size = 1 + _class_room(kind)
        cdef uint64_t room
        cdef void *moved
        if word:
            self.free_block[kind] = self.words[word + 1]
        else:
            if self.words_used + size > self.words_room:
                room = self.words_room + self.words_room // 2 + size
                moved = pages_remap(self.words, <size_t>self.words_room * 4, <size_t>room * 4)
                if moved == NULL or room > LISTED:
                    with gil:
                        raise MemoryError(f"no memory for {room} words of lists of the interest table")
                self.words = <uint32_t *>moved
                self.words_room = room
            word = <uint32_t>self.words_used
            self.words_used += size
        memset(&self.words[word], 0, <size_t>size * 4)
        self.words[word] = kind << LIST_CLASS_SHIFT
        return word

    cdef void _block_free(self, uint32_t word) noexcept nogil:
        cdef uint32_t kind = self.words[word] >> LIST_CLASS_SHIFT
        self.words[word + 1] = self.free_block[kind]
        self.free_block[kind] = word

    cdef uint32_t _block_move(self, uint32_t word, uint32_t kind) except 0 nogil:
        """The same list in a block of another class."""
        cdef uint32_t to = self._block_new(kind), i, session
        for i in range(_class_room(self.words[word] >> LIST_CLASS_SHIFT)):
            session = self.words[word + 1 + i]
            if session:
                _list_insert(&self.words[to], session)
        self._block_free(word)
        return to

    cdef int _list_put(self, uint32_t *word, uint32_t session) except -1 nogil:
        cdef uint32_t *block = &self.words[word[0]]
        cdef uint32_t kind = block[0] >> LIST_CLASS_SHIFT
        if _list_place(block, session):
            return 0
        if block[0] & LIST_COUNT_MASK == _class_max(kind):
            if kind + 1 == LIST_CLASSES:
                with gil:
                    raise OverflowError(f"more than {_class_max(kind)} sessions follow one conversation")
            word[0] = self._block_move(word[0], kind + 1)
            block = &self.words[word[0]]
        _list_insert(block, session)
        return 1

    cdef int _list_cut(self, uint32_t *word, uint32_t session) except -1 nogil:
        cdef uint32_t *block = &self.words[word[0]]
        cdef uint32_t kind = block[0] >> LIST_CLASS_SHIFT, count, place = _list_place(block, session)
        if not place:
            return 0
        _list_remove(block, place)
        count = block[0] & LIST_COUNT_MASK
        if kind > 0 and count > 1 and count <= _class_max(kind - 1) // 2 + 1:
            word[0] = self._block_move(word[0], kind - 1)
        return 1

    # for Python: sessions may be indexes or origins

    cdef uint32_t _resolve(self, uint64_t session) except 0:
        cdef uint32_t index = self.sessions.resolve(session)
        if index == 0:
            raise KeyError(f"session {session} is not open")
        return index

    cdef int _follow(self, uint32_t index, uint64_t conversation, uint32_t expected) except -1:
        cdef Session *s = &self.sessions.at[index]
        cdef uint32_t room = s.follow_room
        cdef void *moved
        if conversation == 0:
            raise ValueError("conversation 0: ids are integers from 1 to 2^53-1")
        if s.follow_count == room:
            room = max(room + expected, room + room // 4 + 2)
            moved = realloc(s.follows, <size_t>room * 8)
            if moved == NULL:
                raise MemoryError(f"no memory for {room} conversations of a session")
            s.follows = <uint64_t *>moved
            s.follow_room = room
        if not self.put(conversation, index):
            return 0
        s.follows[s.follow_count] = conversation
        s.follow_count += 1
        return 1

    def add(self, uint64_t conversation, uint64_t session):
        """Whether it is new."""
        return bool(self._follow(self._resolve(session), conversation, 1))

    def add_all(self, uint64_t session, conversations):
        """Adds many at once, without slack in the reverse list; the number that were new."""
        cdef uint32_t index = self._resolve(session)
        cdef uint32_t left = <uint32_t>len(conversations)
        cdef uint32_t added = 0
        for conversation in conversations:
            added += self._follow(index, conversation, left)
            left -= 1
        return added

    def remove(self, uint64_t conversation, uint64_t session):
        """Whether it was there."""
        cdef uint32_t index = self.sessions.resolve(session), i
        cdef Session *s
        if index == 0 or not self.cut(conversation, index):
            return False
        s = &self.sessions.at[index]
        for i in range(s.follow_count):
            if s.follows[i] == conversation:
                s.follow_count -= 1
                s.follows[i] = s.follows[s.follow_count]
                break
        return True

    def drop(self, uint64_t session):
        """Forgets a session, before its number can be used again; how many conversations it followed."""
        cdef uint32_t index = self.sessions.resolve(session), i, count
        cdef Session *s
        if index == 0:
            return 0
        s = &self.sessions.at[index]
        count = s.follow_count
        for i in range(count):
            self.cut(s.follows[i], index)
        free(s.follows)
        s.follows = NULL
        s.follow_count = s.follow_room = 0
        return count

    def sessions_of(self, uint64_t conversation):
        """Indexes of the sessions that follow it, in the order in which they are served."""
        cdef uint32_t value = self.find(conversation), room, count, i
        cdef const uint32_t *places = self.places(&value, &room, &count)
        return [places[i] for i in range(room) if places[i]]

    def followed_by(self, uint64_t session):
        """Conversations of a session, in no order."""
        cdef uint32_t index = self.sessions.resolve(session), i
        cdef Session *s = &self.sessions.at[index]
        return [s.follows[i] for i in range(s.follow_count)] if index else []

    def memory_bytes(self):
        """Slots and lists, free blocks included; not the reverse lists (8 bytes an entry, in the sessions)."""
        return self.table_bytes + self.words_used * 4

    def count_found(self, const uint64_t[::1] conversations):
        """How many have a session here, looked up as the route loop does it (for benchmarks)."""
        cdef Py_ssize_t i, n = conversations.shape[0], found = 0
        with nogil:  # no Python objects: the buffer is pinned by the view
            for i in range(min(n, 16)):
                self.fetch(conversations[i])
            for i in range(n):
                if i + 16 < n:
                    self.fetch(conversations[i + 16])
                found += self.find(conversations[i]) != 0
        return found


cdef uint32_t _list_place(const uint32_t *block, uint32_t session) noexcept nogil:
    """Where in the block the session is; 0 = it is not."""
    cdef uint32_t kind = block[0] >> LIST_CLASS_SHIFT, i, mask, way = 0
    if kind < LIST_ARRAYS:
        for i in range(1, (block[0] & LIST_COUNT_MASK) + 1):
            if block[i] == session:
                return i
        return 0
    mask = _class_room(kind) - 1
    i = session & mask
    while block[1 + i] != 0 and ((i - block[1 + i]) & mask) >= way:
        if block[1 + i] == session:
            return 1 + i
        i = (i + 1) & mask
        way += 1
    return 0


cdef void _list_insert(uint32_t *block, uint32_t session) noexcept nogil:
    """Puts an absent session into a block that has room. In a set, who is farther from home has the place."""
    cdef uint32_t kind = block[0] >> LIST_CLASS_SHIFT, i, mask, way = 0, other
    block[0] += 1
    if kind < LIST_ARRAYS:
        block[block[0] & LIST_COUNT_MASK] = session
        return
    mask = _class_room(kind) - 1
    i = session & mask
    while block[1 + i] != 0:
        other = block[1 + i]
        if ((i - other) & mask) < way:
            block[1 + i] = session
            session = other
            way = (i - other) & mask
        i = (i + 1) & mask
        way += 1
    block[1 + i] = session


cdef void _list_remove(uint32_t *block, uint32_t place) noexcept nogil:
    """Takes a place out. In a set, those behind move up until one is at home: never along a whole dense stretch."""
    cdef uint32_t kind = block[0] >> LIST_CLASS_SHIFT, count = block[0] & LIST_COUNT_MASK, mask, i, after
    block[0] -= 1
    if kind < LIST_ARRAYS:
        block[place] = block[count]
        block[count] = 0
        return
    mask = _class_room(kind) - 1
    i = place - 1
    after = (i + 1) & mask
    while block[1 + after] != 0 and ((after - block[1 + after]) & mask) != 0:
        block[1 + i] = block[1 + after]
        i = after
        after = (after + 1) & mask
    block[1 + i] = 0
