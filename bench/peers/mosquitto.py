"""Mosquitto: MQTT 3.1.1 with quality of service 0.

A broker's answer to a publish of quality 1 or 2 doesn't wait for a sync (its file is saved every half hour), so it has
no durable append. What a slow listener doesn't take is dropped silently at quality 0: the counts show it.
"""

from __future__ import annotations

import re
import struct
from itertools import count
from pathlib import Path
from typing import ClassVar, Final

from bench.peers import drive
from bench.peers.child import PeerServer, free_port, said_by
from bench.peers.drive import Opening
from bench.peers.jobs import Job, Outcome, Scale
from bench.peers.system import Found, Places, System, on_path

QUEUED: Final = 100_000


def packet(kind: int, body: bytes) -> bytes:
    """A control packet; its length in groups of seven bits, the lowest first."""
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (128 if size else 0)])
        if not size:
            return bytes([kind]) + length + body


def text(value: str) -> bytes:
    """As MQTT writes strings."""
    return struct.pack(">H", len(value.encode())) + value.encode()


class MqttSpeech:
    """SUBSCRIBE and PUBLISH."""

    protocol = "mqtt"
    answers = 0

    def __init__(self) -> None:
        self._numbers = count(1)

    def _connect(self) -> bytes:
        """A clean session without a will; no pings are owed (keep-alive 0)."""
        return packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(f"bench{next(self._numbers)}"))

    def listening(self, name: str) -> Opening:
        """Live when both packets are answered."""
        return Opening(self._connect() + packet(0x82, b"\x00\x01" + text(name) + b"\x00"), 2)

    def publishing(self) -> Opening:
        """Live when greeted."""
        return Opening(self._connect(), 1)

    def message(self, name: str, payload: bytes) -> bytes:
        """Not answered."""
        return packet(0x30, text(name) + payload)


class Mosquitto(System):
    """Messages to those who are connected; nothing is kept."""

    name = family = "mosquitto"
    title = "Mosquitto"
    get_it = "apt-get install mosquitto, or name its program with --mosquitto"
    note = f"QoS 0, persistence false, max_queued_messages {QUEUED}, set_tcp_nodelay true"
    durabilities: ClassVar = {"fanout": "none", "latency": "none", "memory": "none"}
    not_its_job: ClassVar = {
        "append": "no answer of it waits for a sync",
        "read": "it keeps no stream",
    }

    def find(self, places: Places) -> Found | None:
        """The program, and its version."""
        path = on_path(places.mosquitto, "mosquitto")
        if path is None:
            return None
        version = re.search(r"version (\S+)", said_by([str(path), "-h"]))
        return Found(path, version[1] if version else "unknown")

    def start(self, found: Found, folder: Path) -> PeerServer:
        """On a port and in a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            f"max_queued_messages {QUEUED}\nlog_type error\nlog_type warning\nlog_dest stderr\nuser root\n"
        )
        return PeerServer([str(found.path), "-c", str(config)], folder, port)

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        with self.start(found, place) as server:
            return drive.speak(MqttSpeech(), server, job, scale)
