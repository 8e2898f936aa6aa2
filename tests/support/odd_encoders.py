"""MessagePack and JSON as no library writes them: every width of integers and lengths, white space, needless escapes.

What they write is valid and means the value that was given. Choices come from the caller's random source.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Iterable

import msgpack

from tests.support.naive_commands import Map

PLAIN_NAMES = frozenset({"op", "id", "type", "payload"})  # native code reads them only without escapes


def _sized(rng: random.Random, size: int, short: int | None, short_max: int, heads: Iterable[tuple[int, str]]) -> bytes:
    """A head with a size in one of the ways that fit."""
    ways = [bytes([short | size])] if short is not None and size <= short_max else []
    for head, form in heads:
        if size < 1 << 8 * struct.calcsize(form):
            ways.append(bytes([head]) + struct.pack(form, size))
    return rng.choice(ways)


def integer_ways(value: int) -> list[bytes]:
    """All the ways to write an integer in MessagePack."""
    ways = [struct.pack("b", value)] if -32 <= value < 128 else []
    for power in range(4):
        bits = 8 << power
        if 0 <= value < 1 << bits:
            ways.append(bytes([0xCC + power]) + value.to_bytes(bits // 8))
        if -(1 << bits - 1) <= value < 1 << bits - 1:
            ways.append(bytes([0xD0 + power]) + value.to_bytes(bits // 8, signed=True))
    return ways


def pack(value: object, rng: random.Random) -> bytes:
    """One value in MessagePack."""
    if type(value) is int:
        return rng.choice(integer_ways(value))
    if isinstance(value, str):
        data = value.encode()
        return _sized(rng, len(data), 0xA0, 31, [(0xD9, "!B"), (0xDA, "!H"), (0xDB, "!I")]) + data
    if isinstance(value, bytes):
        return _sized(rng, len(value), None, 0, [(0xC4, "!B"), (0xC5, "!H"), (0xC6, "!I")]) + value
    if isinstance(value, Map):
        head = _sized(rng, len(value), 0x80, 15, [(0xDE, "!H"), (0xDF, "!I")])
        return head + b"".join(pack(name, rng) + pack(inner, rng) for name, inner in value)
    if isinstance(value, list):
        head = _sized(rng, len(value), 0x90, 15, [(0xDC, "!H"), (0xDD, "!I")])
        return head + b"".join(pack(inner, rng) for inner in value)
    packed: bytes = msgpack.packb(value, use_single_float=rng.random() < 0.5)
    return packed


def _space(rng: random.Random) -> str:
    return rng.choice(["", "", "", " ", "\n", "\t \r\n"])


def json_string(text: str, rng: random.Random) -> str:
    """A text in JSON, some of its characters escaped without need."""
    style = rng.randrange(3)
    if style < 2:
        return json.dumps(text, ensure_ascii=style == 0)
    units = [json.dumps(character)[1:-1] for character in text]
    return (
        '"'
        + "".join(
            f"\\u{ord(character):04X}" if len(unit) == 1 and rng.random() < 0.3 else unit
            for character, unit in zip(text, units, strict=True)
        )
        + '"'
    )


def json_text(value: object, rng: random.Random, plain: bool = True, depth: int = 0) -> str:
    """One value in JSON; bytes as base64. `plain`: nothing is escaped where native code does not expect it."""
    space = _space(rng)
    if isinstance(value, bytes):
        return json.dumps(base64.b64encode(value).decode())
    if isinstance(value, str):
        return json_string(value, rng)
    if isinstance(value, Map):
        rows = []
        for name, inner in value:
            bare = plain and depth == 0
            key = json.dumps(name, ensure_ascii=False) if bare else json_string(name, rng)
            if bare and name in PLAIN_NAMES and isinstance(inner, str):
                text = json.dumps(inner, ensure_ascii=False)
            else:
                text = json_text(inner, rng, plain, depth + 1)
            rows.append(f"{_space(rng)}{key}{_space(rng)}:{space}{text}{_space(rng)}")
        return "{" + (",".join(rows) or space) + "}"
    if isinstance(value, list):
        return "[" + (",".join(space + json_text(inner, rng, plain, depth + 1) for inner in value) or space) + "]"
    return json.dumps(value)


def message(encoding: int, value: object, rng: random.Random, plain: bool = True) -> bytes:
    """A whole message."""
    if encoding == 0:
        return pack(value, rng)
    return (_space(rng) + json_text(value, rng, plain) + _space(rng)).encode()
