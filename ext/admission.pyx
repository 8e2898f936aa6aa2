# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The hot half of admission: repeats, windows, membership, expectations, numbering, and the record itself.

Called by engine/admitter.py on the sequencer's admission thread; fills the open block that the committer then
writes. The order of judgement is fixed: repeat, window, type, conversation, membership, closed, expected. What it
looks at lies in tables; a proposal whose keys are not there is put aside with those keys, and with it everything
later of its device (of a service: of its user), so that a device's publishes stay in order while all others go on.

Invariants: no I/O, clock or randomness; a refused proposal changes nothing; each proposal gets one answer or is
deferred whole. Cost: about 0.2 µs a proposal and the copying of its bytes, the table lines prefetched a group ahead.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from ext.block cimport BlockBuilder
from ext.c_prefetch cimport (
    load_u16, load_u32, load_u64, prefetch, store_u16, store_u32, store_u64, swap_u64)
from ext.flat cimport Entry, Flat
from ext.fold cimport DIALOG_BYTES, dialog_put
from ext.keys cimport KEY_BYTES, KeyRow, KeyTable, key_find
from ext.record cimport rec_put, rec_put_key
from ext.tables cimport (
    E_LOADED, E_USED, H_CLOSED, H_HISTORY, JUMP_MAX, K_DIALOG, K_NONE, R_MEMBER, R_NONE, WINDOW, Dialog, DialogTable, Head,
    HeadTable, Member, MemberTable, Window, WindowTable, flat_get, flat_prefetch, window_find)

cdef uint64_t ID_MAX = (<uint64_t>1 << 53) - 1
cdef uint64_t NUMBER_MASK = (<uint64_t>1 << 40) - 1
cdef enum:
    RECORD_BYTES = 98  # a record with a key, without type and payload
    K_CHANNEL = 3
    SHARD_BITS = 40

DONE, FULL, CONTROL = V_DONE, V_FULL, V_CONTROL


cdef int _add(Buffer *buffer, const void *data, size_t size) except -1 nogil:
    cdef size_t room
    cdef uint8_t *grown
    if buffer.size + size > buffer.room:
        room = buffer.room * 2 + size + 4096
        grown = <uint8_t *>realloc(buffer.data, room)
        if grown == NULL:
            with gil:
                raise MemoryError(f"{room} bytes of answers or deferred proposals")
        buffer.data = grown
        buffer.room = room
    memcpy(buffer.data + buffer.size, data, size)
    buffer.size += size
    return 0


cdef int _add_key(Buffer *buffer, uint64_t first, uint64_t second) except -1 nogil:
    cdef uint64_t key[2]
    key[0], key[1] = swap_u64(first), swap_u64(second)
    return _add(buffer, key, 16)


cdef bytes _take(Buffer *buffer):
    cdef bytes out = PyBytes_FromStringAndSize(<char *>buffer.data, buffer.size)
    buffer.size = 0
    if buffer.room > (1 << 20):  # a burst's buffer is not kept
        free(buffer.data)
        buffer.data, buffer.room = NULL, 0
    return out


cdef inline bint _is_id(uint64_t number) noexcept nogil:
    return 1 <= number <= ID_MAX


cdef inline bint _begins(const uint8_t *name, uint32_t size, const char *prefix, uint32_t prefix_size) noexcept nogil:
    return size >= prefix_size and memcmp(name, prefix, prefix_size) == 0


cdef int _class_of(const uint8_t *name, uint32_t size) noexcept nogil:
    """C_PLAIN: anybody's type. C_CONTROL: one of the engine's or of its namespaces. C_BAD: no type at all."""
    cdef uint32_t i
    cdef bint dot = True  # a dot may not follow
    if size == 7 and memcmp(name, <const char *>b"message", 7) == 0:
        return C_PLAIN
    if size < 1 or size > TYPE_BYTES_MAX:
        return C_BAD
    for i in range(size):
        if name[i] == c'.':
            if dot:
                return C_BAD
            dot = True
        elif c'a' <= name[i] <= c'z' or c'0' <= name[i] <= c'9' or name[i] == c'_':
            dot = False
        else:
            return C_BAD
    if dot:
        return C_BAD
    if (_begins(name, size, b"conversation.", 13) or _begins(name, size, b"member.", 7)
            or _begins(name, size, b"message.", 8) or _begins(name, size, b"subscription.", 13)
            or _begins(name, size, b"admin.", 6)):
        return C_CONTROL
    return C_PLAIN


