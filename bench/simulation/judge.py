"""The naive model's half that judges: what admission had to answer to a write at a given moment of the log.

Written from PROTOCOL.md (the tables of roles and receipts) and not from the engine. verdicts.py asks it about each
stored event at the moment just before it, and about each refusal at every moment between the sending and the receipt,
since only the engine knows when it judged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.simulation.truth import Talk, Truth, at

SPEAK = {"publish", "react", "edit", "delete"}
RUN = SPEAK | {"delete any", "add", "remove", "rename", "leave"}
RIGHTS: dict[tuple[str, str], set[str]] = {
    ("dialog", "member"): SPEAK,
    ("group", "owner"): RUN | {"assign", "close"},
    ("group", "admin"): RUN,
    ("group", "member"): SPEAK | {"leave"},
    ("channel", ""): {"join"},
    ("channel", "owner"): RUN | {"assign", "close"},
    ("channel", "admin"): RUN | {"assign"},
    ("channel", "writer"): SPEAK | {"leave"},
    ("channel", "follower"): {"react", "leave"},
}
GIVES: dict[tuple[str, str], set[str]] = {
    ("group", "owner"): {"owner", "admin", "member"},
    ("group", "admin"): {"member"},
    ("channel", "owner"): {"owner", "admin", "writer", "follower"},
    ("channel", "admin"): {"writer", "follower"},
}
ORDINARY = {"group": "member", "channel": "follower"}
ROLES = {
    "dialog": {"member"},
    "group": {"owner", "admin", "member"},
    "channel": {"owner", "admin", "writer", "follower"},
}
APPENDED = "appended"


class Write(NamedTuple):
    """What a client asked for; `type` is that of the event it hopes for, `data` its map or the payload's bytes."""

    user: int
    device: int
    counter: int
    type: str
    conversation: int = 0
    person: int = 0
    expected: int | None = None
    data: Any = b""
    key: bytes = b""  # of a service, which has no device and no counter


class Judgement(NamedTuple):
    """A status by name; `actual` is what a conflict names, `data` what the stored event has to hold."""

    status: str
    actual: int = 0
    data: Any = None


def judge(truth: Truth, write: Write, moment: int, group_members_max: int) -> Judgement:
    """What the answer is if the write is judged when the log ends at `moment`. Whether a service's write is a repeat
    depends on the time too: that is not judged here."""
    if write.key:
        return _behind_repeats(truth, write, moment, group_members_max)
    key = (write.user, write.device)
    top = int(at(truth.tops.get(key, ()), moment, 0))
    if write.counter <= top - 64:
        return Judgement("too_old")
    stored = truth.counters.get(key, {}).get(write.counter, 0)
    if 0 < stored <= moment:
        return Judgement("repeat")
    if write.counter > top + 65_536:
        return Judgement("counter_jump")
    return _behind_repeats(truth, write, moment, group_members_max)


def _behind_repeats(truth: Truth, write: Write, moment: int, group_members_max: int) -> Judgement:
    if write.type == "conversation.created":
        return _created(write, group_members_max)
    conversation = write.conversation
    if write.person:
        if write.person == write.user:
            return Judgement("bad_id")
        first, second = sorted((write.user, write.person))
        conversation = truth.dialogs.get((first, second), 0)
        if not truth.talk(conversation, moment):
            if write.type.startswith("message."):
                return Judgement("unknown_conversation")
            return Judgement("conflict") if write.expected else Judgement(APPENDED, 0, write.data)
    talk = truth.talk(conversation, moment)
    role = talk.role(write.user, moment) if talk is not None else ""
    if talk is None or (not role and talk.kind != "channel"):
        return Judgement("unknown_conversation")
    return _Case(truth, talk, write, role, moment, group_members_max).judge()


def _created(write: Write, group_members_max: int) -> Judgement:
    if write.expected:
        return Judgement("conflict")
    members = {write.user: "owner"}
    for user in write.data["members"]:
        members.setdefault(user, ORDINARY[write.data["kind"]])
    if write.data["kind"] == "group" and len(members) > group_members_max:
        return Judgement("member_limit")
    return Judgement(APPENDED, 0, {**write.data, "members": [list(item) for item in members.items()]})


