"""Problems as RFC 9457: what every refusal and failure of the door looks like, and the one table of what is what.

Everything raised below the door ends in `problem_of`: a Refusal of the door itself, an error of the engine (its `code`
chooses the row), a mistake found by the framework. A problem's `type` leads to its row on the door's page.

Invariants: a code has one HTTP status; a failure that nobody foresaw is 500 and says nothing of the inside.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from msgspec import UNSET, Struct, UnsetType, json

from engine import CallerError, EngineError, errors

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1.0


class Problem(Struct, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    """For programs; the table on the page of this door says what each means."""
    retryable: bool = False
    """Whether the same request may succeed later."""
    hint: str | UnsetType = UNSET
    limit: str | UnsetType = UNSET
    """The limit that was reached: an option of the configuration."""
    retry_after_s: float | UnsetType = UNSET
    actual: int | UnsetType = UNSET
    """Of a conflict: the conversation sequence that would have fitted."""
    first_available: int | UnsetType = UNSET
    """Of events that are not kept any more: the first sequence that is."""


class Row(NamedTuple):
    """What a code means."""

    status: int
    title: str


ROWS: Final[dict[str, Row]] = {
    "bad_request": Row(400, "The request can't be read"),
    "bad_argument": Row(400, "A value is outside its limits"),
    "bad_type": Row(400, "Not a type that may be published"),
    "bad_payload": Row(400, "The payload does not follow the schema of its type"),
    "bad_target": Row(400, "The target is no message that may be meant"),
    "bad_id": Row(400, "Not an id"),
    "bad_token": Row(401, "The token opens nothing here"),
    "token_expired": Row(401, "The token has expired"),
    "token_revoked": Row(401, "The token was revoked"),
    "forbidden": Row(403, "Not allowed"),
    "not_found": Row(404, "There is nothing here"),
    "unknown_subscription": Row(404, "No such subscription"),
    "unknown_conversation": Row(404, "No such conversation"),
    "unknown_consumer": Row(404, "No such consumer"),
    "unknown_event": Row(404, "No such event"),
    "method_not_allowed": Row(405, "Not a method of this address"),
    "not_acceptable": Row(406, "None of the accepted media types can be given"),
    "too_slow": Row(408, "The request's body did not come in time"),
    "busy": Row(409, "Another request of this consumer is waiting"),
    "subscription_exists": Row(409, "The name is taken by another definition"),
    "key_reused": Row(409, "The key belongs to another event"),
    "conflict": Row(409, "The conversation has moved on"),
    "closed": Row(409, "The conversation takes no more events"),
    "unchanged": Row(409, "It is so already"),
    "member_limit": Row(409, "The conversation is full"),
    "fenced": Row(409, "The consumer's generation is over"),
    "not_in_flight": Row(409, "Not in flight with this consumer"),
    "paused": Row(409, "The subscription is paused"),
    "beyond_end": Row(409, "The log has not come so far"),
    "trimmed": Row(410, "Not kept any more"),
    "history_replaced": Row(410, "The position is of a history that was replaced"),
    "body_too_large": Row(413, "The request's body is too large"),
    "payload_too_large": Row(413, "The payload is too large"),
    "unsupported_media_type": Row(415, "Not a media type that is read here"),
    "upgrade_required": Row(426, "This address speaks WebSocket"),
    "head_too_large": Row(431, "The request's head is too large"),
    "limit_reached": Row(429, "A limit is reached"),
    "rate_limited": Row(429, "Too fast"),
    "too_many_unanswered": Row(429, "Too many publishes without an answer"),
    "internal": Row(500, "A failure of the server"),
    "untrusted": Row(500, "What lies on the disk can't be believed"),
    "overloaded": Row(503, "Too much work just now"),
    "unavailable": Row(503, "Not just now"),
}


class Refusal(Exception):
    """A refusal of the door itself."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str = "",
        retryable: bool = False,
        retry_after_s: float = 0.0,
        limit: str = "",
        first_available: int = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.headers = dict(headers or {})
        self.problem = make(
            code,
            detail,
            hint=hint,
            retryable=retryable,
            retry_after_s=retry_after_s,
            limit=limit,
            first_available=first_available,
        )


def make(
    code: str,
    detail: str,
    *,
    hint: str = "",
    retryable: bool = False,
    retry_after_s: float = 0.0,
    limit: str = "",
    actual: int | None = None,
    first_available: int = 0,
) -> Problem:
    """A problem by its code."""
    row = ROWS[code]
    return Problem(
        type=f"/v1/docs#{code}",
        title=row.title,
        status=row.status,
        detail=detail,
        code=code,
        retryable=retryable,
        hint=hint or UNSET,
        limit=limit or UNSET,
        retry_after_s=retry_after_s or UNSET,
        actual=UNSET if actual is None else actual,
        first_available=first_available or UNSET,
    )


def bad(detail: str, hint: str = "") -> Refusal:
    """A value that can't be taken."""
    return Refusal("bad_argument", detail, hint=hint)


def ended(why: str) -> Refusal:
    """Why a token that was good isn't any more."""
    return Refusal("token_revoked" if "revoked" in why else "token_expired", why)


def forbidden(why: str) -> None:
    """Raises if there is a reason."""
    if why:
        raise Refusal("forbidden", why, hint="ask the issuer of the token for the scope")


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem and the headers that say an error to a client."""
    if isinstance(error, Refusal):
        problem, headers = error.problem, error.headers
    elif isinstance(error, EngineError):
        problem, headers = _of_engine(error), {}
    else:
        problem, headers = make("internal", "the server failed; its log says more", retryable=True), {}
    if problem.retry_after_s is not UNSET:
        headers["retry-after"] = str(max(1, math.ceil(problem.retry_after_s)))
    if problem.status == 401:
        headers["www-authenticate"] = f'Bearer error="invalid_token", error_description="{problem.code}"'
    return problem, headers


def encode(problem: Problem) -> bytes:
    """As JSON."""
    return json.encode(problem)


def _of_engine(error: EngineError) -> Problem:
    code, extra = error.code, _number(error, "extra")
    if code not in ROWS:
        code = _by_kind(error)
    waits = ROWS[code].status in (429, 503)
    return make(
        code,
        error.detail,
        hint=error.hint,
        retryable=error.retryable,
        retry_after_s=(extra / 1_000 if extra else RETRY_AFTER_S) if waits else 0.0,
        actual=_number(error, "actual") if code == "conflict" else None,
        first_available=_number(error, "first_available"),
    )


def _by_kind(error: EngineError) -> str:
    if isinstance(error, CallerError):
        return "bad_argument"
    return "unavailable" if isinstance(error, errors.EngineUnable) else "untrusted"


def _number(error: Any, name: str) -> int:
    """What some errors say besides; those of publishes have `actual` and `extra`."""
    value = getattr(error, name, 0)
    return value if isinstance(value, int) else 0
