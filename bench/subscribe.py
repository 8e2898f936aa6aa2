"""What subscriptions cost: one consumer that reads a log through the socket, and a hundred that want little of it.

*One consumer*: an ordered subscription from the first event, over the door for backends, packed, every event unpacked
to a StoredEvent of all fields, checked to ascend without a gap, and acked up to the last one of each take while the
next one is under way. From join to the last ack. The limit is subscribe_bare.py: the same sizes over a bare TCP
connection, received and unpacked, nothing else; the two take turns.

*A hundred*: competing subscriptions that want one conversation each, all from the first event at once, against one
alone on a fresh start of the server: bytes that the server has read of the log, and its CPU time. Work that is shared
makes the first factor one; the second is the choosing.

*Ten thousand*: bench/subscribe_many.py.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import report, subscribe_bare, subscribe_many
from bench.backends import backend_of, backends_server
from bench.clients import Issuer
from bench.harness import BenchError, Child, Size, alternated, workplace
from bench.open import fill
from bench.proposals import record_bytes_of
from engine import Consumer, Filter, Settings, Start, Subscription

PAYLOAD_BYTES: Final = 213  # records of 300 bytes
TARGET_PER_S: Final = 1_000_000
TAKE_EVENTS: Final = 50_000
IN_FLIGHT_MAX: Final = 200_000
FRAME_EVENTS: Final = 1_700  # of the bare limit: frames of 512 KiB, as the door sends them
WAIT_S: Final = 20.0
LOOK_S: Final = 0.5
DRAIN_S: Final = 120.0
METRIC_S: Final = 1.5  # the server counts for its metrics once a second
COMMIT_EVENTS: Final = 1_000
MANY: Final = 100
READ_BYTES: Final = "gonets_subscription_read_bytes"


class Scale(NamedTuple):
    """How much."""

    events: int
    dialogs: int
    many: int


SCALES: Final = {"smoke": Scale(20_000, 200, 10), "short": Scale(1_000_000, 20_000, MANY)}
FULL: Final = Scale(3_000_000, 60_000, MANY)


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """All cases."""
    scale, issuer = SCALES.get(size.name, FULL), Issuer()
    with workplace("subscribe", folder) as place:
        conversations, last, durability = _fill(place / "data", scale)
        more = {
            "durability": durability,
            "filesystem": report.filesystem_of(place),
            "events_per_run": last,
            "record_bytes": record_bytes_of(PAYLOAD_BYTES),
        }
        one = _one(size, place, issuer, last, more)
        shared = _shared(size, place, issuer, conversations[: scale.many], last, more)
        return [one, *shared, *subscribe_many.cases(size, place, issuer, durability)]


def _fill(data: Path, scale: Scale) -> tuple[list[int], int, str]:
    """A log; conversations of it, its last sequence."""
    size = record_bytes_of(PAYLOAD_BYTES)
    engine = fill(data, scale.events, scale.dialogs, 1_000_000, size, events_per_commit=COMMIT_EVENTS)
    last, durability = engine.log.last_sequence, engine.durability
    engine.close()
    return list(range(1, scale.dialogs + 1)), last, durability


# ---- one consumer ----------------------------------------------------------------------------------------------------


def _one(size: Size, folder: Path, issuer: Issuer, last: int, more: dict[str, Any]) -> report.Case:
    frames = -(-last // FRAME_EVENTS)
    arguments = [str(number) for number in (frames, FRAME_EVENTS, PAYLOAD_BYTES)]
    with backends_server(folder, issuer) as server, Child("bench.subscribe_bare", arguments, {}, folder) as bare:
        names = iter(f"one-{number}" for number in range(100))

        def ours() -> float:
            begin, cpu_s = time.perf_counter(), server.cpu_s()
            asyncio.run(_read(server, issuer, next(names), last))
            seconds = time.perf_counter() - begin
            busy.append((server.cpu_s() - cpu_s) / seconds)
            return last / seconds

        busy: list[float] = []
        rates, limits = alternated(
            size.runs,
            ours,
            lambda: subscribe_bare.read(bare.host, bare.port, frames, FRAME_EVENTS, PAYLOAD_BYTES),
        )
    title = "one consumer, every event through the socket"
    return report.rated(
        title, rates, limits, target=TARGET_PER_S, server_cpu_cores=round(sorted(busy)[len(busy) // 2], 2), **more
    )


async def _read(server: Child, issuer: Issuer, name: str, last: int) -> None:
    """All of the log but the records of subscriptions themselves. Raises BenchError if it isn't."""
    async with backend_of(server, issuer) as client:
        filter = Filter(kinds=("dialog",))
        settings = Settings(in_flight_max=IN_FLIGHT_MAX)
        subscription = await client.create(name, "ordered", start=Start(first=True), filter=filter, settings=settings)
        consumer = await subscription.join("reader", in_flight_max=IN_FLIGHT_MAX)
        acking: asyncio.Task[None] | None = None
        reached = 0
        while reached < last:
            events = await consumer.take(events_max=TAKE_EVENTS, wait_s=WAIT_S)
            if not events:
                raise BenchError(f"nothing came for {WAIT_S:.0f} s behind {reached} of {last}")
            if [event.sequence for event in events] != list(range(reached + 1, reached + len(events) + 1)):
                raise BenchError(f"behind {reached}: what came does not go on from there")
            reached += len(events)
            if acking is not None:
                await acking
            acking = asyncio.ensure_future(consumer.ack_up_to(reached))
        if acking is not None:
            await acking
        if (cursor := (await subscription.standing()).cursor) < last:
            raise BenchError(f"all was acked, and the cursor is at {cursor} of {last}")
        await consumer.leave()
        await client.delete(name)


