"""The comparison itself: every system does every job by turns, and each pair of them becomes a row.

A round lets each system do a job once, on a fresh server and with nobody else running; so many rounds make the median
and the spread. A run that fails ends its system's part in that job with the reason in the row; the others go on, and
the report is partial. Nothing that isn't measured gets a figure.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import report
from bench.harness import BenchError
from bench.peers.jobs import Job, Outcome, Scale
from bench.peers.system import Found, Places, System
from bench.reporting import INTERRUPTED
from bench.schema import PEER_SETTINGS, PeerRow

Say = Callable[[str], None]
Save = Callable[[list[PeerRow]], object]
IN_MEMORY_NOTE = "(file system in memory)"


@dataclass
class Cell:
    """A system at a job."""

    job: Job
    system: System
    found: Found | None
    outcomes: list[Outcome] = field(default_factory=list)
    failure: str = ""

    @property
    def open(self) -> bool:
        """Whether there is anything (more) to run."""
        return self.found is not None and bool(self.system.promise(self.job)) and not self.failure

    def row(self, durable: bool) -> PeerRow:
        """As the report holds it; `durable`: the file system keeps what is synced."""
        promised = self.system.promise(self.job)
        if promised not in ("", "none") and not durable:
            promised = f"none {IN_MEMORY_NOTE}"
        missing = "" if self.found else f"not installed, get it by {self.system.get_it}"
        return PeerRow(
            job=self.job.name,
            system=self.system.name,
            version=self.found.version if self.found else "",
            durability=promised,
            unit=self.job.unit,
            runs=[outcome.value for outcome in self.outcomes],
            values=_medians([outcome.values for outcome in self.outcomes]),
            missing=missing,
            note="; ".join(self._notes()) if not missing else "",
        )

    def _notes(self) -> Iterable[str]:
        if not self.system.promise(self.job):
            yield self.system.why_not(self.job)
            return
        if self.failure:
            yield f"failed: {self.failure}"
        yield from dict.fromkeys(outcome.faults_text for outcome in self.outcomes if outcome.faults)
        yield from dict.fromkeys(outcome.note for outcome in self.outcomes if outcome.note)
        if self.system.note:
            yield f"{PEER_SETTINGS}{self.system.note}"


def _medians(all_values: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in all_values for name in values)
    return {name: statistics.median([values[name] for values in all_values if name in values]) for name in names}


def compare(
    systems: Sequence[System],
    jobs: Sequence[Job],
    scale: Scale,
    places: Places,
    place: Path,
    say: Say,
    save: Save = lambda rows: None,
) -> tuple[list[PeerRow], str]:
    """All rows, by job and then by system, and why they are partial: empty if they aren't. `save` gets what there is
    after each job."""
    founds = {system.name: system.find(places) for system in systems}
    cells = [[Cell(job, system, founds[system.name]) for system in systems] for job in jobs]
    durable, reason = report.filesystem_of(place) not in report.IN_MEMORY, ""
    try:
        for done, line in enumerate(cells, 1):
            _one_job(line, scale, place, say)
            save([cell.row(durable) for line in cells[:done] for cell in line])
    except KeyboardInterrupt:
        reason = INTERRUPTED
    failed = [
        f"{cell.system.name} at {cell.job.name}: {cell.failure}" for line in cells for cell in line if cell.failure
    ]
    rows = [cell.row(durable) for line in cells for cell in line]
    return rows, "; ".join(filter(None, (reason, *failed)))


def _one_job(line: Sequence[Cell], scale: Scale, place: Path, say: Say) -> None:
    for number in range(scale.runs):
        for cell in line:
            if not cell.open:
                continue
            say(f"{cell.job.title}, run {number + 1} of {scale.runs}: {cell.system.title}")
            _one_run(cell, scale, place / f"{cell.job.name}-{cell.system.name}-{number}", say)


def _one_run(cell: Cell, scale: Scale, folder: Path, say: Say) -> None:
    assert cell.found is not None
    folder.mkdir(parents=True)
    try:
        cell.outcomes.append(cell.system.run(cell.job, scale, cell.found, folder))
    except (BenchError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        cell.failure = " ".join(str(error).split()) or type(error).__name__
        say(f"{cell.system.title} failed at {cell.job.name}: {cell.failure}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
