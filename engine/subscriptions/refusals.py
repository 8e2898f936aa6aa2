"""Errors by their codes: what a publish that was not stored raises, and what a remote engine's word stands for.

A Publisher (in process, remote, the double) raises `refusal` of a status of engine/errors.py; a client that is told a
code over the network raises `error_of` it. So a backend team catches the same thing everywhere. Whether trying again
helps is the table's word, and splits the two classes.
"""

from __future__ import annotations

from typing import Final

from engine import schema
from engine.errors import (
    BAD_ID,
    BAD_TYPE,
    OVERLOADED,
    STATUS_BY_NAME,
    STATUSES,
    UNAVAILABLE,
    BadArgument,
    CallerError,
    EngineError,
    EngineUnable,
    Trimmed,
)
from engine.subscriptions.ports import (
    BeyondEnd,
    Fenced,
    KeyReused,
    LimitReached,
    NotInFlight,
    Paused,
    Receipt,
    SubscriptionExists,
    UnknownSubscription,
)


class Refused(CallerError):
    """Admission said no to a publish, and would say it again. `code` is the status; `actual` is, of a conflict, the
    conversation sequence that would have fitted; `extra` the limit in question."""

    def __init__(self, status: int, words: str, *, actual: int = 0, extra: int = 0, hint: str = "") -> None:
        row = STATUSES[status]
        self.code, self.actual, self.extra = row.name, actual, extra
        super().__init__(words, hint=hint or row.hint)


# A service has no counter: what makes its repeat harmless is its key, where it has given one.
_KEYED: Final = {
    OVERLOADED: "the same publish with the same key after a pause",
    UNAVAILABLE: "the writer has stopped; the same publish with the same key later",
}


class NotNow(EngineUnable):
    """A publish was refused for a passing reason; the same with the same key later. `extra`: a pause in ms, or 0."""

    def __init__(self, status: int, words: str, *, extra: int = 0, hint: str = "") -> None:
        row = STATUSES[status]
        self.code, self.extra = row.name, extra
        super().__init__(words, hint=hint or _KEYED.get(status, row.hint))


class NotAllowed(CallerError):
    """The token doesn't allow it, or none at all; `code` says which."""

    def __init__(self, code: str, words: str, *, hint: str = "") -> None:
        self.code = code
        super().__init__(words, hint=hint)


_KINDS: Final[dict[str, type[EngineError]]] = {
    kind.code: kind
    for kind in (
        BadArgument,
        BeyondEnd,
        Trimmed,
        Fenced,
        KeyReused,
        LimitReached,
        NotInFlight,
        Paused,
        SubscriptionExists,
        UnknownSubscription,
    )
}
_TOKENS: Final = ("bad_token", "token_expired", "token_revoked", "not_allowed")


def refusal(status: int, words: str, *, actual: int = 0, extra: int = 0, hint: str = "") -> Refused | NotNow:
    """The exception for a status that isn't `appended` or `repeat`. `hint`: a better one than the table's."""
    if STATUSES[status].retryable:
        return NotNow(status, words, extra=extra, hint=hint)
    return Refused(status, words, actual=actual, extra=extra, hint=hint)


def conflict_words(expected: int, actual: int) -> str:
    """Why a publish that expected something was refused."""
    return f"expected was {expected}, the last conversation sequence is {actual}"


def error_of(code: str, words: str, *, hint: str = "", retryable: bool = False, actual: int = 0) -> EngineError:
    """The exception for a code that came over a network; one that nobody here knows is a CallerError, or, where trying
    again may help, an EngineUnable, with that code."""
    if kind := _KINDS.get(code):
        return kind(words, hint=hint)
    if status := STATUS_BY_NAME.get(code):
        return refusal(status.number, words, actual=actual, hint=hint)
    if code in _TOKENS:
        return NotAllowed(code, words, hint=hint)
    unknown: EngineError = EngineUnable(words, hint=hint) if retryable else CallerError(words, hint=hint)
    unknown.code = code
    return unknown


def check_target(conversation: int, person: int) -> None:
    """What every Publisher asks first: one of the two. Raises Refused."""
    if bool(conversation) == bool(person):
        raise refusal(BAD_ID, f"conversation {conversation}, person {person}: name one of the two")


def check_plain(type_name: str) -> None:
    """Control events go another way, with their fields. Raises Refused."""
    if type_name in schema.CONTROL:
        raise refusal(BAD_TYPE, f"type {type_name!r} is the engine's own: send it as a command, with its fields")


def check_repeat(receipt: Receipt, conversation: int, key: str) -> None:
    """What a key brings back must be where the event was to go; 0: nowhere yet. Raises KeyReused, and tells nothing of
    the other conversation, which the caller may not be allowed to see."""
    if receipt.repeat and conversation not in (0, receipt.conversation):
        raise KeyReused(f"key {key!r}: an event of another conversation than {conversation} has it")
