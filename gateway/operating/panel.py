"""What a panel of the dashboard is: one question, its lines, and how rates and limits are written.

Used by panels.py and panels_backends.py, drawn by dashboard.py.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

RATE: Final = "[$__rate_interval]"


class Line(NamedTuple):
    """One series of a panel, for each node."""

    name: str
    expr: str
    is_limit: bool = False


class Panel(NamedTuple):
    """One question. `steps`: from which value on it is which colour; `width` of 24."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    help: str
    steps: tuple[tuple[str, str], ...] = ()
    width: int = 8
    kind: Literal["timeseries", "stat"] = "timeseries"
    most: float | None = None  # of the axis, where it is known


def rate(key: str) -> str:
    """Of a counter, a second."""
    return f"rate(gonets_{key}_total{RATE})"


def rates(**keys: str) -> tuple[Line, ...]:
    """name=key of a counter: its rate."""
    return tuple(Line(name.replace("_", " "), rate(key)) for name, key in keys.items())


def limit(name: str, expr: str) -> Line:
    """A line that is dashed."""
    return Line(name, expr, is_limit=True)


BAD_ABOVE_0: Final = (("1", "red"),)
GOOD_AT_1: Final = (("-Infinity", "red"), ("1", "green"))
