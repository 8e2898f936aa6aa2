"""What only the remote client has: lost connections, servers that are busy, tokens, the bytes of both ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from engine.errors import BadArgument, EngineUnable, Trimmed
from engine.subscriptions.definition import Filter
from engine.subscriptions.loop import ConsumerLoop
from engine.subscriptions.ports import Fenced, StoredEvent
from engine.subscriptions.refusals import NotAllowed, NotNow, Refused, error_of
from gateway import backend_wire
from gateway.api import wire
from gateway.backend import BackendClient
from gateway.backend_consumer import RemoteConsumer
from tests.subscriptions.contract import FIRST, MESSAGES, group, publish, sequences, subscribe, taken
from tests.subscriptions.worlds import remote_world


def test_both_ends_have_the_same_numbers() -> None:
    """Those of the page."""
    for name in (
        "CREDIT", "ACK", "ACK_UP_TO", "RETRY", "EXTEND", "PARK", "LEAVE", "JOINED", "EVENTS", "DONE", "PROBLEM",
        "BACK_OFF", "SEQUENCES_MAX"):  # fmt: skip
        assert getattr(backend_wire, name) == getattr(wire, name), name
    assert backend_wire.HEAD.format == wire.HEAD.format
    assert (backend_wire.PackedForm.protocol, backend_wire.TextForm.protocol) == (wire.PACKED, wire.TEXT)


def test_codes_are_the_exceptions_of_the_process() -> None:
    """What nobody here knows is one of two kinds, with its code."""
    assert isinstance(error_of("fenced", "x"), Fenced)
    assert isinstance(error_of("bad_argument", "x"), BadArgument)
    conflict = error_of("conflict", "x", actual=7)
    assert isinstance(conflict, Refused) and (conflict.code, conflict.actual) == ("conflict", 7)
    assert isinstance(error_of("overloaded", "x"), NotNow)
    for code in ("conflict", "overloaded", "fenced", "bad_token", "new_in_2030"):
        assert error_of(code, "x", hint="what the server says").hint == "what the server says", code
    assert isinstance(error_of("token_expired", "x"), NotAllowed)
    unknown = error_of("new_in_2030", "x", retryable=True)
    assert isinstance(unknown, EngineUnable) and unknown.code == "new_in_2030" and unknown.retryable
    assert not error_of("new_in_2031", "x").retryable


def test_a_token_that_is_not_taken() -> None:
    """Says so, whoever asks; one that is fetched anew is used for the next request."""

    async def check() -> None:
        async with remote_world() as world:
            tokens = ["bad", "team"]
            client = BackendClient(world.url, lambda: tokens[0])
            await subscribe(world, "one", "ordered")
            with pytest.raises(NotAllowed):
                await client.subscription("one")
            tokens.pop(0)
            subscription = await client.subscription("one")
            tokens.insert(0, "bad")
            with pytest.raises(NotAllowed):
                await subscription.join()
            await client.close()

    asyncio.run(check())


def test_nobody_there_is_an_oserror_after_a_while() -> None:
    """What may be said twice is said again meanwhile; what may not, isn't. Each time a token is asked for."""
    said: list[str] = []

    def token() -> str:
        said.append("team")
        return said[-1]

    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    async def check() -> None:
        async with BackendClient(f"http://127.0.0.1:{port}", token, retry_s_max=1.0) as client:
            with pytest.raises(OSError):
                await client.subscriptions()
            assert len(said) >= 2
            said.clear()
            with pytest.raises(OSError):
                await client.publish("message", b"", conversation=1)
            assert len(said) == 1
        with pytest.raises(BadArgument):
            BackendClient("127.0.0.1:8802", "team")

    asyncio.run(check())


async def _abort(consumer: object) -> None:
    assert isinstance(consumer, RemoteConsumer)
    consumer._socket.transport.abort()


def test_a_lost_connection_gives_back_what_it_held() -> None:
    """Whoever calls is told; another consumer gets it at once."""

    async def check() -> None:
        async with remote_world() as world:
            conversation = await group(world)
            subscription = await subscribe(world, "lost", "ordered")
            published = await publish(world, conversation, 3)
            consumer = await subscription.join("one")
            await taken(consumer, 2)
            await consumer.ack(published[:1])
            await _abort(consumer)
            with pytest.raises(ConnectionError):
                await consumer.take(wait_s=5.0)
            with pytest.raises(ConnectionError):
                await consumer.ack(published[1:2])
            await consumer.leave()
            other = await subscription.join("two")
            assert sequences(await taken(other, 2)) == published[1:]

    asyncio.run(check())


