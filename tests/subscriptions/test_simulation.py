"""At least once, never skipped, in order: a seeded simulation of consumers and a server that die at any moment.

Each run takes some hundred steps of tests/support/subscription_world.py, whose model knows at each moment which events
may come again and why; at the end one consumer takes all that is left. The count of doubles is printed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.subscription_seeds import FILTERS, SEEDS, tried


@pytest.mark.parametrize("types", FILTERS, ids=["all", "filtered"])
@pytest.mark.parametrize("kind", ["ordered", "competing"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_at_least_once_and_never_skipped(tmp_path: Path, kind: str, seed: int, types: tuple[str, ...]) -> None:
    """S1 to S4, O1, O2, C1, C2, and the bound on doubles: only what was in flight or unsynced came twice."""
    print(tried(tmp_path / "store", kind, seed, types))
