"""A name that is taken again: nothing of the one that was deleted comes to the one that is new, whatever is awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.subscriptions.definition import DEFAULTS, Definition, Filter, Kind, Start
from engine.subscriptions.ports import ParkedEvent, UnknownSubscription
from engine.subscriptions.store import (
    CURSORS,
    DEFINITION,
    PARKED,
    Batch,
    Commits,
    DefinitionRow,
    ParkedRow,
    Store,
    encode,
    named,
    numbered,
)
from tests.support.subscription_rig import EventRig, with_rig

FIRST = Start(first=True)
MESSAGES = Filter(types=("message",))
KINDS: tuple[Kind, Kind] = ("ordered", "competing")


async def until(rig: EventRig, name: str, *, there: bool) -> None:
    """Once the registry says so; what it is waits for the disk still."""
    while any(one.definition.name == name for one in await rig.subscriptions.subscriptions()) is not there:
        await asyncio.sleep(0.002)


def held_writes(rig: EventRig, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """From now on a commit waits for this."""
    go, real = threading.Event(), Store.write

    def write(store: Store, batch: Batch) -> None:
        assert go.wait(20)
        real(store, batch)

    monkeypatch.setattr(Store, "write", write)
    return go


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken_again_has_no_cursor_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """S1: the deletion is in the log, and not yet in the store."""

    async def story(rig: EventRig) -> None:
        old = await rig.subscriptions.create("push", kind, start=FIRST, filter=MESSAGES)
        rig.say(20)
        await rig.read_back()
        consumer = await old.join("one")
        while events := await consumer.take(events_max=100, wait_s=0.1):
            await consumer.ack([event.sequence for event in events])
        go = held_writes(rig, monkeypatch)
        acts: list[Awaitable[object]] = [asyncio.create_task(rig.subscriptions.delete("push"))]
        await until(rig, "push", there=False)
        again = rig.subscriptions.create("push", kind, start=FIRST, filter=MESSAGES)
        acts.append(asyncio.create_task(again))
        await until(rig, "push", there=True)
        joining = asyncio.create_task((await rig.subscriptions.subscription("push")).join("two"))
        await asyncio.sleep(0.05)
        go.set()
        await asyncio.gather(*acts)
        consumer, found = await joining, 0
        while events := await consumer.take(events_max=100, wait_s=0.1):
            found += len(events)
        assert found == 20

    with_rig(tmp_path, story)


def test_who_joins_one_that_another_team_has_made_anew_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it may read was judged by the definition that there was."""

    async def story(rig: EventRig) -> None:
        ours = await rig.subscriptions.create("push", "ordered", filter=MESSAGES, team="ours")
        go = held_writes(rig, monkeypatch)
        joining = asyncio.create_task(ours.join("one"))
        await asyncio.sleep(0.01)
        acts: list[Awaitable[object]] = [asyncio.create_task(rig.subscriptions.delete("push"))]
        await until(rig, "push", there=False)
        acts.append(asyncio.create_task(rig.subscriptions.create("push", "ordered", team="theirs")))
        await until(rig, "push", there=True)
        go.set()
        with pytest.raises(UnknownSubscription):
            await joining
        await asyncio.gather(*acts)

    with_rig(tmp_path, story)


def test_what_is_still_to_be_written_is_read_as_if_it_were(tmp_path: Path) -> None:
    """Rows, and the rows of an erased one; those of the next one of its name are its own."""

    def row(sequence: int) -> bytes:
        event = ParkedEvent(sequence=sequence, conversation=1, type="message", deliveries=1, reason="", time=0)
        return encode(ParkedRow(event=event))

    async def run() -> None:
        store = Store.open(tmp_path)
        commits = Commits(store, Batch)
        definition = Definition(name="a", kind="ordered", team="", position=0, settings=DEFAULTS)
        before = {named(DEFINITION, "a"): encode(DefinitionRow(definition=definition, created=1))}
        before |= {named(CURSORS, "a"): b"old", numbered(PARKED, "a", 5): row(5), numbered(PARKED, "ab", 6): row(6)}
        store.write(Batch(rows=dict(before)))
        later = Batch()
        store.coming = lambda: (commits.kept, later)
        commits.kept.erase("a")
        assert store.value(named(CURSORS, "a")) is None and not store.parked("a") and not store.counts("a")
        assert [one.event.sequence for one in store.parked("ab")] == [6]
        commits.kept.rows[numbered(PARKED, "a", 7)] = row(7)
        later.rows[numbered(PARKED, "a", 8)] = row(8)
        later.rows[numbered(PARKED, "a", 9)] = None
        assert [one.event.sequence for one in store.parked("a")] == [7, 8]
        assert [one.event.sequence for one in store.parked("a", after=7)] == [8]
        later.erase("a")
        assert not store.parked("a") and store.parked_row(numbered(PARKED, "a", 7)) is None
        await commits.close()
        store.close()

    asyncio.run(run())


def test_a_file_that_can_t_be_opened_for_a_moment_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without descriptors: the log is read on when there are some again, and until then it says so."""

    async def story(rig: EventRig) -> None:
        subscription = await rig.subscriptions.create("push", "ordered", start=FIRST, filter=MESSAGES)
        consumer = await subscription.join("one")
        feed, said = rig.subscriptions.feed, []
        real: Callable[..., Awaitable[object]] = feed.run

        async def run(job: object) -> object:
            said.append(rig.subscriptions.failure)
            if len(said) == 1:
                raise OSError(24, "Too many open files")
            return await real(job)

        monkeypatch.setattr(feed, "run", run)
        rig.say(5)
        assert len(await consumer.take(wait_s=10)) == 5
        assert said[0] is None and said[1] is not None and "OSError" in str(said[1])
        while rig.subscriptions.failure is not None:
            await asyncio.sleep(0.002)

    with_rig(tmp_path, story)
