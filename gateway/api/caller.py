"""The door's operations as the command line calls them: one request each, refusals as one line, trouble named.

Used by cli.py; what a service in Python uses is the remote EventSource. Connections that break and servers that are
being restarted are `Away`: `subscribe` tries again, everything else says so. Never the token in any text.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

TIMEOUT_S: Final = 90.0  # longer than a pull may wait
CONNECT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 256 << 20


class Refused(Exception):
    """The server said no; `code` is the problem's (gateway/api/problems.py)."""

    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status, self.code = status, code


class Away(Exception):
    """Nobody answers there, or not now."""


def check_url(url: str) -> str:
    """The base of all addresses. ValueError names what it must be."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        url.encode()
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"--url {url!r}: must be http://host:port (or https://) with a port of 1 to 65535")
    return url.rstrip("/").removesuffix("/v1")


class Caller:
    """One server, one token. An async context."""

    def __init__(self, url: str, token: str) -> None:
        self.url = check_url(url)
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Caller:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_S)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self, method: str, *path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One operation; {} where it answers nothing. Raises Refused, Away."""
        url = f"{self.url}/v1/" + "/".join(quote(part, safe="") for part in path)
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(method, url, data=data, params=query, headers=headers) as answer:
                text = await answer.content.read(ANSWER_BYTES_MAX)
                status = answer.status
        except TimeoutError:
            raise Away(f"{self.url} does not answer within {TIMEOUT_S:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Away(
                f"can't reach {self.url}: {str(error) or type(error).__name__}; is `gonets serve` with [server] api"
                " running there?"
            ) from None
        return self._judged(status, text)

    def _judged(self, status: int, text: bytes) -> dict[str, Any]:
        if status in (200, 201, 204):
            if not text:
                return {}
            try:
                return msgspec.json.decode(text, type=dict[str, Any])
            except msgspec.DecodeError:
                raise Refused(status, "", f"{self.url} is no backends' door: its answer is no JSON object") from None
        try:
            problem = msgspec.json.decode(text, type=dict[str, Any])
            code, words, hint = str(problem["code"]), str(problem["detail"]), str(problem.get("hint", ""))
        except (msgspec.DecodeError, KeyError):
            raise Refused(
                status, "", f"{self.url} answered HTTP {status}: is it the backends' port (server.api)?"
            ) from None
        if problem.get("first_available"):
            words += f"; the first available is {problem['first_available']}"
        text_of = f"{code}: {words}" + (f" ({hint})" if hint and hint not in words else "")
        if status in (502, 503, 504):
            raise Away(text_of)
        raise Refused(status, code, text_of)
