"""What the people of a simulation do: random writes and questions, mostly sensible ones, some that must be refused.

Knows the naive model, to aim at conversations and messages that there are. Every choice comes from the run's one
random generator. Which kinds of writes a seed has, and how often, is drawn per seed: some bugs need a log without
messages.
"""

from __future__ import annotations

import random
from typing import Any

from bench.simulation.device import Command, Device
from bench.simulation.judge import Write
from bench.simulation.questions import Question
from bench.simulation.truth import Truth

KINDS = {
    "dialog": 8,
    "publish": 30,
    "expected": 3,
    "create": 3,
    "add": 8,
    "remove": 4,
    "leave": 3,
    "role": 3,
    "rename": 2,
    "close": 0.3,
    "follow": 4,
    "edit": 3,
    "delete": 3,
    "react": 3,
}
MARKS = ("delivered", "read", "typing", "presence", "ping")
ROLES = ("owner", "admin", "member", "writer", "follower")


class Author:
    """The account of a service: who writes, without a device."""

    def __init__(self, user: int) -> None:
        self.user = user


class Workload:
    """One seed's people."""

    def __init__(self, draw: random.Random, truth_of: Any, users: int) -> None:
        self.draw, self._truth_of, self.users = draw, truth_of, users
        self.weights = {kind: weight * draw.choice([0, 1, 1, 1, 4]) for kind, weight in KINDS.items()}
        self.weights["create"] = max(self.weights["create"], 1.0)
        self.weights["publish"] = max(self.weights["publish"], 5.0)
        self.talks_max = draw.choice([2, 5, 20, 60])
        self.large = draw.choice([0.0, 0.02, 0.1])
        self.huge = draw.choice([0.0, 0.0, 0.0, 0.1])  # with these the ring comes round

    @property
    def truth(self) -> Truth:
        """The model's log of now."""
        truth: Truth = self._truth_of()
        return truth

    def user(self) -> int:
        """Anybody."""
        return self.draw.randrange(1, self.users + 1)

    def conversation(self, user: int, kind: str = "") -> int:
        """One of theirs, mostly; or any; or none that there is."""
        draw, truth = self.draw, self.truth
        own = [n for n in sorted(truth.talks_of.get(user, ())) if not kind or truth.talks[n].kind == kind]
        if own and draw.random() < 0.85:
            return draw.choice(own)
        every = list(truth.talks)
        return draw.choice(every) if every and draw.random() < 0.9 else draw.randrange(1, 90)

    def payload(self) -> bytes:
        """Bytes that nobody looks into."""
        draw = self.draw
        if self.huge and draw.random() < self.huge:
            return draw.randbytes(draw.randrange(60_000))
        size = draw.randrange(2_000) if draw.random() < self.large else draw.randrange(40)
        return draw.randbytes(size)

    def member(self, conversation: int) -> int:
        """Somebody of a conversation, or anybody."""
        talk = self.truth.talks.get(conversation)
        if talk is not None and self.draw.random() < 0.6:
            return self.draw.choice(sorted(talk.stays))
        return self.user()

    def command(self, device: Device) -> Command:
        """One new write of a device."""
        draw = self.draw
        kind = self._kind()
        device.counter += 1 if draw.random() < 0.97 else draw.choice([2, 10, 70])
        made: tuple[str, dict[str, Any], dict[str, Any]] = getattr(self, f"_{kind}")(device)
        op, body, fields = made
        write = Write(device.user, device.device, device.counter, **fields)
        command = Command(write, {"op": op, "counter": device.counter, **body})
        device.commands[device.counter] = command
        return command

    def _kind(self) -> str:
        kinds = self.weights
        if len(self.truth.talks) >= self.talks_max:
            kinds = {**kinds, "create": 0.1}
        return self.draw.choices(list(kinds), list(kinds.values()))[0]

    def fields(self, author: Author) -> dict[str, Any]:
        """One new write of somebody without a device: fields of the model's Write."""
        made: dict[str, Any] = getattr(self, f"_{self._kind()}")(author)[2]
        return made

    # One function a kind: (op, keys of the command, fields of the model's Write).

    def _said(self) -> tuple[dict[str, Any], bytes]:
        if self.draw.random() < 0.2:
            text = self.draw.choice(["", "hello", "привет", "x" * 300])
            return {"text": text}, text.encode()
        payload = self.payload()
        return {"payload": payload}, payload

    def _dialog(self, device: Device) -> Any:
        body, data = self._said()
        person = self.user()
        if person == device.user:
            person = person % self.users + 1
        return "publish", {"user": person, **body}, {"type": "message", "person": person, "data": data}

    def _publish(self, device: Device) -> Any:
        body, data = self._said()
        conversation = self.conversation(device.user)
        name = self.draw.choice(["message", "message", "education.homework.set"])
        keys = {"conversation": conversation, **body, **({} if name == "message" else {"type": name})}
        return "publish", keys, {"type": name, "conversation": conversation, "data": data}

    def _expected(self, device: Device) -> Any:
        op, keys, fields = self._publish(device)
        talk = self.truth.talks.get(fields["conversation"])
        length = len(talk.events) if talk is not None else 0
        expected = max(0, length + self.draw.choice([0, 0, 0, -1, 1]))
        return op, {**keys, "expected": expected}, {**fields, "expected": expected}

    def _create(self, device: Device) -> Any:
        draw = self.draw
        kind = draw.choice(["group", "group", "channel"])
        members = [self.user() for _ in range(draw.randrange(5))] if kind == "group" else []
        title, history = draw.choice(["chess", "ж", "news"]), draw.random() < 0.5
        data = {"kind": kind, "title": title, "history": history, "members": members}
        return "create", dict(data), {"type": "conversation.created", "data": data}

    def _add(self, device: Device) -> Any:
        conversation, user = self.conversation(device.user), self.user()
        role = self.draw.choice([None, None, *ROLES])
        keys = {"conversation": conversation, "user": user, **({"role": role} if role else {})}
        fields = {"type": "member.added", "conversation": conversation, "data": {"user": user, "role": role or ""}}
        return "add", keys, fields

    def _remove(self, device: Device) -> Any:
        conversation = self.conversation(device.user)
        user = self.member(conversation)
        fields = {"type": "member.removed", "conversation": conversation, "data": {"user": user}}
        return "remove", {"conversation": conversation, "user": user}, fields

    def _leave(self, device: Device) -> Any:
        conversation = self.conversation(device.user)
        fields = {"type": "member.left", "conversation": conversation, "data": {"user": device.user}}
        return self.draw.choice(["leave", "unfollow"]), {"conversation": conversation}, fields

    def _role(self, device: Device) -> Any:
        conversation, role = self.conversation(device.user), self.draw.choice(ROLES)
        user = self.member(conversation)
        fields = {"type": "member.role", "conversation": conversation, "data": {"user": user, "role": role}}
        return "role", {"conversation": conversation, "user": user, "role": role}, fields

    def _rename(self, device: Device) -> Any:
        conversation, title = self.conversation(device.user), self.draw.choice(["chess", "go", "ж"])
        fields = {"type": "conversation.renamed", "conversation": conversation, "data": {"title": title}}
        return "rename", {"conversation": conversation, "title": title}, fields

    def _close(self, device: Device) -> Any:
        conversation = self.conversation(device.user)
        return (
            "close",
            {"conversation": conversation},
            {"type": "conversation.closed", "conversation": conversation, "data": {}},
        )

    def _follow(self, device: Device) -> Any:
        channels = [number for number, talk in self.truth.talks.items() if talk.kind == "channel"]
        conversation = self.draw.choice(channels) if channels else self.conversation(device.user)
        fields = {"type": "member.added", "conversation": conversation, "data": {"user": device.user, "role": ""}}
        return "follow", {"conversation": conversation}, fields

    def _aim(self, device: Device, name: str) -> Any:
        conversation = self.conversation(device.user)
        talk = self.truth.talks.get(conversation)
        recent = talk.events[-12:] if talk is not None else []
        mine = [event for event in recent if event.sender == device.user and not event.data]
        chosen = mine if mine and self.draw.random() < 0.6 else recent
        target = self.draw.choice(chosen).sequence if chosen else self.draw.randrange(1, self.truth.end + 3)
        data: dict[str, Any] = {"target": target}
        keys = {"conversation": conversation, "type": name, "target": target, "payload": b""}
        if name != "message.deleted":
            keys["payload"] = data["body"] = self.draw.randbytes(5)
        return "publish", keys, {"type": name, "conversation": conversation, "data": data}

    def _edit(self, device: Device) -> Any:
        return self._aim(device, "message.edited")

    def _delete(self, device: Device) -> Any:
        return self._aim(device, "message.deleted")

    def _react(self, device: Device) -> Any:
        return self._aim(device, "message.reaction")

    # What is not a write.

    def question(self, device: Device, moment: int) -> tuple[Question, dict[str, Any]]:
        """A question, and its keys."""
        draw = self.draw
        op = draw.choice(["history", "history", "history", "members", "conversations"])
        limit = draw.choice([1, 2, 5, 50])
        if op == "conversations":
            former = draw.random() < 0.5
            return Question(op, moment, limit=limit, former=former), {"op": op, "limit": limit, "former": former}
        conversation = self.conversation(device.user)
        if op == "members":
            return Question(op, moment, conversation, limit=limit), {
                "op": op,
                "conversation": conversation,
                "limit": limit,
            }
        talk = self.truth.talks.get(conversation)
        before: int | None = None
        if talk is not None and draw.random() < 0.6:
            before = draw.choice(
                [*(event.sequence for event in talk.events), self.truth.end + 1, draw.randrange(1, 300)]
            )
        keys = {"op": op, "conversation": conversation, "limit": limit, **({"before": before} if before else {})}
        return Question(op, moment, conversation, before, limit=limit), keys

    def mark(self, device: Device) -> dict[str, Any]:
        """A command without an answer; never one that is refused."""
        draw = self.draw
        op = draw.choice(MARKS)
        conversation = self.conversation(device.user)
        if op == "ping":
            return {"op": op}
        if op == "presence":
            return {"op": op, "conversation": conversation, "status": "away"}
        if op == "typing":
            return {"op": op, "conversation": conversation}
        return {"op": op, "conversation": conversation, "conversation_sequence": draw.randrange(1, 30)}
