# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Events of checked blocks for readers in Python: one object an event, whose fields are read when they are asked for.

Behind engine/log/events.py. A reader that looks at two fields of each event pays for two; `decoded` gives all ten at
once. Fields, their meaning and what readers ignore: engine/LOG_FORMAT.md, Record.

Invariants: only blocks that have passed their check come here, so nothing is looked at twice; an event never changes,
and keeps the bytes that it shows alive. Cost: some 30 ns an event, 20 a field, 250 to decode all of one.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ext.block cimport EPOCH_AT, HEADER_BYTES, blk_count, blk_first, blk_record
from ext.c_prefetch cimport load_u32
from ext.record cimport (
    F_CONVERSATION, F_CONVERSATION_SEQUENCE, F_COUNTER, F_DEVICE, F_PREVIOUS, F_SENDER, F_SEQUENCE, F_TIME, rec_decoded,
    rec_payload, rec_payload_len, rec_type, rec_type_len, rec_u64)


cdef inline str _type_of(const uint8_t *record):
    return rec_type(record)[:rec_type_len(record)].decode("utf-8", "replace")


@cython.freelist(64)
cdef class Event:
    """One stored event, as it lies in the log."""

    @property
    def sequence(self):
        """Its number in the log."""
        return rec_u64(self.at, F_SEQUENCE)

    @property
    def conversation(self):
        """That it belongs to."""
        return rec_u64(self.at, F_CONVERSATION)

    @property
    def conversation_sequence(self):
        """Its number in its conversation."""
        return rec_u64(self.at, F_CONVERSATION_SEQUENCE)

    @property
    def previous(self):
        """The sequence of the event before it in its conversation; 0: it is the first."""
        return rec_u64(self.at, F_PREVIOUS)

    @property
    def time(self):
        """Microseconds since 1970, UTC."""
        return rec_u64(self.at, F_TIME)

    @property
    def sender(self):
        """The user."""
        return rec_u64(self.at, F_SENDER)

    @property
    def device(self):
        """The sender's."""
        return rec_u64(self.at, F_DEVICE)

    @property
    def counter(self):
        """The device's own, of its publishes."""
        return rec_u64(self.at, F_COUNTER)

    @property
    def type(self):
        """A dotted name."""
        return _type_of(self.at)

    @property
    def payload(self):
        """A copy."""
        return rec_payload(self.at)[:rec_payload_len(self.at)]

    @property
    def record(self):
        """A copy of the stored bytes: what a MessagePack client is sent."""
        return self.at[:self.size]

    def __len__(self):
        return self.size

    def __repr__(self):
        return f"<Event {self.sequence}: {self.type} in {self.conversation}, {self.size} bytes>"

    def decoded(self):
        """All fields."""
        return rec_decoded(self.at, _type_of(self.at))


cdef class BlockEvents:
    """An iterator over the events of a block, behind a sequence."""

    def __cinit__(self, bytes block not None, uint64_t after=0):
        if len(block) < HEADER_BYTES:
            raise ValueError(f"{len(block)} bytes are no block")
        self.block = block
        self.data = <const uint8_t *>PyBytes_AS_STRING(block)
        self.first, self.count = blk_first(self.data), blk_count(self.data)
        if after >= self.first + self.count - 1:
            self.index = self.count
        elif after >= self.first:
            self.index = <uint32_t>(after + 1 - self.first)

    @property
    def position(self):
        """The sequence of the last event that was given, or passed over."""
        return self.first + self.index - 1

    @property
    def epoch(self):
        """Of all its events."""
        return load_u32(self.data + EPOCH_AT)

    def __len__(self):
        return self.count - self.index

    def __iter__(self):
        return self

    def __next__(self):
        cdef Event event
        if self.index >= self.count:
            raise StopIteration
        event = Event.__new__(Event)
        event.block = self.block
        event.at = blk_record(self.data, self.index, &event.size)
        self.index += 1
        return event

    def decoded(self):
        """All that are left, each with all its fields."""
        cdef list found = []
        cdef const uint8_t *record
        cdef const uint8_t *named = NULL  # the record that `name` is of: most types are that of the event before
        cdef uint32_t size
        cdef str name = ""
        while self.index < self.count:
            record = blk_record(self.data, self.index, &size)
            if named == NULL or rec_type_len(named) != rec_type_len(record) or memcmp(
                    rec_type(named), rec_type(record), rec_type_len(record)) != 0:
                name, named = _type_of(record), record
            found.append(rec_decoded(record, name))
            self.index += 1
        return found

    def records(self):
        """Copies of the stored bytes of all that are left."""
        cdef list found = []
        cdef const uint8_t *record
        cdef uint32_t size
        while self.index < self.count:
            record = blk_record(self.data, self.index, &size)
            found.append(record[:size])
            self.index += 1
        return found
