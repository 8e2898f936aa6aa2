"""What the parent of a fleet and its processes say to each other: messages, and the pipes that carry them.

Used by fleet.py and fleet_child.py. A message is a msgspec struct, MessagePack, behind four bytes of length. The parent
says Plan, Open, Follow, Start, Storm, Drain, Finish; a child answers each with what has become of it, and sends a Tick
each second while it runs.

Invariant: a channel that ends in the middle of a message has failed; what came before it is whole.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any, Final

import msgspec
from msgspec import Struct

MESSAGE_BYTES_MAX: Final = 1 << 30
READ_BYTES: Final = 1 << 20


class Message(Struct, tag=True):
    """Any of them."""


class TargetPlan(Struct, array_like=True):
    """A conversation, or the other person of a dialog, and who of this process writes there."""

    kind: str  # user, conversation
    number: int
    recipients: int
    writers: list[int]  # connections of this process


class StreamPlan(Struct):
    """The share that one process has in a stream."""

    payload_bytes_max: int
    in_flight: int
    per_send: int
    rate_per_s: float  # of this process; 0: closed loop
    arrivals: str
    sizes: tuple[tuple[int, float], ...]
    pauses: tuple[tuple[float, float], ...]  # quantile, seconds; as they come out for this rate
    profile: tuple[tuple[float, float], ...]
    targets: list[TargetPlan]


class Plan(Message):
    """Who this process is, and all that it will do."""

    number_from: int  # of its connections, over the fleet
    source: str  # first of its addresses
    host: str
    port: int
    path: str
    tls: bool
    key_pem: bytes
    key_name: str
    audience: str
    users: list[int]
    slow: list[int]  # connections that read slowly
    slow_bytes_per_s: int
    streams: list[StreamPlan]
    pending_max: int


class Open(Message):
    """Connect all."""

    per_second: float  # 0: as fast as the server takes them
    deadline_s: float


class Follow(Message):
    """Connections that shall follow channels: (connection, channel)."""

    pairs: list[tuple[int, int]]


class Start(Message):
    """Moments of CLOCK_MONOTONIC, nanoseconds."""

    at_ns: int
    window_ns: int
    window_end_ns: int
    count_to_ns: int  # what was intended until then is in the histograms
    ping_interval_s: float


class Storm(Message):
    """These drop at a moment and come back; none given: the server breaks some, and they come back."""

    at_ns: int
    connections: list[int]
    away_s: float


class Publish(Message):
    """One publish outside of the schedule."""

    stream: int
    writer: int  # whose: its number in the stream of this process


class Drain(Message):
    """Publish nothing new, and read everything."""


class Finish(Message):
    """Say what you have, and end."""


class Done(Message):
    """A phase is over."""

    phase: str
    seconds: float = 0.0
    count: int = 0


class Tick(Message):
    """Counts so far, and the deliveries since the last one."""

    at_ns: int
    counts: dict[str, int]
    deliver: list[tuple[int, int]]
    max_ns: int
    last_words: str
    draining: bool  # nothing new has been published since Drain was heard


class Result(Message):
    """All that was counted."""

    counts: dict[str, int]
    window: dict[str, int]
    histograms: dict[str, bytes]  # pairs of index and count
    cpu_cores: float
    last_words: str


class Failed(Message):
    """It can't go on."""

    reason: str


ToChild = Plan | Open | Follow | Start | Storm | Publish | Drain | Finish
FromChild = Done | Tick | Result | Failed


class ChannelError(Exception):
    """The other end is gone, or sends what is no message."""


class Channel:
    """Two pipes' ends."""

    def __init__(self, reading: int, writing: int, receives: Any) -> None:
        """`receives`: ToChild or FromChild."""
        self._reading, self._writing = reading, writing
        self._decoder: msgspec.msgpack.Decoder[ToChild | FromChild] = msgspec.msgpack.Decoder(receives)
        self._waiting = bytearray()

    def fileno(self) -> int:
        """For select."""
        return self._reading

    def send(self, message: Message) -> None:
        """All of it; waits while the pipe is full."""
        data = msgspec.msgpack.encode(message)
        view = memoryview(struct.pack("<I", len(data)) + data)
        try:
            while view:
                view = view[os.write(self._writing, view) :]
        except OSError as error:
            raise ChannelError(f"can't be written to: {error.strerror}") from None

    def receive(self, timeout_s: float) -> ToChild | FromChild | None:
        """The next message; None if there is none in time."""
        until = time.monotonic() + timeout_s
        while True:
            if (found := self._whole()) is not None:
                return found
            if not select.select([self._reading], [], [], max(until - time.monotonic(), 0))[0]:
                return None
            more = os.read(self._reading, READ_BYTES)
            if not more:
                raise ChannelError("has ended")
            self._waiting += more

    def _whole(self) -> ToChild | FromChild | None:
        if len(self._waiting) < 4:
            return None
        (size,) = struct.unpack_from("<I", self._waiting)
        if size > MESSAGE_BYTES_MAX:
            raise ChannelError(f"a message of {size} bytes; at most {MESSAGE_BYTES_MAX}")
        if len(self._waiting) < 4 + size:
            return None
        data = bytes(self._waiting[4 : 4 + size])
        del self._waiting[: 4 + size]
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise ChannelError(f"no message: {error}") from None
