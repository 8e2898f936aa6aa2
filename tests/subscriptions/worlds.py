"""The implementations that the contract's tests run against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager

from engine.audit import InForce, Revocations
from engine.conversations import KIND_NAMES, ROLE_NAMES
from engine.options_api import Api
from engine.state.rows import Conversation
from engine.subscriptions.clock import HandClock
from engine.subscriptions.memory import EngineInMemory
from engine.subscriptions.ports import EventSource, Publisher
from gateway.api.app import make_app
from gateway.api.ports import Place, Service
from gateway.api.problems import Refusal
from gateway.api.scopes import parse_scope
from gateway.api.serve import ApiServer
from gateway.auth import Identity
from gateway.backend import BackendClient
from gateway.listener import bind
from tests.subscriptions.contract import SERVICE, World

SCOPE = "read:* publish:* subscriptions audit"


class MemoryWorld:
    """The double, its clock moved by hand."""

    look_s = 0.0
    real_time = False

    def __init__(self) -> None:
        self.clock = HandClock()
        self.memory = EngineInMemory(self.clock)
        self.source = self.source_of("team")
        self.publisher = self.memory.publisher(user=SERVICE)

    def source_of(self, team: str) -> EventSource:
        """As a team sees it."""
        return self.memory.source(team=team, user=SERVICE)

    async def trim(self, upto: int) -> int:
        """To the event."""
        self.memory.trim(upto + 1)
        return upto + 1

    async def pass_time(self, delay_s: float) -> None:
        """Moves the clock."""
        await self.clock.advance(delay_s)

    async def connect(self, user: int) -> None:
        """They have a session."""
        self.memory.live.add(user)

    async def disconnect(self, user: int) -> None:
        """They have none."""
        self.memory.live.discard(user)


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    """The double."""
    yield MemoryWorld()


class MemoryBackend:
    """The double behind the door for backends. Fits gateway.api.ports.Backend."""

    def __init__(self, memory: EngineInMemory) -> None:
        self._memory = memory

    def source(self, service: Service) -> EventSource:
        """As the service's team sees it."""
        return self._memory.source(team=service.team, user=service.user)

    def subscription_names(self, service: Service) -> Set[str]:
        """Of the team's."""
        return self._memory.names_of(service.team)

    def publisher(self, service: Service) -> Publisher:
        """As the service."""
        return self._memory.publisher(user=service.user)

    def place(self) -> Place:
        """Where the log ends."""
        return Place(0, [(1, 1)], self._memory.log.last)

    def conversation(self, conversation: int) -> Conversation | None:
        """As the double knows it."""
        row = self._memory.log.conversation(conversation)
        if row is None:
            return None
        number = self._memory.log.conversation_sequence(conversation)
        return Conversation(
            conversation, KIND_NAMES[row.kind], row.title, row.history, row.closed, row.created, row.member_count, 0,
            number, None)  # fmt: skip

    def members(self, conversation: int, after: int, limit: int) -> list[tuple[int, str]]:
        """As the double knows them."""
        found = self._memory.log.members(conversation)
        return [(user, ROLE_NAMES[role]) for user, role in found if user > after][:limit]


class AnyTeam:
    """Lets everybody in as the team that the token is. Fits gateway.api.ports.WhoMay."""

    def admit(self, token: str) -> Service:
        """Anything but "bad"."""
        if token == "bad":
            raise Refusal("bad_token", "a bad token")
        return Service(SERVICE, token, parse_scope(SCOPE), Identity(SERVICE, 1 << 40, None, team=token))

    def still(self, service: Service) -> str:
        """For ever."""
        return ""


def nothing_in_force() -> InForce:
    """Of a server that judges by nothing and has no options: no operator ever changes that."""
    return InForce(keys=None, revocations=Revocations(), options={})


class Clients:
    """Remote clients of a door, one a team."""

    look_s = 0.3
    real_time = True

    def __init__(self, url: str) -> None:
        self.url = url
        self._clients: list[BackendClient] = []
        client = self.client_of("team")
        self.source: EventSource = client
        self.publisher: Publisher = client

    def client_of(self, team: str) -> BackendClient:
        """A client of a team."""
        self._clients.append(BackendClient(self.url, team, retry_s_max=1.0))
        return self._clients[-1]

    def source_of(self, team: str) -> EventSource:
        """As a team sees it."""
        return self.client_of(team)

    async def pass_time(self, delay_s: float) -> None:
        """Sleeps."""
        await asyncio.sleep(delay_s)

    async def close(self) -> None:
        """Of all clients."""
        for client in self._clients:
            await client.close()


class RemoteWorld(Clients):
    """BackendClient over the door for backends, over a real socket; behind it the double, on the machine's clock."""

    def __init__(self, url: str, memory: EngineInMemory) -> None:
        super().__init__(url)
        self.memory = memory

    async def trim(self, upto: int) -> int:
        """To the event."""
        self.memory.trim(upto + 1)
        return upto + 1

    async def connect(self, user: int) -> None:
        """They have a session."""
        self.memory.live.add(user)

    async def disconnect(self, user: int) -> None:
        """They have none."""
        self.memory.live.discard(user)


@asynccontextmanager
async def remote_world() -> AsyncIterator[RemoteWorld]:
    """The remote client of a door whose engine is the double."""
    memory = EngineInMemory()
    options = Api(subscriptions_max=1_000)
    with bind("server.api", "127.0.0.1:0") as bound:
        server = ApiServer(make_app(MemoryBackend(memory), AnyTeam(), options), options)
        await server.start([bound])
        world = RemoteWorld(f"http://127.0.0.1:{bound.getsockname()[1]}", memory)
        try:
            yield world
        finally:
            await world.close()
            await server.stop()