# ---- a hundred -------------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of some subscriptions that went through the log."""

    read_bytes: float
    cpu_s: float
    seconds: float


def _shared(
    size: Size, folder: Path, issuer: Issuer, conversations: Sequence[int], last: int, more: dict[str, Any]
) -> list[report.Case]:
    alone, all_of_them = [], []
    for _ in range(size.runs):
        alone.append(_cost(folder, issuer, conversations[:1], last))
        all_of_them.append(_cost(folder, issuer, conversations, last))
    many = f"{len(conversations)} subscriptions of one conversation each, against one"
    pairs = list(zip(all_of_them, alone, strict=True))
    return [
        report.valued(
            f"{many}: bytes read of the log",
            [ours.read_bytes / one.read_bytes for ours, one in pairs],
            "times",
            2,
            one_read_bytes=round(alone[0].read_bytes),
            **more,
        ),
        report.valued(
            f"{many}: CPU of the server",
            [ours.cpu_s / one.cpu_s for ours, one in pairs],
            "times",
            2,
            one_cpu_s=round(alone[0].cpu_s, 2),
            seconds=round(all_of_them[0].seconds, 2),
            **more,
        ),
    ]


def _cost(folder: Path, issuer: Issuer, conversations: Sequence[int], last: int) -> Cost:
    """On a server that has just started, so that nothing is known yet."""
    with backends_server(folder, issuer) as server:
        return asyncio.run(_through(server, issuer, conversations, last))


async def _through(server: Child, issuer: Issuer, conversations: Sequence[int], last: int) -> Cost:
    async with backend_of(server, issuer) as client:
        subscriptions = [
            await client.create(
                f"part-{number}", "competing", start=Start(first=True), filter=Filter(conversations=(number,))
            )
            for number in conversations
        ]
        await asyncio.sleep(METRIC_S)
        read_bytes, cpu_s, begin = _metric(server), server.cpu_s(), time.perf_counter()
        consumers = await asyncio.gather(*(subscription.join() for subscription in subscriptions))
        pairs = zip(subscriptions, consumers, strict=True)
        counts = await asyncio.gather(*(_drain(subscription, consumer, last) for subscription, consumer in pairs))
        seconds, used_s = time.perf_counter() - begin, server.cpu_s() - cpu_s
        await asyncio.sleep(METRIC_S)
        cost = Cost(_metric(server) - read_bytes, used_s, seconds)
        if not all(counts) or not cost.read_bytes:
            raise BenchError(f"subscriptions got {counts} events, and {cost.read_bytes} bytes were read")
        for consumer in consumers:
            await consumer.leave()
        for number in conversations:
            await client.delete(f"part-{number}")
        return cost


async def _drain(subscription: Subscription, consumer: Consumer, last: int) -> int:
    """Acks all that comes, until the cursor is at the end; how many."""
    count, until_s = 0, time.monotonic() + DRAIN_S
    while True:
        if events := await consumer.take(wait_s=LOOK_S):
            await consumer.ack([event.sequence for event in events])
            count += len(events)
        elif (cursor := (await subscription.standing()).cursor) >= last:
            return count
        elif time.monotonic() > until_s:
            raise BenchError(f"after {DRAIN_S:.0f} s subscription {subscription.name} is at {cursor} of {last}")


# ---- the server ------------------------------------------------------------------------------------------------------


def _metric(server: Child) -> float:
    """Bytes of the log that the server's subscriptions have read."""
    with urllib.request.urlopen(f"{server.ready['admin']}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(READ_BYTES) and not line.startswith("#"):
                return float(line.rsplit(" ", 1)[1])
    raise BenchError(f"/metrics has no {READ_BYTES}")
