"""The readings of many processes as those of one: sums, the largest, the smallest; counters outlive who counted.

Fed by children.py with the Report of each child, read by operators.py at a scrape. What a dead child had counted stays
in the sum, because whoever looks at a counter takes a fall for a restart of the whole and draws a wrong rate.

Invariants: a counter never falls, whatever comes; a gauge is of the living only; a metric that nobody reports is left
out rather than shown as 0. Sums of counters are exact and rounded once: added up as floats, seconds would fall by the
last bit when one process less takes part in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal, NamedTuple

from gateway.metrics import key_of

Across = Literal["sum", "max", "min"]


class Rule(NamedTuple):
    """How the readings of one metric become one. Counters are summed."""

    across: Across
    counter: bool


class Merged:
    """One table of rules, and the last reading of each living process."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._living: dict[str, dict[str, float]] = {}
        self._gone: dict[str, Fraction] = {}  # counters of those who have ended

    def take(self, who: str, values: Mapping[str, float]) -> None:
        """The newest reading of a process."""
        now = {key: value for key, value in values.items() if key_of(key) in self._rules and math.isfinite(value)}
        for key, value in self._living.get(who, {}).items():
            if not self._rules[key_of(key)].counter:
                continue
            if key not in now:
                now[key] = value
            elif now[key] < value:  # it began anew without telling: what it had counted counts
                self._count(key, value)
        self._living[who] = now

    def ended(self, who: str) -> None:
        """A process is gone; whoever takes its name next begins at 0."""
        for key, value in self._living.pop(who, {}).items():
            if self._rules[key_of(key)].counter:
                self._count(key, value)

    def _count(self, key: str, value: float) -> None:
        self._gone[key] = self._gone.get(key, Fraction(0)) + Fraction(max(value, 0))

    def read(self) -> dict[str, float]:
        """One reading of all."""
        found: dict[str, list[float]] = {key: [] for key in self._gone}
        for values in self._living.values():
            for key, value in values.items():
                found.setdefault(key, []).append(value)
        return {key: self._one(key, numbers) for key, numbers in found.items()}

    def _one(self, key: str, numbers: list[float]) -> float:
        rule = self._rules[key_of(key)]
        if rule.counter:
            return float(self._gone.get(key, Fraction(0)) + _exact(numbers))
        if rule.across == "sum":
            return sum(numbers)
        return max(numbers) if rule.across == "max" else min(numbers)


def _exact(numbers: Iterable[float]) -> Fraction:
    return sum((Fraction(max(number, 0)) for number in numbers), Fraction(0))
