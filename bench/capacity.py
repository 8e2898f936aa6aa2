"""`gonets bench capacity`: the highest rate of a workload that meets an objective, and what was the limit above it.

A thin command: search.py decides which rate is next, drive.py runs it. A server that is started here is a new one for
each point, so that no point pays for the one before; somebody's own server (`--target`) keeps users and conversations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from bench import drive, workload
from bench.harness import BenchError
from bench.reporting import Reporting, ReportPathError, refused, title_of
from bench.schema import Run, Target
from bench.search import CONFIRMATIONS, REFUSED_SHARE_MAX, Objective, Search, searchable
from bench.summary import Progress, Steps
from bench.workload import Workload, WorkloadError

P99_MS_MAX: Final = 60_000.0
CONFIRMATIONS_MAX: Final = 50


def capacity(
    load: Annotated[str, Parameter(name="workload", help="a name (`gonets bench workloads`) or the path of one's own")],
    /,
    *,
    p99_ms: Annotated[float, Parameter(help="the objective: 99 % of deliveries take at most this")] = 50.0,
    refused_percent: Annotated[float, Parameter(help="publishes that may be refused")] = 100 * REFUSED_SHARE_MAX,
    rate_per_s: Annotated[float | None, Parameter(help="where the search begins; none: the workload's rate")] = None,
    confirmations: Annotated[int, Parameter(help="runs at the found rate, 3 to 50")] = CONFIRMATIONS,
    sessions: Annotated[int | None, Parameter(help="so many instead of the workload's")] = None,
    window_s: Annotated[float | None, Parameter(help="measured time of each run")] = None,
    warmup_s: Annotated[float | None, Parameter(help="before it")] = None,
    seed: Annotated[int | None, Parameter(help="of the load")] = None,
    workers: Annotated[int | None, Parameter(help="gateway workers of the server; 0: one process")] = None,
    generators: Annotated[
        int | None, Parameter(help="processes of clients; none: as many as their descriptors ask")
    ] = None,
    tls: Annotated[bool, Parameter(negative="", help="clients and server speak TLS 1.3")] = False,
    folder: Annotated[Path | None, Parameter(help="where to write while measuring; on the disk that is judged")] = None,
    target: Annotated[str | None, Parameter(help="a server of one's own, ws://HOST:PORT/v1")] = None,
    token_key: Annotated[Path | None, Parameter(help="with --target: private key (PEM) of its tokens")] = None,
    token_key_name: Annotated[str, Parameter(help="kid of that key, if its server knows it by one")] = "",
    audience: Annotated[str, Parameter(help="aud of those tokens")] = "gonets",
    report: Annotated[
        Path | None, Parameter(help="JSON to write, HTML beside it; none: named by the time, here")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the report on stdout")] = False,
) -> None:
    """Searches the highest rate that meets the objective, confirms it, and says what was the limit above it."""
    try:
        objective = checked(p99_ms, refused_percent, confirmations)
        own = workload.load(load)
        wanted = own.scaled(sessions=sessions, rate_per_s=rate_per_s, window_s=window_s, warmup_s=warmup_s, seed=seed)
        searchable(wanted)
        options = drive.Options(
            workers=workers,
            generators=generators,
            folder=folder,
            target=target,
            token_key=token_key,
            token_key_name=token_key_name,
            audience=audience,
            tls=tls,
        )
        drive.check_target(options)
        title = title_of(own, own.scaled(sessions=sessions))  # a rate is only where the search begins
        reporting = Reporting("capacity", wanted, title, report, folder or Path.cwd(), as_json)
    except (WorkloadError, BenchError, ReportPathError) as error:
        raise refused(str(error)) from None
    with Progress(f"capacity {wanted.name}") as progress:
        conducted(reporting, wanted, objective, options, confirmations, progress)


def checked(p99_ms: float, refused_percent: float, confirmations: int) -> Objective:
    """The objective. Raises BenchError."""
    if not 0 < p99_ms <= P99_MS_MAX:
        raise BenchError(f"--p99-ms {p99_ms:g}: must be more than 0 and at most {P99_MS_MAX:g}")
    if not 0 <= refused_percent < 100:
        raise BenchError(f"--refused-percent {refused_percent:g}: must be 0 to below 100")
    if not CONFIRMATIONS <= confirmations <= CONFIRMATIONS_MAX:
        raise BenchError(f"--confirmations {confirmations}: must be {CONFIRMATIONS} to {CONFIRMATIONS_MAX}")
    return Objective(p99_ms, refused_percent / 100)


@contextmanager
def runner(
    wanted: Workload, options: drive.Options, progress: Progress, note: Callable[[Target], None]
) -> Iterator[Callable[[Workload], Run]]:
    """What runs one point: on a new server each, or on the target. `note` hears what is measured."""

    steps = Steps(progress)

    def at(scaled: Workload, shared: drive.Stage | None) -> Run:
        progress.part(f"at {scaled.rate_per_s or math.nan:,.0f}/s")
        with nullcontext(shared) if shared else drive.Stage(scaled, options, steps) as stage:
            note(stage.target)
            return stage.run(scaled, steps)

    if options.target is None:
        yield lambda scaled: at(scaled, None)
        return
    with drive.Stage(wanted, options, progress) as stage:
        yield lambda scaled: at(scaled, stage)


def conducted(
    reporting: Reporting,
    wanted: Workload,
    objective: Objective,
    options: drive.Options,
    confirmations: int,
    progress: Progress,
) -> None:
    """The search with its report; ends the process where it was cut short."""
    searches: list[Search] = []
    targets: list[Target] = []

    def work() -> None:
        with runner(wanted, options, progress, targets.append) as run_once:
            search = Search(wanted, objective, run_once, progress.say, confirmations=confirmations)
            searches.append(search)
            try:
                search.run()
            except drive.Stopped as stopped:
                search.runs += [stopped.run] if stopped.run else []  # it is no point, but what there is of it is kept
                raise

    def parts() -> dict[str, Any]:
        progress.close()
        if not searches:
            return {}
        search = searches[0]
        return {"runs": search.runs, "capacity": search.capacity(), "conclusions": list(search.conclusions())}

    reporting.conduct(work, lambda: targets[-1] if targets else Target(url=options.target or ""), parts)
