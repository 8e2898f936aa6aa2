"""`gonets bench run WORKLOAD`: a workload against a server that is started for it, or one that is there; its report.

What happens in a run is drive.py's; here are its options, how many runs, and what the report concludes. Each run has a
server and a data directory of its own (a target of somebody's is the same for all). What was measured before something
went wrong is in the report, which then says that it is partial, and why.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from bench import schema, summary, wording
from bench.drive import Options, Stage, Stopped, check_target
from bench.harness import BenchError
from bench.million import would_stop
from bench.reporting import Reporting, ReportPathError, title_of
from bench.workload import Workload, WorkloadError, load

SMOKE_SESSIONS: Final = 200
SMOKE_RATE_PER_S: Final = 200.0
SMOKE_WINDOW_S: Final = 2.0
SMOKE_WARMUP_S: Final = 0.5
RUNS_MAX: Final = 100
RATE_REACHED_SHARE: Final = 0.98
WITHOUT_SOCKETS: Final = ("append", "read")  # kinds; each is measured by the file of its name
SMOKE_RECORDS: Final = 20_000
SMOKE_CONVERSATIONS: Final = 1_000


def sized(
    workload: Workload, *, smoke: bool, sessions: int | None, rate_per_s: float | None, window_s: float | None
) -> Workload:
    """As the options ask; at smoke size as small as it goes, where they don't."""
    warmup_s = None
    if smoke and workload.records is not None:
        records = msgspec.structs.replace(
            workload.records,
            count=min(workload.records.count, SMOKE_RECORDS),
            conversations=min(workload.records.conversations, SMOKE_CONVERSATIONS),
        )
        return msgspec.structs.replace(workload, records=records)
    if smoke:
        sessions = min(SMOKE_SESSIONS, workload.sessions.count) if sessions is None else sessions
        window_s = SMOKE_WINDOW_S if window_s is None else window_s
        warmup_s = min(SMOKE_WARMUP_S, workload.run.warmup_s)
        if workload.rate_per_s is not None and rate_per_s is None:
            rate_per_s = min(SMOKE_RATE_PER_S, workload.rate_per_s)
    return workload.scaled(sessions=sessions, rate_per_s=rate_per_s, window_s=window_s, warmup_s=warmup_s)


class Runs:
    """All runs of one command."""

    def __init__(self, workload: Workload, options: Options, count: int, *, smoke: bool = False) -> None:
        self.workload, self.options, self.count, self.smoke = workload, options, count, smoke
        self.runs: list[schema.Run] = []
        self.measures: list[schema.Measure] = []
        self.target = schema.Target(url=options.target or "", started_here=options.target is None)

    def measure(self, progress: summary.Progress) -> None:
        """Raises what ended them early; `runs` has what there is."""
        if self.workload.kind in WITHOUT_SOCKETS:
            progress.phase(self.workload.kind)
            measured = importlib.import_module(f"bench.{self.workload.kind}").run
            self.measures = measured(self.workload, self.options.folder, smoke=self.smoke)
            return
        for number in range(1, self.count + 1):
            if self.count > 1:
                progress.part(f"run {number} of {self.count}")
            with Stage(self.workload, self.options, progress) as stage:
                self.target = stage.target
                try:
                    self.runs.append(stage.run(self.workload))
                except Stopped as stopped:
                    if stopped.run is not None:
                        self.runs.append(stopped.run)
                    raise

    def parts(self) -> dict[str, Any]:
        """Of the report."""
        return {"runs": self.runs, "measures": self.measures, "conclusions": self.conclusions()}

    def conclusions(self) -> list[str]:
        """Sentences for people."""
        found = []
        for number, run in enumerate(self.runs, 1):
            which = f"run {number}: " if len(self.runs) > 1 else ""
            wrong = [f"{wording.count(count)} {name}" for name, count in run.faults.items() if count]
            if wrong:
                found.append(f"{which}not everything arrived as it should: {', '.join(wrong)}")
            published = run.rates_per_s.get("published", 0.0)
            behind = run.offered_per_s and published < RATE_REACHED_SHARE * run.offered_per_s
            if behind and not run.generator.is_limit:  # of clients that were the limit the verdict tells
                found.append(
                    f"{which}{published:,.0f}/s were published of the {run.offered_per_s:,.0f}/s offered:"
                    " the windows of the writers were full, the server is behind"
                )
            found += would_stop(run)
        return found


