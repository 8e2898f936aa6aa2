"""The push stream: a consumer of a subscription over a WebSocket, in packed or in JSON form (API.md).

The connection is the consumer: it joins when the handshake is through and leaves when the connection ends. Events go
out as far as the consumer's credit reaches; what it answers runs beside that, a few at a time, so that many acks share
one sync.

    joined ─ credit ─► sending ─ no credit ─► waiting ─ credit ─► sending …
    any ─ leave | fenced | token ended | server ends | bad message ─► closed (1000, 1001, 4000 + HTTP status)

Invariants: never more events sent than credit given; an answer's `done` comes after its sync; a refusal before the
handshake is an ordinary problem over HTTP. Cost: in packed form nothing in Python once an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, Final

import msgspec
from litestar import WebSocket
from litestar.exceptions import WebSocketException

from engine import Consumer, EngineError
from gateway.api import shapes
from gateway.api.cloudevents import source_of
from gateway.api.door import CHECK_S, Door
from gateway.api.ports import Service
from gateway.api.problems import Refusal, bad, encode, ended, problem_of
from gateway.api.pulling import latest_first
from gateway.api.subscriptions import opened
from gateway.api.wire import (
    PACKED,
    TEXT,
    Ack,
    AckUpTo,
    Asked,
    Credit,
    Done,
    Extend,
    Failed,
    Form,
    Joined,
    Leave,
    Packed,
    Park,
    Retry,
    Text,
)

Socket = WebSocket[Any, Any, Any]
CREDIT_MAX: Final = 2**32 - 1
EVENTS_MAX: Final = 100_000  # of one take; its bytes are bounded by api.frame_bytes_max
WAIT_S: Final = 30.0
PAUSED_S: Final = 1.0  # between two looks at a subscription that is paused
CLOSE_S: Final = 3.0  # for a client that takes nothing: its last words wait no longer
ANSWERS_MAX: Final = 64  # that wait for their sync; beyond it nothing is read
OVER: Final = ("fenced", "unknown_subscription")  # errors after which a consumer is none any more
NORMAL, GOING_AWAY, OWN = 1_000, 1_001, 4_000


async def serve(door: Door, socket: Socket) -> None:
    """One connection, from its handshake to its end."""
    with ExitStack() as held:
        try:
            service = door.admit(socket.headers)
            held.enter_context(door.quotas.stream(service.team))  # before it joins: what follows takes its time
            name, asked = _asked(socket)
            protocol = _protocol(socket)
            subscription, definition = await opened(door, service, name)
            if definition.filter.recipient_away and protocol == PACKED:
                raise bad(f"the filter asks who is away, which packed records don't say: use {TEXT}")
            consumer = await subscription.join(asked.name, in_flight_max=asked.in_flight_max)
        except (Refusal, EngineError) as error:
            await _deny(socket, error)
            return
        try:
            await socket.accept(subprotocols=protocol)
            form: Form = Packed(door.options.frame_bytes_max) if protocol == PACKED else Text(door)
            await PushStream(door, service, socket, consumer, form).run()
        finally:
            await _quietly(consumer.leave())


def _asked(socket: Socket) -> tuple[str, shapes.NewConsumer]:
    try:
        name = msgspec.convert(socket.path_params.get("name"), shapes.Name)
        values = {key: socket.query_params[key] for key in socket.query_params}
        if "consumer" in values:
            values["name"] = values.pop("consumer")
        return name, msgspec.convert(values, shapes.NewConsumer, strict=False)
    except msgspec.ValidationError as error:
        raise bad(f"stream: {error}", hint="it takes consumer and in_flight_max") from None


def _protocol(socket: Socket) -> str:
    # Some servers hand on the header as it came, others its words.
    offered = [word.strip() for line in socket.scope.get("subprotocols") or [] for word in line.split(",")]
    for protocol in (PACKED, TEXT):
        if protocol in offered:
            return protocol
    raise bad(f"Sec-WebSocket-Protocol offers none of {PACKED}, {TEXT}")


async def _deny(socket: Socket, error: Exception) -> None:
    """The handshake is answered with a problem over HTTP."""
    problem, headers = problem_of(error)
    fields = {**headers, "content-type": "application/problem+json"}
    start: Any = {
        "type": "websocket.http.response.start",
        "status": problem.status,
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    body: Any = {"type": "websocket.http.response.body", "body": encode(problem)}
    await socket.receive()
    await socket.send(start)
    await socket.send(body)


class PushStream:
    """One consumer's connection."""

    def __init__(self, door: Door, service: Service, socket: Socket, consumer: Consumer, form: Form) -> None:
        self._door, self._service, self._socket = door, service, socket
        self._consumer, self._form = consumer, form
        self._credit = 0
        self._credited = asyncio.Event()
        self._answers = asyncio.Semaphore(ANSWERS_MAX)
        self._answering: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until something ends it; then it says why, and closes."""
        place = self._door.backend.place()
        await self._send(
            self._form.write(
                Joined(
                    consumer=self._consumer.name,
                    generation=self._consumer.generation,
                    source=source_of(self._door),
                    shard=place.shard,
                    epochs=place.epochs,
                )
            )
        )
        parts: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(part) for part in (self._receive(), self._push(), self._look())
        ]
        parts.append(self._failure)
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in [*parts, *self._answering]:
                part.cancel()
            await asyncio.gather(*parts, *self._answering, return_exceptions=True)
        reasons = [part.exception() for part in parts if part in done]
        await self._close(next((reason for reason in reasons if reason is not None), None))

    async def _close(self, reason: BaseException | None) -> None:
        code, words = NORMAL, ""
        if isinstance(reason, _Gone):
            return
        if isinstance(reason, _Ending):
            code, words = GOING_AWAY, "the server ends"
        elif isinstance(reason, Exception):
            problem, _ = problem_of(reason)
            code, words = OWN + problem.status, problem.code
            await _quietly(self._send(self._form.write(Failed(tag=0, problem=problem))), CLOSE_S)
        await _quietly(self._socket.close(code, words), CLOSE_S)
        if isinstance(reason, Exception) and not isinstance(reason, EngineError | Refusal | _Ending):
            raise reason

    async def _send(self, message: bytes | str) -> None:
        is_text = isinstance(message, str)
        event: Any = {"type": "websocket.send", "text" if is_text else "bytes": message}
        try:
            await self._socket.send(event)
        except (OSError, RuntimeError, WebSocketException):  # as servers say that nobody is there any more
            raise _Gone from None

    # ---- out -------------------------------------------------------------------------------------------------------

    async def _push(self) -> None:
        quotas, team = self._door.quotas, self._service.team
        while True:
            while not self._credit:
                self._credited.clear()
                await self._credited.wait()
            try:
                given = await self._form.take(self._consumer, min(self._credit, EVENTS_MAX), WAIT_S)
            except EngineError as error:
                if error.code != "paused":
                    raise
                await asyncio.sleep(PAUSED_S)
                continue
            if given.count:
                self._credit -= given.count
                await self._send(given.message)
                if pause_s := quotas.charge_reads(team, given.count, len(given.message)):
                    await asyncio.sleep(pause_s)

    async def _look(self) -> None:
        """Ends when the token or the server does."""
        while True:
            try:
                await asyncio.wait_for(self._door.is_closing.wait(), CHECK_S)
            except TimeoutError:
                if why := self._door.who_may.still(self._service):
                    raise ended(why) from None
            else:
                raise _Ending

    # ---- in --------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Ends when the consumer leaves."""
        while True:
            event: Any = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                raise _Gone
            data = event.get("bytes")
            asked = self._form.read(event["text"] if data is None else data)
            if isinstance(asked, Leave):
                return
            if isinstance(asked, Credit):
                self._credit = min(CREDIT_MAX, self._credit + asked.events)
                self._credited.set()
            else:
                await self._answers.acquire()
                task = asyncio.ensure_future(self._answer(asked))
                self._answering.add(task)
                task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._answers.release()
        if not task.cancelled() and (error := task.exception()) and not self._failure.done():
            self._failure.set_exception(error)

    async def _answer(self, asked: Asked) -> None:
        tag = getattr(asked, "tag", 0)
        try:
            await self._act(asked)
        except EngineError as error:
            if error.code in OVER:
                raise
            if tag:
                await self._send(self._form.write(Failed(tag=tag, problem=problem_of(error)[0])))
            return
        if tag:
            await self._send(self._form.write(Done(tag=tag)))

    async def _act(self, asked: Asked) -> None:
        consumer = self._consumer
        if isinstance(asked, Ack):
            await consumer.ack(asked.sequences)
        elif isinstance(asked, AckUpTo):
            await consumer.ack_up_to(asked.sequence)
        elif isinstance(asked, Extend):
            await consumer.extend(asked.sequences, asked.extend_s)
        elif isinstance(asked, Retry):
            for sequence in latest_first(asked.sequences):
                await consumer.retry(sequence, delay_s=asked.delay_s)
        elif isinstance(asked, Park):
            for sequence in asked.sequences:
                await consumer.park(sequence, reason=asked.reason)


class _Gone(Exception):
    """The consumer's end of the connection."""


class _Ending(Exception):
    """The server's."""


async def _quietly(work: Coroutine[Any, Any, Any], limit_s: float | None = None) -> None:
    """Where the other side may be gone already, or take nothing, or the subscription is no more."""
    try:
        await asyncio.wait_for(work, limit_s)
    except Exception:
        pass
