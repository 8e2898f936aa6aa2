"""Bytes between a backend's client and the door for backends: packed frames, and CloudEvents as stored events.

Under backend.py and backend_consumer.py; the other end is gateway/api/wire.py and cloudevents.py, the page is
gateway/api/API.md. A test holds the numbers of both ends together.

Invariants: whatever can't be read is a ConnectionError, never a guess; payloads of the engine's types, which travel as
JSON, are packed again by the engine's own schema. Cost: packed events are unpacked natively.
"""

from __future__ import annotations

import base64
import struct
import sys
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from engine import Packed, StoredEvent, schema
from ext.picks import unpack
from gateway.backend_link import Problem

T = TypeVar("T")

HEAD: Final = struct.Struct("<B3xIQ")
CREDIT, ACK, ACK_UP_TO, RETRY, EXTEND, PARK, LEAVE = 1, 2, 3, 4, 5, 6, 7
JOINED, EVENTS, DONE, PROBLEM = 16, 17, 18, 19
PACKED_HEAD: Final = struct.Struct("<IH")  # of each event: size, deliveries
BACK_OFF: Final = 2**64 - 1
SEQUENCES_MAX: Final = 100_000  # of one message
ID_MAX: Final = 2**53 - 1

_BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CloudEvent(Struct):
    """What of an event as it comes over HTTP is kept."""

    type: str
    subject: str
    time: str
    sequence: str
    conversationsequence: str
    previous: str
    sender: str
    device: str
    id: str = ""
    deliveries: int = 1
    away: str = ""
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET


def stored_event(event: CloudEvent) -> StoredEvent:
    """As it lies in the log, but for the counter of its device, which CloudEvents don't have."""
    return StoredEvent(
        int(event.sequence),
        int(event.subject),
        int(event.conversationsequence),
        int(event.previous),
        time_us(event.time),
        int(event.sender),
        int(event.device),
        0,
        event.type,
        _payload(event),
        event.deliveries,
        tuple(int(user) for user in event.away.split(",") if user),
    )


def _payload(event: CloudEvent) -> bytes:
    if event.data_base64 is not UNSET:
        return base64.b64decode(event.data_base64)
    if event.data is UNSET:
        return b""
    kind: Any = schema.SCHEMA.get(event.type)
    if kind is None:
        return bytes(event.data)
    return schema.pack(msgspec.json.decode(event.data, type=kind))


def time_us(text: str) -> int:
    """µs since 1970 of a time as RFC 3339 has it."""
    passed = datetime.fromisoformat(text) - _BEGIN
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


class Frame(NamedTuple):
    """So many events that came together: packed, or as they are."""

    size: int
    data: bytes
    events: list[StoredEvent]


class Heard(NamedTuple):
    """A message of the server. `joined`: consumer and generation."""

    kind: int
    tag: int = 0
    frame: Frame | None = None
    problem: Problem | None = None
    joined: tuple[str, int] = ("", 0)


class Joined(Struct):
    """What of `joined` is looked at."""

    consumer: str
    generation: int


class Form(Protocol):
    """One of the two forms of the stream."""

    protocol: str

    def credit(self, events: int) -> bytes | str:
        """So many more may come."""

    def answer(
        self, kind: int, tag: int, sequences: Sequence[int], value: float | None = None, reason: str = ""
    ) -> bytes | str:
        """A consumer's word on events. `value`: seconds of a retry or an extension."""

    def leave(self) -> bytes | str:
        """The consumer leaves."""

    def read(self, message: bytes | str) -> Heard:
        """What the server sent. Raises ConnectionError."""


