"""The face of the engine: what gateway, adapters and benchmarks may import by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import console, errors, history, limits, private, schema
    from engine.answers import pack_proposal
    from engine.audit import Audit, InForce, Revocations
    from engine.catchup import CatchUp
    from engine.config import ConfigError, config_changes, not_default, split_address
    from engine.conversations import ENGINE_ITSELF, Right, may
    from engine.engine import Engine
    from engine.errors import OVERLOADED, CallerError, DataUntrusted, EngineError
    from engine.fanout import Fanout
    from engine.follower import Follower, SequencerAway
    from engine.hub import Hub
    from engine.log import CursorStore, EventLog, Log, look_at_data, saved_position, writer_of
    from engine.options import Config
    from engine.options_admission import Admission, networks
    from engine.options_api import Api
    from engine.ports import Gap, LogReader
    from engine.projection_stores import LmdbState
    from engine.projections import Projection, lmdb_projection, sqlite_projection
    from engine.readers import ReaderPool
    from engine.router import Router
    from engine.state.rows import Conversation, Membership
    from engine.state.view import View
    from engine.subscriptions.clock import HandClock
    from engine.subscriptions.definition import Definition, Filter, Settings, Start
    from engine.subscriptions.known import ViewConversations
    from engine.subscriptions.loop import ConsumerLoop, Park, Retry
    from engine.subscriptions.manager import Subscriptions
    from engine.subscriptions.memory import EngineInMemory
    from engine.subscriptions.ports import (
        BeyondEnd,
        Consumer,
        EventSource,
        Fenced,
        KeyReused,
        LimitReached,
        NotInFlight,
        Packed,
        ParkedEvent,
        Paused,
        Publisher,
        Receipt,
        Standing,
        StoredEvent,
        Subscription,
        SubscriptionExists,
        UnknownSubscription,
    )
    from engine.subscriptions.publishing import Publishing
    from engine.subscriptions.refusals import NotAllowed, NotNow, Refused, check_target, error_of, refusal
    from engine.tail import Tail

__all__ = [
    "ENGINE_ITSELF",
    "OVERLOADED",
    "Admission",
    "Api",
    "Audit",
    "BeyondEnd",
    "CallerError",
    "CatchUp",
    "Config",
    "ConfigError",
    "Consumer",
    "ConsumerLoop",
    "Conversation",
    "CursorStore",
    "DataUntrusted",
    "Definition",
    "Engine",
    "EngineError",
    "EngineInMemory",
    "EventLog",
    "EventSource",
    "Fanout",
    "Fenced",
    "Filter",
    "Follower",
    "Gap",
    "HandClock",
    "Hub",
    "InForce",
    "KeyReused",
    "LimitReached",
    "LmdbState",
    "Log",
    "LogReader",
    "Membership",
    "NotAllowed",
    "NotInFlight",
    "NotNow",
    "Packed",
    "Park",
    "ParkedEvent",
    "Paused",
    "Projection",
    "Publisher",
    "Publishing",
    "ReaderPool",
    "Receipt",
    "Refused",
    "Retry",
    "Revocations",
    "Right",
    "Router",
    "SequencerAway",
    "Settings",
    "Standing",
    "Start",
    "StoredEvent",
    "Subscription",
    "SubscriptionExists",
    "Subscriptions",
    "Tail",
    "UnknownSubscription",
    "View",
    "ViewConversations",
    "check_target",
    "config_changes",
    "console",
    "error_of",
    "errors",
    "history",
    "limits",
    "lmdb_projection",
    "look_at_data",
    "may",
    "networks",
    "not_default",
    "pack_proposal",
    "private",
    "refusal",
    "saved_position",
    "schema",
    "split_address",
    "sqlite_projection",
    "writer_of",
]

_HOMES = {
    "OVERLOADED": "engine.errors",
    "Admission": "engine.options_admission",
    "Api": "engine.options_api",
    "Audit": "engine.audit",
    "BeyondEnd": "engine.subscriptions.ports",
    "CallerError": "engine.errors",
    "CatchUp": "engine.catchup",
    "Config": "engine.options",
    "ConfigError": "engine.config",
    "Consumer": "engine.subscriptions.ports",
    "ConsumerLoop": "engine.subscriptions.loop",
    "Conversation": "engine.state.rows",
    "CursorStore": "engine.log",
    "DataUntrusted": "engine.errors",
    "Definition": "engine.subscriptions.definition",
    "Engine": "engine.engine",
    "EngineError": "engine.errors",
    "EngineInMemory": "engine.subscriptions.memory",
    "EventLog": "engine.log",
    "EventSource": "engine.subscriptions.ports",
    "Fanout": "engine.fanout",
    "Fenced": "engine.subscriptions.ports",
    "Filter": "engine.subscriptions.definition",
    "Follower": "engine.follower",
    "Gap": "engine.ports",
    "HandClock": "engine.subscriptions.clock",
    "Hub": "engine.hub",
    "InForce": "engine.audit",
    "KeyReused": "engine.subscriptions.ports",
    "LimitReached": "engine.subscriptions.ports",
    "LmdbState": "engine.projection_stores",
    "Log": "engine.log",
    "LogReader": "engine.ports",
    "Membership": "engine.state.rows",
    "NotAllowed": "engine.subscriptions.refusals",
    "NotInFlight": "engine.subscriptions.ports",
    "NotNow": "engine.subscriptions.refusals",
    "Packed": "engine.subscriptions.ports",
    "Park": "engine.subscriptions.loop",
    "ParkedEvent": "engine.subscriptions.ports",
    "Paused": "engine.subscriptions.ports",
    "Projection": "engine.projections",
    "Publisher": "engine.subscriptions.ports",
    "Publishing": "engine.subscriptions.publishing",
    "ReaderPool": "engine.readers",
    "Receipt": "engine.subscriptions.ports",
    "Refused": "engine.subscriptions.refusals",
    "Retry": "engine.subscriptions.loop",
    "Revocations": "engine.audit",
    "ENGINE_ITSELF": "engine.conversations",
    "Right": "engine.conversations",
    "Router": "engine.router",
    "SequencerAway": "engine.follower",
    "Settings": "engine.subscriptions.definition",
    "Standing": "engine.subscriptions.ports",
    "Start": "engine.subscriptions.definition",
    "StoredEvent": "engine.subscriptions.ports",
    "Subscription": "engine.subscriptions.ports",
    "SubscriptionExists": "engine.subscriptions.ports",
    "Subscriptions": "engine.subscriptions.manager",
    "Tail": "engine.tail",
    "UnknownSubscription": "engine.subscriptions.ports",
    "View": "engine.state.view",
    "ViewConversations": "engine.subscriptions.known",
    "check_target": "engine.subscriptions.refusals",
    "config_changes": "engine.config",
    "error_of": "engine.subscriptions.refusals",
    "lmdb_projection": "engine.projections",
    "look_at_data": "engine.log",
    "may": "engine.conversations",
    "networks": "engine.options_admission",
    "not_default": "engine.config",
    "pack_proposal": "engine.answers",
    "refusal": "engine.subscriptions.refusals",
    "saved_position": "engine.log",
    "split_address": "engine.config",
    "sqlite_projection": "engine.projections",
    "writer_of": "engine.log",
}


def __getattr__(name: str) -> Any:
    """Loaded at first use: who packs a proposal or reads a configuration doesn't pay for the whole engine."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"engine.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
