"""A supervisor with small children, as a process of its own: `python -m tests.support.supervised SETTINGS`.

SETTINGS is JSON: data, listen, admin, api, workers, take_over, drain_s, faults, and some of Patience. Prints the
addresses as one line once ready; what keeps it from starting, or ends it, is one line on stderr and exit code 1.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from engine.config import load
from gateway.listener import StartError
from gateway.processes.children import PATIENCE
from gateway.processes.serve import serve_processes

ROOT: Final = Path(__file__).resolve().parents[2]
SMALL_CHILD: Final = ROOT / "tests" / "support" / "small_child.py"
DEADLINE_S: Final = 20.0


def main() -> None:
    """The supervisor's process."""
    settings = json.loads(sys.argv[1])
    names = {
        "data": "server.data",
        "listen": "server.listen",
        "admin": "server.admin",
        "api": "server.api",
        "drain_s": "server.drain_s",
    }
    flags = {dotted: settings[name] for name, dotted in names.items() if name in settings}
    config = load(None, {}, {**flags, "server.gateway_workers": settings["workers"]}).config

    def ready(addresses: dict[str, str]) -> None:
        print(json.dumps(addresses), flush=True)

    def reload() -> Any:
        return load(None, {}, {**flags, "server.gateway_workers": settings["workers"], "logging.level": "debug"}).config

    patience = PATIENCE._replace(
        silence_s=settings.get("silence_s", 30.0),
        worker_end_s=settings.get("worker_end_s", 5.0),
        api_end_s=settings.get("api_end_s", 5.0),
        lock_s=settings.get("lock_s", 5.0),
    )
    command = [sys.executable, "-P", str(SMALL_CHILD), *settings.get("faults", [])]
    try:
        serve_processes(
            config, ready, reload, take_over=settings.get("take_over", False), command=command, patience=patience
        )
    except StartError as error:
        raise SystemExit(f"gonets: {error}") from None


class Supervised:
    """The other end: one supervisor, and what it has said."""

    def __init__(self, data: Path, pass_fds: tuple[int, ...] = (), before: str = "", **settings: Any) -> None:
        self.settings = {
            "data": str(data),
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "workers": 2,
            "drain_s": 0,
            **settings,
        }
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = data.parent / f"{data.name}.{time.monotonic_ns()}.stderr"
        command = [sys.executable, "-m", "tests.support.supervised", json.dumps(self.settings)]
        if before:  # a shell's words, which exec what follows
            command = ["bash", "-c", f'{before} exec "$@"', "bash", *command]
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, pass_fds=pass_fds
            )
        self.addresses: dict[str, str] = {}

    def ready(self) -> Supervised:
        """Waits until it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        self.addresses = json.loads(line)
        return self

    def refusal(self) -> str:
        """The one line of one that doesn't start."""
        try:
            assert self.process.wait(DEADLINE_S) == 1, self.log()
            assert "Traceback" not in self.log(), self.log()
            return self.log().splitlines()[-1]
        finally:
            self.close()

    @property
    def port(self) -> int:
        """Of the clients."""
        return int(re.findall(r":(\d+)/", self.addresses["url"])[0])

    def log(self) -> str:
        """What it and its children have written."""
        return self.log_path.read_text()

    def said(self) -> list[dict[str, Any]]:
        """All log lines."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind."""
        return [line for line in self.said() if line["event"] == event]

    def pids(self, child: str) -> list[int]:
        """Of all processes that have filled a place, in order."""
        return [int(line["pid"]) for line in self.lines("child started") if line["child"] == child]

    def ask(self, door: str = "url") -> tuple[int, int, int]:
        """(worker's number, its pid, its sequencer's pid), as a client sees it; "api": as a backend does, number 0.
        OSError if refused or reset."""
        port = int(re.findall(r":(\d+)(?:/|$)", self.addresses[door])[0])
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            text = client.makefile().readline()
        number, pid, sequencer = map(int, text.split())
        return number, pid, sequencer

    def http(self, path: str) -> tuple[int, str]:
        """(status, text) at the admin address."""
        return http_get(self.addresses["admin"], path)

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        return float(re.findall(rf"^{name} (\S+)$", self.http("/metrics")[1], re.M)[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        """A signal, and the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            self.process.stdout.close()


def http_get(base: str, path: str) -> tuple[int, str]:
    """(status, text) of a plain GET."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65_536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


@contextmanager
def supervised(data: Path, **settings: Any) -> Iterator[Supervised]:
    """One that serves; ended afterwards, with its children."""
    found = Supervised(data, **settings)
    try:
        yield found.ready()
    finally:
        found.close()


def until(true: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    main()
