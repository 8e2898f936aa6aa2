"""A log in which everything has happened, and a copy of it to be broken: for the tests of `gonets log check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.healthy_log import Broken, make


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
