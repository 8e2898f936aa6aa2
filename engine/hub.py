"""The sequencer's end of all links: workers' batches in, answers and "committed up to S" out, notes and signals across.

Runs in the sequencer's process beside the engine, on one thread of its own; the committer's thread calls `answer` and
`committed`. A proposal carries the number of its link through the sequencer in its origin (ext/relay.pyx), so that the
hub remembers nothing of it but a count. Wake-ups are level-triggered: while a worker has not taken the last one, later
ones are merged into the next.

States of a link: open → ended (the worker is gone, or said what is no frame): what it had sent is committed all the
same, its answers find nobody. Its number is given again only when nothing of it is unanswered.
Invariants: answers of a block are sent before its wake-up; notes reach all workers, their sender too, in one order;
signals are dropped for a worker that is behind; nothing waits without bound: a worker whose answers pile up is not
read, one that takes nothing though it is owed MUST_TAKE_BYTES is cut off.
Cost: two system calls a worker and commit.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from engine.answers import ANSWER_BYTES, refuse_batch
from engine.errors import OVERLOADED
from engine.follower import Status
from engine.link import ANSWERS, COMMITTED, COMMITTED_BODY, NOTE, PROPOSALS, SIGNAL, STATUS, Link, LinkBroken
from ext.relay import TAG_MAX, split, tag

if TYPE_CHECKING:
    from engine.engine import Engine

READ_BYTES_MAX: Final = 1 << 20  # that a worker has not taken, above which it is not read
SIGNALS_BYTES_MAX: Final = 1 << 20
MUST_TAKE_BYTES: Final = 64 << 20
LOOK_S: Final = 0.25  # between two looks at what the engine says of itself
OVERLOADED_RETRY_MS: Final = 400

_log = logging.getLogger(__name__)


class _Worker:
    """One link and what is owed to it. `unanswered` is guarded by the hub's lock."""

    __slots__ = ("is_behind", "is_read", "is_written", "link", "number", "unanswered")

    def __init__(self, number: int, link: Link) -> None:
        self.number, self.link = number, link
        self.unanswered = 0  # proposals
        self.is_behind = False  # owes the newest wake-up
        self.is_read = True
        self.is_written = False  # the hub waits until it takes more


