"""Close codes: why a session ended, and whether to come back.

One table; PROTOCOL.md lists the same rows and a test holds them together. 4000–4499 say "reconnect, after
retry_after_ms", 4500–4999 say "don't, until what the name says has changed". The reason text on the wire is
`name` or `name; retry_after_ms=N`, so that a client needs no table to do the right thing.
"""

from __future__ import annotations

from typing import NamedTuple


class CloseCode(NamedTuple):
    """One row of the table."""

    code: int
    name: str
    reconnect: bool
    action: str


NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED = 1003
BAD_UTF8 = 1007
TOO_BIG = 1009
INTERNAL = 1011
IDLE = 4000
DRAIN = 4001
SLOW_NO_PROGRESS = 4002
TOKEN_EXPIRED = 4003
OVERLOADED = 4004
HELLO_TIMEOUT = 4005
UNAVAILABLE = 4006
REPLACED = 4500
BAD_TOKEN = 4501
CLIENT_TOO_OLD = 4502
BAD_COMMAND = 4503
TOO_MANY_SESSIONS = 4504
RATE_ABUSE = 4505
TOKEN_REVOKED = 4506

TABLE: tuple[CloseCode, ...] = (
    CloseCode(NORMAL, "normal", False, "the client closed; nothing to do"),
    CloseCode(GOING_AWAY, "going_away", True, "reconnect with back-off"),
    CloseCode(PROTOCOL_ERROR, "protocol_error", False, "a frame broke RFC 6455: mend the client"),
    CloseCode(UNSUPPORTED, "unsupported", False, "text frames on msgpack, or binary frames on json: mend the client"),
    CloseCode(BAD_UTF8, "bad_utf8", False, "a text frame was not UTF-8: mend the client"),
    CloseCode(TOO_BIG, "too_big", False, "a message was over limits.frame_bytes_max: larger things go by reference"),
    CloseCode(INTERNAL, "internal", True, "the server failed at something of its own: reconnect with back-off"),
    CloseCode(IDLE, "idle", True, "nothing was heard for limits.idle_timeout_s, not even a pong: reconnect"),
    CloseCode(DRAIN, "drain", True, "the server is going down or moving: reconnect after retry_after_ms"),
    CloseCode(
        SLOW_NO_PROGRESS,
        "slow_no_progress",
        True,
        "not a byte was taken, or a message not finished, for too long: reconnect and resume",
    ),
    CloseCode(TOKEN_EXPIRED, "token_expired", True, "get a fresh token, then reconnect and resume"),
    CloseCode(OVERLOADED, "overloaded", True, "reconnect after retry_after_ms"),
    CloseCode(HELLO_TIMEOUT, "hello_timeout", True, "send hello at once after the handshake"),
    CloseCode(UNAVAILABLE, "unavailable", True, "the server can't serve now: reconnect after retry_after_ms"),
    CloseCode(REPLACED, "replaced", False, "the same device connected again: that one goes on, this one stops"),
    CloseCode(BAD_TOKEN, "bad_token", False, "the token will never be accepted here: sign in again"),
    CloseCode(CLIENT_TOO_OLD, "client_too_old", False, "update the client: its protocol is no longer spoken"),
    CloseCode(BAD_COMMAND, "bad_command", False, "a message was no map with `op`, or before hello: mend the client"),
    CloseCode(TOO_MANY_SESSIONS, "too_many_sessions", False, "close another device of this user first"),
    CloseCode(RATE_ABUSE, "rate_abuse", False, "the client went on far above limits.rate_per_s: mend the client"),
    CloseCode(TOKEN_REVOKED, "token_revoked", False, "the token was revoked: sign in again, then resume"),
)

BY_CODE: dict[int, CloseCode] = {row.code: row for row in TABLE}


def reason(code: int, retry_after_ms: int | None = None) -> bytes:
    """The reason text of a close frame; at most 123 bytes by the length of the names."""
    name = BY_CODE[code].name
    return (name if retry_after_ms is None else f"{name}; retry_after_ms={retry_after_ms}").encode()
