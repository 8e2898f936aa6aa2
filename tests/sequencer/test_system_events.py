"""Events of the engine's own: where they go, what they look like, and who can't write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors, schema
from engine.answers import Answer, pack_proposal
from engine.conversations import is_system, system_conversation
from engine.subscriptions.definition import Filter, Settings
from tests.support.sequencer_driver import Driver
from tests.support.sequencer_model import SYSTEM

PAUSED = schema.pack(schema.SubscriptionPaused("mail"))
ID_MAX = 2**53 - 1


@pytest.fixture(name="driver")
def _driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path / "state")
    yield driver
    driver.close()


def tell(driver: Driver, type_name: str, payload: bytes, **more: Any) -> Answer:
    """Proposes one event as the engine's own; its answer."""
    fields = {"user": 7, "device": 0, "counter": 0, "target": 0, "system": True, **more}
    (answer,) = driver.submit(pack_proposal(type_name=type_name, payload=payload, **fields))
    return answer


def test_the_first_one_begins_its_conversation(driver: Driver) -> None:
    """Records without device and counter, chained, behind a `conversation.created` without members."""
    view = driver.view()
    assert view.conversation(SYSTEM) is None
    first = tell(driver, "subscription.paused", PAUSED)
    second = tell(driver, "subscription.resumed", PAUSED)
    assert first[2:5] == (SYSTEM, 2, 2) and second[2:5] == (SYSTEM, 3, 3)
    created, paused, resumed = driver.records
    assert schema.unpack(created.type, created.payload) == schema.Created("system", "", False, [])
    for number, record in enumerate((created, paused, resumed), 1):
        assert record[:4] == (number, SYSTEM, number, number - 1)
        assert (record.sender, record.device, record.counter) == (7, 0, 0)
    seen = view.conversation(SYSTEM)
    assert seen is not None and (seen.kind, seen.member_count, seen.head) == ("system", 0, 3)
    assert view.members(SYSTEM, 0, 10) == [] and view.membership(7, SYSTEM) is None and view.memberships(7) == []
    assert view.last_counter(7, 0) == 0


def test_its_number_is_not_allocated(driver: Driver) -> None:
    """What is allocated before and after, across a restart, goes on from 1."""
    created = schema.pack(schema.Created("group", "G"))
    for counter in (1, 2, 3):
        (answer,) = driver.submit(pack_proposal(1, 1, counter, 0, schema.CREATED, created))
        assert answer.conversation == counter
        assert tell(driver, "subscription.paused", PAUSED).status == errors.APPENDED
        driver.save()
        driver.restart()
        assert driver.saver.number == counter


def test_every_shard_has_its_own(tmp_path: Path) -> None:
    """Also the last shard, whose system conversation has the highest id of all."""
    assert system_conversation(8_191) == ID_MAX and is_system(ID_MAX) and not is_system(ID_MAX - 1)
    driver = Driver(tmp_path / "state", shard=8_191)
    assert tell(driver, "subscription.paused", PAUSED).conversation == ID_MAX
    assert driver.submit(pack_proposal(1, 1, 1, SYSTEM, "message", b""))[0].status == errors.UNKNOWN_CONVERSATION
    driver.close()


@pytest.mark.parametrize("events", [1, 2, 3])
def test_it_begins_in_the_block_of_its_first_event(tmp_path: Path, events: int) -> None:
    """Also where the open block has no room for both: then they are the next one's."""
    driver = Driver(tmp_path / "state", block_events_max=events)
    said = pack_proposal(1, 1, 1, 2, "message", b"x", person=True)
    own = pack_proposal(7, 0, 0, 0, "subscription.paused", PAUSED, system=True)
    assert {answer.status for answer in driver.submit(said + own)} == {errors.APPENDED}
    assert [record.conversation for record in driver.records] == [1, 1, SYSTEM, SYSTEM]
    assert len(driver.log.blocks) == 2
    driver.close()


def test_the_largest_fit_behind_what_is_in_the_block(driver: Driver) -> None:
    """An open block that is nearly full is handed over first; nothing is over the limit of bytes."""
    largest = largest_definition()
    said = [pack_proposal(1, 1, n, 2, "message", bytes(60_000), person=True) for n in range(1, 34)]
    own = pack_proposal(7, 0, 0, 0, "subscription.created", largest, system=True)
    answers = driver.submit(b"".join([*said[:16], own, *said[16:], own]))
    assert {answer.status for answer in answers} == {errors.APPENDED}
    assert len(driver.log.blocks) > 2
    assert all(len(block) <= 1 << 20 for block in driver.log.blocks)


