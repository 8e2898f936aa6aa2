"""Hot commands cut, damaged and made up: the models agree on every one, and nothing is ever read wrongly."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import odd_encoders
from tests.support.command_checks import MAX, check, message, read
from tests.support.naive_commands import COLD, JSON, MSGPACK, Hot, Map

BOTH = pytest.mark.parametrize("encoding", [MSGPACK, JSON])

SAMPLES: list[dict[str, Any]] = [
    {"op": "publish", "counter": 3, "conversation": 77, "payload": b"hello", "id": "a"},
    {"op": "publish", "text": "на поезде 🚂", "user": MAX, "counter": 2**40, "type": "a.b", "expected": 9},
    {"op": "read", "conversation": 77, "conversation_sequence": 5, "x": {"a": [1, None, 2.5, {"b": "c"}], "é": True}},
    {"op": "ping", "id": 7, "x": [[], {}, "", False]},
]


@BOTH
@pytest.mark.parametrize("fields", SAMPLES)
def test_cut_anywhere_or_longer_it_is_no_message(encoding: int, fields: dict[str, Any]) -> None:
    whole = message(encoding, **fields)
    assert check(encoding, whole).kind != COLD
    for end in range(len(whole)):
        assert read(encoding, whole[:end]) == Hot(COLD), end
    for tail in (b"\0", b"\x01", b"}", b",", b"\xc0", b"{}", whole):
        assert check(encoding, whole + tail) == Hot(COLD)
    if encoding == JSON:
        assert check(JSON, b" \t\r\n" + whole + b" \n\r\t") == check(JSON, whole)
        for odd in (b"\xef\xbb\xbf" + whole, whole + b"\x0b", b"\xa0" + whole, b"\0" + whole):
            assert read(JSON, odd) == Hot(COLD)


# ---- at random -------------------------------------------------------------------------------------------------------

texts = st.text(max_size=12)
EDGES = [0, 1, 127, 128, 65_535, 2**32, MAX, MAX + 1, 2**63, 2**64 - 1, -1, -33, -(2**63)]
numbers = st.sampled_from(EDGES) | st.integers(1, MAX)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
scalars = st.none() | st.booleans() | numbers | floats | texts | st.binary(max_size=9)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(texts, inner), max_size=3).map(Map),
    max_leaves=5,
)
simple = st.text(alphabet="abcz._09é ", max_size=12)
usual: dict[str, st.SearchStrategy[Any]] = {
    "id": simple | st.integers(0, MAX),
    "counter": numbers,
    "conversation": numbers,
    "user": numbers,
    "payload": st.binary(max_size=30),
    "text": st.text(max_size=20),
    "type": st.sampled_from(["message", "a.b", "message.edited", "member.x", "subscription.x", "admin.x", "A"])
    | simple,
    "expected": numbers,
    "target": numbers,
    "conversation_sequence": numbers,
}
shapes = st.sampled_from(
    [
        ("publish", "counter", "conversation", "payload"),
        ("publish", "counter", "user", "text"),
        ("delivered", "conversation", "conversation_sequence"),
        ("read", "conversation", "conversation_sequence"),
        ("typing", "conversation"),
        ("ping",),
        ("hello",),
    ]
)


@st.composite
def commands(draw: st.DrawFn) -> Map:
    """Mostly good commands, keys in any order, with other fields, doubled ones, lost ones, and odd values."""
    op, *names = draw(shapes)
    pairs: list[tuple[Any, Any]] = [("op", op), *((name, draw(usual[name])) for name in names)]
    for name in draw(st.lists(st.sampled_from(["id", "type", "expected"]), max_size=2)):
        pairs.append((name, draw(usual[name])))
    for _ in range(draw(st.integers(0, 2))):
        pairs.append((draw(texts.filter(lambda name: name.isalnum())), draw(anything)))
    harm = draw(st.sampled_from(["none", "none", "none", "value", "more", "lost"]))
    place = draw(st.integers(0, len(pairs) - 1))
    if harm == "value":
        pairs[place] = (pairs[place][0], draw(anything))
    if harm == "more":
        name = draw(st.sampled_from(sorted(usual)))
        pairs.append((name, draw(usual[name])))
    if harm == "lost":
        del pairs[place]
    return Map(draw(st.permutations(pairs)))


def _json_safe(value: Any) -> bool:
    """Whether a text stands in JSON without escapes."""
    return not isinstance(value, str) or json.dumps(value, ensure_ascii=False) == f'"{value}"'


@settings(max_examples=400)
@given(commands(), st.randoms(use_true_random=False))
def test_any_command_in_both_encodings_is_what_the_model_says(command: Map, rng: random.Random) -> None:
    check(MSGPACK, odd_encoders.message(MSGPACK, command, rng))
    plain = all(_json_safe(value) for name, value in command if name in odd_encoders.PLAIN_NAMES)
    check(JSON, odd_encoders.message(JSON, command, rng), exact=plain)


@settings(max_examples=200)
@given(commands(), st.randoms(use_true_random=False))
def test_with_escapes_everywhere_it_is_the_same_or_cold(command: Map, rng: random.Random) -> None:
    check(JSON, odd_encoders.message(JSON, command, rng, plain=False), exact=False)


PACK_PIECES = [b"\xcf", b"\xd9", b"\xdf\0\0\0\1", b"\xa2id", b"\xa4", b"\x81", b"\xc1", b"\xd3\xff", b"\x00"]
JSON_PIECES = [bytes([byte]) for byte in b'"\\{}[],:-0 '] + [b"\\u", b"\\ud83c", b'"id":1,', b"e1", b".5", b"=="]


def mutated(data: bytes, rng: random.Random, pieces: list[bytes]) -> bytes:
    """A few bytes changed, lost, doubled, or from elsewhere."""
    for _ in range(rng.randrange(1, 4)):
        at, size = rng.randrange(len(data) + 1), rng.randrange(1, 9)
        lost, new = rng.choice([(1, rng.randbytes(1)), (size, b""), (0, data[at : at + size]), (0, rng.choice(pieces))])
        data = data[:at] + new + data[at + lost :]
    return data


@BOTH
def test_damaged_messages_are_never_read_wrongly(encoding: int) -> None:
    rng = random.Random(20 + encoding)
    wholes = [message(encoding, **fields) for fields in SAMPLES]
    hot = 0
    for _ in range(20_000):
        data = mutated(rng.choice(wholes), rng, JSON_PIECES if encoding == JSON else PACK_PIECES)
        if encoding == JSON:
            try:
                data.decode()
            except UnicodeDecodeError:
                read(JSON, data)  # ext/frames refuses it; here it only must not crash
                continue
        hot += check(encoding, data, exact=b"\\" not in data).kind != COLD
    assert hot > 400  # some changes are harmless


def test_noise_in_messagepack() -> None:
    rng = random.Random(30)
    for _ in range(6_000):
        head = rng.choice((b"\x82\xa2op\xa4ping\xa1x", b"\x81", b"\xde\0\2\xa2op\xa4ping"))
        check(MSGPACK, head + rng.randbytes(rng.randrange(12)))


def test_noise_in_json() -> None:
    rng = random.Random(31)
    for _ in range(6_000):
        noise = bytes(rng.choices(b'{}[]",:\\u0123456789abcdeflnrst -+.E', k=rng.randrange(12)))
        data = rng.choice((b'{"op":"ping","x":', b"{", b'{"')) + noise + b"}"
        check(JSON, data, exact=b"\\" not in data)
