"""The face of the engine: what gateway, adapters and benchmarks may import by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import errors, history, limits, private, schema
    from engine.answers import pack_proposal
    from engine.catchup import CatchUp
    from engine.config import ConfigError, config_changes, split_address
    from engine.conversations import Right, may
    from engine.engine import Engine
    from engine.errors import OVERLOADED, CallerError, DataUntrusted, EngineError
    from engine.fanout import Fanout
    from engine.follower import Follower, SequencerAway
    from engine.hub import Hub
    from engine.log import CursorStore, EventLog, Log, look_at_data, saved_position, writer_of
    from engine.options import Config
    from engine.options_admission import Admission, networks
    from engine.ports import Gap, LogReader
    from engine.readers import ReaderPool
    from engine.router import Router
    from engine.state.rows import Conversation, Membership
    from engine.state.view import View
    from engine.tail import Tail

__all__ = [
    "OVERLOADED",
    "Admission",
    "CallerError",
    "CatchUp",
    "Config",
    "ConfigError",
    "Conversation",
    "CursorStore",
    "DataUntrusted",
    "Engine",
    "EngineError",
    "EventLog",
    "Fanout",
    "Follower",
    "Gap",
    "Hub",
    "Log",
    "LogReader",
    "Membership",
    "ReaderPool",
    "Right",
    "Router",
    "SequencerAway",
    "Tail",
    "View",
    "config_changes",
    "errors",
    "history",
    "limits",
    "look_at_data",
    "may",
    "networks",
    "pack_proposal",
    "private",
    "saved_position",
    "schema",
    "split_address",
    "writer_of",
]

_HOMES = {
    "OVERLOADED": "engine.errors",
    "Admission": "engine.options_admission",
    "CallerError": "engine.errors",
    "CatchUp": "engine.catchup",
    "Config": "engine.options",
    "ConfigError": "engine.config",
    "Conversation": "engine.state.rows",
    "CursorStore": "engine.log",
    "DataUntrusted": "engine.errors",
    "Engine": "engine.engine",
    "EngineError": "engine.errors",
    "EventLog": "engine.log",
    "Fanout": "engine.fanout",
    "Follower": "engine.follower",
    "Gap": "engine.ports",
    "Log": "engine.log",
    "Hub": "engine.hub",
    "LogReader": "engine.ports",
    "Membership": "engine.state.rows",
    "ReaderPool": "engine.readers",
    "Right": "engine.conversations",
    "Router": "engine.router",
    "SequencerAway": "engine.follower",
    "Tail": "engine.tail",
    "View": "engine.state.view",
    "config_changes": "engine.config",
    "look_at_data": "engine.log",
    "may": "engine.conversations",
    "networks": "engine.options_admission",
    "pack_proposal": "engine.answers",
    "saved_position": "engine.log",
    "split_address": "engine.config",
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
