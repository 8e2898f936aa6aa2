"""Who is away, asked of all workers over their signals: every answer counts, and one that is silent holds nobody up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest

from gateway.api.presence import WAIT_S, Presence, Workers
from gateway.bus import Connected, ForConversation, Whereabouts


class Bus:
    """Signals to workers that have some users each, and back, as the hub carries them."""

    def __init__(self, holding: list[set[int]], silent: frozenset[int] = frozenset()) -> None:
        self._holding, self._silent = holding, silent
        self.tell: Callable[[bytes], None]
        self.asked: list[list[int]] = []

    def signal(self, body: bytes) -> None:
        """The api's, to all workers."""
        said = msgspec.msgpack.decode(body, type=Whereabouts)
        self.asked.append(said.users)
        for number, users in enumerate(self._holding):
            if number not in self._silent:
                answer = Connected(said.question, number, sorted(users.intersection(said.users)))
                asyncio.get_running_loop().call_soon(self.tell, msgspec.msgpack.encode(answer))


def ask(bus: Bus, workers: int, *questions: list[int]) -> tuple[list[set[int]], float]:
    """The answers to questions that are asked at once, and how long they took."""

    async def run() -> tuple[list[set[int]], float]:
        found = Workers(bus.signal, workers)
        bus.tell = found.on_signal
        presence = Presence(found)
        began_s = time.monotonic()
        answers = await asyncio.gather(*(presence.away(users) for users in questions))
        return list(answers), time.monotonic() - began_s

    return asyncio.run(run())


def test_who_is_on_no_worker_is_away() -> None:
    bus = Bus([{1, 2}, {3}])
    answers, took_s = ask(bus, 2, [1, 3, 4], [2, 5], [])
    assert answers == [{4}, {5}, set()] and took_s < WAIT_S
    assert len(bus.asked) == 1, "what is asked in one turn is one question"


def test_a_silent_worker_holds_up_for_a_moment_and_its_users_count_as_away() -> None:
    answers, took_s = ask(Bus([{1}, {2}], frozenset({1})), 2, [1, 2])
    assert answers == [{2}] and took_s >= WAIT_S


def test_whoever_is_found_is_not_waited_for() -> None:
    answers, took_s = ask(Bus([{1, 2}, {3}], frozenset({1})), 2, [1, 2])
    assert answers == [set()] and took_s < WAIT_S


@pytest.mark.parametrize(
    "strange",
    [
        msgspec.msgpack.encode(ForConversation(1, b"typing", b"{}")),
        msgspec.msgpack.encode(Connected(77, 1, [4])),
        b"",
    ],
)
def test_other_signals_are_passed_over(strange: bytes) -> None:
    """Typing, an answer to a question that nobody asks any more."""
    workers = Workers(lambda body: None, 1)
    workers.on_signal(strange)
    answers, _ = ask(Bus([{4}]), 1, [4, 5])
    assert answers == [{5}]
