"""How long an engine takes to open after kill -9: only what follows the last save is folded again, not the log.

A child process fills a log of many small events and is killed once the last one is answered, that is at the worst
moment: up to a whole save is missing. Measured is the time from Engine.open to the first receipt of the new process,
against folding a like log from its beginning, which is what one would pay without the saved state.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench.proposals import DialogLoad, Listener, batches
from engine import Engine, pack_proposal, saved_position

RECORD_BYTES: Final = 120
EVENTS: Final = 10_000_000
SMOKE_EVENTS: Final = 20_000
EVENTS_PER_COMMIT_MAX: Final = 1 << 16  # as the engine's default
PART: Final = 500_000  # made and published at a time, to bound the memory of the benchmark
FOLDED_MAX: Final = 1_000_000  # events of the log that is folded from its beginning


def fill(
    data: Path,
    events: int,
    dialogs: int,
    save_events_max: int,
    record_bytes: int = RECORD_BYTES,
    events_per_commit: int = EVENTS_PER_COMMIT_MAX,
) -> Engine:
    """An engine whose log has at least so many events, over so many dialogs, at most so many a commit."""
    listener = Listener()
    engine = Engine.open(
        data,
        on_answers=listener.hear,
        on_committed=lambda sequence: None,
        save_events_max=save_events_max,
        tables_bytes_max=1 << 30,
    )
    engine.sequencer.limit_events(events_per_commit)
    load = DialogLoad(dialogs, max(dialogs // 10, 50), record_bytes=record_bytes)
    _publish(engine, listener, load.first_messages())
    load.learn(listener.take())
    while engine.log.last_sequence < events:
        _publish(engine, listener, load.messages(min(PART, events - engine.log.last_sequence)))
        listener.take()
    return engine


def _publish(engine: Engine, listener: Listener, proposals: Any) -> None:
    for part in batches(proposals, 1_000):
        while not engine.sequencer.submit(part):
            time.sleep(0.0005)
    listener.wait(len(proposals), engine)


def _child(data: str, events: str, dialogs: str, save_events_max: str) -> None:
    """Fills, says so, and waits for its end."""
    fill(Path(data), int(events), int(dialogs), int(save_events_max))
    print("filled", flush=True)
    time.sleep(3600)


def _killed(data: Path, *numbers: int) -> None:
    """Runs the child until it has filled the log, then kills it."""
    command = [sys.executable, "-c", "import sys; from bench.open import _child; _child(*sys.argv[1:])", str(data)]
    with subprocess.Popen([*command, *map(str, numbers)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        child.kill()
    if said != b"filled\n":
        raise RuntimeError("the process that fills the log failed; its error is above")


def _opened(data: Path) -> tuple[float, float, dict[str, float], str, str]:
    """Seconds to open, seconds to the first receipt, counters then, durability, file system."""
    listener = Listener()
    start = time.perf_counter()
    engine = Engine.open(data, on_answers=listener.hear, on_committed=lambda sequence: None)
    opened = time.perf_counter() - start
    engine.sequencer.submit(pack_proposal((1 << 53) - 1, 1, 1, 1, "message", b"x", person=True))
    listener.wait(1, engine)
    answered = time.perf_counter() - start
    stats = engine.stats()
    told = opened, answered, stats, engine.durability, engine.filesystem
    engine.close()
    return told


def run(smoke: bool, folder: Path | None = None) -> list[dict[str, Any]]:
    """Both cases."""
    place = Path(tempfile.mkdtemp(prefix="gonets-open-", dir=folder or "/var/tmp"))
    events = SMOKE_EVENTS if smoke else EVENTS
    dialogs, save_events_max = (500, 5_000) if smoke else (100_000, 1_000_000)
    try:
        data = place / "data"
        _killed(data, events, dialogs, save_events_max)
        position = saved_position(data, shard=0) or 0
        opened, answered, stats, durability, filesystem = _opened(data)
        case = {
            "case": f"open a log of {events} events after kill -9",
            "value": round(opened, 3),
            "unit": "s",
            "first_receipt_s": round(answered, 3),
            "events": stats["log_sequence"],
            "replayed_events": stats["log_sequence"] - 2 - position,
            "runs": 1,
            "spread": [round(opened, 3)] * 2,
            "durability": durability,
            "filesystem": filesystem,
        }
        whole = place / "whole"
        folded = min(events, FOLDED_MAX)
        fill(whole, folded, dialogs, save_events_max).close()
        shutil.rmtree(whole / "state")
        opened, answered, stats, durability, filesystem = _opened(whole)
        compared = {
            "case": f"fold {folded} events from the beginning",
            "value": round(opened, 3),
            "unit": "s",
            "first_receipt_s": round(answered, 3),
            "events": stats["log_sequence"],
            "runs": 1,
            "spread": [round(opened, 3)] * 2,
            "durability": durability,
            "filesystem": filesystem,
        }
        return [case, compared]
    finally:
        shutil.rmtree(place, ignore_errors=True)