def test_a_loop_survives_lost_connections() -> None:
    """And everything is handled."""

    async def check() -> None:
        async with remote_world() as world:
            conversation = await group(world)
            subscription = await subscribe(world, "loop", "ordered")
            consumers: list[RemoteConsumer] = []
            join = subscription.join

            async def noted(consumer: str = "", *, in_flight_max: int | None = None) -> RemoteConsumer:
                consumers.append(await join(consumer, in_flight_max=in_flight_max))  # type: ignore[arg-type]
                return consumers[-1]

            subscription.join = noted  # type: ignore[method-assign]  # to have the connection to cut
            seen: list[int] = []

            async def handle(event: StoredEvent) -> None:
                seen.append(event.sequence)

            loop = ConsumerLoop(subscription, handle)
            running = asyncio.ensure_future(loop.run())
            published = []
            for _ in range(3):
                published += await publish(world, conversation, 20)
                while published[-1] not in seen:
                    await asyncio.sleep(0.01)
                await _abort(consumers[-1])
            published += await publish(world, conversation, 5)
            while (await subscription.standing()).cursor < published[-1]:
                await asyncio.sleep(0.02)
            loop.stop()
            await asyncio.wait_for(running, 10)
            assert sorted(set(seen)) == published and loop.counters.disconnected == 3

    asyncio.run(asyncio.wait_for(check(), 40))


class Way:
    """A way to a port that can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        """All connections of now."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._open |= {writer, back}
        await asyncio.gather(self._pour(reader, back), self._pour(there, writer), return_exceptions=True)

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()


def test_reading_live_survives_lost_connections() -> None:
    """It goes on behind the last event, without a gap or a double."""

    async def check() -> None:
        async with remote_world() as world, Way(int(world.url.rsplit(":", 1)[1])) as way:
            conversation = await group(world)
            client = BackendClient(way.url, "team")
            published = await publish(world, conversation, 3)
            found: list[int] = []

            async def follow() -> None:
                async for event in client.read(after=0, filter=MESSAGES, live=True):
                    found.append(event.sequence)

            following = asyncio.ensure_future(follow())
            for _ in range(2):
                published += await publish(world, conversation, 3)
                while found != published:
                    await asyncio.sleep(0.01)
                way.cut()
            published += await publish(world, conversation, 2)
            while found != published:
                await asyncio.sleep(0.01)
            following.cancel()
            await client.close()

    asyncio.run(asyncio.wait_for(check(), 40))


MANY = 3_000


def test_more_than_a_frame() -> None:
    """Many events, taken in odd portions, packed and not, in order and once."""

    async def check() -> None:
        async with remote_world() as world:
            conversation = await group(world)
            for number in range(MANY):
                world.memory.log.publish(900, "message", b"%d" % number * 20, conversation, 0, "", None)
            subscription = await world.source.create("many", "ordered", start=FIRST, filter=MESSAGES)
            consumer = await subscription.join(in_flight_max=10_000)
            numbers: list[int] = []
            for portion in (1, 2, 1_000, 7, 500):
                numbers += [event.conversation_sequence for event in await consumer.take(events_max=portion)]
            while len(numbers) < MANY:
                packed = await consumer.take_packed(events_max=400, bytes_max=20_000)
                events = backend_wire.events_of(backend_wire.Frame(packed.count, packed.data, []))
                assert 0 < len(packed.data) <= 20_000 and packed.last == events[-1].sequence
                numbers += [event.conversation_sequence for event in events]
            assert numbers == list(range(2, MANY + 2))
            await consumer.ack_up_to(packed.last)
            assert (await subscription.standing()).cursor >= packed.last

    asyncio.run(asyncio.wait_for(check(), 40))


def test_what_can_not_be_said_remotely() -> None:
    """Is refused here, with a reason."""

    async def check() -> None:
        async with remote_world() as world:
            with pytest.raises(BadArgument, match="who is away"):
                async for _ in world.source.read(after=0, filter=Filter(recipient_away=True)):
                    pass
            fields = {"kind": "group", "title": "x", "members": [(5, "admin")]}
            with pytest.raises(BadArgument, match="ordinary role"):
                await world.publisher.command("conversation.created", 0, fields)

    asyncio.run(check())


def test_what_is_not_kept_any_more_is_said_as_in_the_process() -> None:
    """A loop ends with it: joining again, for ever, would mend nothing."""

    async def check() -> None:
        async with remote_world() as world:
            subscription = await subscribe(world, "one", "ordered")
            conversation = await group(world)
            last = (await publish(world, conversation, 5))[-1]
            world.memory.trim(last)

            async def handle(_event: StoredEvent) -> None:
                raise AssertionError("there is nothing to handle")

            with pytest.raises(Trimmed):
                await asyncio.wait_for(ConsumerLoop(subscription, handle).run(), 10)

    asyncio.run(check())