def conduct(runs: Runs, reporting: Reporting) -> schema.Report:
    """Measures, and leaves the report."""
    with summary.Progress(f"run {runs.workload.name}") as progress:

        def work() -> None:
            try:
                runs.measure(progress)
            finally:
                progress.close()

        return reporting.conduct(work, lambda: runs.target, runs.parts)


def run(
    workload: Annotated[str, Parameter(help="a name (`gonets bench workloads` lists them), or the path of one's own")],
    *,
    runs: Annotated[int, Parameter(help="how often")] = 1,
    sessions: Annotated[int | None, Parameter(help="so many, conversations in proportion")] = None,
    rate_per_s: Annotated[float | None, Parameter(help="publishes a second of all streams together")] = None,
    window_s: Annotated[float | None, Parameter(help="seconds that are measured")] = None,
    workers: Annotated[
        int | None, Parameter(help="of the server that is started; 0 = one process; default: as sessions need")
    ] = None,
    generators: Annotated[int | None, Parameter(help="processes of the clients; default: as sessions need")] = None,
    target: Annotated[str | None, Parameter(help="a server that is there: ws://HOST:PORT/v1")] = None,
    token_key: Annotated[Path | None, Parameter(help="private key (PEM) whose tokens the target takes")] = None,
    token_key_name: Annotated[str, Parameter(help="kid of that key, if its server knows it by one")] = "",
    audience: Annotated[str, Parameter(help="aud of those tokens")] = "gonets",
    tls: Annotated[bool, Parameter(negative="", help="the server that is started speaks TLS 1.3")] = False,
    kill_worker: Annotated[
        bool, Parameter(negative="", help="a storm's cause: kill -9 of one worker, instead of clients that drop")
    ] = False,
    smoke: Annotated[bool, Parameter(negative="", help="seconds: shows that it works, says nothing of speed")] = False,
    folder: Annotated[Path | None, Parameter(help="where to write while measuring; the disk that is judged")] = None,
    report: Annotated[Path | None, Parameter(help="where the report goes; its page lies beside it")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the report on stdout")] = False,
) -> None:
    """A workload against a server: throughput, latency, memory, and whether anything was lost."""
    try:
        own = load(workload)
        found = sized(own, smoke=smoke, sessions=sessions, rate_per_s=rate_per_s, window_s=window_s)
        _check(found, runs, target, kill_worker, folder)
        options = Options(
            workers=workers,
            generators=generators,
            folder=folder,
            target=target,
            token_key=token_key,
            token_key_name=token_key_name,
            audience=audience,
            tls=tls,
            kill_worker=kill_worker,
        )
        check_target(options)
        reporting = Reporting("run", found, title_of(own, found, smoke=smoke), report, folder or Path.cwd(), as_json)
    except (BenchError, WorkloadError, ReportPathError) as error:
        print(f"gonets: bench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    conduct(Runs(found, options, runs, smoke=smoke), reporting)


def _check(workload: Workload, runs: int, target: str | None, kill_worker: bool, folder: Path | None) -> None:
    if workload.kind in WITHOUT_SOCKETS and (runs != 1 or target):
        what = f"--runs {runs}" if runs != 1 else "--target"
        raise BenchError(
            f"{what}: workload {workload.name} is of kind {workload.kind!r}: no server, and runs of its own"
        )
    if not 1 <= runs <= RUNS_MAX:
        raise BenchError(f"--runs {runs}: must be 1 to {RUNS_MAX}")
    if kill_worker and (target or workload.storm is None):
        what = "a server that is started here" if target else "a workload with a [storm]"
        raise BenchError(f"--kill-worker needs {what}")
    if folder is not None and not folder.is_dir():
        raise BenchError(f"--folder {str(folder)!r}: no such directory; make it, or name another")
