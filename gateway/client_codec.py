"""The two encodings of the protocol, seen from the client: commands to messages, messages to typed pushes.

Used by client.py (and by the replay, which checks with it what a server sent). The shapes are those of PROTOCOL.md;
nothing here keeps state. Unknown numbers, ops and keys are passed over, so that an older client lives with a newer
server; a message that is no push at all raises BadPush.

Invariants: bytes stay bytes in both encodings (base64 in JSON); integers are exact.
Cost: one msgspec call a message, one Event object an event.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway.client_types import (
    Conversation,
    Event,
    Gap,
    HistoryPage,
    Live,
    Member,
    Receipt,
    Reset,
)

Encoding = Literal["msgpack", "json"]
SUBPROTOCOLS: dict[str, str] = {"msgpack": "gonets.v1.msgpack", "json": "gonets.v1.json"}

NAMES = (
    "",
    "event",
    "receipt",
    "welcome",
    "gap",
    "reset",
    "advice",
    "error",
    "cursor",
    "typing",
    "presence",
    "pong",
    "conversations",
    "members",
    "history",
    "refreshed",
    "live",
)
SCHEMA_TYPES = ("message.edited", "message.deleted", "message.reaction")
_RECEIPT = ("counter", "status", "conversation", "sequence", "conversation_sequence", "time", "extra")

_to_msgpack = msgspec.msgpack.Encoder()
_to_json = msgspec.json.Encoder()
_from_msgpack = msgspec.msgpack.Decoder()
_from_json = msgspec.json.Decoder()


class BadPush(Exception):
    """The server sent something that is no message of the protocol; the text says what."""


def has_schema(type: str) -> bool:
    """True for types whose payload is the engine's own map."""
    return type.startswith(("conversation.", "member.")) or type in SCHEMA_TYPES


def encode(encoding: Encoding, command: Mapping[str, Any]) -> bytes:
    """One command; values of None are left out, bytes become base64 in JSON."""
    fields = {key: value for key, value in command.items() if value is not None}
    if encoding == "msgpack":
        return _to_msgpack.encode(fields)
    return _to_json.encode(fields)  # msgspec writes bytes as standard padded base64


def decode(encoding: Encoding, message: bytes | str) -> tuple[str, Any]:
    """(name, body) of a push: Event, Receipt, Gap, Reset, Live, HistoryPage, or a mapping; "" for unknown ones."""
    try:
        if encoding == "msgpack":
            number, body = _from_msgpack.decode(message if isinstance(message, bytes) else message.encode())
            name = NAMES[number] if type(number) is int and 0 < number < len(NAMES) else ""
        else:
            body = _from_json.decode(message)
            name = body["op"] if body["op"] in NAMES else ""
        return name, _typed(encoding, name, body)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError, RecursionError, binascii.Error) as error:
        raise BadPush(
            f"{type(error).__name__}: {error}; the message begins with {bytes(message[:40])!r}"
            if isinstance(message, bytes)
            else f"{type(error).__name__}: {error}"
        ) from None


def _typed(encoding: Encoding, name: str, body: Any) -> Any:
    if name == "event":
        return event(encoding, body)
    if name == "receipt":
        values = body if encoding == "msgpack" else [body[key] for key in _RECEIPT]
        return Receipt(*values[:7])
    if name == "gap":
        return Gap(
            body["conversation"],
            body["after"],
            body["before"],
            tuple(event(encoding, one) for one in body["newest"]),
            body["next"],
        )
    if name == "reset":
        return Reset(body["shard"], body["epoch"], body["sequence"])
    if name == "live":
        return Live(tuple((p["shard"], p["epoch"], p["sequence"]) for p in body["positions"]))
    return body


def _make(head: tuple[Any, ...], payload: bytes, data: Mapping[str, Any]) -> Event:
    if len(head) != 9 or not all(type(number) is int for number in head[:8]):
        raise TypeError("an event whose first eight fields are not integers")
    sequence, conversation, number, previous, time, sender, device, counter, name = head
    return Event(sequence, conversation, number, previous, time, sender, device, counter, name, payload, data)


def event(encoding: Encoding, body: Any) -> Event:
    """An event from a stored record (msgpack) or from its JSON object; fields that are not known are passed over."""
    if encoding == "msgpack":
        head: tuple[Any, ...] = tuple(body[:9])
        type, payload = body[8:10]
        if not isinstance(payload, bytes) or not isinstance(type, str):
            raise TypeError("an event whose type is no text or whose payload is no bytes")
        if has_schema(type):
            return _make(head, b"", _from_msgpack.decode(payload))
        return _make(head, payload, {})
    type = body["type"]
    head = (
        body["sequence"],
        body["conversation"],
        body["conversation_sequence"],
        body["previous"],
        body["time"],
        body["sender"],
        body["device"],
        body["counter"],
        type,
    )
    if has_schema(type):
        data = dict(body["data"])
        if isinstance(data.get("body"), str):
            data["body"] = base64.b64decode(data["body"], validate=True)
        return _make(head, b"", data)
    return _make(head, base64.b64decode(body["payload"], validate=True), {})


def history_page(encoding: Encoding, body: Mapping[str, Any]) -> HistoryPage:
    """The answer to `history`."""
    return HistoryPage(
        body["conversation"],
        tuple(event(encoding, one) for one in body["events"]),
        body["next"],
        bool(body["trimmed"]),
        bool(body.get("damaged", False)),
    )


def conversation(item: Mapping[str, Any]) -> Conversation:
    """An entry of `conversations`; keys that are not known are passed over."""
    return Conversation(
        item["conversation"],
        item["kind"],
        item["title"],
        item["role"],
        item["member_count"],
        item["head"],
        item["conversation_sequence"],
        item["unread"],
        item["delivered"],
        item["read"],
        item["history"],
        item["closed"],
        item.get("peer"),
    )


def member(item: Mapping[str, Any]) -> Member:
    """An entry of `members`."""
    return Member(item["user"], item["role"], item.get("delivered"), item.get("read"))
