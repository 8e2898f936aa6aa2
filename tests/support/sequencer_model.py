"""The second implementation of admission: dictionaries, lists and ifs, slow and plain.

What ext/admission, ext/tables and engine/control.py do with tables and rows is done here with the whole history in
memory. It knows nothing of their code, only of the promises: repeats first, then the window, then who one is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tests.support.naive_keys import NaiveKeys

APPENDED, REPEAT, TOO_OLD, JUMP, CONFLICT, UNKNOWN, FORBIDDEN, CLOSED = 0, 1, 10, 11, 12, 13, 14, 15
BAD_TYPE, TOO_LARGE, BAD_TARGET, BAD_PAYLOAD, LIMIT, UNCHANGED, BAD_ID, BAD_COUNTER = 16, 17, 18, 19, 20, 21, 22, 27
OVERLOADED = 25
DAY_US = 24 * 60 * 60 * 1_000_000
ID_MAX = 2**53 - 1
SPEAKERS = {"dialog": {"member"}, "group": {"owner", "admin", "member"}, "channel": {"owner", "admin", "writer"}}
RUNNERS = {"owner", "admin"}
GIVES = {
    ("group", "owner"): {"owner", "admin", "member"},
    ("group", "admin"): {"member"},
    ("channel", "owner"): {"owner", "admin", "writer", "follower"},
    ("channel", "admin"): {"writer", "follower"},
}
ROLES = {
    "dialog": {"member"},
    "group": {"owner", "admin", "member"},
    "channel": {"owner", "admin", "writer", "follower"},
}
ORDINARY = {"dialog": "member", "group": "member", "channel": "follower"}
SYSTEM = 2**40 - 1  # the system conversation of shard 0
SYSTEM_TYPES = {
    "subscription." + word
    for word in ("created", "deleted", "paused", "resumed", "reset", "parked", "replayed", "dropped")
}

Content = dict[str, Any]
Judged = tuple[int, int, int, list[tuple[str, Content]]]


@dataclass
class Talk:
    """A conversation of the model."""

    kind: str
    title: str
    history: bool
    created: int
    closed: bool = False
    roles: dict[int, str] = field(default_factory=dict)
    intervals: dict[int, list[tuple[int, int | None]]] = field(default_factory=dict)
    events: list[int] = field(default_factory=list)


@dataclass
class Event:
    """A stored event of the model."""

    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int
    sender: int
    device: int
    counter: int
    type: str
    content: Content


def fits(type_name: str, content: Content) -> bool:
    """Whether an event of a subscription says what it must; what it is to be filtered by isn't looked at."""
    names = {"created": "filter kind name settings start team", "reset": "name position"}
    names |= {"parked": "deliveries name reason sequence", "replayed": "name sequences", "dropped": "name sequences"}
    sequences = content.get("sequences", [1])
    return (
        sorted(content) == names.get(type_name.removeprefix("subscription."), "name").split()
        and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", content["name"]) is not None
        and content.get("kind", "ordered") in ("ordered", "competing")
        and all(0 <= content.get(name, 0) <= ID_MAX for name in ("start", "position", "deliveries"))
        and 1 <= content.get("sequence", 1) <= ID_MAX
        and 1 <= len(sequences) <= 5_000
        and all(1 <= sequence <= ID_MAX for sequence in sequences)
        and len(content.get("reason", "")) <= 1_024
        and len(content.get("team", "")) <= 64
    )


