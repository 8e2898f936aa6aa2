"""A gateway in memory, for tests of those who talk to one: the protocol of PROTOCOL.md, nothing durable, made to fail.

Runs in a thread of its own. Tests break it through its attributes: `refuse` answers writes by a status, `tamper`
changes what is sent to a session, `swallow` stores a write and breaks before the receipt, `gap_over` answers resumes
by gaps, `break_all` and `close_all` end connections. Written from the protocol page alone, it is also a second
opinion on it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

NUMBERS = {
    name: number
    for number, name in enumerate(
        (
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
        ),
        1,
    )
}
FIELDS = (
    "sequence",
    "conversation",
    "conversation_sequence",
    "previous",
    "time",
    "sender",
    "device",
    "counter",
    "type",
)
FOREVER = 2**60


def record(event: dict[str, Any]) -> bytes:
    """The stored bytes: fixed-width integers, a short string, a long bin."""
    out = bytearray(b"\x9a")
    for name in FIELDS[:8]:
        out += b"\xcf" + event[name].to_bytes(8, "big")
    type = event["type"].encode()
    payload = msgspec.msgpack.encode(event["data"]) if event["data"] is not None else event["payload"]
    return bytes(out + b"\xd9" + bytes([len(type)]) + type + b"\xc6" + len(payload).to_bytes(4, "big") + payload)


def as_json(event: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of an event."""
    out = {name: event[name] for name in FIELDS}
    if event["data"] is not None:
        out["data"] = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in event["data"].items()}
    else:
        out["payload"] = base64.b64encode(event["payload"]).decode()
    return out


class Session:
    """One connection after its hello."""

    def __init__(self, socket: ServerConnection, user: int, device: int) -> None:
        self.socket, self.user, self.device = socket, user, device
        self.msgpack = socket.subprotocol == "gonets.v1.msgpack"
        self.live = False
        self.waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

    def encode(self, name: str, body: Any) -> bytes:
        """One message of this session's encoding."""
        if self.msgpack:
            if name == "event":
                return b"\x92\x01" + record(body)
            if name == "receipt":
                return msgspec.msgpack.encode([2, list(body.values())])
            for key in ("events", "newest"):
                if key in body:
                    body = {**body, key: [msgspec.Raw(record(event)) for event in body[key]]}
            return msgspec.msgpack.encode([NUMBERS[name], body])
        if name == "event":
            body = as_json(body)
        for key in ("events", "newest"):
            if key in body:
                body = {**body, key: [as_json(event) for event in body[key]]}
        return msgspec.json.encode({"op": name, **body})

    async def write(self) -> None:
        """The only sender: order is that of the queue."""
        try:
            while (message := await self.waiting.get()) is not None:
                await self.socket.send(message, text=not self.msgpack)
        except ConnectionClosed:
            pass


