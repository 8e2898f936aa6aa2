# Admission: proposals → numbered records in the open block, or refusals; a function of tables and proposals alone.
# One thread. `run` walks a batch without the GIL and stops where Python must decide (a control event) or the block is
# full. What can't be judged yet (its keys are not in the tables) is deferred with the names of the missing keys.
# Layouts of proposals and answers, little-endian, packed:
#   proposal  0 u32 length, 4 u32 flags, 8 u64 origin, 16 user, 24 device, 32 counter, 40 target, 48 expected,
#             56 u16 type length, 58 u16 0, 60 u32 payload length, 64 with P_KEYED 16 bytes key, type, payload
#   answer    0 u64 origin, 8 counter, 16 conversation, 24 sequence, 32 conversation sequence, 40 time, 48 u16 status,
#             50 u16 0, 52 u32 extra
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ext.block cimport BlockBuilder
from ext.flat cimport Flat
from ext.keys cimport KeyTable
from ext.tables cimport DialogTable, Head, HeadTable, MemberTable, Window, WindowTable

cdef enum:
    PROPOSAL_BYTES = 64
    ANSWER_BYTES = 56
    P_PERSON = 1  # target is the other person of a dialog
    P_EXPECTED = 2
    P_SYSTEM = 4  # an event of the engine's own: device, counter and target are 0
    P_KEYED = 8  # of a service: no device, no counter, but a key, which of zeros is none
    TYPE_BYTES_MAX = 64
    PAYLOAD_BYTES_MAX = 65536
    RIGHT_PUBLISH = 1
    GROUP = 32  # proposals whose table lines are fetched together

cdef enum Verdict:
    V_DONE = 0  # the batch is through
    V_FULL = 1  # hand the block over, then go on from `position`
    V_CONTROL = 2  # Python decides the proposal at `position`, then calls skip()

cdef enum:  # engine/errors.py has the whole table
    S_APPENDED = 0
    S_REPEAT = 1
    S_TOO_OLD = 10
    S_COUNTER_JUMP = 11
    S_CONFLICT = 12
    S_UNKNOWN_CONVERSATION = 13
    S_FORBIDDEN = 14
    S_CLOSED = 15
    S_BAD_TYPE = 16
    S_PAYLOAD_TOO_LARGE = 17
    S_BAD_ID = 22
    S_OVERLOADED = 25
    S_BAD_COUNTER = 27

cdef enum:  # classes of type names
    C_PLAIN = 0
    C_CONTROL = 1
    C_BAD = 2

cdef struct Buffer:
    uint8_t *data
    size_t size, room

cdef struct Proposal:
    uint32_t length, flags
    uint64_t origin, user, device, counter, target, expected
    const uint8_t *type
    const uint8_t *key  # NULL: none
    uint32_t type_bytes, payload_bytes

@cython.final  # its methods are called directly, and inlined
cdef class Admission:
    # state
    cdef readonly HeadTable heads
    cdef readonly WindowTable windows
    cdef readonly MemberTable members
    cdef readonly DialogTable dialogs
    cdef readonly KeyTable keys
    cdef readonly BlockBuilder builder
    cdef readonly uint64_t sequence  # last one given
    cdef readonly uint64_t number  # last conversation number given
    cdef readonly size_t position  # in the batch
    # limits
    cdef uint64_t shard
    cdef uint32_t block_bytes_max, block_events_max, keys_max
    cdef uint8_t rights[64]  # kind * 8 + role → RIGHT_*
    # what a walk leaves behind
    cdef Buffer answers
    cdef Buffer deferred
    cdef Buffer missing_windows, missing_heads, missing_members, missing_dialogs  # big-endian keys
    cdef Window nobody  # in the place of a device's, for proposals that have none
    cdef Flat waiting  # devices that have a deferred proposal: their later ones wait behind it
    cdef readonly uint64_t repeats, answered, deferrals

    cdef int _run(self, const uint8_t *data, size_t size, uint64_t time_us) except -1 nogil
    cdef int _one(self, const uint8_t *at, uint64_t time_us) except -1 nogil
    cdef int _one_keyed(self, const uint8_t *at, Proposal *p, uint64_t time_us) except -1 nogil
    cdef int _judge(self, const uint8_t *at, Proposal *p, Window *window, uint64_t time_us) except -1 nogil
    cdef int _dialog(self, const uint8_t *at, Proposal *p, Window *window, uint64_t time_us) except -1 nogil
    cdef int _publish(self, const uint8_t *at, Proposal *p, Window *window, uint64_t conversation, uint64_t time_us,
                      bint has_room) except -1 nogil
    cdef int _append(self, Head *head, uint64_t time_us, uint64_t user, uint64_t device, uint64_t counter,
                     const uint8_t *type, uint32_t type_bytes, const uint8_t *payload, uint32_t payload_bytes,
                     const uint8_t *key) except -1 nogil
    cdef int _defer(self, const uint8_t *at, Proposal *p) except -1 nogil
    cdef int _answer(self, const Proposal *p, uint64_t conversation, uint64_t sequence, uint64_t conversation_sequence,
                     uint64_t time_us, uint32_t status, uint32_t extra) except -1 nogil
    cdef bint _room(self, size_t records_bytes, uint32_t records) noexcept nogil
