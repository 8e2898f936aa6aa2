"""Publishes of services: a repeat is known by its key, across saves, restarts and a day, and by nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors, schema
from engine.answers import NO_KEY, Answer, key_of, pack_proposal, refuse_batch
from engine.errors import BadArgument
from engine.state.keys import KEEP_US
from ext.record import record_key
from tests.support.sequencer_driver import Driver, records_of

SERVICE = 7
GROUP = schema.pack(schema.Created("group", "G", False, [(2, "")]))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """Admission over a log in memory."""
    made = Driver(tmp_path / "state")
    yield made
    made.close()


def said(key: bytes, payload: bytes = b"x", *, person: int = 2, user: int = SERVICE) -> bytes:
    """A message of a service to a person."""
    return pack_proposal(user, 0, 0, person, "message", payload, person=True, key=key, origin=5)


def only(answers: list[Answer]) -> Answer:
    """The one answer."""
    assert len(answers) == 1
    return answers[0]


def where(answer: Answer) -> tuple[int, int, int, int]:
    """Of the event."""
    return answer.conversation, answer.sequence, answer.conversation_sequence, answer.time


def test_a_repeat_has_the_first_receipt_and_appends_nothing(driver: Driver) -> None:
    """P3, before anything else is judged: another payload, type, target or expectation makes it no other publish."""
    key = key_of(SERVICE, "order 7")
    first = only(driver.submit(said(key)))
    assert (first.status, first.sequence, first.counter, first.origin) == (errors.APPENDED, 2, 0, 5)
    record = driver.records[-1]
    assert (record.sender, record.device, record.counter) == (SERVICE, 0, 0)
    assert [record_key(data) for data in records_of(driver.log.blocks[0])] == [b"", key]
    others = [
        said(key, b"another"),
        said(key, person=SERVICE),  # to oneself
        pack_proposal(SERVICE, 0, 0, 99, "no such type!", b"x" * 70_000, key=key),
        pack_proposal(SERVICE, 0, 0, 0, schema.CREATED, GROUP, key=key),
    ]
    for step in ("at once", "saved", "shed", "restarted", "in one batch"):
        if step == "saved":
            driver.save()
        elif step == "shed":
            driver.shed()
        elif step == "restarted":
            driver.restart()
        for other in others if step != "in one batch" else [b"".join(others)]:
            for answer in driver.submit(other):
                assert (answer.status, where(answer)) == (errors.REPEAT, where(first)), step
    assert len(driver.records) == 2


def test_a_conversation_is_made_once(driver: Driver) -> None:
    """Control events, which Python decides, keep their key too."""
    create = pack_proposal(SERVICE, 0, 0, 0, schema.CREATED, GROUP, key=key_of(SERVICE, "group"))
    first = only(driver.submit(create))
    assert (first.status, first.conversation, first.sequence) == (errors.APPENDED, 1, 1)
    add = pack_proposal(SERVICE, 0, 0, 1, schema.ADDED, schema.pack(schema.Added(3)), key=key_of(SERVICE, "add"))
    added = only(driver.submit(add))
    assert (added.status, added.sequence) == (errors.APPENDED, 2)
    for _ in range(2):
        for proposal, answered in ((create, first), (add, added)):
            again = only(driver.submit(proposal))
            assert (again.status, where(again)) == (errors.REPEAT, where(answered))
        driver.restart()
    assert [record_key(data) for block in driver.log.blocks for data in records_of(block)] == [
        key_of(SERVICE, "group"),
        key_of(SERVICE, "add"),
    ]


def test_a_refused_publish_leaves_its_key_free(driver: Driver) -> None:
    """As a refused counter may be used again."""
    key = key_of(SERVICE, "later")
    refused = only(driver.submit(pack_proposal(SERVICE, 0, 0, 1, "message", b"x", key=key)))
    assert refused.status == errors.UNKNOWN_CONVERSATION
    assert only(driver.submit(said(key))).status == errors.APPENDED
    assert only(driver.submit(said(key))).status == errors.REPEAT


def test_without_a_key_each_is_another(driver: Driver) -> None:
    """A key of zeros is none: the record has ten fields, nothing is remembered."""
    for sequence in (2, 3, 4):
        assert only(driver.submit(said(NO_KEY))).sequence == sequence
    assert {record_key(data) for block in driver.log.blocks for data in records_of(block)} == {b""}
    assert driver.admitter.overlay.keys is not None
    assert len(driver.admitter.overlay.keys) == 0


def test_two_services_have_different_keys_for_one_text() -> None:
    """Whoever guesses the text of another's key is told nothing about it."""
    assert key_of(1, "order 7").hex() == "ce1fd1180166f517c96f8d2656cb1e14"
    assert len({key_of(user, text) for user in (1, 2) for text in ("a", "b", "")}) == 6


