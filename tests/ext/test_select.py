"""Selections: each picks what the naive one wants of a block's records; kinds that aren't known are asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.picks import Picks
from ext.record import Record, decode
from ext.select import KindTable, Selection
from tests.support.naive_block import block_bytes
from tests.support.naive_log import record_bytes
from tests.support.naive_select import Wanted, share_of, type_wanted

FIRST = 40
LAST = (1 << 64) - 1
IDS = st.integers(1, 6) | st.sampled_from([1 << 40, (1 << 53) - 1, LAST])
NAMES = ["message", "message.edited", "messages", "member.added", "member", "m", "education.homework.set", "x" * 64]
PREFIXES = ["message", "member.", "m", "member", "education.homework", "education.", "x" * 64, "none", "message.edited"]
EVENTS = st.lists(st.tuples(IDS, IDS, st.sampled_from(NAMES), st.binary(max_size=9)), min_size=1, max_size=20)


def written(events: list[tuple[int, int, str, bytes]], first: int = FIRST) -> tuple[list[Record], bytes]:
    """The fields of events given as (conversation, sender, type, payload), and their block."""
    fields = [
        Record(first + number, conversation, 1, 0, 5, sender, 1, number, name, payload)
        for number, (conversation, sender, name, payload) in enumerate(events)
    ]
    return fields, block_bytes([record_bytes(*one) for one in fields], first)


def mask_of(shares: set[int]) -> bytes:
    """As `pick` takes it."""
    return sum(1 << share for share in shares).to_bytes(32, "little")


@given(
    EVENTS,
    st.lists(st.sampled_from(PREFIXES), max_size=4),
    st.integers(0, 15).map(lambda bits: bits << 1),
    st.lists(IDS, max_size=4),
    st.lists(IDS, max_size=4),
    st.dictionaries(IDS, st.integers(1, 4)),
    st.data(),
)
def test_a_pick_is_what_the_naive_one_wants(
    events: list[tuple[int, int, str, bytes]],
    types: list[str],
    kinds_mask: int,
    conversations: list[int],
    senders: list[int],
    known: dict[int, int],
    data: st.DataObject,
) -> None:
    """With shares and a limit; over and over until all is read, kinds being learnt when they are missing."""
    fields, block = written(events)
    kinds = KindTable()
    for conversation, kind in known.items():
        kinds.put(conversation, kind)
    names = [name.encode() for name in types]
    naive = Wanted(names, kinds_mask, conversations, senders, known)
    native = Selection(types=names, kinds_mask=kinds_mask, conversations=conversations, senders=senders, kinds=kinds)
    after = data.draw(st.integers(FIRST - 3, FIRST + 22))
    upto = data.draw(st.integers(FIRST - 3, FIRST + 22))
    places = sorted({share_of(one.conversation) for one in fields})
    shares = data.draw(st.none() | st.sets(st.sampled_from(places)))
    events_max = data.draw(st.integers(0, 25))
    assert native.unknown(block, after, upto) == naive.unknown(fields, after, upto)
    picks, held = Picks(), list[Record]()
    for _ in range(len(events) + 2):
        reached, missing = native.pick(
            block,
            after,
            upto,
            picks,
            shares=None if shares is None else mask_of(shares),
            events_max=events_max,
        )
        expected = naive.pick(fields, after, upto, held, shares=shares, events_max=events_max)
        assert (reached, missing) == expected
        assert list(map(decode, picks.records())) == held
        if not missing:
            break
        assert missing in naive.unknown(fields, reached, upto)
        known[missing] = data.draw(st.integers(1, 4))
        kinds.put(missing, known[missing])
        after = reached
    else:
        pytest.fail("kinds are missing without an end")


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=60), st.lists(st.sampled_from(PREFIXES), min_size=1))
def test_remembered_verdicts_are_those_of_the_type(names: list[str], types: list[str]) -> None:
    """However types follow each other, and however many share a place in the memory of verdicts."""
    names += [f"{name[:60]}.{number}" for number, name in enumerate(names)]
    fields, block = written([(1, 1, name, b"") for name in names * 2])
    prefixes = [name.encode() for name in types]
    picks = Picks()
    Selection(types=prefixes).pick(block, 0, LAST, picks)
    assert list(picks.sequences()) == [one.sequence for one in fields if type_wanted(prefixes, one.type.encode())]


def test_prefixes_end_at_a_dot() -> None:
    """The failing story: who wants "message" isn't given "messages"; who wants "member." isn't given "member"."""
    fields, block = written([(1, 1, name, b"") for name in NAMES])
    for types, wanted in (
        ([b"message"], ["message", "message.edited"]),
        ([b"member."], ["member.added"]),
        ([b"member"], ["member.added", "member"]),
        ([b"m"], ["m"]),
        ([b"education.homework"], ["education.homework.set"]),
        ([], NAMES),
    ):
        picks = Picks()
        assert Selection(types=types).pick(block, 0, LAST, picks) == (fields[-1].sequence, 0)
        assert [decode(record).type for record in picks.records()] == wanted


def test_many_ids_are_all_found_and_no_others() -> None:
    """10,000 conversations, every third id."""
    wanted = range(3, 30_001, 3)
    _, block = written([(conversation, 1, "m", b"") for conversation in range(1, 4_001)])
    picks = Picks()
    Selection(conversations=[*wanted, *wanted[:10]]).pick(block, 0, LAST, picks)
    assert list(picks.conversations()) == list(range(3, 4_001, 3))
    picks.clear()
    Selection(senders=wanted).pick(block, 0, LAST, picks)
    assert not picks and not picks.bytes


def test_limits_count_what_was_in_the_picks_before() -> None:
    """A full one takes nothing, and `reached` says so: what was not looked at is looked at the next time."""
    fields, block = written([(1, 1, "m", b"")] * 10)
    _, behind = written([(1, 1, "m", b"")] * 10, FIRST + 10)
    everything, picks = Selection(), Picks()
    assert everything.pick(block, 0, LAST, picks, events_max=4) == (FIRST + 3, 0)
    assert everything.pick(block, FIRST + 3, LAST, picks, events_max=4) == (FIRST + 3, 0)
    assert everything.pick(block, FIRST + 3, LAST, picks, events_max=12) == (FIRST + 9, 0)
    assert everything.pick(behind, FIRST + 9, LAST, picks, events_max=12) == (FIRST + 11, 0)
    assert list(picks.sequences()) == list(range(FIRST, FIRST + 12))
    size = picks.bytes // 12
    picks.clear()
    assert everything.pick(block, 0, LAST, picks, bytes_max=3 * size) == (FIRST + 2, 0)
    assert everything.pick(block, FIRST + 2, LAST, picks, bytes_max=3 * size + 1) == (FIRST + 3, 0)
    assert everything.pick(block, 0, FIRST - 1, picks) == (0, 0)
    assert everything.pick(block, fields[-1].sequence, LAST, picks) == (fields[-1].sequence, 0)
    assert len(picks) == 4


@given(
    st.dictionaries(st.integers(1, 200) | st.integers(1, LAST), st.integers(1, 15), max_size=60), st.integers(1, LAST)
)
def test_kinds_are_kept_apart(known: dict[int, int], other: int) -> None:
    """Those of neighbours too, which share an entry; and the last word about one counts."""
    table = KindTable()
    for conversation in known:
        table.put(conversation, 15)
    for conversation, kind in known.items():
        table.put(conversation, kind)
    assert {conversation: table.get(conversation) for conversation in known} == known
    assert table.get(other) == known.get(other, 0)


def test_a_full_table_of_kinds_forgets_and_goes_on() -> None:
    """Bounded whatever comes; what was put last is known. Dense ids take about a byte each."""
    table = KindTable(4 << 20)
    for number in range(400_000):
        conversation = number * 1_000_003 + 1
        table.put(conversation, 2)
        assert table.get(conversation) == 2
    assert table.clears >= 1 and table.bytes <= table.bytes_max == 4 << 20
    dense = KindTable()
    for conversation in range(1, 1_000_001):
        dense.put(conversation, 1 + conversation % 4)
    assert dense.bytes < 3 << 20 and dense.clears == 0
    assert all(dense.get(conversation) == 1 + conversation % 4 for conversation in range(1, 1_000_001, 997))


def test_bad_input_is_named() -> None:
    _, block = written([(1, 1, "m", b"")])
    everything, picks = Selection(), Picks()
    for call, words in (
        (lambda: KindTable(1_000), "4194304 are the least"),
        (lambda: KindTable().put(7, 16), "kind 16 of conversation 7: 1 to 15"),
        (lambda: KindTable().put(7, 0), "kind 0 of conversation 7"),
        (lambda: Selection(kinds_mask=2), "a KindTable is needed"),
        (lambda: Selection(kinds_mask=1, kinds=KindTable()), "kinds 0x1: bits 1 to 15"),
        (lambda: Selection(kinds_mask=1 << 16, kinds=KindTable()), "kinds 0x10000"),
        (lambda: Selection(types=[b""]), "a type of 0 bytes"),
        (lambda: Selection(types=[b"x" * 65]), "a type of 65 bytes"),
        (lambda: Selection(conversations=[5, 0]), "ids begin at 1"),
        (lambda: everything.pick(bytes(79), 0, 1, picks), "79 bytes are no block"),
        (lambda: everything.unknown(bytes(79), 0, 1), "79 bytes are no block"),
        (lambda: everything.pick(block, 0, 99, picks, shares=bytes(31)), "31 bytes of shares: 256 bits"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for number in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            Selection(senders=[number])
    assert len(picks) == 0
