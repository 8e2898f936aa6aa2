"""Publishes of services over a real engine: receipts, keys, refusals in the words of admission, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from engine import schema
from engine.engine import Engine
from engine.errors import CallerError, EngineError
from engine.subscriptions.publishing import Publishing

T = TypeVar("T")
SERVICE = 900


def with_engine(data: Path, work: Callable[[Publishing], Awaitable[T]]) -> T:
    """Runs a piece of work over the engine of a directory."""

    async def run() -> T:
        loop = asyncio.get_running_loop()

        def answers(batch: bytes) -> None:
            loop.call_soon_threadsafe(publishing.answer, batch)

        engine = Engine.open(data, on_answers=answers, on_committed=lambda sequence: None)
        publishing = Publishing(engine.sequencer.submit)
        try:
            return await work(publishing)
        finally:
            publishing.close()
            await asyncio.to_thread(engine.close)

    return asyncio.run(run())


def test_a_key_makes_a_repeat_harmless_across_a_restart(tmp_path: Path) -> None:
    async def twice(publishing: Publishing) -> tuple[int, bool, int, bool]:
        publisher = publishing.publisher(SERVICE)
        first, second = await asyncio.gather(
            *(publisher.publish("message", b"hello", person=5, key="one") for _ in range(2))
        )
        return first.sequence, first.repeat, second.sequence, second.repeat

    first, was_repeat, second, is_repeat = with_engine(tmp_path, twice)
    assert first == second and not was_repeat and is_repeat
    assert with_engine(tmp_path, twice) == (first, True, first, True)


def test_many_at_once_are_each_answered_with_their_own_place(tmp_path: Path) -> None:
    async def many(publishing: Publishing) -> list[tuple[int, int]]:
        publisher = publishing.publisher(SERVICE)
        receipts = await asyncio.gather(*(publisher.publish("message", b"x", person=5) for _ in range(500)))
        assert publishing.waiting == 0 and publishing.taken == 500
        return [(receipt.sequence, receipt.conversation_sequence) for receipt in receipts]

    places = with_engine(tmp_path, many)
    assert places == [(places[0][0] + number, places[0][1] + number) for number in range(500)]


def test_commands_make_conversations_and_members(tmp_path: Path) -> None:
    async def work(publishing: Publishing) -> None:
        publisher = publishing.publisher(SERVICE)
        made = await publisher.command(schema.CREATED, 0, {"kind": "group", "title": "ours"}, key="group")
        again = await publisher.command(schema.CREATED, 0, {"kind": "group", "title": "ours"}, key="group")
        assert again.repeat and again.conversation == made.conversation
        await publisher.command(schema.ADDED, made.conversation, {"user": 7})
        with pytest.raises(CallerError) as refused:
            await publisher.command(schema.ADDED, made.conversation, {"user": 7})
        assert refused.value.code == "unchanged"
        with pytest.raises(CallerError) as refused:
            await publisher.publish("message", b"x", conversation=made.conversation, expected=1)
        assert refused.value.code == "conflict" and getattr(refused.value, "actual", 0) == 2

    with_engine(tmp_path, work)


@pytest.mark.parametrize(
    ("type_name", "options", "code"),
    [
        ("message", {}, "bad_id"),
        ("message", {"conversation": 1, "person": 5}, "bad_id"),
        ("message", {"person": SERVICE}, "bad_id"),
        ("message", {"conversation": 404}, "unknown_conversation"),
        ("Not a type", {"person": 5}, "bad_type"),
        ("é", {"person": 5}, "bad_type"),
        ("member.added", {"person": 5}, "bad_type"),
        ("subscription.created", {"person": 5}, "bad_type"),
        ("message", {"person": 2**53}, "bad_id"),
        ("message", {"person": 5, "key": "k" * 257}, "bad_argument"),
        ("message", {"person": 5, "key": "\ud800"}, "bad_argument"),
    ],
)
def test_what_can_not_be_is_refused_by_name(
    tmp_path: Path, type_name: str, options: dict[str, object], code: str
) -> None:
    async def work(publishing: Publishing) -> None:
        with pytest.raises(EngineError) as refused:
            await publishing.publisher(SERVICE).publish(type_name, b"x", **options)  # type: ignore[arg-type]
        assert refused.value.code == code and publishing.waiting == 0

    with_engine(tmp_path, work)


def test_the_end_answers_whoever_waits(tmp_path: Path) -> None:
    """An engine that never answers: the publish may be in the log, and its key would find out."""

    async def run() -> None:
        publishing = Publishing(lambda batch: True)
        waiting = asyncio.ensure_future(publishing.publisher(SERVICE).publish("message", b"x", person=5))
        await asyncio.sleep(0)
        assert publishing.waiting == 1
        publishing.close()
        with pytest.raises(EngineError) as refused:
            await waiting
        assert refused.value.code == "unavailable" and refused.value.retryable
        with pytest.raises(EngineError):
            await publishing.publisher(SERVICE).publish("message", b"x", person=5)

    asyncio.run(run())
