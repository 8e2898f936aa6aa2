"""The api part: everything that serves backends, on one asyncio loop, in a thread of the one process or a child's.

Puts together what the door (door.py) stands on: publishes (engine: Publishing), subscriptions with the view that they
fold, whom to ask about presence, and a web server on a socket that somebody else has bound. Knows neither workers nor
gateway: thread.py and processes/api.py are its surroundings. The engine's wake-up means "look again": the log is read
on from where the view stands, so wake-ups may be lost or merged.

States: opening → serving → closing (streams end with a reason, requests are answered, acks synced) → closed.
Invariants: answers of the engine are handed on before the wake-up of their block is; a conversation that is asked about
is looked for in a state that holds its caller's own receipts. Cost: each block is read and folded once, natively.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Set
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any, Final

from engine import (
    ENGINE_ITSELF,
    Audit,
    Config,
    Conversation,
    EngineError,
    Publishing,
    Subscriptions,
    ViewConversations,
)
from gateway.api.figures import Figures
from gateway.api.ports import Place
from gateway.api.presence import Holders, Presence
from gateway.api.problems import Refusal
from gateway.api.team import TeamSource
from gateway.listener import StartError
from gateway.session import log

if TYPE_CHECKING:
    from engine import Engine, EventSource, Follower, InForce, Publisher, Receipt
    from gateway.api.ports import Service, WhoMay
    from gateway.api.serve import ApiServer

OWN_WAIT_S: Final = 2.0  # until the state holds what its caller has a receipt of
LOOK_S: Final = 0.005
SECOND_S: Final = 1.0
ANSWERS_S: Final = 3.0  # for publishes under way at the end; below the door's own patience, which ends in a failure
CLOSING_RETRY_S: Final = 2.0

_acting: ContextVar[int] = ContextVar("acting", default=ENGINE_ITSELF)


class Part:
    """Made on its loop; `open`, `serve`, `close` once each. It is the `Backend` of its door."""

    def __init__(
        self,
        config: Config,
        engine: Engine | Follower,
        submit: Callable[[bytes], bool],
        who_may: WhoMay,
        in_force: Callable[[], InForce],
    ) -> None:
        """`in_force`: by what the server judges and works, as of now; what changes of it is told in the log."""
        self.config, self._engine, self._who_may, self._in_force = config, engine, who_may, in_force
        self.loop = asyncio.get_running_loop()
        self._answers: deque[bytes] = deque()
        self._woken = False
        self._view = engine.view()
        self.publishing = Publishing(submit)
        self.subscriptions: Subscriptions | None = None
        self.presence: Presence
        self.figures = Figures()
        self._server: ApiServer | None = None
        self._counting: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self.is_closing = False

    # ---- its life --------------------------------------------------------------------------------------------------

    async def open(self, holders: Holders) -> None:
        """Until the state is folded and every subscription stands where it stood. `holders`: of the sessions. Raises
        EngineError."""
        self.presence = Presence(holders)
        self.subscriptions = await Subscriptions.open(
            Path(self.config.server.data),
            new_reader=self._engine.log.reader,
            conversations=ViewConversations(self._view),
            poster=self,
            away=self.presence.away,
            shard=self._engine.log.shard,
            epochs=self._engine.log.epochs,
        )
        log_of = self._engine.log
        data = Path(self.config.server.data)
        is_new = not log_of.last_sequence and len(log_of.epochs) == 1
        audit = Audit(data, self._tell, self._in_force, is_new=is_new)
        self._telling = self.loop.create_task(self._keep_telling(audit))

    async def serve(self, bound: socket) -> None:
        """Answers at a listening socket, which it closes at the end. Raises StartError."""
        from gateway.api.app import make_app  # brings the web framework, which nobody else needs
        from gateway.api.serve import ApiServer

        self._server = ApiServer(make_app(self, self._who_may, self.config.api), self.config.api)
        try:
            await self._server.start([bound])
        except RuntimeError as error:
            raise StartError(f"server.api = {self.config.server.api!r}: {error}") from None
        self._counting = self.loop.create_task(self._count())

    async def close(self) -> None:
        """Ends streams and requests in order, then what they stood on: what was acked is synced."""
        self.is_closing = True
        for task in (self._counting, self._telling):
            if task is not None:
                task.cancel()
        if self._server is not None:
            stopping = asyncio.ensure_future(self._server.stop())
            if not (await asyncio.wait((stopping,), timeout=ANSWERS_S))[0]:
                self.publishing.close()  # its sequencer may be gone: whoever publishes hears so in time
            await stopping
        if self.subscriptions is not None:
            await self.subscriptions.close()
        self.publishing.close()

    def acting(self) -> int:
        """For subscriptions: the service of this task, as `source` has noted it."""
        return _acting.get()

    async def post(self, type: str, fields: dict[str, Any], by: int) -> int:
        """For subscriptions: an event of the system conversation."""
        return await self.publishing.post(by, type, fields)

    async def _tell(self, type: str, fields: dict[str, Any], key: str) -> int:
        return await self.publishing.post(ENGINE_ITSELF, type, fields, key=key)

    async def _keep_telling(self, audit: Audit) -> None:
        """What operators do becomes events, about a second later. Nothing but its end ends it: nobody would notice."""
        was_told = True
        while True:
            try:
                await audit.turn()
                untold, was_told = audit.untold, True
            except Exception as error:
                untold = max(1, audit.untold)  # it may not know of all
                if was_told:  # once, not once a second
                    mistake = None if isinstance(error, EngineError | OSError) else error
                    reason = str(error)
                    log.error("what operators did can't be told yet", untold=untold, reason=reason, exc_info=mistake)
                was_told = False
            self.figures.untold_acts = untold
            await asyncio.sleep(SECOND_S)

    # ---- the engine's wake-up --------------------------------------------------------------------------------------

    def woken(self, answers: bytes | None) -> None:
        """Any thread: stores what the engine said and wakes the loop."""
        if answers:
            self._answers.append(answers)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self._woken = False  # before the look: what comes from here on wakes again
        while self._answers:
            self.publishing.answer(self._answers.popleft())
        if self.subscriptions is not None:
            self.subscriptions.wake()

    # ---- what the door asks (gateway/api/ports.py: Backend) --------------------------------------------------------

    def source(self, service: Service) -> EventSource:
        """The event stream with the subscriptions of the service's team. What is done to them in this task, a request's
        or a stream's, is the service's doing."""
        self._refuse_if_closing()
        assert self.subscriptions is not None
        _acting.set(service.user)
        return TeamSource(self.subscriptions, service.team)

    def subscription_names(self, service: Service) -> Set[str]:
        """Of the team's subscriptions, as of now."""
        self._refuse_if_closing()
        assert self.subscriptions is not None
        return self.subscriptions.names_of(service.team)

    def publisher(self, service: Service) -> Publisher:
        """Writes as the service's user."""
        self._refuse_if_closing()
        return _OwnPublisher(self, self.publishing.publisher(service.user))

    def _refuse_if_closing(self) -> None:
        """Whoever was sent away comes back at once, and must not be let in again while connections end."""
        if self.is_closing:
            raise Refusal("unavailable", "this server is ending", retryable=True, retry_after_s=CLOSING_RETRY_S)

    async def folded(self, sequence: int) -> None:
        """Returns when the state holds an event, or shortly after that should have been."""
        until_s = time.monotonic() + OWN_WAIT_S
        while self._view.sequence < sequence and time.monotonic() < until_s:
            await asyncio.sleep(LOOK_S)

    def place(self) -> Place:
        """The end of the log as of now, committed and synced."""
        log_of = self._engine.log
        return Place(log_of.shard, log_of.epochs, log_of.last_sequence)

    def conversation(self, conversation: int) -> Conversation | None:
        """None if there is none."""
        return self._view.conversation(conversation)

    def members(self, conversation: int, after: int, limit: int) -> list[tuple[int, str]]:
        """Members above user `after`, ascending: (user, role)."""
        return self._view.members(conversation, after, limit)

    # ---- for operators ---------------------------------------------------------------------------------------------

    def readiness(self) -> tuple[bool, str]:
        """(ready, one line that says why not)."""
        if self.is_closing:
            return False, "closing: this process is ending"
        if self._server is None or self.subscriptions is None:
            return False, "starts"
        failure = self.subscriptions.failure or self._engine.sequencer.failure
        return (True, "ok") if failure is None else (False, str(failure))

    @property
    def values(self) -> dict[str, float]:
        """For the metrics, as of the last second. Any thread."""
        return self.figures.values

    async def _count(self) -> None:
        """Once a second, on the loop: others read what it leaves."""
        assert self.subscriptions is not None
        while True:
            await self.figures.count(self.subscriptions, self.publishing, self.presence)
            await asyncio.sleep(SECOND_S)


class _OwnPublisher:
    """`Publisher` whose receipts of what changes conversations come when this part knows them: whoever creates one and
    then asks for it finds it."""

    def __init__(self, part: Part, inner: Publisher) -> None:
        self._part, self._inner = part, inner

    async def publish(
        self,
        type: str,
        payload: bytes,
        *,
        conversation: int = 0,
        person: int = 0,
        key: str = "",
        expected: int | None = None,
    ) -> Receipt:
        """As the port says."""
        receipt = await self._inner.publish(
            type, payload, conversation=conversation, person=person, key=key, expected=expected
        )
        if person:
            await self._part.folded(receipt.sequence)
        return receipt

    async def command(self, type: str, conversation: int, fields: dict[str, Any], *, key: str = "") -> Receipt:
        """As the port says."""
        receipt = await self._inner.command(type, conversation, fields, key=key)
        await self._part.folded(receipt.sequence)
        return receipt
