"""Projections: state and position in one transaction, so that what comes twice takes effect once; built anew beside."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadArgument, EngineUnable
from engine.projection_stores import LmdbState
from engine.projections import Projection, current_version, lmdb_projection, sqlite_projection
from engine.subscriptions.definition import Settings
from engine.subscriptions.ports import StoredEvent
from tests.subscriptions.contract import MESSAGES, group, publish, subscribe
from tests.subscriptions.worlds import MemoryWorld

ROOT = Path(__file__).resolve().parent.parent.parent
FOLLOWED = Settings(deliveries_max=0, ack_timeout_s=5.0)


def event(sequence: int, payload: bytes = b"") -> StoredEvent:
    """One message."""
    return StoredEvent(sequence, 1 + sequence % 3, sequence, 0, 0, 1, 0, 0, "message", payload)


def prepare(db: sqlite3.Connection) -> None:
    """Counts by conversation, and all sequences: a table that a second effect would show in."""
    db.execute("CREATE TABLE counts (conversation INTEGER PRIMARY KEY, events INTEGER)")
    db.execute("CREATE TABLE seen (sequence INTEGER)")


def fold_sqlite(db: sqlite3.Connection, one: StoredEvent) -> None:
    """Counts; an event that says so fails when half of it is in."""
    db.execute("INSERT INTO seen VALUES (?)", (one.sequence,))
    if one.payload == b"fail":
        raise ValueError("this one")
    db.execute("INSERT INTO counts VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1", (one.conversation,))


def fold_lmdb(state: LmdbState, one: StoredEvent) -> None:
    """The same."""
    state.put("seen", one.sequence.to_bytes(8, "big") + os.urandom(4), b"")
    if one.payload == b"fail":
        raise ValueError("this one")
    key = one.conversation.to_bytes(8, "big")
    state.put("counts", key, str(int(state.get("counts", key) or b"0") + 1).encode())


def seen_sqlite(projection: Projection[sqlite3.Connection]) -> list[int]:
    """Every effect there was."""
    return [row[0] for row in projection.state.execute("SELECT sequence FROM seen ORDER BY sequence")]


def seen_lmdb(projection: Projection[LmdbState]) -> list[int]:
    """The same."""
    state = projection.state
    with state.transaction as transaction:
        return [int.from_bytes(key[:8], "big") for key, _ in transaction.cursor(db=state.databases["seen"])]


class Make(Protocol):
    """Opens a projection in a folder."""

    def __call__(self, folder: Path, version: int = 1) -> Projection[Any]:
        """Of a version."""


def make_sqlite(folder: Path, version: int = 1) -> Projection[sqlite3.Connection]:
    """In SQLite."""
    return sqlite_projection(folder, fold_sqlite, prepare, version=version)


def make_lmdb(folder: Path, version: int = 1) -> Projection[LmdbState]:
    """In LMDB."""
    return lmdb_projection(folder, fold_lmdb, ["counts", "seen"], version=version, map_bytes=1 << 24)


BOTH = pytest.mark.parametrize(
    ("make", "seen"), [(make_sqlite, seen_sqlite), (make_lmdb, seen_lmdb)], ids=["sqlite", "lmdb"]
)
Seen = Callable[[Projection[Any]], list[int]]


@BOTH
def test_what_comes_twice_takes_effect_once(make: Make, seen: Seen, tmp_path: Path) -> None:
    """In one batch, in a later one, and after it was opened anew."""
    projection = make(tmp_path)
    assert projection.position == 0
    assert projection.apply([event(1), event(2), event(2)]) == 2
    assert projection.apply([event(1), event(2), event(5)]) == 1
    assert projection.apply([]) == 0
    projection.close()
    projection = make(tmp_path)
    assert projection.position == 5 and projection.apply([event(4), event(5), event(7)]) == 1
    assert seen(projection) == [1, 2, 5, 7]
    projection.close()


@BOTH
def test_a_fold_that_fails_leaves_nothing(make: Make, seen: Seen, tmp_path: Path) -> None:
    """Of the whole batch; the next try may be another one."""
    projection = make(tmp_path)
    projection.apply([event(1)])
    with pytest.raises(ValueError, match="this one"):
        projection.apply([event(2), event(3, b"fail"), event(4)])
    assert projection.position == 1 and seen(projection) == [1]
    assert projection.apply([event(2), event(4)]) == 2
    projection.close()


@given(batches=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=12))
def test_any_repeats_fold_like_none(batches: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a consumer is given again from an earlier place, the state is that of each event once."""
    projection = make_sqlite(tmp_path_factory.mktemp("projection"))
    reached = 0
    for back, count in batches:
        start = max(0, reached - back)
        projection.apply([event(sequence) for sequence in range(start + 1, start + count + 1)])
        reached = max(reached, start + count)
    assert seen_sqlite(projection) == list(range(1, reached + 1)) and projection.position == reached
    projection.close()


