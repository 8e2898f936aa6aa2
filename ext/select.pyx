# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a subscription wants, asked of the records of a block where they lie: by type, conversation, sender and kind.

Between the log's blocks and ext/picks. One copy of a block serves all subscriptions: each makes a pass over it that
reads two cache lines a record and copies nothing, so that what isn't wanted costs no transfer and no Python object.

What a whole block may be asked first is its summary (ext/summary): a few ns instead of a pass.

Invariants: picks ascend; what lies in (after, reached] and is wanted has been picked; a kind that isn't known stops
the pass before its record, it is never guessed. Cost: 4 to 10 ns a record, some 40 where kinds are asked for.

The GIL is kept throughout: a pass over a block takes microseconds (0.2 ms for the largest one of the smallest
records), less than it takes to get the GIL back from a thread that computes.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from ext.block cimport HEADER_BYTES, blk_count, blk_first, blk_record
from ext.c_prefetch cimport load_u16
from ext.flat cimport Flat, flat_get, flat_prefetch
from ext.picks cimport SHARE_COUNT, Picks, share_number, splitmix64
from ext.record cimport F_CONVERSATION, F_SENDER, TYPE_LENGTH_MAX, rec_type, rec_type_len, rec_u64
from ext.summary cimport SMALL, TYPES_KEPT, Summary, Tags, tags_have


cdef enum:
    KINDS_AT = 16  # in an entry, behind its keys

cdef inline uint64_t _group(uint64_t conversation) noexcept nogil:
    return (conversation >> GROUP_SHIFT) + 1  # a key is never 0


cdef class KindTable:
    """The kinds of conversations, half a byte for each. Full, it forgets all and is filled again."""

    def __cinit__(self, uint64_t bytes_max=64 << 20):
        if bytes_max < KIND_BYTES_MIN:
            raise ValueError(f"a table of kinds of {bytes_max} bytes: {KIND_BYTES_MIN} are the least")
        self.groups, self.bytes_max = Flat(), bytes_max

    @property
    def bytes(self):
        """What it takes now."""
        return self.groups.bytes

    cdef uint8_t kind_of(self, uint64_t conversation) noexcept nogil:
        cdef uint8_t *entry = flat_get(self.groups, _group(conversation), 0)
        if entry == NULL:
            return 0
        return entry[KINDS_AT + ((conversation & 31) >> 1)] >> (4 * (conversation & 1)) & 15

    def put(self, uint64_t conversation, uint32_t kind):
        """A conversation's kind never changes; who says otherwise is believed."""
        cdef uint8_t *entry
        cdef uint8_t *at
        if not 1 <= kind <= KIND_MAX:
            raise ValueError(f"kind {kind} of conversation {conversation}: 1 to {KIND_MAX} are kinds")
        entry = self.groups.put(_group(conversation), 0)
        if self.groups.bytes > self.bytes_max:
            self.groups.clear()
            self.clears += 1
            entry = self.groups.put(_group(conversation), 0)
        at = entry + KINDS_AT + ((conversation & 31) >> 1)
        at[0] = <uint8_t>(at[0] & ~(15 << (4 * (conversation & 1))) | kind << (4 * (conversation & 1)))

    def get(self, uint64_t conversation):
        """0 = not known."""
        return self.kind_of(conversation)


cdef int _fill(Ids *ids, object numbers) except -1:
    """A set of what an iterable gives."""
    cdef list wanted = list(numbers)
    cdef uint64_t slots = 8, number, at
    if not wanted:
        return 0
    while slots < 2 * <uint64_t>len(wanted):
        slots *= 2
    ids.slots = <uint64_t *>calloc(slots, 8)
    if ids.slots == NULL:
        raise MemoryError(f"no memory for {len(wanted)} ids of a selection")
    ids.mask = slots - 1
    ids.seed = int.from_bytes(os.urandom(8), "little")  # who writes a filter must not choose collisions
    for number in wanted:
        if number == 0:
            raise ValueError("id 0 in a selection: ids begin at 1")
        at = splitmix64(number ^ ids.seed) & ids.mask
        while ids.slots[at] != 0 and ids.slots[at] != number:
            at = (at + 1) & ids.mask
        ids.count += ids.slots[at] == 0
        ids.slots[at] = number
    return 0


cdef inline bint _has(const Ids *ids, uint64_t number) noexcept nogil:
    cdef uint64_t at = splitmix64(number ^ ids.seed) & ids.mask
    while ids.slots[at] != 0:
        if ids.slots[at] == number:
            return True
        at = (at + 1) & ids.mask
    return False


