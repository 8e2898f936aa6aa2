"""Server-sent events: all that comes, as CloudEvents, on a connection that stays open.

An event's `id` is what a browser or a library sends as Last-Event-ID when it comes back; `event` is its type. Silence
is broken by comments. A stream ends when the client goes, when its token expires or is revoked (the last event is then
a `problem`), or with the server.

Invariants: what can be refused is refused before the first byte, as an ordinary problem; a team over its rate waits.
Cost: one CloudEvent as JSON and one write an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec
from litestar.response import Stream

from engine import EngineError, StoredEvent
from gateway.api.cloudevents import cloud_event
from gateway.api.door import CHECK_S
from gateway.api.operation import Answer, Call
from gateway.api.problems import Refusal, encode, ended, problem_of

SSE: Final = "text/event-stream"
SILENCE_S: Final = 15.0
RECONNECT_MS: Final = 2_000
REFUSAL_S: Final = 0.05  # in which a reader that can't begin says so
_ENCODER = msgspec.json.Encoder()

Coming = asyncio.Future[StoredEvent | None]


async def stream(call: Call, events: AsyncIterator[StoredEvent]) -> Answer:
    """The answer that goes on and on. Raises what the first look at the log raises."""
    call.door.quotas.check_streams(call.service.team)
    coming = _next(events)
    await asyncio.wait({coming}, timeout=REFUSAL_S)
    if coming.done() and (error := coming.exception()) is not None:
        raise error
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return Stream(_sent(call, events, coming), media_type=SSE, headers=headers)


async def _sent(call: Call, events: AsyncIterator[StoredEvent], coming: Coming) -> AsyncGenerator[bytes, None]:
    door, team = call.door, call.service.team
    try:
        with door.quotas.stream(team):
            yield b"retry: %d\n" % RECONNECT_MS  # a field of the first event: alone it would be one without data
            silent_s = 0.0
            while not door.is_closing.is_set():
                await asyncio.wait({coming}, timeout=CHECK_S)
                if why := door.who_may.still(call.service):
                    yield _problem(ended(why))
                    return
                if not coming.done():
                    silent_s += CHECK_S
                    if silent_s >= SILENCE_S:
                        silent_s = 0.0
                        yield b": nothing new\n"
                    continue
                silent_s = 0.0
                event = coming.result()
                if event is None:
                    return
                coming = _next(events)
                data = _ENCODER.encode(cloud_event(door, event))
                yield b"id: %b\nevent: %b\ndata: %b\n\n" % (
                    door.id_of(event.sequence).encode(),
                    event.type.encode(),
                    data,
                )
                if pause_s := door.quotas.charge_reads(team, 1, len(data)):
                    await asyncio.sleep(pause_s)
    except (EngineError, Refusal) as error:
        yield _problem(error)
    finally:
        coming.cancel()
        door.later(_closed(coming, events))  # here nothing can be awaited any more when the client has gone


async def _closed(coming: Coming, events: AsyncIterator[StoredEvent]) -> None:
    await asyncio.wait({coming})
    if isinstance(events, AsyncGenerator):
        await events.aclose()


def _next(events: AsyncIterator[StoredEvent]) -> Coming:
    async def one() -> StoredEvent | None:
        async for event in events:
            return event
        return None

    return asyncio.ensure_future(one())


def _problem(error: Exception) -> bytes:
    """The last event of a stream that ends for a reason."""
    return b"event: problem\ndata: %b\n\n" % encode(problem_of(error)[0])