CHILD = """
import sys
from pathlib import Path
from tests.subscriptions.test_projections import event, make_lmdb, make_sqlite
projection = {"sqlite": make_sqlite, "lmdb": make_lmdb}[sys.argv[1]](Path(sys.argv[2]))
for batch in range(1, 10_000):
    projection.apply([event(3 * batch), event(3 * batch + 1), event(3 * batch + 2)])
    print(3 * batch + 2, flush=True)
"""


@BOTH
def test_killed_in_a_commit(make: Make, seen: Seen, tmp_path: Path) -> None:
    """kill -9: what was committed is there, state and position of one batch, and repeats change nothing."""
    kind = "sqlite" if make is make_sqlite else "lmdb"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        said += [int(line) for line in child.stdout.read().split()[:-1]]
    projection = make(tmp_path)
    position = projection.position
    assert position >= said[-1] and seen(projection) == list(range(3, position + 1))
    projection.apply([event(sequence) for sequence in range(3, position + 10)])
    assert seen(projection) == list(range(3, position + 10))
    projection.close()


@BOTH
def test_built_anew_beside_the_old_one(make: Make, seen: Seen, tmp_path: Path) -> None:
    """The old one goes on meanwhile; the new one takes its place only when it is as far, also after a restart."""

    async def check() -> None:
        world = MemoryWorld()
        conversation = await group(world)
        published = await publish(world, conversation, 30)
        old = make(tmp_path)
        assert await old.build(world.source, filter=MESSAGES, batch_events=7) == 30 and old.is_current
        new = make(tmp_path, 2)
        assert not new.is_current and current_version(tmp_path) == 1
        with pytest.raises(BadArgument, match=f"reached 0, version 1 is at {published[-1]}"):
            new.switch()
        assert await new.build(world.source, filter=MESSAGES, batch_events=10) == 30
        published += await publish(world, conversation, 5)
        assert await old.build(world.source, filter=MESSAGES) == 5
        with pytest.raises(BadArgument):
            new.switch()
        assert old.is_current
        new.close()
        new = make(tmp_path, 2)
        assert await new.build(world.source, filter=MESSAGES) == 5
        new.switch()
        assert new.is_current and not old.is_current and current_version(tmp_path) == 2
        assert seen(old) == seen(new) == published
        old.close()
        assert new.remove_old() == 1 and not (tmp_path / "1").exists()
        new.close()
        again = make(tmp_path, 2)
        assert again.is_current and again.position == published[-1]
        again.close()

    asyncio.run(check())


@BOTH
def test_following_a_subscription(make: Make, seen: Seen, tmp_path: Path) -> None:
    """Deliveries that come again, another of its name, a restart: each event once; it ends when it isn't current."""

    async def check() -> None:
        world = MemoryWorld()
        conversation = await group(world)
        subscription = await subscribe(world, "index", "ordered", FOLLOWED)
        published = await publish(world, conversation, 20)
        projection = make(tmp_path)
        consumer = await subscription.join("projection")
        projection.apply(await consumer.take(events_max=5))  # folded, and its ack is lost
        following = asyncio.ensure_future(projection.follow(subscription, batch_events=3, clock=world.clock))
        while projection.position < published[-1]:
            await asyncio.sleep(0.005)
        thief = await subscription.join("projection")
        await thief.leave()
        published += await publish(world, conversation, 4)
        while projection.position < published[-1]:
            await asyncio.sleep(0.005)
            await world.clock.advance(0.2)
        assert seen(projection) == published
        while (await subscription.standing()).cursor < published[-1]:
            await asyncio.sleep(0.005)
        new = make(tmp_path, 2)
        await new.build(world.source, filter=MESSAGES)
        new.switch()
        await publish(world, conversation, 1)
        await asyncio.wait_for(following, 10)
        assert (await subscription.standing()).consumers == ()
        projection.close()
        new.close()

    asyncio.run(asyncio.wait_for(check(), 30))


