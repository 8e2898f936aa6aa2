"""The admin address: /metrics, /healthz and /readyz over plain HTTP, for the operator's network only.

Beside the data path, on the same loop: a scrape costs one pass over the metrics table. The clients' port answers
/healthz and /readyz too (listener.py), never /metrics.

Invariants: healthz says that the loop turns; readyz says that new sessions and publishes are served, and if not, why
and what to do.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp import web

PATHS = "/metrics, /healthz, /readyz"
Readiness = Callable[[], tuple[bool, str]]


class Admin:
    """A small aiohttp server on a socket that somebody else has bound."""

    def __init__(self, exposition: Callable[[], bytes], readiness: Readiness) -> None:
        self._exposition, self._readiness = exposition, readiness
        self._runner: web.AppRunner | None = None

    async def start(self, bound: socket.socket) -> None:
        """Serves from now on."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/{rest:.*}", self._elsewhere),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.SockSite(self._runner, bound).start()

    async def stop(self) -> None:
        """Ends open requests and closes the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """Whoever looks around, or came to the wrong port, is told what is where."""
        if request.path == "/":
            return web.Response(text=f"gonets, for its operators: {PATHS}\n")
        return web.Response(status=404, text=f"nothing here but {PATHS}; clients connect to another port\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, text = self._readiness()
        return web.Response(status=200 if ready else 503, text=text + "\n")