class Model:
    """publish() gives (status, conversation, sequence, conversation sequence)."""

    def __init__(self, group_members_max: int = 5_000, keys_max: int = 1 << 20) -> None:
        self.talks: dict[int, Talk] = {}
        self.dialogs: dict[tuple[int, int], int] = {}
        self.log: list[Event] = []
        self.published: dict[tuple[int, int], dict[int, int]] = {}
        self.deleted: dict[int, int] = {}
        self.group_members_max = group_members_max
        self.keys, self.keys_max = NaiveKeys(DAY_US), keys_max

    def next_conversation(self) -> int:
        """The id that is allocated next."""
        return len(self.talks) + 1 - (SYSTEM in self.talks)

    def publish(
        self,
        user: int,
        device: int,
        counter: int,
        target: int,
        type_name: str,
        content: Content,
        *,
        person: bool = False,
        expected: int | None = None,
    ) -> tuple[int, int, int, int]:
        """Judges one proposal and appends it if it may be."""
        if not (1 <= user <= ID_MAX and 1 <= device <= ID_MAX):
            return BAD_ID, 0, 0, 0
        if not 1 <= counter <= ID_MAX:
            return BAD_COUNTER, 0, 0, 0
        seen = self.published.setdefault((user, device), {})
        highest = max(seen, default=0)
        if counter <= highest - 64:
            return TOO_OLD, 0, 0, 0
        if counter in seen:
            event = self.log[seen[counter] - 1]
            return REPEAT, event.conversation, event.sequence, event.conversation_sequence
        if counter > highest + 65536:
            return JUMP, 0, 0, 0
        status, conversation, extra, events = self._judge(user, target, type_name, content, person, expected)
        if status != APPENDED:
            return status, conversation, 0, extra
        for kind, body in events[:-1]:
            self._append(conversation, user, device, 0, kind, body)
        event = self._append(conversation, user, device, counter, *events[-1])
        seen[counter] = event.sequence
        return APPENDED, conversation, event.sequence, event.conversation_sequence

    def publish_system(
        self,
        user: int,
        device: int,
        counter: int,
        target: int,
        type_name: str,
        content: Content,
        *,
        expected: int | None = None,
    ) -> tuple[int, int, int, int]:
        """The same of an event of the engine's own."""
        if not 1 <= user <= ID_MAX or device:
            return BAD_ID, 0, 0, 0
        if counter:
            return BAD_COUNTER, 0, 0, 0
        if type_name not in SYSTEM_TYPES:
            return BAD_TYPE, 0, 0, 0
        if target:
            return UNKNOWN, 0, 0, 0
        if not fits(type_name, content):
            return BAD_PAYLOAD, SYSTEM, 0, 0
        count = len(self.talks[SYSTEM].events) if SYSTEM in self.talks else 0
        if expected is not None and expected != count:
            return CONFLICT, SYSTEM, 0, count
        if not count:
            nobody = {"kind": "system", "title": "", "history": False, "members": []}
            self._append(SYSTEM, user, 0, 0, "conversation.created", nobody)
        event = self._append(SYSTEM, user, 0, 0, type_name, content)
        return APPENDED, SYSTEM, event.sequence, event.conversation_sequence

    def publish_keyed(
        self,
        user: int,
        key: bytes,
        time_us: int,
        target: int,
        type_name: str,
        content: Content,
        *,
        person: bool = False,
        expected: int | None = None,
    ) -> tuple[int, int, int, int]:
        """The same for a service; a key of zeros is none."""
        if not 1 <= user <= ID_MAX:
            return BAD_ID, 0, 0, 0
        if any(key):
            if (known := self.keys.known(key, time_us)) is not None:
                event = self.log[known[0] - 1]
                return REPEAT, event.conversation, event.sequence, event.conversation_sequence
            if len(self.keys.kept(time_us)) >= self.keys_max:
                return OVERLOADED, 0, 0, 0
        status, conversation, extra, events = self._judge(user, target, type_name, content, person, expected)
        if status != APPENDED:
            return status, conversation, 0, extra
        for kind, body in events:
            event = self._append(conversation, user, 0, 0, kind, body)
        if any(key):
            self.keys.note(key, event.sequence, time_us)
        return APPENDED, conversation, event.sequence, event.conversation_sequence

    def _judge(
        self, user: int, target: int, type_name: str, content: Content, person: bool, expected: int | None
    ) -> Judged:
        if type_name == "conversation.created":
            return self._judge_created(user, content, expected)
        if type_name.startswith(("subscription.", "admin.")):
            return BAD_TYPE, 0, 0, []
        conversation = target
        if person:
            if user == target:
                return BAD_ID, 0, 0, []
            pair = (min(user, target), max(user, target))
            conversation = self.dialogs.get(pair, 0)
            if not conversation and "." not in type_name:
                if expected:
                    return CONFLICT, 0, 0, []
                conversation = self.next_conversation()
                members = [(each, "member") for each in pair]
                created = {"kind": "dialog", "title": "", "history": True, "members": members}
                return APPENDED, conversation, 0, [("conversation.created", created), (type_name, content)]
        talk = self.talks.get(conversation)
        if talk is None:
            return UNKNOWN, 0, 0, []
        role = talk.roles.get(user, "")
        if not role and talk.kind != "channel":
            return UNKNOWN, 0, 0, []
        status, body = self._rights(talk, user, role, type_name, content)
        if status in (FORBIDDEN, UNCHANGED, BAD_PAYLOAD) and body is None:
            return status, conversation, 0, []
        if talk.closed and type_name != "member.left":
            return CLOSED, conversation, 0, []
        if expected is not None and expected != len(talk.events):
            return CONFLICT, conversation, len(talk.events), []
        if status:
            return status, conversation, 0, []
        assert body is not None
        return APPENDED, conversation, 0, [(type_name, body)]

    def _rights(self, talk: Talk, user: int, role: str, type_name: str, content: Content) -> tuple[int, Content | None]:
        """(status, body): body None = refused before closed and expected are looked at."""
        speaks = role in SPEAKERS[talk.kind]
        gives = GIVES.get((talk.kind, role), set())
        subject = content.get("user", 0)
        subject_role = talk.roles.get(subject, "")
        if type_name == "member.added":
            wanted = content.get("role") or ORDINARY[talk.kind]
            if wanted not in ROLES[talk.kind]:
                return BAD_PAYLOAD, None
            if subject == user:
                if role:
                    return UNCHANGED, None
                return (FORBIDDEN if wanted != "follower" else self._room(talk)), {"user": user, "role": wanted}
            if role not in RUNNERS:
                return FORBIDDEN, None
            if wanted not in gives:
                return FORBIDDEN, content
            return (UNCHANGED if subject_role else self._room(talk)), {"user": subject, "role": wanted}
        if type_name == "member.removed":
            if role not in RUNNERS:
                return FORBIDDEN, None
            if not subject_role:
                return UNCHANGED, content
            return (FORBIDDEN if subject == user or subject_role not in gives else 0), content
        if type_name == "member.left":
            if subject != user:
                return BAD_PAYLOAD, None
            return (FORBIDDEN, None) if not role or talk.kind == "dialog" else (0, content)
        if type_name == "member.role":
            if content["role"] not in ROLES[talk.kind]:
                return BAD_PAYLOAD, None
            if not (role == "owner" or (role == "admin" and talk.kind == "channel")):
                return FORBIDDEN, None
            if not subject_role:
                return BAD_TARGET, content
            if subject_role == content["role"]:
                return UNCHANGED, content
            return (0 if subject_role in gives and content["role"] in gives else FORBIDDEN), content
        if type_name == "conversation.renamed":
            if role not in RUNNERS:
                return FORBIDDEN, None
            return (UNCHANGED if content["title"] == talk.title else 0), content
        if type_name == "conversation.closed":
            if role != "owner":
                return FORBIDDEN, None
            return (UNCHANGED, None) if talk.closed else (0, content)
        if type_name == "message.deleted":
            if not speaks:
                return FORBIDDEN, None
            return self._aimed(talk, user, role, content, "deleted"), content
        if type_name == "message.edited":
            return (self._aimed(talk, user, role, content, "edited"), content) if speaks else (FORBIDDEN, None)
        if type_name == "message.reaction":
            return (self._aimed(talk, user, role, content, "reaction"), content) if role else (FORBIDDEN, None)
        return (0, content) if speaks else (FORBIDDEN, None)

    def _room(self, talk: Talk) -> int:
        return LIMIT if talk.kind == "group" and len(talk.roles) >= self.group_members_max else 0

    def _aimed(self, talk: Talk, user: int, role: str, content: Content, what: str) -> int:
        sequence = content["target"]
        if sequence > len(self.log) or sequence not in talk.events or not self.sees(user, talk, sequence):
            return BAD_TARGET
        target = self.log[sequence - 1]
        if target.type.startswith(("conversation.", "member.", "message.")):
            return BAD_TARGET
        if what == "edited" and target.sender != user:
            return FORBIDDEN
        if what == "deleted" and target.sender != user and role not in RUNNERS:
            return FORBIDDEN
        if sequence in self.deleted:
            return UNCHANGED if what == "deleted" else BAD_TARGET
        return 0

    @staticmethod
    def sees(user: int, talk: Talk, sequence: int) -> bool:
        """Whether a sequence lies in one of the user's intervals."""
        intervals = talk.intervals.get(user, [])
        return any(first <= sequence and (last is None or sequence <= last) for first, last in intervals)

    def _judge_created(self, user: int, content: Content, expected: int | None) -> Judged:
        if content["kind"] not in ("group", "channel"):
            return BAD_PAYLOAD, 0, 0, []
        if expected:
            return CONFLICT, 0, 0, []
        members = {user: "owner"}
        for other, name in content["members"]:
            role = name or ORDINARY[content["kind"]]
            if role not in GIVES[content["kind"], "owner"] or role == "follower":
                return BAD_PAYLOAD, 0, 0, []
            members.setdefault(other, role)
        if content["kind"] == "group" and len(members) > self.group_members_max:
            return LIMIT, 0, 0, []
        body = {**content, "members": list(members.items())}
        return APPENDED, self.next_conversation(), 0, [("conversation.created", body)]

    def _append(
        self, conversation: int, user: int, device: int, counter: int, type_name: str, content: Content
    ) -> Event:
        sequence = len(self.log) + 1
        if type_name == "conversation.created":
            talk = Talk(content["kind"], content["title"], content["history"], sequence)
            self.talks[conversation] = talk
            for member, role in content["members"]:
                talk.roles[member] = role
                talk.intervals[member] = [(sequence, None)]
            if talk.kind == "dialog":
                first, second = (member for member, _ in content["members"])
                self.dialogs[first, second] = conversation
        talk = self.talks[conversation]
        event = Event(
            sequence,
            conversation,
            len(talk.events) + 1,
            talk.events[-1] if talk.events else 0,
            user,
            device,
            counter,
            type_name,
            content,
        )
        self.log.append(event)
        talk.events.append(sequence)
        if type_name == "member.added":
            first = talk.created if talk.history and content["user"] not in talk.intervals else sequence
            talk.intervals.setdefault(content["user"], []).append((first, None))
            talk.roles[content["user"]] = content["role"]
        elif type_name in ("member.removed", "member.left"):
            mine = talk.intervals[content["user"]]
            mine[-1] = (mine[-1][0], sequence)
            del talk.roles[content["user"]]
        elif type_name == "member.role":
            talk.roles[content["user"]] = content["role"]
        elif type_name == "conversation.renamed":
            talk.title = content["title"]
        elif type_name == "conversation.closed":
            talk.closed = True
        elif type_name == "message.deleted":
            self.deleted[content["target"]] = sequence
        return event
