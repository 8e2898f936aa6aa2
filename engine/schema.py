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
WORDS_CHARACTERS_MAX: Final = 256  # of what an operator's act names
ROWS_MAX: Final = 64  # of a list in what operators did
SEQUENCES_MAX: Final = 5_000  # of parked events that one event tells of: 45 KB
RESERVED: Final = ("conversation.", "member.", "message.", "subscription.", "admin.")  # nobody else's names

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
ADMIN_KEYS: Final = "admin.keys"
ADMIN_REVOCATIONS: Final = "admin.revocations"
ADMIN_OPTIONS: Final = "admin.options"
ADMIN_TRIMMED: Final = "admin.trimmed"
ADMIN_RESTORED: Final = "admin.restored"
ADMIN_BACKED_UP: Final = "admin.backed_up"
ADMIN_DUMPED: Final = "admin.dumped"
ADMIN_READER_FORGOTTEN: Final = "admin.reader_forgotten"

Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
Position = Annotated[int, Meta(ge=0, le=ID_MAX)]
Name = Annotated[str, Meta(pattern=rf"\A{NAME.pattern}\Z")]
Title = Annotated[str, Meta(max_length=TITLE_CHARACTERS_MAX)]
Words = Annotated[str, Meta(max_length=WORDS_CHARACTERS_MAX)]
Count = Annotated[int, Meta(ge=0, le=ID_MAX)]
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


class AdminKeys(Struct, frozen=True):
    """admin.keys: tokens are judged by these from now on. A key is (kid or "", algorithm, SHA-256 of its public half as
    SubjectPublicKeyInfo, RFC 5280, in hex); `before` are those of the last event, none where it is unknown."""

    keys: Annotated[list[tuple[Words, Words, Words]], Meta(max_length=ROWS_MAX)]
    before: Annotated[list[tuple[Words, Words, Words]], Meta(max_length=ROWS_MAX)] = []


class AdminRevocations(Struct, frozen=True):
    """admin.revocations: this list is in force, a document of this SHA-256 with so many entries, "" for none. `before`:
    the SHA-256 of the last event."""

    sha256: Words
    tokens: Count = 0
    users: Count = 0
    devices: Count = 0
    before: Words = ""


class AdminOptions(Struct, frozen=True):
    """admin.options: (option, value, value before) as JSON, "" for the default; so many `more` are left out."""

    changed: Annotated[list[tuple[Words, Words, Words]], Meta(max_length=ROWS_MAX)]
    more: Count = 0


class Act(Struct, frozen=True, kw_only=True):
    """What a person did by a command: when (µs since 1970), as which user of the machine, and as whom that user had
    logged in (proc_pid_loginuid(5)), where that is known."""

    time: Count
    uid: Count
    login_uid: Count | None = None


class AdminTrimmed(Act, frozen=True, kw_only=True):
    """admin.trimmed: the log was to begin at `first` from then on."""

    first: Id
    segments: Count
    bytes: Count
    force: bool = False


class AdminRestored(Act, frozen=True, kw_only=True):
    """admin.restored: the log up to `last` is that of a backup, and what follows is of the new epoch."""

    backup: Count
    epoch: Count
    last: Position


class AdminBackedUp(Act, frozen=True, kw_only=True):
    """admin.backed_up: a copy of everything was begun, at a place."""

    place: Words


class AdminDumped(Act, frozen=True, kw_only=True):
    """admin.dumped: a copy of these events with their payloads was begun."""

    first: Position
    last: Position


class AdminReaderForgotten(Act, frozen=True, kw_only=True):
    """admin.reader_forgotten: trimming asks this durable reader no more."""

    reader: Words


AdminPayload = (
    AdminKeys
    | AdminRevocations
    | AdminOptions
    | AdminTrimmed
    | AdminRestored
    | AdminBackedUp
    | AdminDumped
    | AdminReaderForgotten
)
SystemPayload = (
    SubscriptionCreated
    | SubscriptionDeleted
    | SubscriptionPaused
    | SubscriptionResumed
    | SubscriptionReset
    | SubscriptionParked
    | SubscriptionReplayed
    | SubscriptionDropped
    | AdminPayload
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
    ADMIN_KEYS: AdminKeys,
    ADMIN_REVOCATIONS: AdminRevocations,
    ADMIN_OPTIONS: AdminOptions,
    ADMIN_TRIMMED: AdminTrimmed,
    ADMIN_RESTORED: AdminRestored,
    ADMIN_BACKED_UP: AdminBackedUp,
    ADMIN_DUMPED: AdminDumped,
    ADMIN_READER_FORGOTTEN: AdminReaderForgotten,
}
TARGETED: Final = frozenset({EDITED, DELETED, REACTION})
OF_SUBSCRIPTIONS: Final = frozenset(name for name in SCHEMA if name.startswith("subscription."))
OF_OPERATORS: Final = frozenset(name for name in SCHEMA if name.startswith("admin."))
SYSTEM: Final = OF_SUBSCRIPTIONS | OF_OPERATORS
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
