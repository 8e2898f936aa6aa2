"""Admission agrees with the naive model over random histories: every answer, every record, every view of the state.

Users join, leave, are removed and come back; dialogs begin from both sides; counters repeat, jump and run backwards;
expectations fail; some publish as services do, with keys that repeat, and days go by. In between the state is saved,
shed from memory, and the engine restarted.
"""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from engine import schema
from engine.answers import NO_KEY, pack_proposal
from engine.state.saved import SavedState
from engine.state.view import View
from tests.support.sequencer_driver import Driver, answers_of
from tests.support.sequencer_model import SYSTEM, Content, Model

USERS = 7
HOUR_US = 3_600_000_000
PACKED = {
    "conversation.created": schema.Created,
    "conversation.renamed": schema.Renamed,
    "conversation.closed": schema.Closed,
    "member.added": schema.Added,
    "member.removed": schema.Removed,
    "member.left": schema.Left,
    "member.role": schema.Role,
    "message.edited": schema.Edited,
    "message.deleted": schema.Deleted,
    "message.reaction": schema.Reaction,
}


class Actor:
    """Draws proposals, mostly sensible, often not."""

    def __init__(self, random_: random.Random, model: Model) -> None:
        self.random, self.model = random_, model
        self.counters: dict[tuple[int, int], int] = {}

    def counter(self, user: int, device: int) -> int:
        """The next one, or an old, a far or a lost one."""
        draw, last = self.random.random(), self.counters.get((user, device), 0)
        if draw < 0.1 and last:
            return max(1, last - self.random.choice((0, 1, 3, 62, 63, 64, 65, 200)))
        step = 1 if draw < 0.9 else self.random.choice((2, 3, 30, 63, 64, 65, 65536, 65537))
        self.counters[user, device] = last + step if step <= 65536 else last
        return last + step

    def role(self) -> str:
        """Any role, sometimes none or nonsense."""
        return self.random.choice(("owner", "admin", "member", "writer", "follower", "", "king"))

    def conversation(self) -> int:
        """One that exists, or the next that doesn't; or that of the engine's own events."""
        return SYSTEM if self.random.random() < 0.03 else self.random.randint(1, self.model.next_conversation())

    def target(self) -> int:
        """A sequence, rather a new one."""
        last = len(self.model.log)
        return max(1, last + 1 - self.random.choice((0, 1, 2, 3, 5, 8, 20)))

    def draw(self) -> tuple[int, int, int, int, str, Content, bool, int | None]:
        """user, device, counter, target, type, content, person, expected."""
        r = self.random
        user, device = r.randint(1, USERS), r.randint(1, 2)
        counter = self.counter(user, device)
        expected = None
        if r.random() < 0.2:
            expected = r.choice((0, 1, 2, len(self.model.log)))
        other = r.randint(1, USERS)
        kind = r.random()
        if kind < 0.1:
            members = [
                (r.randint(1, USERS), r.choice(("", "member", "admin", "follower", "writer")))
                for _ in range(r.randint(0, 4))
            ]
            kinds = ("group", "group", "channel", "dialog", "party")
            content = {
                "kind": r.choice(kinds),
                "title": r.choice(("", "A", "B")),
                "history": r.random() < 0.5,
                "members": members,
            }
            return user, device, counter, 0, "conversation.created", content, False, expected
        conversation = self.conversation()
        talk = self.model.talks.get(conversation)
        if talk is not None and expected is not None and r.random() < 0.6:
            expected = len(talk.events)
        if kind < 0.3:
            return user, device, counter, other, r.choice(("message", "note")), {}, True, expected
        if kind < 0.6:
            return user, device, counter, conversation, "message", {}, False, expected
        name, content = self.control(user, other)
        return user, device, counter, conversation, name, content, False, expected

    def control(self, user: int, other: int) -> tuple[str, Content]:
        """A control event about somebody or some message."""
        r = self.random
        name = r.choice((*tuple(PACKED)[1:], "member.added", "member.added", "member.removed", "message.deleted"))
        if name == "conversation.renamed":
            return name, {"title": r.choice(("A", "B", "C"))}
        if name == "conversation.closed":
            return (name, {}) if r.random() < 0.15 else ("message", {})
        if name in ("member.added", "member.role"):
            return name, {"user": r.choice((other, other, user)), "role": self.role()}
        if name == "member.left":
            return name, {"user": r.choice((user, user, other))}
        if name == "member.removed":
            return name, {"user": other}
        return name, {"target": self.target()}


