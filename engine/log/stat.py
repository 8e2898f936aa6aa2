"""`gonets log stat`: what the log of a data directory holds, by its segments. Can be used while a server runs.

Reads headers and the ends of segments only, so that it costs the same for a log of any size but for its directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import LogDamaged
from engine.log.place import durability_of, filesystem_of
from engine.log.reader import Reader
from engine.log.verbs import opened, saved_position


def stat_log(data: Path) -> dict[str, Any]:
    """Segments with their sequences and sizes, epochs, and how far the saved state is behind. Raises EngineError."""
    with opened(data) as segments:
        reader = Reader(segments)
        last = reader.last_sequence()
        header = segments.header(segments.firsts[-1])
        rows = []
        for place, first in enumerate(segments.firsts):
            end = segments.firsts[place + 1] - 1 if place + 1 < len(segments.firsts) else last
            entries, problem = None, ""
            try:
                with segments.reading(first) as txn:
                    entries = int(txn.stat()["entries"]) - 1
            except LogDamaged as error:  # the others are told all the same
                problem = error.detail
            rows.append(
                {
                    "segment": segments.path(first).name,
                    "first_sequence": first,
                    "last_sequence": end,
                    "events": end - first + 1,
                    "blocks": entries,
                    "file_bytes": segments.path(first).stat().st_size,
                    "problem": problem,
                }
            )
        filesystem = filesystem_of(segments.folder)
        return {
            "data": str(data),
            "shard": header.shard,
            "first_sequence": reader.first_sequence,
            "last_sequence": last,
            "epochs": [{"epoch": epoch, "first_sequence": first} for epoch, first in header.epochs],
            "saved_state_sequence": saved_position(data, header.shard),
            "filesystem": filesystem,
            "durability": durability_of(filesystem),
            "segments": rows,
        }
