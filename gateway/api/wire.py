"""Messages of the push stream, in both of its forms: packed (binary, API.md) and JSON (text).

Between stream.py, which acts on them, and the socket. A packed frame is a head of 16 bytes and what the kind adds;
events in it are the records of the log as the engine packed them, so that nothing here is done once an event.

Invariants: both forms say the same; whatever can't be read is a problem that says what and where, never a crash.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta, Struct

from engine import Consumer
from gateway.api import shapes
from gateway.api.cloudevents import CloudEvent, cloud_event
from gateway.api.door import Door
from gateway.api.problems import Problem, bad

PACKED: Final = "gonets.events.v1.packed"
TEXT: Final = "gonets.events.v1.json"
HEAD: Final = struct.Struct("<B3xIQ")

CREDIT, ACK, ACK_UP_TO, RETRY, EXTEND, PARK, LEAVE = 1, 2, 3, 4, 5, 6, 7
JOINED, EVENTS, DONE, PROBLEM = 16, 17, 18, 19
BACK_OFF: Final = 2**64 - 1  # the value of a retry that leaves the delay to the settings
SEQUENCES_MAX: Final = 100_000
DELAY_MS_MAX: Final = 86_400_000
EXTEND_MS_MAX: Final = 43_200_000
JSON_EVENTS_MAX: Final = 500  # of one message: a slice of the loop's time

Tag = Annotated[int, Meta(ge=0, le=2**32 - 1, description="comes back in the answer; 0 = none is wanted")]
Several = Annotated[list[shapes.Id], Meta(min_length=1, max_length=SEQUENCES_MAX)]


class Message(Struct, tag_field="op", forbid_unknown_fields=True):
    """What a consumer sends."""


class Credit(Message, tag="credit", kw_only=True):
    """So many events more may be sent."""

    events: Annotated[int, Meta(ge=1, le=2**32 - 1)]


class Ack(Message, tag="ack", kw_only=True):
    """These events are handled."""

    tag: Tag = 0
    sequences: Several


class AckUpTo(Message, tag="ack_up_to", kw_only=True):
    """All that this consumer was given up to one, but for what it gave to retry or park."""

    tag: Tag = 0
    sequence: shapes.Number


class Retry(Message, tag="retry", kw_only=True):
    """Deliver these again."""

    tag: Tag = 0
    sequences: Several
    delay_s: Annotated[shapes.Delay | None, Meta(description="null: the back-off of the settings")] = None


class Extend(Message, tag="extend", kw_only=True):
    """These need longer."""

    tag: Tag = 0
    sequences: Several
    extend_s: Annotated[float, Meta(gt=0, le=43_200)]


class Park(Message, tag="park", kw_only=True):
    """Put these aside for people to look at."""

    tag: Tag = 0
    sequences: Several
    reason: Annotated[str, Meta(max_length=256)] = ""


class Leave(Message, tag="leave"):
    """The consumer leaves; the server closes with 1000."""


Asked = Credit | Ack | AckUpTo | Retry | Extend | Park | Leave


class Answer(Struct, tag_field="op"):
    """What the server sends."""


class Joined(Answer, tag="joined", kw_only=True):
    """The consumer has joined; nothing comes before its first credit."""

    consumer: str
    generation: int
    source: str
    shard: int
    epochs: list[tuple[int, int]]
    """(epoch, first sequence), ascending: what an event's id is made of."""


class Events(Answer, tag="events", kw_only=True):
    """Events that are in flight with this consumer now."""

    events: list[CloudEvent]


class Done(Answer, tag="done", kw_only=True):
    """What the message of this tag said is synced."""

    tag: int


class Failed(Answer, tag="problem", kw_only=True):
    """What went wrong: with the message of a tag, or (0) with the stream, which then closes."""

    tag: int
    problem: Problem


class Given(Struct):
    """Events that were taken, as a message."""

    count: int
    message: bytes | str


class Form(Protocol):
    """One of the two forms."""

    def read(self, message: bytes | str) -> Asked:
        """What a consumer sent. Raises Refusal."""
        ...

    def write(self, answer: Joined | Done | Failed) -> bytes | str:
        """What the server answers."""
        ...

    async def take(self, consumer: Consumer, events_max: int, wait_s: float) -> Given:
        """The next events."""
        ...


