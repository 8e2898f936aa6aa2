"""What an `error` push may say: one table of the gateway's own codes, beside the engine's statuses.

PROTOCOL.md lists the same rows and a test holds them together. `retryable` means that the same command may succeed
later unchanged; everything else needs another command or another client. An error never ends the session unless its
row says so; those rows name the close code that follows.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway import close_codes


class ErrorRow(NamedTuple):
    """One row: the code on the wire, whether to try again, what to do, and the close code that follows, if any."""

    retryable: bool
    hint: str
    closes: int = 0


TABLE: dict[str, ErrorRow] = {
    "unknown_op": ErrorRow(False, "the server does not know this command; it may be newer than the server"),
    "bad_field": ErrorRow(False, "mend the field that the message names"),
    "bad_message": ErrorRow(False, "send one map with a string `op` in each message", close_codes.BAD_COMMAND),
    "hello_first": ErrorRow(False, "say hello before anything else", close_codes.BAD_COMMAND),
    "hello_again": ErrorRow(False, "a session says hello once; use refresh for a new token"),
    "bad_token": ErrorRow(False, "sign in again; the message says what is wrong with the token", close_codes.BAD_TOKEN),
    "token_expired": ErrorRow(True, "get a fresh token and connect again", close_codes.TOKEN_EXPIRED),
    "token_revoked": ErrorRow(False, "the token was revoked: sign in again", close_codes.TOKEN_REVOKED),
    "client_too_old": ErrorRow(False, "update the client", close_codes.CLIENT_TOO_OLD),
    "too_many_sessions": ErrorRow(False, "close another device of this user first", close_codes.TOO_MANY_SESSIONS),
    "bad_position": ErrorRow(False, "send one position for each shard of the welcome, as received"),
    "unknown_conversation": ErrorRow(False, "check the id; a conversation that one may not see looks the same"),
    "forbidden": ErrorRow(False, "the role in this conversation does not allow it"),
    "bad_cursor": ErrorRow(False, "a cursor can't be beyond the conversation's head"),
    "too_many_jobs": ErrorRow(True, "wait for the answers to earlier history commands"),
    "rate_limited": ErrorRow(True, "slow down to limits.rate_per_s; retry after retry_after_ms"),
    "overloaded": ErrorRow(True, "the same command again after retry_after_ms"),
    "unavailable": ErrorRow(True, "the writer has stopped, reading goes on; again after retry_after_ms"),
    "internal": ErrorRow(True, "a mistake of the server, noted in its log; try again once"),
}
