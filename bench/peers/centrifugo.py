"""Centrifugo: one engine in memory, JSON over WebSocket, no history.

It isn't in a package registry as a program; who has it, names it or has it on the search path. Its clients are
ext/peerload's, whose frames are masked with zeros; its publisher is a client too, leaner than its HTTP interface.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import ClassVar

from bench.peers import drive
from bench.peers.child import PeerServer, free_port, said_by
from bench.peers.drive import Opening
from bench.peers.jobs import Job, Outcome, Scale
from bench.peers.system import Found, Places, System, on_path

PLACE = b"/".join((b"", b"connection", b"websocket"))
UPGRADE = (
    b"GET " + PLACE + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(*lines: object) -> bytes:
    """Commands in one text frame, masked with zeros."""
    text = b"\n".join(json.dumps(line, separators=(",", ":")).encode() for line in lines)
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack(">H", len(text))
    return b"\x81" + size + bytes(4) + text


class JsonSpeech:
    """connect, subscribe and publish."""

    protocol = "json"
    answers = 1

    def _opening(self, *commands: object) -> Opening:
        """The upgrade alone, then the rest: nothing may be sent before it is answered."""
        return Opening(UPGRADE + frame(*commands), len(commands), len(UPGRADE), 1)

    def listening(self, name: str) -> Opening:
        """Live when subscribed."""
        return self._opening({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": name}})

    def publishing(self) -> Opening:
        """Live when connected."""
        return self._opening({"id": 1, "connect": {}})

    def message(self, name: str, payload: bytes) -> bytes:
        """Answered with its number."""
        return frame({"id": 3, "publish": {"channel": name, "data": payload.decode()}})


class Centrifugo(System):
    """Messages to those who are connected; nothing is kept."""

    name = family = "centrifugo"
    title = "Centrifugo"
    get_it = (
        "its releases or container image, or go install github.com/centrifugal/centrifugo/v6@latest; then put it on the"
        " search path or name its program with --centrifugo"
    )
    note = "memory engine, JSON, no history, clients may subscribe and publish; defaults else"
    durabilities: ClassVar = {"fanout": "none", "latency": "none", "memory": "none"}
    not_its_job: ClassVar = {
        "append": "without history it keeps nothing, with it in memory only",
        "read": "without history it keeps nothing, with it in memory only",
    }

    def find(self, places: Places) -> Found | None:
        """The program, and its version."""
        path = on_path(places.centrifugo, "centrifugo")
        if path is None:
            return None
        version = re.search(r"v(\S+)", said_by([str(path), "version"]))
        return Found(path, version[1] if version else "unknown")

    def start(self, found: Found, folder: Path) -> PeerServer:
        """On a port and in a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        config = {
            "http_server": {"address": "127.0.0.1", "port": str(port)},
            "log": {"level": "warn"},
            "client": {"allow_anonymous_connect_without_token": True, "allowed_origins": ["*"]},
            "channel": {
                "without_namespace": {
                    "allow_subscribe_for_client": True,
                    "allow_subscribe_for_anonymous": True,
                    "allow_publish_for_client": True,
                    "allow_publish_for_anonymous": True,
                }
            },
        }
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        return PeerServer([str(found.path), "-c", str(path)], folder, port)

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        with self.start(found, place) as server:
            return drive.speak(JsonSpeech(), server, job, scale)
