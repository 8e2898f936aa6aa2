"""Fixtures of the gateway's tests: one running gateway a module, and users nobody else in the module has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess

_users = itertools.count(1_000)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in a child process, shared by the tests of a module; its log is checked at the end."""
    with GatewayProcess(tmp_path_factory.mktemp("gateway") / "data") as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory for a test's own gateway."""
    return tmp_path / "data"


@pytest.fixture
def new_user() -> Callable[[], int]:
    """Numbers of people that no other test of this process uses."""
    return lambda: next(_users)
