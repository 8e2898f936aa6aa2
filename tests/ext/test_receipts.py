"""Frames made natively: both encodings decode to the fields of PROTOCOL.md, with names and texts of Python's tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors as statuses
from ext.receipts import push_frames, receipt_frame, status_names
from gateway import errors, pushes
from gateway.pushes import JSON, MSGPACK
from tests.support.naive_commands import Map
from tests.support.odd_encoders import integer_ways

PAGE = (Path(__file__).resolve().parents[2] / "gateway" / "PROTOCOL.md").read_text(encoding="utf-8")
FIELDS = ("counter", "status", "conversation", "sequence", "conversation_sequence", "time", "extra")
MAX_64, MAX_32 = 2**64 - 1, 2**32 - 1
BOTH = pytest.mark.parametrize("encoding", [MSGPACK, JSON])


def body(encoding: int, frame: bytes) -> bytes:
    """The payload of one whole server frame: final, unmasked, its size in the shortest form."""
    assert frame[0] == (0x81 if encoding == JSON else 0x82)
    if frame[1] < 126:
        start, size = 2, frame[1]
    else:
        assert frame[1] == 126
        start, size = 4, int.from_bytes(frame[2:4])
        assert size >= 126
    assert len(frame) == start + size
    return frame[start:]


def push(encoding: int, frame: bytes) -> tuple[str, dict[str, Any]]:
    """Name and fields of a push with named fields; no key comes twice."""
    if encoding == JSON:
        pairs = json.loads(body(encoding, frame), object_pairs_hook=Map)
        assert pairs[0][0] == "op"
        op, pairs = pairs[0][1], pairs[1:]
    else:
        number, pairs = msgpack.unpackb(body(encoding, frame), object_pairs_hook=Map)
        op = pushes.NAMES[number]
    fields = dict(pairs)
    assert len(fields) == len(pairs)
    return op, fields


def receipt(encoding: int, *values: int) -> dict[str, Any]:
    """The fields of a receipt, by name in both encodings."""
    data = body(encoding, receipt_frame(encoding, *values))
    if encoding == JSON:
        fields = json.loads(data)
        assert list(fields) == ["op", *FIELDS] and fields.pop("op") == "receipt"
        return dict(fields)
    number, row = msgpack.unpackb(data)
    assert number == pushes.RECEIPT
    return dict(zip(FIELDS, row, strict=True))


# ---- receipts --------------------------------------------------------------------------------------------------------


def test_the_statuses_are_the_engines() -> None:
    assert status_names() == {row.number: row.name for row in statuses.STATUSES.values()}


def test_the_bytes_of_the_protocol_page() -> None:
    block = re.search(r"```receipt\n(.*?)```", PAGE, re.S)
    assert block
    pinned = bytes.fromhex("".join(line.split("  ")[0] for line in block[1].splitlines()))
    values = (3, statuses.APPENDED, 77, 1042, 5, 1_795_515_000_000_000, 0)
    assert receipt_frame(MSGPACK, *values) == bytes([0x82, len(pinned)]) + pinned
    first, again = re.findall(r'^← (\{"op":"receipt".*\})$', PAGE, re.M)
    assert body(JSON, receipt_frame(JSON, *values)).decode() == first
    values = (4, statuses.REPEAT, 77, 1043, 6, 1_795_515_001_000_000, 0)
    assert body(JSON, receipt_frame(JSON, *values)).decode() == again


@BOTH
@pytest.mark.parametrize("status", sorted(statuses.STATUSES))
def test_every_status_with_the_smallest_and_largest_numbers(encoding: int, status: int) -> None:
    name = statuses.STATUSES[status].name
    for number, extra in ((0, 0), (9, 10), (MAX_64, MAX_32)):
        values = (number, status, number, number, number, number, extra)
        assert receipt(encoding, *values) == dict(zip(FIELDS, (number, name, *values[2:]), strict=True))


@BOTH
@pytest.mark.parametrize("status", [2, 9, 28, 255, 65_535])
def test_an_unknown_status_has_no_name(encoding: int, status: int) -> None:
    assert receipt(encoding, 1, status, 2, 3, 4, 5, 6)["status"] == ""


@BOTH
@given(
    st.lists(st.integers(0, MAX_64), min_size=5, max_size=5),
    st.sampled_from(sorted(statuses.STATUSES)),
    st.integers(0, MAX_32),
)
def test_any_receipt(encoding: int, numbers: list[int], status: int, extra: int) -> None:
    counter, *more = numbers
    expected = dict(zip(FIELDS, (counter, statuses.STATUSES[status].name, *more, extra), strict=True))
    assert receipt(encoding, counter, status, *more, extra) == expected


@given(st.lists(st.integers(0, MAX_64), min_size=5, max_size=5), st.integers(0, MAX_32))
def test_integers_lie_at_fixed_places_in_messagepack(numbers: list[int], extra: int) -> None:
    counter, conversation, sequence, conversation_sequence, time = numbers
    frame = receipt_frame(MSGPACK, counter, 0, conversation, sequence, conversation_sequence, time, extra)
    data = body(MSGPACK, frame)
    places = (3, 21, 30, 39, 48, 57)
    for place, number in zip(places, (*numbers, extra), strict=True):
        assert data[place : place + 9] == b"\xcf" + number.to_bytes(8)
    assert len(data) == 66


# ---- pongs and errors ------------------------------------------------------------------------------------------------

IDS: list[str | int] = ["", "a", "x" * 31, "x" * 32, "x" * 64, "é" * 32, 0, 127, 128, 2**32, 2**53 - 1]


def ways(encoding: int, id: str | int) -> list[bytes]:
    """The ways in which an id may have come."""
    if encoding == JSON:
        return [json.dumps(id, ensure_ascii=False).encode()]
    if isinstance(id, int):
        return integer_ways(id)
    data = id.encode()
    size = len(data)
    short = [bytes([0xA0 | size])] if size < 32 else []
    return [head + data for head in (*short, bytes([0xD9, size]), bytes([0xDA, 0, size]), bytes([0xDB, 0, 0, 0, size]))]


@BOTH
@pytest.mark.parametrize("id", [None, *IDS])
def test_pong_and_errors_are_those_of_python_with_the_id_as_it_came(encoding: int, id: str | int | None) -> None:
    echoed = {} if id is None else {"id": id}
    for raw in ways(encoding, id) if id is not None else [b""]:
        pong, hello_first, rate_limited = push_frames(encoding, raw, 1_234)
        assert raw in pong and raw in hello_first and raw in rate_limited
        assert push(encoding, pong) == ("pong", echoed)
        row = errors.TABLE["hello_first"]
        assert push(encoding, hello_first) == ("error", {
            "code": "hello_first", "message": "nothing is served before hello", "hint": row.hint,
            "retryable": row.retryable, **echoed,
        })  # fmt: skip
        row = errors.TABLE["rate_limited"]
        assert push(encoding, rate_limited) == ("error", {
            "code": "rate_limited", "message": "more commands than this session may send", "hint": row.hint,
            "retryable": row.retryable, **echoed, "retry_after_ms": 1_234,
        })  # fmt: skip


@BOTH
def test_hello_first_is_byte_for_byte_the_push_of_the_cold_path(encoding: int) -> None:
    row = errors.TABLE["hello_first"]
    for id in (None, "a", 5):
        raw = b"" if id is None else ways(encoding, id)[0]
        python = pushes.error(encoding, "hello_first", "nothing is served before hello", row.hint, row.retryable, id=id)
        assert body(encoding, push_frames(encoding, raw, 0)[1]) == python


@BOTH
def test_no_pause_is_named_where_there_is_none(encoding: int) -> None:
    _, fields = push(encoding, push_frames(encoding, b"", 0)[2])
    assert "retry_after_ms" not in fields
    _, fields = push(encoding, push_frames(encoding, b"", MAX_32)[2])
    assert fields["retry_after_ms"] == MAX_32
