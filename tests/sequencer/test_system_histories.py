"""Histories in which the engine's own events come among everybody's, rightly and wrongly proposed: admission = model.

Clients try its types and its conversation too. Saves, sheds and restarts lie in between, as in test_admission_model.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine import schema
from engine.answers import pack_proposal
from engine.state.view import View
from engine.subscriptions.definition import Filter, Settings
from tests.sequencer.test_admission_model import USERS, Actor, check_view, packed
from tests.support.sequencer_driver import Driver, answers_of
from tests.support.sequencer_model import APPENDED, SYSTEM, SYSTEM_TYPES, Content, Model

ID_MAX = 2**53 - 1
NOT_ITS_TYPES = ("message", "member.added", "conversation.created", "admin.refused", "subscription.x", "no..", "")
MADE: dict[str, Callable[..., schema.Payload]] = {
    "subscription.created": schema.SubscriptionCreated,
    "subscription.deleted": schema.SubscriptionDeleted,
    "subscription.paused": schema.SubscriptionPaused,
    "subscription.resumed": schema.SubscriptionResumed,
    "subscription.reset": schema.SubscriptionReset,
    "subscription.parked": schema.SubscriptionParked,
    "subscription.replayed": schema.SubscriptionReplayed,
    "subscription.dropped": schema.SubscriptionDropped,
}


class Told(NamedTuple):
    """A proposal of an event of a subscription; `system`: as the engine's own."""

    user: int
    device: int
    counter: int
    target: int
    type: str
    content: Content
    payload: bytes
    expected: int | None = None
    person: bool = False
    system: bool = True

    def submit(self, driver: Driver, origin: int) -> tuple[int, int, int, int]:
        """What admission says."""
        proposal = pack_proposal(
            *self[:5],
            self.payload,
            origin=origin,
            person=self.person,
            expected=self.expected,
            system=self.system,
        )
        (answer,) = answers = driver.submit(proposal)
        assert (answer.origin, answer.counter) == (origin, self.counter)
        return answers_of(answers)[0]

    def judged(self, model: Model) -> tuple[int, int, int, int]:
        """What the model says."""
        if self.system:
            return model.publish_system(*self[:6], expected=self.expected)
        return model.publish(*self[:6], person=self.person, expected=self.expected)


class Teller:
    """Draws such proposals, mostly good ones."""

    def __init__(self, actor: Actor) -> None:
        self.random, self.model, self.actor = actor.random, actor.model, actor

    def draw(self) -> Told:
        """One of the engine's own, or a client's that would be one."""
        r = self.random
        type_name = r.choice(sorted(SYSTEM_TYPES))
        content = self.content(type_name)
        payload = schema.pack(MADE[type_name](**content))
        user = r.randint(1, USERS)
        if r.random() < 0.15:
            device = r.randint(1, 2)
            target = r.choice((0, SYSTEM, self.actor.conversation()))
            type_name = r.choice((type_name, "admin.refused"))
            counter, person = self.actor.counter(user, device), r.random() < 0.3
            return Told(user, device, counter, target, type_name, content, payload, None, person, False)
        told = Told(user, 0, 0, 0, type_name, content, payload, self.expected())
        match r.choice(("user", "device", "counter", "target", "type", *["good"] * 15)):
            case "user":
                return told._replace(user=r.choice((0, ID_MAX + 1)))
            case "device":
                return told._replace(device=1)
            case "counter":
                return told._replace(counter=1)
            case "target":
                return told._replace(target=r.choice((SYSTEM, self.actor.conversation())), person=r.random() < 0.5)
            case "type":
                return told._replace(type=r.choice(NOT_ITS_TYPES))
            case _:
                return told

    def expected(self) -> int | None:
        """Mostly not conditional; else right or wrong."""
        talk = self.model.talks.get(SYSTEM)
        now = len(talk.events) if talk is not None else 0
        return self.random.choice((None, None, None, None, now, now, 0, 1))

    def content(self, type_name: str) -> Content:
        """What such an event says, now and then what none may say."""
        r = self.random
        content: Content = {
            "name": r.choice(("mail", "mail", "mail", "a.b-c_9", "x" * 64, "x" * 65, "", "Mail", "m\n"))
        }
        sequence = r.choice((1, 5, 77, ID_MAX, ID_MAX, 0, ID_MAX + 1))
        more: dict[str, Callable[[], dict[str, Any]]] = {
            "subscription.created": lambda: {
                "kind": r.choice(("ordered", "competing", "competing", "unheard of")),
                "team": r.choice(("", "payments", "payments", "é" * 64, "é" * 65)),
                "filter": Filter(types=("message",), kinds=("group",), senders=(7,), recipient_away=True),
                "start": r.choice((0, 5, sequence)),
                "settings": Settings(ack_timeout_s=r.choice((30, 1.5)), deliveries_max=3),
            },
            "subscription.reset": lambda: {"position": r.choice((0, 5, sequence))},
            "subscription.parked": lambda: {
                "sequence": sequence,
                "deliveries": r.randint(0, 20),
                "reason": r.choice(("", "why", "é" * 1_024, "x" * 1_025)),
            },
            "subscription.replayed": lambda: {"sequences": r.choice(([], [sequence], [3, 4, 9], [1] * 5_000))},
            "subscription.dropped": lambda: {"sequences": r.choice(([sequence], [3, 4, 9], [1] * 5_001))},
        }
        return content | more.get(type_name, dict)()


