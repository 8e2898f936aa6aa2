"""The one writer's two threads: admission of the next block while the last one is written and synced.

After the gateway's commands (any thread submits batches of proposals), before the log. Admission keeps a block open
and adds to it whatever comes in until the committer is free: one event alone on an idle engine leaves at once, under
load a block is what gathered meanwhile. Answers travel with the block that admission had open when it judged, so
none is heard before that block is synced, refusals and repeats included. A loader fetches cold rows beside them.

States: running → failed (the first exception of either thread: what was admitted is discarded, every answer from
then on is `unavailable`) → closed; running → closed (what was taken in is committed first).
The threads only wait and call steps (`admit`, `load`, `write`, `tell`). Whoever never calls `start` takes the steps
itself, in an order of its own: the simulation does.
Cost: two thread hand-overs a commit; Python per batch, not per proposal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, Protocol

from engine.admitter import Admitter, Cut
from engine.answers import fail_answers, fill_repeats, refuse_batch
from engine.errors import OVERLOADED, EngineError, LogFenced, StateDamaged
from engine.loader import Loaded, Loader, RecordReader
from engine.state.saved import SavedState
from engine.state.saver import Saver
from ext.admission import check_batch

QUEUE_BLOCKS: Final = 2  # blocks handed over and not yet synced: the committer never waits for a thread to wake
SHED_SLICES: Final = 4
SHED_SLICES_FULL: Final = 64  # where rows alone are over the limit
TABLES_FULL: Final = 1.5  # of the limit: beyond it admission waits for the saver, for nothing of it can be dropped
NO_SPACE_RETRY_MS: Final = 1_000
SLOW_COMMIT_NS: Final = 50_000_000  # a disk that is well takes a tenth of it; what a publish may wait is 60 ms

_log = logging.getLogger(__name__)


def clock_us() -> int:
    """Wall clock in µs; admission never lets it run backwards."""
    return time.time_ns() // 1000


class LogWriter(Protocol):
    """What the sequencer needs of the log."""

    def append(self, block: bytes) -> None:
        """Writes and syncs one block, or raises and stays fenced."""

    def reader(self) -> Any:
        """A reader for one thread."""


class Sequencer:
    """`submit` from any thread; callbacks from the committer's thread, after the sync."""

    def __init__(
        self,
        log: LogWriter,
        saved: SavedState,
        admitter: Admitter,
        saver: Saver,
        *,
        on_answers: Callable[[bytes], None],
        on_committed: Callable[[int], None],
        intake_bytes_max: int,
        tables_bytes_max: int,
        lag_events_max: int,
        last_time_us: int = 0,
        clock: Callable[[], int] = clock_us,
        is_short: Callable[[], bool] = lambda: False,
    ) -> None:
        self._log_writer = log
        self._admitter = admitter
        self._saver = saver
        self._loader = Loader(saved, log.reader, self._on_loaded)
        self._records: RecordReader = log.reader()  # of whoever tells
        self._on_answers, self._on_committed = on_answers, on_committed
        self._intake_bytes_max, self._tables_bytes_max = intake_bytes_max, tables_bytes_max
        self._lag_events_max = lag_events_max
        self._clock, self._time_us = clock, last_time_us
        self._is_short = is_short  # of disk space
        # Shared by threads: `_lock` guards intake, its bytes, in_flight and closing; the rest is written by one side.
        self._lock = threading.Lock()
        self._intake: deque[bytes] = deque()
        self._intake_bytes = 0  # in `_intake`
        self._held_bytes = 0  # with the admission thread
        self._in_flight = 0  # cuts handed over and not yet done
        self._closing = False
        self._failure: BaseException | None = None
        self._loaded: Loaded | BaseException | None = None
        self._cuts: SimpleQueue[Cut | None] = SimpleQueue()
        self._bell = threading.Lock()  # a binary semaphore: released = rung
        self._bell.acquire()
        # The admission thread's own.
        self._work: deque[tuple[bytes, int]] = deque()  # batches with the position to go on from
        self._work_bytes = 0
        self._deferred = b""  # what the loader works for
        self._loading = False
        self._answered = 0  # of the admitter's, handed over
        self.commits = self.committed_bytes = self.sync_ns = 0  # the last: writing and syncing
        self.slow_commits = 0  # of them, those of more than SLOW_COMMIT_NS
        self._threads = [
            threading.Thread(target=self._admit, name="admission", daemon=True),
            threading.Thread(target=self._commit, name="committer", daemon=True),
        ]

    # Any thread.

    def submit(self, proposals: bytes | memoryview) -> bool:
        """Takes a batch in; never blocks. False when the intake is full: the caller answers `overloaded`."""
        check_batch(proposals)
        size = len(proposals)
        with self._lock:
            waiting = self._intake_bytes + self._held_bytes
            if self._closing or (waiting and waiting + size > self._intake_bytes_max):
                return False
            self._intake.append(bytes(proposals))
            self._intake_bytes += size
        self.ring()
        return True

    def ring(self) -> None:
        """Wakes admission: look again. Rings merge."""
        with suppress(RuntimeError):  # rung already
            self._bell.release()

    def limit_events(self, block_events_max: int) -> None:
        """How many events a block takes; while nothing is under way. For measuring commits of a given size."""
        self._admitter.limit_events(block_events_max)

    @property
    def failure(self) -> BaseException | None:
        """What fenced the writer."""
        return self._failure

    @property
    def intake_bytes(self) -> int:
        """Bytes of proposals that wait."""
        return self._intake_bytes + self._held_bytes

    def start(self) -> None:
        """Begins to admit."""
        self._loader.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Commits what was taken in, then ends the threads."""
        with self._lock:
            self._closing = True
        self.ring()
        for thread in self._threads:
            thread.join()
        self._loader.stop()

    def _on_loaded(self, loaded: Loaded | BaseException) -> None:
        self._loaded = loaded
        self.ring()

    def _fence(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            # A failed write says all that an operator needs; of a mistake of ours it counts where it was.
            is_ours = not isinstance(error, EngineError)
            words = f"{type(error).__name__}: {error} ({LogFenced.hint})" if is_ours else str(error)
            _log.critical("the writer is fenced: %s", words, exc_info=error if is_ours else None)

    # The admission thread.

    def _admit(self) -> None:
        self._bell.acquire()
        while self.admit():
            self._bell.acquire()
        self._cuts.put(None)

    def admit(self) -> bool:
        """What a ring asks for: admits, hands over; False once the last has been handed over. One thread."""
        try:
            while self._failure is None and self._turn():
                pass
            if self._failure is not None:
                self._refuse_all()
        except BaseException as error:
            self._fence(error)
            self.ring()
            return True
        return not (self._closing and self._is_drained())

    def load(self) -> bool:
        """Fetches what admission lacks, if it has asked; the loader's thread, or whoever takes the steps."""
        return self._loader.step()

    def _turn(self) -> bool:
        """Takes in, admits, hands over; False when there is nothing to do until the bell rings."""
        self._take_loaded()
        self._take_intake()
        full = self._walk()
        if self._admitter.lacks() and not self._loading:
            self._deferred, missing = self._admitter.take_missing()
            self._loading = True
            self._loader.request(missing)
        self._held_bytes = self._work_bytes + len(self._deferred) + self._admitter.deferred_bytes
        handed = self._hand_over(full)
        if self._admitter.overlay.bytes > self._tables_bytes_max:
            self.shed(SHED_SLICES)
        return full and handed

    @property
    def kept_keys(self) -> int:
        """Of services' publishes, each known again for a day. Any thread."""
        keys = self._admitter.overlay.keys
        return 0 if keys is None else keys.count

    def shed(self, slices: int) -> None:
        """Drops from memory what the saved state holds, some of it. Whoever admits; not while the loader works."""
        if not self._loading:
            self._admitter.overlay.shed(self._saver.position, slices=slices)

    def _take_intake(self) -> None:
        while self._intake:
            with self._lock:
                batch = self._intake.popleft()
                self._intake_bytes -= len(batch)
                self._work_bytes += len(batch)
                self._held_bytes += len(batch)
            self._work.append((batch, 0))

    def _take_loaded(self) -> None:
        """What the loader worked for is walked first, then what was put aside meanwhile, then the rest: the order in
        which it all came."""
        loaded = self._loaded
        if loaded is None:
            return
        if isinstance(loaded, BaseException):
            raise loaded
        self._loaded = None
        self._loading = False
        younger, _ = self._admitter.take_missing()
        self._admitter.take_loaded(loaded)
        for batch in (younger, self._deferred):
            if batch:
                self._work.appendleft((batch, 0))
                self._work_bytes += len(batch)
        self._deferred = b""

    def _walk(self) -> bool:
        """Admits what waits; True if the block is full and more waits."""
        if self._work and self._is_short():
            self._refuse_work()
            return False
        if self._work and self._is_far_ahead():
            if self._saver.has_given_up:
                raise StateDamaged(
                    f"the state can't be saved, {self._lag_events_max} events behind: {self._saver.failure}"
                )
            if self._saver.failure is not None:
                self._refuse_work()
            return False  # the saver rings when it has caught up
        self._time_us = max(self._clock(), self._time_us)
        while self._work:
            batch, position = self._work[0]
            done, position = self._admitter.walk(batch, position, self._time_us)
            if not done:
                self._work[0] = (batch, position)
                return True
            self._work.popleft()
            self._work_bytes -= len(batch)
        return False

    def _is_far_ahead(self) -> bool:
        """Whether to wait for the saver: for its events, or because rows that are not saved yet (of new groups: memory
        fills long before events do) are over the limit and can't be dropped."""
        lag = self._admitter.sequence - self._saver.position
        if lag <= self._lag_events_max and self._is_full() and not self._loading:
            self._admitter.overlay.shed(self._saver.position, slices=SHED_SLICES_FULL)
        return lag > self._lag_events_max or (lag > 0 and self._is_full())

    def _is_full(self) -> bool:
        overlay, most = self._admitter.overlay, self._tables_bytes_max
        return overlay.row_bytes > most or overlay.bytes > most * TABLES_FULL

    def _hand_over(self, full: bool) -> bool:
        """Gives the open block with its answers to the committer if that is free, or the block is full and there is
        a place in its queue."""
        if not self._admitter.events and self._admitter.answered == self._answered:
            return False
        with self._lock:
            if self._in_flight >= (QUEUE_BLOCKS if full else 1):
                return False
            self._in_flight += 1
        self._answered = self._admitter.answered
        self._cuts.put(self._admitter.cut())
        self._admitter.take_hash()  # while the committer writes the block
        return True

    def _is_drained(self) -> bool:
        if self._failure is not None:
            return not self._intake
        return not (self._loading or self._admitter.lacks() or self._has_more())

    def _has_more(self) -> bool:
        """Whether anything waits to be admitted or handed over."""
        admitter = self._admitter
        return bool(self._work or self._intake or admitter.events or admitter.answered != self._answered)

    def _refuse_work(self) -> None:
        """There is no space for the state, or soon none for anything: whoever waits is told to come again."""
        answers = b"".join(refuse_batch(*work, OVERLOADED, NO_SPACE_RETRY_MS) for work in self._work)
        self._work.clear()
        self._work_bytes = 0
        with self._lock:
            self._in_flight += 1
        self._cuts.put(Cut(None, answers, 0, 0))

    def _refuse_all(self) -> None:
        """After a failure: nobody waits in vain."""
        self._take_intake()
        deferred, _ = self._admitter.take_missing()
        answers = [fail_answers(self._admitter.cut().answers)]
        answers += [refuse_batch(self._deferred, 0), refuse_batch(deferred, 0)]
        answers += [refuse_batch(batch, position) for batch, position in self._work]
        self._answered = self._admitter.answered
        self._work.clear()
        self._deferred = b""
        self._work_bytes = self._held_bytes = 0
        if any(answers):
            with self._lock:
                self._in_flight += 1
            self._cuts.put(Cut(None, b"".join(answers), 0, 0))

    # The committer's thread.

    def _commit(self) -> None:
        while (cut := self._cuts.get()) is not None:
            self.write(cut)
            self.tell(cut)

    def take_cut(self) -> Cut | None:
        """The next one handed over, for whoever takes the steps: write it, then tell it."""
        return None if self._cuts.empty() else self._cuts.get()

    def write(self, cut: Cut) -> None:
        """Makes a block durable, or fences. One thread."""
        self._write(cut)
        with self._lock:
            self._in_flight -= 1
        if self._awaits_commit():
            self.ring()  # admission hands over the next block while the answers of this one go out

    def _awaits_commit(self) -> bool:
        """Whether admission has anything to do now that a block is written. What it takes in later it hands over by
        itself, for it looks at `_in_flight` after that; woken for nothing it would be in the way of the answers."""
        return self._has_more() or self._closing or self._failure is not None

    def tell(self, cut: Cut) -> None:
        """Lets out the answers of a cut that has been written. The thread that writes."""
        try:
            self._tell(cut, self._records)
        except Exception:  # a caller's mistake must not stop the writer
            _log.exception("a callback of the sequencer failed")

    def _write(self, cut: Cut) -> None:
        if cut.block is None or self._failure is not None:
            return
        began_ns = time.perf_counter_ns()
        try:
            self._log_writer.append(cut.block)
        except BaseException as error:
            self._fence(error)
            return
        took_ns = time.perf_counter_ns() - began_ns
        self.sync_ns += took_ns
        self.slow_commits += took_ns > SLOW_COMMIT_NS
        self.commits += 1
        self.committed_bytes += len(cut.block)

    def _tell(self, cut: Cut, reader: RecordReader) -> None:
        if self._failure is not None:
            if cut.answers:
                self._on_answers(fail_answers(cut.answers))
            return
        answers = fill_repeats(cut.answers, reader.record) if cut.repeats else cut.answers
        if answers:  # first: whoever looks at the log at this wake-up finds the block too, and sends both at once
            self._on_answers(answers)
        if cut.block is not None:
            self._on_committed(cut.last)
