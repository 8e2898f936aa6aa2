"""The threads that read the log for others than the tail: resume, slow sessions, history.

Between the loop, which asks and gets answers as callbacks on its own thread, and the log. What is older than the ring
may lie on a cold disk; the loop must not wait for it.

Invariants: a LogReader is used by the thread that made it alone; each accepted job calls `done` exactly once, unless
the pool was closed meanwhile; an exception is an answer, not a dead thread. How many jobs wait is the callers' to
bound (one for each reading session, a few for each asking one).
Cost: one hand-over to a thread and back, about 50 µs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from engine.ports import LogReader, Post

Answer = TypeVar("Answer")


class ReaderPool:
    """A bounded pool of threads with one LogReader each; or whatever `executor` runs jobs in."""

    def __init__(
        self, new_reader: Callable[[], LogReader], post: Post, threads: int, executor: Executor | None = None
    ) -> None:
        self._new_reader = new_reader
        self._post = post
        self._local = threading.local()
        self._executor = executor or ThreadPoolExecutor(threads, "gonets-reader")
        self._closed = False

    def submit(self, job: Callable[[LogReader], Answer], done: Callable[[Answer | Exception], None]) -> None:
        """Runs `job` with this thread's reader, then `done` on the loop with its answer or exception."""
        future = self._executor.submit(self._run, job)
        future.add_done_callback(lambda finished: self._answer(finished, done))

    def _run(self, job: Callable[[LogReader], Answer]) -> Answer:
        reader: LogReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._new_reader()
        return job(reader)

    def _answer(self, finished: Future[Answer], done: Callable[[Answer | Exception], None]) -> None:
        if self._closed or finished.cancelled():
            return
        error = finished.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        outcome: Answer | Exception = error if error is not None else finished.result()
        self._post(lambda: None if self._closed else done(outcome))

    def close(self) -> None:
        """Waits for the jobs that run, forgets those that wait."""
        self._closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)
