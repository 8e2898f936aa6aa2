"""Payloads of the engine's own event types: MessagePack maps with string keys, typed here and nowhere else.

Between the gateway (packs what clients ask), the keeper of subscriptions (packs what becomes of them), admission
(judges, packs the canonical form) and everyone who folds the log (unpacks). What a client's message says is opaque
and never comes here; of an edit or a reaction only the target is looked at.

Invariants: `pack` is canonical, the same values give the same bytes on every node; unknown keys are ignored, so that
an older reader lives with a newer writer; a payload that doesn't fit raises BadPayload and is answered `bad_payload`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from engine.errors import CallerError
from engine.subscriptions.definition import NAME, Filter, Settings

ID_MAX: Final = (1 << 53) - 1
TITLE_CHARACTERS_MAX: Final = 256
PAYLOAD_BYTES_MAX: Final = 65_536
TYPE_BYTES_MAX: Final = 64
REASON_CHARACTERS_MAX: Final = 1_024
SEQUENCES_MAX: Final = 5_000  # of parked events that one event tells of: 45 KB
RESERVED: Final = ("conversation.", "member.", "message.", "subscription.", "service.")  # nobody else's names

CREATED: Final = "conversation.created"
RENAMED: Final = "conversation.renamed"
CLOSED: Final = "conversation.closed"
ADDED: Final = "member.added"
REMOVED: Final = "member.removed"
LEFT: Final = "member.left"
ROLE: Final = "member.role"
MESSAGE: Final = "message"
EDITED: Final = "message.edited"
DELETED: Final = "message.deleted"
REACTION: Final = "message.reaction"
SUBSCRIPTION_CREATED: Final = "subscription.created"
SUBSCRIPTION_DELETED: Final = "subscription.deleted"
SUBSCRIPTION_PAUSED: Final = "subscription.paused"
SUBSCRIPTION_RESUMED: Final = "subscription.resumed"
SUBSCRIPTION_RESET: Final = "subscription.reset"
SUBSCRIPTION_PARKED: Final = "subscription.parked"
SUBSCRIPTION_REPLAYED: Final = "subscription.replayed"
SUBSCRIPTION_DROPPED: Final = "subscription.dropped"

Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
Position = Annotated[int, Meta(ge=0, le=ID_MAX)]
Name = Annotated[str, Meta(pattern=rf"\A{NAME.pattern}\Z")]
Title = Annotated[str, Meta(max_length=TITLE_CHARACTERS_MAX)]
Sequences = Annotated[list[Id], Meta(min_length=1, max_length=SEQUENCES_MAX)]


class BadPayload(CallerError):
    """The payload does not follow the schema of its type."""

    code = "bad_payload"


class Created(Struct, frozen=True):
    """conversation.created; `history`: a new member sees what came before."""

    kind: str
    title: Title = ""
    history: bool = False
    members: list[tuple[Id, str]] = []


class Renamed(Struct, frozen=True):
    """conversation.renamed."""

    title: Title


class Closed(Struct, frozen=True):
    """conversation.closed."""


class Added(Struct, frozen=True):
    """member.added; an empty role is the kind's ordinary one."""

    user: Id
    role: str = ""


class Removed(Struct, frozen=True):
    """member.removed."""

    user: Id


class Left(Struct, frozen=True):
    """member.left."""

    user: Id


class Role(Struct, frozen=True):
    """member.role."""

    user: Id
    role: str


class Edited(Struct, frozen=True):
    """message.edited: `target` is the sequence of the message."""

    target: Id
    body: bytes = b""


class Deleted(Struct, frozen=True):
    """message.deleted."""

    target: Id


class Reaction(Struct, frozen=True):
    """message.reaction."""

    target: Id
    body: bytes = b""


class SubscriptionCreated(Struct, frozen=True):
    """subscription.created: it gets what comes behind `start`."""

    name: Name
    kind: Literal["ordered", "competing"]
    team: Annotated[str, Meta(max_length=64)]
    filter: Filter
    start: Position
    settings: Settings


