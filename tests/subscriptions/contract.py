"""The contract of engine/subscriptions/ports.py as tests: what they need, whatever the implementation.

A `World` is one implementation with an empty log; worlds.py has those there are. A check is an async function of a
World; `contract` makes a test of it, which runs in each of them (conftest.py gives `open_world`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from engine.subscriptions.definition import DEFAULTS, Filter, Kind, Settings, Start
from engine.subscriptions.ports import Consumer, EventSource, Fenced, Publisher, StoredEvent, Subscription

SERVICE: Final = 900  # the user as whom the service acts
OTHER: Final = 901
MESSAGES: Final = Filter(types=("message",))
FIRST: Final = Start(first=True)
BRIEF: Final = Settings(ack_timeout_s=1.0, retry_min_s=0.0)  # for what happens when nobody answers
BRIEF_S: Final = 1.3  # longer than that
CHECK_S_MAX: Final = 40.0
KINDS: Final[tuple[Kind, Kind]] = ("ordered", "competing")


class World(Protocol):
    """One implementation, its log empty at the start."""

    source: EventSource
    publisher: Publisher
    """Acts as SERVICE."""
    look_s: float
    """For so long a consumer waits that is to see what there is now: what is in the log is on its way to it."""
    real_time: bool
    """Time passes by itself, so that checks can wait beside each other."""

    def source_of(self, team: str) -> EventSource:
        """As another team sees it."""

    async def pass_time(self, delay_s: float) -> None:
        """Afterwards so much later."""

    async def trim(self, upto: int) -> int:
        """The log lets go of its oldest events, those up to a sequence among them, whoever needs them; the first that
        is kept. Handles of before are good no more."""

    async def connect(self, user: int) -> None:
        """From now on a user has a live session."""

    async def disconnect(self, user: int) -> None:
        """From now on they have none."""


Check = Callable[[World], Awaitable[None]]
OpenWorld = Callable[[], AbstractAsyncContextManager[World]]


def contract(check: Check) -> Callable[[OpenWorld], None]:
    """A test that runs a check in a fresh world."""

    def test(open_world: OpenWorld) -> None:
        async def run() -> None:
            async with open_world() as world:
                await asyncio.wait_for(check(world), CHECK_S_MAX)

        asyncio.run(run())

    test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
    return test


def for_both_kinds(check: Callable[[World, Kind], Awaitable[None]]) -> Callable[[OpenWorld], None]:
    """A test that runs a check for an ordered and for a competing subscription, at the same time where that goes."""

    async def both(world: World) -> None:
        if world.real_time:
            await asyncio.gather(*(check(world, kind) for kind in KINDS))
            return
        for kind in KINDS:
            await check(world, kind)

    both.__name__, both.__doc__, both.__module__ = check.__name__, check.__doc__, check.__module__
    return contract(both)


def for_each_kind(check: Callable[[World, Kind], Awaitable[None]]) -> Callable[[OpenWorld], None]:
    """The same, one after the other: of checks that change the world."""

    async def each(world: World) -> None:
        for kind in KINDS:
            await check(world, kind)

    each.__name__, each.__doc__, each.__module__ = check.__name__, check.__doc__, check.__module__
    return contract(each)


async def group(world: World, members: Sequence[int] = ()) -> int:
    """A new group of the service."""
    fields = {"kind": "group", "title": "a group", "members": [(user, "") for user in members]}
    return (await world.publisher.command("conversation.created", 0, fields)).conversation


async def publish(world: World, conversation: int, count: int, text: str = "word") -> list[int]:
    """So many messages; their sequences."""
    return [
        (await world.publisher.publish("message", f"{text} {number}".encode(), conversation=conversation)).sequence
        for number in range(count)
    ]


async def subscribe(
    world: World, name: str, kind: Kind, settings: Settings = DEFAULTS, filter: Filter = MESSAGES
) -> Subscription:
    """A subscription to all messages there are and will be."""
    return await world.source.create(name, kind, start=FIRST, filter=filter, settings=settings)


async def taken(consumer: Consumer, count: int, wait_s: float = 10.0) -> list[StoredEvent]:
    """The next so many events, however many takes they need."""
    found: list[StoredEvent] = []
    while len(found) < count:
        more = await consumer.take(events_max=count - len(found), wait_s=wait_s)
        assert more, f"{len(found)} of {count} events came"
        found += more
    return found


async def nothing(world: World, consumer: Consumer) -> None:
    """There is nothing for it now."""
    assert await consumer.take(wait_s=world.look_s) == []


async def taken_again(subscription: Subscription, consumer: Consumer, count: int) -> tuple[Consumer, list[StoredEvent]]:
    """As `taken`, by the same consumer or, where it was away for so long that it is fenced, by a new one."""
    try:
        return consumer, await taken(consumer, count)
    except Fenced:
        again = await subscription.join(consumer.name)
        return again, await taken(again, count)


async def later(world: World, delay_s: float, task: asyncio.Task[Any]) -> Any:
    """What a task gives while time passes."""
    await asyncio.sleep(0)
    await world.pass_time(delay_s)
    return await asyncio.wait_for(task, 10)


def sequences(events: Sequence[StoredEvent]) -> list[int]:
    """Of events."""
    return [event.sequence for event in events]


async def read(world: World, filter: Filter = MESSAGES, after: int = 0) -> list[StoredEvent]:
    """All there is, without a subscription."""
    return [event async for event in world.source.read(after=after, filter=filter)]
