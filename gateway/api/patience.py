"""What the door bears of a connection before and after a request: uvicorn itself would wait for ever and keep all.

The protocol class that serve.py gives to uvicorn, and `end_stalled` beside it. A deadline runs from the connection's
first moment, and from the first byte of each later request, to the end of its head; bodies have one of their own
(operation.py), and one that is still on its way when its answer is out gets as long as a head. A connection that is
idle between two requests is uvicorn's to end.

Invariants: what is no body (heads, trailers, extensions of chunks) grows to HEAD_BYTES_MAX and one piece, and a head
has at most HEAD_FIELDS_MAX fields; connections beyond those that are answered 503 are cut before a byte is read;
whoever takes nothing of what waits for it for STALL_S is cut off, its end included.
Cost: two additions a piece of 16 KiB; a look at each connection every STALL_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine import limits
from gateway.api import problems

HEAD_S: Final = 10.0
STALL_S: Final = 60.0
PIECE_BYTES: Final = 16 << 10


class PatientProtocol(HttpToolsProtocol):
    """HTTP with bounds and a deadline for heads."""

    head_s = HEAD_S
    _deadline: asyncio.TimerHandle | None = None
    _loose_bytes = _fields = 0  # since the last piece of a body, or the beginning
    _is_whole = True  # the request that came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn says the same
        """Waits for the first head, if there is a place."""
        super().connection_made(transport)
        if (
            self.limit_concurrency is not None
            and len(self.connections) > self.limit_concurrency + limits.SPARE_CONNECTIONS
        ):
            transport.abort()  # each one has a descriptor, and the log needs some
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request, in pieces: a head that goes on and on is noticed after one of them."""
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            self._loose_bytes += len(piece)
            super().data_received(piece)
            if self.transport.is_closing() or self.transport.get_protocol() is not self:  # or it is a WebSocket now
                return
            if self._loose_bytes > limits.HEAD_BYTES_MAX:
                self._refuse("head_too_large", f"more than {limits.HEAD_BYTES_MAX:,} bytes of head")
                return

    def send_400_response(self, message: str) -> None:
        """What can't be read is a problem as any other."""
        if self._fields > limits.HEAD_FIELDS_MAX:
            self._refuse("head_too_large", f"more than {limits.HEAD_FIELDS_MAX} fields")
        else:
            self._refuse("bad_request", "this is no HTTP")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_whole = False
        self._loose_bytes = self._fields = 0
        self._wait()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of a head, or behind a body."""
        self._fields += 1
        if self._fields > limits.HEAD_FIELDS_MAX:
            raise ValueError("too many fields")  # the parser has it end in send_400_response
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._loose_bytes = 0
        self._stop()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._is_whole, self._loose_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Its answer is out, perhaps before its end: a byte a minute must not keep the place."""
        super().on_response_complete()
        if not self._is_whole and self.cycle.response_complete:
            self._wait()

    def _refuse(self, code: str, words: str) -> None:
        problem = problems.make(code, words)
        body = problems.encode(problem)
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\ncontent-type: {problems.MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        if self.cycle is None or self.cycle.response_complete or self._deadline is not None:  # not amid an answer
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _wait(self) -> None:
        self._stop()
        self._deadline = self.loop.call_later(self.head_s, self._late)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


async def end_stalled(connections: Iterable[Any], stall_s: float = STALL_S) -> None:
    """Cuts off, as long as it runs, who has taken nothing of what waits for it since the last look. uvicorn waits for
    ever, whether a stream is going on or the connection has been closed on this side."""
    before: dict[asyncio.Transport, int] = {}
    while True:
        await asyncio.sleep(stall_s)
        now: dict[asyncio.Transport, int] = {}
        for connection in list(connections):
            transport: asyncio.Transport | None = connection.transport
            waiting = 0 if transport is None else transport.get_write_buffer_size()
            if transport is not None and waiting:
                now[transport] = waiting
                if waiting >= before.get(transport, waiting + 1):
                    transport.abort()
        before = now
