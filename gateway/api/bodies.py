"""A bound on the bodies of all requests together, around the door's application: ASGI in, ASGI out.

Put between uvicorn and Litestar by serve.py. `api.body_bytes_max` bounds one request; ten thousand connections which
each send that much would be more than any machine has. What a request has brought counts until it is answered.

Ignored: bodies of GET, which nobody reads; a stream that is open for days would hold its place among the bytes.
Invariants: what is counted is given back however the request ends; a refusal is a problem as any other of the door.
Cost: an addition for each piece of a body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from engine import limits
from gateway.api.problems import Refusal

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RETRY_S: Final = 1.0


class BoundedBodies:
    """The application with the bound around it."""

    def __init__(self, app: Any, bytes_max: int = limits.BODIES_BYTES_MAX) -> None:
        self._app, self._bytes_max = app, bytes_max
        self.held_bytes = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, or what else the server brings."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "GET":
            await self._app(scope, lambda: _without_body(receive), send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            taken += size
            self.held_bytes += size
            if size and self.held_bytes > self._bytes_max:
                raise Refusal(
                    "overloaded",
                    f"requests under way have brought {self._bytes_max:,} bytes already",
                    retryable=True,
                    retry_after_s=RETRY_S,
                )
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self.held_bytes -= taken


async def _without_body(receive: Receive) -> Message:
    """The request's end, or what else comes."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    return {**message, "body": b""} if message["type"] == "http.request" else message
