"""The process that is tortured: under the fault disk, it forks one writer for each line that it is told.

A writer opens the engine of a data directory, publishes from several devices with varied sizes, so that it commits,
rolls, saves and moves marks; with the engine closed it takes snapshots, trims and backs up. Each receipt is said once
it has left the engine: as a mark in the journal, and as a line in a file beside the data.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.faultdisk import disk
from engine import CursorStore, Engine, EngineError, pack_proposal
from engine.answers import unpack_answers
from engine.errors import APPENDED
from engine.log.backup import Options, backup_log
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log

SEGMENT_BYTES = 96 << 10
SAVE_EVENTS = 40
ANSWER_S = 20.0
USERS = 8


class Writer:
    """One life of an engine."""

    def __init__(self, data: Path, chance: random.Random, receipts: int) -> None:
        self._chance, self._receipts, self._mark = chance, receipts, disk.marker()
        self._heard = threading.Semaphore(0)
        self.engine = Engine.open(
            data,
            on_answers=self._hear,
            on_committed=lambda sequence: None,
            segment_bytes=SEGMENT_BYTES,
            save_events_max=SAVE_EVENTS,
            save_interval_s=0.05,
        )
        self._cursors = CursorStore.open(data / "cursors", interval_s=0.05)

    def _hear(self, answers: bytes) -> None:
        for answer in unpack_answers(answers):
            if answer.status == APPENDED:
                line = b"%d %d %d\n" % (answer.sequence, answer.origin, answer.counter)
                self._mark(line)
                os.write(self._receipts, line)
            self._heard.release()

    def publish(self, life: int, count: int) -> None:
        """Batches of messages, each waited for."""
        for number in range(count):
            users = self._chance.sample(range(1, USERS + 1), self._chance.randint(1, USERS))
            size = self._chance.choice([1, 60, 700, 9_000])
            counter = number + 1
            batch = [
                pack_proposal(
                    user, life + 1, counter, user % USERS + 1, "message", b"x" * size, person=True, origin=user
                )
                for user in users
            ]
            self.engine.sequencer.submit(b"".join(batch))
            for _ in batch:
                if not self._heard.acquire(timeout=ANSWER_S):
                    raise TimeoutError("no answer")
            self._cursors.put(1, users[0], number, number)

    def close(self) -> None:
        """The end of this life."""
        self._cursors.close()
        self.engine.close()


def live(task: dict[str, Any]) -> None:
    """All lives of one writer."""
    root, chance = Path(task["base"]), random.Random(task["seed"])
    disk.begin(Path(task["control"]), root, Path(task["journal"]) if task["journal"] else None)
    receipts = os.open(task["receipts"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = root / "data"
    for life in range(task["lives"]):
        writer = Writer(data, chance, receipts)
        writer.publish(life, task["batches"])
        writer.close()
        with suppress(EngineError):  # nothing to trim, nothing to back up: as it may be with this seed
            snapshot_log(data, only_list=False)
            if life:
                trim_log(data, Wanted(keep_bytes=SEGMENT_BYTES), dry_run=False, force=True)
            backup_log(data, root / "backup", Options(), lambda what, done, total: None)


def main() -> None:
    """A line of JSON a task; answers the wait status, and what the writer said against it."""
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            try:
                live(task)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
