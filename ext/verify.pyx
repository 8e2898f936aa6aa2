# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Whether records agree with each other: numbers in the conversation, back-pointers, times, counters and keys.

Fed by engine/log/check.py with blocks that have passed their own check, in order. It derives everything again from
the records alone, and shares with admission only the tables.

Invariants: one fault is told once, not by all that follow: after a disagreement the next record of the conversation
may go on from what this one says or from what it should have said, and time goes on from its word.
What it knows can be taken out in parts and put into a new one, which then goes on.
Cost: about 0.2 µs a record, 64 bytes a conversation, at most 560 a device, 40 a key that is not too old.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.block cimport blk_count, blk_record
from ext.c_prefetch cimport load_u64
from ext.flat cimport SUBTABLES, Entry, Flat
from ext.keys cimport KeyRow, KeyTable, key_find
from ext.record cimport (
    F_CONVERSATION, F_CONVERSATION_SEQUENCE, F_COUNTER, F_DEVICE, F_PREVIOUS, F_SENDER, F_SEQUENCE, F_TIME, rec_key,
    rec_u64)
from ext.tables cimport WINDOW, Head, HeadTable, Window, WindowTable, flat_prefetch, window_find

cdef enum:
    SHARD_BITS = 40
    NUMBER_MASK = 0xFFFFFFFFFF
    AHEAD = 8
    HEAD_WORDS = 5  # conversation, head, conversation sequence, its other word
    KEY_WORDS = 4  # the key, sequence, time
    PART_WORDS = 5  # of a part: events and time so far, heads, windows, keys

cdef uint64_t NONE = 0xFFFFFFFFFFFFFFFF  # no event's sequence

DISAGREEMENTS = (
    "agrees", "its conversation sequence is not one more than the last", "its previous is not the conversation's last event",
    "its time is before the last event's", "its conversation is not of this shard",
    "its device has used this counter before", "its previous is no event of this conversation that the log holds",
    "an event with its key is there already",
)


