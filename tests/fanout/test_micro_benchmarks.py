"""The micro-benchmarks run, at smoke size: they check what they deliver by themselves."""

from __future__ import annotations

from bench.fanout_micro import fanout_flush, interest_lookups


def test_interest_lookups() -> None:
    found = interest_lookups(entries=20_000, lookups=5_000)
    assert found.entries == 20_000
    assert 0 < found.bytes_per_entry < 64


def test_fanout_flush() -> None:
    found = fanout_flush(sessions=20, events=8, rounds=3)
    assert len(found.ours_s) == len(found.bare_s) == 3
    assert found.ratio > 0
    assert found.deliveries_per_s > 0
