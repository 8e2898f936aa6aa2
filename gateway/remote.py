"""A document that somebody else keeps at a URL: fetched, kept fresh, and remembered on disk for bad days.

Between fetch.py and those who use what is in it (trust.py: key sets, revocations). At start it is fetched; if that
fails, the copy of the last good day is taken, as long as it is not too old. Then it is fetched again when the server's
max-age ends, inside the bounds of the configuration; a failure keeps what there is and tries again, ever more slowly.

Invariants: one fetch at a time; what can't be read (parse raises) changes nothing and is counted; a copy of another
URL is not looked at. Cost: one request an interval; reading and parsing happen in a thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from gateway.fetch import FetchError, fetch, trusted

T = TypeVar("T")

TIMEOUT_S = 5.0
RETRY_FIRST_S = 2.0
JITTER = 0.2  # a fetch comes up to this part of its interval early, so that many servers don't come at once
REMEMBER_S = 60  # how old the file's idea of the last good day may become
CLOCK_S = 300  # how far in the future a copy may claim to be from: clocks differ


class Copy(msgspec.Struct):
    """The file that remembers a document."""

    url: str
    fetched_s: float  # UNIX time
    data: bytes
    etag: str = ""


class Remote(Generic[T]):
    """One URL. `parse` turns bytes into what is wanted or raises `unusable`, which is one of its kind of errors."""

    def __init__(
        self,
        url: str,
        copy: Path,
        parse: Callable[[bytes], T],
        unusable: type[Exception],
        *,
        ca: str,
        bytes_max: int,
        refresh_s_min: float,
        refresh_s_max: float,
        age_s_max: float,
    ) -> None:
        self.url, self._copy, self._parse, self._unusable = url, copy, parse, unusable
        self._trust = trusted(ca)
        self._bytes_max = bytes_max
        self._refresh_s_min, self._refresh_s_max, self._age_s_max = refresh_s_min, refresh_s_max, age_s_max
        self.value: T
        self.fetched_s = 0.0  # UNIX time at which the document was last known to be as it is
        self.failures = 0
        self.last_error = ""
        self.began = -1e9  # when the last fetch began, by the monotonic clock
        self._failed_in_row = 0
        self._etag = ""
        self._last: Copy | None = None
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    # ---- start -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Before there is a loop: fetches, or takes the copy. FetchError with both reasons if neither is to be had."""
        asyncio.run(self._fetch())
        if self._failed_in_row == 0:
            return
        try:
            copy = msgspec.msgpack.decode(self._copy.read_bytes(), type=Copy)
        except OSError:
            raise FetchError(f"{self.last_error}; and there is no copy of an earlier day") from None
        except msgspec.MsgspecError:
            raise FetchError(f"{self.last_error}; and {self._copy} can't be read") from None
        age_s = time.time() - copy.fetched_s
        if copy.url != self.url or not -CLOCK_S <= age_s <= self._age_s_max:
            raise FetchError(f"{self.last_error}; and {self._copy} is of another URL, or {age_s:.0f} s old") from None
        try:
            self.value = self._parse(copy.data)
        except self._unusable as error:
            raise FetchError(f"{self.last_error}; and {self._copy}: {error}") from None
        self.fetched_s, self._etag, self._last = copy.fetched_s, copy.etag, copy

    # ---- on the loop -----------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """A fetch is under way."""
        return self._task is not None

    @property
    def failing(self) -> bool:
        """The last fetch brought nothing."""
        return self._failed_in_row > 0

    @property
    def age_s(self) -> float:
        """How long ago it was last known to be good."""
        return max(0.0, time.time() - self.fetched_s)

    @property
    def is_too_old(self) -> bool:
        """It can't be relied on any more."""
        return self.age_s > self._age_s_max

    def second(self, done: Callable[[bool], None]) -> None:
        """Called on a timer: fetches if it is time. `done` hears whether the document has become another."""
        if self._task is None and time.monotonic() >= self._due:
            self.refresh(done)

    def refresh(self, done: Callable[[bool], None]) -> None:
        """Fetches now; only while no fetch is under way."""
        assert self._task is None
        self._task = asyncio.get_running_loop().create_task(self._run(done))

    async def _run(self, done: Callable[[bool], None]) -> None:
        changed = False
        try:
            changed = await self._fetch()
        finally:
            self._task = None
            done(changed)

    def close(self) -> None:
        """No more fetches."""
        self._due = float("inf")
        if self._task is not None:
            self._task.cancel()

    async def _fetch(self) -> bool:
        """One attempt; True if the document is another."""
        self.began = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            fetched = await fetch(self.url, self._trust, self._bytes_max, TIMEOUT_S, self._etag)
            if fetched.data is not None:
                self.value = await loop.run_in_executor(None, self._parse, fetched.data)
        except (FetchError, self._unusable) as error:
            self.failures += 1
            self._failed_in_row += 1
            self.last_error = str(error)
            pause_s = min(RETRY_FIRST_S * 2 ** min(self._failed_in_row - 1, 16), self._refresh_s_min)
            self._due = time.monotonic() + pause_s * random.uniform(1 - JITTER, 1)
            return False
        self._failed_in_row = 0
        self.fetched_s = time.time()
        wanted = self._refresh_s_max if fetched.max_age_s is None else fetched.max_age_s
        interval_s = min(max(wanted, self._refresh_s_min), self._refresh_s_max)
        self._due = time.monotonic() + interval_s * random.uniform(1 - JITTER, 1)
        changed = fetched.data is not None and (self._last is None or fetched.data != self._last.data)
        data = fetched.data if fetched.data is not None else self._last.data if self._last is not None else b""
        self._etag = fetched.etag
        if changed or self._last is None or self.fetched_s - self._last.fetched_s >= REMEMBER_S:
            self._last = Copy(self.url, self.fetched_s, data, fetched.etag)
            await loop.run_in_executor(None, self._remember, self._last)
        return changed

    def _remember(self, copy: Copy) -> None:
        """Writes the copy aside and renames it; a full disk costs only the next bad day."""
        aside = self._copy.with_suffix(f".{os.getpid()}")
        try:
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.msgpack.encode(copy))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._copy)
        except OSError:
            aside.unlink(missing_ok=True)

    def values(self, prefix: str) -> dict[str, Any]:
        """For the metrics."""
        return {f"{prefix}_age_seconds": self.age_s, f"{prefix}_fetch_failures": self.failures}