def test_a_key_is_known_for_a_day_by_the_time_of_events(driver: Driver) -> None:
    """At least 24 hours; then it is another publish, whether the table was in memory, saved or folded again."""
    key = key_of(SERVICE, "daily")
    began = only(driver.submit(said(key)))
    driver.time_us = began.time + KEEP_US - 1
    assert only(driver.submit(said(key))).sequence == began.sequence
    driver.restart()
    driver.time_us = began.time + KEEP_US - 1
    assert only(driver.submit(said(key))).sequence == began.sequence
    assert driver.time_us == began.time + KEEP_US
    driver.save()
    second = only(driver.submit(said(key)))
    assert (second.status, second.sequence) == (errors.APPENDED, 3)
    driver.restart()
    again = only(driver.submit(said(key)))
    assert (again.status, where(again)) == (errors.REPEAT, where(second))


def test_a_full_table_refuses_new_keys_and_says_for_how_long(tmp_path: Path) -> None:
    """Repeats, publishes without a key and those of devices go on; the oldest makes room when its day is over."""
    driver = Driver(tmp_path / "state", keys_max=3)
    firsts = []
    for number in range(3):
        firsts.append(only(driver.submit(said(key_of(SERVICE, str(number))))))
        driver.time_us += 1_000_000
    for _ in range(2):
        refused = only(driver.submit(said(key_of(SERVICE, "3"))))
        assert (refused.status, refused.sequence) == (errors.OVERLOADED, 0)
        assert refused.extra == (firsts[0].time + KEEP_US - driver.time_us) // 1_000 + 1
        assert only(driver.submit(said(key_of(SERVICE, "1")))).sequence == firsts[1].sequence
        assert only(driver.submit(said(NO_KEY))).status == errors.APPENDED
        own = pack_proposal(3, 1, 1 + len(driver.records), 2, "message", b"x", person=True)
        assert only(driver.submit(own)).status == errors.APPENDED
        driver.restart()
    driver.time_us += refused.extra * 1_000
    assert only(driver.submit(said(key_of(SERVICE, "3")))).status == errors.APPENDED
    assert only(driver.submit(said(key_of(SERVICE, "0")))).status == errors.OVERLOADED
    driver.close()


def test_services_wait_for_cold_rows_in_order(driver: Driver) -> None:
    """One batch of a service, whose first one's rows aren't in memory: none passes it, and a repeat waits too."""
    assert only(driver.submit(said(NO_KEY, b"0"))).sequence == 2
    driver.save()
    driver.restart()
    keys = [key_of(SERVICE, str(number)) for number in range(3)]
    batch = b"".join(said(key, key) for key in (keys[0], keys[1], keys[0], keys[2]))
    answers = driver.submit(batch)
    assert [(answer.status, answer.sequence) for answer in answers] == [(0, 3), (0, 4), (1, 3), (0, 5)]
    assert [record.payload for record in driver.records[2:]] == keys


def test_device_and_counter_go_with_the_flag(driver: Driver) -> None:
    """A device's publish needs both, a service's has none."""
    refusals = {
        pack_proposal(SERVICE, 1, 0, 2, "message", b"", person=True, key=NO_KEY): errors.BAD_ID,
        pack_proposal(SERVICE, 0, 1, 2, "message", b"", person=True, key=NO_KEY): errors.BAD_COUNTER,
        pack_proposal(0, 0, 0, 2, "message", b"", person=True, key=NO_KEY): errors.BAD_ID,
        pack_proposal(SERVICE, 0, 1, 2, "message", b"", person=True): errors.BAD_ID,
        pack_proposal(SERVICE, 1, 0, 2, "message", b"", person=True): errors.BAD_COUNTER,
    }
    for proposal, status in refusals.items():
        assert only(driver.submit(proposal)).status == status
    assert driver.records == []


def test_a_key_of_another_length_is_refused_where_it_is_packed() -> None:
    """Named, with what makes one."""
    for key in (b"", b"short", bytes(17)):
        with pytest.raises(BadArgument, match=r"a key of \d+ bytes: it must have 16 \(make it with key_of\)"):
            said(key)


def test_a_batch_that_is_not_judged_is_answered_whole() -> None:
    """The length of a proposal counts its key."""
    batch = said(NO_KEY) + said(key_of(1, "x")) + pack_proposal(1, 2, 3, 4, "message", b"")
    assert len(refuse_batch(batch, 0)) == 3 * 56
