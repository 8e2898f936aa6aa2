"""Access over random histories: nobody gets what their membership at that event doesn't allow; all else they do.

Goal: P5 and P9 for joins, leaves, removals, returns, role changes, resumes and history pages, in dialogs, groups with
and without history, and channels. Method: hypothesis draws a history and who looks when; the real engine, door and
worker carry it out; PROTOCOL.md's rule, written again below in a few lines, says what each device must and may have.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.simulation.device import Device, Session
from bench.simulation.node import ALL_US, Node, Settings

USERS = 4
Event = dict[str, Any]

actions = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, USERS)),
        st.tuples(st.just("say"), st.integers(1, USERS)),
        st.tuples(st.just("add"), st.integers(1, USERS), st.integers(1, USERS)),
        st.tuples(st.just("remove"), st.integers(1, USERS), st.integers(1, USERS)),
        st.tuples(st.just("leave"), st.integers(1, USERS)),
        st.tuples(st.just("follow"), st.integers(1, USERS)),
        st.tuples(st.just("role"), st.integers(1, USERS), st.integers(1, USERS), st.sampled_from(["admin", "member"])),
        st.tuples(st.just("away"), st.integers(1, USERS)),
        st.tuples(st.just("back"), st.integers(1, USERS)),
        st.tuples(st.just("page"), st.integers(1, USERS), st.integers(1, 5), st.integers(0, 30)),
        st.tuples(st.just("restart")),
    ),
    min_size=5,
    max_size=40,
)
worlds = st.sampled_from(["dialog", "group", "group with history", "channel"])


def allowed(log: list[Event], user: int) -> dict[int, int]:
    """By the page: sequence → the sequence of the join that allows it. An own end is seen, what follows it is not."""
    found: dict[int, int] = {}
    kind, history, joined, first, ever = "", False, 0, 0, False
    for event in log:
        data, sequence = event["data"], event["sequence"]
        if event["type"] == "conversation.created":
            kind, history = data["kind"], data["history"]
        subject = data.get("user") if event["type"].startswith("member.") else None
        entered = any(member == user for member, _ in data.get("members", ()))
        if entered or (event["type"] == "member.added" and subject == user):
            joined, first = sequence, log[0]["sequence"] if history and not ever and not entered else sequence
            ever = True
            for earlier in log:
                if first <= earlier["sequence"] < sequence and _open(kind, earlier, user):
                    found[earlier["sequence"]] = joined
        if joined and _open(kind, event, user):
            found[sequence] = joined
        if event["type"] in ("member.left", "member.removed") and subject == user:
            joined = 0
    return found


def _open(kind: str, event: Event, user: int) -> bool:
    """In channels, what concerns members is seen by its subject and its sender."""
    member = kind == "channel" and event["type"].startswith("member.")
    return not member or user in (event["sender"], event["data"]["user"])


class World:
    """One conversation, one device a user; every device's pushes and pages are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_us = 1_795_515_000_000_000
        self.devices = {user: Device(user, 1, user % 2) for user in range(1, USERS + 1)}
        self.pushed: dict[int, list[int]] = {user: [] for user in self.devices}
        self.positions: dict[int, int] = dict.fromkeys(self.devices, 0)
        self.answers: list[dict[str, Any]] = []
        self.conversation = 0
        self.open()

    def open(self) -> None:
        """A process, everybody connected from where they stand."""
        self.node = Node(self.folder, Settings(inline_hops_max=0), lambda: self.now_us)
        for user in self.devices:
            self.connect(user)

    def connect(self, user: int) -> None:
        """A resume: everybody had nothing at first."""
        device = self.devices[user]
        if device.session is None:
            positions = [{"shard": 0, "epoch": 1, "sequence": self.positions[user]}]
            hello = {"op": "hello", "token": str(user), "device": 1, "protocol": 1, "positions": positions}
            device.session = Session(device, self.node.connect(), hello)
            self.settle()

    def cut(self, user: int) -> None:
        """Away."""
        device = self.devices[user]
        if device.session is not None:
            device.session.end()
            device.session = None
            self.settle()

    def restart(self) -> None:
        """The process loses its memory; what is saved is an accident of time."""
        self.node.engine.saver.fold()
        self.node.save()
        for user in self.devices:
            self.cut(user)
        self.node.crash()
        self.open()

    def take(self, session: Session, name: str, body: Any) -> None:
        """A push."""
        user = session.device.user
        if name == "event":
            sequence = int.from_bytes(body[2:10]) if isinstance(body, bytes) else body["sequence"]
            self.pushed[user].append(sequence)
            self.positions[user] = sequence
        elif name == "live":
            self.positions[user] = body["positions"][0]["sequence"]
        elif name in ("receipt", "history", "error"):
            self.answers.append({"op": name, **body})

    def ask(self, user: int, op: str, /, **keys: Any) -> dict[str, Any] | None:
        """A command and its answer; None if the user is away."""
        device = self.devices[user]
        if device.session is None:
            return None
        self.answers.clear()
        if op != "history":
            device.counter += 1
            keys["counter"] = device.counter
        else:
            keys["id"] = 1
        device.session.say({"op": op, **keys})
        self.settle()
        [answer] = self.answers
        if answer["op"] == "receipt" and answer["conversation"] and not self.conversation:
            self.conversation = answer["conversation"]
        return answer

    def settle(self) -> None:
        """Until nothing moves."""
        node, moved = self.node, True
        while moved or node.catchup.reading():
            sessions = [device.session for device in self.devices.values() if device.session is not None]
            moved = sum(session.write(1 << 20) for session in sessions) > 0
            node.take_sockets()
            moved |= bool(node.cold)
            node.handle(1 << 20)
            node.engine.sequencer.admit()
            moved |= node.engine.sequencer.load()
            node.engine.sequencer.admit()
            moved |= node.write() | node.tell()
            node.take_answers()
            node.route(ALL_US)
            while node.jobs.waiting:
                node.jobs.run(0)
            node.take_posted()
            moved |= node.catch_up(ALL_US) | node.flush(ALL_US)
            moved |= sum(session.read(1 << 20, self.take) for session in sessions) > 0

    def log(self) -> list[Event]:
        """The stored events, decoded by nothing of ours."""
        names = ("sequence", "conversation", "conversation_sequence", "previous", "time", "sender", "device", "counter")
        found = []
        for sequence in range(1, self.node.engine.log.last_sequence + 1):
            record = self.node.observer.record(sequence)
            assert record is not None
            fields = msgspec.msgpack.decode(record)
            event: Event = dict(zip((*names, "type", "payload"), fields, strict=True))
            own = event["type"].startswith(("conversation.", "member."))
            found.append({**event, "data": msgspec.msgpack.decode(event["payload"]) if own else {}})
        return found

    def close(self) -> None:
        """Lets go."""
        for user in self.devices:
            self.cut(user)
        self.node.crash()


