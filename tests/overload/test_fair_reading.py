"""The reading threads are shared fairly: one user's questions, however many and long, leave the others their turn."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial

import pytest

import engine.history
from engine.history import HistoryPage, ask, read
from engine.ports import LogReader
from engine.readers import Again, ReaderPool
from tests.fanout.test_catchup import created
from tests.fanout.world import World
from tests.support.naive_log import NaiveLog


@pytest.mark.parametrize("threads", [1, 2])
def test_one_key_has_one_thread_and_keys_take_turns(threads: int) -> None:
    """A glutton with 20 jobs comes first; everybody else is served after at most one job of theirs each."""
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    pool = ReaderPool(NaiveLog, posted.put, threads)
    order: list[str] = []
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    lock = threading.Lock()
    gate = threading.Event()

    def job(_reader: LogReader, name: str) -> str:
        with lock:
            running[name] = running.get(name, 0) + 1
            most[name] = max(most.get(name, 0), running[name])
        gate.wait(10)
        with lock:
            running[name] -= 1
            order.append(name)
        return name

    answers: list[str | Exception] = []
    for name in ["glutton"] * 20 + ["a", "b", "c"] * 2:
        pool.submit(partial(job, name=name), answers.append, name)
    assert pool.waiting == 26 - threads
    gate.set()
    for _ in range(26):
        posted.get(timeout=10)()
    pool.close()
    assert len(answers) == 26 and set(most.values()) == {1} and pool.waiting == 0
    if threads == 1:
        assert order[:8] == ["glutton", "a", "b", "c"] * 2


def test_a_job_that_answers_again_goes_on_after_the_others() -> None:
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    pool = ReaderPool(NaiveLog, posted.put, 1)
    order: list[str] = []
    gate = threading.Event()

    def long(_reader: LogReader, left: int = 3) -> str | Again:
        gate.wait(10)
        order.append(f"long {left}")
        return Again(partial(long, left=left - 1)) if left else "done"

    def short(_reader: LogReader) -> str:
        order.append("short")
        return "short"

    answers: list[str | Exception] = []
    pool.submit(long, answers.append, 1)
    pool.submit(short, answers.append, 2)
    gate.set()
    for _ in range(2):
        posted.get(timeout=10)()
    pool.close()
    assert order == ["long 3", "short", "long 2", "long 1", "long 0"]
    assert answers == ["short", "done"]


def test_a_search_far_back_takes_many_turns_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(5)
    world.commit([(1, "conversation.created", 1, created([1])), (2, "conversation.created", 1, created([1]))])
    for _ in range(60):
        world.commit([(2, "message", 1, b"other"), *[(1, "message", 1, b"x")] * 20])
    world.settle()
    question = ask(world.view, 1, 1, 24, 5)  # an event of the other conversation: searched from the newest back
    assert question is not None
    at_once = read(world.log, question)
    monkeypatch.setattr(engine.history, "SEARCH_TURN_HOPS", 200)
    found, turns = read(world.log, question), 0
    while isinstance(found, Again):
        found, turns = found.job(world.log), turns + 1
    assert turns >= 4 and isinstance(found, HistoryPage) and found == at_once and len(found.events) == 5
