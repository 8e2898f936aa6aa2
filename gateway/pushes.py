"""Pushes that Python makes: welcome, gap, answers to cold commands, errors. One body, two encodings.

Used by everything in gateway/ that talks to one session. Events and receipts are not here: their frames are made
natively. A stored record travels inside a push as it stands: msgpack bodies embed its bytes, JSON bodies embed the
JSON text that the same native encoder makes for live events, so no second description of an event exists.

Invariants: every number below is in PROTOCOL.md with the same name; bodies are maps with string keys.
Cost: one msgspec encode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

MSGPACK = 0
JSON = 1

EVENT, RECEIPT, WELCOME, GAP, RESET, ADVICE, ERROR, CURSOR, TYPING, PRESENCE = range(1, 11)
PONG, CONVERSATIONS, MEMBERS, HISTORY, REFRESHED, LIVE = range(11, 17)

NAMES: dict[int, str] = {
    EVENT: "event",
    RECEIPT: "receipt",
    WELCOME: "welcome",
    GAP: "gap",
    RESET: "reset",
    ADVICE: "advice",
    ERROR: "error",
    CURSOR: "cursor",
    TYPING: "typing",
    PRESENCE: "presence",
    PONG: "pong",
    CONVERSATIONS: "conversations",
    MEMBERS: "members",
    HISTORY: "history",
    REFRESHED: "refreshed",
    LIVE: "live",
}

_msgpack = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()


def encode(encoding: int, number: int, body: Mapping[str, Any]) -> bytes:
    """One WebSocket message in the encoding of a session."""
    if encoding == MSGPACK:
        return _msgpack.encode((number, body))
    return _json.encode({"op": NAMES[number], **body})


def both(number: int, body: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """(msgpack, json) of a push that goes to sessions of either encoding."""
    return encode(MSGPACK, number, body), encode(JSON, number, body)


def records(encoding: int, stored: list[bytes], to_json: Callable[[bytes], bytes]) -> list[msgspec.Raw]:
    """Stored records as they stand inside a body; `to_json` is the native encoder of live events."""
    if encoding == MSGPACK:
        return [msgspec.Raw(record) for record in stored]
    return [msgspec.Raw(to_json(record)) for record in stored]


def error(encoding: int, code: str, message: str, hint: str, retryable: bool, **more: Any) -> bytes:
    """An error push; `more` carries id, counter or retry_after_ms where there is one."""
    body = {"code": code, "message": message, "hint": hint, "retryable": retryable}
    body.update((name, value) for name, value in more.items() if value is not None)
    return encode(encoding, ERROR, body)
