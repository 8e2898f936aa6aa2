"""Ten thousand subscriptions on one log, each of which wants one type of its own: an event's time to its consumer.

As many of them as the server gives connections to are consumed, over a WebSocket each; all of them are at the tail. An
event for one of them is published, and the next once that was acked, so that the time is that of one event, from the
call of publish to the return of take. By turns with a server that has one subscription.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bench import report
from bench.backends import backend_of, backends_server
from bench.clients import Issuer
from bench.harness import BenchError, Child, Size, raise_descriptor_limit, workplace
from engine import Consumer, Filter, StoredEvent, Subscription
from gateway import BackendClient

PERSON: Final = 77
WAIT_S: Final = 30.0
SPARE_DESCRIPTORS: Final = 500
ABREAST: Final = 100  # requests at once while all are made


class Crowd(NamedTuple):
    """How many subscriptions, how many of them have a consumer, how many events are published; and how long after the
    last has joined, while all come to the tail."""

    subscriptions: int
    consumed: int
    events: int
    settled_s: float


CROWDS: Final = {"smoke": Crowd(40, 20, 10, 0.2), "short": Crowd(2_000, 1_000, 100, 2.0)}
FULL: Final = Crowd(10_000, 4_500, 300, 2.0)
RUNS_MAX: Final = 3  # each makes ten thousand anew

Answer = TypeVar("Answer")


class Seen(NamedTuple):
    """Of one server: each event's time to its consumer, the server's CPU for each event."""

    times_s: list[float]
    cpu_s: float
    made_s: float


def cases(size: Size, folder: Path, issuer: Issuer, durability: str) -> list[report.Case]:
    """The time, and what it costs."""
    crowd = CROWDS.get(size.name, FULL)
    raise_descriptor_limit(crowd.consumed + SPARE_DESCRIPTORS)
    alone, many = [], []
    for _ in range(min(size.runs, RUNS_MAX)):
        alone.append(_seen(folder, issuer, crowd._replace(subscriptions=1, consumed=1)))
        many.append(_seen(folder, issuer, crowd))
    title = f"{crowd.subscriptions:,} subscriptions of one type each, {crowd.consumed:,} consumed"
    more = {
        "events_per_run": crowd.events,
        "made_s": round(statistics.median(one.made_s for one in many), 1),
        "durability": durability,
        "filesystem": report.filesystem_of(folder),
    }
    return [
        report.valued(
            f"{title}: an event to its consumer",
            [1_000 * statistics.median(one.times_s) for one in many],
            "ms",
            2,
            alone_ms=round(1_000 * statistics.median(statistics.median(one.times_s) for one in alone), 2),
            worst_ms=round(1_000 * max(max(one.times_s) for one in many), 1),
            **more,
        ),
        report.valued(
            f"{title}: CPU of the server for an event, idle included",
            [1_000 * one.cpu_s / crowd.events for one in many],
            "ms",
            2,
            alone_ms=round(1_000 * statistics.median(one.cpu_s / crowd.events for one in alone), 2),
            **more,
        ),
    ]


def _seen(folder: Path, issuer: Issuer, crowd: Crowd) -> Seen:
    """On a server and a log of their own."""
    with workplace("many", folder) as place, backends_server(place, issuer) as server:
        return asyncio.run(_through(server, issuer, crowd))


async def _through(server: Child, issuer: Issuer, crowd: Crowd) -> Seen:
    async with backend_of(server, issuer) as client:
        begin = time.perf_counter()
        filters = [Filter(types=(f"bench.n{number}",)) for number in range(crowd.subscriptions)]
        made: list[Subscription] = await _abreast(
            client.create(f"many-{number}", "competing", filter=filter) for number, filter in enumerate(filters)
        )
        consumers = await _joined(made[: crowd.consumed])
        made_s = time.perf_counter() - begin
        waiting = [asyncio.ensure_future(consumer.take(wait_s=WAIT_S)) for consumer in consumers]
        await asyncio.sleep(crowd.settled_s)
        cpu_s, times_s = server.cpu_s(), list[float]()
        for number in range(crowd.events):
            at = number * 37 % crowd.consumed
            times_s.append(await _one(client, consumers[at], waiting[at], at))
            waiting[at] = asyncio.ensure_future(consumers[at].take(wait_s=WAIT_S))
        seen = Seen(times_s, server.cpu_s() - cpu_s, made_s)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return seen


async def _joined(subscriptions: Sequence[Subscription]) -> list[Consumer]:
    """A consumer of each."""
    return await _abreast(subscription.join() for subscription in subscriptions)


async def _one(client: BackendClient, consumer: Consumer, taking: asyncio.Future[list[StoredEvent]], at: int) -> float:
    """Publishes to one, and waits for it there."""
    begin = time.perf_counter()
    receipt = await client.publish(f"bench.n{at}", b"{}", person=PERSON)
    events = await taking
    seconds = time.perf_counter() - begin
    if [event.sequence for event in events] != [receipt.sequence]:
        raise BenchError(f"event {receipt.sequence} was published, and what came of it within {WAIT_S:.0f} s: {events}")
    await consumer.ack([receipt.sequence])
    return seconds


async def _abreast(jobs: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """All of them, so many at once."""
    places = asyncio.Semaphore(ABREAST)

    async def one(job: Awaitable[Answer]) -> Answer:
        async with places:
            return await job

    return list(await asyncio.gather(*(one(job) for job in jobs)))
