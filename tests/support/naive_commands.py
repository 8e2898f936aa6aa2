"""Hot commands, written down once more over msgpack and json: what ext/commands may make of a message.

A second implementation of gateway/PROTOCOL.md for publish, delivered, read, typing, ping and hello. Escapes in names of
JSON are not seen from here: for those, native code may also answer COLD.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NamedTuple, NoReturn

import msgpack

MSGPACK, JSON = 0, 1
COLD, PUBLISH, REFUSED, DELIVERED, READ, TYPING, PING, HELLO = range(8)
BAD_TYPE, PAYLOAD_TOO_LARGE, BAD_ID, BAD_COUNTER = 16, 17, 22, 27
TO_PERSON, EXPECTED = 1, 2
NUMBER_MAX = 2**53 - 1
JSON_DEPTH_MAX = 32
PAYLOAD_BYTES_MAX = 65_536

PUBLISHED = ("counter", "conversation", "user", "payload", "text", "type", "expected", "target")
KNOWN = frozenset({"op", "id", "conversation_sequence", *PUBLISHED})
TARGETED = ("message.edited", "message.deleted", "message.reaction")
TYPE = re.compile(r"(?!(conversation|member|message|subscription|admin)\.)[a-z0-9_]+(\.[a-z0-9_]+)*")


class Hot(NamedTuple):
    """What ext/commands.read_command gives."""

    kind: int
    counter: int = 0
    target: int = 0
    flags: int = 0
    expected: int = 0
    value: int = 0
    status: int = 0
    type: bytes = b""
    payload: bytes = b""


class Map(list[tuple[Any, Any]]):
    """Pairs in order, doubled keys and all."""


class Undecided(Exception):
    """The library gives up where the format allows more."""


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _depth(value: object) -> int:
    if isinstance(value, Map):
        return 1 + max((_depth(inner) for _, inner in value), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def decode(encoding: int, message: bytes) -> object:
    """The value of a whole message; ValueError if it is none, Undecided if it is deeper or odder than the library."""
    if encoding == MSGPACK:
        try:
            return msgpack.unpackb(message, strict_map_key=False, object_pairs_hook=Map, ext_hook=lambda *_: None)
        except (RecursionError, msgpack.StackError) as error:
            raise Undecided from error
        except Exception as error:
            if "imestamp" in str(error):
                raise Undecided from error
            raise ValueError from error
    try:
        value = json.loads(
            message.decode(),
            object_pairs_hook=Map,
            parse_constant=_refuse,
            parse_int=lambda digits: -1 if digits[0] == "-" else int(digits),
        )
    except RecursionError as error:
        raise Undecided from error
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    if _depth(value) > JSON_DEPTH_MAX + 1:
        raise ValueError("too deep")
    return value


def _is_number(value: object, least: int, most: int = NUMBER_MAX) -> bool:
    return type(value) is int and least <= value <= most


def read(encoding: int, message: bytes) -> Hot:
    """The hot command in a message, or COLD."""
    try:
        value = decode(encoding, message)
    except ValueError:
        return Hot(COLD)
    if not isinstance(value, Map) or not all(isinstance(name, str) for name, _ in value):
        return Hot(COLD)
    fields: dict[str, Any] = {}
    for name, inner in value:
        if name in KNOWN and name in fields:
            return Hot(COLD)
        fields[name] = inner
    return _judge(encoding, fields)


def _judge(encoding: int, fields: dict[str, Any]) -> Hot:
    op, id = fields.get("op"), fields.get("id", "")
    if not (_is_number(id, 0) or (isinstance(id, str) and len(id.encode()) <= 64)):
        return Hot(COLD)
    conversation = fields.get("conversation")
    if op == "publish":
        return _publish(encoding, fields)
    if op in ("delivered", "read"):
        sequence = fields.get("conversation_sequence")
        if _is_number(conversation, 1) and _is_number(sequence, 1):
            return Hot(DELIVERED if op == "delivered" else READ, target=conversation or 0, value=sequence or 0)
    elif op == "typing":
        if _is_number(conversation, 1):
            return Hot(TYPING, target=conversation or 0)
    elif op in ("ping", "hello"):
        return Hot(PING if op == "ping" else HELLO)
    return Hot(COLD)


def _body(encoding: int, fields: dict[str, Any]) -> tuple[int, bytes | None] | None:
    """Size and bytes of a payload; no bytes if its base64 is none after all; nothing if that can't be told."""
    payload, text = fields.get("payload"), fields.get("text")
    if "text" in fields:
        if "payload" in fields or not isinstance(text, str):
            return None
        return len(text.encode()), text.encode()
    if encoding == MSGPACK:
        return (len(payload), payload) if isinstance(payload, bytes) else None
    if not isinstance(payload, str) or len(payload.encode()) % 4:
        return None
    size = len(payload.encode()) // 4 * 3 - payload.endswith("=") - payload.endswith("==")
    try:
        body = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return size, None
    return size, body if base64.b64encode(body).decode() == payload else None


def _publish(encoding: int, fields: dict[str, Any]) -> Hot:
    counter, type_name, expected = fields.get("counter"), fields.get("type", "message"), fields.get("expected", 0)
    to_person = "conversation" not in fields
    target = fields.get("user") if to_person else fields["conversation"]
    body = _body(encoding, fields)
    if (
        body is None
        or not _is_number(counter, 0, 2**64 - 1)
        or type(target) is not int
        or "target" in fields
        or (not to_person and "user" in fields)
        or not _is_number(expected, 0)
        or not isinstance(type_name, str)
        or type_name in TARGETED
    ):
        return Hot(COLD)
    assert isinstance(counter, int)
    size, payload = body
    status = 0
    if not _is_number(counter, 1):
        status = BAD_COUNTER
    elif not _is_number(target, 1):
        status = BAD_ID
    elif not TYPE.fullmatch(type_name) or len(type_name) > 64:
        status = BAD_TYPE
    elif size > PAYLOAD_BYTES_MAX:
        status = PAYLOAD_TOO_LARGE
    elif payload is None:
        return Hot(COLD)
    flags = (TO_PERSON if to_person else 0) | (EXPECTED if "expected" in fields else 0)
    shown = target if _is_number(target, 0, 2**64 - 1) else 0
    if status:
        return Hot(REFUSED, counter, shown, flags, expected, 0, status)
    return Hot(PUBLISH, counter, shown, flags, expected, 0, 0, type_name.encode(), payload or b"")
