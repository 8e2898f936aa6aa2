"""The services of the simulation: who publishes without a device, by keys, straight to the sequencer.

Their writes are of the same kinds as those of people (workload.py). What has no answer is sent again, also after a
crash; now and then what was answered long ago is sent once more, and must be answered by the first receipt, or, when
its day is over, be another event. verdicts.py judges each stored event; the answers are judged here.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgspec

from bench.simulation.device import Command
from bench.simulation.judge import Write, judge
from bench.simulation.node import SERVICE_ORIGIN, Node
from bench.simulation.truth import DAY_US, Wrong
from bench.simulation.verdicts import Verdicts
from bench.simulation.workload import Author, Workload
from engine import errors
from engine.answers import Answer, key_of, pack_proposal

REMEMBERED = 30  # commands that may be sent once more
IN_FLIGHT_MAX = 20
AGAIN_MAX = 4
HOUR_US = 3_600_000_000


class Services:
    """All of a run. A command's body is its proposal without an origin."""

    def __init__(self, draw: random.Random, work: Workload, verdicts: Verdicts) -> None:
        self.draw, self.work, self.verdicts = draw, work, verdicts
        self.authors = [Author(user) for user in range(1, draw.randrange(1, work.users) + 1)]
        self.in_flight: dict[int, Command] = {}  # by origin
        self.again: list[Command] = []
        self.done: deque[Command] = deque(maxlen=REMEMBERED)
        self._texts = 0
        self._origin = SERVICE_ORIGIN

    # What they do.

    def act(self, node: Node) -> str:
        """One of them publishes."""
        draw = self.draw
        if len(self.in_flight) >= IN_FLIGHT_MAX:
            return "services wait"
        roll = draw.random()
        if self.again and roll < 0.5:
            command = self.again.pop(draw.randrange(len(self.again)))
        elif self.done and roll < 0.7:
            command = draw.choice(self.done)
        else:
            command = self._new()
        self._send(node, command)
        return f"a service writes {command.write.type} {command.write.key.hex()[:8]} ({command.sends})"

    def _new(self) -> Command:
        author, self._texts = self.draw.choice(self.authors), self._texts + 1
        key = key_of(author.user, f"text {self._texts}")
        write = Write(author.user, 0, 0, key=key, **self.work.fields(author))
        return Command(write, {})

    def _send(self, node: Node, command: Command) -> None:
        self._origin += 1
        write, verdicts = command.write, self.verdicts
        if command.moment < 0:
            command.moment = verdicts.truth.end
        command.sends += 1
        verdicts.keyed[write.key] = command
        proposal = pack_proposal(
            write.user,
            0,
            0,
            write.person or write.conversation,
            write.type,
            packed(write.data),
            origin=self._origin,
            person=bool(write.person),
            expected=write.expected,
            key=write.key,
        )
        if node.engine.sequencer.submit(proposal):
            self.in_flight[self._origin] = command
        elif verdicts.rules.tight_intake:
            self._retry(command)
        else:
            raise Wrong(f"the intake is full without a reason: {write}")

    def _retry(self, command: Command) -> None:
        if all(one is not command for one in self.again):
            self.again.append(command)

    def settle(self, node: Node) -> bool:
        """What has no answer is sent again, some at a time; whether any was."""
        sent = self.again[:AGAIN_MAX]
        del self.again[:AGAIN_MAX]
        for command in sent:
            self._send(node, command)
        return bool(sent)

    def lost(self) -> None:
        """The node is gone, and all answers with it."""
        for command in self.in_flight.values():
            self._retry(command)
        self.in_flight.clear()

    def quiet(self) -> None:
        """Nothing moves any more: there is no publish without an answer."""
        if self.in_flight or self.again:
            waiting = [command.write for command in (*self.in_flight.values(), *self.again)]
            raise Wrong(f"services have no answer to {waiting}")

    # What they are answered.

    def take(self, node: Node, now_us: int) -> None:
        """All answers that have come."""
        while node.service_answers:
            answer = node.service_answers.popleft()
            command = self.in_flight.pop(answer.origin, None)
            if command is None:
                raise Wrong(f"an answer that no service waits for: {answer}")
            self._judge(command, answer, now_us)

    def _judge(self, command: Command, answer: Answer, now_us: int) -> None:
        verdicts, name = self.verdicts, errors.STATUSES[answer.status].name
        verdicts.count(f"service {name}")
        if answer.status in (errors.APPENDED, errors.REPEAT):
            self._placed(command, answer)
        elif answer.status in (errors.UNAVAILABLE, errors.OVERLOADED):
            is_fenced = verdicts.fenced or verdicts.counts.get("fences", 0)
            if not (is_fenced if answer.status == errors.UNAVAILABLE else verdicts.rules.tight_intake):
                raise Wrong(f"{command.write} is answered by {answer} without a reason")
            self._retry(command)
            return
        else:
            self._refused(command, answer, name, now_us)
        self.done.append(command)

    def _placed(self, command: Command, answer: Answer) -> None:
        """A place that holds an event of this key; a repeat's first receipt."""
        truth = self.verdicts.truth
        stored = [event for event in truth.keys.get(command.write.key, ()) if event.sequence == answer.sequence]
        place = (answer.conversation, answer.sequence, answer.conversation_sequence, answer.time)
        places = [(event.conversation, event.sequence, event.conversation_sequence, event.time) for event in stored]
        if stored and answer.sequence < truth.first:  # the log can't say more than where it was
            places.append((0, answer.sequence, 0, 0))
        if place not in places:
            raise Wrong(f"{command.write} is answered by {answer}, but the log holds {stored}")
        if answer.status == errors.REPEAT and command.sends < 2:
            raise Wrong(f"{command.write} is called a repeat, it was sent once")

    def _refused(self, command: Command, answer: Answer, name: str, now_us: int) -> None:
        truth, found = self.verdicts.truth, set()
        sure_us = DAY_US - HOUR_US  # the clock may have gone back since
        known = [event.sequence for event in truth.keys.get(command.write.key, ()) if now_us - event.time <= sure_us]
        first = min(known, default=truth.end + 1)  # from there on it had to be a repeat
        for moment in range(min(first - 1, truth.end), command.moment - 1, -1):
            judgement = judge(truth, command.write, moment, self.verdicts.rules.group_members_max)
            found.add(judgement.status)
            if judgement.status == name and judgement.actual == answer.conversation_sequence:
                return
        raise Wrong(f"{command.write} is answered by {answer}; the model says {sorted(found)}, known since {known}")


def packed(data: Any) -> bytes:
    """The payload of a proposal: bytes as they are, else the map of the type's schema."""
    if isinstance(data, bytes):
        return data
    if "members" in data:
        data = {**data, "members": [[user, ""] for user in data["members"]]}
    return msgspec.msgpack.encode(data)
