"""The process that is tortured: under the fault disk, it forks one writer for each line that it is told.

A writer opens the engine of a data directory, publishes from several devices with varied sizes, so that it commits,
rolls, saves and moves marks; with the engine closed it takes snapshots, trims and backs up. Each life first sends
again what those before it sent, as clients do. What has left the engine is said at once: as a mark in the journal,
and as a line in a file beside the data (judge.py).
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any, Final

from bench.faultdisk import disk
from bench.torture.judge import BACKUP, FENCED, RECEIPT, SEGMENT_BYTES
from engine import CursorStore, Engine, pack_proposal
from engine.answers import unpack_answers
from engine.errors import APPENDED, REPEAT, UNAVAILABLE, EngineUnable
from engine.log.backup import Options, backup_log
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log

SAVE_EVENTS = 40
ANSWER_S = 20.0
USERS = 8
DEVICES = 256  # of which `origin` tells user and device
REFUSED: Final = 3  # how a writer ends that could not open the log because it could not sync it


class Writer:
    """One life of an engine."""

    def __init__(self, data: Path, chance: random.Random, said: int) -> None:
        self._chance, self._said, self._mark = chance, said, disk.marker()
        self._heard = threading.Semaphore(0)
        self._problem = ""
        self._fenced = False
        self.engine = Engine.open(
            data,
            on_answers=self._hear,
            on_committed=lambda sequence: None,
            segment_bytes=SEGMENT_BYTES,
            save_events_max=SAVE_EVENTS,
            save_interval_s=0.05,
        )
        self._cursors = CursorStore.open(data / "cursors", interval_s=0.05)

    def say(self, *words: bytes | int) -> None:
        """To whoever judges."""
        line = b" ".join(word if isinstance(word, bytes) else b"%d" % word for word in words) + b"\n"
        self._mark(line)
        os.write(self._said, line)

    def _hear(self, answers: bytes) -> None:
        for answer in unpack_answers(answers):
            user, device = divmod(answer.origin, DEVICES)
            if answer.status in (APPENDED, REPEAT):
                self.say(RECEIPT, answer.sequence, user, device, answer.counter)
            elif answer.status != UNAVAILABLE:
                self._problem = f"unexpected answer {answer}"
            elif not self._fenced:
                self._fenced = True
                self.say(FENCED)
            self._heard.release()

    def publish(self, life: int, batches: int) -> None:
        """The messages of the lives before once more, then new ones, each batch waited for."""
        for device in range(1, life + 1):
            self._send([(user, device, batch + 1, 1) for user in range(1, USERS + 1) for batch in range(batches)])
        for batch in range(batches):
            users = self._chance.sample(range(1, USERS + 1), self._chance.randint(1, USERS))
            size = self._chance.choice([1, 60, 700, 9_000])
            self._send([(user, life + 1, batch + 1, size) for user in users])
            self._cursors.put(1, users[0], batch, batch)

    def _send(self, messages: list[tuple[int, int, int, int]]) -> None:
        """(user, device, counter, size) of each; until all are answered."""
        self.engine.sequencer.submit(
            b"".join(
                pack_proposal(
                    user,
                    device,
                    counter,
                    user % USERS + 1,
                    "message",
                    b"x" * size,
                    person=True,
                    origin=user * DEVICES + device,
                )
                for user, device, counter, size in messages
            )
        )
        for _ in messages:
            if not self._heard.acquire(timeout=ANSWER_S):
                raise TimeoutError("no answer")
        if self._problem:
            raise AssertionError(self._problem)

    def close(self) -> None:
        """The end of this life."""
        self._cursors.close()
        self.engine.close()


def live(task: dict[str, Any]) -> int:
    """All lives of one writer; how it ends."""
    root, chance = Path(task["base"]), random.Random(task["seed"])
    disk.begin(Path(task["control"]), root, Path(task["journal"]) if task["journal"] else None)
    said = os.open(task["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = root / "data"
    for life in task["lives"]:
        try:
            writer = Writer(data, chance, said)
        except EngineUnable as error:
            if "can't be synced" not in error.detail:
                raise
            return REFUSED
        writer.publish(life, task["batches"])
        writer.close()
        snapshot_log(data, only_list=False)
        if life:
            trim_log(data, Wanted(keep_bytes=SEGMENT_BYTES), dry_run=False, force=True)
        made = backup_log(data, root / "backup", Options(), lambda what, done, total: None)
        writer.say(BACKUP, made["number"])
    return 0


def main() -> None:
    """A line of JSON a task; answers the wait status, and what the writer said against it."""
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            try:
                status = live(task)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                status = 1
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