cdef bint _any_of(const Ids *ids, const Tags *tags, const uint8_t *data, int field) noexcept nogil:
    """Whether one of the ids is among the tags; of more ids than the block has records, whether a record's is one."""
    cdef uint64_t at
    cdef uint32_t i, size, count = blk_count(data)
    if ids.count > count:
        for i in range(count):
            if _has(ids, rec_u64(blk_record(data, i, &size), field)):
                return True
        return False
    for at in range(ids.mask + 1):
        if ids.slots[at] != 0 and tags_have(tags, ids.slots[at]):
            return True
    return False


cdef const uint8_t *_range(bytes block, uint64_t after, uint64_t upto, uint32_t *i, uint32_t *end) except NULL:
    """The block's bytes, and which of its records lie in (after, upto]: none if i = end."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(block)
    cdef uint64_t first
    cdef uint32_t count
    if len(block) < HEADER_BYTES:
        raise ValueError(f"{len(block)} bytes are no block")
    first, count = blk_first(data), blk_count(data)
    i[0] = end[0] = 0
    if upto < first or after >= first + count - 1 or upto <= after:
        return data
    i[0] = <uint32_t>(after + 1 - first) if after >= first else 0
    end[0] = count if upto >= first + count - 1 else <uint32_t>(upto - first + 1)
    return data


cdef class Selection:
    """What is wanted of the log. Empty parts want all; what several parts name must hold together."""

    def __cinit__(self, *, types=(), uint32_t kinds_mask=0, conversations=(), senders=(), KindTable kinds=None):
        cdef bytes prefix
        cdef list prefixes = list(types)
        if kinds_mask and (kinds is None or kinds_mask & ~<uint32_t>((2 << KIND_MAX) - 2)):
            raise ValueError(f"kinds {kinds_mask:#x}: bits 1 to {KIND_MAX} are kinds, and a KindTable is needed")
        self.kinds_mask, self.kinds = kinds_mask, kinds
        if prefixes:
            self.prefixes = <Prefix *>calloc(len(prefixes), sizeof(Prefix))
            if self.prefixes == NULL:
                raise MemoryError(f"no memory for {len(prefixes)} types of a selection")
        for prefix in prefixes:
            if not 1 <= len(prefix) <= TYPE_LENGTH_MAX:
                raise ValueError(f"a type of {len(prefix)} bytes in a selection: 1 to {TYPE_LENGTH_MAX} are allowed")
            self.prefixes[self.prefix_count].length = <uint8_t>len(prefix)
            memcpy(self.prefixes[self.prefix_count].text, PyBytes_AS_STRING(prefix), len(prefix))
            self.prefix_count += 1
        _fill(&self.conversations, conversations)
        _fill(&self.senders, senders)

    def __dealloc__(self):
        free(self.prefixes)
        free(self.conversations.slots)
        free(self.senders.slots)

    cdef bint _matches(self, const uint8_t *type, uint32_t length) noexcept nogil:
        """A prefix ends where the type does, or at a dot."""
        cdef const Prefix *prefix
        cdef uint32_t i
        for i in range(self.prefix_count):
            prefix = &self.prefixes[i]
            if prefix.length > length or memcmp(prefix.text, type, prefix.length) != 0:
                continue
            if prefix.length == length or prefix.text[prefix.length - 1] == c'.' or type[prefix.length] == c'.':
                return True
        return False

    cdef bint type_wanted(self, const uint8_t *record) noexcept nogil:
        """The types of a stream are few: a verdict is remembered where the type's length and end lead."""
        cdef uint32_t length = rec_type_len(record)
        cdef const uint8_t *type = rec_type(record)
        # The two bytes before the type's end are the record's whatever its length.
        cdef Verdict *verdict = &self.verdicts[(length * 7 + (<uint32_t>load_u16(type + length - 2) * 40503 >> 8)) % VERDICTS]
        if verdict.length != length or memcmp(verdict.text, type, length) != 0:
            verdict.length, verdict.wanted = <uint8_t>length, self._matches(type, length)
            memcpy(verdict.text, type, length)
        return verdict.wanted

    cdef bint wants(self, const uint8_t *record, uint64_t conversation) noexcept nogil:
        if self.conversations.slots != NULL and not _has(&self.conversations, conversation):
            return False
        if self.senders.slots != NULL and not _has(&self.senders, rec_u64(record, F_SENDER)):
            return False
        return self.prefix_count == 0 or self.type_wanted(record)

    cdef bint may_want(self, Summary summary) noexcept nogil:
        """Kinds are not asked: what isn't known of them must not be guessed."""
        cdef uint32_t i
        if self.conversations.slots != NULL and not _any_of(
                &self.conversations, &summary.conversations, summary.data, F_CONVERSATION):
            return False
        if self.senders.slots != NULL and not _any_of(&self.senders, &summary.senders, summary.data, F_SENDER):
            return False
        if self.prefix_count == 0 or summary.type_count > TYPES_KEPT:
            return True
        for i in range(summary.type_count):
            if self.type_wanted(summary.types[i]):
                return True
        return False

    def skip(self, list summaries not None, Py_ssize_t start, uint64_t after, uint64_t upto):
        """(index, reached): the first block of `summaries` from `start` on that may have something of what lies in
        (after, upto], and up to where there is nothing. Ends where a block doesn't follow the one before, and after
        SKIPPED_MAX. The first who asks for a large block makes the pass that its summary would cost."""
        cdef Py_ssize_t i = start, end = min(len(summaries), start + SKIPPED_MAX)
        cdef Summary one
        if start < 0:
            raise ValueError(f"summaries from {start} on: 0 is the first")
        while i < end and after < upto:
            one = summaries[i]
            if one is None:
                raise TypeError(f"summary {i} is None")
            if one.first > after + 1:
                break
            if not one.is_built:
                if one.count > SMALL and not one.was_asked:
                    one.was_asked = True
                    break
                one.build()
            if self.may_want(one):
                break
            after = max(after, min(one.last, upto))
            i += 1
        return i, after

    cdef uint32_t scan(self, const uint8_t *data, uint32_t i, uint32_t end, const uint8_t *shares,
                       Picks picks, Py_ssize_t events_max, uint64_t bytes_max, uint64_t *missing) except? 0:
        """Picks from record i on; the index of the first that was not looked at."""
        cdef const uint8_t *record
        cdef uint64_t conversation, first = blk_first(data)
        cdef uint32_t size
        cdef uint8_t share, kind
        while i < end and picks.count < events_max and picks.bytes < bytes_max:
            if self.kinds_mask and i + AHEAD < end:
                flat_prefetch(self.kinds.groups, _group(rec_u64(blk_record(data, i + AHEAD, &size), F_CONVERSATION)), 0)
            record = blk_record(data, i, &size)
            conversation = rec_u64(record, F_CONVERSATION)
            if shares != NULL:
                share = share_number(conversation)
                if not shares[share >> 3] >> (share & 7) & 1:
                    i += 1
                    continue
            if self.wants(record, conversation):
                if self.kinds_mask:
                    kind = self.kinds.kind_of(conversation)
                    if kind == 0:
                        missing[0] = conversation
                        break
                    if not self.kinds_mask >> kind & 1:
                        i += 1
                        continue
                picks.append(record, size, first + i)
            i += 1
        return i

    def pick(self, bytes block not None, uint64_t after, uint64_t upto, Picks picks not None, *, bytes shares=None,
             Py_ssize_t events_max=0xFFFFFFFF, uint64_t bytes_max=0x7FFFFFFFFFFFFFFF):
        """Picks what is wanted of the records in (after, upto].

        (reached, missing): the last sequence that was looked at, and the conversation of the next one if its kind
        isn't known. `shares`: bits of the wanted ones. Ends early once
        `picks` holds `events_max` events or `bytes_max` bytes, what was in it before counted.
        """
        cdef uint32_t i, end
        cdef uint64_t missing = 0
        cdef const uint8_t *data = _range(block, after, upto, &i, &end)
        cdef const uint8_t *shares_at = NULL
        cdef Py_ssize_t before = picks.count
        if shares is not None:
            if len(shares) * 8 != SHARE_COUNT:
                raise ValueError(f"{len(shares)} bytes of shares: {SHARE_COUNT} bits are wanted")
            shares_at = <const uint8_t *>PyBytes_AS_STRING(shares)
        if i == end:
            return after, 0
        try:
            i = self.scan(data, i, end, shares_at, picks, events_max, bytes_max, &missing)
            picks.hold(block, before)
        except BaseException:
            picks.cut(before)  # nothing may point into what isn't held
            raise
        return max(after, blk_first(data) + i - 1), missing

    def unknown(self, bytes block not None, uint64_t after, uint64_t upto):
        """The conversations of records in (after, upto] that are wanted if their kind is, and whose kind isn't known."""
        cdef uint32_t i, end, size
        cdef uint64_t conversation
        cdef const uint8_t *data = _range(block, after, upto, &i, &end)
        cdef const uint8_t *record
        cdef set found = set()
        while self.kinds_mask and i < end:
            record = blk_record(data, i, &size)
            conversation = rec_u64(record, F_CONVERSATION)
            if self.kinds.kind_of(conversation) == 0 and self.wants(record, conversation):
                found.add(conversation)
            i += 1
        return sorted(found)


def wanting(list selections not None, Summary summary not None):
    """Those of the selections that may want something of a block: their indices, ascending."""
    cdef list found = []
    cdef Py_ssize_t i
    cdef Selection one
    if not summary.is_built:
        summary.build()
    for i in range(len(selections)):
        one = selections[i]
        if one is None:
            raise TypeError(f"selection {i} is None")
        if one.may_want(summary):
            found.append(i)
    return found
