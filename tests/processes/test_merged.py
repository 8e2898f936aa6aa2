"""Readings of many processes as one: counters never fall, whatever is reported and whoever dies."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metrics import TABLE, exposition, labelled
from gateway.processes.merged import Merged, Rule
from gateway.processes.operators import metrics_of, rules

RULES = {
    "counted": Rule("sum", counter=True),
    "seconds": Rule("sum", counter=True),
    "sessions": Rule("sum", counter=False),
    "slowest": Rule("max", counter=False),
    "behind": Rule("min", counter=False),
}
WHO = st.sampled_from(["sequencer", "worker 1", "worker 2"])
NUMBERS = st.one_of(st.integers(0, 2**53), st.floats(0, 1e12))
READINGS = st.dictionaries(st.sampled_from([*RULES, "unknown"]), NUMBERS)


@settings(max_examples=300)
@given(st.lists(st.tuples(WHO, st.one_of(st.none(), READINGS)), max_size=30))
def test_counters_never_fall_and_gauges_are_of_the_living(steps: list[tuple[str, dict[str, float] | None]]) -> None:
    """Any reports, in any order, also ones that fall or leave something out; None is a death."""
    merged = Merged(RULES)
    living: dict[str, dict[str, float]] = {}
    before: dict[str, float] = {}
    for who, reading in steps:
        if reading is None:
            merged.ended(who)
            living.pop(who, None)
        else:
            merged.take(who, reading)
            living[who] = reading
        now = merged.read()
        for key in ("counted", "seconds"):
            assert now.get(key, 0) >= before.get(key, 0), (key, steps)
            assert (key in now) >= (key in before), "a counter that was shown stays"
        for key, across in (("sessions", sum), ("slowest", max), ("behind", min)):
            numbers = [reading[key] for reading in living.values() if key in reading]
            assert now.get(key) == (across(numbers) if numbers else None)
        assert "unknown" not in now
        before = now


@given(st.lists(st.tuples(WHO, st.integers(0, 1000), st.booleans()), max_size=40))
def test_a_counter_is_the_sum_of_everything_that_was_counted(steps: list[tuple[str, int, bool]]) -> None:
    """Processes that count on and die now and then: the sum is what a single process would have counted."""
    merged = Merged(RULES)
    counts: dict[str, int] = {}
    total = 0
    for who, more, dies in steps:
        total += more
        counts[who] = counts.get(who, 0) + more
        merged.take(who, {"counted": counts[who]})
        if dies:
            merged.ended(who)
            del counts[who]
        assert merged.read()["counted"] == total


def test_every_metric_has_its_rule() -> None:
    """Counters are summed; a row of the table that isn't says so."""
    found = rules()
    assert set(found) == {row.key for row in TABLE}
    assert all(rule.across == "sum" for rule in found.values() if rule.counter)


@pytest.mark.parametrize("ready", [True, False])
def test_readiness_is_that_of_the_whole(ready: bool) -> None:
    """Whatever each child says of itself; and without a sequencer no end of the log, which an alert asks for."""

    class NoChildren:
        restarted = 3

        def places(self) -> list[Any]:
            return []

    merged = Merged(rules())
    merged.take("worker 1", {"ready": 1 - ready, "sessions": 5})
    text = metrics_of(cast(Any, NoChildren()), merged, lambda: (ready, "words"))().decode()
    assert f"\ngonets_ready {float(ready)}\n" in text
    assert "gonets_log_sequence" not in text and "\ngonets_restarted_processes_total 3.0\n" in text


def test_what_is_no_number_is_left_out() -> None:
    merged = Merged(RULES)
    merged.take("worker 1", {"counted": float("nan"), "sessions": float("inf")})
    assert merged.read() == {}


def test_values_of_subscriptions_are_shown_by_name_and_go_with_their_process() -> None:
    merged = Merged(rules())
    merged.take("api", {"subscriptions": 2, labelled("subscription_lag_events", "mail"): 7})

    def printed() -> str:
        return exposition(merged.read)().decode()

    assert '\ngonets_subscription_lag_events{subscription="mail"} 7.0\n' in printed()
    assert "\ngonets_subscriptions 2.0\n" in printed()
    merged.take("api", {"subscriptions": 1, labelled("subscription_lag_events", "push"): 3})
    assert '"mail"' not in printed() and '{subscription="push"} 3.0' in printed()
    merged.ended("api")
    assert "subscription_lag_events{" not in printed()
