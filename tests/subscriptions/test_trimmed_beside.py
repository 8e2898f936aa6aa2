"""`gonets log trim` beside a server that runs: nobody is given what it has removed, nothing begins there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.errors import Trimmed
from engine.log.snapshot import snapshot_log
from engine.subscriptions import manager
from engine.subscriptions.definition import Filter, Start
from engine.subscriptions.ports import EventSource
from tests.subscriptions.contract import OTHER
from tests.subscriptions.engine_worlds import LARGE_BYTES, Host
from tests.subscriptions.worlds import AnyTeam
from tests.support.tree import ROOT

FIRST = Start(first=True)
LARGE = Filter(types=("filler",))
COUNT = 24


@asynccontextmanager
async def grown() -> AsyncIterator[tuple[Host, EventSource]]:
    """A log of several segments and two snapshots; the api part that reads it, all of it in memory."""
    with tempfile.TemporaryDirectory(prefix="gonets-trim-") as folder:
        host = Host(Path(folder))
        await host.open(served=False)
        try:
            for _ in range(2):
                publisher = host.part.publisher(AnyTeam().admit("team"))
                for _ in range(COUNT // 2):
                    await publisher.publish("filler", bytes(LARGE_BYTES), person=OTHER)
                await host.close()
                assert snapshot_log(host.data, only_list=False)["taken"]
                await host.open(served=False)
            yield host, host.part.source(AnyTeam().admit("team"))
        finally:
            await host.close()


async def trimmed(host: Host, below: int) -> int:
    """In another process, as an operator does; the first event that is kept."""
    command = [sys.executable, "gonets.py", "log", "trim", "--below", str(below), "--force", "--data", str(host.data)]
    run = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    first = min(int(path.stem) for path in (host.data / "log").glob("*.lmdb"))
    assert first > 1
    return first


async def everything(source: EventSource, after: int = 0, filter: Filter = LARGE) -> list[int]:
    """What reading gives."""
    return [event.sequence async for event in source.read(after=after, filter=filter)]


def test_what_was_trimmed_beside_a_server_is_gone_at_once() -> None:
    """For readers, for what begins, and for a reset; though it was open and in memory."""

    async def story() -> None:
        async with grown() as (host, source):
            mail = await source.create("mail", "ordered", start=FIRST, filter=LARGE)
            wanted = await everything(source)
            assert len(wanted) == COUNT
            first = await trimmed(host, wanted[COUNT // 4])
            with pytest.raises(Trimmed) as refused:
                await everything(source)
            assert refused.value.first_available == first
            for asked in (source.create("new", "ordered", start=Start(sequence=1)), mail.reset(Start(sequence=1))):
                with pytest.raises(Trimmed) as refused:
                    await asked
                assert refused.value.first_available == first
            begun = await source.create("first", "ordered", start=FIRST, filter=LARGE)
            assert (await begun.standing()).definition.position == first - 1
            kept = [sequence for sequence in wanted if sequence >= first]
            assert await everything(source, first - 1) == kept

    asyncio.run(asyncio.wait_for(story(), 90))


def test_a_consumer_is_told_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next slow tick: what was read before is in memory until then."""
    monkeypatch.setattr(manager, "SLOW_TICKS", 1)

    async def story() -> None:
        async with grown() as (host, source):
            mail = await source.create("mail", "ordered", start=FIRST, filter=LARGE)
            wanted = await everything(source)
            first = await trimmed(host, wanted[COUNT // 4])
            part = host.part.subscriptions
            assert part is not None
            while part.feed.cached(first - 2) is not None:
                await asyncio.sleep(0.01)
            consumer = await mail.join()
            with pytest.raises(Trimmed) as refused:
                await consumer.take(wait_s=5)
            assert refused.value.first_available == first
            await mail.reset(FIRST)
            consumer = await mail.join()
            got = [event.sequence for event in await consumer.take(wait_s=5)]
            assert got == [sequence for sequence in wanted if sequence >= first][: len(got)] and got

    asyncio.run(asyncio.wait_for(story(), 90))
