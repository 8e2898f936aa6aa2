"""One document from a URL: whole or not at all, within a time, a size and a few redirects.

Used by remote.py for key sets and revocations. https with a verified certificate; plain http only to this machine
itself, where an issuer's agent may live. A redirect is followed only to what would have been allowed at first, and
never from https to http.

Invariants: no more than bytes_max is kept, whatever the answer says or how it is packed (compression is not asked for
and not undone); no proxy of the environment; nothing of a token is ever sent.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

REDIRECTS_MAX = 3
HEADERS_BYTES_MAX = 16_384
CHUNK_BYTES = 16_384
NOT_MODIFIED = 304
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,9})")
_STALE_AT_ONCE = re.compile(r"(?:^|[,\s])no-(?:cache|store)\b")


class FetchError(Exception):
    """Why a document could not be had; the text names the URL and the limit."""


class Fetched(NamedTuple):
    """An answer; `data` is None when the document is as it was."""

    data: bytes | None
    etag: str
    max_age_s: float | None  # how long the server calls it fresh, if it does


def is_url(text: str) -> bool:
    """Whether an option names a URL and not a file."""
    return text.startswith(("https://", "http://"))


def url_problem(url: str) -> str:
    """What is wrong with a URL, or an empty text."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("https", "http") or not host or port == 0:
        return "must be https://host/path"
    if parts.username or parts.password:
        return "must not hold a password"
    if parts.scheme == "http" and not _is_loopback(host):
        return "must be https; plain http is for loopback addresses only"
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trusted(ca: str) -> ssl.SSLContext:
    """Whom https is believed: the authorities of a file, or those of the system. FetchError if the file is none."""
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "holds no certificate"
        raise FetchError(f"auth.keys_ca = {ca!r}: {reason}") from None


async def fetch(url: str, trust: ssl.SSLContext, bytes_max: int, timeout_s: float, etag: str = "") -> Fetched:
    """The document, or FetchError."""
    import aiohttp

    try:
        async with asyncio.timeout(timeout_s):
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust, force_close=True),
                auto_decompress=False,
                max_line_size=HEADERS_BYTES_MAX,
                max_field_size=HEADERS_BYTES_MAX,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as session:
                return await _follow(session, url, bytes_max, etag)
    except TimeoutError:
        raise FetchError(f"{url}: no whole answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError(f"{url}: {str(error) or type(error).__name__}") from None


async def _follow(session, url: str, bytes_max: int, etag: str) -> Fetched:  # type: ignore[no-untyped-def]
    asked = url
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "gonets"}
    if etag:
        headers["If-None-Match"] = etag
    for _ in range(REDIRECTS_MAX + 1):
        async with session.get(asked, headers=headers, allow_redirects=False) as answer:
            if answer.status in (301, 302, 303, 307, 308):
                following = urljoin(asked, answer.headers.get("Location", ""))
                problem = url_problem(following)
                if not problem and urlsplit(following).scheme != urlsplit(url).scheme:
                    problem = f"must stay {urlsplit(url).scheme}"
                if problem:
                    raise FetchError(f"{url}: redirects to {following!r}, which {problem}")
                asked = following
                continue
            if answer.status == NOT_MODIFIED and etag:
                return Fetched(None, etag, _max_age(answer.headers))
            if answer.status != 200:
                raise FetchError(f"{url}: answers {answer.status}")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise FetchError(f"{url}: answers compressed, which was not asked for")
            data = bytearray()
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                data += chunk
                if len(data) > bytes_max:
                    raise FetchError(f"{url}: has more than {bytes_max:,} bytes, the limit")
            return Fetched(bytes(data), answer.headers.get("ETag", "")[:256], _max_age(answer.headers))
    raise FetchError(f"{url}: more than {REDIRECTS_MAX} redirects")


def _max_age(headers) -> float | None:  # type: ignore[no-untyped-def]
    said = headers.get("Cache-Control", "").lower()
    if _STALE_AT_ONCE.search(said):
        return 0.0
    found = _MAX_AGE.search(said)
    return float(found[1]) if found else None
