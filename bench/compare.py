"""`gonets bench compare A B`: two reports, or two git refs that are measured by turns; faster, slower, can't tell.

What may be compared is comparable.py's business, what of it is chance verdicts.py's. Two refs give the trustworthy
answer: their runs take turns on one machine. Two reports were measured at different times, which is said.

Exit status: 0: B is slower in nothing (which "can't tell" is too); 3: slower in at least one measure; 1: not compared.
"""

from __future__ import annotations

import datetime
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from bench import comparable, pages, refs, schema, summary, verdicts
from bench import report as measured
from bench.harness import BenchError, workplace
from bench.schema import Comparison, Report, Side
from bench.verdicts import Series

SLOWER: Final = 3
RUNS: Final = 8
RUNS_MAX: Final = 100
THRESHOLD_PERCENT: Final = verdicts.THRESHOLD_SHARE * 100
NOT_INTERLEAVED: Final = "the runs didn't take turns: a machine that was slower in one of the two hours is not noticed"


def of_reports(a: Report, b: Report, names: tuple[str, str], threshold_share: float) -> Comparison:
    """Of two reports. `names`: their files."""
    refused = comparable.refusal(a, b)
    sides = [
        Side(name=name, commit=one.machine.commit, started=one.started) for name, one in zip(names, (a, b), strict=True)
    ]
    found: list[schema.Difference] = []
    if not refused:
        found = compared(comparable.measures(a), comparable.measures(b), False, threshold_share)
        refused = "" if found else "they have no measure in common"
    return Comparison(
        a=sides[0],
        b=sides[1],
        interleaved=False,
        threshold_share=threshold_share,
        differences=found,
        refused=refused,
        cautions=[] if refused else [*_few(found), NOT_INTERLEAVED, *comparable.cautions(a, b)],
    )


def _few(found: list[schema.Difference]) -> list[str]:
    """What goes before every other caution: no measure has the runs of a verdict."""
    a, b = max(((len(one.a), len(one.b)) for one in found), key=min, default=(RUNS, RUNS))
    if (2 if a == b else 1) / math.comb(a + b, a) < verdicts.CHANCE:  # the most telling of all orders
        return []
    return [
        f"{a} and {b} runs are too few: no difference could be more than chance; four a side are the least (--runs)"
    ]


def compared(a: list[Series], b: list[Series], interleaved: bool, threshold_share: float) -> list[schema.Difference]:
    """The measures that both have."""
    others = {one.name: one for one in b}
    pairs = [(one, others[one.name]) for one in a if one.name in others and others[one.name].unit == one.unit]
    judged = [verdicts.judge(one, other, interleaved=interleaved) for one, other in pairs]
    return verdicts.decided(judged, threshold_share)


class Turns:
    """Runs of two refs, collected."""

    def __init__(self, job: refs.Job, runs: int, threshold_share: float, repository: Path) -> None:
        self.job, self._runs, self._threshold_share, self._repository = job, runs, threshold_share, repository
        self.trees: list[refs.Tree] = []
        self.reports: tuple[list[Report], list[Report]] = ([], [])
        self.older: tuple[list[list[Series]], list[list[Series]]] = ([], [])
        self.order: list[int] = []

    def measure(self, names: tuple[str, str], place: Path, progress: summary.Progress) -> None:
        """Builds both, then runs them by turns. What was measured stays, whatever ends it."""
        for name in names:
            refs.commit_of(name, self._repository)
        for letter, name in zip("AB", names, strict=True):
            self.trees.append(refs.built(letter, name, place, progress, self._repository))
        for number, side in enumerate(refs.turns(self._runs), 1):
            tree = self.trees[side]
            progress.part(f"run {number} of {2 * self._runs}")
            progress.phase(f"{tree.side}: {tree.ref}")
            found = refs.measure(tree, self.job, number, place)
            if isinstance(found, Report):
                self.reports[side].append(found)
            else:
                self.older[side].append(found)
            self.order.append(side)

    def comparison(self) -> Comparison:
        """Of the runs so far."""
        refused, cautions = "", []
        if self.reports[0] and self.reports[1]:
            a, b = (_joined(one) for one in self.reports)
            refused, cautions = comparable.refusal(a, b), comparable.cautions(a, b)
            found = compared(comparable.measures(a), comparable.measures(b), True, self._threshold_share)
        else:
            a_cases, b_cases = (_columns(one) for one in self.older)
            found = compared(a_cases, b_cases, True, self._threshold_share)
        if not found and not refused:
            refused = "no measure in common"
        places: tuple[list[int], list[int]] = ([], [])
        if self.reports[0]:
            for number, side in enumerate(self.order):
                places[side].append(number)
        sides = [
            Side(name=tree.ref, commit=tree.commit[: refs.COMMIT_DIGITS], runs=runs)
            for tree, runs in zip(self.trees, places, strict=True)
        ]
        return Comparison(
            a=sides[0],
            b=sides[1],
            interleaved=True,
            threshold_share=self._threshold_share,
            differences=[] if refused else found,
            refused=refused,
            cautions=list(dict.fromkeys([*([] if refused else _few(found)), *cautions])),
        )

    def runs_in_order(self) -> list[schema.Run]:
        """As they were measured; `Side.runs` are places in it."""
        rest = [iter(one) for one in self.reports]
        return [next(rest[side]).runs[0] for side in self.order] if self.reports[0] else []


def _joined(reports: list[Report]) -> Report:
    """The runs of several reports of one side as one."""
    return msgspec.structs.replace(
        reports[0], runs=[run for one in reports for run in one.runs], partial=any(one.partial for one in reports)
    )


