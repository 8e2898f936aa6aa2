"""What operators see of all processes together: one set of metrics, and whether the whole is ready.

Served by the supervisor at the admin address through gateway/admin.py. Children report each second (control.Report), so
a scrape costs no message and shows what was true within the last second.

Invariants: the words of /readyz name the child that lacks and why; a supervisor whose workers serve but whose sequencer
doesn't is not ready, because publishes would be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.metrics import TABLE, exposition, process_values
from gateway.processes.merged import Merged, Rule

if TYPE_CHECKING:
    from gateway.processes.children import Children

OWN = "supervisor"  # whose readings stand beside those of the children


def rules() -> dict[str, Rule]:
    """How each metric of the table is merged."""
    return {row.key: Rule(row.across, row.kind == "counter") for row in TABLE}


def metrics_of(children: Children, merged: Merged, readiness: Callable[[], tuple[bool, str]]) -> Callable[[], bytes]:
    """A function that gives the text of one scrape. `readiness` is of the whole: what /readyz says."""

    def read() -> dict[str, float]:
        merged.take(OWN, process_values())
        values = merged.read()
        values["ready"] = int(readiness()[0])
        values["processes"] = 1 + sum(place.child is not None for place in children.places())
        values["restarted_processes"] = children.restarted
        return values

    return exposition(read)


def readiness(children: Children, ending: str, predecessor: int) -> tuple[bool, str]:
    """(ready, one line that says which child isn't, and why). `predecessor`: whose sequencer serves; 0 = our own."""
    if ending:
        return False, ending
    sequencer = children.sequencer
    if not predecessor and not sequencer.well:
        return False, f"{sequencer.name}: {sequencer.words}"
    lacking = [place for place in children.workers if not place.well]
    if len(lacking) == len(children.workers):
        return False, f"{lacking[0].name}: {lacking[0].words}"
    lacking += [place for place in children.api if not place.well]  # clients are served without it
    words = "ok"
    if lacking:
        words += "; " + "; ".join(f"{place.name}: {place.words}" for place in lacking)
    if predecessor:
        words += f"; the sequencer of process {predecessor}, whose place is being taken, serves until it has drained"
    return True, words
