"""The command `gonets bench peers`: what the user asked for, checked; the comparison; the report and the table.

Mounted by bench/cli.py. Mistakes of use are one line and exit 1; what was measured before an interruption or the
failure of a system is kept in the report, which is then marked partial.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import msgspec
from cyclopts import Parameter

from bench import pages, schema
from bench import report as reporting
from bench.harness import BenchError, raise_descriptor_limit, workplace
from bench.peers import rounds, table
from bench.peers.jobs import FULL, JOBS, SMOKE, Job, Scale
from bench.peers.system import Places, System
from bench.peers.systems import SYSTEMS
from bench.reporting import INTERRUPTED, RUNNING, STATUS_OF_INTERRUPT
from bench.summary import Progress

DESCRIPTORS = 12_000
RUNS_MAX = 100
ALWAYS = (schema.PEER_LIMIT, "gonets")  # what the others are compared with

Named = Annotated[Path | None, Parameter(help="its program, where it isn't found by itself")]
Thing = TypeVar("Thing", System, Job)


def _refuse(words: str) -> NoReturn:
    print(f"gonets: bench: {words}", file=sys.stderr)
    raise SystemExit(1)


def _chosen(option: str, given: str, things: Iterable[Thing], names: Callable[[Thing], tuple[str, str]]) -> list[Thing]:
    """Those that the option names, one by one or by their kind; all if it is empty."""
    wanted = [word.strip() for word in given.split(",") if word.strip()]
    things = list(things)
    for word in wanted:
        if not any(word in names(thing) for thing in things):
            known = dict.fromkeys(name for thing in things for name in names(thing)[::-1])
            _refuse(f"{option} {given!r}: {word!r} is unknown; there are {', '.join(known)}")
    return [thing for thing in things if not wanted or set(names(thing)) & set(wanted)]


def _systems(given: str) -> list[System]:
    chosen = _chosen("--systems", given, SYSTEMS, lambda system: (system.name, system.family))
    return [system for system in SYSTEMS if system in chosen or system.name in ALWAYS]


def _check(places: Places, folder: Path | None, report: Path, runs: int) -> None:
    """What would fail only after minutes fails here."""
    for field in fields(places):
        path = getattr(places, field.name)
        if path is not None and not path.exists():
            _refuse(f"--{field.name.replace('_', '-')} {str(path)!r}: no such file; name its program, or leave it out")
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        why = "can't be written to" if folder.is_dir() else "no such directory"
        _refuse(f"--folder {str(folder)!r}: {why}; make it, or name another")
    if not report.resolve().parent.is_dir():
        _refuse(f"--report {str(report)!r}: no such directory; make it, or name another")
    if not 1 <= runs <= RUNS_MAX:
        _refuse(f"--runs {runs}: it must be 1 to {RUNS_MAX}")


class Making:
    """The report while it is made: saved after each job, marked partial until the end."""

    def __init__(self, scale: Scale, place: Path, where: Path) -> None:
        self._scale, self._where = scale, where
        self._started, self._began = datetime.datetime.now(datetime.UTC), time.monotonic()
        self._machine = msgspec.convert(reporting.machine(place), schema.Machine)
        self._durability = reporting.durability_of(place)

    def save(self, rows: list[schema.PeerRow], reason: str = RUNNING) -> schema.Report:
        """All rows so far."""
        made = schema.Report(
            kind="peers",
            name="peers",
            title="The same jobs on other systems" + (" (smoke: says nothing of speed)" if self._scale.smoke else ""),
            partial=bool(reason),
            reason=reason,
            command=["gonets", *sys.argv[1:]],
            started=self._started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            seconds=time.monotonic() - self._began,
            seed=0,
            machine=self._machine,
            target=schema.Target(durability=self._durability),
            peers=rows,
            conclusions=list(table.conclusions(rows)),
        )
        schema.write(made, self._where)
        return made


def measure(
    systems: list[System], jobs: list[Job], scale: Scale, places: Places, folder: Path | None, where: Path
) -> schema.Report:
    """The whole comparison, its report at `where` and its page beside it."""
    raise_descriptor_limit(DESCRIPTORS)
    with workplace("peers", folder) as place, Progress("peers") as progress:
        making = Making(scale, place, where)
        made = making.save(*rounds.compare(systems, jobs, scale, places, place, progress.phase, making.save))
    pages.write(made, where.with_suffix(".html"))
    return made


def peers(
    *,
    systems: Annotated[str, Parameter(help="names or families, comma-separated: redis,nats; empty: all")] = "",
    jobs: Annotated[str, Parameter(help="names or kinds, comma-separated: fanout,append-1; empty: all")] = "",
    runs: Annotated[int | None, Parameter(help="rounds of each job; 3, smoke 1")] = None,
    smoke: Annotated[bool, Parameter(negative="", help="seconds: shows that it works, says nothing of speed")] = False,
    report: Annotated[Path | None, Parameter(help="where the report goes")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the report on stdout, no table")] = False,
    folder: Annotated[Path | None, Parameter(help="on the disk that is judged; all servers write below it")] = None,
    found: Annotated[
        bool, Parameter(name="--list", negative="", help="only what is found, and how to get more")
    ] = False,
    redis_server: Named = None,
    nats_server: Named = None,
    mosquitto: Named = None,
    umadb: Named = None,
    centrifugo: Named = None,
    kafka_libs: Annotated[Path | None, Parameter(help="the folder of its jars")] = None,
) -> None:
    """The same jobs on what one would take instead, side by side, with the durability of each."""
    places = Places.named(
        redis_server=redis_server,
        nats_server=nats_server,
        mosquitto=mosquitto,
        kafka_libs=kafka_libs,
        umadb=umadb,
        centrifugo=centrifugo,
    )
    scale = SMOKE if smoke else FULL
    scale = replace(scale, runs=scale.runs if runs is None else runs)
    now = datetime.datetime.now(datetime.UTC)
    where = report or Path(f"gonets-bench-peers-{now:%Y%m%dT%H%M%SZ}.json")
    _check(places, folder, where, scale.runs)
    chosen = _systems(systems)
    if found:
        table.show_found(chosen, places)
        return
    wanted = _chosen("--jobs", jobs, JOBS, lambda job: (job.name, job.kind))

    try:
        made = measure(chosen, wanted, scale, places, folder, where)
    except (BenchError, OSError) as error:
        _refuse(f"{error}")
    if as_json:
        print(msgspec.json.encode(made).decode())
    else:
        table.show(made)
        print(f"report: {where}, and {where.with_suffix('.html')}")
    if made.partial:
        print(f"gonets: bench: {made.reason}; what was measured is in the report", file=sys.stderr)
        raise SystemExit(STATUS_OF_INTERRUPT if made.reason.startswith(INTERRUPTED) else 1)
