"""The comparison for people: what is found, a table of each kind of job, and one sentence a job.

Reads rows of a report, so that it shows a stored one as it showed the fresh one.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from bench.findings import peer_note, peer_settings
from bench.peers.jobs import JOBS
from bench.peers.system import Places, System
from bench.peers.systems import SYSTEMS
from bench.schema import PeerRow, Report

WIDTH_OF_A_FILE = 160
OURS = "gonets"
LESS_IS_BETTER = ("ms", "bytes")
TITLES = {system.name: system.title for system in SYSTEMS}


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, highlight=False)


def number(value: float, unit: str) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:,.3f}" if unit == "ms" else f"{value:,.0f}"


def result(row: PeerRow) -> str:
    """Median of a row, or why there is none."""
    if row.missing:
        return row.missing
    if not row.runs:
        return row.note.split(";")[0] or "not measured"
    return f"{number(statistics.median(row.runs), row.unit)} {row.unit}"


def show(found: Report) -> None:
    """One table a job; figures that aren't clean have their faults in the last column."""
    console = _console()
    about = found.machine
    console.print(
        f"{about.cpu}, {about.cores} cores, Linux {about.kernel}, {about.filesystem}, Python {about.python}, commit"
        f" {about.commit}; server and clients share the machine"
    )
    for job in JOBS:
        rows = [row for row in found.peers if row.job == job.name]
        if rows:
            console.print(_table(job.title, rows))
    for system, words in peer_settings(found.peers).items():
        console.print(f"settings of {TITLES.get(system, system)}: {words}")
    for sentence in found.conclusions:
        console.print(sentence)
    if found.partial:
        console.print(f"[bold]partial[/bold]: {found.reason}")


def _table(title: str, rows: Sequence[PeerRow]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, header_style="bold")
    for name in ("system", "version", "result", "spread", "p99", "durability", "CPU", "note"):
        right = name in ("spread", "p99", "CPU")
        table.add_column(name, justify="right" if right else "left", no_wrap=name not in ("note", "result"))
    for row in rows:
        spread = f"{number(min(row.runs), row.unit)}–{number(max(row.runs), row.unit)}" if len(row.runs) > 1 else ""
        p99 = f"{row.values['p99_ms']:.3f} ms" if "p99_ms" in row.values and row.runs else ""
        cpu = ""
        if "server_cpu_cores" in row.values:
            cpu = f"{row.values['server_cpu_cores']:.2f}+{row.values['generator_cpu_cores']:.2f}"
        note = peer_note(row) if row.runs else ""
        table.add_row(
            TITLES.get(row.system, row.system), row.version, result(row), spread, p99, row.durability, cpu, note
        )
    return table


def conclusions(rows: Sequence[PeerRow]) -> Iterator[str]:
    """Ours beside each of the others, one sentence a job; only what was measured."""
    for job in JOBS:
        here = {row.system: row for row in rows if row.job == job.name and row.runs}
        ours = here.pop(OURS, None)
        if ours is None or not here:
            continue
        own = statistics.median(ours.runs)
        parts = []
        for row in here.values():
            other = statistics.median(row.runs)
            beside = number(other, row.unit) if ours.unit in LESS_IS_BETTER else f"{own / other:.2f} ×"
            lossy = ", which lost some" if row.note.startswith("lost") else ""
            parts.append(f"{beside} {TITLES.get(row.system, row.system)} ({row.durability}{lossy})")
        link = "beside" if ours.unit in LESS_IS_BETTER else "that is"
        figure = f"{number(own, ours.unit)} {ours.unit}"
        yield f"{job.title}: Gonets ({ours.durability}) {figure}, {link} {', '.join(parts)}"


def show_found(systems: Sequence[System], places: Places) -> None:
    """What is there, where, which version; how to get the rest."""
    table = Table(show_edge=False, header_style="bold")
    for name in ("system", "name", "version", "where, or how to get it"):
        table.add_column(name, no_wrap=name != "where, or how to get it")
    for system in systems:
        found = system.find(places)
        where = str(found.path) if found else f"not installed, get it by {system.get_it}"
        table.add_row(system.title, system.name, found.version if found else "–", where)
    _console().print(table)
