"""A foreign server as a child: started on a port and in a folder of its own, watched, ended with us.

Used by every system of bench/peers. It listens on loopback only; what it says goes into a file of its folder, whose end
is shown when it dies. A child gets SIGKILL from the kernel when this process ends, however that is.

Invariants: a child does not outlive its `with`; only ids that were started here are ever signalled.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.harness import BenchError, anonymous_bytes_of, cpu_s_of, uninterrupted

READY_S = 60.0
STOP_S = 10.0
HOST = "127.0.0.1"
PR_SET_PDEATHSIG = 1
WORDS_BYTES_MAX = 2_000

_libc = ctypes.CDLL(None)  # before any fork: nothing may be loaded between fork and exec


class PeerError(BenchError):
    """A job that a system couldn't do this time; one line for people."""


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server((HOST, 0)) as found:
        port: int = found.getsockname()[1]
    return port


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class PeerServer:
    """One running server."""

    def __init__(self, command: Sequence[str], folder: Path, port: int, *, says: bytes = b"") -> None:
        self.host, self.port, self._name = HOST, port, Path(command[0]).name
        self._output = folder / "output"
        try:
            with self._output.open("ab") as output, uninterrupted():
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,  # noqa: PLW1509  one system call; no other thread holds a lock of it
                )
            self._await_ready(says)
        except BaseException:
            if hasattr(self, "_process"):
                self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_ready(self, says: bytes) -> None:
        """Until it takes connections, and has said what it says when it is ready."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            self.check()
            if not says or says in self._output.read_bytes():
                try:
                    socket.create_connection((self.host, self.port), timeout=5).close()
                    return
                except OSError:
                    pass
            time.sleep(0.02)
        raise PeerError(f"{self._name} did not get ready in {READY_S:.0f} s: {self.last_words()}")

    def check(self) -> None:
        """PeerError if it has ended."""
        if (code := self._process.poll()) is not None:
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            raise PeerError(f"{self._name} ended {how}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what it said, on one line."""
        said = self._output.read_bytes()[-WORDS_BYTES_MAX:].decode("utf-8", "replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return " / ".join(lines[-3:]) or "(it said nothing)"

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return cpu_s_of(self.pid)

    def anonymous_bytes(self) -> int:
        """Heaps, stacks and tables of all its processes."""
        return anonymous_bytes_of(self.pid)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def said_by(command: Sequence[str]) -> str:
    """What a program prints about itself; empty if it can't be run."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout or done.stderr).strip()


def executable(path: Path) -> bool:
    """A file that may be run."""
    return path.is_file() and os.access(path, os.X_OK)
