"""Verbs that are killed at their n-th step: each call that makes, names, syncs or removes a file is one.

`python -m tests.support.killed` imports once and forks for each run, so that a run costs milliseconds; `Killer` is the
other end. The kill is SIGKILL, right before the step, or right behind it, where an odd number says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.log.backup import Options, backup_log
from engine.log.restore import restore_log
from engine.log.trim import Wanted, trim_log
from engine.log.verify import verify_log

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("rename", "fsync", "unlink", "mkdir", "rmdir")
SEGMENT_BYTES = 1 << 20


def quiet(what: str, done: int, total: int) -> None:
    """Nobody looks."""


def backup(data: Path, target: Path) -> None:
    """As the command."""
    backup_log(data, target, Options(), quiet)


def restore(folder: Path, data: Path) -> None:
    """As the command."""
    restore_log(folder, data, number=None, segment_bytes=SEGMENT_BYTES, bytes_per_s=0, on_progress=quiet)


def trim(data: Path, _: Path) -> None:
    """As the command."""
    trim_log(data, Wanted(keep_bytes=1), dry_run=False, force=False)


def verify(place: Path, _: Path) -> None:
    """As the command."""
    verify_log(place, None, quiet)


VERBS: dict[str, Callable[[Path, Path], None]] = {"backup": backup, "restore": restore, "trim": trim, "verify": verify}


def kill_at(moment: int) -> None:
    """From now on, counts steps; the process ends before step moment // 2, or behind it where the moment is odd."""
    left = moment // 2

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            if not left and moment % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **more)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return result

        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def main() -> None:
    """Runs what lines of JSON say: [verb, path, path, moment]; answers each with how it ended."""
    for line in sys.stdin:
        verb, one, two, moment = json.loads(line)
        child = os.fork()
        if not child:
            try:
                kill_at(moment)
                VERBS[verb](Path(one), Path(two))
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


class Killer:
    """The end of the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, verb: str, one: Path, two: Path, moment: int) -> bool:
        """Whether it was killed; false once it has come to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, str(one), str(two), moment]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL), f"{verb} at moment {moment} ended with {status}"
        return status != 0

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


def copy(source: Path, target: Path) -> Path:
    """A fresh copy of a directory."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


if __name__ == "__main__":
    main()
