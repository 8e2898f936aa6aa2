"""What the supervisor and its children say to each other: messages with descriptors over one pair of sockets each.

Between supervisor.py and child.py, and between two supervisors while one takes over from the other (takeover.py). The
pair is AF_UNIX, SOCK_SEQPACKET: a message arrives whole or not at all, descriptors arrive with the message that names
them, and the end of either process is the end of the stream. That end is how orphans learn that they are alone.

Invariants: a message of an unknown kind, or with other descriptors than it names, is a ControlError, never a guess;
descriptors that come are closed-on-exec and belong to whoever received them. Cost: one system call a message.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

VERSION: Final = 2  # of these messages and of engine/link.py: two programs that differ don't share links
MESSAGE_BYTES_MAX: Final = 128 << 10
DESCRIPTORS_MAX: Final = 8
SEND_TIMEOUT_S: Final = 5


class ControlError(Exception):
    """What came is no message of this program."""


class _Message(Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """One message. `descriptors` says how many come with it."""

    descriptors: int = 0


class Start(_Message, frozen=True):
    """To a child, first of all: who it is. The descriptor of a worker, or of the api, is its socket that listens."""

    role: str  # "sequencer", "worker", "api"
    number: int  # of the worker, from 1; 0 for the others
    config: bytes  # engine.Config as MessagePack


class Link(_Message, frozen=True):
    """To both ends: a socket that leads from a worker to the sequencer. The newest is the one that holds."""


class Reload(_Message, frozen=True):
    """To a child: the configuration was read again."""

    config: bytes


class Drain(_Message, frozen=True):
    """To a worker: no new sessions, send the others away, end. `handed_over`: a successor accepts already; leave the
    clients' socket to it at once."""

    handed_over: bool = False


class Stop(_Message, frozen=True):
    """To a child: end now, in order: what was taken in is committed."""


class Share(_Message, frozen=True):
    """To a worker, in answer to its Report: how many sessions a worker has on average."""

    sessions: int


class Ready(_Message, frozen=True):
    """From a child: it serves."""

    durability: str = ""  # of the log, from the sequencer


class Failed(_Message, frozen=True):
    """From a child, last of all: why it can't serve, in one line for the operator."""

    reason: str


class Report(_Message, frozen=True):
    """From a child, every second: its counters (metrics.py: keys of TABLE), and whether it is ready."""

    values: dict[str, float]
    ready: bool
    words: str


class TakeOver(_Message, frozen=True):
    """From a supervisor to the one that runs: give me your sockets. The answer is Sockets."""

    pid: int
    version: int


class Sockets(_Message, frozen=True, omit_defaults=True):
    """To the successor: the lock of the data directory, and the sockets that listen."""

    pid: int
    version: int
    names: tuple[str, ...] = ()
    """Of the descriptors. Left out for a successor of version 1, which knows lock, clients and admin in this order."""


class LinkWanted(_Message, frozen=True):
    """From the successor: a link to the sequencer that still runs here, for one of its workers. The answer is Link."""

    worker: int


class Serving(_Message, frozen=True):
    """From the successor: its workers serve, drain yours. The end of this stream tells it that all are gone."""


Message = (
    Start | Link | Reload | Drain | Stop | Share | Ready | Failed | Report | TakeOver | Sockets | LinkWanted | Serving
)
_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Message)


class Channel:
    """One end. `send` and `receive` may be used by one thread each."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        # The kernel's timeout, not Python's: that would make a socket on which receiving can't choose whether to wait.
        end.setblocking(True)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", SEND_TIMEOUT_S, 0))

    def fileno(self) -> int:
        """For a loop that waits for messages."""
        return self.socket.fileno()

    def send(self, message: Message, descriptors: tuple[int, ...] = (), *, wait: bool = True) -> bool:
        """False if the other end is gone or takes nothing for SEND_TIMEOUT_S. The descriptors stay open here, too."""
        body = _encoder.encode(msgspec.structs.replace(message, descriptors=len(descriptors)))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self.socket.sendmsg([body], rights, 0 if wait else socket.MSG_DONTWAIT)
        except OSError:  # TimeoutError too
            return False
        return True

    def receive(self, *, wait: bool) -> tuple[Message, list[int]] | None:
        """The next message with its descriptors; None at the end of the stream. Without `wait`, BlockingIOError if
        there is none now. Raises ControlError."""
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            body, extra, received, _ = self.socket.recvmsg(
                MESSAGE_BYTES_MAX, socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize), flags
            )
        except BlockingIOError:
            raise
        except OSError:
            return None
        descriptors = array.array("i")
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        try:
            if received & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ControlError(f"a message of more than {MESSAGE_BYTES_MAX} bytes or {DESCRIPTORS_MAX} descriptors")
            if not body:
                return None
            message = _decoder.decode(body)
            if message.descriptors != len(descriptors):
                raise ControlError(f"{message.descriptors} descriptors were named, {len(descriptors)} came")
        except (msgspec.DecodeError, ControlError) as error:
            close_all(list(descriptors))
            raise ControlError(f"no message of this program: {error}") from None
        return message, list(descriptors)

    def close(self) -> None:
        """The other end sees the end of the stream."""
        self.socket.close()


def pair() -> tuple[Channel, Channel]:
    """Two ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def close_all(descriptors: list[int]) -> None:
    """Closes what came with a message that nobody wants."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
