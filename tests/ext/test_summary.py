"""Summaries: a block of which nothing is wanted is told so, and nothing that is wanted is ever denied."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.picks import Picks
from ext.select import KindTable, Selection, wanting
from ext.summary import Summary
from tests.ext.test_select import EVENTS, FIRST, IDS, PREFIXES, written

ID_LISTS = st.lists(IDS | st.integers(1, 400), max_size=30)


def wants(selection: Selection, summary: Summary) -> bool:
    """Whether it may want something of the block."""
    return wanting([selection], summary) == [0]


@given(EVENTS, st.lists(st.sampled_from(PREFIXES), max_size=4), ID_LISTS, ID_LISTS, st.integers(0, 15))
def test_what_is_wanted_is_never_denied_and_little_else_is_promised(
    events: list[tuple[int, int, str, bytes]],
    types: list[str],
    conversations: list[int],
    senders: list[int],
    kinds: int,
) -> None:
    """Of one part alone the answer is exact: what a pass would find. Of several, yes may be too much, never no."""
    _, block = written(events)
    summary, names = Summary(FIRST, FIRST + 99, block), [name.encode() for name in types]

    def found(**parts: list[bytes] | list[int]) -> bool:
        picks = Picks()
        Selection(**parts).pick(block, 0, FIRST + len(events), picks)  # type: ignore[arg-type]
        return len(picks) > 0

    alone: list[dict[str, list[bytes] | list[int]]] = [
        {"types": names},
        {"conversations": conversations},
        {"senders": senders},
    ]
    for parts in alone:
        assert wants(Selection(**parts), summary) == found(**parts), parts  # type: ignore[arg-type]
    whole = Selection(
        types=names, kinds_mask=kinds << 1, conversations=conversations, senders=senders, kinds=KindTable()
    )
    assert wants(whole, summary) == all(found(**parts) for parts in alone)


@given(EVENTS)
def test_a_summary_knows_what_its_block_holds(events: list[tuple[int, int, str, bytes]]) -> None:
    """As many records; the block itself is kept."""
    _, block = written(events)
    summary = Summary(FIRST, FIRST + 99, block)
    assert summary.block is block
    assert summary.count == len(events)
    assert 16 * len(events) < summary.own_bytes <= 576 + 32 * len(events)


def test_more_types_than_are_kept_say_yes_to_every_type() -> None:
    """17 of them: who wants another one has to look."""
    _, block = written([(1, 1, f"type.n{number}", b"") for number in range(17)])
    summary = Summary(FIRST, FIRST + 99, block)
    assert wants(Selection(types=[b"nothing.of.it"]), summary)
    assert not wants(Selection(types=[b"nothing.of.it"], senders=[2]), summary)
    sixteen = Summary(FIRST, FIRST + 99, written([(1, 1, f"type.n{number}", b"") for number in range(16)])[1])
    assert not wants(Selection(types=[b"nothing.of.it"]), sixteen)
    assert wants(Selection(types=[b"type.n15"]), sixteen)


@given(
    st.lists(EVENTS, min_size=1, max_size=6),
    st.lists(IDS, min_size=1, max_size=2),
    st.sets(st.integers(0, 5)),
    st.data(),
)
def test_blocks_of_which_nothing_is_wanted_are_skipped(
    stretches: list[list[tuple[int, int, str, bytes]]], senders: list[int], gaps: set[int], data: st.DataObject
) -> None:
    """As many as follow each other, up to the first that a naive look finds something in."""
    summaries, wanted, first = list[Summary](), list[bool](), FIRST
    for number, events in enumerate(stretches):
        first += 2 * (number in gaps)
        last = first + len(events) - 1
        summaries.append(Summary(first, last, written(events, first)[1]))
        wanted.append(any(sender in senders for _, sender, _, _ in events))
        first = last + 1
    start = data.draw(st.integers(0, len(summaries)))
    upto = data.draw(st.integers(FIRST, first + 3))
    after = reached = summaries[start].first - 1 if start < len(summaries) else first
    index = start
    while index < len(summaries) and reached < upto:
        one = summaries[index]
        if one.first > reached + 1 or wanted[index]:
            break
        index, reached = index + 1, min(one.last, upto)
    assert Selection(senders=senders).skip(summaries, start, after, upto) == (index, reached)


def test_a_large_block_is_summed_up_for_the_second_who_asks() -> None:
    """The first makes the pass itself, which costs no more; a small one is summed up at once."""
    asks = Selection(conversations=[7])
    large = Summary(1, 65, written([(1, 1, "message", b"")] * 65, 1)[1])
    assert asks.skip([large], 0, 0, 65) == (0, 0)
    assert not large.is_built
    assert asks.skip([large], 0, 0, 65) == (1, 65)
    assert large.is_built
    small = Summary(1, 64, written([(1, 1, "message", b"")] * 64, 1)[1])
    assert asks.skip([small], 0, 0, 64) == (1, 64)
    with pytest.raises(ValueError, match="summaries from -1 on"):
        asks.skip([small], -1, 0, 64)
    with pytest.raises(TypeError, match="summary 0 is None"):
        asks.skip(list[Any]([None]), 0, 0, 64)


def test_many_selections_are_asked_in_one_call() -> None:
    """Their indices come back, ascending."""
    _, block = written([(5, 1, "message", b""), (9, 2, "message", b"")])
    asked = [Selection(conversations=[number]) for number in range(1, 11)] + [Selection()]
    assert wanting(asked, Summary(FIRST, FIRST + 99, block)) == [4, 8, 10]
    assert wanting([], Summary(FIRST, FIRST + 99, block)) == []
    with pytest.raises(TypeError):
        wanting(list[Any]([None]), Summary(FIRST, FIRST + 99, block))


def test_what_is_no_block_is_refused() -> None:
    """Named by its size."""
    with pytest.raises(ValueError, match="5 bytes are no block"):
        Summary(1, 1, b"short")
