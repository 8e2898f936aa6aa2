"""Redis: pub/sub, and Streams with the append-only file synced before each answer.

Driven over RESP2. Settings as its documentation recommends them for many clients and for durability; what differs from
the defaults is printed in each row's note. Streams: XADD to append (a batch is one MULTI … EXEC), XREAD BLOCK from the
last id to follow, XREAD COUNT to read back.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from bench.peers import drive
from bench.peers.child import PeerServer, free_port, said_by
from bench.peers.drive import Opening, Pack
from bench.peers.jobs import EVENT_BYTES, Job, Outcome, Scale
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


class StreamSpeech:
    """XADD, and XREAD from behind the last id, which waits for more."""

    protocol = "resp"
    answers = 1

    def listening(self, name: str) -> Opening:
        """Live at once: the answer to XREAD is the first message."""
        asked = command(b"XREAD", b"COUNT", b"%d" % PAGE, b"BLOCK", b"0", b"STREAMS", name.encode(), b"0")
        return Opening(asked, again=without_last(asked), named=True)

    def publishing(self) -> Opening:
        """Nothing needs to be said first."""
        return Opening(command(b"PING"), 1)

    def message(self, name: str, payload: bytes) -> bytes:
        """Answered with its id."""
        return command(b"XADD", name.encode(), b"*", FIELD, payload)

    def pack(self, count: int) -> Pack:
        """One, or a transaction of many: the file is written and synced once for all of it."""
        one = drive.packed(partial(self.message, "events"), EVENT_BYTES, count, 1)
        if count == 1:
            return one
        begin, end = command(b"MULTI"), command(b"EXEC")
        return Pack(begin + one.data + end, [len(begin) + at for at in one.payloads], [], count + 2)


def without_last(asked: bytes) -> bytes:
    """A command whose last word is put behind it later."""
    return asked[: asked.rindex(b"$")]


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


class RedisStreams(Redis):
    """A stream in memory and in a file that is synced before each answer."""

    name = "redis-streams"
    title = "Redis Streams"
    settings = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
    note = f"appendonly yes, appendfsync always, no rewrites, maxclients {SESSIONS}; a batch is one MULTI … EXEC"
    durabilities: ClassVar = dict.fromkeys(("fanout", "append", "latency", "read", "memory"), "fsync (AOF always)")

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        speech = StreamSpeech()
        with self.start(found, place) as server:
            if job.kind == "append":
                count = scale.clients(job)
                clients = drive.load("resp", EVENT_BYTES, count)
                publishers = [(speech.publishing(), speech.pack(job.at_once))] * count
                return drive.appended(clients, server, publishers, scale)
            if job.kind == "read":
                writer = drive.load("resp", EVENT_BYTES, 1)
                stored = drive.stored(writer, server, speech.publishing(), speech.pack(job.at_once), scale)
                asked = command(b"XREAD", b"COUNT", b"%d" % PAGE, b"STREAMS", b"events", b"0")
                opening = Opening(command(b"PING"), 1, again=without_last(asked), named=True)
                return drive.collected(drive.load("resp", EVENT_BYTES, 1), server, opening, asked, stored)
            return drive.speak(speech, server, job, scale)
