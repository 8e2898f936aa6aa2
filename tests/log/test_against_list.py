"""The log against a list: appends of random blocks over many segments, reopened at random, read in every way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadArgument, EngineClosed, RecordDamaged, Trimmed
from engine.log.reader import Reader
from engine.log.segments import OPEN_MAX
from tests.support.log_rig import Naive, only_reading, segment_files

LARGE = 1 << 40


def compare(reader: Reader, naive: Naive, random_: random.Random) -> None:
    """Everything that a reader answers, at random places."""
    chain = naive.chain
    assert reader.last_sequence() == chain.last
    assert reader.first_sequence == chain.first
    for _ in range(20):
        after = random_.randrange(chain.first - 1, chain.last + 3)
        limit = random_.choice([0, 1, 5_000, 100_000, LARGE])
        assert reader.blocks_after(after, limit) == chain.blocks_after(after, limit), (after, limit)
        sequence = random_.randrange(chain.first, chain.last + 3)
        expected = chain.record(sequence) if sequence <= chain.last else None
        assert reader.record(sequence) == expected, sequence
    for conversation, (head, _) in chain.heads.items():
        after, limit = random_.randrange(chain.first - 1, chain.last + 1), random_.choice([0, 1, 7, LARGE])
        number = (chain.shard << 40) + conversation
        assert reader.walk(head, number, after, limit) == chain.walk(head, after, limit), (conversation, after, limit)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(0, 900)),
        st.just("large"),
        st.just("reopen"),
    ),
    min_size=1,
    max_size=25,
)


@given(steps=STEPS, shard=st.sampled_from([0, 3]), seed=st.integers(0, 1 << 32))
@settings(max_examples=25)
def test_a_log_equals_a_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str | tuple[int, int]], shard: int, seed: int
) -> None:
    """L3: what was appended is what is read, before and after reopening, by the writer's readers and by others."""
    random_ = random.Random(seed)
    naive = Naive(tmp_path_factory.mktemp("log"), shard=shard)
    for step in steps:
        if step == "reopen":
            naive.close()
            naive.open()
            assert naive.log.last_sequence == naive.chain.last
            assert naive.log.last_hash == naive.chain.hash
        elif step == "large":
            naive.append(count=3, size=65_000)
        else:
            assert isinstance(step, tuple)
            naive.append(*step)
    if naive.chain.last:
        compare(naive.log.reader(), naive, random_)
        naive.close()
        segments, reader = only_reading(naive.path)
        compare(reader, naive, random_)
        segments.close()
    else:
        naive.close()


@pytest.fixture(name="naive")
def _naive(tmp_path: Path) -> Naive:
    """Five segments."""
    naive = Naive(tmp_path)
    naive.fill(5)
    return naive


def test_segments_are_as_long_as_they_should_be(naive: Naive) -> None:
    """Rolled over at the first block behind the limit; each names the hash of the block before it (L4)."""
    files = segment_files(naive.path)
    assert len(files) == 5
    for path in files[:-1]:
        assert naive.segment_bytes <= path.stat().st_size <= naive.segment_bytes + (32 << 10)
    naive.close()


def test_walks_cross_segments(naive: Naive) -> None:
    """From the newest event of a conversation to its first, and to any limit."""
    reader = naive.log.reader()
    for conversation, (head, number) in naive.chain.heads.items():
        assert len(reader.walk(head, conversation, 0, LARGE)) == number
        for limit in (1, 2, number - 1):
            assert reader.walk(head, conversation, 0, limit) == naive.chain.walk(head, 0, limit)
    naive.close()


def test_a_walk_that_leaves_its_conversation_is_damage(naive: Naive) -> None:
    """A head of another conversation, and one that is not there."""
    reader = naive.log.reader()
    head, _ = naive.chain.heads[1]
    with pytest.raises(RecordDamaged, match="chain of conversation 2 leads to"):
        reader.walk(head, 2, 0, 10)
    with pytest.raises(RecordDamaged, match="no block holds"):
        reader.walk(naive.chain.last + 1, 1, 0, 10)
    assert reader.walk(0, 1, 0, 10) == []
    naive.close()


