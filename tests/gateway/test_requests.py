"""What clients may say: both encodings mean the same, the wrong is named, the shapeless ends the session."""

import msgpack
import msgspec
import pytest

from gateway import close_codes, errors, pushes, requests

EXAMPLES: dict[str, dict[str, object]] = {
    "hello": {"token": "t", "device": 1, "protocol": 1, "positions": [{"shard": 0, "epoch": 1, "sequence": 0}]},
    "refresh": {"token": "t"},
    "publish": {"counter": 1, "user": 2, "text": "hi"},
    "create": {"counter": 1, "kind": "group", "title": "t", "members": [2]},
    "add": {"counter": 1, "conversation": 1, "user": 2},
    "remove": {"counter": 1, "conversation": 1, "user": 2},
    "leave": {"counter": 1, "conversation": 1},
    "role": {"counter": 1, "conversation": 1, "user": 2, "role": "admin"},
    "rename": {"counter": 1, "conversation": 1, "title": "t"},
    "close": {"counter": 1, "conversation": 1},
    "follow": {"counter": 1, "conversation": 1},
    "unfollow": {"counter": 1, "conversation": 1},
    "members": {"conversation": 1},
    "conversations": {},
    "history": {"conversation": 1},
    "delivered": {"conversation": 1, "conversation_sequence": 1},
    "read": {"conversation": 1, "conversation_sequence": 1},
    "typing": {"conversation": 1},
    "presence": {"conversation": 1, "status": "away"},
    "ping": {},
}


FINE = [("protocol", 0), ("user", None), ("text", None)]  # an old protocol; a publish without a person or text


def packed(encoding: int, fields: object) -> bytes:
    return msgpack.packb(fields) if encoding == pushes.MSGPACK else msgspec.json.encode(fields)


def test_every_op_has_an_example() -> None:
    assert sorted(EXAMPLES) == list(requests.OPS)


@pytest.mark.parametrize("op", EXAMPLES)
def test_both_encodings_mean_the_same_and_unknown_fields_are_passed_over(op: str) -> None:
    fields = {"op": op, "id": "q", "later": {"x": [1, 2]}, **EXAMPLES[op]}
    binary, text = (requests.decode(encoding, packed(encoding, fields)) for encoding in (pushes.MSGPACK, pushes.JSON))
    assert binary == text and binary.id == "q"


@pytest.mark.parametrize("op", EXAMPLES)
def test_ids_out_of_range_and_wrong_kinds_name_the_field(op: str) -> None:
    for field, value in EXAMPLES[op].items():
        not_ids: list[object] = [None, 0, -1, 2**53, 2**64, 1.5, [], "x", True]
        wrong = not_ids if isinstance(value, int) else [7, None, {}]
        for bad in wrong:
            if op in ("hello", "publish") and (field, bad) in FINE:
                continue
            with pytest.raises(requests.BadRequest) as caught:
                requests.decode(pushes.JSON, packed(pushes.JSON, {"op": op, "id": 4, **EXAMPLES[op], field: bad}))
            assert caught.value.code == "bad_field" and caught.value.id == 4
            assert field in caught.value.message, (op, field, bad, caught.value.message)


def test_payload_is_bytes_in_both_encodings() -> None:
    fields = {"op": "publish", "counter": 3, "conversation": 4}
    binary = requests.decode(pushes.MSGPACK, packed(pushes.MSGPACK, {**fields, "payload": b"\x00\xff"}))
    text = requests.decode(pushes.JSON, packed(pushes.JSON, {**fields, "payload": "AP8="}))
    assert isinstance(binary, requests.Publish) and binary == text and binary.payload == b"\x00\xff"
    for bad in ("AP8", "AP8=\n", "!!!!", "AP-_"):
        with pytest.raises(requests.BadRequest, match="payload"):
            requests.decode(pushes.JSON, packed(pushes.JSON, {**fields, "payload": bad}))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"{",
        b"7",
        b"null",
        b"{}",
        b'{"op": 5}',
        b'{"op": null}',
        b'{"op": ["ping"]}',
        b'{"op":"ping"}{}',
        b"[" * 100_000,
        b'{"op":' * 50_000,
        b"\xff\xfe",
    ],
)
def test_shapeless_json_ends_the_session(message: bytes) -> None:
    with pytest.raises(requests.Malformed):
        requests.decode(pushes.JSON, message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x80",
        b"\x81",
        b"\x81" * 100_000,
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        msgpack.packb({"op": b"ping"}),
        msgpack.packb({"op": "ping"}) + b"\x01",
        msgpack.packb({b"op": "ping"}),
    ],
)
def test_shapeless_msgpack_ends_the_session(message: bytes) -> None:
    with pytest.raises(requests.Malformed):
        requests.decode(pushes.MSGPACK, message)


def test_an_unknown_op_is_an_error_that_gives_back_what_it_can() -> None:
    with pytest.raises(requests.BadRequest) as caught:
        requests.decode(pushes.JSON, b'{"op":"dance","id":"q","counter":12}')
    assert (caught.value.code, caught.value.id, caught.value.counter) == ("unknown_op", "q", 12)
    with pytest.raises(requests.BadRequest) as caught:
        requests.decode(pushes.JSON, b'{"op":"publish","id":{"a":1},"counter":1e3}')
    assert (caught.value.code, caught.value.id, caught.value.counter) == ("bad_field", None, None)


def test_a_value_of_none_of_its_kinds_names_those_there_are() -> None:
    with pytest.raises(requests.BadRequest) as caught:
        requests.decode(pushes.JSON, b'{"op":"create","counter":1,"kind":"club","title":"x"}')
    assert caught.value.message == "kind: Invalid enum value 'club'; it is one of group, channel"


def test_close_codes_say_whether_to_reconnect() -> None:
    for row in close_codes.TABLE:
        if row.code >= 4000:
            assert row.reconnect is (row.code < 4500), row
        assert len(close_codes.reason(row.code, 2**31)) <= 123
    assert close_codes.reason(close_codes.DRAIN, 1500) == b"drain; retry_after_ms=1500"
    assert all(row.closes in (0, *close_codes.BY_CODE) for row in errors.TABLE.values())


def test_pushes_mean_the_same_in_both_encodings() -> None:
    body = {"conversation": 5, "user": 6, "delivered": 1, "read": 2**53 - 1}
    binary, text = pushes.both(pushes.CURSOR, body)
    assert msgpack.unpackb(binary) == [8, body]
    assert msgspec.json.decode(text) == {"op": "cursor", **body}
    assert msgpack.unpackb(pushes.error(pushes.MSGPACK, "internal", "m", "h", True, id=None, counter=4)) == [
        7,
        {"code": "internal", "message": "m", "hint": "h", "retryable": True, "counter": 4},
    ]
