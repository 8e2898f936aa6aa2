"""What the client library gives and raises: events, gaps, receipts, pages, refusals.

Used by everybody who imports `gateway.client`. Plain frozen values; a refusal is an exception that carries its policy
(code, retryable, hint), so that callers choose by class or by attribute, never by parsing texts.

    ClientError
    ├── Refused                 a write was answered, and not stored
    │   ├── Conflict            `actual` is the conversation sequence that stands
    │   ├── TooOld  Forbidden  UnknownConversation  ConversationClosed  MemberLimit  Unchanged
    │   └── Busy                retried for `retry_timeout_s` and still refused (overloaded, rate_limited …)
    ├── CommandFailed           a question was answered by an error
    ├── Incomplete              a gap could be filled only in part
    ├── SessionEnded            the server said not to reconnect: replaced, bad_token, client_too_old …
    └── HistoryReplaced         events after a sequence were replaced (a restore): discard them, then go on
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHARD_SHIFT = 40

Positions = dict[int, tuple[int, int]]  # shard → (epoch, sequence)


@dataclass(frozen=True, slots=True)
class Event:
    """A stored fact, as every member receives it."""

    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int  # sequence of the event before it in the same conversation, 0 for the first
    time: int  # µs since 1970
    sender: int
    device: int
    counter: int
    type: str
    payload: bytes = b""  # what the sender gave; empty where `data` is set
    data: Mapping[str, Any] = field(default_factory=dict)  # of types with a schema, else empty

    @property
    def shard(self) -> int:
        """The log this event is in: sequences of different shards say nothing about each other."""
        return self.conversation >> SHARD_SHIFT

    @property
    def text(self) -> str:
        """The payload as text, for display: broken UTF-8 becomes U+FFFD."""
        return self.payload.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Gap:
    """Too much was missed: events of the conversation with after < sequence < before were not sent.

    `newest` holds the newest of them, newest first; `next` is the `before` of the next history page, None if `newest`
    is all. Iterating over the client itself fills gaps; `stream()` shows them.
    """

    conversation: int
    after: int
    before: int
    newest: tuple[Event, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Reset:
    """The shard's history was replaced: events after `sequence` that one holds are no longer true."""

    shard: int
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Live:
    """The resume is complete: what follows is live."""

    positions: tuple[tuple[int, int, int], ...]  # (shard, epoch, sequence)


class Resuming(NamedTuple):
    """Where a resume begins: what follows, up to Live, does not move positions. Never handed to applications."""


class Signal(NamedTuple):
    """Something that is not stored: `kind` is cursor, typing, presence or advice."""

    kind: str
    conversation: int
    user: int
    fields: Mapping[str, Any]


class Trouble(NamedTuple):
    """What keeps the client busy beside the application: `kind` is refused (a write, to be tried again), lost (the
    connection, or another attempt at one) or back."""

    kind: str
    code: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The event is in the log and synced (P1). `repeat` means that it was already."""

    counter: int
    status: str
    conversation: int
    sequence: int
    conversation_sequence: int
    time: int
    extra: int = 0

    @property
    def repeat(self) -> bool:
        """True if an earlier attempt had been stored: this names its place."""
        return self.status == "repeat"


@dataclass(frozen=True, slots=True)
class Conversation:
    """An entry of one's list of conversations."""

    conversation: int
    kind: str
    title: str
    role: str
    member_count: int
    head: int
    conversation_sequence: int
    unread: int
    delivered: int
    read: int
    history: bool
    closed: bool
    peer: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a conversation, with its marks where the conversation is small enough to keep them."""

    user: int
    role: str
    delivered: int | None = None
    read: int | None = None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Events newest first; `next` is the `before` of the following page, None at the beginning."""

    conversation: int
    events: tuple[Event, ...]
    next: int | None
    trimmed: bool  # older events existed and were removed by retention
    damaged: bool = False  # the next older events can't be read; `next` leads beneath them


def positions_of(given: Iterable[Mapping[str, int]] | None) -> Positions | None:
    """Positions as an application keeps them, as a table."""
    return None if given is None else {p["shard"]: (p["epoch"], p["sequence"]) for p in given}


class ClientError(Exception):
    """Everything that this library raises by itself; `retryable`: the same call may succeed later unchanged."""

    def __init__(self, code: str, message: str = "", hint: str = "", retryable: bool = False) -> None:
        self.code, self.message, self.hint, self.retryable = code, message, hint, retryable
        super().__init__(": ".join(part for part in (code, message, hint) if part))


