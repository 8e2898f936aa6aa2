"""The door itself: what every operation and stream holds on to, and the first question to each of them.

Made once by app.py from what it is handed; owns the consumers that pull over HTTP and the count of open streams. It
says `is_closing` to the streams when the server ends, so that they close with a reason instead of being cut.

Invariants: nothing is served before `admit`, but for the documents; nothing here outlives the process but the log.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from engine import Api, EventSource, Filter
from gateway.api.consumers import Consumers
from gateway.api.ports import Backend, Service, WhoMay
from gateway.api.problems import Refusal, bad, forbidden
from gateway.api.quotas import Quotas
from gateway.api.scopes import may_read

log = structlog.get_logger("gonets.api")
CHECK_S: Final = 1.0  # how often the token of an open stream is looked at
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


class Door:
    """What operations need."""

    def __init__(self, backend: Backend, who_may: WhoMay, options: Api) -> None:
        self.backend, self.who_may, self.options = backend, who_may, options
        self.quotas = Quotas(options)
        self.consumers = Consumers(self.quotas, options.consumer_idle_s)
        self.is_closing = asyncio.Event()
        self._checks: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()

    # ---- its life --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """On the loop that serves."""
        self._checks = asyncio.get_running_loop().create_task(self._check())

    async def close(self) -> None:
        """Streams end, consumers leave: what they had in flight goes to others at once."""
        self.is_closing.set()
        if self._checks is not None:
            self._checks.cancel()
        await self.consumers.close()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                await self.consumers.second(self.who_may.still)
            except Exception as error:  # the others are looked at in a second all the same
                log.error("consumers can't be looked at", error=type(error).__name__)

    # ---- who -------------------------------------------------------------------------------------------------------

    def admit(self, headers: Mapping[str, str]) -> Service:
        """Whoever sends a request. Raises Refusal."""
        words = headers.get("authorization", "").split()
        if not words:
            raise Refusal("bad_token", "no token", hint="send a service token as `Authorization: Bearer …`")
        if len(words) != 2 or words[0].lower() != "bearer":
            raise Refusal("bad_token", "Authorization must be `Bearer` and a token")
        return self.who_may.admit(words[1])

    def source(self, service: Service, filter: Filter | None = None) -> EventSource:
        """The event stream, for what a filter lets through."""
        if filter is not None:
            forbidden(may_read(service.scope, filter))
        return self.backend.source(service)

    def administers(self, service: Service, size_bytes: int = 0) -> None:
        """Raises if the service may not change subscriptions, or its team has published too much: each change is an
        event, of about so many bytes."""
        forbidden("" if service.scope.subscriptions else "the token's scope has no `subscriptions`")
        self.quotas.charge_publishes(service.team, 1, size_bytes)

    # ---- names of places -------------------------------------------------------------------------------------------

    def id_of(self, sequence: int) -> str:
        """An event's id: its shard, the epoch in which it was written, its sequence. A restore changes none of them."""
        place = self.backend.place()
        at = bisect.bisect_right(place.epochs, sequence, key=lambda epoch: epoch[1])
        epoch = place.epochs[max(at - 1, 0)][0] if place.epochs else 0
        return f"{place.shard}-{epoch}:{sequence}"

    def sequence_of(self, text: str) -> int:
        """The sequence that an id, or a plain number, names. Raises where that history is no more."""
        head, colon, number = text.rpartition(":")
        place = self.backend.place()
        sequence = int(number)
        if not colon:
            return sequence
        shard, _, epoch = head.partition("-")
        if int(shard) != place.shard:
            raise bad(f"id {text!r}: this door reads shard {place.shard}")
        later = [first for known, first in place.epochs if known > int(epoch)]
        if all(known != int(epoch) for known, _ in place.epochs):
            raise _replaced(text, min([first for _, first in place.epochs], default=1))
        if later and sequence >= min(later):
            raise _replaced(text, min(later))
        return sequence


def _replaced(text: str, first: int) -> Refusal:
    return Refusal(
        "history_replaced",
        f"the position {text!r} is of a history that a restore has replaced",
        hint="discard what you have from first_available on, and read from there",
        first_available=first,
    )


def time_of(time_us: int) -> str:
    """µs since 1970 as RFC 3339."""
    return (_BEGIN + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")
