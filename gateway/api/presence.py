"""Which people have no live session: asked of those who hold the sessions, for pushes to phones that are away.

Between subscriptions whose filter asks for it (Filter.recipient_away) and the gateway: in one process its session
table, on the gateway's loop; with workers all of them, over the signals that typing goes by (gateway/bus.py). Whoever
is asked about in one turn of the loop is asked about together.

Invariants: the answer comes within WAIT_S, whatever dies meanwhile; who is not known to be connected counts as away, so
that a push is sent once too often rather than never. Cost: a signal to each worker and one back, for each question.
"""

from __future__ import annotations

import asyncio
import secrets
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from gateway.bus import Connected, Whereabouts

if TYPE_CHECKING:
    from ext.session_table import SessionTable

WAIT_S: Final = 0.25  # a signal takes below a millisecond; a worker that is so late is dying or stopped
USERS_MAX: Final = 5_000  # of one question: a worker's loop looks each of them up at once


class Holders(Protocol):
    """Who holds the sessions."""

    async def connected(self, users: list[int]) -> set[int]:
        """Those of the users who are known to have a session, in the time that there is."""


class Presence:
    """Gathers what is asked in one turn. One thread, the loop's."""

    def __init__(self, holders: Holders) -> None:
        self._holders = holders
        self._wanted: dict[int, None] = {}
        self._answer: Future[set[int]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.questions = 0

    async def away(self, users: Sequence[int]) -> set[int]:
        """Those of the users who have no live session."""
        asked = list(dict.fromkeys(users))
        if not asked:
            return set()
        here: set[int] = set()
        for first in range(0, len(asked), USERS_MAX):
            # Shared with others who ask: one who gives up leaves it to them.
            here |= await asyncio.shield(self._connected(asked[first : first + USERS_MAX]))
        return set(asked) - here

    def _connected(self, users: list[int]) -> Future[set[int]]:
        if self._answer is None or len(self._wanted) + len(users) > USERS_MAX:
            self._wanted = {}
            self._answer = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self._ask, self._wanted, self._answer)
        self._wanted.update(dict.fromkeys(users))
        return self._answer

    def _ask(self, wanted: dict[int, None], answer: Future[set[int]]) -> None:
        if answer is self._answer:
            self._answer = None
        self.questions += 1
        task = asyncio.get_running_loop().create_task(self._tell(list(wanted), answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, users: list[int], answer: Future[set[int]]) -> None:
        found = await self._holders.connected(users)
        if not answer.done():
            answer.set_result(found)


class OneGateway:
    """The gateway of this process, on its loop in another thread."""

    def __init__(self, loop: AbstractEventLoop, sessions: SessionTable) -> None:
        self._loop, self._sessions = loop, sessions

    async def connected(self, users: list[int]) -> set[int]:
        """Asks its table."""
        ours = asyncio.get_running_loop()
        found: Future[set[int]] = ours.create_future()

        def tell(here: set[int]) -> None:
            if not found.done():
                found.set_result(here)

        def look() -> None:
            ours.call_soon_threadsafe(tell, {user for user in users if self._sessions.count_of_user(user)})

        self._loop.call_soon_threadsafe(look)
        try:
            return await asyncio.wait_for(found, WAIT_S)
        except TimeoutError:
            return set()


class _Question:
    """One that is under way."""

    __slots__ = ("answered", "answers", "here", "users")

    def __init__(self, users: list[int], answered: Future[None]) -> None:
        self.users, self.answered = frozenset(users), answered
        self.here: set[int] = set()
        self.answers: set[int] = set()  # numbers of workers


class Workers:
    """All workers, over the bus. `signal`: to all others. `on_signal` is fed with what comes from them."""

    def __init__(self, signal: Callable[[bytes], None], workers: int) -> None:
        self._signal, self._count = signal, workers
        self._questions: dict[int, _Question] = {}
        self._decoder = msgspec.msgpack.Decoder(Connected)
        self._encode = msgspec.msgpack.Encoder().encode
        self._prefix = self._encode(Connected(0, 0, []))[:2]  # an array of so many, the tag: typing looks otherwise

    async def connected(self, users: list[int]) -> set[int]:
        """Waits for as many answers as there are workers, or for one that says that all are here."""
        number = secrets.randbits(53)
        question = _Question(users, asyncio.get_running_loop().create_future())
        self._questions[number] = question
        try:
            self._signal(self._encode(Whereabouts(number, users)))
            await asyncio.wait_for(question.answered, WAIT_S)
        except TimeoutError:
            pass
        finally:
            del self._questions[number]
        return question.here

    def on_signal(self, body: bytes) -> None:
        """What a worker says to all others."""
        if body[:2] != self._prefix:
            return
        said = self._decoder.decode(body)
        question = self._questions.get(said.question)
        if question is None:
            return
        question.answers.add(said.worker)
        question.here |= question.users.intersection(said.users)
        is_known = len(question.answers) >= self._count or len(question.here) == len(question.users)
        if is_known and not question.answered.done():
            question.answered.set_result(None)
