"""The api part beside a gateway in one process: a thread with a loop of its own, over the same engine.

Started by serve.py when the gateway serves, ended before its engine is closed. The engine has one pair of callbacks, so
`Fork` tells the answers of backends from those of clients by a tag in their origins (ext/relay), as the hub does for
workers; where [server] api is empty there is no fork, and the gateway's path is as it was. Keys and revocations are the
gateway's own: this thread reads what its loop keeps fresh.

Invariants: the fork drops what comes before the part is there, and after it; a part that fails at its start is one
StartError; one that fails later leaves the gateway alone, and /readyz says so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop

from engine import EngineError
from ext.relay import split, tag
from gateway.api.in_force import Judging
from gateway.api.part import Part
from gateway.api.presence import OneGateway
from gateway.api.tokens import Tokens
from gateway.issuer import IssuerKeys
from gateway.listener import StartError
from gateway.parts import backends_room
from gateway.session import log

if TYPE_CHECKING:
    from gateway.server import Gateway

TAG: Final = 1


class Fork:
    """The engine's callbacks: to the gateway, and to the part if there is one. The committer's thread."""

    def __init__(self, wake: Callable[[bytes | None], None]) -> None:
        self._wake = wake
        self.part: Part | None = None

    def answers(self, answers: bytes) -> None:
        """Each side gets its own."""
        for number, some in split(answers):
            if number != TAG:
                self._wake(some)
            elif self.part is not None:
                self.part.woken(some)

    def committed(self, sequence: int) -> None:
        """Both look again."""
        self._wake(None)
        if self.part is not None:
            self.part.woken(None)


class ApiThread:
    """Made when the gateway serves; `start` and `stop` on the gateway's loop."""

    def __init__(self, gateway: Gateway, fork: Fork, bound: socket) -> None:
        self._gateway, self._fork, self._bound = gateway, fork, bound
        self._gateway_loop = asyncio.get_running_loop()
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._life, name="api", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Event
        self._failure = ""

    async def start(self) -> None:
        """Until it serves. Raises StartError."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    async def stop(self) -> None:
        """Ends it in order."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._told.set)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    @property
    def words(self) -> str:
        """For /readyz; "" while it is well."""
        if self._failure:
            return f"; api: {self._failure}"
        part = self._fork.part
        ready, words = part.readiness() if part is not None else (False, "starts")
        return "" if ready else f"; api: {words}"

    @property
    def values(self) -> dict[str, float]:
        """For /metrics, of the last second."""
        return self._fork.part.values if self._fork.part is not None else {}

    def _life(self) -> None:
        try:
            uvloop.run(self._run())
        except BaseException as error:
            self._failure = f"ended by {type(error).__name__}; restart the server"
            if self._started.done():
                log.critical("the backends' door has failed; clients are served on", exc_info=error)
            else:
                self._started.set_exception(
                    StartError(str(error)) if isinstance(error, StartError | EngineError) else error
                )
        finally:
            self._fork.part = None

    async def _run(self) -> None:
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        gateway = self._gateway
        options = msgspec.structs.replace(gateway.config.api, connections_max=backends_room(gateway.config))
        config = msgspec.structs.replace(gateway.config, api=options)
        in_force = Judging(gateway.trust, lambda: gateway.config)
        part = Part(config, gateway.engine, self._submit, self._who_may(), in_force)
        self._fork.part = part
        try:
            await part.open(OneGateway(self._gateway_loop, gateway.sessions))
            await part.serve(self._bound)
            self._started.set_result(None)
            await self._told.wait()
        finally:
            await part.close()

    def _submit(self, batch: bytes) -> bool:
        tagged = bytearray(batch)
        tag(tagged, TAG)
        return self._gateway.engine.sequencer.submit(bytes(tagged))

    def _who_may(self) -> Tokens:
        """By the gateway's keys. Its loop asks the issuer, so the answer to an unknown key is to come again."""
        gateway = self._gateway

        def ask_issuer(kid: str | None) -> int | None:
            keys = gateway.trust.keys
            if kid is None or not isinstance(keys, IssuerKeys) or keys.is_absent(kid):
                return None
            self._gateway_loop.call_soon_threadsafe(gateway.trust.ask_issuer, kid)
            return 0

        return Tokens(
            lambda: gateway.door.verifier,
            lambda: gateway.trust.revoked,
            ask_issuer=ask_issuer,
            is_blind=lambda: gateway.trust.is_blind,
        )
