"""The native histograms have the layout of the HdrHistogram library, bucket for bucket."""

from __future__ import annotations

import struct

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.assemble import histogram, latency
from bench.schema import HISTOGRAM_DIGITS, HISTOGRAM_HIGHEST_NS, HISTOGRAM_LOWEST_NS
from ext.loadhdr import HDR, hdr_bucket, hdr_lowest

LIBRARY = HdrHistogram(HISTOGRAM_LOWEST_NS, HISTOGRAM_HIGHEST_NS, HISTOGRAM_DIGITS)


def test_the_layout_is_the_one_of_reports() -> None:
    """Lowest, highest, digits; and as many counters."""
    assert (HISTOGRAM_LOWEST_NS, HISTOGRAM_HIGHEST_NS, HISTOGRAM_DIGITS) == HDR
    with pytest.raises(ValueError, match=f"there are {LIBRARY.counts_len}"):
        hdr_lowest(LIBRARY.counts_len)


@given(st.one_of(st.integers(0, HISTOGRAM_HIGHEST_NS), st.integers(0, 41).map(lambda bit: 2**bit)))
def test_every_value_has_the_library_s_index(ns: int) -> None:
    """And the index the library's lowest value."""
    assert hdr_bucket(ns) == LIBRARY._counts_index_for(ns)
    assert hdr_lowest(hdr_bucket(ns)) == LIBRARY.get_value_from_index(hdr_bucket(ns))


def test_what_is_above_the_highest_counts_as_the_highest() -> None:
    """Nothing is written beside the table."""
    assert hdr_bucket(2**64 - 1) == hdr_bucket(HISTOGRAM_HIGHEST_NS)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200))
def test_counters_become_the_library_s_histogram(values: list[int]) -> None:
    """Added over two processes, encoded, and read again: the same quantiles as if the library had counted."""
    plain = HdrHistogram(*HDR)
    halves: list[dict[int, int]] = [{}, {}]
    for number, ns in enumerate(values):
        plain.record_value(ns)
        half = halves[number % 2]
        half[hdr_bucket(ns)] = half.get(hdr_bucket(ns), 0) + 1
    found = latency(histogram(b"".join(struct.pack("<QQ", *pair) for pair in half.items()) for half in halves))
    assert found is not None and found.count == len(values)
    again = HdrHistogram.decode(found.histogram)
    for share in (50.0, 90.0, 99.0, 100.0):
        assert again.get_value_at_percentile(share) == plain.get_value_at_percentile(share)
    assert found.p50_ms == plain.get_value_at_percentile(50.0) / 1e6
