"""The contract of subscriptions: what every implementation (in process, remote, the double in memory) keeps.

An `EventSource` gives subscriptions, a `Subscription` gives consumers, a `Consumer` takes deliveries and answers each
event once: ack, retry or park. Whoever gives none gets it again after `ack_timeout_s`. At least once, never skipped.

Invariants: of an ordered subscription each conversation's events come in order, to one consumer at a time; the
cursor moves over contiguous acks only, and what an ack says is synced when it returns; a fenced consumer's word
counts for nothing and raises Fenced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from engine.errors import BadArgument, CallerError, EngineUnable
from engine.subscriptions.definition import AT_LAST, DEFAULTS, EVERYTHING, Definition, Filter, Kind, Settings, Start

OnReached = Callable[[int], None]


class UnknownSubscription(CallerError):
    """No subscription of that name that this caller may know of."""

    code = "unknown_subscription"
    hint = "create it first; `gonets subscriptions list` names those there are"


class BeyondEnd(BadArgument):
    """A position that the log has not reached: of another log, or of one that was begun anew. What a receipt names is
    never beyond: it is given when every reader of the log finds the event."""

    code = "beyond_end"
    hint = "the position is of another log, or this one was begun anew: begin at 0, or at the log's end"


def check_end(position: int, end: int, what: str = "position") -> None:
    """Raises BeyondEnd, BadArgument."""
    if position < 0:
        raise BadArgument(f"{what} {position}: must be 0 to {end}, where the log ends")
    if position > end:
        raise BeyondEnd(f"{what} {position}: the log ends at {end}; must be 0 to {end}")


class SubscriptionExists(CallerError):
    """There is one of this name that is defined otherwise. The same definition again is no error."""

    code = "subscription_exists"
    hint = "delete it first, or take another name: a definition never changes"


def exists(found: Definition, team: str) -> SubscriptionExists:
    """The refusal of a name; what another team has made is not shown, nor may it be deleted."""
    if found.team != team:
        return SubscriptionExists(
            f"the name {found.name!r} is another team's: names are taken for all", hint="take another name"
        )
    return SubscriptionExists(f"there is a subscription {found.name!r}, {found.kind}, defined otherwise")


class Fenced(CallerError):
    """This consumer's generation is over: its share went to another, it was away too long, or it has left."""

    code = "fenced"
    retryable = True
    hint = "join again; what was not acked is delivered again, to whoever holds the share now"


class NotInFlight(CallerError):
    """Not in flight with this consumer: acked before, delivered elsewhere after its time, or never sent."""

    code = "not_in_flight"


class Paused(EngineUnable):
    """The subscription is paused: nothing is handed out until it is resumed."""

    code = "paused"


class LimitReached(CallerError):
    """A quota or limit; the text names it and its value."""

    code = "limit_reached"
    retryable = True


class KeyReused(CallerError):
    """The key belongs to an event of another conversation: this one is not in the log."""

    code = "key_reused"
    hint = "give each event a key of its own, and the same one only to the same event sent again"


class StoredEvent(NamedTuple):
    """One event as a consumer gets it. `deliveries`: how often it was delivered, this one counted. `away`: members
    without a live session, where the filter asks for that (at most AWAY_MAX of them)."""

    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int
    time: int
    sender: int
    device: int
    counter: int
    type: str
    payload: bytes
    deliveries: int = 1
    away: tuple[int, ...] = ()


class Packed(NamedTuple):
    """Events as the log holds them, one behind the other: each a u32 of size and a u16 of deliveries, little-endian,
    then the record (what `ext.picks` packs and unpacks)."""

    count: int  # type: ignore[assignment]  # not tuple's method
    last: int
    """Sequence of the last one; 0 if there is none."""
    deliveries: int
    """Of all of them, 0: as each of them says."""
    data: bytes


class ParkedEvent(Struct, frozen=True, kw_only=True):
    """One that was put aside: by its consumer, or after `deliveries_max` deliveries."""

    sequence: int
    conversation: int
    type: str
    deliveries: int
    reason: str
    time: int
    """µs since 1970 when it was parked."""


class Standing(Struct, frozen=True, kw_only=True):
    """A subscription as it stands now."""

    definition: Definition
    paused: bool
    created: int
    """Sequence of its `subscription.created`."""
    cursor: int
    """All wanted events up to this sequence are acked or parked."""
    lag_events: int
    """Events of the log behind the cursor, wanted or not."""
    oldest_unacked_s: float
    """Age of the first event behind the cursor that was delivered; 0 if there is none."""
    in_flight: int
    parked: int
    consumers: tuple[str, ...]


