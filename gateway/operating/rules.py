"""gonets.rules.yml: the rules of alerts.py as a file that Prometheus loads, with figures of a configuration in it.

Printed by `gonets config alerts`. A file of one shape needs no library of YAML: strings stand in single quotes.
Cost: some formatting, when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.operating.alerts import GROUPS, RECORDED, Alert
from gateway.operating.figures import Figures, chosen, filled

HEAD = (
    "# Prometheus rules of Gonets: what each alert means and what to do is in OPERATING.md.",
    "# Made by `gonets config alerts`, which fills in the limits of a node's own configuration.",
)


def rules(figures: Figures) -> str:
    """The whole file."""
    return "\n".join([*HEAD, "groups:", *_recorded(figures), *_alerts(figures)]) + "\n"


def _expr(expr: str, figures: Figures) -> str:
    """Of the job's own nodes: another job may have other limits, in a file of its own beside this."""
    return _quoted(chosen(filled(expr, figures), f'{{job="{figures.job}"}}'))


def _recorded(figures: Figures) -> Iterator[str]:
    yield "  - name: gonets-recorded"
    yield "    rules:"
    for row in RECORDED:
        yield f"      - record: {row.name}"
        yield f"        expr: {_expr(row.expr, figures)}"


def _alerts(figures: Figures) -> Iterator[str]:
    for name, group in GROUPS.items():
        yield f"  - name: gonets-{name}"
        yield "    rules:"
        for alert in group:
            yield from _alert(alert, figures)


def _alert(alert: Alert, figures: Figures) -> Iterator[str]:
    who = figures.job if "absent(" in alert.expr else "{{ $labels.instance }}"
    says = f"{who}: {filled(alert.says, figures)}"
    if alert.value:
        says += f" ({alert.value})"
    yield f"      - alert: {alert.name}"
    yield f"        expr: {_expr(alert.expr, figures)}"
    if alert.for_s:
        yield f"        for: {duration(alert.for_s)}"
    yield f"        labels: {{severity: {alert.severity}}}"
    yield "        annotations:"
    yield f"          summary: {_quoted(says)}"
    yield f"          runbook_url: {_quoted(f'{figures.runbook}#{alert.name.lower()}')}"


def duration(seconds: int) -> str:
    """As Prometheus writes it: 90 → 90s, 300 → 5m, 7200 → 2h."""
    for size, unit in ((3_600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _quoted(text: str) -> str:
    """One line as a string of YAML."""
    return "'" + text.replace("'", "''") + "'"
