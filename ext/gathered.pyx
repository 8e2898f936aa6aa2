# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What one round of the poller gathers: proposals, signals, cold messages, plain requests, readers that can go on.

Filled by ext/inbound and ext/sockets while the round runs without the GIL; taken by ext/poller, which makes the batch
for Python of it.

Invariants: order within a buffer is that in which things came; what a failed round had gathered is taken by the next.
Cost: a copy of each message; a Python object for each cold one, none for proposals and signals.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    ROOM_BYTES_MIN = 4096


cdef void bytes_clear(Bytes *buffer) noexcept nogil:
    """Empty again; a buffer that had to grow far gives its memory back."""
    buffer.size = 0
    if buffer.room > KEPT_BYTES_MAX:
        free(buffer.at)
        buffer.at = NULL
        buffer.room = 0


cdef class Gathered:
    def __dealloc__(self):
        free(self.proposals.at)
        free(self.signals.at)
        free(self.commands.at)
        free(self.requests.at)
        free(self.writable.at)

    # gathering

    cdef uint8_t *room_for(self, Bytes *buffer, size_t size) except NULL nogil:
        cdef size_t room
        cdef void *moved
        if buffer.size + size > buffer.room:
            room = max(ROOM_BYTES_MIN, buffer.room * 2, buffer.size + size)
            moved = realloc(buffer.at, room)
            if moved == NULL:
                with gil:
                    raise MemoryError(f"no memory for {room} bytes of a batch")
            buffer.at = <uint8_t *>moved
            buffer.room = room
        return buffer.at + buffer.size

    cdef int add_signal(self, uint32_t kind, uint32_t session, uint64_t conversation, uint64_t value) except -1 nogil:
        cdef Signal signal
        cdef uint8_t *to = self.room_for(&self.signals, sizeof(Signal))
        signal.kind, signal.session, signal.conversation, signal.value = kind, session, conversation, value
        memcpy(to, &signal, sizeof(Signal))
        self.signals.size += sizeof(Signal)
        return 0

    cdef int add_message(self, Bytes *buffer, uint32_t session, const uint8_t *data, size_t size,
                         bint text) except -1 nogil:
        cdef Message head
        cdef uint8_t *to = self.room_for(buffer, sizeof(Message) + size)
        head.session = session
        head.size = <uint32_t>size
        head.text = text
        memcpy(to, &head, sizeof(Message))
        if size:
            memcpy(to + sizeof(Message), data, size)
        buffer.size += sizeof(Message) + size
        return 0

    cdef uint32_t add_cold(self, uint32_t session, const uint8_t *data, size_t size, bint text) except? 0 nogil:
        self.add_message(&self.commands, session, data, size, text)
        self.given += 1
        self.waiting_bytes += size + MESSAGE_BYTES
        return self.given

    cdef bint is_waiting(self, uint32_t number) noexcept nogil:
        return <int32_t>(number - self.handled) > 0

    cdef int add_writable(self, uint32_t session) except -1 nogil:
        cdef uint8_t *to = self.room_for(&self.writable, sizeof(uint32_t))
        memcpy(to, &session, sizeof(uint32_t))
        self.writable.size += sizeof(uint32_t)
        return 0

    # taking

    cdef bytes take_bytes(self, Bytes *buffer):
        if buffer.size == 0:
            return b""
        taken = <bytes>buffer.at[:buffer.size]
        bytes_clear(buffer)
        return taken

    cdef list take_messages(self, Bytes *buffer):
        """[(session, bytes or str)] in the order in which they came."""
        cdef size_t at = 0
        cdef Message head
        cdef bytes body
        taken = []
        while at < buffer.size:
            memcpy(&head, buffer.at + at, sizeof(Message))
            at += sizeof(Message)
            body = <bytes>buffer.at[at:at + head.size]
            taken.append((head.session, body.decode() if head.text else body))
            at += head.size
        bytes_clear(buffer)
        return taken

    cdef list take_writable(self):
        cdef size_t i
        cdef const uint32_t *sessions = <const uint32_t *>self.writable.at
        taken = [sessions[i] for i in range(self.writable.size // sizeof(uint32_t))]
        bytes_clear(&self.writable)
        return taken
