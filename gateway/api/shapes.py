"""The shapes of what goes in and out over HTTP: the one source of validation, of the OpenAPI and AsyncAPI documents.

Structs of msgspec; a request with a field that is unknown is refused, so that a slip of the pen is not silence. What a
subscription is says engine/subscriptions/definition.py; here its limits are written so that documents show them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

ID_MAX = 2**53 - 1

Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
Number = Annotated[int, Meta(ge=0, le=ID_MAX)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="1 to 64 of a-z, 0-9, '.', '_', '-', letter or digit first"
    ),
]
EventType = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$",
        max_length=64,
        description="a dotted lower-case name; `conversation.`, `member.` and others are the engine's own",
    ),
]
Prefix = Annotated[str, Meta(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$", max_length=64)]
KeyText = Annotated[str, Meta(max_length=256, description="makes a repeat harmless for at least 24 hours")]
Kind = Literal["dialog", "group", "channel", "system"]
EVENT_PATTERN = r"^([0-9]{1,4}-[0-9]{1,10}:)?[0-9]{1,16}$"
EventId = Annotated[
    str,
    Meta(
        pattern=EVENT_PATTERN,
        description="an event's id, shard-epoch:sequence, or its sequence alone",
    ),
]
Sequences = Annotated[list[Id], Meta(min_length=1, max_length=10_000)]
Generation = Annotated[int, Meta(ge=0, le=ID_MAX, description="as join gave it; of another one it is `fenced`")]
Delay = Annotated[float, Meta(ge=0, le=86_400)]


# ---- events ----------------------------------------------------------------------------------------------------------


class NewEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event to publish: into a conversation, or to a person (the first makes the dialog)."""

    type: Annotated[EventType, Meta(examples=["order.paid"])]
    conversation: Annotated[Id | None, Meta(examples=[17])] = None
    person: Annotated[Id | None, Meta(description="the other person of a dialog, instead of a conversation")] = None
    data: (
        Annotated[Raw, Meta(description="the payload as JSON; stored as it is written here", examples=[{"sum": 5}])]
        | UnsetType
    ) = UNSET
    data_base64: (
        Annotated[
            str, Meta(max_length=87_400, description="the payload, at most 65,536 bytes, in base64; instead of data")
        ]
        | UnsetType
    ) = UNSET
    key: KeyText = ""
    expected: Annotated[
        Number | None, Meta(description="the conversation's last conversation sequence, or the publish is refused")
    ] = None


class NewEvents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events to publish at once; each has its own fate."""

    events: Annotated[list[NewEvent], Meta(description="at most api.batch_events_max (1,000 by default)")]


class Published(Struct, frozen=True, kw_only=True):
    """The receipt of one event: it is in the log, synced."""

    id: str
    sequence: int
    conversation: int
    conversation_sequence: int
    time: str
    repeat: bool
    """In the log since an earlier publish with the same key."""


# ---- conversations ---------------------------------------------------------------------------------------------------


class NewConversation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation to create; the service's user owns it."""

    kind: Literal["group", "channel"]
    title: Annotated[str, Meta(min_length=1, max_length=256)]
    members: Annotated[list[Id], Meta(max_length=5_000, description="of a group; a channel begins without")] = []
    history: Annotated[bool, Meta(description="whether a new member sees what came before")] = True
    key: KeyText = ""


class ConversationView(Struct, frozen=True, kw_only=True):
    """A conversation as it is now."""

    conversation: int
    kind: str
    title: str
    history: bool
    closed: bool
    members: int
    sequence: int
    """Of its last event."""
    conversation_sequence: int


