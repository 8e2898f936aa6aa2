"""A server with its door for backends, and a client of one service, for the benchmarks of subscriptions.

Quotas are out of the way: what is measured is the engine and the door.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.clients import Issuer
from bench.harness import Child, gateway
from gateway import BackendClient

USER: Final = 1 << 40
TEAM: Final = "bench"
SCOPE: Final = "read:* publish:* subscriptions audit"
SETTINGS: Final[dict[str, Any]] = {
    "GONETS_SERVER_API": "127.0.0.1:0",
    "GONETS_SERVER_ADMIN": "127.0.0.1:0",
    "GONETS_API_CONNECTIONS_MAX": "10000",
    "GONETS_API_SUBSCRIPTIONS_MAX": "10000",
    "GONETS_API_STREAMS_MAX": "10000",
    "GONETS_API_READS_PER_S_MAX": "1000000000",
    "GONETS_API_READ_BYTES_PER_S_MAX": "1000000000000",
    "GONETS_API_PUBLISHES_PER_S_MAX": "10000000",
    "GONETS_API_PUBLISH_BYTES_PER_S_MAX": "1000000000",
}


def backends_server(folder: Path, issuer: Issuer) -> Child:
    """Over the log in the folder, or a new one."""
    return gateway(folder, issuer, computing=False, tls=False, **SETTINGS)


def backend_of(server: Child, issuer: Issuer) -> BackendClient:
    """A service that may do everything."""
    return BackendClient(str(server.ready["api"]), issuer.service(USER, TEAM, SCOPE))
