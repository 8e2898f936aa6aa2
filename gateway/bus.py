"""What gateway workers tell each other: typing and presence, marks that moved, devices that have said hello; and what
the backends' door asks them: which of some users are connected (api/presence.py).

Called by signals.py, cursors.py and hello.py beside what they do for this worker's own sessions. In one process there
is nobody to tell (`Alone`). With workers, signals and marks go through the sequencer's process to all the others, and
never touch the log; they may be lost. Hellos are notes, which come to all workers, late if the sequencer is being
started. Of two sessions of a device, on whichever workers, the later one stays by the machine's one monotonic clock:
whoever hears of a later hello elsewhere ends its own, whoever hears of an earlier one says its own again.

Cost: a message of some hundred bytes for each signal or mark told, and one a hello, whose time its session keeps.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec import Struct

from gateway import close_codes

if TYPE_CHECKING:
    from gateway.session import Door


class Bus(Protocol):
    """To the other workers."""

    def conversation(self, conversation: int, msgpack: bytes, json: bytes) -> None:
        """A push for all members that are connected."""

    def mark(self, conversation: int, user: int, delivered: int, read: int, told: Told) -> None:
        """A mark as it stands now, and the push that says so."""

    def hello(self, session: int, user: int, device: int) -> None:
        """A session of this device has begun here: earlier ones elsewhere end."""


class Told(Struct, frozen=True, array_like=True):
    """A push in both encodings; `members`: for all members of the conversation, else for the user's own devices."""

    members: bool
    msgpack: bytes
    json: bytes


class ForConversation(Struct, frozen=True, array_like=True, tag=1):
    """Typing, presence."""

    conversation: int
    msgpack: bytes
    json: bytes


class Mark(Struct, frozen=True, array_like=True, tag=2):
    """A delivered and read mark that has moved."""

    conversation: int
    user: int
    delivered: int
    read: int
    told: Told


class Whereabouts(Struct, frozen=True, array_like=True, tag=3):
    """Which of these users have a session? Each worker answers with Connected, those that it has."""

    question: int
    users: list[int]


class Connected(Struct, frozen=True, array_like=True, tag=4):
    """The answer of one worker. Other workers pass over it."""

    question: int
    worker: int  # any number that no other has
    users: list[int]


class Hello(Struct, frozen=True, array_like=True):
    """The note of a device."""

    user: int
    device: int
    at_ns: int  # CLOCK_MONOTONIC, which all processes of a machine share


class Alone:
    """There are no others."""

    def conversation(self, conversation: int, msgpack: bytes, json: bytes) -> None:
        """Nobody to tell."""

    def mark(self, conversation: int, user: int, delivered: int, read: int, told: Told) -> None:
        """Nobody to tell."""

    def hello(self, session: int, user: int, device: int) -> None:
        """Nobody to tell."""


class Ways(Protocol):
    """What carries it: engine/follower.py."""

    def signal(self, body: bytes) -> None:
        """To the others; may be lost."""

    def note(self, body: bytes) -> None:
        """To all, in one order."""


_SIGNALS: Final = msgspec.msgpack.Decoder(ForConversation | Mark | Whereabouts | Connected)
_encode: Final = msgspec.msgpack.Encoder().encode


class Shared:
    """One of several workers."""

    def __init__(self, door: Door, ways: Ways) -> None:
        self._door, self._ways = door, ways

    def conversation(self, conversation: int, msgpack: bytes, json: bytes) -> None:
        """To the sessions of the other workers."""
        self._ways.signal(_encode(ForConversation(conversation, msgpack, json)))

    def mark(self, conversation: int, user: int, delivered: int, read: int, told: Told) -> None:
        """To the other workers, which remember it and tell their sessions."""
        self._ways.signal(_encode(Mark(conversation, user, delivered, read, told)))

    def hello(self, session: int, user: int, device: int) -> None:
        """To all workers."""
        at_ns = time.monotonic_ns()
        self._door.poller.set_hello(session, at_ns)
        self._ways.note(_encode(Hello(user, device, at_ns)))

    def on_signal(self, body: bytes) -> None:
        """What another worker says."""
        door, said = self._door, _SIGNALS.decode(body)
        if isinstance(said, ForConversation):
            door.fanout.signal(said.conversation, said.msgpack, said.json)
            return
        if isinstance(said, Whereabouts):
            here = [user for user in said.users if door.sessions.count_of_user(user)]
            self._ways.signal(_encode(Connected(said.question, os.getpid(), here)))
            return
        if isinstance(said, Connected):
            return
        door.cursors.hear(said.conversation, said.user, said.delivered, said.read)
        if said.told.members:
            door.fanout.signal(said.conversation, said.told.msgpack, said.told.json)
        else:
            door.fanout.signal_to(door.sessions.of_user(said.user), said.told.msgpack, said.told.json)

    def on_note(self, body: bytes, ours: bool) -> None:
        """A hello somewhere. Ours has ended earlier sessions here by itself, when it was said."""
        if ours:
            return
        said = msgspec.msgpack.decode(body, type=Hello)
        session = self._door.sessions.find_device(said.user, said.device)
        if not session:
            return
        at_ns = self._door.sessions.hello_ns(session)
        if at_ns < said.at_ns:
            self._door.end(session, close_codes.REPLACED)
        else:  # it came late, and its worker may have missed ours
            self._ways.note(_encode(Hello(said.user, said.device, at_ns)))
