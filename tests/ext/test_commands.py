"""Hot commands: a result that Python's schema would give too, or COLD, whatever their fields and encoding.

JSON's own syntax is in test_commands_json.py, damage and chance in test_commands_random.py.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from gateway import requests
from tests.support import odd_encoders
from tests.support.command_checks import MAX, check, message, publish, read
from tests.support.naive_commands import (
    BAD_COUNTER,
    BAD_ID,
    BAD_TYPE,
    COLD,
    DELIVERED,
    HELLO,
    JSON,
    MSGPACK,
    PAYLOAD_TOO_LARGE,
    PING,
    PUBLISH,
    READ,
    REFUSED,
    TYPING,
    Hot,
    Map,
)

PAGE = (Path(__file__).resolve().parents[2] / "gateway" / "PROTOCOL.md").read_text(encoding="utf-8")
PING_MORE = b"\x82\xa2op\xa4ping\xa1x"  # the value of x follows
HOT_OPS = ["publish", "delivered", "read", "typing", "ping", "hello"]  # the last two need no fields
BOTH = pytest.mark.parametrize("encoding", [MSGPACK, JSON])


# ---- what is hot -----------------------------------------------------------------------------------------------------


@BOTH
def test_the_hot_commands(encoding: int) -> None:
    assert publish(encoding) == (PUBLISH, 3, 77, 0, 0, 0, 0, b"message", b"hello")
    assert publish(encoding, conversation=None, user=5) == (PUBLISH, 3, 5, 1, 0, 0, 0, b"message", b"hello")
    assert publish(encoding, expected=0) == (PUBLISH, 3, 77, 2, 0, 0, 0, b"message", b"hello")
    assert publish(encoding, expected=MAX, type="a.b") == (PUBLISH, 3, 77, 2, MAX, 0, 0, b"a.b", b"hello")
    assert publish(encoding, payload=None, text="") == (PUBLISH, 3, 77, 0, 0, 0, 0, b"message", b"")
    for op, kind in (("delivered", DELIVERED), ("read", READ)):
        mark = message(encoding, op=op, conversation=7, conversation_sequence=9)
        assert read(encoding, mark) == Hot(kind, target=7, value=9)
    assert read(encoding, message(encoding, op="typing", conversation=7)) == Hot(TYPING, target=7)
    assert read(encoding, message(encoding, op="ping")) == Hot(PING)
    assert read(encoding, message(encoding, op="hello", token="t", device=1, protocol=1)) == Hot(HELLO)


def test_the_publishes_of_the_protocol_page() -> None:
    block = re.search(r"```publish\n(.*?)```", PAGE, re.S)
    assert block
    data = bytes.fromhex("".join(line.split("  ")[0] for line in block[1].splitlines()))
    assert read(MSGPACK, data) == (PUBLISH, 3, 77, 0, 0, 0, 0, b"message", b"hello")
    said = [line.encode() for line in re.findall(r'^→ (\{"op":.*\})$', PAGE, re.M)]
    hot = [found for found in (check(JSON, line) for line in said) if found.kind != COLD]
    assert [found.kind for found in hot] == [HELLO, READ, PUBLISH, PUBLISH, HELLO, PUBLISH]
    assert hot[2].payload == b"hello" and hot[3].payload == hot[5].payload == b"on the train"


@BOTH
def test_other_commands_are_for_python(encoding: int) -> None:
    for op in {*requests.OPS, "", "pin", "pings", "PING", "publis"} - set(HOT_OPS):
        assert read(encoding, message(encoding, op=op)) == Hot(COLD)
    for op in HOT_OPS[:-2]:
        assert read(encoding, message(encoding, op=op)) == Hot(COLD)  # its fields are missing
    for odd in (None, 5, True, ["ping"], {"ping": 1}, 1.5):
        assert read(encoding, message(encoding, op=odd)) == Hot(COLD)
    assert read(encoding, message(encoding, id=1)) == Hot(COLD)
    assert read(encoding, message(encoding)) == Hot(COLD)
    for data in (b"", b"\x80", b"{}", b" { } ", b"[]", b"null", b"\x90", b"\xc0", b'"op"', b"5", b"\xdf\0\0\0\0"):
        assert read(encoding, data) == Hot(COLD)


# ---- integers --------------------------------------------------------------------------------------------------------

EDGES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1, 2**32, MAX, MAX + 1, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("value", [*EDGES, -1, -32, -33, -128, -129, -(2**31), -(2**63)])
def test_every_width_of_an_integer(value: int) -> None:
    for way in odd_encoders.integer_ways(value):
        assert msgpack.unpackb(way) == value
        found = check(MSGPACK, b"\x82\xa2op\xa6typing\xacconversation" + way)
        assert found == (Hot(TYPING, target=value) if 1 <= value <= MAX else Hot(COLD))
        check(MSGPACK, b"\x84\xa2op\xa7publish\xa4user" + way + b"\xa7counter" + way + b"\xa4text\xa0")
        check(MSGPACK, b"\x82\xa2op\xa4ping\xa2id" + way)


@BOTH
def test_numbers_out_of_range(encoding: int) -> None:
    for counter in (0, MAX + 1, 2**63, 2**64 - 1):
        assert publish(encoding, counter=counter)[:7] == (REFUSED, counter, 77, 0, 0, 0, BAD_COUNTER)
    assert publish(encoding, counter=-1) == Hot(COLD)
    for target in (0, MAX + 1, 2**64 - 1):
        assert publish(encoding, conversation=target)[:7] == (REFUSED, 3, target, 0, 0, 0, BAD_ID)
        assert publish(encoding, conversation=None, user=target)[:7] == (REFUSED, 3, target, 1, 0, 0, BAD_ID)
    for target in (-1, -33, -(2**63)):
        assert publish(encoding, conversation=target)[:7] == (REFUSED, 3, 0, 0, 0, 0, BAD_ID)
    for expected in (-1, MAX + 1, 1.0, "1"):
        assert publish(encoding, expected=expected) == Hot(COLD)
    assert publish(encoding, counter=0, conversation=0, type="B", payload=b"*" * 65_537).status == BAD_COUNTER


# ---- types, ids, sizes -----------------------------------------------------------------------------------------------


@BOTH
def test_types(encoding: int) -> None:
    for name in (
        "m",
        "message",
        "messages",
        "a.b_c.9",
        "_",
        "conversation",
        "member",
        "memberx.y",
        "admin",
        "admins.y",
        "a" * 64,
    ):
        assert publish(encoding, type=name).type == name.encode()
    bad = ["", ".", "a.", ".a", "a..b", "A", "a b", "a-b", "a{", "a`", "é", "a" * 65]
    owned = ["message.x", "message.editedx", "member.added", "conversation.x", "subscription.created", "admin.x"]
    owned += [name + "." for name in ("message", "member", "conversation", "subscription", "admin")]
    for name in bad + owned:
        assert publish(encoding, type=name)[:7] == (REFUSED, 3, 77, 0, 0, 0, BAD_TYPE)
    for odd in ("message.edited", "message.deleted", "message.reaction", 5, ["a"], False):
        assert publish(encoding, type=odd) == Hot(COLD)


@BOTH
def test_ids_that_can_be_echoed(encoding: int) -> None:
    for id in ("", "a", "x" * 64, "é" * 32, 0, 5, MAX):
        assert read(encoding, message(encoding, op="ping", id=id)) == Hot(PING)
    odds: list[Any] = ["x" * 65, "é" * 33, MAX + 1, -1, 1.5, None, [], {"a": 1}, True]
    for odd in odds:
        assert read(encoding, message(encoding, op="ping", id=odd)) == Hot(COLD)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 31, 255, 256, 65_534, 65_535, 65_536])
def test_payloads_and_texts_up_to_64_kib(encoding: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert publish(encoding, payload=data).payload == data
    text = ("яx" * size)[: size // 2]
    assert publish(encoding, payload=None, text=text).payload == text.encode()


@BOTH
def test_larger_payloads_are_refused(encoding: int) -> None:
    refused = (REFUSED, 3, 77, 0, 0, 0, PAYLOAD_TOO_LARGE)
    assert publish(encoding, payload=b"*" * 65_537)[:7] == refused
    for text in ("*" * 65_537, "я" * 32_769):
        assert publish(encoding, payload=None, text=text)[:7] == refused


@BOTH
def test_what_a_publish_must_not_mix(encoding: int) -> None:
    for name, value in (("user", 5), ("text", "x"), ("target", 1)):
        assert publish(encoding, **{name: value}) == Hot(COLD)
    for name in ("conversation", "payload", "counter"):
        assert publish(encoding, **{name: None}) == Hot(COLD)
    for name, odd in (("counter", 1.0), ("counter", "1"), ("conversation", "77"), ("payload", 5), ("payload", [1])):
        assert publish(encoding, **{name: odd}) == Hot(COLD)
    assert publish(encoding, payload=None, text=5) == Hot(COLD)
    for fields in ({"conversation": None, "user": 1, "text": ""}, {"user": 1, "text": "", "payload": None}):
        assert read(encoding, message(encoding, op="publish", counter=1, **fields)) == Hot(COLD)  # null is not absent
    assert read(MSGPACK, message(MSGPACK, op="publish", counter=1, user=1, payload="text")) == Hot(COLD)


# ---- keys and nesting -------------------------------------------------------------------------------------------


@BOTH
def test_doubled_keys(encoding: int) -> None:
    rng = random.Random(1)
    once = Map([("op", "ping"), ("id", 1), ("x", 1)])
    for name, value in once:
        doubled = odd_encoders.message(encoding, Map([*once, (name, value)]), rng)
        assert check(encoding, doubled).kind == (PING if name == "x" else COLD)


def test_bad_utf8_in_messagepack() -> None:
    for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"):
        text = bytes([0xA0 | len(bad)]) + bad
        for data in (
            b"\x82\xa2op\xa4ping" + text + b"\x01",
            PING_MORE + text,
            b"\x82\xa2op\xa4ping\xa1x\x92\x01\x81\x01" + text,
            b"\x82\xa2op\xa4ping\xa2id" + text,
            b"\x84\xa2op\xa7publish\xa7counter\x01\xa4user\x02\xa4text" + text,
            b"\x81\xa2op" + text,
        ):
            assert check(MSGPACK, data) == Hot(COLD)
    payload = b"\x84\xa2op\xa7publish\xa7counter\x01\xa4user\x02\xa7payload\xc4\x01\xff"
    assert check(MSGPACK, payload).payload == b"\xff"


def test_keys_that_are_no_text() -> None:
    for key in (b"\x01", b"\xc0", b"\xc4\x02op", b"\x90", b"\x80", b"\xca\0\0\0\0"):
        assert check(MSGPACK, b"\x82\xa2op\xa4ping" + key + b"\x01") == Hot(COLD)
        assert check(MSGPACK, b"\x82\xa2op\xa4ping\xa1x\x81" + key + b"\x01") == Hot(PING)  # nested: nobody's business


def test_extensions_are_passed_over() -> None:
    fixed = [bytes([0xD4 + power, 5]) + b"." * (1 << power) for power in range(5)]
    sized = [b"\xc7\0\x05", b"\xc7\x03\x05...", b"\xc8\0\x02\xfe..", b"\xc9\0\0\0\x01\x05."]
    for body in fixed + sized:
        data = PING_MORE + body
        assert check(MSGPACK, data) == Hot(PING)
        for end in range(len(data)):
            assert check(MSGPACK, data[:end]) == Hot(COLD)


def test_deep_nesting() -> None:
    for depth in (1, 16, 31, 32):
        assert check(JSON, b'{"op":"ping","x":' + b"[" * depth + b"]" * depth + b"}") == Hot(PING)
        assert check(JSON, b'{"op":"ping","x":' + b'{"":' * depth + b"0" + b"}" * depth + b"}") == Hot(PING)
    for depth in (33, 34, 1_000, 100_000):
        assert read(JSON, b'{"op":"ping","x":' + b"[" * depth + b"]" * depth + b"}") == Hot(COLD)
        assert read(JSON, b'{"op":"ping","x":' + b"[" * depth) == Hot(COLD)
    for depth in (1, 100, 100_000):  # walked without recursion
        for opening in (b"\x91", b"\xdd\0\0\0\x01", b"\x81\x01"):
            assert read(MSGPACK, PING_MORE + opening * depth + b"\x01") == Hot(PING)
            assert read(MSGPACK, PING_MORE + opening * depth) == Hot(COLD)


def test_sizes_that_promise_more_than_there_is() -> None:
    huge = [head + b"\xff\xff\xff\xff" for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")]
    for body in [*huge, b"\xdf\x80\0\0\0", b"\xdc\xff\xff", b"\xda\xff\xff", b"\xd9\xff", b"\xc1"]:
        for tail in (b"", b"\x01" * 9, (b"\x91" + body) * 50):
            assert check(MSGPACK, PING_MORE + body + tail) == Hot(COLD)
            assert check(MSGPACK, body + tail) == Hot(COLD)
    assert check(MSGPACK, b"\x83\xa2op\xa4ping") == Hot(COLD)
