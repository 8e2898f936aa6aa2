"""The pool of readers: each thread its own reader, each job one answer on the loop, exceptions included."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest

from engine.ports import LogReader
from engine.readers import OUTCOMES_MAX, ReaderPool
from tests.support.naive_log import NaiveLog


class Loop:
    """Collects what is posted, runs it on the test's thread."""

    def __init__(self) -> None:
        self.posted: queue.Queue[Callable[[], None]] = queue.Queue()

    def post(self, callback: Callable[[], None]) -> None:
        self.posted.put(callback)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.posted.get(timeout=10)()


def test_answers_come_on_the_loop_and_readers_stay_with_their_threads() -> None:
    loop = Loop()
    made: list[tuple[int, LogReader]] = []
    used: dict[int, set[int]] = {}
    together = threading.Barrier(3)

    def new_reader() -> LogReader:
        log = NaiveLog()
        made.append((threading.get_ident(), log))
        return log

    def job(reader: LogReader) -> int:
        used.setdefault(id(reader), set()).add(threading.get_ident())
        together.wait(10)
        return threading.get_ident()

    pool = ReaderPool(new_reader, loop.post, 3)
    answers: list[int | Exception] = []
    for _ in range(9):
        pool.submit(job, answers.append)
    loop.run(9)
    assert len(answers) == 9
    assert len(made) == len(used) == 3
    assert all(len(threads) == 1 for threads in used.values())
    assert threading.get_ident() not in answers
    pool.close()


def test_an_exception_is_an_answer() -> None:
    loop = Loop()
    pool = ReaderPool(NaiveLog, loop.post, 1)
    answers: list[object] = []

    def bad(reader: LogReader) -> int:
        raise OSError("disk")

    pool.submit(bad, answers.append)
    pool.submit(lambda reader: 5, answers.append)
    loop.run(2)
    assert isinstance(answers[0], OSError)
    assert answers[1] == 5
    pool.close()


def test_nothing_is_answered_after_close() -> None:
    loop = Loop()
    pool = ReaderPool(NaiveLog, loop.post, 1)
    go = threading.Event()
    answers: list[object] = []
    pool.submit(lambda reader: go.wait(10), answers.append)
    pool.submit(lambda reader: 6, answers.append)
    go.set()
    pool.close()
    while not loop.posted.empty():
        loop.posted.get()()
    assert answers == []
    with pytest.raises(RuntimeError):
        pool.submit(lambda reader: 7, answers.append)


def test_no_job_begins_while_the_loop_has_many_answers_to_take() -> None:
    """Pages that are ready lie in memory; those that aren't read yet don't."""
    loop, answers = Loop(), list[int | Exception]()
    ran: list[int] = []

    def job(_reader: LogReader) -> int:
        ran.append(1)
        return len(ran)

    pool = ReaderPool(NaiveLog, loop.post, 2)
    for _ in range(OUTCOMES_MAX + 20):
        pool.submit(job, answers.append)
    while loop.posted.qsize() < OUTCOMES_MAX:
        time.sleep(0.001)
    time.sleep(0.05)
    assert OUTCOMES_MAX <= len(ran) <= OUTCOMES_MAX + 2 and pool.waiting >= 18
    loop.run(OUTCOMES_MAX + 20)
    assert len(answers) == len(ran) == OUTCOMES_MAX + 20
    pool.close()