class _Case(NamedTuple):
    """A write in a conversation that its author may know of."""

    truth: Truth
    talk: Talk
    write: Write
    role: str
    moment: int
    group_members_max: int

    def judge(self) -> Judgement:
        """By the type of event."""
        match self.write.type:
            case "member.added":
                return self._added()
            case "member.removed":
                return self._removed()
            case "member.left":
                return self._allowed("leave", also_closed=True) or self._appended()
            case "member.role":
                return self._assigned()
            case "conversation.renamed":
                same = at(self.talk.titles, self.moment, "") == self.write.data["title"]
                return self._allowed("rename") or (Judgement("unchanged") if same else self._appended())
            case "conversation.closed":
                if at(self.talk.closed, self.moment, False) and self._has("close"):
                    return Judgement("unchanged")
                return self._allowed("close") or self._appended()
            case "message.edited" | "message.deleted" | "message.reaction":
                return self._aimed()
        return self._allowed("publish") or self._appended()

    def _appended(self) -> Judgement:
        return Judgement(APPENDED, 0, self.write.data)

    def _has(self, right: str) -> bool:
        return right in RIGHTS.get((self.talk.kind, self.role), set())

    def _allowed(self, right: str, also_closed: bool = False) -> Judgement | None:
        if not self._has(right):
            return Judgement("forbidden")
        if at(self.talk.closed, self.moment, False) and not also_closed:
            return Judgement("closed")
        length = self.talk.length(self.moment)
        if self.write.expected is not None and self.write.expected != length:
            return Judgement("conflict", length)
        return None

    def _added(self) -> Judgement:
        kind, user = self.talk.kind, self.write.data["user"]
        wanted = self.write.data["role"] or ORDINARY.get(kind, "member")
        if wanted not in ROLES[kind]:
            return Judgement("bad_payload")
        if user == self.write.user:
            if self.role:
                return Judgement("unchanged")
            if refused := self._allowed("join"):
                return refused
            if wanted != ORDINARY[kind]:
                return Judgement("forbidden")
        else:
            if refused := self._allowed("add"):
                return refused
            if wanted not in self._gives():
                return Judgement("forbidden")
            if self.talk.role(user, self.moment):
                return Judgement("unchanged")
        if kind == "group" and at(self.talk.counts, self.moment, 0) >= self.group_members_max:
            return Judgement("member_limit")
        return Judgement(APPENDED, 0, {"user": user, "role": wanted})

    def _gives(self) -> set[str]:
        return GIVES.get((self.talk.kind, self.role), set())

    def _removed(self) -> Judgement:
        if refused := self._allowed("remove"):
            return refused
        user = self.write.data["user"]
        has = self.talk.role(user, self.moment)
        if not has:
            return Judgement("unchanged")
        return Judgement("forbidden") if user == self.write.user or has not in self._gives() else self._appended()

    def _assigned(self) -> Judgement:
        wanted = self.write.data["role"]
        if wanted not in ROLES[self.talk.kind]:
            return Judgement("bad_payload")
        if refused := self._allowed("assign"):
            return refused
        has = self.talk.role(self.write.data["user"], self.moment)
        if not has:
            return Judgement("bad_target")
        if has == wanted:
            return Judgement("unchanged")
        return self._appended() if {has, wanted} <= self._gives() else Judgement("forbidden")

    def _aimed(self) -> Judgement:
        kind = self.write.type
        delete_any = self._has("delete any")
        right = {"message.edited": "edit", "message.reaction": "react"}.get(kind, "delete")
        if refused := self._allowed(right):
            return refused
        target = self.write.data["target"]
        event = self.truth.events[target - 1] if self.truth.first <= target <= self.moment else None
        if (
            event is None
            or self.truth.talks[event.conversation] is not self.talk
            or event.data
            or event.type == "conversation.closed"
            or not any(
                stay.first <= target and (stay.last is None or target <= stay.last) and stay.joined <= self.moment
                for stay in self.talk.stays.get(self.write.user, ())
            )
        ):
            return Judgement("bad_target")
        deleted = 0 < self.truth.deletions.get(target, 0) <= self.moment
        if (
            kind != "message.reaction"
            and event.sender != self.write.user
            and not (kind == "message.deleted" and delete_any)
        ):
            return Judgement("forbidden")
        if deleted:
            return Judgement("unchanged" if kind == "message.deleted" else "bad_target")
        return self._appended()
