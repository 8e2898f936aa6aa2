"""Consumers that pull over HTTP: they have no connection that says whether they live, so silence is what ends them.

Joined by POST …/consumers, found again by team, subscription, name and generation; every request is a sign of life.
A consumer with a WebSocket is not here: its connection holds it (stream.py).

Invariants: one pull of a consumer at a time; who is silent for `consumer_idle_s`, whose token has ended, or who was
fenced, leaves, and what it had in flight goes to others; the number of a team's consumers is bounded (quotas.py). Once
the server ends, a consumer hears that, and never that it was fenced: only another of its name does that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from engine import Consumer, EngineError, Fenced, Filter
from gateway.api.ports import Service
from gateway.api.problems import Refusal, ended, forbidden
from gateway.api.quotas import Quotas
from gateway.api.scopes import may_read

Key = tuple[str, str, str]
COME_BACK_S = 1.0


class Held:
    """One consumer that has joined."""

    def __init__(self, consumer: Consumer, service: Service, filter: Filter) -> None:
        self.consumer, self.service, self.filter = consumer, service, filter
        self.seen_s = time.monotonic()
        self.is_pulling = False
        self.uses = 0
        self.why_ended = ""  # of its token

    @asynccontextmanager
    async def pulling(self) -> AsyncIterator[Consumer]:
        """While one request waits for events, a second is refused: who would get which?"""
        if self.is_pulling:
            raise Refusal("busy", f"consumer {self.consumer.name!r} has a pull that still waits", retryable=True)
        self.is_pulling = True
        try:
            yield self.consumer
        finally:
            self.is_pulling = False


class Consumers:
    """All of them."""

    def __init__(self, quotas: Quotas, idle_s: float) -> None:
        self._quotas, self._idle_s = quotas, idle_s
        self._held: dict[Key, Held] = {}
        self._is_ending = False

    @property
    def idle_s(self) -> float:
        """Silence after which a consumer has left."""
        return self._idle_s

    def add(self, subscription: str, filter: Filter, consumer: Consumer, service: Service) -> None:
        """One that has joined; the engine has fenced an earlier one of the same name. `quotas` counted it before."""
        key = (service.team, subscription, consumer.name)
        if key in self._held:
            self._quotas.consumer_left(service.team)
        self._held[key] = Held(consumer, service, filter)

    @asynccontextmanager
    async def use(self, service: Service, subscription: str, name: str, generation: int) -> AsyncIterator[Held]:
        """One of them, for a request: it lives while that lasts."""
        held = self._held.get((service.team, subscription, name))
        if self._is_ending:
            raise _ending()
        if held is None:
            raise Refusal(
                "unknown_consumer",
                f"no consumer {name!r} of subscription {subscription!r}: it never joined, has left, or was silent for"
                f" {self._idle_s:g} s",
                hint="join again",
            )
        if held.consumer.generation != generation:
            raise Refusal(
                "fenced",
                f"generation {generation} of consumer {name!r} is over: another of its name has joined",
                hint="join again, under a name of its own for each process",
                retryable=True,
            )
        forbidden(may_read(service.scope, held.filter))
        held.uses += 1
        held.service = service  # the newest token is the one that counts
        try:
            yield held
        except Fenced:
            if self._is_ending:
                raise _ending() from None
            if held.why_ended:
                raise ended(held.why_ended) from None
            raise
        finally:
            held.uses -= 1
            held.seen_s = time.monotonic()

    async def leave(self, service: Service, subscription: str, name: str, generation: int) -> None:
        """It gives back what it has."""
        async with self.use(service, subscription, name, generation) as held:
            self._drop((service.team, subscription, name), held)
            await held.consumer.leave()

    def _drop(self, key: Key, held: Held) -> None:
        if self._held.get(key) is held:
            del self._held[key]
            self._quotas.consumer_left(key[0])

    async def second(self, still: Callable[[Service], str]) -> None:
        """Who is silent, or may not go on, leaves."""
        now = time.monotonic()
        for key, held in list(self._held.items()):
            silent = not held.uses and now - held.seen_s > self._idle_s
            held.why_ended = still(held.service)
            if silent or held.why_ended:
                self._drop(key, held)
                await _leave(held)

    async def close(self) -> None:
        """All leave."""
        self._is_ending = True
        held = list(self._held.items())
        for key, one in held:
            self._drop(key, one)
        await asyncio.gather(*(_leave(one) for _, one in held))


def _ending() -> Refusal:
    return Refusal("unavailable", "this server is ending", hint="join again", retryable=True, retry_after_s=COME_BACK_S)


async def _leave(held: Held) -> None:
    try:
        await held.consumer.leave()
    except EngineError:
        pass  # fenced, or the subscription is gone: it has nothing to give back
