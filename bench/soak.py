"""`gonets bench soak`: a load for hours against one server, and whether memory, descriptors, disk or lag grow.

A thin command: soaking.py conducts and judges, drive.py runs each window on one stage: one server, one set of users
and conversations. The server that is started here has an admin address of its own, so that the lag of its tail is seen.
"""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from bench import drive, workload
from bench.harness import BenchError
from bench.reporting import Reporting, ReportPathError, refused, title_of
from bench.schema import Run, Target
from bench.soak_watch import Watch
from bench.soaking import Soak
from bench.summary import Progress, Steps
from bench.workload import Workload, WorkloadError

HOURS_MAX: Final = 24.0 * 30
WINDOWS: Final = 40  # in a soak, where the windows need be neither very short nor very long
WINDOW_S_MIN: Final = 10.0
WINDOW_S_MAX: Final = 300.0
WARMUP_S: Final = 2.0
LOOKS_PER_WINDOW: Final = 6


def soak(
    load: Annotated[
        str, Parameter(name="workload", help="a name (`gonets bench workloads`) or the path of one's own")
    ] = "evening-peak",
    /,
    *,
    hours: Annotated[float | None, Parameter(help="how long; none, and no minutes: an hour")] = None,
    minutes: Annotated[float | None, Parameter(help="the same for short ones; together with --hours: the sum")] = None,
    rate_per_s: Annotated[float | None, Parameter(help="publishes a second instead of the workload's")] = None,
    sessions: Annotated[int | None, Parameter(help="so many instead of the workload's")] = None,
    window_s: Annotated[float | None, Parameter(help="of each window; none: a fortieth, 10 to 300")] = None,
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
    """Runs a load in windows for hours and says what of the server grows; exit status 1 if anything does."""
    try:
        seconds = duration_s(hours, minutes)
        own = workload.load(load)
        wanted = own.scaled(
            sessions=sessions,
            rate_per_s=rate_per_s,
            window_s=min(max(seconds / WINDOWS, WINDOW_S_MIN), WINDOW_S_MAX) if window_s is None else window_s,
            warmup_s=WARMUP_S,
            seed=seed,
        )
        if wanted.kind != "sockets":
            raise WorkloadError(f"workload {wanted.name}: of kind {wanted.kind!r}, without sessions: nothing to soak")
        options = drive.Options(
            workers=workers,
            generators=generators,
            folder=folder,
            target=target,
            token_key=token_key,
            token_key_name=token_key_name,
            audience=audience,
            tls=tls,
            configuration=None if target else {"GONETS_SERVER_ADMIN": f"127.0.0.1:{free_port()}"},
        )
        drive.check_target(options)
        reporting = Reporting("soak", wanted, title_of(own, wanted), report, folder or Path.cwd(), as_json)
    except (WorkloadError, BenchError, ReportPathError) as error:
        raise refused(str(error)) from None
    with Progress(f"soak {wanted.name}") as progress:
        conducted(reporting, wanted, options, seconds, progress)


def duration_s(hours: float | None, minutes: float | None) -> float:
    """How long. Raises BenchError."""
    for name, value, most in (("--hours", hours, HOURS_MAX), ("--minutes", minutes, 60 * HOURS_MAX)):
        if value is not None and not (0 < value <= most and math.isfinite(value)):
            raise BenchError(f"{name} {value:g}: must be more than 0 and at most {most:g}")
    if hours is None and minutes is None:
        return 3_600.0
    return 3_600.0 * (hours or 0.0) + 60.0 * (minutes or 0.0)


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def conducted(
    reporting: Reporting, wanted: Workload, options: drive.Options, seconds: float, progress: Progress
) -> None:
    """The soak with its report; ends the process where it was cut short, or where something grows."""
    soaks: list[Soak] = []
    watches: list[Watch] = []
    targets: list[Target] = []
    cut: list[Run] = []

    def parts() -> dict[str, Any]:
        if not soaks:
            return {}
        judged = soaks[0].judged()
        return {
            "runs": soaks[0].runs + cut,
            "growth": [one.growth for one in judged],
            "conclusions": [*soaks[0].conclusions(judged), *watches[0].remarks],
        }

    def after_window() -> None:
        run, number = soaks[0].runs[-1], len(soaks[0].runs)
        deliver = run.latencies.get("deliver")
        faults = ", ".join(f"{count} {name}" for name, count in run.faults.items() if count)
        said = f"p99 {deliver.p99_ms:.1f} ms" if deliver else "no deliveries"
        progress.say(f"window {number}: {said}, {faults or 'no faults'}")
        reporting.save(targets[0], parts())
        progress.part(f"window {number + 1}")

    def work() -> None:
        steps = Steps(progress)
        progress.part("window 1")
        with drive.Stage(wanted, options, steps) as stage:
            targets.append(stage.target)
            interval_s = wanted.run.window_s / LOOKS_PER_WINDOW
            with Watch(stage.data, stage.admin, interval_s) as watch:
                watches.append(watch)
                soaks.append(
                    Soak(
                        wanted,
                        seconds,
                        lambda load: stage.run(load, steps),
                        watch,
                        after_window,
                        workers=stage.target.workers,
                    )
                )
                try:
                    soaks[0].run()
                except drive.Stopped as stopped:
                    cut.extend([stopped.run] if stopped.run else [])
                    raise

    def ended() -> dict[str, Any]:
        progress.close()
        return parts()

    found = reporting.conduct(work, lambda: targets[0] if targets else Target(url=options.target or ""), ended)
    if any(growth.grows for growth in found.growth) or soaks[0].faults():
        raise SystemExit(1)