def test_what_is_trimmed_says_so(naive: Naive) -> None:
    """The oldest segments removed by hand while closed: what is kept is served; what is not is no end of the log."""
    naive.close()
    files = segment_files(naive.path)
    kept = int(files[2].stem)
    for path in files[:2]:
        path.unlink()
    naive.open()
    reader = naive.log.reader()
    assert reader.first_sequence == kept
    assert reader.record(kept) == naive.chain.record(kept)
    assert reader.blocks_after(kept - 1, LARGE) == naive.chain.blocks_after(kept - 1, LARGE)
    for sequence in (1, kept - 1):
        with pytest.raises(Trimmed, match=f"the log begins at {kept}"):
            reader.record(sequence)
        with pytest.raises(Trimmed):
            reader.blocks_after(sequence - 1)
    for sequence in (0, -5):
        with pytest.raises(Trimmed):
            reader.record(sequence)
    head, _ = naive.chain.heads[1]
    assert reader.walk(head, 1, kept - 1, LARGE) == naive.chain.walk(head, kept - 1, LARGE)
    with pytest.raises(Trimmed):
        reader.walk(head, 1, 0, LARGE)
    naive.append()
    assert reader.last_sequence() == naive.chain.last
    naive.close()


def test_an_empty_log_reads_as_empty(tmp_path: Path) -> None:
    """No event: sequences begin at 1."""
    naive = Naive(tmp_path)
    for _ in range(2):
        reader = naive.log.reader()
        assert reader.last_sequence() == 0
        assert reader.blocks_after(0) == []
        assert reader.record(1) is None
        assert reader.walk(0, 1, 0, 1) == []
        assert naive.log.last_hash == bytes(32)
        naive.close()
        naive.open()
    naive.append()
    assert naive.log.reader().blocks_after(0) == naive.chain.blocks
    naive.close()


def test_a_block_that_does_not_follow_is_refused_and_harms_nothing(naive: Naive) -> None:
    """Another sequence, shard or epoch is the caller's mistake: no fence."""
    last = naive.chain.blocks[-1]
    foreign = Naive(naive.path.parent / "other", shard=3)
    for block in (last, naive.chain.blocks[0], foreign.append()):
        with pytest.raises(BadArgument, match=f"sequence {naive.chain.last + 1} is next"):
            naive.log.append(block)
    foreign.close()
    naive.append()
    assert naive.log.failure is None
    naive.close()
    with pytest.raises(EngineClosed):
        naive.log.append(last)
    with pytest.raises(EngineClosed):
        naive.log.reader().last_sequence()


def test_a_segment_without_a_block_is_never_rolled_over(tmp_path: Path) -> None:
    """However small the limit: each segment has a block, the first one too."""
    naive = Naive(tmp_path, segment_bytes=1)
    for _ in range(5):
        naive.append(count=1)
    naive.close()
    naive.open()
    assert [int(path.stem) for path in segment_files(tmp_path)] == [1, 2, 3, 4, 5]
    assert naive.log.reader().blocks_after(0, LARGE) == naive.chain.blocks
    naive.close()


def test_more_segments_than_stay_open(tmp_path: Path) -> None:
    """The longest unused environments are closed, the writer's never; all is still found."""
    naive = Naive(tmp_path, segment_bytes=1)
    while len(segment_files(tmp_path)) < OPEN_MAX + 20:
        naive.append(count=2, size=10)
    compare(naive.log.reader(), naive, random.Random(64))
    assert naive.log.reader().blocks_after(0, LARGE) == naive.chain.blocks
    assert len(naive.log._segments._open) <= OPEN_MAX
    naive.append()
    naive.close()
