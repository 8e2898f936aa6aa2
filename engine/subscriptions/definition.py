"""What a subscription is: its kind, where it begins, what it wants, and how its deliveries behave.

Stored as the payload of `subscription.created` (engine/schema.py packs it), shown by every interface. Plain values:
nothing here reads the log. Limits are checked by `checked`, which names the value, the limit and what to change.

Invariants: a definition never changes; whoever wants another one deletes it and creates that.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from msgspec import Struct

from engine.errors import BadArgument

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PREFIX: Final = re.compile(r"(?=.{1,64}\Z)[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
TYPES_MAX: Final = 64  # prefixes of a filter
IDS_MAX: Final = 10_000  # conversations, or senders, of a filter
KINDS: Final = ("dialog", "group", "channel", "system")
ID_MAX: Final = 2**53 - 1
AWAY_MAX: Final = 1_000  # members of a conversation that are looked at for `recipient_away`
TEAM_CHARACTERS_MAX: Final = 64
PREFIX_BYTES_MAX: Final = 64
TIME_US_MIN: Final = 10**14  # in 1973: a lower number that isn't 0 counts seconds or milliseconds
AHEAD_US_MAX: Final = 60_000_000  # of a start's time: the caller's clock may be ahead of this one

Kind = Literal["ordered", "competing"]


class Filter(Struct, frozen=True, kw_only=True):
    """What of the log a subscription wants. Empty lists want all; what is named in several must hold together."""

    types: tuple[str, ...] = ()
    """Prefixes at a dot: "message" wants message and message.edited, "member." all of member."""
    kinds: tuple[str, ...] = ()
    """Of the conversation: dialog, group, channel, system."""
    conversations: tuple[int, ...] = ()
    senders: tuple[int, ...] = ()
    recipient_away: bool = False
    """Only where a member other than the sender has no live session when the event is handed out."""

    @property
    def is_narrow(self) -> bool:
        """Whether a block's summary (ext/summary) may say that it has nothing."""
        return bool(self.types or self.conversations or self.senders)


class Settings(Struct, frozen=True, kw_only=True):
    """How deliveries behave."""

    ack_timeout_s: float = 30.0
    """Without an ack, retry, park or extend for so long the event is delivered again, 1 to 43,200."""
    deliveries_max: int = 10
    """Delivered so often without an ack, an event is parked, 1 to 1,000; 0 = never."""
    retry_min_s: float = 0.5
    """Before the second delivery; each later one waits twice as long, 0 to 3,600."""
    retry_max_s: float = 60.0
    in_flight_max: int = 10_000
    """Events delivered and not acked: of a consumer (ordered), of the subscription (competing), 1 to 1,000,000."""


class Start(Struct, frozen=True, kw_only=True):
    """Where to begin: exactly one of the fields, none = at the last event (only what comes from now on)."""

    first: bool = False
    sequence: int | None = None
    """The event before the first wanted one; 0 = the first."""
    time: int | None = None
    """µs since 1970, UTC: the first event of this time or later."""


class Definition(Struct, frozen=True, kw_only=True):
    """A subscription as it was created. `position`: it gets what comes behind this sequence."""

    name: str
    kind: Kind
    team: str
    position: int
    filter: Filter = Filter()
    settings: Settings = Settings()


AT_LAST: Final = Start()
EVERYTHING: Final = Filter()
DEFAULTS: Final = Settings()


def check_name(name: str) -> str:
    """The name, if it can be one. Raises BadArgument."""
    if not NAME.fullmatch(name):
        raise BadArgument(
            f"subscription {name!r}: a name has 1 to 64 of a-z, 0-9, '.', '_', '-', a letter or digit first"
        )
    return name


def checked(definition: Definition) -> Definition:
    """The definition, if all of it is within its limits. Raises BadArgument, which names the value and the limit."""
    check_name(definition.name)
    if definition.kind not in ("ordered", "competing"):
        raise BadArgument(f"kind {definition.kind!r}: a subscription is ordered or competing")
    if len(definition.team) > TEAM_CHARACTERS_MAX:
        raise BadArgument(f"team of {len(definition.team)} characters: at most {TEAM_CHARACTERS_MAX}")
    _check_filter(definition.filter)
    settings = definition.settings
    for name, value, least, most in (
        ("ack_timeout_s", settings.ack_timeout_s, 1, 43_200),
        ("deliveries_max", settings.deliveries_max, 0, 1_000),
        ("retry_min_s", settings.retry_min_s, 0, 3_600),
        ("retry_max_s", settings.retry_max_s, 0, 43_200),
        ("in_flight_max", settings.in_flight_max, 1, 1_000_000),
    ):
        if not least <= value <= most:  # NaN is refused too
            raise BadArgument(f"{name} {value:g}: must be {least:,} to {most:,}")
    if settings.retry_max_s < settings.retry_min_s:
        raise BadArgument(f"retry_max_s {settings.retry_max_s:g} is below retry_min_s {settings.retry_min_s:g}")
    return definition


def _check_filter(filter: Filter) -> None:
    if len(filter.types) > TYPES_MAX:
        raise BadArgument(f"{len(filter.types)} types in a filter: at most {TYPES_MAX} prefixes")
    for prefix in filter.types:
        if not PREFIX.fullmatch(prefix):
            raise BadArgument(
                f"type {prefix[:80]!r} in a filter: a dotted lower-case name of at most {PREFIX_BYTES_MAX} bytes",
                hint="'message' wants message and message.edited, 'member.' all of member",
            )
    for kind in filter.kinds:
        if kind not in KINDS:
            raise BadArgument(f"kind {kind!r} in a filter: one of {', '.join(KINDS)}")
    for what, ids in (("conversations", filter.conversations), ("senders", filter.senders)):
        if len(ids) > IDS_MAX:
            raise BadArgument(f"{len(ids)} {what} in a filter: at most {IDS_MAX:,}")
        for one in ids:
            if not 1 <= one <= ID_MAX:
                raise BadArgument(f"{one} among the {what} of a filter: ids are 1 to {ID_MAX} (2^53-1)")


def check_unit(time_us: int) -> None:
    """What a start at a time says where its number can't be one of microseconds. Raises BadArgument."""
    if time_us < 0 or 0 < time_us < TIME_US_MIN:
        raise BadArgument(
            f"start time {time_us}: must be µs since 1970, UTC; 0, or at least {TIME_US_MIN}, which is in 1973",
            hint="seconds × 1,000,000, milliseconds × 1,000",
        )


def check_time(time_us: int, now_us: int) -> None:
    """What a start at a time says where the log has no event of then or later. Raises BadArgument."""
    if time_us > now_us + AHEAD_US_MAX:
        raise BadArgument(
            f"start time {time_us}, {_shown(time_us)}: the log has no event of then or later, and here it is"
            f" {_shown(now_us)}; at most {AHEAD_US_MAX // 1_000_000} s ahead",
            hint="a time is µs since 1970, UTC; name none of first, sequence and time to begin with what comes from"
            " now on",
        )


def _shown(time_us: int) -> str:
    try:
        return (EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        return "beyond the year 9999"
