# Hot commands: publish, delivered, read, typing and ping, decoded from a MessagePack map or a JSON object.
# Any thread, pure: pointers of a Command lead into the message and are good as long as it is. Whatever is unusual but
# may be valid is C_COLD, for Python to judge.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ext.values cimport Value

cdef enum:  # kinds
    C_COLD = 0
    C_PUBLISH = 1
    C_REFUSED = 2  # a publish that gets its receipt here: Command.status and extra
    C_DELIVERED = 3
    C_READ = 4
    C_TYPING = 5
    C_PING = 6
    C_HELLO = 7  # for Python too, but known by name

cdef enum:  # statuses (engine/errors.py) of receipts that native code makes itself
    STATUS_BAD_TYPE = 16
    STATUS_PAYLOAD_TOO_LARGE = 17
    STATUS_BAD_ID = 22
    STATUS_TOO_MANY_UNANSWERED = 23
    STATUS_RATE_LIMITED = 24
    STATUS_OVERLOADED = 25
    STATUS_BAD_COUNTER = 27

cdef enum:  # fields
    N_OP = 0
    N_ID = 1
    N_COUNTER = 2
    N_CONVERSATION = 3
    N_USER = 4
    N_PAYLOAD = 5
    N_TEXT = 6
    N_TYPE = 7
    N_EXPECTED = 8
    N_TARGET = 9
    N_CONVERSATION_SEQUENCE = 10
    FIELDS = 11
    NO_FIELD = 12

cdef enum:  # flags of a proposal
    P_TO_PERSON = 1
    P_EXPECTED = 2

cdef enum:
    PROPOSAL_HEAD_BYTES = 64
    PAYLOAD_BYTES_MAX = 65536
    TYPE_BYTES_MAX = 64
    ID_BYTES_MAX = 64

cdef struct Command:
    uint8_t kind, encoding
    uint16_t status
    uint32_t flags, extra
    uint64_t counter, target, expected  # target: a conversation, or with P_TO_PERSON a user
    uint64_t value  # delivered, read: conversation sequence
    const uint8_t *type
    uint32_t type_size, payload_size
    Value fields[11]  # N_ID: absent, or short enough to be echoed, whatever the kind

cdef struct Proposal:  # as it travels to the sequencer, before type and payload
    uint32_t size, flags
    uint64_t origin, user, device, counter, target, expected
    uint16_t type_size, reserved
    uint32_t payload_size

# Decodes one message.
cdef void command_read(uint8_t encoding, const uint8_t *data, size_t size, Command *out) noexcept nogil

# Writes the proposal of a C_PUBLISH: PROPOSAL_HEAD_BYTES + type_size + payload_size bytes; False if its base64 was
# invalid after all (then it is cold).
cdef bint proposal_put(const Command *command, uint64_t origin, uint64_t user, uint64_t device,
                       uint8_t *to) noexcept nogil

# 1 if a client may publish it, 0 if not, -1 if it is one of those with a target, which Python packs.
cdef int type_allowed(const uint8_t *type, size_t size) noexcept nogil
