"""Fixtures of the protocol's tests: a gateway whose deadlines a test can wait for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in a child process, shared by the tests of a module; its log has no traceback in it at the end."""
    options = {
        "gateway.hello_timeout_s": 1,
        "gateway.ping_interval_s": 2,
        "gateway.idle_timeout_s": 8,
        "gateway.slow_timeout_s": 2,
    }
    with GatewayProcess(tmp_path_factory.mktemp("gateway") / "data", **options) as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory for a test's own gateway."""
    return tmp_path / "data"
