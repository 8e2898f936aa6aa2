"""Filters between HTTP and the engine: as query parameters, as JSON, as the engine's definition."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine import Filter, Settings, Start
from gateway.api import shapes


class FilterQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """A filter as query parameters; each may be given several times."""

    types: Annotated[list[shapes.Prefix], Meta(max_length=64, description="prefixes: `message`, `member.`")] = []
    kinds: Annotated[list[shapes.Kind], Meta(max_length=4)] = []
    conversations: Annotated[list[shapes.Id], Meta(max_length=100)] = []
    senders: Annotated[list[shapes.Id], Meta(max_length=100)] = []


def filter_of(found: shapes.FilterShape | FilterQuery) -> Filter:
    """The engine's."""
    return Filter(
        types=tuple(found.types),
        kinds=tuple(found.kinds),
        conversations=tuple(sorted(set(found.conversations))),
        senders=tuple(sorted(set(found.senders))),
        recipient_away=isinstance(found, shapes.FilterShape) and found.recipient_away,
    )


def filter_shape(found: Filter) -> shapes.FilterShape:
    """As JSON shows it."""
    return shapes.FilterShape(
        types=list(found.types),
        kinds=list(found.kinds),  # type: ignore[arg-type]  # they were checked when it was created
        conversations=list(found.conversations),
        senders=list(found.senders),
        recipient_away=found.recipient_away,
    )


def settings_of(found: shapes.SettingsShape) -> Settings:
    """The engine's."""
    return Settings(**{name: getattr(found, name) for name in Settings.__struct_fields__})


def settings_shape(found: Settings) -> shapes.SettingsShape:
    """As JSON shows it."""
    return shapes.SettingsShape(**{name: getattr(found, name) for name in Settings.__struct_fields__})


def start_of(found: shapes.StartShape) -> Start:
    """The engine's, which judges it."""
    return Start(first=found.first, sequence=found.sequence, time=found.time)
