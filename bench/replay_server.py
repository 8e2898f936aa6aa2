"""The server that a replay starts itself: a child process on a folder of its own, killed and started again at will.

Used by replay.py when no --url is given. The first start takes a free port, every other start the same one, so that
clients find it where they left it. With workers it is a supervisor with children, each of which can be killed. Its
stderr goes to a file beside the data; what it said last is in the error when it dies by itself.

Invariants: the child never outlives close(); kill() is SIGKILL, nothing gentler, and returns when the process is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.harness import uninterrupted

READY_S = 30.0
DRAIN_S = 15.0
# Nobody waits to be sent away; and what is refused under load would be an error of the replay.
SETTINGS = {"GONETS_SERVER_DRAIN_S": "0", "GONETS_ADMISSION_PUBLISH_WAIT_MS_MAX": "10000"}


class ServerError(Exception):
    """The server did not start, or stopped by itself; the text holds what it said last."""


class OwnServer:
    """A `gonets serve` on `folder`."""

    def __init__(self, folder: Path, workers: int = 0) -> None:
        self.folder, self._workers = folder, workers
        self.data = folder / "data"
        self.ready: dict[str, Any] = {}
        self._listen = "127.0.0.1:0"
        self._stderr = folder / "server.stderr"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return str(self.ready["url"])

    def start(self, wait: bool = True) -> None:
        """Starts it; without waiting, connecting shows when it is there."""
        command = [
            sys.executable,
            "-m",
            "gonets",
            "serve",
            "--json",
            "--data",
            str(self.data),
            "--listen",
            self._listen,
            "--admin",
            "",
            "--workers",
            str(self._workers),
        ]
        with self._stderr.open("ab") as stderr, uninterrupted():
            # A group of its own: Ctrl-C of the replay is for the replay, which then ends it in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, **SETTINGS},
            )
        if wait:
            self._await_ready()

    def _await_ready(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        until = time.monotonic() + READY_S
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._process.stdout], [], [], max(until - time.monotonic(), 0))
            more = os.read(self._process.stdout.fileno(), 65_536) if readable else b""
            if not more:
                raise ServerError(f"the server did not get ready in {READY_S:.0f} s: {self.last_words()}")
            line += more
        try:
            self.ready = json.loads(line.splitlines()[0])
            self._listen = self.url.split("//")[1].split("/")[0]
        except (ValueError, KeyError, IndexError):
            raise ServerError(f"the server said {line[:200]!r} instead of its addresses") from None

    def check_alive(self) -> None:
        """Raises ServerError if it died by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise ServerError(f"the server ended with {self._process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its stderr."""
        try:
            return self._stderr.read_bytes()[-1_500:].decode("utf-8", "replace").strip() or "(it said nothing)"
        except OSError:
            return "(it said nothing)"

    def kill(self) -> None:
        """SIGKILL; back when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def kill_child(self, name: str) -> bool:
        """SIGKILL to one of its processes, "sequencer" or "worker 2"; False if it is just not there. Its supervisor
        starts another."""
        assert self._process is not None
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            for pid in task.read_text().split():
                try:
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if name.encode() in words:
                    os.kill(int(pid), signal.SIGKILL)
                    return True
        return False

    def close(self) -> None:
        """Ends it: SIGTERM, and SIGKILL if that does not help."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
