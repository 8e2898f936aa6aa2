"""A child for tests of the supervisor: speaks control.py, serves a line to whoever connects, and fails as it is told.

`python small_child.py [FAULT …] DESCRIPTOR NAME`; a fault is `role:what` or `role:number:what`. A worker accepts on the
clients' socket, the api on its own, asks the sequencer by its newest link for its pid, answers `worker pid sequencer`
(0: no link) and closes. The sequencer holds a lock file in the data directory, as the real one holds the log's.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.processes import control
from gateway.processes.control import Channel

REPORT_S: Final = 0.1
LINK_ANSWER_S: Final = 2.0
LONG_SAVE_S: Final = 1.0
SAVE_S: Final = 0.1  # what the sequencer needs to end


class Child:
    """Its whole life in `run`."""

    def __init__(self, channel: Channel, faults: set[str]) -> None:
        self.channel, self._faults = channel, faults
        self.links: list[socket.socket] = []
        self.clients: socket.socket | None = None
        self.role, self.number, self.data = "", 0, Path()
        self.served = 0

    def is_to(self, what: str) -> bool:
        """Whether it was told to fail in this way."""
        return f"{self.role}:{what}" in self._faults or f"{self.role}:{self.number}:{what}" in self._faults

    def run(self) -> None:
        """From Start to Stop, or to the end of the channel."""
        first = self.channel.receive(wait=True)
        if first is None:
            return
        start, descriptors = first
        assert isinstance(start, control.Start)
        self.role, self.number = start.role, start.number
        self.data = Path(msgspec.msgpack.decode(start.config)["server"]["data"])
        if descriptors:
            self.clients = socket.socket(fileno=descriptors[0])
            self.clients.setblocking(False)
        self._begin()
        self.channel.send(control.Ready(durability="small" if self.role == "sequencer" else ""))
        if self.is_to("dies when ready"):
            os.kill(os.getpid(), signal.SIGKILL)
        said_s = 0.0
        while True:
            if time.monotonic() - said_s >= REPORT_S:
                said_s = time.monotonic()
                self._report()
            if not self._turn():
                return

    def _begin(self) -> None:
        if self.is_to("fails"):
            self._fail("the small child was told to fail")
        if self.is_to("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.is_to("never ready"):
            while self.channel.receive(wait=True) is not None:
                pass
            raise SystemExit(0)
        if self.role == "sequencer":
            self._lock = os.open(self.data / "small.lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._fail(f"the log in {self.data} is in use by process 0")

    def _fail(self, reason: str) -> None:
        self.channel.send(control.Failed(reason=reason))
        raise SystemExit(1)

    def _report(self) -> None:
        values = {"publishes": float(self.served), "sessions": 1.0, "resident_memory_bytes": 1000.0}
        self.channel.send(control.Report(values=values, ready=True, words="ok"))

    def _turn(self) -> bool:
        """One look at everything; False: the end."""
        watched: list[Any] = [self.channel]
        if self.role == "sequencer":
            watched += self.links
        elif self.clients is not None:
            watched.append(self.clients)
        for found in select.select(watched, [], [], REPORT_S)[0]:
            if found is self.channel:
                if not self._hear():
                    return False
            elif found is self.clients:
                self._serve()
            elif found.recv(1):
                found.sendall(b"%08d" % os.getpid())
            else:
                self.links.remove(found)
                found.close()
        return True

    def _hear(self) -> bool:
        received = self.channel.receive(wait=True)
        if received is None:
            if not self.is_to("outlives its supervisor"):
                return False
            time.sleep(1.5)
            return False
        message, descriptors = received
        match message:
            case control.Link():
                if self.role != "sequencer":
                    self.links = []
                self.links.append(socket.socket(fileno=descriptors[0]))
            case control.Reload():
                self._say("reloaded", level=msgspec.msgpack.decode(message.config)["logging"]["level"])
            case control.Drain() | control.Stop():
                if isinstance(message, control.Drain):
                    self._say("told to drain", handed_over=message.handed_over)
                if self.is_to("doesn't end"):
                    return True
                if self.clients is not None:
                    self.clients.close()
                    self.clients = None
                if self.is_to("drains slowly") and isinstance(message, control.Drain):
                    return True
                time.sleep(LONG_SAVE_S if self.is_to("saves long") else SAVE_S)
                return False
        return True

    def _say(self, event: str, **more: object) -> None:
        os.write(2, json.dumps({"event": event, "child": self.number, **more}).encode() + b"\n")  # whole, among others'

    def _serve(self) -> None:
        assert self.clients is not None
        try:
            client, _ = self.clients.accept()
        except BlockingIOError:
            return
        with client:
            client.setblocking(True)
            client.sendall(b"%d %d %d\n" % (self.number, os.getpid(), self._sequencer()))
        self.served += 1

    def _sequencer(self) -> int:
        """The pid at the other end of the link; 0 if there is no link, or nobody at its end."""
        if not self.links:
            return 0
        try:
            self.links[-1].settimeout(LINK_ANSWER_S)
            self.links[-1].sendall(b"?")
            return int(self.links[-1].recv(8, socket.MSG_WAITALL) or b"0")
        except OSError:
            return 0


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = next(int(word) for word in reversed(sys.argv) if word.isdigit())
    Child(Channel(socket.socket(fileno=descriptor)), set(sys.argv[1:])).run()


if __name__ == "__main__":
    main()
