"""Each test of the contract runs in every world."""

from __future__ import annotations

import pytest

from tests.subscriptions.contract import OpenWorld
from tests.subscriptions.engine_worlds import door_world, engine_world
from tests.subscriptions.worlds import memory_world, remote_world


@pytest.fixture(
    params=[memory_world, remote_world, engine_world, door_world], ids=["memory", "remote", "engine", "door"]
)
def open_world(request: pytest.FixtureRequest) -> OpenWorld:
    """Opens a fresh one."""
    found: OpenWorld = request.param
    return found
