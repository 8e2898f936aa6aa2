"""A running Sequencer with its threads over a log in memory whose sync can be held, failed and counted.

For what threads do: who waits for whom, what is answered when, what a failure leaves behind. The promises against
the real disk are tested with the real log (test_crash.py, test_sync.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.admitter import Admitter
from engine.answers import Answer, pack_proposal, unpack_answers
from engine.errors import LogFenced
from engine.sequencer import Sequencer, clock_us
from engine.state.saved import SavedState
from engine.state.saver import Saver
from tests.support.sequencer_driver import MemoryLog

DEADLINE_S = 20.0


class GatedLog(MemoryLog):
    """append() waits while `hold()` is on and raises after `fail()`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.error: Exception | None = None

    def reader(self) -> Any:
        """The log reads itself."""
        return self

    def append(self, block: bytes) -> None:
        """One block, when the gate is open."""
        self.waiting.set()
        assert self.gate.wait(DEADLINE_S)
        self.waiting.clear()
        if self.error is not None:
            raise self.error
        assert int.from_bytes(block[16:24], "little") == self.last_sequence() + 1
        self.blocks.append(block)

    def hold(self) -> None:
        """The next sync takes for ever."""
        self.gate.clear()

    def go(self) -> None:
        """It ends."""
        self.gate.set()

    def fail(self) -> None:
        """It ends badly."""
        self.error = LogFenced("the sync failed")
        self.gate.set()


class Rig:
    """See the module. `answers` are in the order in which they were heard."""

    def __init__(
        self,
        path: Path,
        *,
        intake_bytes_max: int = 1 << 20,
        tables_bytes_max: int = 1 << 30,
        block_events_max: int = 1 << 16,
        save_events_max: int = 1_000_000,
        save_interval_s: float = 3600,
        clock: Callable[[], int] | None = None,
        lag_events_max: int = 8_000_000,
        run_saver: bool = False,
    ) -> None:
        self.log = GatedLog()
        self.saved = SavedState.open(path, shard=0)
        self.saver = Saver(self.saved, self.log, events_max=save_events_max, interval_s=save_interval_s)
        self.admitter = Admitter(
            self.saved, shard=0, epoch=1, sequence=0, number=0, last_hash=bytes(32), block_events_max=block_events_max
        )
        self.answers: list[Answer] = []
        self.committed: list[int] = []
        self._heard = threading.Condition()
        self.sequencer = Sequencer(
            self.log,
            self.saved,
            self.admitter,
            self.saver,
            on_answers=self._hear,
            on_committed=self.committed.append,
            intake_bytes_max=intake_bytes_max,
            tables_bytes_max=tables_bytes_max,
            lag_events_max=lag_events_max,
            clock=clock or clock_us,
        )
        self.saver.on_saved = self.sequencer.ring
        self.sequencer.start()
        if run_saver:
            self.saver.start()

    def _hear(self, answers: bytes) -> None:
        with self._heard:
            self.answers += unpack_answers(answers)
            self._heard.notify_all()

    def wait(self, count: int) -> list[Answer]:
        """The answers, once there are so many."""
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.answers) >= count, DEADLINE_S), (
                f"{len(self.answers)} answers of {count}"
            )
            return list(self.answers)

    def say(self, user: int, counter: int, person: int, *, wait: bool = True) -> Answer | None:
        """One message to a person; its answer."""
        before = len(self.answers)
        assert self.sequencer.submit(pack_proposal(user, 1, counter, person, "message", b"x", person=True))
        return self.wait(before + 1)[before] if wait else None

    def quiet(self, seconds: float = 0.05) -> None:
        """Gives the threads time to do what they must not do."""
        time.sleep(seconds)

    def close(self) -> None:
        """Ends the threads."""
        self.log.go()
        self.sequencer.close()
        if self.saver.failure is None:
            self.saver.stop()
        self.saved.close()
