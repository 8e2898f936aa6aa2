"""The threads that read the log for others than the tail: resume, slow sessions, history.

Between the loop, which asks and gets answers as callbacks on its own thread, and the log. What is older than the ring
may lie on a cold disk; the loop must not wait for it. Jobs have a key, whose they are: of one key one job runs at a
time, and keys take turns, so that nobody keeps all threads busy however much they ask. A job that has worked for long
answers Again and goes to the end of its turn.

Invariants: a LogReader is used by the thread that made it alone; each accepted job calls `done` exactly once, unless
the pool was closed meanwhile; an exception is an answer, not a dead thread. How many jobs wait (`waiting`) is the
callers' to bound: one for each reading session, a few for each asking one; answers wait up to OUTCOMES_MAX.
Cost: one hand-over to a thread and back, about 50 µs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from engine.ports import LogReader, Post

Answer = TypeVar("Answer")


OUTCOMES_MAX = 32  # answers that the loop has not taken yet: no job begins before it has


class Again(NamedTuple):
    """A job's answer that is none: `job` goes on when it is its key's turn again."""

    job: Callable[[LogReader], Any]


class Job(NamedTuple):
    """What waits."""

    run: Callable[[LogReader], Any]
    done: Callable[[Any], None]


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
        # Under the lock: a key is in `_queues` while it has jobs, and in `_turns` while none of them runs.
        self._lock = threading.RLock()  # an executor may run a job at once
        self._queues: dict[Hashable, deque[Job]] = {}
        self._turns: deque[Hashable] = deque()
        self._idle = threads
        self._outcomes = 0  # posted, and not taken yet
        self.waiting = 0  # jobs that no thread has taken yet

    def submit(
        self,
        job: Callable[[LogReader], Answer | Again],
        done: Callable[[Answer | Exception], None],
        key: Hashable = None,
    ) -> None:
        """Runs `job` with this thread's reader, then `done` on the loop with its answer or exception. Without a key it
        is nobody's, and takes turns like somebody of its own."""
        if self._closed:
            raise RuntimeError("the pool has been closed")
        key = object() if key is None else key
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
                self._turns.append(key)
            queue.append(Job(job, done))
            self.waiting += 1
            self._fill()

    def _fill(self) -> None:
        """Gives idle threads the next job of the next key. Under the lock."""
        while self._idle and self._turns and self._outcomes < OUTCOMES_MAX and not self._closed:
            self._idle -= 1
            self.waiting -= 1
            key = self._turns.popleft()
            job = self._queues[key].popleft()
            self._executor.submit(self._serve, job, key)

    def _serve(self, job: Job, key: Hashable) -> None:
        """In a thread: the job, what goes on after it, and its answer."""
        try:
            outcome = job.run(self._own_reader())
        except Exception as error:
            outcome = error
        with self._lock:
            self._idle += 1
            queue = self._queues[key]
            if isinstance(outcome, Again):
                queue.append(job._replace(run=outcome.job))
                self.waiting += 1
            if queue:
                self._turns.append(key)
            else:
                del self._queues[key]
            if not isinstance(outcome, Again):
                self._outcomes += 1
            self._fill()
        if not self._closed and not isinstance(outcome, Again):
            self._post(lambda: self._take(job, outcome))

    def _take(self, job: Job, outcome: Any) -> None:
        """On the loop: an answer, and room for the next."""
        if self._closed:
            return
        with self._lock:
            self._outcomes -= 1
            self._fill()
        job.done(outcome)

    def _own_reader(self) -> LogReader:
        reader: LogReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._new_reader()
        return reader

    def close(self) -> None:
        """Waits for the jobs that run, forgets those that wait."""
        self._closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)