def largest_definition() -> bytes:
    """A `subscription.created` of 64 KiB at most, by a hair."""
    payload = schema.pack(schema.SubscriptionCreated("s", "ordered", "", Filter(), 0, Settings()))
    room = schema.PAYLOAD_BYTES_MAX - len(payload) - 2  # the array grows from 1 byte of head to 3
    wanted = Filter(conversations=(ID_MAX,) * (room // 9))
    return schema.pack(schema.SubscriptionCreated("s", "ordered", "", wanted, 0, Settings()))


def test_what_is_stored_is_canonical(driver: Driver) -> None:
    """Defaults are written out, numbers have their one form, keys their order, strangers are left out."""
    sparse = {"settings": {"ack_timeout_s": 30}, "start": 5, "filter": {}, "team": "t", "kind": "ordered", "name": "n"}
    assert tell(driver, "subscription.created", msgspec.msgpack.encode({**sparse, "more": 1})).status == 0
    whole = schema.SubscriptionCreated("n", "ordered", "t", Filter(), 5, Settings())
    assert driver.records[-1].payload == schema.pack(whole)
    assert msgspec.msgpack.decode(driver.records[-1].payload)["settings"]["ack_timeout_s"] == 30.0


def test_what_grows_over_the_limit_is_refused(driver: Driver) -> None:
    """The canonical form counts: it is longer where defaults were left out."""
    ids = [ID_MAX] * 7_268
    sparse = {"name": "n", "kind": "ordered", "team": "", "start": 0, "settings": {}}
    payload = msgspec.msgpack.encode({**sparse, "filter": {"conversations": ids}})
    assert len(payload) <= schema.PAYLOAD_BYTES_MAX
    assert tell(driver, "subscription.created", payload).status == errors.PAYLOAD_TOO_LARGE
    assert tell(driver, "subscription.paused", bytes(65_537)).status == errors.PAYLOAD_TOO_LARGE
    assert driver.records == []


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"device": 1}, errors.BAD_ID),
        ({"user": 0}, errors.BAD_ID),
        ({"counter": 1}, errors.BAD_COUNTER),
        ({"target": 1}, errors.UNKNOWN_CONVERSATION),
        ({"target": SYSTEM}, errors.UNKNOWN_CONVERSATION),
        ({"target": 2, "person": True}, errors.UNKNOWN_CONVERSATION),
        ({"type_name": "message"}, errors.BAD_TYPE),
        ({"type_name": "conversation.created"}, errors.BAD_TYPE),
        ({"type_name": "message.deleted"}, errors.BAD_TYPE),
        ({"type_name": "admin.refused"}, errors.BAD_TYPE),
        ({"type_name": "subscription.unknown"}, errors.BAD_TYPE),
        ({"type_name": "Subscription.paused"}, errors.BAD_TYPE),
        ({"payload": b""}, errors.BAD_PAYLOAD),
        ({"payload": b"\xc1"}, errors.BAD_PAYLOAD),
        ({"payload": schema.pack(schema.SubscriptionPaused("Mail"))}, errors.BAD_PAYLOAD),
        ({"expected": 1}, errors.CONFLICT),
    ],
)
def test_a_wrong_proposal_leaves_nothing(driver: Driver, more: dict[str, Any], status: int) -> None:
    """Neither an event nor the conversation."""
    assert tell(driver, **{"type_name": "subscription.paused", "payload": PAUSED, **more}).status == status
    assert driver.records == []
    assert driver.view().conversation(SYSTEM) is None


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", sorted(schema.SYSTEM | {"admin.refused", "subscription.x"}))
def test_without_the_flag_its_types_are_nobodys(driver: Driver, name: str, begun: bool) -> None:
    """Of a device, wherever it aims, warm and cold."""
    if begun:
        tell(driver, "subscription.paused", PAUSED)
    before = len(driver.records)
    for counter, target in enumerate((0, 1, SYSTEM), 1):
        for person in (False, True):
            (answer,) = driver.submit(pack_proposal(1, 1, counter, target, name, PAUSED, person=person))
            assert answer[2:] == (0, 0, 0, 0, errors.BAD_TYPE, 0)
        driver.save()
        driver.shed()
    (answer,) = driver.submit(pack_proposal(1, 0, 0, 0, name, PAUSED))
    assert answer.status == errors.BAD_ID
    assert len(driver.records) == before


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("message", b"x"),
        ("conversation.renamed", schema.pack(schema.Renamed("mine"))),
        ("conversation.closed", schema.pack(schema.Closed())),
        ("member.added", schema.pack(schema.Added(1))),
        ("member.added", schema.pack(schema.Added(2, "owner"))),
        ("member.removed", schema.pack(schema.Removed(7))),
        ("member.left", schema.pack(schema.Left(1))),
        ("member.role", schema.pack(schema.Role(1, "owner"))),
        ("message.edited", schema.pack(schema.Edited(2))),
        ("message.deleted", schema.pack(schema.Deleted(2))),
        ("message.reaction", schema.pack(schema.Reaction(2))),
    ],
)
def test_its_conversation_looks_like_none(driver: Driver, name: str, payload: bytes) -> None:
    """The same answer before it has begun and after, to whoever wrote into it too."""
    asked: list[Answer] = []
    for counter in (1, 2):
        for user in (1, 7):
            asked += driver.submit(pack_proposal(user, 1, counter, SYSTEM, name, payload, expected=counter))
        asked += driver.submit(pack_proposal(1, 2, counter, 3, name, payload))  # there is none
        tell(driver, "subscription.paused", PAUSED)
        driver.save()
        driver.shed()
    assert {answer[2:] for answer in asked} == {(0, 0, 0, 0, errors.UNKNOWN_CONVERSATION, 0)}
    assert len(driver.records) == 3


