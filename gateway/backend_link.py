"""Requests of a backend's client to the door for backends: tokens, repeats, and problems as the engine's exceptions.

Under backend.py. An error leaves as what the same call raises in the engine's process (engine/subscriptions/ports.py);
a connection that can't be made, or breaks, is an OSError.

Invariants: only what may be said twice is said again (reads, what names a state, publishes with a key), for passing
failures, and for at most `retry_s_max`. Cost: one HTTP request each, over connections that are kept.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine import EngineError, error_of
from gateway.client_link import TokenSource

T = TypeVar("T")
Query = Sequence[tuple[str, str]]

JSON: Final = "application/json"
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 5.0


class Problem(Struct):
    """What of a problem (RFC 9457) a client acts on."""

    code: str = "unknown"
    detail: str = ""
    hint: str = ""
    retryable: bool = False
    retry_after_s: float | UnsetType = UNSET
    actual: int = 0
    first_available: int = 0


class Link:
    """The door at one address, for one service."""

    def __init__(
        self, url: str, token: str | TokenSource, *, timeout_s: float, retry_s_max: float, trust: ssl.SSLContext | None
    ) -> None:
        self.url = url.rstrip("/")
        self.trust = trust
        self._token, self._timeout_s, self._retry_s_max = token, timeout_s, retry_s_max
        self._session: aiohttp.ClientSession | None = None

    async def headers(self) -> dict[str, str]:
        """Who asks."""
        token = self._token if isinstance(self._token, str) else self._token()
        return {"Authorization": f"Bearer {await token if inspect.isawaitable(token) else token}"}

    def session(self) -> aiohttp.ClientSession:
        """The connections, on the loop that first asks."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=True if self.trust is None else self.trust)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def close(self) -> None:
        """Lets go of them."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: Struct | Mapping[str, Any] | None = None,
        query: Query = (),
        key: str = "",
        repeatable: bool = True,
    ) -> T:
        """The answer to a request; it is said again while it fails for a passing reason and may be."""
        until_s, pause_s = time.monotonic() + self._retry_s_max, PAUSE_S_MIN
        while True:
            try:
                return await self._ask_once(method, path, answer, body, query, key)
            except (EngineError, OSError) as error:
                again_s = _again_s(error, pause_s)
                if not repeatable or again_s is None or time.monotonic() + again_s > until_s:
                    raise
            await asyncio.sleep(again_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _ask_once(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Struct | Mapping[str, Any] | None,
        query: Query,
        key: str,
    ) -> T:
        headers = {**await self.headers(), "Accept": JSON}
        if key:
            headers["Idempotency-Key"] = key
        data = None
        if body is not None:
            data, headers["Content-Type"] = msgspec.json.encode(body), JSON
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        with _network():
            async with self.session().request(
                method, self.url + path, params=query, data=data, headers=headers, timeout=timeout
            ) as response:
                found = await response.read()
        if response.status >= 400:
            raise error_from(response.status, found)
        return msgspec.json.decode(found or b"null", type=answer)

    @asynccontextmanager
    async def lines(self, path: str, query: Query, last: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a stream of server-sent events behind an id."""
        headers = {**await self.headers(), "Accept": "text/event-stream"}
        if last:
            headers["Last-Event-ID"] = last
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=self._timeout_s)
        with _network():
            async with self.session().get(
                self.url + path, params=query, headers=headers, timeout=timeout, read_bufsize=1 << 18
            ) as response:
                if response.status >= 400:
                    raise error_from(response.status, await response.read())
                yield aiter(response.content)


@contextmanager
def _network() -> Iterator[None]:
    """What the HTTP library raises for a connection, as the OSError that it is for whoever calls."""
    try:
        yield
    except aiohttp.ClientError as error:
        if isinstance(error, OSError):
            raise
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _again_s(error: EngineError | OSError, pause_s: float) -> float | None:
    """After which pause a request may be made again; None: it would fail again."""
    if isinstance(error, EngineError) and not error.retryable:
        return None
    if isinstance(error, EngineError) and error.code in ("fenced", "paused"):
        return None  # for others to mend
    return max(pause_s * random.uniform(0.5, 1.0), float(getattr(error, "retry_after_s", 0.0)))


def error_from(status: int, body: bytes) -> EngineError:
    """The exception that a problem stands for."""
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = Problem(detail=f"HTTP {status}: {body[:200].decode(errors='replace')}", retryable=status >= 500)
    return error_of_problem(problem)


def error_of_problem(problem: Problem) -> EngineError:
    """The same for one that was read."""
    code = "bad_argument" if problem.code == "bad_request" else problem.code
    error = error_of(code, problem.detail, hint=problem.hint, retryable=problem.retryable, actual=problem.actual)
    for name in ("retry_after_s", "first_available"):
        if value := getattr(problem, name):
            setattr(error, name, value)
    return error
