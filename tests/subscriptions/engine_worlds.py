"""The engine itself as a world: subscriptions in the process, and the remote client through the door, on a real log."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.engine import Engine
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log
from engine.options import Config, Server
from engine.options_api import Api
from engine.subscriptions.ports import EventSource
from gateway.api.part import Part
from gateway.listener import bind
from tests.subscriptions.contract import OTHER, World
from tests.subscriptions.worlds import AnyTeam, Clients, nothing_in_force

SEGMENT_BYTES = 256 << 10
LARGE_BYTES, SEGMENT_EVENTS = 60_000, 6  # so large, at most so many are in one


class Sessions:
    """Who is connected. Fits gateway.api.presence.Holders."""

    def __init__(self) -> None:
        self.live: set[int] = set()

    async def connected(self, users: list[int]) -> set[int]:
        """Those of them."""
        return self.live.intersection(users)


class Host:
    """The api part over an engine on a directory of its own, from one start to the next."""

    def __init__(self, data: Path) -> None:
        self.data, self.sessions = data, Sessions()
        self._config = Config(server=Server(data=str(data)), api=Api(subscriptions_max=1_000))
        self.part: Part
        self._engine: Engine
        self.port = 0

    async def open(self, *, served: bool) -> None:
        """Starts it; `served`: with a door, at the same port each time."""
        parts: list[Part] = []

        def woken(answers: bytes | None) -> None:
            for part in parts:
                part.woken(answers)

        self._engine = engine = Engine.open(
            self.data, on_answers=woken, on_committed=lambda _: woken(None), segment_bytes=SEGMENT_BYTES
        )
        self.part = Part(self._config, engine, engine.sequencer.submit, AnyTeam(), nothing_in_force)
        parts.append(self.part)
        await self.part.open(self.sessions)
        if served:
            bound = bind("server.api", f"127.0.0.1:{self.port}")
            self.port = bound.getsockname()[1]
            await self.part.serve(bound)

    async def close(self) -> None:
        """Ends it in order."""
        await self.part.close()
        await asyncio.to_thread(self._engine.close)

    async def trim(self, upto: int, *, served: bool) -> int:
        """As an operator does who is told to, after two snapshots."""
        for number in range(2):
            publisher = self.part.publisher(AnyTeam().admit("team"))
            await publisher.publish("filler", bytes(LARGE_BYTES), person=OTHER, key=f"{upto} {number}")
            await self.close()
            assert snapshot_log(self.data, only_list=False)["taken"]
            if number:
                found = trim_log(self.data, Wanted(below=upto + SEGMENT_EVENTS), dry_run=False, force=True)
            await self.open(served=served)
        assert found["first_sequence"] > upto
        return int(found["first_sequence"])


class EngineWorld:
    """Subscriptions and publishes in the process."""

    look_s = 0.3
    real_time = True

    def __init__(self, host: Host) -> None:
        self._host = host
        self._begin()

    def _begin(self) -> None:
        self.source = self.source_of("team")
        self.publisher = self._host.part.publisher(AnyTeam().admit("team"))

    def source_of(self, team: str) -> EventSource:
        """As a team sees it."""
        return self._host.part.source(AnyTeam().admit(team))

    async def trim(self, upto: int) -> int:
        """Between two starts."""
        first = await self._host.trim(upto, served=False)
        self._begin()
        return first

    async def pass_time(self, delay_s: float) -> None:
        """Sleeps."""
        await asyncio.sleep(delay_s)

    async def connect(self, user: int) -> None:
        """They have a session."""
        self._host.sessions.live.add(user)

    async def disconnect(self, user: int) -> None:
        """They have none."""
        self._host.sessions.live.discard(user)


class DoorWorld(Clients):
    """The remote client of the same."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"http://127.0.0.1:{host.port}")
        self._host = host

    async def trim(self, upto: int) -> int:
        """Between two starts."""
        return await self._host.trim(upto, served=True)

    async def connect(self, user: int) -> None:
        """They have a session."""
        self._host.sessions.live.add(user)

    async def disconnect(self, user: int) -> None:
        """They have none."""
        self._host.sessions.live.discard(user)


@asynccontextmanager
async def _host(*, served: bool) -> AsyncIterator[Host]:
    with tempfile.TemporaryDirectory(prefix="gonets-world-") as folder:
        host = Host(Path(folder))
        await host.open(served=served)
        try:
            yield host
        finally:
            await host.close()


@asynccontextmanager
async def engine_world() -> AsyncIterator[World]:
    """In the process."""
    async with _host(served=False) as host:
        yield EngineWorld(host)


@asynccontextmanager
async def door_world() -> AsyncIterator[World]:
    """Through the door."""
    async with _host(served=True) as host:
        world = DoorWorld(host)
        try:
            yield world
        finally:
            await world.close()