class PackedForm:
    """Binary frames."""

    protocol = "gonets.events.v1.packed"

    def credit(self, events: int) -> bytes:
        """So many more may come."""
        return HEAD.pack(CREDIT, 0, events)

    def answer(
        self, kind: int, tag: int, sequences: Sequence[int], value: float | None = None, reason: str = ""
    ) -> bytes:
        """A consumer's word on events."""
        if kind == ACK_UP_TO:
            return HEAD.pack(kind, tag, sequences[0])
        number = 0
        if kind == PARK:
            number = len(sequences)
        elif kind in (RETRY, EXTEND):
            number = BACK_OFF if value is None else round(value * 1_000)
        packed = array("Q", sequences)
        if sys.byteorder == "big":
            packed.byteswap()
        return HEAD.pack(kind, tag, number) + packed.tobytes() + reason.encode()

    def leave(self) -> bytes:
        """The consumer leaves."""
        return HEAD.pack(LEAVE, 0, 0)

    def read(self, message: bytes | str) -> Heard:
        """What the server sent."""
        if isinstance(message, str) or len(message) < HEAD.size:
            raise ConnectionError(f"a {self.protocol} stream sent a message that is none: {message[:40]!r}")
        kind, tag, _ = HEAD.unpack_from(message)
        rest = message[HEAD.size :]
        if kind == EVENTS:
            return Heard(kind, 0, Frame(tag, rest, []))
        if kind == JOINED:
            joined = _decoded(rest, Joined)
            return Heard(kind, joined=(joined.consumer, joined.generation))
        return Heard(kind, tag, problem=_decoded(rest, Problem) if kind == PROBLEM else None)


class TextForm:
    """JSON messages: events as CloudEvents, with who is away."""

    protocol = "gonets.events.v1.json"
    _NAMES: Final = {ACK: "ack", ACK_UP_TO: "ack_up_to", RETRY: "retry", EXTEND: "extend", PARK: "park"}
    _KINDS: Final = {"joined": JOINED, "events": EVENTS, "done": DONE, "problem": PROBLEM}

    def credit(self, events: int) -> str:
        """So many more may come."""
        return _text({"op": "credit", "events": events})

    def answer(
        self, kind: int, tag: int, sequences: Sequence[int], value: float | None = None, reason: str = ""
    ) -> str:
        """A consumer's word on events."""
        said: dict[str, Any] = {"op": self._NAMES[kind], "tag": tag}
        if kind == ACK_UP_TO:
            said["sequence"] = sequences[0]
        else:
            said["sequences"] = list(sequences)
        if kind == RETRY:
            said["delay_s"] = value
        elif kind == EXTEND:
            said["extend_s"] = value
        elif kind == PARK:
            said["reason"] = reason
        return _text(said)

    def leave(self) -> str:
        """The consumer leaves."""
        return _text({"op": "leave"})

    def read(self, message: bytes | str) -> Heard:
        """What the server sent."""
        found = _decoded(message, _Message)
        events = [stored_event(event) for event in found.events]
        frame = Frame(len(events), b"", events) if found.op == "events" else None
        return Heard(self._KINDS.get(found.op, 0), found.tag, frame, found.problem, (found.consumer, found.generation))


class _Message(Struct):
    """A message of the JSON form."""

    op: str
    tag: int = 0
    consumer: str = ""
    generation: int = 0
    events: list[CloudEvent] = []
    problem: Problem | None = None


def events_of(frame: Frame) -> list[StoredEvent]:
    """The events of a frame. Raises ConnectionError."""
    if not frame.data:
        return frame.events
    try:
        return unpack(frame.data, StoredEvent)
    except ValueError as error:
        raise ConnectionError(f"a frame of events can't be read: {error}") from None


def split(frame: Frame, count: int, bytes_max: int | None = None) -> tuple[Frame, Frame]:
    """The first so many events of a frame, within so many bytes (one at least), and the rest."""
    if not frame.data:
        return Frame(count, b"", frame.events[:count]), Frame(frame.size - count, b"", frame.events[count:])
    at = number = 0
    while number < min(count, frame.size) and at < len(frame.data):
        end = at + PACKED_HEAD.size + PACKED_HEAD.unpack_from(frame.data, at)[0]
        if bytes_max is not None and number and end > bytes_max:
            break
        at, number = end, number + 1
    return Frame(number, frame.data[:at], []), Frame(frame.size - number, frame.data[at:], [])


def packed_of(frame: Frame) -> Packed:
    """A frame as the contract has it."""
    if not frame.size:
        return Packed(0, 0, 0, b"")
    last = events_of(split(frame, frame.size - 1)[1] if frame.size > 1 else frame)[-1]
    return Packed(frame.size, last.sequence, last.deliveries, frame.data)


def _decoded(data: bytes | str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConnectionError(f"the stream sent a message that can't be read: {error}") from None


def _text(said: dict[str, Any]) -> str:
    return msgspec.json.encode(said).decode()
