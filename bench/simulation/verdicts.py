"""What each client must have got: every push is held against the naive model the moment the client has read it.

A session is owed, in ascending order and once, each event after its start that its user may see, except those inside
a gap that it was told. So the next event of a session is known before it comes: an event that is skipped, doubled,
forbidden or changed is found when the next frame is read, and one that never comes at the next quiet moment.

What can't be known is allowed for in one way only: the model may choose, for an answer, any moment of the log between
the question and the answer.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from bench.simulation.device import JSON, Command, Device, Session
from bench.simulation.judge import APPENDED, judge
from bench.simulation.questions import Question, check_answer
from bench.simulation.truth import Event, Truth, Wrong

RETRYABLE = ("unavailable", "overloaded", "too_many_unanswered", "rate_limited")
UNANSWERED_MAX = 64
MAY_CLOSE = (4500, 1001)  # replaced; the end of a process


class Told(NamedTuple):
    """A gap that the session was told."""

    conversation: int
    after: int
    before: int


class Rules(NamedTuple):
    """Of the run: limits that show in answers."""

    group_members_max: int
    resume_events_max: int
    resume_hops_max: int
    gap_newest_events: int
    tight_intake: bool


class Watch:
    """One session as the model sees it."""

    def __init__(self, session: Session, moment: int, fences: int) -> None:
        self.session = session
        self.moment = moment  # where the worker stood when it connected
        self.fences = fences
        self.start = self.cursor = self.baseline = 0
        self.reset_to: int | None = None
        self.resumes = bool(session.hello.get("positions"))
        self.gaps: list[Told] = []
        self.questions: dict[int, Question] = {}
        self.in_flight: set[int] = set()  # counters sent here and not answered here


class Verdicts:
    """The model's side of every connection; `counts` says what was seen, so that a run that saw nothing is noticed."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.truth = Truth()
        self.epochs: list[tuple[int, int]] = [(1, 1)]
        self.fenced = False
        self.counts: dict[str, int] = {}
        self.watches: dict[Session, Watch] = {}
        self.writes: dict[tuple[int, int, int], Command] = {}  # (user, device, counter): as last sent
        self.keyed: dict[bytes, Command] = {}  # of services

    def replaced(self, end: int, first: int, epochs: list[tuple[int, int]]) -> None:
        """The log's history was replaced by that of a copy which held `first` to `end`."""
        self.truth = self.truth.cut(end, first)
        self.epochs = epochs
        for command in [*self.writes.values(), *self.keyed.values()]:
            command.moment = min(command.moment, end)

    def count(self, name: str) -> None:
        """One more of that."""
        self.counts[name] = self.counts.get(name, 0) + 1

    # The log itself.

    def take_block(self, block: bytes) -> None:
        """A block that is in the log: each event is one that somebody asked for, and that could be had."""
        for event in self.truth.take(block):
            if event.is_making:
                continue  # the making of a dialog: judged with the message that follows it
            named = (event.sender, event.device, event.counter)
            command = self.keyed.get(event.key) if event.key else self.writes.get(named)
            if command is None:
                raise Wrong(f"sequence {event.sequence} is of counter {event.counter}, which nobody has sent: {event}")
            before = event.sequence - 1
            made = self.truth.events[before - 1] if before and self.truth.events[before - 1].is_making else None
            if made is not None and made.conversation == event.conversation:
                before -= 1
            judgement = judge(self.truth, command.write, before, self.rules.group_members_max)
            stored: Any = event.data if isinstance(judgement.data, dict) else event.payload
            if judgement.status != APPENDED or stored != judgement.data or event.type != command.write.type:
                raise Wrong(
                    f"sequence {event.sequence} is stored as {event.type} {stored!r}; of {command.write} the model says"
                    f" {judgement}"
                )
            self.count("events")

    # Sessions.

    def opened(self, session: Session, routed: int) -> None:
        """A connection begins, while the worker stands at `routed`."""
        self.watches[session] = Watch(session, routed, self.counts.get("fences", 0))

    def closed(self, session: Session) -> None:
        """It has ended."""
        self.watches.pop(session, None)

    def sent(self, session: Session, command: Command) -> None:
        """A write goes out (again)."""
        if command.moment < 0:
            command.moment = self.truth.end
        command.sends += 1
        write = command.write
        self.writes[write.user, write.device, write.counter] = command
        watch = self.watches[session]
        watch.in_flight.add(write.counter)

    def asked(self, session: Session, question: Question) -> int:
        """A question goes out; its id."""
        watch = self.watches[session]
        session.number += 1
        watch.questions[session.number] = question
        return session.number

    def take(self, session: Session, name: str, body: Any) -> None:
        """One push, as the client has read it."""
        watch = self.watches[session]
        self.count(name)
        handler = getattr(self, f"_{name}", None)
        if handler is not None:
            handler(watch, body)

    # Pushes.

    def _welcome(self, watch: Watch, body: dict[str, Any]) -> None:
        device, truth = watch.session.device, self.truth
        stands = body["shards"][0]
        if (body["user"], body["device"], stands["epoch"]) != (device.user, device.device, self.epochs[-1][0]):
            raise Wrong(f"{device.name} is welcomed by {body}")
        if not stands["sequence"] <= truth.end:
            raise Wrong(f"{device.name}: the welcome stands at {stands['sequence']}, the log at {truth.end}")
        watch.baseline = stands["sequence"]
        watch.session.phase = "resuming"
        tops = [value for _, value in truth.tops.get((device.user, device.device), ())]
        lowest = max(
            [value for since, value in truth.tops.get((device.user, device.device), ()) if since <= watch.baseline],
            default=0,
        )
        if body["counter"] not in [0, *tops] or body["counter"] < lowest:
            raise Wrong(f"{device.name}: the welcome says counter {body['counter']}, stored are {tops[-3:]}")
        if not watch.resumes:
            watch.start = watch.cursor = watch.baseline
            return
        position = watch.session.hello["positions"][0]
        watch.start, must_reset, may_reset = self._worth(position["epoch"], position["sequence"], watch)
        watch.cursor = watch.start
        watch.reset_to = -1 if must_reset else -2 if may_reset else None

    def _worth(self, epoch: int, sequence: int, watch: Watch) -> tuple[int, bool, bool]:
        """(start, whether a reset must come, whether it may come) for a position."""
        if all(epoch != known for known, _ in self.epochs):
            return 0, True, False
        replaced = [first - 1 for known, first in self.epochs if known > epoch]
        if replaced and sequence > min(replaced):
            return min(replaced), True, False
        if sequence > watch.moment:
            return sequence, sequence > self.truth.end, True  # it depends on where the log stood at the hello
        return sequence, False, False

    def _reset(self, watch: Watch, body: dict[str, Any]) -> None:
        name, sequence = watch.session.device.name, body["sequence"]
        if watch.reset_to is None:
            raise Wrong(f"{name}: a reset to {body} for the good position {watch.session.hello['positions']}")
        if body["epoch"] != self.epochs[-1][0]:
            raise Wrong(f"{name}: a reset to epoch {body['epoch']}")
        position = watch.session.hello["positions"][0]
        start, _, _ = self._worth(position["epoch"], position["sequence"], watch)
        ahead = start == position["sequence"]
        if sequence != start and not (ahead and watch.moment <= sequence <= self.truth.end):
            raise Wrong(
                f"{name}: a reset to {sequence} for {position}, expected {start} (the log ends at {self.truth.end})"
            )
        watch.start = watch.cursor = sequence
        watch.reset_to = None
        watch.session.device.position = (body["epoch"], sequence)

    def _check_reset(self, watch: Watch) -> None:
        """Anything that follows the welcome shows that no reset comes."""
        if watch.reset_to == -1:
            raise Wrong(f"{watch.session.device.name}: no reset for {watch.session.hello['positions']}")
        watch.reset_to = None

    def _event(self, watch: Watch, body: Any) -> None:
        device = watch.session.device
        sequence = int.from_bytes(body[2:10]) if isinstance(body, bytes) else body["sequence"]
        self._check_reset(watch)
        if watch.session.phase not in ("resuming", "live"):
            raise Wrong(f"{device.name}: event {sequence} in the phase {watch.session.phase}")
        if not 0 < sequence <= self.truth.end:
            raise Wrong(f"{device.name}: event {sequence}, but the log ends at {self.truth.end}")
        event = self.truth.events[sequence - 1]
        self.same(device, event, body, watch.baseline if watch.resumes else 0)
        if sequence <= watch.cursor:
            raise Wrong(f"{device.name}: event {sequence} comes after {watch.cursor}: {event}")
        if not self.truth.sees(device.user, event):
            raise Wrong(f"{device.name}: event {sequence} is not for user {device.user}: {event}")
        if _covered(watch, event):
            raise Wrong(f"{device.name}: event {sequence} lies in a gap that it was told: {watch.gaps}")
        self._nothing_missed(watch, sequence - 1)
        watch.cursor = sequence
        device.position = (self.epochs[-1][0], sequence)

    def same(self, device: Device, event: Event, body: Any, tombstone_before: int) -> None:
        """The bytes are those of the event, or of its tombstone. Must be the tombstone if it was deleted by then."""
        target = event.data.get("target") if event.type == "message.edited" else event.sequence
        deleted = self.truth.deletions.get(target or 0, 0) if not event.data or target != event.sequence else 0
        forms = [event._replace(type="message.tombstone", payload=b"", data={}, key=b"")] if deleted else []
        if not 0 < deleted <= tombstone_before or event.sequence > tombstone_before:
            forms.append(event)
        else:
            self.count("tombstones that had to be")
        if device.encoding == JSON:
            fits = {k: v for k, v in body.items() if k != "op"} in [as_json(form) for form in forms]
        else:
            fits = bytes(body) in [as_record(form) for form in forms]
        if not fits:
            raise Wrong(f"{device.name}: event {event.sequence} came as {body!r}, expected {forms}")

    def _nothing_missed(self, watch: Watch, upto: int) -> None:
        device = watch.session.device
        for event in self.truth.events[watch.cursor : upto]:
            if self.truth.owed(device.user, event, watch.baseline) and not _covered(watch, event):
                raise Wrong(
                    f"{device.name}: event {event.sequence} was skipped; it stands at {watch.cursor},"
                    f" began at {watch.start}, welcome {watch.baseline}, gaps {watch.gaps}: {event}"
                )

    def _gap(self, watch: Watch, body: dict[str, Any]) -> None:
        self._check_reset(watch)
        device, told = watch.session.device, Told(body["conversation"], body["after"], body["before"])
        talk = self.truth.talks.get(told.conversation)
        if talk is None or told.after < watch.start or told.before > self.truth.end + 1:
            raise Wrong(f"{device.name}: the gap {told} can't be, it began at {watch.start}")
        small = min(self.rules.resume_events_max, self.rules.resume_hops_max)
        known = [self.truth.talks[number] for number in self.truth.talks_of.get(device.user, ())]
        trimmed = [event for event in talk.events if told.after < event.sequence < self.truth.first]
        if trimmed:
            self.count("gaps over what was trimmed")
        elif sum(sum(event.sequence > told.after for event in one.events) for one in known) <= small:
            raise Wrong(f"{device.name}: the gap {told}, though not even {small} events were missed")
        inside = [event for event in talk.events if told.after < event.sequence < told.before]
        kept = [event for event in inside if event.sequence >= self.truth.first]
        visible = [event for event in reversed(kept) if talk.sees(device.user, event)]
        newest = body["newest"]
        if len(newest) > min(self.rules.gap_newest_events, len(visible)):
            raise Wrong(f"{device.name}: the gap {told} brings {len(newest)} events of {len(visible)}")
        for event, one in zip(visible, newest, strict=False):
            self.same(device, event, raw(device, one), 0)
        last = sequence_of(newest[-1]) if newest else told.before
        if body["next"] is None and len(newest) < len(visible):
            raise Wrong(
                f"{device.name}: the gap {told} says that {len(newest)} events are all, there are {len(visible)}"
            )
        if body["next"] not in (None, last):
            raise Wrong(f"{device.name}: the gap {told} goes on at {body['next']}, its last event is {last}")
        watch.gaps.append(told)

    def _live(self, watch: Watch, body: dict[str, Any]) -> None:
        self._check_reset(watch)
        device, position = watch.session.device, body["positions"][0]
        if watch.session.phase != "resuming":
            raise Wrong(f"{device.name} is live twice")
        if position["epoch"] != self.epochs[-1][0] or not watch.cursor <= position["sequence"] <= self.truth.end:
            raise Wrong(f"{device.name}: live at {position}, it stands at {watch.cursor}, the log at {self.truth.end}")
        self._nothing_missed(watch, position["sequence"])
        watch.session.phase = "live"
        watch.cursor = position["sequence"]
        device.position = (position["epoch"], position["sequence"])

    def _receipt(self, watch: Watch, body: dict[str, Any]) -> None:
        device, counter, status = watch.session.device, body["counter"], body["status"]
        command = self.writes.get((device.user, device.device, counter))
        if command is None or counter not in watch.in_flight:
            raise Wrong(f"{device.name}: a receipt for {counter}, which was not sent here: {body}")
        watch.in_flight.discard(counter)
        self.count(f"receipt {status}")
        stored = self.truth.counters.get((device.user, device.device), {}).get(counter, 0)
        if status in (APPENDED, "repeat"):
            event = self.truth.events[stored - 1] if stored else None
            place = (body["conversation"], body["sequence"], body["conversation_sequence"], body["time"])
            places = [] if event is None else [(event.conversation, stored, event.conversation_sequence, event.time)]
            if stored < self.truth.first:  # the log can't say more than where it was
                places.append((0, stored, 0, 0))
            if place not in places:
                raise Wrong(f"{device.name}: the receipt {body}, but the log holds {event}")
            if status == "repeat" and command.sends < 2:
                raise Wrong(f"{device.name}: {counter} is called a repeat, it was sent once")
        elif status in RETRYABLE:
            self._may_retry(watch, status, body)
            if counter not in device.again:
                device.again.append(counter)
            return
        else:
            self._refused(command, body)
        device.commands.pop(counter, None)

    def _may_retry(self, watch: Watch, status: str, body: dict[str, Any]) -> None:
        fine = {
            "unavailable": self.fenced or self.counts.get("fences", 0) > watch.fences,
            "overloaded": self.rules.tight_intake,
            "too_many_unanswered": len(watch.in_flight) >= UNANSWERED_MAX,
        }
        if not fine.get(status, False):
            raise Wrong(f"{watch.session.device.name}: {body} without a reason")

    def _refused(self, command: Command, body: dict[str, Any]) -> None:
        moments = range(command.moment, self.truth.end + 1)
        found = set()
        for moment in reversed(moments):
            judgement = judge(self.truth, command.write, moment, self.rules.group_members_max)
            found.add(judgement.status)
            if judgement.status == body["status"] and judgement.actual == body["conversation_sequence"]:
                return
        raise Wrong(f"{command.write} is answered by {body}; the model says {sorted(found)} between {moments}")

    def _error(self, watch: Watch, body: dict[str, Any]) -> None:
        question = watch.questions.pop(body.get("id", 0), None)
        if question is None:
            if "id" in body or body["code"] not in ("unknown_conversation", "bad_cursor"):  # of a mark
                raise Wrong(f"{watch.session.device.name}: the error {body}")
            return
        if body["code"] == "too_many_jobs" and question.op == "history":
            return
        check_answer(self, watch.session.device, question, body["code"])

    def _answer(self, watch: Watch, body: dict[str, Any]) -> None:
        question = watch.questions.pop(body["id"], None)
        if question is None:
            raise Wrong(f"{watch.session.device.name}: an answer that nobody asked for: {body}")
        check_answer(self, watch.session.device, question, body)

    _history = _members = _conversations = _answer

    def _typing(self, watch: Watch, body: dict[str, Any]) -> None:
        device, talk = watch.session.device, self.truth.talks.get(body["conversation"])
        if talk is None or talk.kind == "channel" or device.user not in talk.stays:
            raise Wrong(f"{device.name}: a signal of a conversation that it has never been in: {body}")

    _presence = _typing

    def _cursor(self, watch: Watch, body: dict[str, Any]) -> None:
        device, talk = watch.session.device, self.truth.talks.get(body["conversation"])
        if talk is None or device.user not in talk.stays or (talk.kind == "channel" and body["user"] != device.user):
            raise Wrong(f"{device.name}: a mark that it may not know: {body}")
        if not body["read"] <= body["delivered"] <= len(talk.events):
            raise Wrong(f"{device.name}: the mark {body}, but there are {len(talk.events)} events")

    def _close(self, watch: Watch, reason: str) -> None:
        code = watch.session.close_code
        if code not in MAY_CLOSE:
            raise Wrong(f"{watch.session.device.name} is closed with {code} {reason!r}")

    # Quiet moments.

    def quiet(self, session: Session) -> None:
        """Nothing moves any more: the session has all that it is owed, and every answer."""
        watch = self.watches[session]
        name = session.device.name
        if session.phase != "live":
            raise Wrong(f"{name} is still {session.phase} when nothing moves any more")
        self._nothing_missed(watch, self.truth.end)
        if watch.in_flight or watch.questions:
            raise Wrong(f"{name} has no answer to the writes {watch.in_flight} and the questions {watch.questions}")


