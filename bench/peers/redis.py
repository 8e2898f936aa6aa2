"""Redis: pub/sub, and Streams with the append-only file synced before each answer.

Driven over RESP2. Settings as its documentation recommends them for many clients and for durability; what differs from
the defaults is printed in each row's note. Streams: XADD to append (a batch is one MULTI … EXEC), XREAD BLOCK from the
last id to follow, XREAD COUNT to read back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Final

from bench.peers import drive
from bench.peers.child import PeerServer, free_port, said_by
from bench.peers.drive import Opening
from bench.peers.jobs import Job, Outcome, Scale
from bench.peers.system import Found, Places, System, on_path

BACKLOG: Final = 4_096
SESSIONS: Final = 15_000
PAGE: Final = 1_000
FIELD: Final = b"p"


def command(*words: bytes) -> bytes:
    """An array of bulk strings, as clients send it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class PubSubSpeech:
    """PUBLISH and SUBSCRIBE."""

    protocol = "resp"
    answers = 1

    def listening(self, name: str) -> Opening:
        """Live when the subscription is confirmed."""
        return Opening(command(b"SUBSCRIBE", name.encode()), 1)

    def publishing(self) -> Opening:
        """Nothing needs to be said first."""
        return Opening(command(b"PING"), 1)

    def message(self, name: str, payload: bytes) -> bytes:
        """Answered with the number of those who got it."""
        return command(b"PUBLISH", name.encode(), payload)


class Redis(System):
    """What both have in common."""

    family = "redis"
    get_it = "apt-get install redis-server, or name its program with --redis-server"
    settings: ClassVar[tuple[str, ...]] = ()

    def find(self, places: Places) -> Found | None:
        """The program, and its version."""
        path = on_path(places.redis_server, "redis-server")
        if path is None:
            return None
        version = re.search(r"v=(\S+)", said_by([str(path), "--version"]))
        return Found(path, version[1] if version else "unknown")

    def start(self, found: Found, folder: Path) -> PeerServer:
        """On a port and in a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        options = [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--daemonize",
            "no",
            "--protected-mode",
            "no",
        ]
        options += ["--tcp-backlog", str(BACKLOG), "--maxclients", str(SESSIONS), "--save", ""]
        return PeerServer([str(found.path), *options, *self.settings], folder, port, says=b"Ready to accept")


class RedisPubSub(Redis):
    """Messages to those who are connected; nothing is kept."""

    name = "redis-pubsub"
    title = "Redis pub/sub"
    settings = ("--appendonly", "no", "--client-output-buffer-limit", "pubsub 0 0 0")
    note = f"maxclients {SESSIONS}, client-output-buffer-limit pubsub 0 0 0, save off"
    durabilities: ClassVar = {"fanout": "none", "latency": "none", "memory": "none"}
    not_its_job: ClassVar = {
        "append": "pub/sub keeps nothing (see redis-streams)",
        "read": "pub/sub keeps nothing (see redis-streams)",
    }

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        with self.start(found, place) as server:
            return drive.speak(PubSubSpeech(), server, job, scale)
