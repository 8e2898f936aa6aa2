"""Retention: trims by age and size without being told, in a process of its own beside the writer.

Every INTERVAL_S, while `log.keep_bytes` or `log.keep_days` is set, a thread starts `python -m engine.log.retention`,
which does what `gonets log trim` does (never what a durable reader needs), and takes a verified snapshot first where
one is missing to go as far as wanted. A process, because hashing and folding would take time from the writer's, and
because a file of LMDB may be open only once in a process. It runs at a low priority and ends by itself.

Invariants: it removes nothing that trim would not; a run that fails changes nothing else, and is said once a change.
Cost: two hashes of a snapshot a run; a copy and a replay where a snapshot is taken.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from engine.errors import EngineError
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log

INTERVAL_S: Final = 60.0
STOP_S: Final = 5.0
NICENESS: Final = 10
ROOT: Final = Path(__file__).resolve().parent.parent.parent

_log = logging.getLogger(__name__)


def retain(data: Path, wanted: Wanted) -> dict[str, Any]:
    """One run: trims as far as it may, with one more snapshot if that is what holds it."""
    report = trim_log(data, wanted, dry_run=False, force=False)
    if not report["held_segments"] or not any("snapshot" in words for words in report["held_by"]):
        return report
    snapshot_log(data, only_list=False)
    again = trim_log(data, wanted, dry_run=False, force=False)
    again["removed"] = report["removed"] + again["removed"]
    again["removed_bytes"] += report["removed_bytes"]
    return again


class Retention:
    """Runs it by the clock. `interval_s` is for tests."""

    def __init__(self, data: Path, wanted: Wanted, interval_s: float = INTERVAL_S) -> None:
        self._data, self._wanted, self._interval_s = data, wanted, interval_s
        self.runs = self.failures = self.removed_bytes = 0
        self.held_segments = 0
        self._said = ""
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="gonets-retention", daemon=True)

    def start(self) -> None:
        """Begins; the first run is an interval later."""
        self._thread.start()

    def stop(self) -> None:
        """Ends what runs: it is safe to cut short."""
        self._stop.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.run_once()
            except OSError as error:
                self._fail(f"can't be started: {error}")

    def run_once(self) -> None:
        """One process, waited for."""
        command = [sys.executable, "-m", "engine.log.retention", str(self._data)]
        command += [str(self._wanted.keep_bytes), repr(float(self._wanted.keep_days))]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._lock:
            if self._stop.is_set():
                return
            self._process = process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        out, errors = process.communicate()
        with self._lock:
            self._process = None
        if self._stop.is_set():
            return
        self.runs += 1
        if process.returncode:
            self._fail(errors.strip().splitlines()[-1] if errors.strip() else f"ended with {process.returncode}")
        else:
            self._succeed(json.loads(out))

    def _fail(self, words: str) -> None:
        self.failures += 1
        self._say(logging.ERROR, f"retention: nothing was trimmed: {words}")

    def _succeed(self, report: dict[str, Any]) -> None:
        self.removed_bytes += report["removed_bytes"]
        self.held_segments = report["held_segments"]
        if report["removed"]:
            _log.info(
                "retention: %d segments removed, %d bytes; the log begins at %d",
                len(report["removed"]),
                report["removed_bytes"],
                report["first_sequence"],
            )
        if report["held_segments"]:
            self._say(logging.WARNING, f"retention: segments are held by: {'; '.join(report['held_by'])}")
        else:
            self._said = ""

    def _say(self, level: int, words: str) -> None:
        if words != self._said:
            self._said = words
            _log.log(level, "%s", words)


def main(arguments: list[str]) -> int:
    """The process: DATA KEEP_BYTES KEEP_DAYS; a line of JSON, or what is wrong."""
    with suppress(OSError):  # not everywhere is that allowed
        os.nice(NICENESS)
    data, keep_bytes, keep_days = Path(arguments[0]), int(arguments[1]), float(arguments[2])
    try:
        report = retain(data, Wanted(keep_bytes=keep_bytes, keep_days=keep_days))
    except (EngineError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