IDS = st.integers(1, ID_MAX)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
WORDS = st.lists(st.text(max_size=20), max_size=5).map(tuple)
FILTERS = st.builds(
    Filter,
    types=WORDS,
    kinds=WORDS,
    conversations=st.lists(IDS, max_size=20).map(tuple),
    senders=st.lists(IDS, max_size=20).map(tuple),
    recipient_away=st.booleans(),
)
SETTINGS = st.builds(
    Settings,
    ack_timeout_s=st.floats(1, 43_200) | st.integers(1, 43_200),
    deliveries_max=st.integers(0, 1_000),
    retry_min_s=st.floats(0, 3_600),
    retry_max_s=st.floats(0, 3_600),
    in_flight_max=st.integers(1, 1_000_000),
)
POSITIONS = st.integers(0, ID_MAX)
SEQUENCES = st.lists(IDS, min_size=1, max_size=50)
PAYLOADS = st.one_of(
    st.builds(
        schema.SubscriptionCreated, NAMES, st.sampled_from(["ordered", "competing"]), st.text(max_size=64), FILTERS,
        POSITIONS, SETTINGS,
    ),
    st.builds(schema.SubscriptionDeleted, NAMES),
    st.builds(schema.SubscriptionPaused, NAMES),
    st.builds(schema.SubscriptionResumed, NAMES),
    st.builds(schema.SubscriptionReset, NAMES, POSITIONS),
    st.builds(schema.SubscriptionParked, NAMES, IDS, st.integers(0, 10_000), st.text(max_size=100)),
    st.builds(schema.SubscriptionReplayed, NAMES, SEQUENCES),
    st.builds(schema.SubscriptionDropped, NAMES, SEQUENCES),
)  # fmt: skip
TYPES = {type(None): ""} | {made: name for name, made in schema.SCHEMA.items()}


@settings(max_examples=200, deadline=None)
@given(payload=PAYLOADS)
def test_a_payload_survives(payload: schema.Payload) -> None:
    """Unpacked it is equal, packed again the same bytes; of another type of the engine's it is none or loses fields."""
    name = TYPES[type(payload)]
    unpacked = schema.unpack(name, schema.pack(payload))
    assert unpacked == payload
    assert schema.pack(schema.unpack(name, schema.pack(unpacked))) == schema.pack(unpacked)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(schema.SYSTEM)), payload=st.binary(max_size=60))
def test_bytes_that_are_no_payload_raise_nothing_else(name: str, payload: bytes) -> None:
    """Whatever they are."""
    try:
        unpacked = schema.unpack(name, payload)
    except schema.BadPayload:
        return
    assert schema.unpack(name, schema.pack(unpacked)) == unpacked
