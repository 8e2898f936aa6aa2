"""The client against a gateway that breaks, refuses, repeats and forgets: nothing lost, nothing doubled.

The gateway is the fake of tests/support, written from the protocol page; the real one is tested end to end elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from gateway import client_link
from gateway.client import (
    Busy,
    Client,
    ClientError,
    CommandFailed,
    Conflict,
    Event,
    Forbidden,
    Gap,
    HistoryReplaced,
    Incomplete,
    Reset,
    SessionEnded,
    Signal,
)
from tests.support.fake_gateway import FakeGateway


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    monkeypatch.setattr(client_link, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(client_link, "RETRY_FIRST_S", 0.001)
    with FakeGateway() as gateway:
        yield gateway


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test that is a coroutine, in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 30))

    return run


ENCODINGS = pytest.mark.parametrize("encoding", ["msgpack", "json"])


async def take(client: Client, count: int) -> list[Event]:
    async def some() -> list[Event]:
        events: list[Event] = []
        while len(events) < count:
            events.append(await anext(client))
        return events

    return await asyncio.wait_for(some(), 5)


async def group(client: Client, *members: int) -> int:
    return (await client.create("group", "g", members)).conversation


@ENCODINGS
@asynchronous
async def test_publish_and_receive(fake: FakeGateway, encoding: Any) -> None:
    payload = bytes(range(256))
    async with Client(fake.url, "1", 1, encoding=encoding) as one, Client(fake.url, "2", 1, encoding=encoding) as two:
        conversation = await group(one, 2)
        receipt = await one.publish(conversation=conversation, payload=payload)
        reaction = await two.react(conversation, receipt.sequence, b"\xff+1")
        await two.leave(conversation)
        for client in (one, two):
            created, message, reacted, left = await take(client, 4)
            assert created.type == "conversation.created"
            assert created.data["members"] == [[1, "owner"], [2, "member"]]
            assert (message.payload, message.sequence, message.sender) == (payload, receipt.sequence, 1)
            assert message.previous == created.sequence
            assert dict(reacted.data) == {"target": receipt.sequence, "body": b"\xff+1"}
            assert reacted.sequence == reaction.sequence
            assert left.type == "member.left"
            assert client.positions == [{"shard": 0, "epoch": 1, "sequence": 4}]


@ENCODINGS
@asynchronous
async def test_breaks_lose_and_double_nothing(fake: FakeGateway, encoding: Any) -> None:
    """Writes are under way while all connections break again and again; receipts swallowed: each is stored once."""
    fake.swallow = lambda command: command["counter"] % 7 == 0
    async with Client(fake.url, "1", 1, encoding=encoding) as one, Client(fake.url, "2", 1) as two:
        conversation = await group(one, 2)

        async def breaks() -> None:
            for _ in range(5):
                await asyncio.sleep(0.05)
                await asyncio.to_thread(fake.break_all)

        breaking = asyncio.create_task(breaks())
        receipts = await asyncio.gather(
            *(one.publish(conversation=conversation, payload=str(n).encode()) for n in range(200))
        )
        await breaking
        events = await take(two, 201)
        await two.ping()
        assert not any(isinstance(item, Event) for item in two._link.stream.queue)
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert sorted(receipt.sequence for receipt in receipts) == sequences[1:]
    assert sorted(int(event.payload) for event in events[1:]) == list(range(200))


@asynchronous
async def test_same_counter_after_a_restart(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1) as client:
        conversation = await group(client)
        first = await client.publish(conversation=conversation, text="x", counter=9)
    async with Client(fake.url, "1", 1) as client:
        second = await client.publish(conversation=conversation, text="x", counter=9)
        third = await client.publish(conversation=conversation, text="y")
    assert second.repeat and second.sequence == first.sequence
    assert third.counter == 10


@asynchronous
async def test_resume_from_stored_position(fake: FakeGateway) -> None:
    async with Client(fake.url, "2", 1) as two:
        positions = two.positions
    async with Client(fake.url, "1", 1) as one:
        conversation = await group(one, 2)
        for n in range(5):
            await one.publish(conversation=conversation, text=str(n))
    async with Client(fake.url, "2", 1, positions=positions) as two:
        assert [event.sequence for event in await take(two, 3)] == [1, 2, 3]
        assert two.positions == positions, "positions stand still until the resume is complete"
        await take(two, 3)
        await two.ping()
        waiting = asyncio.create_task(anext(two))
        await asyncio.sleep(0.01)
        assert two.positions[0]["sequence"] == 6
        waiting.cancel()


@asynchronous
async def test_gap_is_filled_in_order_or_shown(fake: FakeGateway) -> None:
    fake.gap_over = 10
    async with Client(fake.url, "1", 1) as one:
        await asyncio.gather(*(one.ping() for _ in range(3)))
        conversation = await group(one, 2)
        for n in range(300):
            await one.publish(conversation=conversation, text=str(n))
        positions = [{"shard": 0, "epoch": 1, "sequence": 7}]
        async with Client(fake.url, "2", 1, positions=positions) as two:
            filled = await take(two, 294)
            assert [event.sequence for event in filled] == list(range(8, 302))
            await one.publish(conversation=conversation, text="live")
            assert (await take(two, 1))[0].text == "live"
            assert two.positions[0]["sequence"] == 302
        async with Client(fake.url, "2", 2, positions=positions) as two:
            gap = await anext(two.stream())
            assert isinstance(gap, Gap) and (gap.after, gap.before) == (7, 303)
            page = await two.history(conversation, before=gap.next, limit=10)
            assert [event.sequence for event in page.events] == list(range(300, 290, -1))


@asynchronous
async def test_damage_in_a_gap_is_said_and_the_rest_is_filled(fake: FakeGateway) -> None:
    """History goes on beneath what can't be read."""
    fake.gap_over, fake.lost = 10, {20, 21, 40}
    async with Client(fake.url, "1", 1) as one:
        conversation = await group(one, 2)
        for n in range(100):
            await one.publish(conversation=conversation, text=str(n))
        async with Client(fake.url, "2", 1, positions=[{"shard": 0, "epoch": 1, "sequence": 7}]) as two:
            with pytest.raises(Incomplete) as caught:
                await anext(two)
            assert caught.value.code == "damaged"
            last = len(fake.events)
            expected = [sequence for sequence in range(8, last + 1) if sequence not in fake.lost]
            assert [event.sequence for event in await take(two, len(expected))] == expected