@pytest.mark.parametrize("seed", range(8))
def test_answers_records_and_state_equal_the_model(tmp_path: Path, seed: int) -> None:
    """Goal: admission = model, and a fold of its blocks too. Method: 500 proposals, a third of subscriptions."""
    random_ = random.Random(seed)
    driver = Driver(tmp_path / "state", group_members_max=5, block_events_max=random_.choice((1, 2, 3, 1000)))
    model = Model(group_members_max=5)
    actor = Actor(random_, model)
    teller = Teller(actor)
    view = driver.view()
    statuses = set()
    for step in range(500):
        if random_.random() < 0.35:
            told = teller.draw()
            found = told.submit(driver, step)
            assert found == told.judged(model), (seed, step, told)
            statuses.add(found[0])
        else:
            user, device, counter, target, name, content, person, expected = actor.draw()
            proposal = pack_proposal(
                user, device, counter, target, name, packed(name, content), person=person, expected=expected
            )
            judged = model.publish(user, device, counter, target, name, content, person=person, expected=expected)
            assert answers_of(driver.submit(proposal)) == [judged], (seed, step, name, content)
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
    assert APPENDED in statuses and len(statuses) > 6, (seed, statuses)
    for record, event_ in zip(driver.records, model.log, strict=True):
        assert record[:4] == (event_.sequence, event_.conversation, event_.conversation_sequence, event_.previous), seed
        assert (record.sender, record.device, record.counter) == (event_.sender, event_.device, event_.counter), seed
        if record.conversation == SYSTEM:
            assert (record.device, record.counter) == (0, 0)
            assert schema.as_map(schema.unpack(record.type, record.payload)) == event_.content, seed
    check_view(view, model)
    driver.save()
    driver.views.clear()
    check_view(View(driver.saved), model)
    driver.close()


def test_the_same_proposals_give_the_same_bytes(tmp_path: Path) -> None:
    """Determinism: two engines, one that sheds and restarts, one that does neither, write the same blocks."""
    drivers = [Driver(tmp_path / name) for name in ("a", "b")]
    random_ = random.Random(11)
    model = Model()
    actor = Actor(random_, model)
    teller = Teller(actor)
    for step in range(200):
        told = teller.draw()
        first, second = (told.submit(driver, step) for driver in drivers)
        assert first == second == told.judged(model)
        if step % 7 == 0:
            drivers[1].save()
            drivers[1].shed()
        if step % 40 == 39:
            drivers[1].restart()
    assert drivers[0].log.blocks == drivers[1].log.blocks
    for driver in drivers:
        driver.close()


def test_one_batch_of_many_services(tmp_path: Path) -> None:
    """Cold: all of it waits for the conversation's row, and each service's events stay in order."""
    driver = Driver(tmp_path / "state")
    random_ = random.Random(3)
    told: dict[int, list[int]] = {}
    for turn in range(20):
        batch = []
        for number in range(turn * 50, turn * 50 + 50):
            user = random_.randint(1, 9)
            told.setdefault(user, []).append(number)
            reset = schema.pack(schema.SubscriptionReset("mail", number))
            batch.append(pack_proposal(user, 0, 0, 0, "subscription.reset", reset, origin=number, system=True))
        assert {answer.status for answer in driver.submit(b"".join(batch))} == {APPENDED}
        driver.save()
        driver.shed()
    found: dict[int, list[int]] = {}
    for record in driver.records[1:]:
        payload = schema.unpack(record.type, record.payload)
        assert isinstance(payload, schema.SubscriptionReset)
        found.setdefault(record.sender, []).append(payload.position)
    assert found == told
    driver.close()
