"""JetStream, NATS's own durable streams: with its default sync, and with `sync_interval: always`.

A publish with a reply subject is answered when it is stored; by default the file is synced every two minutes, so only
`always` is durable when it answers. A batch is one atomic batch (servers from 2.12; before, as many single publishes in
one send). To follow: an ephemeral push consumer for each connection; to read back: pull requests, two under way.
"""

from __future__ import annotations

import json
import socket
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from bench.peers import drive
from bench.peers.child import PeerError, PeerServer
from bench.peers.drive import Opening, Pack
from bench.peers.jobs import EVENT_BYTES, Job, Outcome, Scale
from bench.peers.nats import CONNECT, Nats
from bench.peers.system import Found
from ext.peerload import STAMP

STREAM: Final = "bench"
ATOMIC_FROM: Final = (2, 12)
PULL: Final = 5_000
UNDER_WAY: Final = 2
ASK_S: Final = 30.0


class Control:
    """One connection that asks and waits: makes streams and consumers before the clock starts."""

    def __init__(self, server: PeerServer) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=ASK_S)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(CONNECT + b"SUB asked 1\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, subject: str, **body: Any) -> dict[str, Any]:
        """What the server answers; PeerError if it refuses."""
        text = json.dumps(body).encode()
        self._socket.sendall(b"PUB $JS.API.%b asked %d\r\n%b\r\n" % (subject.encode(), len(text), text))
        while line := self._file.readline():
            if line.startswith(b"MSG "):
                answer: dict[str, Any] = json.loads(self._file.read(int(line.split()[-1]) + 2))
                if "error" in answer:
                    raise PeerError(f"{subject}: {answer['error'].get('description', answer['error'])}")
                return answer
            if line.startswith(b"PING"):
                self._socket.sendall(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise PeerError(f"{subject}: {line.decode().strip()}")
        raise PeerError(f"{subject}: the server closed the connection")

    def stream(self, *, atomic: bool) -> None:
        """All subjects below `s.` in a file."""
        more = {"allow_atomic": True, "max_consumers": 20000} if atomic else {}
        self.ask(f"STREAM.CREATE.{STREAM}", name=STREAM, subjects=["s.>"], storage="file", num_replicas=1, **more)

    def push_consumer(self, name: str, number: int) -> None:
        """What comes from now on under a name goes to a subject of its own; nothing is to be acked."""
        config = {"deliver_subject": f"d.{number}", "deliver_policy": "new", "ack_policy": "none", "num_replicas": 1}
        config |= {"filter_subject": f"s.{name}", "mem_storage": True, "inactive_threshold": 600_000_000_000}
        self.ask(f"CONSUMER.CREATE.{STREAM}", stream_name=STREAM, config=config)

    def pull_consumer(self) -> str:
        """Of all that is stored; its name."""
        config = {"deliver_policy": "all", "ack_policy": "none", "mem_storage": True, "num_replicas": 1}
        config |= {"inactive_threshold": 600_000_000_000, "max_waiting": 16}
        return str(self.ask(f"CONSUMER.CREATE.{STREAM}", stream_name=STREAM, config=config)["name"])


class StreamSpeech:
    """Publishes that are answered when stored, and a push consumer for each listener."""

    protocol = "nats"
    answers = 1

    def __init__(self, control: Control) -> None:
        self._control, self._number = control, 0

    def listening(self, name: str) -> Opening:
        """The consumer first: it delivers as soon as somebody listens on its subject."""
        self._number += 1
        self._control.push_consumer(name, self._number)
        return Opening(CONNECT + b"SUB d.%d 1\r\nPING\r\n" % self._number, 1)

    def publishing(self) -> Opening:
        """A reply subject of its own."""
        self._number += 1
        self.reply = b"r.%d" % self._number
        return Opening(CONNECT + b"SUB %b 1\r\nPING\r\n" % self.reply, 1)

    def message(self, name: str, payload: bytes) -> bytes:
        """By the publisher that was opened last."""
        return b"PUB s.%b %b %d\r\n%b\r\n" % (name.encode(), self.reply, len(payload), payload)


def batch(reply: bytes, count: int) -> Pack:
    """One atomic batch: its number in the headers of each message, the last one commits and is answered."""
    data, payloads, numbers = b"", [], []
    payload = STAMP + drive.fill_of(EVENT_BYTES)
    for number in range(1, count + 1):
        last = number == count
        head = b"NATS/1.0\r\nNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (b"0" * 16, number)
        head += (b"Nats-Batch-Commit: 1\r\n" if last else b"") + b"\r\n"
        line = b"HPUB s.events %b%d %d\r\n" % (reply + b" " if last else b"", len(head), len(head) + len(payload))
        numbers.append(len(data) + len(line) + head.index(b"0" * 16))
        payloads.append(len(data) + len(line) + len(head))
        data += line + head + payload + b"\r\n"
    return Pack(data, payloads, numbers, 1)


class JetStream(Nats):
    """With its default sync."""

    name = "jetstream"
    title = "NATS JetStream"
    sync = ""
    promised = "none (page cache, synced every 2 min)"
    note = "file storage, one replica, default sync_interval 2m; a batch is an atomic batch"
    durabilities: ClassVar = dict.fromkeys(("fanout", "append", "latency", "read", "memory"), promised)

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        settings = f"jetstream {{ store_dir: {json.dumps(str(place / 'store'))}{self.sync} }}"
        atomic = tuple(int(part) for part in found.version.split(".")[:2]) >= ATOMIC_FROM
        with self.start(found, place, settings) as server, Control(server) as control:
            control.stream(atomic=atomic)
            speech = StreamSpeech(control)
            if job.kind == "append":
                clients = drive.load("nats", EVENT_BYTES, scale.clients(job))
                publishers = [self._publisher(speech, job, atomic) for _ in range(scale.clients(job))]
                return drive.appended(clients, server, publishers, scale)
            if job.kind == "read":
                writer = drive.load("nats", EVENT_BYTES, 1)
                stored = drive.stored(writer, server, *self._publisher(speech, job, atomic), scale)
                reader, asked = drive.load("nats", EVENT_BYTES, 1), self._pull(control)
                opening = Opening(CONNECT + b"SUB in 1\r\nPING\r\n", 1, again=asked, many=PULL)
                return drive.collected(reader, server, opening, asked * UNDER_WAY, stored)
            return drive.speak(speech, server, job, scale)

    def _publisher(self, speech: StreamSpeech, job: Job, atomic: bool) -> tuple[Opening, Pack]:
        opening = speech.publishing()
        if job.at_once > 1 and atomic:
            return opening, batch(speech.reply, job.at_once)
        return opening, drive.packed(partial(speech.message, "events"), EVENT_BYTES, job.at_once, 1)

    def _pull(self, control: Control) -> bytes:
        """One request of so many messages; the next one goes out when one is fulfilled."""
        body = json.dumps({"batch": PULL}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{control.pull_consumer()}".encode()
        return b"PUB %b in %d\r\n%b\r\n" % (subject, len(body), body)


class JetStreamAlways(JetStream):
    """Durable when it answers."""

    name = "jetstream-always"
    title = "JetStream, sync always"
    sync = ", sync_interval: always"
    note = "file storage, one replica, sync_interval always; a batch is an atomic batch"
    durabilities: ClassVar = dict.fromkeys(("fanout", "append", "latency", "read", "memory"), "fsync")
