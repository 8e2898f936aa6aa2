"""The gateway's tests of hello, commands, bad input and slow readers once more, on a port that speaks TLS.

Nothing of the protocol changes below TLS; the fixtures of this folder and `running` give gateways with a certificate.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

import tests.gateway.test_bad_input as bad_input
import tests.gateway.test_commands as commands
import tests.gateway.test_hello as hello
import tests.gateway.test_slow as slow
import tests.support.gateway as support
from tests.support.tls_peer import authority
from tests.tls.conftest import secured

MODULES: tuple[ModuleType, ...] = (bad_input, commands, hello, slow)
OTHER_FIXTURES = {"keyed"}  # gateways that a module makes for itself
LEFT_OUT = {  # about time and files, which TLS has nothing to do with
    "test_a_changed_key_file_is_taken_while_running",
    "test_a_session_ends_with_its_token_unless_refreshed",
    "test_frames_of_a_client_that_never_reads_are_not_answered_without_end",  # the client's half of TLS blocks too
    "test_rates_are_limited_and_abuse_ends",
    "test_silence_after_the_handshake_ends_with_hello_timeout",
}


class Believing(support.Device):
    """A device that a test makes by hand, and which believes the authority of these tests."""

    def __init__(self, url: str, encoding: str = "msgpack", timeout_s: float = 10.0, **_: object) -> None:
        super().__init__(url, encoding, timeout_s, authority().client())


@contextmanager
def running_secured(data: Path, **options: object) -> Iterator[support.GatewayProcess]:
    """A gateway for one test, as `running`, with a certificate."""
    with secured(data, authority(), **options) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_input, "TRUST", authority().client())
    for module in MODULES:
        for name, other in (("Device", Believing), ("running", running_secured)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, other)


for _module in MODULES:
    for _name, _test in vars(_module).items():
        if not _name.startswith("test_") or _name in LEFT_OUT:
            continue
        if not OTHER_FIXTURES & inspect.signature(_test).parameters.keys():
            globals()[_name] = _test