def _covered(watch: Watch, event: Event) -> bool:
    return any(gap.conversation == event.conversation and gap.after < event.sequence < gap.before for gap in watch.gaps)


def raw(device: Device, body: Any) -> Any:
    """An event inside a page, in the form that a pushed one has."""
    return body if device.encoding == JSON else as_fields(body)


def sequence_of(body: Any) -> int:
    """Of an event inside a page."""
    return int(body["sequence"] if isinstance(body, dict) else body[0])


def as_fields(fields: list[Any]) -> bytes:
    """The stored bytes of a record that was decoded on the way."""
    key = b"".join(fields[10:])
    out = bytearray(b"\x9b" if key else b"\x9a")
    for number in fields[:8]:
        out += b"\xcf" + number.to_bytes(8)
    name = fields[8].encode()
    out += b"\xd9" + bytes([len(name)]) + name + b"\xc6" + len(fields[9]).to_bytes(4) + fields[9]
    return bytes(out + (b"\xc4\x10" + key if key else b""))


def as_record(event: Event) -> bytes:
    """The stored bytes of an event."""
    return as_fields([*event[:10], event.key])


def as_json(event: Event) -> dict[str, Any]:
    """The JSON body of an event."""
    body: dict[str, Any] = dict(zip(Event._fields[:9], event[:9], strict=True))
    if event.data or event.type == "conversation.closed":
        body["data"] = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in event.data.items()}
    else:
        body["payload"] = base64.b64encode(event.payload).decode()
    return body