def begin(world: World, kind: str) -> None:
    """The conversation of user 1."""
    if kind == "dialog":
        world.ask(1, "publish", user=2, payload=b"hello")
    else:
        more = {"members": [2]} if kind.startswith("group") else {}
        world.ask(1, "create", kind=kind.split(maxsplit=1)[0], title="t", history=kind == "group with history", **more)


def act(world: World, action: tuple[Any, ...]) -> None:
    """One action; refusals are as good as anything."""
    name, *rest = action if isinstance(action, tuple) else (action,)
    conversation = world.conversation
    match name:
        case "say":
            world.ask(rest[0], "publish", conversation=conversation, payload=b"x")
        case "add" | "remove":
            world.ask(rest[0], name, conversation=conversation, user=rest[1])
        case "leave" | "follow":
            world.ask(rest[0], name, conversation=conversation)
        case "role":
            world.ask(rest[0], "role", conversation=conversation, user=rest[1], role=rest[2])
        case "away":
            world.cut(rest[0])
        case "back":
            world.connect(rest[0])
        case "restart":
            world.restart()
        case "page":
            check_page(world, *rest)


def check_page(world: World, user: int, limit: int, before: int) -> None:
    """Exactly the newest of what they may see."""
    keys = {"before": before} if before else {}
    page = world.ask(user, "history", conversation=world.conversation, limit=limit, **keys)
    if page is None:
        return
    log = world.log()
    mine = [sequence for sequence in allowed(log, user) if not before or sequence < before]
    if page["op"] == "error":
        assert page["code"] == "unknown_conversation" and not allowed(log, user)
        return
    got = [event["sequence"] if isinstance(event, dict) else event[0] for event in page["events"]]
    assert got == sorted(mine, reverse=True)[:limit]
    assert (page["next"] is not None) or len(got) == len(mine)


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(kind=worlds, history=actions)
def test_everybody_gets_what_they_may_and_nothing_else(kind: str, history: list[tuple[Any, ...]]) -> None:
    """Pushed: all that one was in for, once, ascending; never what one may not see. Pages: exactly what one may see."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            begin(world, kind)
            for action in history:
                act(world, action)
            for user in world.devices:
                world.connect(user)
            for user in world.devices:
                check_page(world, user, 100, 0)
            log = world.log()
            for user, got in world.pushed.items():
                may = allowed(log, user)
                assert got == sorted(set(got)), f"user {user}"
                assert set(got) <= may.keys(), f"user {user} got {set(got) - may.keys()}"
                owed = {sequence for sequence, joined in may.items() if joined <= sequence}
                assert owed <= set(got), f"user {user} lacks {owed - set(got)}"
        finally:
            world.close()
