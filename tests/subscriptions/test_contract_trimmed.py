"""The contract where the log has let go of its beginning: an explicit answer, with the first event that there is."""

from __future__ import annotations

from collections.abc import Awaitable

from engine.errors import Trimmed
from engine.subscriptions.definition import Kind, Start
from engine.subscriptions.loop import ConsumerLoop
from engine.subscriptions.ports import StoredEvent
from tests.subscriptions.contract import FIRST, MESSAGES, World, contract, for_each_kind, group, subscribe, taken

LARGE = bytes(60_000)
COUNT = 12


async def large(world: World, conversation: int, count: int = COUNT) -> list[int]:
    """Messages that a log soon wants to be rid of."""
    return [(await world.publisher.publish("message", LARGE, conversation=conversation)).sequence for _ in range(count)]


async def first_said(asking: Awaitable[object]) -> int:
    """Which event a refusal names as the first."""
    try:
        found = await asking
    except Trimmed as error:
        return error.first_available
    raise AssertionError(f"not refused, but {found!r}")


@for_each_kind
async def test_a_subscription_that_was_left_behind_says_where_the_log_begins(world: World, kind: Kind) -> None:
    """To a consumer, and to a ConsumerLoop, which ends with it; a reset goes on there, and skips nothing from there."""
    conversation = await group(world)
    await subscribe(world, kind, kind)
    published = await large(world, conversation)
    first = await world.trim(published[5])
    subscription = await world.source.subscription(kind)
    consumer = await subscription.join("one")
    assert await first_said(consumer.take(wait_s=5)) == first

    async def handle(event: StoredEvent) -> None:
        raise AssertionError(f"{event.sequence} came")

    assert await first_said(ConsumerLoop(subscription, handle, name="one").run()) == first
    assert (await subscription.standing()).cursor < first - 1, "nothing moves by itself"
    await subscription.reset(FIRST)
    consumer = await subscription.join("one")
    wanted = [sequence for sequence in published if sequence >= first]
    assert [event.sequence for event in await taken(consumer, len(wanted))] == wanted
    await consumer.ack_up_to(wanted[-1])
    await consumer.leave()


@for_each_kind
async def test_nothing_begins_before_the_log(world: World, kind: Kind) -> None:
    """Neither a new subscription nor a reset; each is told what it could have."""
    conversation = await group(world)
    published = await large(world, conversation)
    first = await world.trim(published[5])
    before = Start(sequence=first - 2)
    assert await first_said(world.source.create(kind, kind, start=before, filter=MESSAGES)) == first
    subscription = await world.source.create(kind, kind, start=Start(sequence=first - 1), filter=MESSAGES)
    assert await first_said(subscription.reset(before)) == first
    wanted = [sequence for sequence in published if sequence >= first]
    consumer = await subscription.join()
    assert [event.sequence for event in await taken(consumer, len(wanted))] == wanted
    await consumer.leave()


@contract
async def test_reading_from_before_the_log_is_refused(world: World) -> None:
    """A page, and a stream of all that comes."""
    published = await large(world, await group(world))
    first = await world.trim(published[5])
    for live in (False, True):
        reading = world.source.read(after=first - 2, filter=MESSAGES, live=live)
        assert await first_said(anext(aiter(reading))) == first
    found = [event.sequence async for event in world.source.read(after=first - 1, filter=MESSAGES)]
    assert found == [sequence for sequence in published if sequence >= first]
