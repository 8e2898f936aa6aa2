"""What the parent of client processes believes, over the pipes that they talk through."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from bench.fleet import Fleet
from bench.fleet_wire import Channel, Drain, FromChild, Tick, ToChild

SETTLED = {"sent": 3, "receipts": 3, "refused": 0, "deliveries": 3, "expected": 3, "corrupted": 0, "gapped": 0}
SETTLED |= {"away": 0, "pending": 0, "dead": 0}


def tick(draining: bool, **counts: int) -> Tick:
    """Counts as of now."""
    return Tick(time.monotonic_ns(), SETTLED | counts, [], 0, "", draining)


def test_a_drain_waits_for_what_was_published_before_it_was_heard_of(tmp_path: Path) -> None:
    """A tick that is in the pipe already says that all is answered; two more publishes were sent after it."""
    down, up = os.pipe(), os.pipe()
    parent, child = Channel(up[0], down[1], FromChild), Channel(down[0], up[1], ToChild)
    fleet = Fleet([], tmp_path, time.monotonic() + 20.0)
    fleet.sessions = 2
    fleet._children.append(  # its half of a process: what is tested is whom it believes
        SimpleNamespace(name="one", channel=parent, counts={}, draining=False, ticks=[], done={}, result=None)  # type: ignore[arg-type]
    )
    child.send(tick(False))

    def answer() -> None:
        assert isinstance(child.receive(10.0), Drain)
        child.send(tick(True, sent=5))
        time.sleep(0.05)
        child.send(tick(True, sent=5, receipts=5, deliveries=5, expected=5))

    talking = threading.Thread(target=answer)
    talking.start()
    try:
        assert fleet.drain(10.0)
        assert fleet.counts()["sent"] == fleet.counts()["receipts"] == 5
    finally:
        talking.join()
        for descriptor in (*down, *up):
            os.close(descriptor)
