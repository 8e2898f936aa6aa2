"""A door for backends that runs: the memory double behind it, an issuer of tokens before it, a real socket between.

The door lives on a loop of its own thread, as it does in a server without workers; a test speaks HTTP and WebSocket to
it and reaches behind it by `run`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Coroutine, Set
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from engine import Api, Conversation, EventSource, Publisher
from engine.conversations import KIND_NAMES, ROLE_NAMES
from engine.subscriptions.memory import EngineInMemory
from gateway.api.app import make_app
from gateway.api.ports import Place, Service
from gateway.api.serve import ApiServer
from gateway.api.tokens import Tokens
from gateway.auth import KeySet, Verifier
from gateway.listener import bind
from gateway.revocation import Revoked
from tests.support.tokens import AUDIENCE, Issuer

T = TypeVar("T")
EVERYTHING = "read:* publish:* subscriptions audit"
TEAM = "push"
USER = 900
WAIT_S = 20.0


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class MemoryBackend:
    """The double as the door's Backend."""

    def __init__(self, memory: EngineInMemory) -> None:
        self.memory = memory
        self.epochs = [(1, 1)]

    def source(self, service: Service) -> EventSource:
        """The event stream as the team sees it."""
        return self.memory.source(team=service.team, user=service.user)

    def subscription_names(self, service: Service) -> Set[str]:
        """Of the team's."""
        return self.memory.names_of(service.team)

    def publisher(self, service: Service) -> Publisher:
        """Writes as the service."""
        return self.memory.publisher(user=service.user)

    def place(self) -> Place:
        """The end of its log."""
        return Place(0, self.epochs, self.memory.log.last)

    def conversation(self, conversation: int) -> Conversation | None:
        """By its rows."""
        log = self.memory.log
        row = log.conversation(conversation)
        if row is None:
            return None
        head, number = log._heads[conversation]
        return Conversation(
            conversation,
            KIND_NAMES[row.kind],
            row.title,
            row.history,
            row.closed,
            row.created,
            row.member_count,
            head,
            number,
            (row.first, row.second) if row.first else None,
        )

    def members(self, conversation: int, after: int, limit: int) -> list[tuple[int, str]]:
        """By its rows."""
        rows = sorted(self.memory.log._members.get(conversation, {}).items())
        return [(user, ROLE_NAMES[row.role]) for user, row in rows if row.role and user > after][:limit]


class ApiSite:
    """The running door."""

    def __init__(self, folder: Path, options: Api | None = None) -> None:
        self.issuer = Issuer()
        self.revoked = Revoked()
        self.options = Api() if options is None else options
        self._keys = KeySet(self.issuer.write(folder / "keys.json"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="api-site")
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self.backend: MemoryBackend
        self.port = 0

    def __enter__(self) -> ApiSite:
        self._thread.start()
        assert self._started.wait(WAIT_S), "the door did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the door did not end"

    async def _live(self) -> None:
        try:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self.backend = MemoryBackend(EngineInMemory())
            verifier = Verifier(self._keys, AUDIENCE, "", 0)
            who_may = Tokens(lambda: verifier, lambda: self.revoked)
            self.app = make_app(self.backend, who_may, self.options)
            listening = bind("server.api", "127.0.0.1:0")
            self.port = listening.getsockname()[1]
            server = ApiServer(self.app, self.options)
            await server.start([listening])
        except BaseException as failure:
            self._failure = failure
            self._started.set()
            return
        self._started.set()
        await self._end.wait()
        await server.stop()

    # ---- for tests -------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> EngineInMemory:
        """The double."""
        return self.backend.memory

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Something on the door's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def stop(self) -> None:
        """As an operator does."""
        self._loop.call_soon_threadsafe(self._end.set)

    def token(self, scope: str = EVERYTHING, team: str | None = TEAM, user: int = USER, **claims: Any) -> str:
        """A service token."""
        return self.issuer.token(user, scope=scope, team=team, **claims)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; a body that isn't bytes goes as JSON. `token` "" sends none; None one that may everything."""
        sent = dict(headers or {})
        if token != "":
            sent.setdefault("Authorization", f"Bearer {self.token() if token is None else token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body, sent)
            found = connection.getresponse()
            return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def group(self, *members: int) -> int:
        """A group that the service's user owns."""
        answer = self.ask("POST", "/v1/conversations", {"kind": "group", "title": "Team", "members": list(members)})
        assert answer.status == 201, answer.body
        conversation: int = answer.json["conversation"]
        return conversation

    def publish(self, conversation: int, count: int = 1, type: str = "order.paid") -> list[int]:
        """Events in a conversation; their sequences."""
        body = [{"type": type, "conversation": conversation, "data": {"n": n}} for n in range(count)]
        answer = self.ask("POST", "/v1/events", body)
        assert answer.status == 200, answer.body
        return [outcome["published"]["sequence"] for outcome in answer.json["outcomes"]]

    def subscribe(self, name: str = "mail", **fields: Any) -> None:
        """A subscription to all types of services."""
        body = {"name": name, "kind": "competing", "start": {"first": True}, "filter": {"types": ["order"]}, **fields}
        answer = self.ask("POST", "/v1/subscriptions", body)
        assert answer.status == 201, answer.body
