"""`gonets bench workloads`: lists them, shows one as TOML, checks one's own, makes tables of a trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from bench import workload, workload_trace
from bench.trace import TraceError

WIDTH_OF_A_FILE = 160


def workloads(
    *,
    show: Annotated[
        str | None, Parameter(help="print the TOML of this one (a name or a path), once it is valid")
    ] = None,
    from_trace: Annotated[
        Path | None, Parameter(help="a chat log or a directory of them: print its sizes and pauses as tables")
    ] = None,
    seed: Annotated[int, Parameter(help="of where in its minute a message of the trace lies")] = 1,
) -> None:
    """The loads that `bench run`, `capacity` and `soak` know by name; one's own are files of the same form."""
    try:
        if from_trace is not None:
            print(workload_trace.as_toml(workload_trace.tables(from_trace, seed)), end="")
        elif show is not None:
            workload.load(show)
            print(workload.path_of(show).read_text(encoding="utf-8"), end="")
        else:
            _list()
    except (workload.WorkloadError, TraceError) as error:
        print(f"gonets: bench: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def size_of(found: workload.Workload) -> str:
    """How large it is, in a few words."""
    if found.records is not None:
        return f"{found.records.count:,} records of {found.records.payload_bytes} bytes"
    offered = "" if found.rate_per_s is None else f", {found.rate_per_s:,.0f} publishes/s"
    return f"{found.sessions.count:,} sessions{offered}"


def _list() -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_A_FILE)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("workload", "size", "what it is"):
        table.add_column(column)
    for name in workload.names():
        found = workload.load(name)
        table.add_row(name, size_of(found), found.title)
    console.print(table)
