"""The engine itself as a world: subscriptions in the process, and the remote client through the door, on a real log."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.engine import Engine
from engine.options import Config, Server
from engine.options_api import Api
from engine.subscriptions.ports import EventSource
from gateway.api.part import Part
from gateway.api.ports import Service
from tests.subscriptions.contract import World
from tests.subscriptions.worlds import AnyTeam, Clients


class Sessions:
    """Who is connected. Fits gateway.api.presence.Holders."""

    def __init__(self) -> None:
        self.live: set[int] = set()

    async def connected(self, users: list[int]) -> set[int]:
        """Those of them."""
        return self.live.intersection(users)


class EngineWorld:
    """Subscriptions and publishes in the process."""

    look_s = 0.3

    def __init__(self, part: Part, sessions: Sessions) -> None:
        self._part, self._sessions = part, sessions
        self.source = self.source_of("team")
        self.publisher = part.publisher(self._service("team"))

    def _service(self, team: str) -> Service:
        return AnyTeam().admit(team)

    def source_of(self, team: str) -> EventSource:
        """As a team sees it."""
        return self._part.source(self._service(team))

    async def pass_time(self, delay_s: float) -> None:
        """Sleeps."""
        await asyncio.sleep(delay_s)

    async def connect(self, user: int) -> None:
        """They have a session."""
        self._sessions.live.add(user)

    async def disconnect(self, user: int) -> None:
        """They have none."""
        self._sessions.live.discard(user)


class DoorWorld(Clients):
    """The remote client of the same."""

    def __init__(self, url: str, sessions: Sessions) -> None:
        super().__init__(url)
        self._sessions = sessions

    async def connect(self, user: int) -> None:
        """They have a session."""
        self._sessions.live.add(user)

    async def disconnect(self, user: int) -> None:
        """They have none."""
        self._sessions.live.discard(user)


@asynccontextmanager
async def _part(sessions: Sessions) -> AsyncIterator[Part]:
    """The api part over an engine on a fresh directory."""
    with tempfile.TemporaryDirectory(prefix="gonets-world-") as folder:
        config = Config(server=Server(data=folder), api=Api(subscriptions_max=1_000))
        parts: list[Part] = []

        def woken(answers: bytes | None) -> None:
            for part in parts:
                part.woken(answers)

        engine = Engine.open(Path(folder), on_answers=woken, on_committed=lambda _: woken(None))
        try:
            part = Part(config, engine, engine.sequencer.submit, AnyTeam())
            parts.append(part)
            await part.open(sessions)
            try:
                yield part
            finally:
                await part.close()
        finally:
            await asyncio.to_thread(engine.close)


@asynccontextmanager
async def engine_world() -> AsyncIterator[World]:
    """In the process."""
    sessions = Sessions()
    async with _part(sessions) as part:
        yield EngineWorld(part, sessions)


@asynccontextmanager
async def door_world() -> AsyncIterator[World]:
    """Through the door."""
    sessions = Sessions()
    async with _part(sessions) as part:
        bound = socket.create_server(("127.0.0.1", 0))
        await part.serve(bound)
        world = DoorWorld(f"http://127.0.0.1:{bound.getsockname()[1]}", sessions)
        try:
            yield world
        finally:
            await world.close()
