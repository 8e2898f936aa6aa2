"""What each device of a replay must have received, from the trace and the receipts alone.

Used by replay.py after the last receipt. A receipt gives an event its place; the events of a group in the order of
their conversation sequences are its history, joins and leaves in it make the intervals of each member, and what
lies in one's intervals is what one must have got: also one's own join and one's own leave, nothing before, nothing
after. Nothing here asks the server.

Invariants: judge() counts each delivery and each expectation once; a delivery can be a double or out of order, not
both. Cost: numpy over arrays of sequences, a sort a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Sequences = NDArray[np.int64]
NOTHING: Sequences = np.empty(0, np.int64)
LATENCY_BUCKETS = 4096
_BUCKETS_AN_OCTAVE = 64


class Placed(NamedTuple):
    """An event with the place that its receipt named."""

    kind: str  # create, join, leave, say
    subject: int  # the user who joined or left
    sequence: int
    conversation_sequence: int


class Verdict(NamedTuple):
    """What one device got against what it must have got."""

    expected: int
    deliveries: int
    missing: int
    duplicated: int
    out_of_order: int
    unexpected: Sequences  # that this device may not have, once each


def visible(history: Sequence[Placed], start: Iterable[int]) -> dict[int, Sequences]:
    """For each user the sequences of one group's events they must get; history is in conversation order."""
    sequences = np.array([event.sequence for event in history], np.int64)
    since = dict.fromkeys(start, 0)
    parts: dict[int, list[Sequences]] = {}
    for at, event in enumerate(history):
        if event.kind == "join":
            since.setdefault(event.subject, at)
        elif event.kind == "leave" and event.subject in since:
            parts.setdefault(event.subject, []).append(sequences[since.pop(event.subject) : at + 1])
    for user, at in since.items():
        parts.setdefault(user, []).append(sequences[at:])
    return {user: np.concatenate(some) for user, some in parts.items()}


def merged(groups: Iterable[dict[int, Sequences]]) -> dict[int, Sequences]:
    """For each user the sequences of all groups, ascending: the order in which a session must get them."""
    parts: dict[int, list[Sequences]] = {}
    for group in groups:
        for user, sequences in group.items():
            parts.setdefault(user, []).append(sequences)
    return {user: np.sort(np.concatenate(some)) for user, some in parts.items()}


def judge(expected: Sequences, got: Sequences, filled: Sequences = NOTHING) -> Verdict:
    """`got` as pushed, in order of arrival; `filled` is what was fetched where the server had announced a gap."""
    if filled.size == 0 and np.array_equal(expected, got):
        return Verdict(expected.size, got.size, 0, 0, 0, NOTHING)
    unique, first_at = np.unique(got, return_index=True)
    firsts = got[np.sort(first_at)]
    highest_before = np.maximum.accumulate(firsts)
    disordered = int(np.count_nonzero(firsts[1:] < highest_before[:-1]))
    everything = np.union1d(unique, filled)
    deliveries = int(got.size + filled.size)
    return Verdict(
        expected.size,
        deliveries,
        int(np.setdiff1d(expected, everything).size),
        deliveries - int(everything.size),
        disordered,
        np.setdiff1d(everything, expected),
    )


class Latencies:
    """A histogram of microseconds, 64 buckets an octave: percentiles are right to about 1 %."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(LATENCY_BUCKETS, np.int64)
        self._max_us = 0

    def add(self, latencies_us: Sequences) -> None:
        """Counts them in."""
        if latencies_us.size == 0:
            return
        clipped = np.maximum(latencies_us, 1)
        buckets = (np.log2(clipped) * _BUCKETS_AN_OCTAVE).astype(np.int64)
        self._counts += np.bincount(np.minimum(buckets, LATENCY_BUCKETS - 1), minlength=LATENCY_BUCKETS)
        self._max_us = max(self._max_us, int(clipped.max()))

    def percentile_ms(self, part: float) -> float | None:
        """The latency that this part of all deliveries did not exceed."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        bucket = int(np.searchsorted(np.cumsum(self._counts), part * total))
        return round(min(2 ** ((bucket + 0.5) / _BUCKETS_AN_OCTAVE), self._max_us) / 1000, 3)

    def summary(self) -> dict[str, float | None]:
        """What the report shows."""
        return {
            "p50": self.percentile_ms(0.50),
            "p99": self.percentile_ms(0.99),
            "p999": self.percentile_ms(0.999),
            "max": self._max_us / 1000 if self._max_us else None,
        }