class FakeGateway:
    """Use as a context manager; `url` is where clients connect."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.intervals: dict[tuple[int, int], list[list[int]]] = {}  # (conversation, user) → [first, last]
        self.kinds: dict[int, dict[str, Any]] = {}
        self.receipts: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
        self.sessions: dict[tuple[int, int], Session] = {}
        self.hellos: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.epoch, self.expires_s = 1, 3600.0
        self.refuse: Callable[[dict[str, Any]], tuple[str, int] | None] = lambda command: None
        self.fail: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda command: None
        self.tamper: Callable[[Session, dict[str, Any]], list[dict[str, Any]]] = lambda session, event: [event]
        self.swallow: Callable[[dict[str, Any]], bool] = lambda command: False
        self.reset_to: int | None = None
        self.gap_over = FOREVER
        self.lost: set[int] = set()  # sequences that history can't read
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._server: Server | None = None
        self._port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeGateway:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def call(self, work: Any) -> Any:
        """Runs a coroutine on the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def start(self) -> None:
        """Listens, at the same port if it did before."""

        async def begin() -> None:
            self._server = await serve(
                self._serve,
                "127.0.0.1",
                self._port,
                subprotocols=["gonets.v1.msgpack", "gonets.v1.json"],  # type: ignore
                compression=None,
                ping_interval=None,
                close_timeout=0.2,
            )
            self._port = self._server.sockets[0].getsockname()[1]

        self.call(begin())
        self.url = f"ws://127.0.0.1:{self._port}/v1"

    def stop(self) -> None:
        """Stops listening and breaks all connections, as a crash would; what is stored stays."""

        async def end() -> None:
            for session in self.sessions.values():
                session.socket.transport.abort()
            self._server.close(False)  # type: ignore[union-attr]

        self.break_all()
        self.call(end())

    def break_all(self) -> None:
        """Cuts all connections without a close frame."""

        async def cut() -> None:
            for session in list(self.sessions.values()):
                session.socket.transport.abort()
            self.sessions.clear()

        self.call(cut())

    def close_all(self, code: int, reason: str) -> None:
        """Closes all sessions with a code."""

        async def close() -> None:
            for session in list(self.sessions.values()):
                await session.socket.close(code, reason)

        self.call(close())

    def push(self, name: str, body: dict[str, Any]) -> None:
        """A push to all sessions."""

        async def send() -> None:
            for session in self.sessions.values():
                session.waiting.put_nowait(session.encode(name, body))

        self.call(send())

    # ---- one connection ------------------------------------------------------------------------------------------

    async def _serve(self, socket: ServerConnection) -> None:
        session: Session | None = None
        writer: asyncio.Task[None] | None = None
        try:
            async for message in socket:
                command = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
                if session is None:
                    session = await self._hello(socket, command)
                    if session is None:
                        return
                    writer = asyncio.create_task(session.write())
                else:
                    self.commands.append(command)
                    self._command(session, command)
        except ConnectionClosed:
            pass
        finally:
            if session is not None and self.sessions.get((session.user, session.device)) is session:
                del self.sessions[(session.user, session.device)]
            if writer is not None:
                writer.cancel()

    async def _hello(self, socket: ServerConnection, command: dict[str, Any]) -> Session | None:
        self.hellos.append(command)
        token = command["token"]
        if token == "bad":
            await socket.close(4501, "bad_token")
            return None
        if token.count(".") == 2:
            middle = token.split(".")[1]
            token = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))["sub"]
        session = Session(socket, int(token), command["device"])
        old = self.sessions.get((session.user, session.device))
        if old is not None:
            asyncio.get_running_loop().create_task(old.socket.close(4500, "replaced"))
        self.sessions[(session.user, session.device)] = session
        last = len(self.events)
        stands = [{"shard": 0, "epoch": self.epoch, "sequence": last}]
        known = self.receipts.setdefault((session.user, session.device), {})
        session.waiting.put_nowait(
            session.encode(
                "welcome",
                {
                    "user": session.user,
                    "device": session.device,
                    "protocol": 1,
                    "server": "fake",
                    "durability": "none",
                    "shards": stands,
                    "counter": max(known, default=0),
                    "time": 0,
                    "expires": time.time() + self.expires_s,
                    "ping_interval_s": 30,
                    "limits": {},
                },
            )
        )
        positions = command.get("positions")
        if positions is not None:
            self._resume(session, positions[0])
        session.waiting.put_nowait(session.encode("live", {"positions": stands}))
        session.live = True
        return session

    def _resume(self, session: Session, position: dict[str, int]) -> None:
        after = position["sequence"]
        if position["epoch"] != self.epoch and self.reset_to is not None:
            after = min(after, self.reset_to)
            session.waiting.put_nowait(session.encode("reset", {"shard": 0, "epoch": self.epoch, "sequence": after}))
        missed: dict[int, list[dict[str, Any]]] = {}
        for event in self.events[after:]:
            if self._sees(session.user, event):
                missed.setdefault(event["conversation"], []).append(event)
        for conversation, events in list(missed.items()):
            if len(events) > self.gap_over:
                session.waiting.put_nowait(
                    session.encode(
                        "gap",
                        {
                            "conversation": conversation,
                            "after": after,
                            "before": len(self.events) + 1,
                            "newest": events[-2:][::-1],
                            "next": events[-2]["sequence"],
                        },
                    )
                )
                del missed[conversation]
        for event in sorted((e for events in missed.values() for e in events), key=lambda e: int(e["sequence"])):
            self._send(session, event)

    def _sees(self, user: int, event: dict[str, Any]) -> bool:
        return any(
            first <= event["sequence"] <= last for first, last in self.intervals.get((event["conversation"], user), ())
        )

    def _send(self, session: Session, event: dict[str, Any]) -> None:
        for one in self.tamper(session, event):
            session.waiting.put_nowait(session.encode("event", one))

    # ---- commands ------------------------------------------------------------------------------------------------

    def _command(self, session: Session, command: dict[str, Any]) -> None:
        op = command["op"]
        answer: dict[str, Any] | None = None
        failed = self.fail(command)
        if failed is not None:
            answer = {**failed, **({"id": command["id"]} if "id" in command else {})}
            session.waiting.put_nowait(session.encode("error", answer))
        elif "counter" in command:
            self._write(session, command)
        elif op == "history":
            seen = [
                e
                for e in self.events
                if e["conversation"] == command["conversation"]
                and self._sees(session.user, e)
                and e["sequence"] < command.get("before", FOREVER)
            ][::-1]
            page = seen[: command.get("limit", 50)]
            lost = next((e["sequence"] for e in page if e["sequence"] in self.lost), None)
            body = {
                "id": command["id"],
                "conversation": command["conversation"],
                "events": page,
                "trimmed": False,
                "next": page[-1]["sequence"] if len(seen) > len(page) else None,
            }
            if lost is not None:
                body |= {"events": [e for e in page if e["sequence"] > lost], "damaged": True, "next": lost}
            session.waiting.put_nowait(session.encode("history", body))
        elif op in ("conversations", "members"):
            session.waiting.put_nowait(session.encode(op, self._list(session, command)))
        elif op == "refresh":
            answer = {"id": command["id"], "expires": time.time() + 3600}
            session.waiting.put_nowait(session.encode("refreshed", answer))
        elif op == "ping":
            session.waiting.put_nowait(session.encode("pong", {"id": command["id"]} if "id" in command else {}))
        elif op == "typing":
            for (user, _), other in self.sessions.items():
                if user != session.user:
                    other.waiting.put_nowait(
                        other.encode("typing", {"conversation": command["conversation"], "user": session.user})
                    )

    def _list(self, session: Session, command: dict[str, Any]) -> dict[str, Any]:
        after, items = command.get("after") or 0, list[dict[str, Any]]()
        if command["op"] == "members":
            for (conversation, user), intervals in sorted(self.intervals.items()):
                if conversation == command["conversation"] and user > after and intervals[-1][1] == FOREVER:
                    items.append({"user": user, "role": "member"})
            key = "user"
        else:
            for (conversation, user), _ in sorted(self.intervals.items()):
                if user == session.user and conversation > after:
                    items.append(
                        {
                            "conversation": conversation,
                            "kind": "group",
                            "title": "t",
                            "role": "member",
                            "member_count": 1,
                            "head": 1,
                            "conversation_sequence": 1,
                            "unread": 0,
                            "delivered": 0,
                            "read": 0,
                            "history": True,
                            "closed": False,
                        }
                    )
            key = "conversation"
        return {"id": command["id"], "items": items[:2], "next": items[1][key] if len(items) > 2 else None}

    def _write(self, session: Session, command: dict[str, Any]) -> None:
        counter = command["counter"]
        known = self.receipts.setdefault((session.user, session.device), {})
        refused = self.refuse(command)
        if counter in known:
            receipt = {**known[counter], "status": "repeat"}
        elif refused is not None:
            receipt = {
                "counter": counter,
                "status": refused[0],
                "conversation": 0,
                "sequence": 0,
                "conversation_sequence": 0,
                "time": 0,
                "extra": refused[1],
            }
        else:
            event = self._store(session, command)
            receipt = known[counter] = {
                "counter": counter,
                "status": "appended",
                "conversation": event["conversation"],
                "sequence": event["sequence"],
                "conversation_sequence": event["conversation_sequence"],
                "time": event["time"],
                "extra": 0,
            }
            if self.swallow(command):
                session.socket.transport.abort()
                return
        session.waiting.put_nowait(session.encode("receipt", receipt))

    def _store(self, session: Session, command: dict[str, Any]) -> dict[str, Any]:
        op, user = command["op"], session.user
        conversation, sequence = command.get("conversation"), len(self.events) + 1
        type, data, payload = command.get("type", "message"), None, b""
        leaves: int | None = None
        if op == "create":
            conversation = len(self.kinds) + 1
            self.kinds[conversation] = command
            members = [[user, "owner"], *([m, "member"] for m in command["members"])]
            type, data = (
                "conversation.created",
                {"kind": command["kind"], "title": command["title"], "history": command["history"], "members": members},
            )
            for member, _ in members:
                self.intervals[(conversation, member)] = [[sequence, FOREVER]]
        elif op == "add":
            type, data = "member.added", {"user": command["user"], "role": command.get("role") or "member"}
            self.intervals.setdefault((conversation, command["user"]), []).append([sequence, FOREVER])  # type: ignore
        elif op in ("leave", "remove"):
            leaves = user if op == "leave" else command["user"]
            type, data = ("member.left" if op == "leave" else "member.removed"), {"user": leaves}
        else:
            given = command["payload"]
            payload = given if session.msgpack else base64.b64decode(given)
            if command.get("target"):
                data, payload = {"target": command["target"], "body": payload}, b""
        before = [e for e in self.events if e["conversation"] == conversation]
        event = {
            "sequence": sequence,
            "conversation": conversation,
            "conversation_sequence": len(before) + 1,
            "previous": before[-1]["sequence"] if before else 0,
            "time": sequence,
            "sender": user,
            "device": session.device,
            "counter": command["counter"],
            "type": type,
            "data": data,
            "payload": payload,
        }
        self.events.append(event)
        if leaves is not None:
            self.intervals[(conversation, leaves)][-1][1] = sequence  # type: ignore[index]
        for other in self.sessions.values():
            if other.live and self._sees(other.user, event):
                self._send(other, event)
        return event
