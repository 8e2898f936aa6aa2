"""`gonets log snapshot`: a verified snapshot of the state, and the list of them. Also beside a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.log.reader import Reader
from engine.log.readers import pinned
from engine.log.verbs import opened
from engine.ports import OnProgress
from engine.state.snapshot import snapshots, take_snapshot


def snapshot_log(
    data: Path, only_list: bool, on_progress: OnProgress = lambda what, done, total: None
) -> dict[str, Any]:
    """The snapshot taken, and all of the data directory. Raises EngineError."""
    with opened(data) as segments:
        shard = segments.header(segments.firsts[-1]).shard
        taken = None
        if not only_list:
            with pinned(data, "snapshot"):
                taken = take_snapshot(data, Reader(segments), shard, on_progress)
        return {
            "data": str(data),
            "taken": None if taken is None else taken.position,
            "snapshots": msgspec.to_builtins(snapshots(data, shard)),
        }