def _columns(rounds: list[list[Series]]) -> list[Series]:
    """Values of each case over all rounds."""
    found: dict[str, Series] = {}
    for one in (case for cases in rounds for case in cases):
        before = found.setdefault(one.name, one._replace(values=[]))
        before.values.extend(one.values)
    return list(found.values())


# --- the command ------------------------------------------------------------------------------------------------------


def compare(
    a: Annotated[str, Parameter(help="a report file, or a git ref")],
    b: Annotated[str, Parameter(help="another of the same")],
    *,
    workload: Annotated[str, Parameter(help="of two refs: what `gonets bench run` does in both")] = "",
    bench: Annotated[str, Parameter(help="of two refs: another command instead, such as publish or append")] = "",
    runs: Annotated[int, Parameter(help="of each ref, by turns")] = RUNS,
    threshold_percent: Annotated[float, Parameter(help="a smaller difference is none")] = THRESHOLD_PERCENT,
    smoke: Annotated[bool, Parameter(negative="", help="of two refs: seconds each, says nothing about speed")] = False,
    folder: Annotated[Path | None, Parameter(help="where refs are built and measured; the disk that is judged")] = None,
    report: Annotated[Path | None, Parameter(help="where to write the report; its page beside it")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the report on stdout")] = False,
) -> None:
    """Two reports, or two git refs: whether B is slower than A (exit status 3), with how sure that is."""
    began, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    path = report or Path(f"gonets-bench-compare-{began:%Y%m%dT%H%M%SZ}.json")
    try:
        _check(a, b, workload, bench, runs, threshold_percent)
        if not path.parent.is_dir() or path.is_dir():
            raise BenchError(f"--report {path}: name a file in a directory that is there")
        if _is_file(a):
            parts = _reports(a, b, threshold_percent / 100)
        else:
            job = refs.Job(workload, bench, ("--smoke",) if smoke else ())
            parts = _refs(a, b, Turns(job, runs, threshold_percent / 100, refs.REPOSITORY), folder)
    except (BenchError, schema.ReportError, OSError) as error:
        print(f"gonets: bench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    parts.setdefault("machine", msgspec.convert(measured.machine(folder or Path.cwd()), schema.Machine))
    found = Report(
        kind="compare",
        command=["gonets", *sys.argv[1:]],
        started=began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        seconds=time.monotonic() - clock,
        **parts,
    )
    _leave(found, path, as_json)


def _check(a: str, b: str, workload: str, bench: str, runs: int, threshold_percent: float) -> None:
    if _is_file(a) != _is_file(b):
        file, other = (a, b) if _is_file(a) else (b, a)
        raise BenchError(f"{file!r} is a file and {other!r} is none: compare two reports, or two git refs")
    if not 0 <= threshold_percent < 100:
        raise BenchError(f"--threshold-percent {threshold_percent:g}: must be 0 to below 100")
    if _is_file(a):
        if workload or bench:
            raise BenchError("--workload and --bench are for git refs; these are two report files")
    elif bool(workload) == bool(bench):
        raise BenchError("two git refs need something to measure: --workload NAME, or --bench NAME (not both)")
    if not 1 <= runs <= RUNS_MAX:
        raise BenchError(f"--runs {runs}: must be 1 to {RUNS_MAX}")


def _is_file(name: str) -> bool:
    return name.endswith(".json") or Path(name).is_file()


def _reports(a: str, b: str, threshold_share: float) -> dict[str, Any]:
    one, other = schema.read(Path(a)), schema.read(Path(b))
    found = of_reports(one, other, (a, b), threshold_share)
    parts = {"name": other.name, "title": f"{other.title or other.name}: A beside B", "seed": other.seed}
    return {**parts, "machine": other.machine, "target": other.target, "workload": other.workload, "comparison": found}


def _refs(a: str, b: str, turns: Turns, folder: Path | None) -> dict[str, Any]:
    """Builds and measures; what there was before an interruption is kept, and marked."""
    reason = ""
    with workplace("compare", folder) as place, summary.Progress(f"compare {a} {b}") as progress:
        try:
            turns.measure((a, b), place, progress)
        except KeyboardInterrupt:
            reason = f"interrupted after {len(turns.order)} runs"
        except BenchError as error:
            reason = str(error)
    if reason and len(turns.order) < 2:
        raise BenchError(reason)
    found = turns.comparison()
    if reports := [*turns.reports[0], *turns.reports[1]]:
        of: dict[str, Any] = {
            name: getattr(reports[-1], name) for name in ("name", "seed", "machine", "target", "workload")
        }
    else:
        where = folder or Path.cwd()
        of = {"name": turns.job.bench, "seed": 0, "target": schema.Target(durability=measured.durability_of(where))}
    title = f"{of['name']}: {a} beside {b}"
    return {
        **of,
        "title": title,
        "runs": turns.runs_in_order(),
        "comparison": found,
        "partial": bool(reason),
        "reason": reason,
    }


def _leave(found: Report, path: Path, as_json: bool) -> None:
    """File, page, what is shown, exit status."""
    schema.write(found, path)
    pages.write(found, path.with_suffix(".html"))
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.flush()
    else:
        summary.show(found, path)
    comparison = found.comparison
    assert comparison is not None
    if comparison.refused or found.partial:
        why = comparison.refused or found.reason
        print(f"gonets: bench: not compared: {why}", file=sys.stderr)
        raise SystemExit(1)
    if any(one.verdict == "slower" for one in comparison.differences):
        raise SystemExit(SLOWER)
