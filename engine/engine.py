"""The engine as one object: log, state, sequencer and cursors of a data directory, opened and closed together.

What gonets.py and the gateway hold. Opening takes the lock, verifies the tail, folds what the saved state lacks and
starts the threads; closing commits what was taken in, saves the state and lets go.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.state.view import View


class Engine:
    """Use `Engine.open`; attributes: log, sequencer, cursors, durability, filesystem."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        on_answers: Callable[[bytes], None],
        on_committed: Callable[[int], None],
        shard: int = 0,
        segment_bytes: int = 1 << 30,
        intake_bytes_max: int = 32 << 20,
        tables_bytes_max: int = 256 << 20,
        block_events_max: int = 1 << 16,
        save_events_max: int = 1_000_000,
        save_interval_s: float = 10.0,
        cursors_interval_s: float = 2.0,
        group_members_max: int = 5_000,
        clock_us: Callable[[], int] | None = None,
    ) -> Engine:
        """Both callbacks come from the committer's thread, after the sync."""
        raise NotImplementedError

    def view(self) -> View:
        """A view for one owner thread, at the saved position: fold the blocks after `view.sequence` into it."""
        raise NotImplementedError

    def stats(self) -> dict[str, int]:
        """Counters for the metrics: log_sequence, state_saved_sequence, log_commits, log_bytes, writer_fenced, …"""
        raise NotImplementedError

    def close(self) -> None:
        """Commits what was taken in, saves, releases the lock."""
        raise NotImplementedError
