"""`gonets bench micro`: runs the files bench_*.py with pytest-benchmark in a process of its own, and says what came.

Nanoseconds an operation, the median of all rounds; beside it the rounds' middle half. With `--compare` an earlier
report of this command stands beside it, and a verdict: faster or slower only where the runs of the two don't overlap.
The report holds for each benchmark the medians of up to nine stretches of its rounds, in the order of time, so that
`gonets bench compare` can judge two of them too. A benchmark that fails ends the command, and what there is is kept
and marked partial.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter
from rich.table import Table

from bench import report
from bench.schema import Machine, Measure, Report, ReportError, Target, read, write

NAME: Final = "micro"
HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
TIMEOUT_S: Final = 900.0
STRETCHES: Final = 9
SMOKE: Final = ("--benchmark-min-rounds=2", "--benchmark-max-time=0.002", "--benchmark-calibration-precision=1")
FULL: Final = ("--benchmark-min-rounds=15", "--benchmark-max-time=1.0", "--benchmark-warmup=on")


def micro(
    *,
    only: Annotated[str, Parameter(help="those whose names contain this, e.g. `interest or crc32c`")] = "",
    compare: Annotated[Path | None, Parameter(help="a report of an earlier `gonets bench micro`")] = None,
    report_path: Annotated[
        Path | None, Parameter(name="--report", help="where the report goes; else beside you, named by the time")
    ] = None,
    smoke: Annotated[bool, Parameter(negative="", help="a few seconds: shows that it works")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the report on stdout")] = False,
) -> None:
    """Nanoseconds an operation of the native parts: checksums, blocks, frames, interest, flush, admission, picking …"""
    try:
        before = None if compare is None else _earlier(compare)
        found = run(only, smoke=smoke)
        path = report_path or Path(f"gonets-bench-{NAME}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json")
        write(found, path)
    except (MicroError, ReportError, OSError) as error:
        print(f"gonets: bench: micro: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        show(found, before)
        print(f"report: {path}", file=sys.stderr)
    if found.partial:
        print(f"gonets: bench: micro: {found.reason}", file=sys.stderr)
        raise SystemExit(1)


class MicroError(Exception):
    """One line for people."""


def run(only: str = "", *, smoke: bool = False) -> Report:
    """All benchmarks, or those whose names fit. Raises MicroError where nothing came out."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise MicroError("pytest-benchmark is not installed: pip install 'gonets[dev]', or `make build`")
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    machine = msgspec.convert(report.machine(Path.cwd()), Machine)
    with tempfile.TemporaryDirectory(prefix="gonets-micro-") as folder:
        code, said, results = _child(Path(folder) / "results.json", only, SMOKE if smoke else FULL)
    if not results:
        why = f"no benchmark is named {only!r}" if code == 5 else said
        raise MicroError(why if why else f"pytest ended with {code}")
    return Report(
        kind="measure",
        name=NAME,
        title="Native parts, nanoseconds an operation",
        partial=code != 0,
        reason="" if code == 0 else f"not all benchmarks came to their end: {said}",
        command=["gonets", "bench", NAME, *(["--only", only] if only else []), *(["--smoke"] if smoke else [])],
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        seed=1,
        machine=machine,
        target=Target(),
        measures=[_measure(one) for one in results],
    )


def _child(results: Path, only: str, options: tuple[str, ...]) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit status, the first line that says what failed, and the results."""
    command = [
        *(sys.executable, "-m", "pytest", str(HERE)),
        *("-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider", "-q"),
        *("-o", "python_files=bench_*.py", "-o", "python_functions=bench_*"),
        *("--benchmark-only", "--benchmark-disable-gc", f"--benchmark-json={results}", *options),
        *(["-k", only] if only else []),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"not done in {TIMEOUT_S:.0f} s", []
    lines = (done.stdout + done.stderr).splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    return done.returncode, (failed or lines[-1:] or [""])[0], json.loads(text)["benchmarks"] if text else []


def _measure(found: dict[str, Any]) -> Measure:
    """One benchmark's."""
    each_ns = 1e9 / int(found["extra_info"]["operations"])
    rounds: list[float] = found["stats"]["data"]
    step = -(-len(rounds) // STRETCHES)
    runs = [statistics.median(rounds[at : at + step]) * each_ns for at in range(0, len(rounds), step)]
    low, high = float(found["stats"]["q1"]) * each_ns, float(found["stats"]["q3"]) * each_ns
    return Measure(
        name=str(found["name"]).removeprefix("bench_"),
        unit="ns",
        value=float(found["stats"]["median"]) * each_ns,
        runs=runs,
        note=f"{len(rounds)} rounds, the middle half {low:,.3g} to {high:,.3g} ns",
    )


def _earlier(path: Path) -> Report:
    found = read(path)
    if found.name != NAME:
        raise MicroError(f"{path}: a report of {found.name!r}; --compare wants one of `gonets bench micro`")
    return found


def verdict(now: Measure, before: Measure) -> str:
    """Faster or slower only where no run of the one is among those of the other."""
    if max(now.runs) < min(before.runs):
        return "faster"
    if min(now.runs) > max(before.runs):
        return "slower"
    return "can't tell"


def show(found: Report, before: Report | None) -> None:
    """A table."""
    console = report.plain_console()
    table = Table(show_edge=False, header_style="bold")
    for name in ("benchmark", "ns an operation", "million/s", *(("before, ns", "verdict") if before else ())):
        table.add_column(name, justify="left" if name in ("benchmark", "verdict") else "right", no_wrap=True)
    earlier = {measure.name: measure for measure in before.measures} if before else {}
    for measure in found.measures:
        row = [measure.name, f"{measure.value:,.4g}", f"{1_000 / measure.value:,.3g}"]
        if before is not None:
            other = earlier.get(measure.name)
            row += [f"{other.value:,.4g}", verdict(measure, other)] if other else ["", "new"]
        table.add_row(*row)
    console.print(table)