def packed(name: str, content: Content) -> bytes:
    """The payload of a proposal."""
    return schema.pack(PACKED[name](**content)) if name in PACKED else b"opaque"


def saved_keys(saved: SavedState) -> list[tuple[int, int, bytes]]:
    """(sequence, time, key) of each row, by engine/STATE_FORMAT.md."""
    with saved.env.begin(db=saved.databases[b"keys"]) as txn:
        return [
            (int.from_bytes(key, "big"), int.from_bytes(value[:8], "little"), value[8:]) for key, value in txn.cursor()
        ]


def check_view(view: View, model: Model) -> None:
    """All that a view can say equals the model."""
    for conversation, talk in model.talks.items():
        seen = view.conversation(conversation)
        assert seen is not None
        assert (seen.kind, seen.title, seen.history, seen.closed, seen.created, seen.member_count) == (
            talk.kind,
            talk.title,
            talk.history,
            talk.closed,
            talk.created,
            len(talk.roles),
        )
        assert view.head(conversation) == (talk.events[-1], len(talk.events)) == (seen.head, seen.conversation_sequence)
        assert view.members(conversation, 0, 100) == sorted(talk.roles.items())
        assert view.members(conversation, 2, 2) == [m for m in sorted(talk.roles.items()) if m[0] > 2][:2]
        for user in range(1, USERS + 1):
            membership = view.membership(user, conversation)
            intervals = tuple(talk.intervals.get(user, []))
            assert (membership.intervals if membership else ()) == intervals
            assert (membership.role if membership else "") == talk.roles.get(user, "")
    assert view.conversation(model.next_conversation()) is None
    for user in range(1, USERS + 1):
        mine = [conversation for conversation, talk in sorted(model.talks.items()) if user in talk.intervals]
        assert view.memberships(user) == [view.membership(user, conversation) for conversation in mine]
        for other in range(1, USERS + 1):
            assert view.dialog(user, other) == model.dialogs.get((min(user, other), max(user, other)))
        for device in (1, 2):
            assert view.last_counter(user, device) == max(model.published.get((user, device), {}), default=0)
    for event in model.log:
        one = (event.conversation, event.sequence)
        assert view.tombstoned_among([one]) == ({one} if event.sequence in model.deleted else set())
    everything = [(event.conversation, event.sequence) for event in model.log]
    assert view.tombstoned_among(everything) == {one for one in everything if one[1] in model.deleted}
    conversations = [*sorted(model.talks, reverse=True), model.next_conversation(), *sorted(model.talks)]
    assert view.heads(conversations) == [view.head(conversation)[0] for conversation in conversations]


