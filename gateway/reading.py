"""What the operator is told: one flat reading of all counters, and whether the process is ready.

Asked by admin.py at a scrape and by listener.py for /readyz. Adds nothing to the data path: it reads native counters,
the engine's and those of session.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.server import Gateway


def readiness(gateway: Gateway) -> tuple[bool, str]:
    """(ready, one line that says why not and what to do)."""
    if gateway.stopping:
        return False, "draining: this process is ending; send clients elsewhere"
    failure = gateway.engine.sequencer.failure
    if failure is not None:
        return False, (
            f"the writer has stopped ({type(failure).__name__}): publishes are answered `unavailable`, reading goes on."
            " Look at the disk and at stderr, then restart; `gonets log check` verifies the log"
        )
    return True, "ok"


def readings(gateway: Gateway) -> dict[str, float]:
    """Every value that the metrics table asks for."""
    door, counters = gateway.door, gateway.door.counters
    values: dict[str, float] = asdict(counters)
    counters.loop_slice_max_seconds = 0.0
    sources = (gateway.poller.counters(), gateway.fanout.counters(), door.catchup.counters(), gateway.engine.stats())
    for source in sources:
        for name, value in source.items():
            values[name] = values.get(name, 0) + value
    values.update(
        {
            "sessions": gateway.sessions.open_count,
            "reader_sessions": gateway.sessions.reader_count,
            "ring_bytes": gateway.fanout.ring.bytes_room,
            "delivered_sequence": gateway.fanout.sequence,
            "token_keys": len(door.verifier.keys.keys),
            "writer_fenced": float(gateway.engine.sequencer.failure is not None),
        }
    )
    return values
