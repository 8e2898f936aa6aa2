"""How a measuring command begins its report, fills it while it goes, and leaves it behind: file, page, summary.

Used by capacity and soak. Machine, command line and start are taken before anything is measured. What a command has
found is saved as often as it likes, marked partial until its end; the file is replaced whole each time, so that whoever
pulls the plug keeps the last save. At the end the page is drawn beside it, and the summary or, with --json, the report
is printed.

Invariants: stdout holds the summary or the report and nothing else; whatever ends a command early, what it had found is
in the file, with the reason.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import report as measured
from bench import schema, wording
from bench.clients import SetupError
from bench.harness import BenchError
from bench.workload import Workload, WorkloadError

RUNNING: Final = "it was still running"
INTERRUPTED: Final = "interrupted"
STATUS_OF_INTERRUPT: Final = 130
EXPECTED: Final = (BenchError, SetupError, WorkloadError, OSError)  # mistakes of use, and servers that are gone


class ReportPathError(Exception):
    """A place where no report can be written; one line for people."""


def title_of(workload: Workload, measured: Workload, *, smoke: bool = False) -> str:
    """The title of a workload; where it isn't measured at its own size, that it isn't."""
    if smoke:
        return f"{workload.title} (smoke: says nothing of speed)"
    sizes = []
    if measured.sessions.count != workload.sessions.count:
        sizes.append(f"{measured.sessions.count:,} sessions")
    if measured.rate_per_s is not None and measured.rate_per_s != workload.rate_per_s:
        sizes.append(wording.rate(measured.rate_per_s))
    return f"{workload.title} (scaled: {', '.join(sizes)})" if sizes else workload.title


class Reporting:
    """One command's report."""

    def __init__(
        self, kind: str, workload: Workload, title: str, path: Path | None, folder: Path, as_json: bool
    ) -> None:
        """`path`: of the report, or none: one with the time in its name, here; `folder`: where the measuring writes.
        Raises ReportPathError."""
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ReportPathError(f"--folder {str(folder)!r}: no directory that can be written to; name another")
        now = datetime.datetime.now(datetime.UTC)
        self.path = path or Path(f"gonets-bench-{kind}-{workload.name}-{now:%Y%m%dT%H%M%SZ}.json")
        parent = self.path.parent
        if not parent.is_dir() or self.path.is_dir() or not os.access(parent, os.W_OK):
            what = "is a directory" if self.path.is_dir() else f"there is no directory {parent} that can be written to"
            raise ReportPathError(f"--report {self.path}: {what}; name a file in one that is there")
        self._kind, self._workload, self._title, self._as_json = kind, workload, title, as_json
        self._started, self._clock = now.isoformat(timespec="seconds").replace("+00:00", "Z"), time.monotonic()
        self._machine = msgspec.convert(measured.machine(folder), schema.Machine)

    def report(self, target: schema.Target, reason: str, parts: dict[str, Any]) -> schema.Report:
        """The report as it is now. `reason`: why it is partial; `parts`: runs, capacity, growth, conclusions …"""
        return schema.Report(
            kind=self._kind,
            name=self._workload.name,
            title=self._title,
            partial=bool(reason),
            reason=reason,
            command=["gonets", *sys.argv[1:]],
            started=self._started,
            seconds=time.monotonic() - self._clock,
            seed=self._workload.seed,
            machine=self._machine,
            target=target,
            workload=msgspec.to_builtins(self._workload),
            **parts,
        )

    def save(self, target: schema.Target, parts: dict[str, Any]) -> None:
        """What is known in the midst of it."""
        schema.write(self.report(target, RUNNING, parts), self.path)

    def conduct(
        self, work: Callable[[], None], target: Callable[[], schema.Target], parts: Callable[[], dict[str, Any]]
    ) -> schema.Report:
        """Does it, and leaves the report, whatever happens. Ends the process where it didn't go to its end."""
        reason, status = "", 0
        try:
            work()
        except KeyboardInterrupt:
            reason, status = INTERRUPTED, STATUS_OF_INTERRUPT
        except EXPECTED as error:
            reason = " ".join(str(error).split()) or repr(error)
            status = STATUS_OF_INTERRUPT if reason == INTERRUPTED else 1
        except Exception as error:
            self._leave(self.report(target(), f"a mistake in this program: {error!r}", parts()))
            raise
        found = self.report(target(), reason, parts())
        self._leave(found)
        if reason:
            print(f"gonets: bench: {reason}; what was measured until then is in the report", file=sys.stderr)
            raise SystemExit(status)
        return found

    def _leave(self, report: schema.Report) -> None:
        """File, page, and what is shown."""
        from bench import pages, summary

        schema.write(report, self.path)
        pages.write(report, self.path.with_suffix(".html"))
        if self._as_json:
            sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
            sys.stdout.flush()
        else:
            summary.show(report, self.path)


def refused(words: str) -> SystemExit:
    """A mistake of use: one line, no traceback."""
    print(f"gonets: bench: {words}", file=sys.stderr)
    return SystemExit(1)