class Packed:
    """Binary frames."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max

    def read(self, message: bytes | str) -> Asked:
        """What a consumer sent."""
        if isinstance(message, str):
            raise bad(f"a text message on a {PACKED} stream: its messages are binary")
        if len(message) < HEAD.size:
            raise bad(f"a message of {len(message)} bytes: its head alone has {HEAD.size}")
        kind, tag, value = HEAD.unpack_from(message)
        rest = memoryview(message)[HEAD.size :]
        if kind == CREDIT:
            if not 1 <= value <= 2**32 - 1:
                raise bad(f"credit of {value}: 1 to {2**32 - 1}")
            return Credit(events=value)
        if kind == ACK_UP_TO:
            return AckUpTo(tag=tag, sequence=_checked(value, "up to", shapes.ID_MAX))
        if kind == LEAVE:
            return Leave()
        if kind == ACK:
            return Ack(tag=tag, sequences=_sequences(rest))  # type: ignore[arg-type]  # an array is as good as a list
        if kind == RETRY:
            delay_s = None if value == BACK_OFF else _checked(value, "delay in ms", DELAY_MS_MAX) / 1_000
            return Retry(tag=tag, sequences=list(_sequences(rest)), delay_s=delay_s)
        if kind == EXTEND:
            extend_s = max(1, _checked(value, "extension in ms", EXTEND_MS_MAX)) / 1_000
            return Extend(tag=tag, sequences=list(_sequences(rest)), extend_s=extend_s)
        if kind == PARK:
            split = _checked(value, "number of sequences", len(rest) // 8) * 8
            try:
                reason = str(rest[split:], "utf-8")
            except UnicodeDecodeError:
                raise bad("the reason of a park is no UTF-8") from None
            if len(reason) > 256:
                raise bad(f"a reason of {len(reason)} characters; at most 256")
            return Park(tag=tag, sequences=list(_sequences(rest[:split])), reason=reason)
        raise bad(f"a message of kind {kind}: unknown")

    def write(self, answer: Joined | Done | Failed) -> bytes:
        """What the server answers."""
        if isinstance(answer, Done):
            return HEAD.pack(DONE, answer.tag, 0)
        if isinstance(answer, Joined):
            return HEAD.pack(JOINED, answer.shard, answer.generation) + msgspec.json.encode(answer)
        return HEAD.pack(PROBLEM, answer.tag, answer.problem.status) + msgspec.json.encode(answer.problem)

    async def take(self, consumer: Consumer, events_max: int, wait_s: float) -> Given:
        """The next events."""
        packed = await consumer.take_packed(events_max=events_max, bytes_max=self._bytes_max, wait_s=wait_s)
        return Given(packed.count, HEAD.pack(EVENTS, packed.count, 0) + packed.data)


class Text:
    """JSON messages."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Asked)
        self._encoder = msgspec.json.Encoder()

    def read(self, message: bytes | str) -> Asked:
        """What a consumer sent."""
        if isinstance(message, bytes):
            raise bad(f"a binary message on a {TEXT} stream: its messages are text")
        try:
            found: Asked = self._decoder.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise bad(f"message: {error}") from None
        return found

    def write(self, answer: Answer) -> str:
        """What the server answers."""
        return self._encoder.encode(answer).decode()

    async def take(self, consumer: Consumer, events_max: int, wait_s: float) -> Given:
        """The next events."""
        found = await consumer.take(events_max=min(events_max, JSON_EVENTS_MAX), wait_s=wait_s)
        return Given(len(found), self.write(Events(events=[cloud_event(self._door, event) for event in found])))


def _checked(value: int, what: str, value_max: int) -> int:
    if value > value_max:
        raise bad(f"{what} {value}: at most {value_max}")
    return value


def _sequences(data: memoryview) -> Sequence[int]:
    count, beside = divmod(len(data), 8)
    if beside or not 1 <= count <= SEQUENCES_MAX:
        raise bad(f"{len(data)} bytes of sequences: 8 bytes each, 1 to {SEQUENCES_MAX:,} of them")
    found = array("Q")
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found
