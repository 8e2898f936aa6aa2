"""The poller's own tests once more, with TLS between each client and the poller: what it promises doesn't change.

Left out are tests that count what only a plain session costs, or connect where nobody shakes hands.
"""

from __future__ import annotations

from types import ModuleType

import pytest

import tests.ext.test_poller as hearing
import tests.ext.test_poller_ends as ends
import tests.ext.test_poller_limits as limits
import tests.ext.test_poller_lives as lives
from tests.support.tls_peer import SecurePeer, SecureRig

MODULES: tuple[ModuleType, ...] = (hearing, ends, limits, lives)
LEFT_OUT = {
    "test_idle_sessions_hold_no_buffer",
    "test_unlisten_takes_no_more_and_keeps_the_others",
    "test_closing_a_connection_that_is_no_session_yet",
    "test_over_the_limit_connections_are_told_so_and_health_is_still_answered",  # an alert: see test_shut_door.py
}


@pytest.fixture(autouse=True)
def _over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        monkeypatch.setattr(module, "Rig", SecureRig)
        if hasattr(module, "Peer"):
            monkeypatch.setattr(module, "Peer", SecurePeer)


for _module in MODULES:
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in LEFT_OUT:
            globals()[_name] = _test
