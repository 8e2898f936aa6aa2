"""What a replay is made of: people, devices, groups and the steps of each group, from parsed traces.

Between trace.py (files) and replay_drive.py (sockets). Each file is a group of its own with a keeper, a user who makes
the group, brings in who joins, and stays to the end; each nick is one user over all files, with K devices, half of
all devices JSON. Files are replayed in waves, so that no more sessions are open at once than descriptors allow.

Invariants: the same traces give the same users, devices and steps; within a group the steps are in the order of the
trace. Cost: one Step a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from bench.trace import Plan, TraceError
from gateway.client_codec import Encoding
from gateway.client_types import Event, Receipt

GROUP_MEMBERS_MAX = 5_000
CREATE_MEMBERS_MAX = 1_000  # at once with the group; the others of the start are added before anything is said
PAYLOAD_BYTES_MAX = 65_536


class Device:
    """One device of a user, and the state of its session."""

    __slots__ = (
        "base",
        "blocked",
        "counter",
        "device",
        "encoding",
        "failures",
        "filled",
        "gaps",
        "held",
        "index",
        "opened_ns",
        "state",
        "token",
        "unanswered",
        "user",
    )

    def __init__(self, index: int, user: int, device: int) -> None:
        self.index, self.user, self.device = index, user, device
        self.encoding: Encoding = "json" if index % 2 else "msgpack"
        self.token = ""
        # its session
        self.state = "down"  # down → connecting → hello → resuming → live
        self.base: int | None = None  # where it stands without having received: from welcome or live
        self.held: int | None = None  # where a resume that is not complete began, once it has announced a gap
        self.failures = 0
        self.opened_ns = 0
        # what it publishes
        self.counter = 0
        self.unanswered: dict[int, Step] = {}
        self.blocked: list[Group] = []  # groups that wait for room in its window
        # what it fetched where the server announced a gap
        self.gaps: dict[int, tuple[int, int]] = {}  # conversation → (after, before)
        self.filled: list[int] = []


class Step:
    """One write: from the trace, to its receipt."""

    __slots__ = (
        "counter",
        "due_s",
        "floor",
        "group",
        "kind",
        "payload",
        "publisher",
        "receipt",
        "refused",
        "sent_ns",
        "subject",
    )

    def __init__(self, group: Group, kind: str, publisher: Device, subject: int, payload: bytes, due_s: float) -> None:
        self.group, self.kind, self.publisher, self.subject = group, kind, publisher, subject
        self.payload, self.due_s = payload, due_s
        self.counter = 0
        self.sent_ns = 0
        self.floor = 0  # its conversation sequence must be above this: that of all that was answered before it was sent
        self.refused = 0
        self.receipt: Receipt | None = None

    def matches(self, event: Event) -> bool:
        """Whether the event is this write, by what was sent."""
        if (event.sender, event.device, event.counter) != (self.publisher.user, self.publisher.device, self.counter):
            return False
        data = event.data
        if self.kind == "say":
            return event.type == "message" and event.payload == self.payload
        if self.kind == "join":
            return event.type == "member.added" and data.get("user") == self.subject
        if self.kind == "leave":
            return event.type == "member.left" and data.get("user") == self.subject
        members = data.get("members")
        return (
            event.type == "conversation.created"
            and data.get("kind") == "group"
            and data.get("history") is False
            and data.get("title") == self.group.title
            and isinstance(members, list)
            and sorted(member[0] for member in members) == sorted([self.publisher.user, *self.group.start])
        )

    def placed(self, event: Event) -> bool:
        """Whether the event stands where the receipt says."""
        receipt = self.receipt
        return receipt is not None and (
            (event.sequence, event.conversation, event.conversation_sequence, event.time)
            == (receipt.sequence, receipt.conversation, receipt.conversation_sequence, receipt.time)
        )


class Group:
    """One file."""

    __slots__ = (
        "conversation",
        "devices",
        "floor",
        "keeper",
        "next",
        "outstanding",
        "start",
        "steps",
        "title",
        "turn_of",
    )

    def __init__(self, title: str, keeper: Device) -> None:
        self.title, self.keeper = title, keeper
        self.start: list[int] = []  # users who come with the group
        self.steps: list[Step] = []
        self.devices: set[Device] = {keeper}
        self.conversation = 0
        # how far it is
        self.next = 0
        self.outstanding = 0
        self.turn_of: Device | None = None  # whose writes are under way
        self.floor = 0


class Cast:
    """Everybody and everything of a replay."""

    def __init__(self, plans: Sequence[Plan], devices_per_user: int, user_base: int) -> None:
        self.devices: list[Device] = []
        self._of_user: dict[int, list[Device]] = {}
        self._user_base = user_base
        self._users: dict[bytes, int] = {}
        self._k = devices_per_user
        self.groups = [self._group(number, plan) for number, plan in enumerate(plans)]

    def _new_user(self, devices: int) -> int:
        user = self._user_base + len(self._of_user)
        self._of_user[user] = [Device(len(self.devices) + number, user, number + 1) for number in range(devices)]
        self.devices += self._of_user[user]
        return user

    def _user(self, nick: bytes) -> int:
        if nick not in self._users:
            self._users[nick] = self._new_user(self._k)
        return self._users[nick]

    def _group(self, number: int, plan: Plan) -> Group:
        if plan.members_max + 1 > GROUP_MEMBERS_MAX:
            raise TraceError(
                f"{plan.name}: {plan.members_max} people at once and a keeper; a group takes"
                f" {GROUP_MEMBERS_MAX}: split the file"
            )
        keeper = self._of_user[self._new_user(1)][0]
        group = Group(_title(plan.name, number), keeper)
        users = {nick: self._user(nick) for nick in plan.nicks}
        for user in users.values():
            group.devices.update(self._of_user[user])
        start = [users[nick] for nick in plan.start]
        group.start = start[:CREATE_MEMBERS_MAX]
        group.steps.append(Step(group, "create", keeper, 0, b"", 0.0))
        group.steps += [Step(group, "join", keeper, user, b"", 0.0) for user in start[CREATE_MEMBERS_MAX:]]
        first_minute = plan.steps[0].minute if plan.steps else 0
        for minute, lines in groupby(plan.steps, key=lambda step: step.minute):
            together = list(lines)
            for at, line in enumerate(together):  # a minute is all that the log says: lines are spread over it
                due_s = (minute - first_minute) * 60 + 60 * at / len(together)
                user = users[line.nick]
                own = self._of_user[user][number % self._k]
                publisher = keeper if line.kind == "join" else own
                for payload in _pieces(line.text) if line.kind == "say" else [b""]:
                    group.steps.append(Step(group, line.kind, publisher, user, payload, due_s))
        return group


def _title(name: str, number: int) -> str:
    text = "".join(c for c in name.encode("utf-8", "replace").decode() if c.isprintable())
    return text[:256] or f"trace {number}"


def _pieces(text: bytes) -> list[bytes]:
    """A line longer than a payload may be becomes several messages."""
    return [text[at : at + PAYLOAD_BYTES_MAX] for at in range(0, len(text), PAYLOAD_BYTES_MAX)] or [b""]


def waves(groups: Iterable[Group], sessions_max: int) -> list[list[Group]]:
    """Groups in order, as many together as have at most so many devices."""
    out: list[list[Group]] = []
    devices: set[Device] = set()
    for group in groups:
        together = devices | group.devices
        if out and len(together) <= sessions_max:
            out[-1].append(group)
            devices = together
            continue
        if len(group.devices) > sessions_max:
            raise TraceError(
                f"{group.title}: {len(group.devices)} sessions at once, {sessions_max} are possible here:"
                " raise the limit of open files (ulimit -n), or lower --devices-per-user"
            )
        out.append([group])
        devices = set(group.devices)
    return out