class HandshakeRefused(ConnectionError):
    """The gateway's port answered by HTTP instead of opening a session; `retry_after_s` if it named a pause."""

    def __init__(self, url: str, status: int, retry_after_s: float | None) -> None:
        super().__init__(f"{url}: server rejected WebSocket connection: HTTP {status}")
        self.status, self.retry_after_s = status, retry_after_s


class Refused(ClientError):
    """A write that was answered and not stored; `extra` is the limit in question or a pause in ms."""

    def __init__(self, receipt: Receipt) -> None:
        retryable, hint = STATUSES.get(receipt.status, (False, "the server may be newer than this client"))
        super().__init__(receipt.status, f"write {receipt.counter} was not stored", hint, retryable)
        self.receipt, self.extra = receipt, receipt.extra


class Conflict(Refused):
    """The conversation had moved on; `actual` is its last conversation sequence."""

    @property
    def actual(self) -> int:
        """What `expected` would have had to be."""
        return self.receipt.conversation_sequence


class TooOld(Refused):
    """The counter has left the repeat window: whether it was stored can't be said; look into the conversation."""


class Forbidden(Refused):
    """One's role does not allow this."""


class UnknownConversation(Refused):
    """No such conversation, or one that the user may not see."""


class ConversationClosed(Refused):
    """Nothing can be written to it any more."""


class MemberLimit(Refused):
    """The conversation is full; `extra` is the limit."""


class Unchanged(Refused):
    """It is so already: nothing was stored."""


class Busy(Refused):
    """Refused for a passing reason, again and again, until `retry_timeout_s` was over."""


class CommandFailed(ClientError):
    """The server's `error` in answer to a command."""


class SessionEnded(ClientError):
    """The session is over and reconnecting would not help; `close_code` says why."""

    def __init__(self, close_code: int, code: str, hint: str = "") -> None:
        super().__init__(code, f"closed with {close_code}", hint)
        self.close_code = close_code


class HistoryReplaced(ClientError):
    """Raised once while iterating: discard what you hold of `shard` after `sequence`; iterating again goes on."""

    def __init__(self, reset: Reset) -> None:
        super().__init__(
            "reset",
            f"shard {reset.shard} was replaced after sequence {reset.sequence}",
            "discard the events after it, then go on iterating",
        )
        self.reset = reset


class Incomplete(ClientError):
    """A gap could be filled only in part: `trimmed` (older events are gone), `damaged` (some can't be read) or
    `gap_too_large`; iterating goes on with what there is of it."""

    def __init__(self, gap: Gap, code: str) -> None:
        super().__init__(
            code,
            f"events of conversation {gap.conversation} between {gap.after} and {gap.before}",
            "what could be had of them follows; use stream() to treat gaps yourself",
        )
        self.gap = gap


APPENDED = ("appended", "repeat")

# status → (worth retrying as it is, what to do); a test holds it together with the server's table.
STATUSES: dict[str, tuple[bool, str]] = {
    "too_old": (False, "the last 64 counters are remembered; look whether the event is there before writing it again"),
    "counter_jump": (False, "counters go up by small steps; go on from the one in the welcome"),
    "conflict": (False, "read what came, then publish with the actual conversation sequence"),
    "unknown_conversation": (False, "check the id; a conversation that one may not see looks the same"),
    "forbidden": (False, "the role in this conversation does not allow it"),
    "closed": (False, "the conversation takes no more events"),
    "bad_type": (False, "a dotted name of [a-z0-9_], at most 64 bytes, outside the reserved prefixes"),
    "payload_too_large": (False, "at most 65,536 bytes; larger things by reference"),
    "bad_target": (False, "name the sequence of a message of this conversation"),
    "bad_payload": (False, "mend the payload"),
    "member_limit": (False, "the conversation is full"),
    "unchanged": (False, "it is so already"),
    "bad_id": (False, "ids are 1 to 2^53-1"),
    "bad_counter": (False, "counters are 1 to 2^53-1"),
    "too_many_unanswered": (True, "at most 64 writes of a device may be unanswered"),
    "rate_limited": (True, "slow down"),
    "overloaded": (True, "the server refuses writes now; its /readyz says why"),
    "unavailable": (True, "the server's writer has stopped; its /readyz says why"),
}

_CLASSES: dict[str, type[Refused]] = {
    "conflict": Conflict,
    "too_old": TooOld,
    "forbidden": Forbidden,
    "unknown_conversation": UnknownConversation,
    "closed": ConversationClosed,
    "member_limit": MemberLimit,
    "unchanged": Unchanged,
}


def refusal(receipt: Receipt) -> Refused:
    """The exception for a receipt that says no."""
    retryable = STATUSES.get(receipt.status, (False, ""))[0]
    return _CLASSES.get(receipt.status, Busy if retryable else Refused)(receipt)