cdef class Verifier:
    def __cinit__(self, uint64_t shard, uint64_t key_keep_us):
        self.shard = shard
        self.heads, self.windows, self.keys = HeadTable(), WindowTable(), KeyTable(key_keep_us)

    cdef Disagreement _one(self, const uint8_t *record, uint32_t size) except? SKIPPED nogil:
        cdef Disagreement found = AGREES
        cdef uint64_t sequence = rec_u64(record, F_SEQUENCE), conversation = rec_u64(record, F_CONVERSATION)
        cdef uint64_t counter = rec_u64(record, F_COUNTER)
        cdef Head *head
        cdef Window *window
        self.events += 1
        if conversation >> SHARD_BITS != self.shard or conversation & NUMBER_MASK == 0:
            return SHARD
        head = <Head *>self.heads.put(conversation, 0)
        if counter != 0:
            window = <Window *>self.windows.put(rec_u64(record, F_SENDER), rec_u64(record, F_DEVICE))
            if window_find(window, counter) != 0:
                found = COUNTER
            else:
                self.windows.add(window, counter, sequence)
        if self._is_keyed_twice(record, size):
            found = KEY
        if rec_u64(record, F_TIME) < self.time_us:
            found = TIME
        self.time_us = rec_u64(record, F_TIME)
        return self._chain(record, head, found)

    cdef bint _is_keyed_twice(self, const uint8_t *record, uint32_t size) except -1 nogil:
        cdef const uint8_t *key = rec_key(record, size)
        if key == NULL:
            return False
        self.keys.expire(rec_u64(record, F_TIME))
        if key_find(self.keys, load_u64(key), load_u64(key + 8)) != NULL:
            return True
        self.keys.put(load_u64(key), load_u64(key + 8), rec_u64(record, F_SEQUENCE), rec_u64(record, F_TIME))
        return False

    cdef Disagreement _chain(self, const uint8_t *record, Head *head, Disagreement found) noexcept nogil:
        # `first` and `second` of a head are its other word: its last event and the next conversation sequence, had the
        # last record not disagreed. 0 in `second`: it has none.
        cdef uint64_t previous = rec_u64(record, F_PREVIOUS), number = rec_u64(record, F_CONVERSATION_SEQUENCE)
        cdef uint64_t other = head.first, other_number = head.second
        head.first = head.second = 0
        if other_number != 0 and previous == other and number == other_number:
            pass  # the record before was a stranger
        elif previous != head.head:
            if previous < head.head:
                found = PREVIOUS
            elif found == AGREES:  # the one that damage excuses hides no other
                found = SKIPPED
            head.first, head.second = head.head, head.conversation_sequence + 1
        elif number != head.conversation_sequence + 1 and not (other_number != 0 and number == other_number + 1):
            found = CONVERSATION_SEQUENCE
            head.first, head.second = NONE, head.conversation_sequence + 1
        head.head, head.conversation_sequence = rec_u64(record, F_SEQUENCE), number
        return found

    def block(self, const uint8_t[::1] block not None):
        """[(index, disagreement)…] of a block that has passed its check."""
        cdef uint32_t i = 0, size = 0, ahead_size = 0, count = blk_count(&block[0])
        cdef const uint8_t *record
        cdef const uint8_t *ahead
        cdef Disagreement found = AGREES
        cdef list out = []
        while i < count:
            with nogil:  # no Python objects: the block is pinned by its view, the tables are self's
                while i < count:
                    if i + AHEAD < count:
                        ahead = blk_record(&block[0], i + AHEAD, &ahead_size)
                        flat_prefetch(self.heads, rec_u64(ahead, F_CONVERSATION), 0)
                        flat_prefetch(self.windows, rec_u64(ahead, F_SENDER), rec_u64(ahead, F_DEVICE))
                    record = blk_record(&block[0], i, &size)
                    found = self._one(record, size)
                    i += 1
                    if found != AGREES:
                        break
            if found != AGREES:
                out.append((i - 1, <int>found))
                found = AGREES
        return out

    def record(self, const uint8_t[::1] record not None):
        """The disagreement of one record that is well-formed, 0 if none: for what is left of a damaged block."""
        return <int>self._one(&record[0], <uint32_t>record.shape[0])

    def conversations(self):
        """How many conversations there are."""
        return self.heads.count

    # What is known, as native u64: of each part the words of PART_WORDS, then heads, then windows: user, device, how many
    # counters, and of each the counter, ascending, and its sequence; in the first part also the keys.

    def table_bytes(self):
        """The memory that the tables take."""
        return self.heads.bytes + self.windows.bytes + self.keys.bytes

    def parts(self):
        """All that is known, a sub-table of each a part; nothing may be added meanwhile."""
        cdef uint32_t sub
        cdef uint64_t[PART_WORDS] words
        cdef bytearray out
        for sub in range(SUBTABLES):
            words[0], words[1] = self.events, self.time_us
            words[2], words[3] = self.heads.counts[sub], self.windows.counts[sub]
            words[4] = self.keys.count if sub == 0 else 0
            out = bytearray((<uint8_t *>words)[:sizeof(words)])
            self._put_all(self.heads, sub, out)
            self._put_all(self.windows, sub, out)
            if sub == 0:
                self._put_keys(out)
            yield bytes(out)

    cdef int _put_keys(self, bytearray out) except -1:
        cdef uint32_t i
        for i in range(self.keys.count):
            out += (<uint8_t *>&self.keys.rows[(self.keys.first + i) & (self.keys.room - 1)])[:sizeof(KeyRow)]
        return 0

    cdef int _put_all(self, Flat table, uint32_t sub, bytearray out) except -1:
        cdef uint32_t at
        cdef Entry *entry
        if table.slots[sub] == NULL:
            return 0
        for at in range(table.masks[sub] + 1):
            entry = <Entry *>(table.slots[sub] + <size_t>at * table.entry_bytes)
            if entry.key == 0:
                continue
            if table is self.heads:
                self._put_head(out, <Head *>entry)
            else:
                self._put_window(out, <Window *>entry)
        return 0

    cdef int _put_head(self, bytearray out, const Head *head) except -1:
        cdef uint64_t[HEAD_WORDS] words
        words[0], words[1], words[2] = head.conversation, head.head, head.conversation_sequence
        words[3], words[4] = head.first, head.second
        out += (<uint8_t *>words)[:sizeof(words)]
        return 0

    cdef int _put_window(self, bytearray out, const Window *window) except -1:
        cdef uint64_t[3 + 2 * WINDOW] words
        cdef uint64_t counter, sequence, count = 0
        cdef uint64_t first = window.highest - window.room + 1 if window.highest >= window.room else 1
        for counter in range(first, window.highest + 1):
            sequence = window_find(window, counter)
            if sequence != 0:
                words[3 + 2 * count], words[4 + 2 * count] = counter, sequence
                count += 1
        words[0], words[1], words[2] = window.user, window.device, count
        out += (<uint8_t *>words)[:(3 + 2 * count) * 8]
        return 0

    def load(self, const uint8_t[::1] part not None):
        """Puts one part in. Raises ValueError if it is none."""
        cdef uint64_t[PART_WORDS] words
        cdef uint64_t[HEAD_WORDS] one
        cdef uint64_t[2] pair
        cdef uint64_t i, at = sizeof(words), size = <uint64_t>part.shape[0]
        cdef Head *head
        cdef Window *window
        if size < at:
            raise ValueError("a part that is too short")
        memcpy(words, &part[0], sizeof(words))
        self.events, self.time_us = words[0], words[1]
        for i in range(words[2]):
            if at + sizeof(one) > size:
                raise ValueError("a part that ends inside a head")
            memcpy(one, &part[at], sizeof(one))
            at += sizeof(one)
            head = <Head *>self.heads.put(one[0], 0)
            head.head, head.conversation_sequence, head.first, head.second = one[1], one[2], one[3], one[4]
        for i in range(words[3]):
            if at + 24 > size:
                raise ValueError("a part that ends inside a window")
            memcpy(one, &part[at], 24)
            at += 24
            if one[2] > WINDOW or at + one[2] * sizeof(pair) > size:
                raise ValueError("a part that ends inside a window")
            window = <Window *>self.windows.put(one[0], one[1])
            while one[2]:
                memcpy(pair, &part[at], sizeof(pair))
                at += sizeof(pair)
                one[2] -= 1
                self.windows.add(window, pair[0], pair[1])
        for i in range(words[4]):
            if at + KEY_WORDS * 8 > size:
                raise ValueError("a part that ends inside a key")
            memcpy(one, &part[at], KEY_WORDS * 8)
            at += KEY_WORDS * 8
            self.keys.put(one[0], one[1], one[2], one[3])
