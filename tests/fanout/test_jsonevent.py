"""JSON frames against json, base64 and MessagePack of others."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.jsonevent import json_event
from tests.support.naive_log import record_bytes

IDS = st.integers(1, (1 << 64) - 1)
DATA_TYPES = [
    "conversation.created",
    "conversation.x",
    "member.added",
    "message.edited",
    "message.deleted",
    "message.reaction",
]
OPAQUE_TYPES = ["message", "message.tombstone", "members.x", "conversation", "education.homework.set", "a" * 64]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    """What JSON clients see of a payload."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value


def fields(record_type: str, numbers: tuple[int, ...]) -> dict[str, Any]:
    names = ("sequence", "conversation", "conversation_sequence", "previous", "time", "sender", "device", "counter")
    return {"op": "event", **dict(zip(names, numbers, strict=True)), "type": record_type}


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.tuples(*[IDS] * 8), st.sampled_from(OPAQUE_TYPES), st.binary(max_size=300))
def test_opaque_payloads(
    numbers: tuple[int, int, int, int, int, int, int, int], record_type: str, payload: bytes
) -> None:
    text = json_event(record_bytes(*numbers, record_type, payload))
    wanted = {**fields(record_type, numbers), "payload": base64.b64encode(payload).decode()}
    assert json.loads(text) == wanted
    assert list(json.loads(text)) == list(wanted)


def test_a_key_is_passed_over() -> None:
    """What a service's key is concerns no client."""
    for payload, record_type in (
        (b"opaque", "message"),
        (msgspec.msgpack.encode({"title": "T"}), "conversation.renamed"),
    ):
        plain_text = json_event(record_bytes(1, 2, 3, 4, 5, 6, 0, 0, record_type, payload))
        assert json_event(record_bytes(1, 2, 3, 4, 5, 6, 0, 0, record_type, payload, b"k" * 16)) == plain_text


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.sampled_from(DATA_TYPES), st.dictionaries(st.text(max_size=12), VALUES, max_size=6))
def test_payloads_of_the_engines_types(record_type: str, payload: dict[str, Any]) -> None:
    numbers = (1, 2, 3, 4, 5, 6, 7, 8)
    text = json_event(record_bytes(*numbers, record_type, msgspec.msgpack.encode(payload)))
    assert json.loads(text.decode("utf-8")) == {**fields(record_type, numbers), "data": plain(payload)}


@settings(derandomize=True, max_examples=600, deadline=None)
@given(
    st.sampled_from(DATA_TYPES),
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x81\xa1a" + tail),
)
def test_any_bytes_give_valid_json(record_type: str, payload: bytes) -> None:
    body = json.loads(json_event(record_bytes(1, 2, 3, 4, 5, 6, 7, 8, record_type, payload)).decode("utf-8"))
    assert ("data" in body) != ("payload" in body)
    if "payload" in body:
        assert base64.b64decode(body["payload"]) == payload


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xe2\x82",
        b"a\x80b",
        b'\x7f\x00\x1f"\\',
    ],
)
def test_broken_text_becomes_replacement_characters(broken: bytes) -> None:
    payload = b"\x81\xa5title" + bytes([0xA0 | len(broken)]) + broken
    body = json.loads(json_event(record_bytes(1, 2, 3, 4, 5, 6, 7, 8, "conversation.renamed", payload)).decode("utf-8"))
    assert body["data"]["title"].replace("�", "") == broken.decode("utf-8", "ignore")


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\xde\xff\xff",
        b"\x81" * 40,
        b"\x81\xa1a" * 40,
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x81\x01\x01",
        b"\x81\xa1a\xdb\xff\xff\xff\xff",
        b"\x80\x80",
    ],
)
def test_maps_that_promise_too_much_are_shown_as_bytes(payload: bytes) -> None:
    body = json.loads(json_event(record_bytes(1, 2, 3, 4, 5, 6, 7, 8, "member.added", payload)))
    assert base64.b64decode(body["payload"]) == payload


def test_the_worst_expansion_fits() -> None:
    for filling in (b"\x01", b"\xc2", b"\x80"):
        size = 65_536
        if filling == b"\x01":
            payload = b"\x81\xa1a\xda" + (size - 6).to_bytes(2, "big") + filling * (size - 6)
        else:
            payload = b"\x81\xa1a\xdc" + (size - 6).to_bytes(2, "big") + filling * (size - 6)
        body = json.loads(json_event(record_bytes(1, 2, 3, 4, 5, 6, 7, 8, "member.x", payload)))
        assert len(body["data"]["a"]) == size - 6
