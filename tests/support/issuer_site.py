"""An issuer's web site on a loopback port, in a thread: what it answers is the test's to change at any time."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IssuerSite:
    """Serves `answer` for every path; counts what was asked."""

    def __init__(self, secure: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._secure, self._port = secure, port
        self.asked = 0
        self.body: bytes | str = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.held = False  # answers nothing until it is released
        self.drip = False  # a byte now and then, without end
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._secure else 'http'}://127.0.0.1:{self._port}/keys.json"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        while self.held:
            await asyncio.sleep(0.01)
        if self.drip:
            answer = web.StreamResponse()
            await answer.prepare(request)
            while True:
                await answer.write(b" ")
                await asyncio.sleep(0.2)
        etag = self.headers.get("ETag")
        if etag and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=self.headers)
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return web.Response(status=self.status, body=body, headers=self.headers)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        place = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._secure)
        await place.start()
        self._port = self._runner.addresses[0][1]
        self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Goes away; its port answers no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
