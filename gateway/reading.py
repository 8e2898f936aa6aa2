"""What the operator is told: one flat reading of all counters, and whether the process is ready.

Asked by admin.py at a scrape and by listener.py for /readyz. Adds nothing to the data path: it reads native counters,
the engine's and those of session.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from engine import SequencerAway

if TYPE_CHECKING:
    from gateway.server import Gateway
    from gateway.session import Counters

HALF_WINDOW_S = 30.0


class SlowestSlice:
    """The longest slice of the last half to whole minute, whoever reads it and how often.

    Two half-windows: the counter holds that of now, this object the one before. A reading changes nothing, so that
    two scrapers, or an operator with curl, don't take the maximum from each other.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._earlier = 0.0
        self._began_s = 0.0

    def second(self, now_s: float) -> None:
        """Called now and then: begins the next half-window when it is time."""
        if now_s - self._began_s >= HALF_WINDOW_S:
            self._began_s = now_s
            self._earlier, self._counters.loop_slice_max_seconds = self._counters.loop_slice_max_seconds, 0.0

    @property
    def seconds(self) -> float:
        """The maximum."""
        return max(self._earlier, self._counters.loop_slice_max_seconds)


def readiness(gateway: Gateway) -> tuple[bool, str]:
    """(ready, one line that says why not and what to do)."""
    if gateway.draining or gateway.stopping:
        return False, "draining: this process is ending; send clients elsewhere"
    failure = gateway.engine.sequencer.failure
    if isinstance(failure, SequencerAway):
        return False, str(failure)
    if failure is not None:
        return False, stopped(failure)
    if gateway.engine.space.look():
        return False, gateway.engine.space.words()
    return True, "ok" + gateway.load.text + (gateway.api.words if gateway.api is not None else "")


def stopped(failure: BaseException) -> str:
    """What /readyz says of a writer that is fenced."""
    return (
        f"the writer has stopped ({type(failure).__name__}): publishes are answered `unavailable`, reading goes on."
        " Look at the disk and at stderr, then restart; `gonets log check` verifies the log"
    )


def readings(gateway: Gateway) -> dict[str, float]:
    """Every value that the metrics table asks for."""
    door, counters = gateway.door, gateway.door.counters
    values: dict[str, float] = asdict(counters)
    sources = (gateway.poller.counters(), gateway.fanout.counters(), door.catchup.counters(), gateway.engine.stats())
    for source in sources:
        for name, value in source.items():
            values[name] = values.get(name, 0) + value
    values.update(
        {
            "loop_slice_max_seconds": gateway.slowest.seconds,
            "ready": int(readiness(gateway)[0]),
            "processes": 1,
            "sessions": gateway.sessions.open_count,
            "room_sessions": gateway.room_sessions,
            "reader_sessions": gateway.sessions.reader_count,
            "ring_bytes": gateway.fanout.ring.bytes_room,
            "delivered_sequence": gateway.fanout.sequence,
            "load_level": gateway.load.level,
            "load_pressure_ratio": gateway.load.pressure,
        }
    )
    values.setdefault("unanswered_publishes", max(0, counters.publishes - counters.answers))  # a follower has its own
    values.update(door.trust.values())
    if gateway.api is not None:
        values.update(gateway.api.values)
    return values
