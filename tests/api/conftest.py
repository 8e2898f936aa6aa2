"""The door for backends, running; one for each test, because each counts what happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_site import ApiSite


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ApiSite]:
    """With the default options."""
    with ApiSite(tmp_path) as running:
        yield running
