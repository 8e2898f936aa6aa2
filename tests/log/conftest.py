"""Fixtures: a log in which everything has happened, a copy of it to be broken, and a killer of verbs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.healthy_log import Broken, make
from tests.support.killed import Killer


@pytest.fixture(scope="session", name="healthy")
def _healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; nobody changes it."""
    data = tmp_path_factory.mktemp("healthy") / "data"
    make(data)
    return data


@pytest.fixture(name="broken")
def _broken(healthy: Path, tmp_path: Path) -> Broken:
    """A copy, still whole."""
    return Broken(healthy, tmp_path / "data")


@pytest.fixture(name="killer", scope="session")
def _killer() -> Iterator[Killer]:
    """Ends verbs at any of their steps."""
    killer = Killer()
    yield killer
    killer.close()