class Receipt(NamedTuple):
    """An event that is in the log, synced. `repeat`: since an earlier publish with the same key."""

    sequence: int
    conversation: int
    conversation_sequence: int
    time: int
    repeat: bool


class Consumer(Protocol):
    """One member of a subscription's group, from join to leave. One task at a time may `take`."""

    name: str
    generation: int

    async def take(self, *, events_max: int = 1_000, wait_s: float = 30.0) -> list[StoredEvent]:
        """The next events, in order; [] if none came in time. Raises Fenced, Paused, and Trimmed where the log has lost
        what the subscription has still to read: `first_available` says where it begins, and a reset goes on there."""

    async def take_packed(self, *, events_max: int = 1_000, bytes_max: int = 262_144, wait_s: float = 30.0) -> Packed:
        """As `take`, without an object for each event; one larger than bytes_max comes alone. Raises Fenced, Paused,
        and BadArgument where the filter asks for members who are away: those are not in the record."""

    async def ack(self, sequences: Sequence[int]) -> None:
        """They are handled. An event acked before is passed over; raises Fenced, NotInFlight (others are acked)."""

    async def ack_up_to(self, sequence: int) -> None:
        """Everything delivered to this consumer up to a sequence, but for what it gave to retry or park."""

    async def retry(self, sequence: int, *, delay_s: float | None = None) -> None:
        """Deliver it again after a delay; None: the back-off of the settings. Ordered: what was delivered behind it of
        its conversation comes again behind it."""

    async def extend(self, sequences: Sequence[int], extend_s: float) -> None:
        """They need longer: their time ends so much after now."""

    async def park(self, sequence: int, *, reason: str = "") -> None:
        """Put it aside for people to look at, and go on."""

    async def leave(self) -> None:
        """Gives its shares and what is in flight back at once."""


class Subscription(Protocol):
    """A handle to one subscription."""

    name: str

    async def standing(self) -> Standing:
        """As it stands now."""

    async def join(self, consumer: str = "", *, in_flight_max: int | None = None) -> Consumer:
        """A consumer of that name ("" = a fresh one) begins; one of the same name is fenced."""

    async def pause(self) -> None:
        """Nothing is handed out until `resume`; what is in flight may be answered."""

    async def resume(self) -> None:
        """Goes on."""

    async def reset(self, start: Start) -> None:
        """The cursor goes there, forward or back; what is in flight is fenced. Raises BeyondEnd, and Trimmed
        with what is kept."""

    async def parked(self, *, after: int = 0, limit: int = 100) -> list[ParkedEvent]:
        """Those behind a sequence, ascending."""

    async def replay(self, sequences: Sequence[int]) -> int:
        """Parked events are delivered again; how many were parked."""

    async def drop(self, sequences: Sequence[int]) -> int:
        """Parked events are forgotten; how many were parked."""


class EventSource(Protocol):
    """The event stream. `read` needs no subscription and keeps no place."""

    async def create(
        self,
        name: str,
        kind: Kind,
        *,
        start: Start = AT_LAST,
        filter: Filter = EVERYTHING,
        settings: Settings = DEFAULTS,
    ) -> Subscription:
        """Creates it, or gives the one that is defined alike. Raises SubscriptionExists, BadArgument, BeyondEnd,
        Trimmed."""

    async def subscription(self, name: str) -> Subscription:
        """One that there is. Raises UnknownSubscription."""

    async def subscriptions(self) -> list[Standing]:
        """All that this caller may know of, by name."""

    async def delete(self, name: str) -> None:
        """It and its cursor, parked events too. Raises UnknownSubscription."""

    def read(
        self,
        *,
        after: int,
        filter: Filter = EVERYTHING,
        live: bool = False,
        on_reached: OnReached | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Events behind a sequence, to the end of the log, or on and on. `on_reached` hears now and then up to where
        all that is wanted has been given: with a rare filter that is far behind the last event. Raises Trimmed,
        BeyondEnd."""


class Publisher(Protocol):
    """Writes to the log as a service."""

    async def publish(
        self,
        type: str,
        payload: bytes,
        *,
        conversation: int = 0,
        person: int = 0,
        key: str = "",
        expected: int | None = None,
    ) -> Receipt:
        """One event; `key` makes a repeat harmless for at least 24 h. Raises engine.errors.CallerError and
        EngineUnable kinds named as the statuses of engine/errors.py."""

    async def command(self, type: str, conversation: int, fields: dict[str, Any], *, key: str = "") -> Receipt:
        """A control event (conversation.created with conversation 0, member.added …), its payload as fields."""