@asynchronous
async def test_reset_is_surfaced(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1) as one:
        conversation = await group(one)
        for _ in range(4):
            await one.publish(conversation=conversation, text="x")
        await take(one, 5)
        del fake.events[3:]
        fake.epoch, fake.reset_to = 2, 3
        await asyncio.to_thread(fake.break_all)
        with pytest.raises(HistoryReplaced) as caught:
            await take(one, 1)
        assert caught.value.reset == Reset(0, 2, 3)
        await one.publish(conversation=conversation, text="new")
        assert [(event.sequence, event.text) for event in await take(one, 1)] == [(4, "new")]
        assert one.positions == [{"shard": 0, "epoch": 2, "sequence": 4}]


@asynchronous
async def test_refusals_have_classes_and_policy(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1, retry_timeout_s=0.2) as client:
        conversation = await group(client)
        fake.refuse = lambda command: ("forbidden", 0)
        with pytest.raises(Forbidden) as caught:
            await client.publish(conversation=conversation, text="x")
        assert not caught.value.retryable and caught.value.hint
        fake.refuse = lambda command: ("conflict", 0)
        with pytest.raises(Conflict) as conflict:
            await client.publish(conversation=conversation, text="x", expected=5)
        assert conflict.value.actual == 0
        fake.refuse = lambda command: ("overloaded", 10)
        with pytest.raises(Busy) as busy:
            await client.publish(conversation=conversation, text="x")
        assert busy.value.retryable


@asynchronous
async def test_passing_refusal_is_retried_with_the_same_counter(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1) as client:
        conversation = await group(client)
        times: dict[int, int] = {}

        def refuse(command: dict[str, Any]) -> tuple[str, int] | None:
            times[command["counter"]] = times.get(command["counter"], 0) + 1
            return ("rate_limited", 5) if times[command["counter"]] < 3 else None

        fake.refuse = refuse
        receipts = await asyncio.gather(*(client.publish(conversation=conversation, text="x") for _ in range(100)))
        assert sorted(receipt.counter for receipt in receipts) == list(range(2, 102))
        assert set(times.values()) == {3}


@asynchronous
async def test_counters_stay_inside_the_repeat_window(fake: FakeGateway) -> None:
    """One write is stuck: others may go on only so far that its counter is still remembered."""
    async with Client(fake.url, "1", 1) as client:
        conversation = await group(client)
        fake.refuse = lambda command: ("overloaded", 300) if command["counter"] == 2 else None
        stuck = asyncio.create_task(client.publish(conversation=conversation, text="stuck"))
        others = [asyncio.create_task(client.publish(conversation=conversation, text="x")) for _ in range(100)]
        await asyncio.sleep(0.2)
        assert max(command["counter"] for command in fake.commands) == 65
        fake.refuse = lambda command: None
        await asyncio.gather(stuck, *others)


