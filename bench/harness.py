"""Servers, folders and clients of the benchmarks over sockets: started, alternated, measured from outside, removed.

Used by publish.py, fanout.py, latency.py and connections.py. The server (ours or the bare one) is a child process, the
clients are native threads of this one, so neither exceeds 20,000 descriptors. Folders are made on the disk that holds
the data, never under /tmp, which may be memory.

Invariants: a child does not outlive its `with`; the sides of a ratio run by turns, never at once.
Cost: a run with N sessions needs N descriptors here and N in the child.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.clients import Issuer, certificate
from ext.loadgen import LoadGenerator
from ext.tls import ClientContext

READY_S = 30.0
STOP_S = 20.0
DEFAULT_DATA = Path("data")

# Limits that protect a server from one client, and would end a benchmark.
SETTINGS = {
    "GONETS_SERVER_LISTEN": "127.0.0.1:0",
    "GONETS_SERVER_ADMIN": "",
    "GONETS_SERVER_DRAIN_S": "0",
    "GONETS_GATEWAY_RATE_PER_S": "1000000",
    "GONETS_GATEWAY_RATE_BURST": "1000000",
    "GONETS_GATEWAY_CONNECTS_PER_S_MAX": "1000000",
    "GONETS_ADMISSION_PUBLISH_WAIT_MS_MAX": "10000",
    "GONETS_ADMISSION_MEMBERS_PER_S_MAX": "1000000",
    "GONETS_ADMISSION_ADDRESS_CONNECTS_PER_S_MAX": "1000000",
    "GONETS_ADMISSION_ADDRESS_BURST_CONNECTS": "1000000",
    "GONETS_ADMISSION_ADDRESS_UNKNOWN_MAX": "1000000",
    "GONETS_LOGGING_LEVEL": "warning",
}


@dataclass(frozen=True)
class Size:
    """How much is measured: `smoke` for the tests, `short` for a look, `full` for a verdict."""

    name: str
    runs: int
    seconds: float  # of one run, after the warm-up
    warmup_s: float
    tls: bool = False  # ours speaks it, the limit is ours without it; publish and fanout


SMOKE = Size("smoke", 1, 0.3, 0.1)
SHORT = Size("short", 3, 1.5, 0.5)
FULL = Size("full", 5, 3.0, 1.0)


class BenchError(Exception):
    """Something without which a number would mean nothing; one line for people."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt that comes meanwhile is raised at the end: a child that was half started would be nobody's."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


class Child:
    """A server as a child process that says on its first line where it listens."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self._stderr = folder / "stderr"
        try:
            with self._stderr.open("ab") as stderr, uninterrupted():
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,
                    cwd=Path(__file__).resolve().parent.parent,
                    env=_environment() | environment,
                )
            self.ready = self._await_ready()
        except BaseException:
            if hasattr(self, "_process"):
                self.stop()
            raise
        where = str(self.ready["url"]).split("//")[1].split("/")[0]
        self.host, port = where.rsplit(":", 1)
        self.port = int(port)
        self._tls = ClientContext() if str(self.ready["url"]).startswith("wss:") else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        until, line = time.monotonic() + READY_S, b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._process.stdout], [], [], max(until - time.monotonic(), 0))
            more = os.read(self._process.stdout.fileno(), 65_536) if readable else b""
            if not more:
                raise BenchError(f"the server did not get ready in {READY_S:.0f} s: {self.last_words()}")
            line += more
        ready: dict[str, Any] = json.loads(line)
        return ready

    def connect(self, generator: LoadGenerator) -> None:
        """All clients of a generator, live; through TLS where the server speaks it."""
        generator.connect(self.host, self.port, tls=self._tls)

    def check(self) -> None:
        """BenchError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise BenchError(f"the server ended with {code}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its stderr."""
        return self._stderr.read_bytes()[-1_500:].decode("utf-8", "replace").strip() or "(it said nothing)"

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def stop(self, seconds: float = STOP_S) -> None:
        """SIGTERM, and SIGKILL if that does not help within so long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def processes(self) -> list[int]:
        """The child and all its descendants."""
        return processes_of(self.pid)

    def anonymous_bytes(self) -> int:
        """Memory of all its processes that is no file's."""
        return anonymous_bytes_of(self.pid)

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return cpu_s_of(self.pid)


def processes_of(root: int) -> list[int]:
    """A process and all its descendants."""
    found, rest = [], [root]
    while rest:
        pid = rest.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            rest += [int(child) for child in task.read_text().split()]
    return found


def anonymous_bytes_of(root: int) -> int:
    """Memory of a process and its descendants that is no file's: heaps, stacks, tables; pages of mapped files are the
    kernel's to drop."""
    return (
        sum(_kib(pid, "smaps_rollup", "Anonymous") + _kib(pid, "smaps_rollup", "Swap") for pid in processes_of(root))
        * 1024
    )


def cpu_s_of(root: int) -> float:
    """User and system time of a process and its descendants so far, threads that have ended too."""
    return sum(time.clock_gettime(_cpu_clock_of(pid)) for pid in processes_of(root))


def _cpu_clock_of(pid: int) -> int:
    """The clock that counts a process's CPU time, in nanoseconds; as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def _environment() -> dict[str, str]:
    """Without settings of a Gonets that runs beside."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GONETS_")}


def _kib(pid: int, file: str, name: str) -> int:
    with open(f"/proc/{pid}/{file}", encoding="ascii") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


def gateway(folder: Path, issuer: Issuer, *, computing: bool = False, tls: bool = False, **settings: str) -> Child:
    """Our gateway on a data directory in this folder; the same folder again goes on from there."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = (
        SETTINGS
        | {
            "GONETS_SERVER_DATA": str(folder / "data"),
            "GONETS_AUTH_KEYS": str(issuer.write(folder / "keys.json")),
        }
        | (certificate(folder) if tls else {})
        | settings
    )
    return Child("bench.serve_computing" if computing else "gonets", ["serve", "--json"], environment, folder)


def bare(kind: str, folder: Path, payload_bytes: int) -> Child:
    """The bare limit: `publish` or `fanout`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Child("bench.bare_server", [kind, str(folder), str(payload_bytes)], {}, folder)


@contextmanager
def workplace(name: str, folder: Path | None) -> Iterator[Path]:
    """A new folder beside the project's data (or inside `folder`), removed in the end."""
    parent = folder or DEFAULT_DATA.resolve().parent
    place = Path(tempfile.mkdtemp(prefix=f".gonets-bench-{name}-", dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def raise_descriptor_limit(wanted: int) -> None:
    """Lifts the soft limit; BenchError if the hard one is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(f"{wanted} descriptors are needed, the hard limit is {hard}: raise it (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def alternated(runs: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Each side's results of so many rounds, in which the sides take turns."""
    results: list[list[float]] = [[] for _ in sides]
    for _ in range(runs):
        for side, found in zip(sides, results, strict=True):
            found.append(side())
    return results
