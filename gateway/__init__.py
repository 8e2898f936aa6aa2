"""The face of the gateway: the clients' door. What others may import by name; the rest is its own business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.backend import BackendClient
    from gateway.client import Client
    from gateway.listener import StartError
    from gateway.processes.serve import serve_processes
    from gateway.serve import serve

__all__ = ["BackendClient", "Client", "StartError", "serve", "serve_processes"]

_HOMES = {
    "BackendClient": "gateway.backend",
    "Client": "gateway.client",
    "StartError": "gateway.listener",
    "serve": "gateway.serve",
    "serve_processes": "gateway.processes.serve",
}


def __getattr__(name: str) -> Any:
    """Loaded at first use: the client needs no server, the command line needs neither to print a token."""
    if name in _HOMES:
        from importlib import import_module

        # Kept, because importing gateway.serve has just put the module of that name in the function's place.
        globals()[name] = found = getattr(import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