@asynchronous
async def test_command_errors(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1) as client:
        fake.fail = lambda command: {"code": "forbidden", "message": "m", "hint": "h", "retryable": False}
        with pytest.raises(CommandFailed) as caught:
            await client.members(5)
        assert (caught.value.code, caught.value.hint, caught.value.retryable) == ("forbidden", "h", False)
        failures = iter([{"code": "too_many_jobs", "message": "", "hint": "", "retryable": True, "retry_after_ms": 1}])
        fake.fail = lambda command: next(failures, None)
        assert await client.members(5) == []


@asynchronous
async def test_lists_are_paged(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1, encoding="json") as client:
        conversation = await group(client, 2, 3, 4, 5)
        for _ in range(4):
            await group(client)
        assert [member.user for member in await client.members(conversation)] == [1, 2, 3, 4, 5]
        assert [entry.conversation for entry in await client.conversations()] == [1, 2, 3, 4, 5]


@asynchronous
async def test_close_codes(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1) as client:
        await asyncio.to_thread(fake.close_all, 4001, "drain; retry_after_ms=30")
        await client.ping()
        assert len(fake.hellos) == 2
        waiting = asyncio.create_task(anext(client))
        await asyncio.to_thread(fake.close_all, 4500, "replaced")
        with pytest.raises(SessionEnded) as caught:
            await asyncio.wait_for(waiting, 5)
        assert (caught.value.close_code, caught.value.code) == (4500, "replaced")
        with pytest.raises(SessionEnded):
            await client.publish(user=2, text="x")


@asynchronous
async def test_first_connection_failing_is_told(fake: FakeGateway) -> None:
    with pytest.raises(SessionEnded) as caught:
        await Client(fake.url, "bad", 1).connect()
    assert caught.value.code == "bad_token"
    fake.stop()
    with pytest.raises(OSError):
        await Client(fake.url, "1", 1).connect()
    fake.start()


@asynchronous
async def test_tokens_are_renewed(fake: FakeGateway) -> None:
    fake.expires_s = 1.2
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        return "1"

    async with Client(fake.url, source, 1):
        await asyncio.sleep(1.2)
        assert asked == 2 and fake.commands[-1]["op"] == "refresh"
    fake.expires_s = 3600
    async with Client(fake.url, "1", 1) as fixed:
        await asyncio.to_thread(fake.close_all, 4003, "token_expired")
        with pytest.raises(SessionEnded):
            await asyncio.wait_for(anext(fixed), 5)


@asynchronous
async def test_slow_application_pauses_reading_but_not_answers(fake: FakeGateway) -> None:
    async with Client(fake.url, "1", 1) as one, Client(fake.url, "2", 1, queue_events=5) as two:
        conversation = await group(one, 2)
        for _ in range(50):
            await one.publish(conversation=conversation, text="x" * 1000)
        await asyncio.sleep(0.05)
        assert len(two._link.stream.queue) <= 6
        await two.publish(conversation=conversation, text="mine")
        assert [event.sequence for event in await take(two, 52)] == list(range(1, 53))


@asynchronous
async def test_signals_and_send_only(fake: FakeGateway) -> None:
    got: list[Signal] = []
    async with Client(fake.url, "1", 1) as one, Client(fake.url, "2", 1, receive=False, on_signal=got.append) as two:
        conversation = await group(one, 2)
        await one.typing(conversation)
        await one.ping()  # typing has no answer: this one says that the gateway has taken it
        await asyncio.to_thread(fake.push, "advice", {"kind": "upgrade", "retry_after_ms": 0})
        await asyncio.to_thread(fake.push, "pong", {"unknown": 1})
        await two.ping()
        assert [(signal.kind, signal.user) for signal in got] == [("typing", 1), ("advice", 0)]
        assert not two._link.stream.queue


@asynchronous
async def test_close_ends_iteration_and_waiters(fake: FakeGateway) -> None:
    client = Client(fake.url, "1", 1)
    await client.connect()

    async def collect() -> list[Event]:
        return [event async for event in client]

    fake.refuse = lambda command: ("overloaded", 10_000)
    listening, writing = asyncio.create_task(collect()), asyncio.create_task(client.publish(user=2, text="x"))
    await asyncio.sleep(0.05)
    await client.close()
    assert await listening == []
    with pytest.raises(ClientError, match="closed"):
        await writing


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"conversation": 1, "user": 2},
        {"user": 0, "text": "x"},
        {"user": 2**53, "text": "x"},
        {"user": 1, "text": "x", "payload": b"x"},
        {"user": 1, "payload": b"x" * 65_537},
        {"user": 1, "type": "message.edited"},
    ],
)
@asynchronous
async def test_bad_arguments_are_refused_before_sending(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        await Client("ws://127.0.0.1:1/v1", "1", 1).publish(**bad)