class NewMember(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How somebody becomes a member."""

    role: Annotated[str, Meta(max_length=16, description="empty = the ordinary one of the kind")] = ""


class Member(Struct, frozen=True):
    """One member."""

    user: int
    role: str


class Members(Struct, frozen=True, kw_only=True):
    """A page of members, ascending by user."""

    members: list[Member]
    next: int | None
    """`after` of the next page; null = no more."""


# ---- subscriptions ---------------------------------------------------------------------------------------------------


class FilterShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of the log is wanted. Empty lists want all; what is named in several must hold together."""

    types: Annotated[
        list[Prefix], Meta(max_length=64, description="`message` wants message and message.edited, `member.` all below")
    ] = []
    kinds: Annotated[list[Kind], Meta(max_length=4)] = []
    conversations: Annotated[list[Id], Meta(max_length=10_000)] = []
    senders: Annotated[list[Id], Meta(max_length=10_000)] = []
    recipient_away: Annotated[
        bool, Meta(description="only where a member other than the sender has no live session")
    ] = False


class SettingsShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How deliveries behave."""

    ack_timeout_s: Annotated[float, Meta(ge=1, le=43_200)] = 30.0
    deliveries_max: Annotated[int, Meta(ge=0, le=1_000, description="then an event is parked; 0 = never")] = 10
    retry_min_s: Annotated[float, Meta(ge=0, le=3_600)] = 0.5
    retry_max_s: Annotated[float, Meta(ge=0, le=43_200, description="not below retry_min_s")] = 60.0
    in_flight_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000


class StartShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to begin: exactly one of the fields; none = with what comes from now on."""

    first: Annotated[bool, Meta(description="with the first event that is kept")] = False
    sequence: Annotated[Number | None, Meta(description="behind this one; 0 = the first there ever was")] = None
    time: Annotated[Number | None, Meta(description="µs since 1970, UTC: with the first event of then or later")] = None


class NewSubscription(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscription to create."""

    name: Annotated[Name, Meta(examples=["mail"])]
    kind: Annotated[
        Literal["ordered", "competing"],
        Meta(description="ordered: each conversation's events in order to one consumer; competing: any takes the next"),
    ]
    start: StartShape = StartShape()
    filter: FilterShape = FilterShape()
    settings: SettingsShape = SettingsShape()


class SubscriptionView(Struct, frozen=True, kw_only=True):
    """A subscription as it stands now."""

    name: str
    kind: str
    team: str
    position: int
    """Where it began: it gets what comes behind this sequence."""
    filter: FilterShape
    settings: SettingsShape
    paused: bool
    created: int
    cursor: int
    """All wanted events up to this sequence are acked or parked."""
    lag_events: int
    oldest_unacked_s: float
    in_flight: int
    parked: int
    consumers: list[str]


class Subscriptions(Struct, frozen=True, kw_only=True):
    """All subscriptions of the team, by name."""

    subscriptions: list[SubscriptionView]


class Reset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a subscription goes on, forward or back."""

    start: StartShape


class ParkedView(Struct, frozen=True, kw_only=True):
    """An event that was put aside."""

    id: str
    sequence: int
    conversation: int
    type: str
    deliveries: int
    reason: str
    time: str


class ParkedPage(Struct, frozen=True, kw_only=True):
    """A page of parked events, ascending."""

    parked: list[ParkedView]
    next: int | None


class SequenceList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parked events, by sequence."""

    sequences: Sequences


class Counted(Struct, frozen=True, kw_only=True):
    """How many of those named were there."""

    count: int


# ---- consumers -------------------------------------------------------------------------------------------------------


class NewConsumer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A consumer that joins; one of the same name is fenced."""

    name: Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9._-]{0,63})?$", description="empty = a fresh one")] = ""
    in_flight_max: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class ConsumerView(Struct, frozen=True, kw_only=True):
    """A consumer that has joined."""

    name: str
    generation: int
    idle_s_max: Annotated[
        float,
        Meta(
            description="silent for longer, before its first pull too, it has left: api.consumer_idle_s or the"
            " subscription's ack_timeout_s, whichever is less"
        ),
    ]


class Pull(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for the next events."""

    generation: Generation
    events_max: Annotated[int, Meta(ge=1, le=100_000)] = 100
    wait_s: Annotated[float, Meta(ge=0, le=600, description="how long to wait for the first; 0 = not at all")] = 0.0


class Ack(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events that are handled: these, or all that this consumer was given up to one."""

    generation: Generation
    sequences: Annotated[list[Id], Meta(max_length=100_000, examples=[[42, 43]])] = []
    up_to: Number | None = None


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events to deliver again."""

    generation: Generation
    sequences: Sequences
    delay_s: Annotated[Delay | None, Meta(description="null: the back-off of the settings")] = None


class Extend(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events that need longer."""

    generation: Generation
    sequences: Sequences
    extend_s: Annotated[float, Meta(gt=0, le=43_200)]


class Park(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events to put aside for people to look at."""

    generation: Generation
    sequences: Sequences
    reason: Annotated[str, Meta(max_length=256)] = ""