@pytest.mark.parametrize("seed", range(12))
def test_answers_and_records_equal_the_model(tmp_path: Path, seed: int) -> None:
    """Goal: admission = model. Method: 600 random proposals with saves, sheds and restarts between them."""
    random_ = random.Random(seed)
    keys_max, hours = random_.choice((4, 12, 1 << 20)), random_.choice((0, 1, 10))
    driver = Driver(
        tmp_path / "state", group_members_max=5, block_events_max=random_.choice((1, 3, 1000)), keys_max=keys_max
    )
    model = Model(group_members_max=5, keys_max=keys_max)
    actor = Actor(random_, model)
    keys = [NO_KEY, NO_KEY, *(random_.randbytes(16) for _ in range(24))]
    statuses = set()
    view = driver.view()
    for step in range(600):
        user, device, counter, target, name, content, person, expected = actor.draw()
        driver.time_us += random_.choice((0, 0, 0, hours * HOUR_US))
        key = random_.choice(keys) if random_.random() < 0.3 else None
        if key is not None:
            device = counter = 0
        proposal = pack_proposal(
            user, device, counter, target, name, packed(name, content), origin=step, person=person, expected=expected,
            key=key,
        )  # fmt: skip
        answers = driver.submit(proposal)
        if key is None:
            expected_answer = model.publish(
                user, device, counter, target, name, content, person=person, expected=expected
            )
        else:
            expected_answer = model.publish_keyed(
                user, key, driver.time_us, target, name, content, person=person, expected=expected
            )
            statuses.add(answers[0].status)
        assert answers_of(answers) == [expected_answer], (seed, step, name, content)
        assert answers[0].origin == step
        assert answers[0].counter == counter
        event = random_.random()
        if event < 0.05:
            driver.save()
        elif event < 0.10:
            driver.shed()
        elif event < 0.12:
            driver.views.clear()
            driver.restart()
            view = driver.view()
        elif event < 0.15:
            check_view(view, model)
    records = driver.records
    assert [
        (r.sequence, r.conversation, r.conversation_sequence, r.previous, r.sender, r.device, r.counter, r.type)
        for r in records
    ] == [
        (e.sequence, e.conversation, e.conversation_sequence, e.previous, e.sender, e.device, e.counter, e.type)
        for e in model.log
    ]
    assert all(a.time <= b.time for a, b in pairwise(records))
    check_view(view, model)
    if hours < 10:  # else nearly every key is too old
        assert statuses >= ({0, 1, 25} if keys_max == 4 and not hours else {0, 1}), statuses
    driver.save()
    assert saved_keys(driver.saved) == [
        (event.sequence, event.time_us, event.key) for event in model.keys.kept(records[-1].time)
    ]
    driver.views.clear()
    check_view(View(driver.saved), model)
    driver.close()


def test_a_batch_keeps_each_devices_order_and_needs_no_luck_with_cold_keys(tmp_path: Path) -> None:
    """Cold and warm proposals of many devices in one batch: each device's events stand in the order of its counters."""
    driver = Driver(tmp_path / "state")
    random_ = random.Random(5)
    counters = dict.fromkeys(range(1, 41), 0)
    for _ in range(30):
        batch = b""
        for _ in range(200):
            user = random_.randint(1, 40)
            counters[user] += 1
            other = random_.randint(41, 60)
            batch += pack_proposal(user, 1, counters[user], other, "message", b"x", person=True)
        assert {answer.status for answer in driver.submit(batch)} == {0}
        if random_.random() < 0.5:
            driver.save()
            driver.shed()
    order: dict[int, list[int]] = {}
    for record in driver.records:
        if record.counter:
            order.setdefault(record.sender, []).append(record.counter)
    assert order == {user: list(range(1, last + 1)) for user, last in counters.items() if last}
    driver.close()


def test_the_same_proposals_give_the_same_bytes(tmp_path: Path) -> None:
    """Determinism: two engines, one that sheds and restarts, one that does neither, write the same blocks."""
    drivers = [Driver(tmp_path / name) for name in ("a", "b")]
    random_ = random.Random(11)
    actor = Actor(random_, Model())
    for step in range(300):
        user, device, counter, target, name, content, person, expected = actor.draw()
        key = random_.randbytes(1) + bytes(14) + b"k" if random_.random() < 0.2 else None
        named = (0, 0) if key is not None else (device, counter)
        proposal = pack_proposal(
            user, *named, target, name, packed(name, content), person=person, expected=expected, key=key
        )
        first, second = (driver.submit(proposal) for driver in drivers)
        assert first == second
        actor.model.publish(user, device, counter, target, name, content, person=person, expected=expected)
        if step % 17 == 0:
            drivers[1].save()
            drivers[1].shed()
        if step % 60 == 59:
            drivers[1].restart()
    assert drivers[0].log.blocks == drivers[1].log.blocks
    for driver in drivers:
        driver.close()
