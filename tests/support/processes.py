"""The sequencer's process by itself, and plain ends of links to it: what a worker is made of, taken one by one."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

from engine.answers import Answer, unpack_answers
from engine.link import ANSWERS, Frame, Link
from engine.options import Config
from gateway.processes import control, program

DEADLINE_S = 20.0


def config_of(data: Path, **sections: dict[str, Any]) -> Config:
    """The defaults on free ports, with these changed: section={field: value}."""
    wanted = {"server": {"data": str(data), "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "drain_s": 0}}
    for section, fields in sections.items():
        wanted.setdefault(section, {}).update(fields)
    config = Config()
    for section, fields in wanted.items():
        part = msgspec.structs.replace(getattr(config, section), **fields)
        config = msgspec.structs.replace(config, **{section: part})
    return config


class SequencerProcess:
    """A child as the supervisor starts it."""

    def __init__(self, config: Config) -> None:
        self.channel, theirs = control.pair()
        self.process = subprocess.Popen(
            [*program.COMMAND, str(theirs.fileno()), "sequencer"],
            pass_fds=[theirs.fileno()],
            env=program.environment(),
        )
        theirs.close()
        self.channel.send(control.Start(role="sequencer", number=0, config=msgspec.msgpack.encode(config)))
        self.said = self.hear()

    def hear(self) -> control.Message | None:
        """Its next message."""
        assert select.select([self.channel], [], [], DEADLINE_S)[0], "the sequencer says nothing"
        received = self.channel.receive(wait=True)
        return None if received is None else received[0]

    def link(self) -> socket.socket:
        """A new link's other end."""
        ours, theirs = socket.socketpair()
        with theirs:
            assert self.channel.send(control.Link(), (theirs.fileno(),))
        return ours

    def stop(self) -> int:
        """In order."""
        self.channel.send(control.Stop())
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Whatever state it is in."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)


class Peer:
    """A worker's end of a link, that a test drives."""

    def __init__(self, end: socket.socket) -> None:
        self.link = Link(end)
        self.frames: list[Frame] = []

    def send(self, kind: int, body: bytes) -> None:
        """All of it."""
        self.link.send(kind, body)
        while self.link.flush():
            select.select([], [self.link], [], DEADLINE_S)

    def take(self, kind: int) -> bytes:
        """The next frame of a kind; the others before it are thrown away."""
        until = time.monotonic() + DEADLINE_S
        while True:
            while self.frames:
                found, body = self.frames.pop(0)
                if found == kind:
                    return body
            assert time.monotonic() < until, f"no frame of kind {kind}"
            if select.select([self.link], [], [], 1)[0]:
                received = self.link.receive()
                assert received is not None, "the link has ended"
                self.frames += received

    def answers(self, count: int) -> list[Answer]:
        """So many."""
        found: list[Answer] = []
        while len(found) < count:
            found += unpack_answers(self.take(ANSWERS))
        return found

    def is_over(self) -> bool:
        """Waits for the end of the stream."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            if select.select([self.link], [], [], 1)[0] and self.link.receive() is None:
                return True
        return False