def test_a_fold_that_fails_ends_the_following(tmp_path: Path) -> None:
    """Nothing is skipped: after a mended fold it goes on with that very event."""

    async def check() -> None:
        world = MemoryWorld()
        conversation = await group(world)
        subscription = await subscribe(world, "index", "ordered", FOLLOWED)
        await world.publisher.publish("message", b"fine", conversation=conversation)
        failing = await world.publisher.publish("message", b"fail", conversation=conversation)
        projection = make_sqlite(tmp_path)
        with pytest.raises(ValueError, match="this one"):
            await projection.follow(subscription, batch_events=1, clock=world.clock)
        assert projection.position == failing.sequence - 1
        assert (await subscription.standing()).consumers == ()
        projection.close()

    asyncio.run(asyncio.wait_for(check(), 30))


def test_only_what_keeps_the_order_is_followed(tmp_path: Path) -> None:
    """A competing subscription, or one that parks, would leave holes that nobody sees."""

    async def check() -> None:
        world = MemoryWorld()
        projection = make_sqlite(tmp_path)
        competing = await subscribe(world, "competing", "competing", FOLLOWED)
        parking = await subscribe(world, "parking", "ordered", Settings(deliveries_max=3))
        for subscription in (competing, parking):
            with pytest.raises(BadArgument, match="needs an ordered one"):
                await projection.follow(subscription, clock=world.clock)
        projection.close()

    asyncio.run(check())


@pytest.mark.parametrize("comes", ["before", "meanwhile"])
def test_a_subscription_that_others_consume_too_is_not_followed(tmp_path: Path, comes: str) -> None:
    """What comes back from the other lies behind the position: it would be taken for a repeat, and never be in."""

    async def check() -> None:
        world = MemoryWorld()
        conversations = [await group(world) for _ in range(40)]
        subscription = await subscribe(world, "index", "ordered", FOLLOWED)
        projection = make_sqlite(tmp_path)
        if comes == "before":
            await subscription.join("other")
        following = asyncio.ensure_future(projection.follow(subscription, clock=world.clock))
        if comes == "meanwhile":
            while not (await subscription.standing()).consumers:
                await asyncio.sleep(0.005)
            other = await subscription.join("other")
            for conversation in conversations:
                await publish(world, conversation, 1)
            assert await other.take(wait_s=5)
            while not projection.position:
                await asyncio.sleep(0.005)
            await other.leave()
        with pytest.raises(BadArgument, match="not the one consumer"):
            await asyncio.wait_for(following, 10)
        projection.close()

    asyncio.run(asyncio.wait_for(check(), 30))


def test_mistakes(tmp_path: Path) -> None:
    """A version that is none; an LMDB state opened twice, or full."""
    with pytest.raises(BadArgument, match="version 0"):
        make_sqlite(tmp_path, 0)
    projection = make_lmdb(tmp_path)
    with pytest.raises(BadArgument, match="open in this process"):
        make_lmdb(tmp_path)
    projection.close()
    small = lmdb_projection(tmp_path / "small", fold_large, ["all"], map_bytes=1 << 20)
    with pytest.raises(EngineUnable, match="full at 1048576"):
        small.apply([event(sequence) for sequence in range(1, 100)])
    assert small.position == 0 and small.apply([event(1)]) == 1
    small.close()


def fold_large(state: LmdbState, one: StoredEvent) -> None:
    """Much for each event."""
    state.put("all", one.sequence.to_bytes(8, "big"), bytes(60_000))
    assert state.delete("all", b"nothing") is False
