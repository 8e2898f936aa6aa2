"""What a page begins and ends with: whose figures these are, whether to believe them; and how to measure them again.

Used by pages/__init__.py. The end is a table of everything that the figures depend on: machine, versions, server with
its configuration, the whole workload, the command.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from bench import findings, wording
from bench.pages.headlines import headlines
from bench.pages.markup import escaped, section
from bench.schema import Report

FACTS_MAX: Final = 400  # characters of one value in a table
KINDS: Final = {
    "run": "Benchmark run",
    "capacity": "Search for the capacity",
    "soak": "Soak",
    "peers": "Beside its peers",
    "compare": "Comparison",
    "measure": "Measurement",
    "plan": "Plan",
}


def kind_of(report: Report) -> str:
    """In words."""
    return KINDS.get(report.kind, report.kind)


def head(report: Report) -> str:
    """Title, verdict with all remarks, first figures, conclusions."""
    return "".join([_title(report), _verdict(report), _headlines(report), _conclusions(report)])


def _title(report: Report) -> str:
    machine, target = report.machine, report.target
    where = [
        f"{report.started.removesuffix('Z').replace('T', ' ')} UTC, {wording.duration(report.seconds)}.",
        f"{machine.cpu}, {machine.cores} cores, {wording.number(machine.memory_gib)} GiB,",
        f"Linux {machine.kernel}, {machine.filesystem}.",
        f"Commit {machine.commit}, {f'{target.workers} workers' if target.workers else 'one process'},",
        f"durability {target.durability or 'not stated'}.",
    ]
    return (
        f'<header><p class="kind">{escaped(kind_of(report))}</p><h1>{escaped(report.title or report.name)}</h1>'
        f'<p class="where"><strong>{escaped(report.name)}</strong> · {escaped(" ".join(where))}</p></header>'
    )


def _verdict(report: Report) -> str:
    found = findings.verdict(report)
    items = "".join(f"<li>{escaped(remark.text)}</li>" for remark in findings.remarks(report))
    words = f"<strong>{escaped(found.text)}</strong>" + (f"<ul>{items}</ul>" if items else "")
    return f'<div class="verdict {found.weight}" role="note" aria-label="Verdict">{words}</div>'


def _headlines(report: Report) -> str:
    cells = []
    for one in headlines(report):
        value, detail = f'<dd class="v">{escaped(one.value)}</dd>', f'<dd class="d">{escaped(one.detail)}</dd>'
        cells.append(f"<div><dt>{escaped(one.label)}</dt>{value}{detail}</div>")
    return f'<dl class="heads">{"".join(cells)}</dl>' if cells else ""


def _conclusions(report: Report) -> str:
    items = "".join(f"<li>{escaped(text)}</li>" for text in report.conclusions)
    return f'<ul class="said" aria-label="Conclusions">{items}</ul>' if items else ""


def conditions(report: Report) -> str:
    """Everything that the figures depend on, and the command that measures them again."""
    about = {
        "kind": report.kind,
        "schema": report.schema,
        "seed": report.seed,
        "started": report.started,
        "took": wording.duration(report.seconds),
    }
    facts = [
        _facts("Machine", msgspec.to_builtins(report.machine)),
        _facts("Server", msgspec.to_builtins(report.target)),
        _facts("Report", about),
        _facts("Workload", report.workload),
    ]
    command = f"<h3>Command</h3><pre>{escaped(shlex.join(report.command))}</pre>"
    where = "The report's JSON file beside this page has every raw figure; REPORT_FORMAT.md describes it."
    body = f'{command}<div class="facts-grid">{"".join(facts)}</div>'
    return section("conditions", "How it was measured", body, where)


def _facts(title: str, values: Mapping[str, Any]) -> str:
    rows = []
    for name, text in flattened(values):
        short = text if len(text) <= FACTS_MAX else text[:FACTS_MAX] + " …"
        rows.append(f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(short)}</td></tr>')
    if not rows:
        return ""
    body = f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'
    return f'<div><h3>{escaped(title)}</h3><div class="scroll">{body}</div></div>'


def flattened(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text); empty ones are left out."""
    for name, value in values.items():
        dotted = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{dotted}.")
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value, 1):
                yield from flattened(one, f"{dotted} {one.get('name', number)}.")
        elif value not in (None, "", [], {}):
            yield dotted, value if isinstance(value, str) else msgspec.json.encode(value).decode()
