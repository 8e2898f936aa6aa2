"""A whole gateway in a child process, and plain devices that talk to it over real sockets.

`GatewayProcess` runs `gonets serve` in a temporary directory on free ports; `Device` is the smallest client that can
be written from PROTOCOL.md: it decodes, normalises both encodings to the same dictionaries, and remembers what came
before what a test waits for. It repairs nothing and hides nothing.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway.auth import development_token

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "",
    "event",
    "receipt",
    "welcome",
    "gap",
    "reset",
    "advice",
    "error",
    "cursor",
    "typing",
    "presence",
    "pong",
    "conversations",
    "members",
    "history",
    "refreshed",
    "live",
)
EVENT_FIELDS = (
    "sequence",
    "conversation",
    "conversation_sequence",
    "previous",
    "time",
    "sender",
    "device",
    "counter",
    "type",
    "payload",
)
RECEIPT_FIELDS = ("counter", "status", "conversation", "sequence", "conversation_sequence", "time", "extra")
SCHEMA_TYPES = (
    "conversation.created",
    "conversation.renamed",
    "conversation.closed",
    "member.added",
    "member.removed",
    "member.left",
    "member.role",
    "message.edited",
    "message.deleted",
    "message.reaction",
)
SERVICE = 1_000_000  # the user that services of tests send as
ENCODINGS = ("msgpack", "json")


class GatewayProcess:
    """`gonets serve` as a child; use as a context manager or through the fixture."""

    flags: tuple[str, ...] = ()

    def __init__(self, data: Path, **options: object) -> None:
        self.data, self.options = data, options
        self.process: subprocess.Popen[str] | None = None
        self.url = self.admin = self.api = ""
        self.trust: ssl.SSLContext | None = None  # whose certificates its devices believe, where it speaks TLS
        self.log_path = data.parent / f"{data.name}.stderr"

    def start(self) -> GatewayProcess:
        """Returns once it is ready."""
        environment = {
            **os.environ,
            "GONETS_SERVER_DRAIN_S": "0",  # devices of tests don't wait to be sent away
            "GONETS_ADMISSION_PUBLISH_WAIT_MS_MAX": "2000",  # a machine that is busy with other tests is no overload
        }
        for dotted, value in self.options.items():
            environment["GONETS_" + dotted.upper().replace(".", "_", 1)] = str(value)
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(ROOT / "gonets.py"),
                    "serve",
                    "--json",
                    "--data",
                    str(self.data),
                    "--listen",
                    "127.0.0.1:0",
                    "--admin",
                    "127.0.0.1:0",
                    *self.flags,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            raise AssertionError(f"gonets serve ended with {self.process.returncode}: {self.log()[-3000:]}")
        ready = json.loads(line)
        self.url, self.admin, self.api = ready["url"], ready["admin"], ready["api"]
        return self

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """The exit status, within 30 s."""
        assert self.process is not None
        status = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def __enter__(self) -> GatewayProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("gonets serve did not end within 30 s of SIGTERM") from None

    def log(self) -> str:
        """What it has written to stderr."""
        return self.log_path.read_text()

    def token(self, user: int, lifetime_s: int = 3_600) -> str:
        """A development token."""
        return development_token(self.data, user, lifetime_s, "gonets")

    def service_token(self, scope: str = "read:* publish:* subscriptions audit", team: str = "tests") -> str:
        """Of a service."""
        return development_token(self.data, SERVICE, 3_600, "gonets", scope=scope, team=team)

    def pids(self, child: str) -> list[int]:
        """With workers: of all processes that have filled a place ("api", "sequencer", "worker 1"), in order."""
        lines = [json.loads(line) for line in self.log().splitlines() if '"child started"' in line]
        return [int(line["pid"]) for line in lines if line["child"] == child]

    def device(
        self, user: int, device: int = 1, encoding: str = "msgpack", positions: list[dict[str, int]] | None = None
    ) -> Device:
        """A device after its hello; `welcome` is what came back."""
        made = Device(self.url, encoding, trust=self.trust)
        made.hello(self.token(user), device, positions)
        return made

    def http(self, path: str, admin: bool = False) -> tuple[int, str]:
        """(status, text) of a plain GET."""
        base = self.admin if admin else self.url.replace("ws", "http", 1).removesuffix("/v1")
        try:
            with urllib.request.urlopen(base + path, timeout=10, context=None if admin else self.trust) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        for line in self.http("/metrics", admin=True)[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")


class Successor(GatewayProcess):
    """`gonets serve --take-over`: takes the place of the one that runs on the same data."""

    flags = ("--take-over",)


class Device:
    """One WebSocket connection."""

    def __init__(
        self, url: str, encoding: str = "msgpack", timeout_s: float = 10.0, trust: ssl.SSLContext | None = None
    ) -> None:
        self.encoding, self.timeout_s = encoding, timeout_s
        opening = connect(
            url,
            ssl=trust,
            subprotocols=[Subprotocol(f"gonets.v1.{encoding}")],
            compression=None,
            proxy=None,
            max_size=None,
            ping_interval=None,
            close_timeout=5,
        )
        self.socket: ClientConnection = opening.__enter__()
        self.backlog: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}
        self.counter = 0

    def send(self, op: str, **fields: Any) -> None:
        """One command; a field given as None is left out."""
        body = {"op": op, **{name: value for name, value in fields.items() if value is not None}}
        if self.encoding == "msgpack":
            self.socket.send(msgpack.packb(body))
        else:
            text = {
                name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
                for name, value in body.items()
            }
            self.socket.send(json.dumps(text))

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The next push, as a dictionary with `op`; TimeoutError, or ConnectionClosed with the code."""
        message = self.socket.recv(timeout=self.timeout_s if timeout_s is None else timeout_s)
        return normal(message)

    def expect(self, op: str, **fields: Any) -> dict[str, Any]:
        """The first push of this op with these fields; what came before it waits in `backlog`."""

        def fits(push: dict[str, Any]) -> bool:
            return push["op"] == op and all(push.get(name) == value for name, value in fields.items())

        for place, push in enumerate(self.backlog):
            if fits(push):
                return self.backlog.pop(place)
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                push = self.receive(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise AssertionError(f"no {op} {fields}; instead: {self.backlog}") from None
            if fits(push):
                return push
            self.backlog.append(push)

    def settled(self) -> list[dict[str, Any]]:
        """Everything that has come so far: a ping is answered after it."""
        self.send("ping", id="settled")
        self.expect("pong", id="settled")
        found, self.backlog = self.backlog, []
        return found

    def hello(self, token: str, device: int = 1, positions: list[dict[str, int]] | None = None, **more: Any) -> None:
        """Hello and welcome."""
        self.send("hello", token=token, device=device, protocol=1, positions=positions, **more)
        self.welcome = self.expect("welcome")
        self.counter = self.welcome["counter"]

    def write(self, op: str, **fields: Any) -> dict[str, Any]:
        """A write with the next counter, and its receipt."""
        counter = fields.pop("counter", None)
        if counter is None:
            self.counter += 1
            counter = self.counter
        self.send(op, counter=counter, **fields)
        return self.expect("receipt", counter=counter)

    def group(self, *members: int, title: str = "group", history: bool = True, kind: str = "group") -> int:
        """A new conversation's id."""
        receipt = self.write("create", kind=kind, title=title, members=list(members), history=history)
        assert receipt["status"] == "appended", receipt
        return int(receipt["conversation"])

    def closed(self) -> tuple[int, str]:
        """(code, reason) with which the server ends the connection; pushes before it go to the backlog."""
        while True:
            try:
                self.backlog.append(self.receive())
            except ConnectionClosed as end:
                return (end.rcvd.code, end.rcvd.reason) if end.rcvd is not None else (1006, "")

    def close(self) -> None:
        """A clean end."""
        self.socket.close()


def normal(message: str | bytes) -> dict[str, Any]:
    """A push of either encoding as the same dictionary: payloads are bytes, arrays are named."""
    if isinstance(message, str):
        push = json.loads(message)
        if push["op"] in ("event",):
            return normal_event(push)
        for name in ("events", "newest"):
            if name in push:
                push[name] = [normal_event(event) for event in push[name]]
        return dict(push)
    number, body = msgpack.unpackb(message)
    op = NAMES[number]
    if op == "event":
        return {"op": op, **event_of(body)}
    if op == "receipt":
        return {"op": op, **dict(zip(RECEIPT_FIELDS, body, strict=True))}
    for name in ("events", "newest"):
        if name in body:
            body[name] = [event_of(event) for event in body[name]]
    return {"op": op, **body}


def event_of(record: list[Any]) -> dict[str, Any]:
    """A stored record by names; `data` instead of payload where the type has a schema."""
    event = dict(zip(EVENT_FIELDS, record, strict=True))
    if event["type"] in SCHEMA_TYPES:
        event["data"] = msgpack.unpackb(event.pop("payload"))
    return event


def normal_event(event: dict[str, Any]) -> dict[str, Any]:
    """A JSON event with bytes where they were base64."""
    if "payload" in event:
        event["payload"] = base64.b64decode(event["payload"], validate=True)
    if "body" in event.get("data", {}):
        event["data"]["body"] = base64.b64decode(event["data"]["body"], validate=True)
    return event


@contextmanager
def running(data: Path, **options: object) -> Iterator[GatewayProcess]:
    """A gateway for one test with options of its own."""
    with GatewayProcess(data, **options) as gateway:
        yield gateway