cdef inline uint64_t _key_bytes(const uint8_t *at) noexcept nogil:
    return (load_u32(at + 4) & P_KEYED) * (KEY_BYTES // P_KEYED)  # without a branch


cdef inline bint _is_whole(const uint8_t *at, size_t size) noexcept nogil:
    """Whether a proposal of the length that it says begins there."""
    return (size >= PROPOSAL_BYTES and load_u32(at) <= size and load_u32(at)
            == PROPOSAL_BYTES + _key_bytes(at) + <uint64_t>load_u16(at + 56) + load_u32(at + 60))


cdef inline void _parse(const uint8_t *at, Proposal *p) noexcept nogil:
    p.length, p.flags = load_u32(at), load_u32(at + 4)
    p.origin, p.user, p.device, p.counter = load_u64(at + 8), load_u64(at + 16), load_u64(at + 24), load_u64(at + 32)
    p.target, p.expected = load_u64(at + 40), load_u64(at + 48)
    p.type_bytes, p.payload_bytes = load_u16(at + 56), load_u32(at + 60)
    p.type = at + PROPOSAL_BYTES + _key_bytes(at)
    p.key = NULL


cdef inline void _parse_key(const uint8_t *at, Proposal *p) noexcept nogil:
    if p.flags & P_KEYED and (load_u64(at + PROPOSAL_BYTES) | load_u64(at + PROPOSAL_BYTES + 8)) != 0:
        p.key = at + PROPOSAL_BYTES


def check_batch(const uint8_t[::1] batch not None):
    """Raises ValueError unless the batch is a concatenation of whole proposals; their number."""
    cdef size_t at = 0, size = batch.shape[0]
    cdef uint32_t count = 0
    while at < size:
        if not _is_whole(&batch[at], size - at):
            raise ValueError(f"a batch of proposals is malformed at byte {at} of {size}")
        at += load_u32(&batch[at])
        count += 1
    return count


@cython.final
cdef class Admission:
    def __cinit__(self, HeadTable heads not None, WindowTable windows not None, MemberTable members not None,
                  DialogTable dialogs not None, KeyTable keys not None, BlockBuilder builder not None, uint64_t sequence,
                  uint64_t number, uint64_t shard, const uint8_t[::1] rights, uint32_t block_bytes_max,
                  uint32_t block_events_max, uint32_t keys_max):
        if rights.shape[0] != 64:
            raise ValueError(f"rights has {rights.shape[0]} bytes; it must be 8 kinds of 8 roles")
        memcpy(self.rights, &rights[0], 64)
        self.heads, self.windows, self.members, self.dialogs, self.keys = heads, windows, members, dialogs, keys
        self.builder = builder
        self.sequence, self.number, self.shard = sequence, number, shard
        self.block_bytes_max, self.block_events_max, self.keys_max = block_bytes_max, block_events_max, keys_max
        self.nobody.flags = E_LOADED
        self.waiting = Flat()

    def __dealloc__(self):
        free(self.answers.data)
        free(self.deferred.data)
        free(self.missing_windows.data)
        free(self.missing_heads.data)
        free(self.missing_members.data)
        free(self.missing_dialogs.data)

    # The walk.

    def run(self, const uint8_t[::1] batch, size_t position, uint64_t time_us):
        """Admits from `position` on; DONE, FULL or CONTROL, with `position` where it stopped."""
        cdef int verdict
        self.position = position
        if batch.shape[0] == 0:
            return V_DONE
        with nogil:  # no Python objects: batch, tables and builder are pinned by the call and by self
            verdict = self._run(&batch[0], batch.shape[0], time_us)
        return verdict

    cdef int _run(self, const uint8_t *data, size_t size, uint64_t time_us) except -1 nogil:
        cdef size_t offsets[GROUP + 1]
        cdef size_t at
        cdef int i, n, verdict
        cdef const uint8_t *p
        cdef Window *window
        cdef uint64_t user, target, counter
        while self.position < size:
            n = 0
            at = self.position
            while n < GROUP and at < size:
                p = data + at
                if not _is_whole(p, size - at):
                    with gil:
                        raise ValueError(f"a batch of proposals is malformed at byte {at} of {size}")
                user, target = load_u64(p + 16), load_u64(p + 40)
                flat_prefetch(self.windows, user, load_u64(p + 24))
                if load_u32(p + 4) & P_PERSON:
                    flat_prefetch(self.dialogs, min(user, target), max(user, target))
                else:
                    flat_prefetch(self.heads, target, 0)
                offsets[n] = at
                at += load_u32(p)
                n += 1
            offsets[n] = at
            for i in range(n):
                p = data + offsets[i]
                window = <Window *>flat_get(self.windows, load_u64(p + 16), load_u64(p + 24))
                if window != NULL and window.room != 0:
                    counter = load_u64(p + 32)
                    prefetch(&window.ring[counter & (window.room - 1)])
            for i in range(n):
                self.position = offsets[i]
                verdict = self._one(data + offsets[i], time_us)
                if verdict != V_DONE:
                    return verdict
            self.position = at
        return V_DONE

    cdef int _one(self, const uint8_t *at, uint64_t time_us) except -1 nogil:
        cdef Proposal p
        cdef Window *window
        cdef uint64_t sequence
        _parse(at, &p)
        if p.flags & (P_SYSTEM | P_KEYED):
            return self._one_keyed(at, &p, time_us)
        if not _is_id(p.user) or not _is_id(p.device):
            return self._answer(&p, 0, 0, 0, 0, S_BAD_ID, 0)
        if not _is_id(p.counter):
            return self._answer(&p, 0, 0, 0, 0, S_BAD_COUNTER, 0)
        if self.waiting.count != 0 and flat_get(self.waiting, p.user, p.device) != NULL:
            return self._defer(at, &p)
        window = <Window *>flat_get(self.windows, p.user, p.device)
        if window != NULL and window.flags & E_LOADED:
            window.flags |= E_USED
            if p.counter <= window.highest:
                if window.highest - p.counter >= WINDOW:
                    return self._answer(&p, 0, 0, 0, 0, S_TOO_OLD, 0)
                sequence = window_find(window, p.counter)
                if sequence != 0:
                    self.repeats += 1
                    return self._answer(&p, 0, sequence, 0, 0, S_REPEAT, 0)
            elif p.counter - window.highest > JUMP_MAX:
                return self._answer(&p, 0, 0, 0, 0, S_COUNTER_JUMP, JUMP_MAX)
        else:
            window = NULL
            _add_key(&self.missing_windows, p.user, p.device)
        return self._judge(at, &p, window, time_us)

    cdef int _one_keyed(self, const uint8_t *at, Proposal *p, uint64_t time_us) except -1 nogil:
        """A proposal of a service, or of the engine's own: without device and counter, a repeat by its key."""
        cdef KeyRow *row
        if not _is_id(p.user) or p.device != 0:
            return self._answer(p, 0, 0, 0, 0, S_BAD_ID, 0)
        if p.counter != 0:
            return self._answer(p, 0, 0, 0, 0, S_BAD_COUNTER, 0)
        _parse_key(at, p)
        if p.key != NULL:
            self.keys.expire(time_us)
            row = key_find(self.keys, load_u64(p.key), load_u64(p.key + 8))
            if row != NULL:
                self.repeats += 1
                return self._answer(p, 0, row.sequence, 0, 0, S_REPEAT, 0)
            if self.keys.count >= self.keys_max:  # until the oldest of them is too old
                return self._answer(p, 0, 0, 0, 0, S_OVERLOADED, <uint32_t>(
                    (self.keys.oldest_us() + self.keys.keep_us - time_us) // 1000 + 1))
        if self.waiting.count != 0 and flat_get(self.waiting, p.user, 0) != NULL:
            return self._defer(at, p)
        return self._judge(at, p, &self.nobody, time_us)

    cdef int _judge(self, const uint8_t *at, Proposal *p, Window *window, uint64_t time_us) except -1 nogil:
        """Behind repeats: the type, and what it leads to. NULL in `window`: it is missing."""
        cdef int meaning = _class_of(p.type, p.type_bytes)
        if window != NULL:
            if meaning == C_BAD:
                return self._answer(p, 0, 0, 0, 0, S_BAD_TYPE, 0)
            if p.payload_bytes > PAYLOAD_BYTES_MAX:
                return self._answer(p, 0, 0, 0, 0, S_PAYLOAD_TOO_LARGE, 0)
        if meaning != C_PLAIN or p.flags & P_SYSTEM:
            if window == NULL:
                return self._defer(at, p)
            # The first event of the engine's own brings its conversation's beginning.
            if not self._room(2 * (RECORD_BYTES + TYPE_BYTES_MAX) + PAYLOAD_BYTES_MAX, 2):
                return V_FULL
            return V_CONTROL
        if p.flags & P_PERSON:
            return self._dialog(at, p, window, time_us)
        return self._publish(at, p, window, p.target, time_us, False)

    cdef int _dialog(self, const uint8_t *at, Proposal *p, Window *window, uint64_t time_us) except -1 nogil:
        """A publish to a person: into their dialog, or into the one that begins with it."""
        cdef uint64_t first = min(p.user, p.target), second = max(p.user, p.target)
        cdef Dialog *dialog
        cdef Head *head
        cdef uint8_t created[DIALOG_BYTES]
        if not _is_id(p.target) or p.user == p.target:
            if window == NULL:
                return self._defer(at, p)
            return self._answer(p, 0, 0, 0, 0, S_BAD_ID, 0)
        dialog = <Dialog *>flat_get(self.dialogs, first, second)
        if dialog == NULL or not dialog.flags & E_LOADED:
            _add_key(&self.missing_dialogs, first, second)
            return self._defer(at, p)
        dialog.flags |= E_USED
        if dialog.conversation != 0:
            return self._publish(at, p, window, dialog.conversation, time_us, False)
        if window == NULL:
            return self._defer(at, p)
        if p.flags & P_EXPECTED and p.expected != 0:
            return self._answer(p, 0, 0, 0, 0, S_CONFLICT, 0)
        if not self._room(2 * (RECORD_BYTES + TYPE_BYTES_MAX) + p.payload_bytes, 2):
            return V_FULL
        self.number += 1
        dialog.conversation = self.shard << SHARD_BITS | self.number
        dialog.changed_at = self.sequence + 1
        head = <Head *>self.heads.put(dialog.conversation, 0)
        memset(<uint8_t *>head + 16, 0, sizeof(Head) - 16)
        head.flags = E_LOADED | E_USED | H_HISTORY
        head.kind, head.first, head.second, head.created = K_DIALOG, first, second, self.sequence + 1
        dialog_put(created, first, second)
        self._append(head, time_us, p.user, p.device, 0, <const uint8_t *>b"conversation.created", 20, created,
                     DIALOG_BYTES, NULL)
        p.flags &= ~<uint32_t>P_EXPECTED  # it has been judged: there was nothing
        return self._publish(at, p, window, dialog.conversation, time_us, True)  # in the same block, come what may

    cdef int _publish(self, const uint8_t *at, Proposal *p, Window *window, uint64_t conversation, uint64_t time_us,
                      bint has_room) except -1 nogil:
        cdef Head *head = <Head *>flat_get(self.heads, conversation, 0)
        cdef Member *member
        cdef uint32_t role
        if conversation >> SHARD_BITS != self.shard or not conversation & NUMBER_MASK:
            if window == NULL:
                return self._defer(at, p)
            return self._answer(p, 0, 0, 0, 0, S_UNKNOWN_CONVERSATION, 0)
        if head == NULL or not head.flags & E_LOADED:
            _add_key(&self.missing_heads, conversation, p.user)
            return self._defer(at, p)
        head.flags |= E_USED
        if head.kind == K_DIALOG:
            role = R_MEMBER if p.user == head.first or p.user == head.second else R_NONE
        elif head.kind == K_NONE:
            role = R_NONE
        else:
            member = <Member *>flat_get(self.members, conversation, p.user)
            if member == NULL or not member.flags & E_LOADED:
                _add_key(&self.missing_members, p.user, conversation)
                return self._defer(at, p)
            member.flags |= E_USED
            role = member.role
        if window == NULL:
            return self._defer(at, p)
        if role == R_NONE and head.kind != K_CHANNEL:
            return self._answer(p, 0, 0, 0, 0, S_UNKNOWN_CONVERSATION, 0)
        if not self.rights[(head.kind & 7) * 8 + (role & 7)] & RIGHT_PUBLISH:
            return self._answer(p, conversation, 0, 0, 0, S_FORBIDDEN, 0)
        if head.flags & H_CLOSED:
            return self._answer(p, conversation, 0, 0, 0, S_CLOSED, 0)
        if p.flags & P_EXPECTED and p.expected != head.conversation_sequence:
            return self._answer(p, conversation, 0, head.conversation_sequence, 0, S_CONFLICT, 0)
        if not has_room and not self._room(RECORD_BYTES + p.type_bytes + p.payload_bytes, 1):
            return V_FULL
        self._append(head, time_us, p.user, p.device, p.counter, p.type, p.type_bytes, p.type + p.type_bytes,
                     p.payload_bytes, p.key)
        if p.counter != 0:
            self.windows.add(window, p.counter, self.sequence)
        return self._answer(p, conversation, self.sequence, head.conversation_sequence, time_us, S_APPENDED, 0)

    cdef int _append(self, Head *head, uint64_t time_us, uint64_t user, uint64_t device, uint64_t counter,
                     const uint8_t *type, uint32_t type_bytes, const uint8_t *payload, uint32_t payload_bytes,
                     const uint8_t *key) except -1 nogil:
        cdef uint8_t *out = self.builder.reserve(RECORD_BYTES + type_bytes + payload_bytes)
        cdef uint32_t size = rec_put(out, self.sequence + 1, head.conversation, head.conversation_sequence + 1, head.head,
                                     time_us, user, device, counter, type, type_bytes, payload, payload_bytes)
        if key != NULL:
            size = rec_put_key(out, size, key)
            self.keys.put(load_u64(key), load_u64(key + 8), self.sequence + 1, time_us)
        self.builder.commit(size)
        self.sequence += 1
        head.head = self.sequence
        head.conversation_sequence += 1
        return 0

    cdef int _defer(self, const uint8_t *at, Proposal *p) except -1 nogil:
        cdef Entry *entry = <Entry *>self.waiting.put(p.user, p.device)
        entry.flags = E_LOADED
        self.deferrals += 1
        _add(&self.deferred, at, p.length)
        return V_DONE

    cdef int _answer(self, const Proposal *p, uint64_t conversation, uint64_t sequence, uint64_t conversation_sequence,
                     uint64_t time_us, uint32_t status, uint32_t extra) except -1 nogil:
        cdef uint8_t out[ANSWER_BYTES]
        store_u64(out, p.origin)
        store_u64(out + 8, p.counter)
        store_u64(out + 16, conversation)
        store_u64(out + 24, sequence)
        store_u64(out + 32, conversation_sequence)
        store_u64(out + 40, time_us)
        store_u16(out + 48, <uint16_t>status)
        store_u16(out + 50, 0)
        store_u32(out + 52, extra)
        _add(&self.answers, out, ANSWER_BYTES)
        self.answered += 1
        return V_DONE

    cdef bint _room(self, size_t records_bytes, uint32_t records) noexcept nogil:
        """Whether the open block takes so much more; an empty one takes anything."""
        if self.builder.count == 0:
            return True
        return (self.builder.count + records <= self.block_events_max
                and self.builder.block_bytes() + records_bytes + 8 * <size_t>records <= self.block_bytes_max)

    def limit_events(self, uint32_t block_events_max):
        """Sets how many events a block takes; between walks."""
        self.block_events_max = block_events_max

    # The proposal at `position`, for Python.

    def proposal(self, const uint8_t[::1] batch):
        """(flags, origin, user, device, counter, target, expected, type, payload, key) of the one it stopped at; the key
        is b"" if it has none."""
        cdef Proposal p
        if batch.shape[0] - self.position < PROPOSAL_BYTES:
            raise ValueError(f"no proposal at byte {self.position} of {batch.shape[0]}")
        _parse(&batch[self.position], &p)
        if p.length > batch.shape[0] - self.position:
            raise ValueError(f"a proposal of {p.length} bytes at {self.position} of {batch.shape[0]}")
        _parse_key(&batch[self.position], &p)
        return (p.flags, p.origin, p.user, p.device, p.counter, p.target, p.expected, bytes(p.type[:p.type_bytes]),
                bytes(p.type[p.type_bytes:p.type_bytes + p.payload_bytes]), b"" if p.key == NULL else p.key[:KEY_BYTES])

    def emit(self, uint64_t conversation, uint64_t time_us, uint64_t user, uint64_t device, uint64_t counter,
             bytes type_name, bytes payload, bytes key not None=b""):
        """Appends one event to a conversation whose head is in the table: (sequence, conversation sequence)."""
        cdef Head *head = <Head *>flat_get(self.heads, conversation, 0)
        cdef Window *window
        if head == NULL or not head.flags & E_LOADED:
            raise KeyError(f"the head of conversation {conversation} is not loaded")
        if len(type_name) > TYPE_BYTES_MAX or len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a type of {len(type_name)} or a payload of {len(payload)} bytes is over the limit")
        if len(key) not in (0, KEY_BYTES):
            raise ValueError(f"a key of {len(key)} bytes; it must have {KEY_BYTES}, or none")
        self._append(head, time_us, user, device, counter, type_name, <uint32_t>len(type_name), payload,
                     <uint32_t>len(payload), <const uint8_t *>key if key else NULL)
        if counter != 0:
            window = <Window *>self.windows.put(user, device)
            self.windows.add(window, counter, self.sequence)
        return self.sequence, head.conversation_sequence

    def allocate(self):
        """The next conversation id."""
        self.number += 1
        return self.shard << SHARD_BITS | self.number

    def answer(self, uint64_t origin, uint64_t counter, uint64_t conversation, uint64_t sequence,
               uint64_t conversation_sequence, uint64_t time_us, uint32_t status, uint32_t extra):
        """One answer for a proposal that Python decided."""
        cdef Proposal p
        p.origin, p.counter = origin, counter
        self._answer(&p, conversation, sequence, conversation_sequence, time_us, status, extra)

    def defer(self, const uint8_t[::1] batch):
        """Puts the proposal at `position` aside, and all later ones of its device behind it."""
        cdef Proposal p
        _parse(&batch[self.position], &p)
        self._defer(&batch[self.position], &p)

    def skip(self, const uint8_t[::1] batch):
        """Goes on behind the proposal at `position`; the new position."""
        self.position += load_u32(&batch[self.position])
        return self.position

    # What a walk leaves behind.

    def take_answers(self):
        """The answers so far, in order."""
        return _take(&self.answers)

    def take_deferred(self):
        """(deferred proposals, then keys missing: windows, heads with user, members, dialogs), each once. The devices
        stay waiting until release_waiting()."""
        return (_take(&self.deferred), _take(&self.missing_windows), _take(&self.missing_heads),
                _take(&self.missing_members), _take(&self.missing_dialogs))

    def deferred_bytes(self):
        """Bytes put aside since the last take."""
        return self.deferred.size

    def release_waiting(self):
        """Before the deferred proposals are walked again, ahead of everything newer."""
        self.waiting.clear()
