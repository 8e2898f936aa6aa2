"""Frames over the socket between a gateway worker and the sequencer's process: batches one way, answers the other.

Used by both ends: follower.py in the worker, hub.py beside the sequencer. Layout and kinds: engine/LINK_FORMAT.md. A
frame is 8 bytes of header and a body; bodies of proposals and answers are the batches of ext/admission.pxd as they are.

Invariants: a frame is sent whole or the link has ended; frames arrive in the order in which they were sent; a header
that can't be one ends the link (LinkBroken): both ends are this program, so it is a mistake and nothing is guessed.
Memory: what the other end has not taken waits here, and is the caller's to bound (`waiting_bytes`).
Cost: a system call a frame while the other end keeps up.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Final

HEADER: Final = struct.Struct("<IHH")  # bytes of the body, kind, 0
BODY_BYTES_MAX: Final = 1 << 28
RECEIVE_BYTES: Final = 256 << 10
SOCKET_BYTES: Final = 1 << 20
JOINED_BYTES: Final = 4_096  # a body so small is copied behind its header rather than named beside it
PROPOSALS, SIGNAL, NOTE, ANSWERS, COMMITTED, STATUS = range(1, 7)
KINDS: Final = frozenset((PROPOSALS, SIGNAL, NOTE, ANSWERS, COMMITTED, STATUS))
COMMITTED_BODY: Final = struct.Struct("<QQQ")  # last sequence, commits, ns that they took

Frame = tuple[int, bytes]


class LinkBroken(Exception):
    """The other end sent what is no frame."""


class Link:
    """One end. `send` from any thread; `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        self._socket = end
        self._held = bytearray()  # of a frame that has not come whole
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self.waiting_bytes = 0  # in it
        self.is_open = True

    def fileno(self) -> int:
        """For whoever waits for frames; -1 once closed."""
        return self._socket.fileno()

    def send(self, kind: int, body: bytes) -> bool:
        """Sends, or keeps for `flush`; True if something waits now."""
        with self._lock:
            if not self.is_open:
                return False
            header = HEADER.pack(len(body), kind, 0)
            for part in (header + body,) if len(body) < JOINED_BYTES else (header, body):
                self._unsent.append(memoryview(part))
                self.waiting_bytes += len(part)
            return self._flush()

    def flush(self) -> bool:
        """Sends what waits; True if something still does."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        while self._unsent and self.is_open:
            try:
                sent = self._socket.sendmsg(islice(self._unsent, 64))
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:  # whoever reads notices the end of the stream
                self._unsent.clear()
                self.waiting_bytes = 0
                return False
            self.waiting_bytes -= sent
            while sent:
                part = self._unsent[0]
                if len(part) > sent:
                    self._unsent[0] = part[sent:]
                    break
                sent -= len(part)
                self._unsent.popleft()
        return bool(self._unsent)

    def receive(self) -> list[Frame] | None:
        """The frames that one read completes, maybe none; None at the end of the stream. Raises LinkBroken."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        if not data:
            return None
        held = self._held
        held += data
        frames: list[Frame] = []
        at = 0
        while len(held) - at >= HEADER.size:
            size, kind, zero = HEADER.unpack_from(held, at)
            if kind not in KINDS or zero or size > BODY_BYTES_MAX:
                raise LinkBroken(f"a frame of kind {kind} with {size} bytes")
            end = at + HEADER.size + size
            if end > len(held):
                break
            frames.append((kind, bytes(memoryview(held)[at + HEADER.size : end])))
            at = end
        if at:
            del held[:at]
        return frames

    def close(self) -> None:
        """The other end sees the end of the stream."""
        with self._lock:
            self.is_open = False
            self._unsent.clear()
            self.waiting_bytes = 0
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