class Hub:
    """Made before the engine, whose callbacks it gives; `run` when that is open, until `stop`."""

    def __init__(self) -> None:
        self._engine: Engine
        self._lock = threading.Lock()  # of `_workers`, their counts, `_joining` and what is said on waking
        self._workers: dict[int, _Worker] = {}  # by number; ended ones too while something of them is unanswered
        self._joining: deque[socket.socket] = deque()
        self._later: set[int] = set()  # numbers of workers that the committer could not send everything to
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._status = Status()
        self._stopping = False
        self.links = 0  # open ones

    # ---- any thread ------------------------------------------------------------------------------------------------

    def join(self, end: socket.socket) -> None:
        """A new link to a worker."""
        with self._lock:
            self._joining.append(end)
        self._ring()

    def stop(self) -> None:
        """Lets `run` return: what has come in by now has been submitted."""
        self._stopping = True
        self._ring()

    def _ring(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    # ---- the committer's thread ------------------------------------------------------------------------------------

    def answer(self, answers: bytes) -> None:
        """Hands each worker its answers."""
        for number, part in split(answers):
            with self._lock:
                worker = self._workers.get(number)
                if worker is None:
                    continue
                worker.unanswered -= len(part) // ANSWER_BYTES
                if not worker.unanswered and not worker.link.is_open:
                    del self._workers[number]
                    continue
            self._send(worker, ANSWERS, part)

    def committed(self, sequence: int) -> None:
        """Wakes all workers: look again."""
        body = self._committed_body(sequence)
        with self._lock:
            workers = [worker for worker in self._workers.values() if worker.link.is_open]
        for worker in workers:
            if worker.link.waiting_bytes:
                worker.is_behind = True
                self._flush_later(worker)
            else:
                self._send(worker, COMMITTED, body)

    def _committed_body(self, sequence: int) -> bytes:
        sequencer = self._engine.sequencer
        return COMMITTED_BODY.pack(sequence, sequencer.commits, sequencer.sync_ns)

    def _send(self, worker: _Worker, kind: int, body: bytes) -> None:
        if worker.link.send(kind, body):
            self._flush_later(worker)

    def _flush_later(self, worker: _Worker) -> None:
        with self._lock:
            self._later.add(worker.number)
        self._ring()

    # ---- the hub's thread ------------------------------------------------------------------------------------------

    def run(self, engine: Engine, second: Callable[[], None] = lambda: None) -> None:
        """Serves all links. `second` is called every LOOK_S."""
        self._engine = engine
        self._selector.register(self._wake, selectors.EVENT_READ)
        while not self._stopping:
            for key, events in self._selector.select(LOOK_S):
                if key.data is None:
                    self._on_wake()
                    continue
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ and key.data.link.is_open:
                    self._read(key.data)
            self._tell_status()
            second()

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._lock:
            joining, self._joining = self._joining, deque()
            later = [self._workers[number] for number in self._later if number in self._workers]
            self._later.clear()
        for end in joining:
            self._welcome(end)
        for worker in later:
            self._flush(worker)

    def _welcome(self, end: socket.socket) -> None:
        with self._lock:
            number = next((number for number in range(1, TAG_MAX + 1) if number not in self._workers), 0)
            worker = _Worker(number, Link(end))
            if number:
                self._workers[number] = worker
        if not number:
            _log.error("no number is free for another worker: %d have unanswered publishes", TAG_MAX)
            worker.link.close()
            return
        self.links += 1
        self._selector.register(worker.link, selectors.EVENT_READ, worker)
        worker.link.send(STATUS, msgspec.msgpack.encode(self._status))
        self._send(worker, COMMITTED, self._committed_body(self._engine.log.last_sequence))

    def _read(self, worker: _Worker) -> None:
        try:
            frames = worker.link.receive()
            if frames is not None:
                for kind, body in frames:
                    self._take(worker, kind, body)
                self._watch(worker)
                return
        except (LinkBroken, ValueError) as error:
            _log.error("the link to a worker is given up: %s", error)
        self._part(worker)

    def _take(self, worker: _Worker, kind: int, body: bytes) -> None:
        if kind == PROPOSALS:
            self._submit(worker, body)
        elif kind == SIGNAL:
            for other in self._open_workers():
                if other is not worker and other.link.waiting_bytes < SIGNALS_BYTES_MAX:
                    self._send(other, SIGNAL, body)
        elif kind == NOTE:
            for other in self._open_workers():
                self._send(other, NOTE, (b"\1" if other is worker else b"\0") + body)
        else:
            raise LinkBroken(f"a worker sent a frame of kind {kind}")

    def _submit(self, worker: _Worker, body: bytes) -> None:
        batch = bytearray(body)
        count = tag(batch, worker.number)
        if not count:
            return
        with self._lock:
            worker.unanswered += count
        taken = False
        try:
            taken = self._engine.sequencer.submit(bytes(batch))
        finally:
            if not taken:
                with self._lock:
                    worker.unanswered -= count
        if taken:
            return
        pause_ms = OVERLOADED_RETRY_MS // 2 + random.randrange(OVERLOADED_RETRY_MS + 1)
        self._send(worker, ANSWERS, refuse_batch(body, 0, OVERLOADED, pause_ms))

    def _open_workers(self) -> list[_Worker]:
        with self._lock:
            return [worker for worker in self._workers.values() if worker.link.is_open]

    def _flush(self, worker: _Worker) -> None:
        if not worker.link.is_open:
            return
        if not worker.link.flush() and worker.is_behind:
            worker.is_behind = False  # before the look: a commit from now on sees an empty link, or says so again
            worker.link.send(COMMITTED, self._committed_body(self._engine.log.last_sequence))
        if worker.link.waiting_bytes > MUST_TAKE_BYTES:
            _log.error("a worker has not taken %d bytes: its link is given up", worker.link.waiting_bytes)
            self._part(worker)
            return
        self._watch(worker)

    def _watch(self, worker: _Worker) -> None:
        """Tells the selector what to wait for."""
        waiting = worker.link.waiting_bytes
        is_read, is_written = waiting < READ_BYTES_MAX, waiting > 0
        if (is_read, is_written) != (worker.is_read, worker.is_written):
            worker.is_read, worker.is_written = is_read, is_written
            events = (selectors.EVENT_READ if is_read else 0) | (selectors.EVENT_WRITE if is_written else 0)
            self._selector.modify(worker.link, events, worker)

    def _part(self, worker: _Worker) -> None:
        """The worker is gone; its number waits for what is unanswered."""
        self._selector.unregister(worker.link)
        self.links -= 1
        with self._lock:
            worker.link.close()
            if not worker.unanswered:
                self._workers.pop(worker.number, None)

    def _tell_status(self) -> None:
        engine = self._engine
        failure = engine.sequencer.failure
        status = Status(
            failure=f"{type(failure).__name__}: {failure}" if failure is not None else "",
            shortage=engine.space.words() if engine.space.look() else "",
        )
        if status != self._status:
            self._status = status
            body = msgspec.msgpack.encode(status)
            for worker in self._open_workers():
                self._send(worker, STATUS, body)

    def close(self) -> None:
        """Ends all links, once the engine is closed: its last answers have been sent, as far as workers took them."""
        for worker in self._open_workers():
            worker.link.close()
        self._selector.close()
        os.close(self._wake)
