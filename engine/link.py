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
JOINED_BYTES: Final = 4_096  # a body so small is copied behind what waits before it rather than named beside it
GATHERED_BYTES: Final = 64 << 10  # and so much goes into one piece
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
        # Small frames are joined, so that what waits takes little more memory than its bytes.
        self._unsent: deque[bytes | bytearray] = deque()
        self._gone = 0  # bytes of its first piece
        self.waiting_bytes = 0  # in it, without those
        self.is_open = True

    def fileno(self) -> int:
        """For whoever waits for frames; -1 once closed."""
        return self._socket.fileno()

    def send(self, kind: int, body: bytes) -> bool:
        """Sends, or keeps for `flush`; True if something waits now."""
        with self._lock:
            if not self.is_open:
                return False
            if not self._unsent or type(self._unsent[-1]) is bytes or len(self._unsent[-1]) >= GATHERED_BYTES:
                self._unsent.append(bytearray())
            gathered = self._unsent[-1]
            gathered += HEADER.pack(len(body), kind, 0)
            if len(body) < JOINED_BYTES:
                gathered += body
            else:
                self._unsent.append(body)
            self.waiting_bytes += HEADER.size + len(body)
            return self._flush()

    def flush(self) -> bool:
        """Sends what waits; True if something still does."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        while self._unsent and self.is_open:
            parts = [memoryview(part) for part in islice(self._unsent, 64)]
            parts[0] = parts[0][self._gone :]
            try:
                sent = self._socket.sendmsg(parts)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:  # whoever reads notices the end of the stream
                self._forget()
                return False
            finally:
                parts.clear()  # a piece that is looked at can't grow
            self.waiting_bytes -= sent
            self._gone += sent
            while self._unsent and self._gone >= len(self._unsent[0]):
                self._gone -= len(self._unsent.popleft())
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
            self._forget()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _forget(self) -> None:
        self._unsent.clear()
        self._gone = self.waiting_bytes = 0