class SubscriptionDeleted(Struct, frozen=True):
    """subscription.deleted."""

    name: Name


class SubscriptionPaused(Struct, frozen=True):
    """subscription.paused."""

    name: Name


class SubscriptionResumed(Struct, frozen=True):
    """subscription.resumed."""

    name: Name


class SubscriptionReset(Struct, frozen=True):
    """subscription.reset: it goes on behind `position`."""

    name: Name
    position: Position


class SubscriptionParked(Struct, frozen=True):
    """subscription.parked: the event at `sequence` was put aside after so many deliveries."""

    name: Name
    sequence: Id
    deliveries: Annotated[int, Meta(ge=0, le=ID_MAX)]
    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)] = ""


class SubscriptionReplayed(Struct, frozen=True):
    """subscription.replayed: these parked events are delivered again."""

    name: Name
    sequences: Sequences


class SubscriptionDropped(Struct, frozen=True):
    """subscription.dropped: these parked events are forgotten."""

    name: Name
    sequences: Sequences


SystemPayload = (
    SubscriptionCreated
    | SubscriptionDeleted
    | SubscriptionPaused
    | SubscriptionResumed
    | SubscriptionReset
    | SubscriptionParked
    | SubscriptionReplayed
    | SubscriptionDropped
)
Payload = Created | Renamed | Closed | Added | Removed | Left | Role | Edited | Deleted | Reaction | SystemPayload

SCHEMA: Final[dict[str, type[Payload]]] = {
    CREATED: Created,
    RENAMED: Renamed,
    CLOSED: Closed,
    ADDED: Added,
    REMOVED: Removed,
    LEFT: Left,
    ROLE: Role,
    EDITED: Edited,
    DELETED: Deleted,
    REACTION: Reaction,
    SUBSCRIPTION_CREATED: SubscriptionCreated,
    SUBSCRIPTION_DELETED: SubscriptionDeleted,
    SUBSCRIPTION_PAUSED: SubscriptionPaused,
    SUBSCRIPTION_RESUMED: SubscriptionResumed,
    SUBSCRIPTION_RESET: SubscriptionReset,
    SUBSCRIPTION_PARKED: SubscriptionParked,
    SUBSCRIPTION_REPLAYED: SubscriptionReplayed,
    SUBSCRIPTION_DROPPED: SubscriptionDropped,
}
TARGETED: Final = frozenset({EDITED, DELETED, REACTION})
SYSTEM: Final = frozenset(name for name in SCHEMA if name.startswith("subscription."))
CONTROL: Final = frozenset(SCHEMA) - TARGETED - SYSTEM

_DECODERS = {name: msgspec.msgpack.Decoder(struct_type) for name, struct_type in SCHEMA.items()}
_ENCODER = msgspec.msgpack.Encoder()


def unpack(type_name: str, payload: bytes | memoryview) -> Payload:
    """The payload of an engine type, or BadPayload."""
    try:
        return _DECODERS[type_name].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayload(f"{type_name}: {error}") from None


def pack(payload: Payload) -> bytes:
    """Canonical bytes of a payload."""
    return _ENCODER.encode(payload)


def as_map(payload: Payload) -> dict[str, object]:
    """The payload as a plain map, for JSON frames and tools."""
    return {name: getattr(payload, name) for name in payload.__struct_fields__}


_DIALOG_HEAD = b"\x84\xa4kind\xa6dialog\xa5title\xa0\xa7history\xc3\xa7members\x92\x92\xcf"
_DIALOG_ROLE = b"\xa6member"


def pack_dialog(first: int, second: int) -> bytes:
    """What admission writes for a new dialog: the map of Created with fixed-width ids, so that native code knows it."""
    head, role = _DIALOG_HEAD, _DIALOG_ROLE
    return head + first.to_bytes(8, "big") + role + b"\x92\xcf" + second.to_bytes(8, "big") + role
