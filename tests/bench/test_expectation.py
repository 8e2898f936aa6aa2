"""What a device must have got, against a naive model that walks the history event by event."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.expectation import NOTHING, Latencies, Placed, judge, merged, visible

kinds = st.sampled_from(["say", "join", "leave"])
events = st.lists(st.tuples(kinds, st.integers(1, 5), st.integers(1, 9)), max_size=40)


@settings(derandomize=True, max_examples=300)
@given(events, st.sets(st.integers(1, 5)))
def test_visible_is_what_a_walk_says(script: list[tuple[str, int, int]], start: set[int]) -> None:
    history, sequence = [Placed("create", 0, 3, 1)], 3
    for number, (kind, user, step) in enumerate(script, 2):
        sequence += step
        history.append(Placed(kind, user, sequence, number))
    naive: dict[int, list[int]] = {}
    present = set(start)
    for event in history:
        if event.kind == "join":
            present.add(event.subject)
        for user in present:
            naive.setdefault(user, []).append(event.sequence)
        if event.kind == "leave":
            present.discard(event.subject)
    assert {user: got.tolist() for user, got in visible(history, start).items()} == naive


def test_merged_is_in_order_of_sequence() -> None:
    one, two = {1: np.array([2, 9]), 2: np.array([4])}, {1: np.array([3, 5])}
    assert {user: got.tolist() for user, got in merged([one, two]).items()} == {1: [2, 3, 5, 9], 2: [4]}


def array(values: Any) -> Any:
    return np.array(values, np.int64)


def test_verdicts() -> None:
    must = array([2, 5, 9, 12])
    assert judge(must, must) == (4, 4, 0, 0, 0, NOTHING)
    for got, missing, duplicated, disordered, unexpected in [
        ([2, 5, 12], 1, 0, 0, []),
        ([2, 5, 5, 9, 12], 0, 1, 0, []),
        ([2, 9, 5, 12], 0, 0, 1, []),
        ([2, 5, 9, 12, 5], 0, 1, 0, []),
        ([2, 5, 7, 9, 12], 0, 0, 0, [7]),
        ([], 4, 0, 0, []),
        ([12, 9, 5, 2], 0, 0, 3, []),
    ]:
        verdict = judge(must, array(got))
        assert verdict[:5] == (4, len(got), missing, duplicated, disordered), got
        assert verdict.unexpected.tolist() == unexpected
    assert judge(must, array([2, 12]), array([5, 9]))[:5] == (4, 4, 0, 0, 0)
    assert judge(must, array([2, 5, 12]), array([5, 9]))[:5] == (4, 5, 0, 1, 0)


@settings(derandomize=True, max_examples=300)
@given(st.sets(st.integers(1, 30)), st.lists(st.integers(1, 30), max_size=40))
def test_verdicts_against_counting(must: set[int], got: list[int]) -> None:
    verdict = judge(array(sorted(must)), array(got))
    seen: set[int] = set()
    doubles = disordered = 0
    for one in got:
        doubles += one in seen
        disordered += one not in seen and one < max(seen, default=0)
        seen.add(one)
    assert verdict[:5] == (len(must), len(got), len(must - seen), doubles, disordered)
    assert verdict.unexpected.tolist() == sorted(seen - must)


def test_percentiles() -> None:
    latencies = Latencies()
    assert latencies.summary() == {"p50": None, "p99": None, "p999": None, "max": None}
    values = np.arange(1, 100_001)
    for part in np.array_split(values, 7):
        latencies.add(part)
    summary = latencies.summary()
    for name, true_ms in (("p50", 50), ("p99", 99), ("p999", 99.9), ("max", 100)):
        value = summary[name]
        assert value is not None and abs(value / true_ms - 1) < 0.012, name
