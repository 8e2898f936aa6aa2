"""Runs the door's application on sockets that are there already: uvicorn with httptools and websockets, on this loop.

Whoever starts it (a thread's loop or a process's) owns the sockets, the signals and the end. Its end is in two steps:
streams are told and say why they end, consumers leave; then uvicorn takes no more connections and gives requests that
run STOP_S. (Its lifespan would come too late for the first: it waits for open connections.)

Invariants: the process's signals are not touched; nothing is compressed; no line is written for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, Final

import uvicorn
from litestar import Litestar
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from engine import Api
from gateway.api.bodies import BoundedBodies
from gateway.api.door import Door
from gateway.api.patience import PatientProtocol, end_stalled

STOP_S: Final = 5
LOOK_S: Final = 0.005
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 2_048
PING_S: Final = 20.0
WEBSOCKET_BYTES_MAX: Final = 1 << 20  # of a consumer's message: an ack of 100,000 events fits


class ApiServer:
    """One running door."""

    def __init__(self, app: Litestar, options: Api) -> None:
        self._door: Door = app.state.door
        self._server = _Quiet(
            uvicorn.Config(
                BoundedBodies(app),
                loop="none",
                http=PatientProtocol,
                ws=_Answering,
                lifespan="on",
                log_config=None,
                log_level="error",  # what is warned of are requests that are none, and anybody can send those
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                limit_concurrency=options.connections_max,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                ws_max_size=WEBSOCKET_BYTES_MAX,
                ws_ping_interval=PING_S,
                ws_ping_timeout=PING_S,
                ws_per_message_deflate=False,
            )
        )
        self._running: asyncio.Task[None] | None = None
        self._stalls: asyncio.Task[None] | None = None

    async def start(self, sockets: list[socket]) -> None:
        """Returns when it takes connections. Raises if it could not begin."""
        self._running = asyncio.get_running_loop().create_task(self._server.serve(sockets))
        while not self._server.started:
            if self._running.done():
                self._running.result()
                raise RuntimeError("the door for backends ended while it began; its log says why")
            await asyncio.sleep(LOOK_S)
        self._stalls = asyncio.get_running_loop().create_task(end_stalled(self._server.server_state.connections))

    async def stop(self) -> None:
        """Streams end with a reason, consumers leave; then the server ends."""
        await self._door.close()
        self._server.should_exit = True
        if self._running is not None:
            await self._running
        if self._stalls is not None:
            self._stalls.cancel()


class _Answering(WebSocketsSansIOProtocol):
    """WebSocket; a handshake that is answered over HTTP (`websocket.http.response`) is an end as any other: uvicorn
    would take it for one that was forgotten, and say so as an error."""

    async def send(self, message: Any) -> None:
        """What the application says."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True


class _Quiet(uvicorn.Server):
    """Signals are the business of whoever runs the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
