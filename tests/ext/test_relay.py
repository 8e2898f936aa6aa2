"""ext/relay against a dictionary: tags in origins, answers divided by them, what is unanswered."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.relay import TAG_MAX, Unanswered, split, tag

PROPOSAL = struct.Struct("<IIQQQQQQHHI")
ANSWER = struct.Struct("<QQQQQQHHI")
ORIGIN_MAX = (1 << 53) - 1

origins = st.one_of(st.integers(1, 40), st.integers(1, ORIGIN_MAX))
pairs = st.tuples(origins, st.integers(1, 9))


def proposal(origin: int, counter: int, payload: bytes = b"") -> bytes:
    return (
        PROPOSAL.pack(64 + 7 + len(payload), 0, origin, 1, 2, counter, 3, 0, 7, 0, len(payload)) + b"message" + payload
    )


def answer(origin: int, counter: int, sequence: int = 0) -> bytes:
    return ANSWER.pack(origin, counter, 5, sequence, 6, 7, 1, 0, 8)


@given(st.lists(st.tuples(pairs, st.binary(max_size=20))), st.integers(1, TAG_MAX))
def test_what_comes_back_has_the_origins_that_went_out(sent: list[tuple[tuple[int, int], bytes]], number: int) -> None:
    batch = bytearray(b"".join(proposal(*pair, payload) for pair, payload in sent))
    assert tag(batch, number) == len(sent)
    assert len(batch) == sum(71 + len(payload) for _, payload in sent)
    at, answers = 0, b""
    for (origin, counter), payload in sent:
        fields = PROPOSAL.unpack_from(batch, at)
        assert fields[2] == origin | number << 53
        assert batch[at + 71 : at + fields[0]] == payload
        answers += answer(fields[2], counter)
        at += fields[0]
    assert split(answers) == ([(number, b"".join(answer(*pair) for pair, _ in sent))] if sent else [])


@given(st.lists(st.tuples(st.integers(0, TAG_MAX), origins, st.integers(0, 99))))
def test_answers_are_divided_in_their_order(answers: list[tuple[int, int, int]]) -> None:
    given_ = b"".join(
        answer(origin | number << 53, counter, at) for at, (number, origin, counter) in enumerate(answers)
    )
    wanted: dict[int, bytes] = {}
    for at, (number, origin, counter) in enumerate(answers):
        wanted[number] = wanted.get(number, b"") + answer(origin, counter, at)
    assert split(given_) == list(wanted.items())


@given(st.lists(st.one_of(st.lists(pairs, min_size=1, max_size=300), st.sampled_from(["refuse", "take"]))))
def test_each_proposal_is_answered_once(steps: list[list[tuple[int, int]] | str]) -> None:
    waits, model = Unanswered(), Counter[tuple[int, int]]()
    seen: list[tuple[int, int]] = []
    for step in steps:
        if isinstance(step, list):
            assert waits.add(b"".join(proposal(*pair) for pair in step)) == len(step)
            model.update(step)
            seen += step
        elif step == "refuse":
            refused = waits.refuse_all(26, 500)
            got = Counter((fields[0], fields[1]) for fields in ANSWER.iter_unpack(refused))
            assert got == +model
            assert all(fields[2:] == (0, 0, 0, 0, 26, 0, 500) for fields in ANSWER.iter_unpack(refused))
            model.clear()
        else:  # every second of those ever sent, some of them twice, and one that nobody sent
            asked = [*seen[::2], *seen[::3], (ORIGIN_MAX, 77)]
            wanted = b""
            for at, pair in enumerate(asked):
                if model[pair] > 0:
                    model[pair] -= 1
                    wanted += answer(*pair, at)
            assert waits.take(b"".join(answer(*pair, at) for at, pair in enumerate(asked))) == wanted
        assert waits.count == model.total()


@pytest.mark.parametrize(
    "batch",
    [
        b"x",
        proposal(1, 1)[:-1],
        proposal(1, 1) + b"\0" * 63,
        proposal(1, 1) + proposal(0, 2),
        proposal(1, 1) + proposal(1 << 53, 2),
        struct.pack("<I", 63) + proposal(1, 1)[4:],
    ],
)
def test_what_is_no_batch_changes_nothing(batch: bytes) -> None:
    held, waits = bytearray(batch), Unanswered()
    with pytest.raises(ValueError, match="no batch"):
        tag(held, 1)
    assert held == batch
    with pytest.raises(ValueError, match="no batch"):
        waits.add(batch)
    assert waits.count == 0


def test_limits_are_named() -> None:
    for number in (0, TAG_MAX + 1):
        with pytest.raises(ValueError, match=f"tag {number} must be 1 to {TAG_MAX}"):
            tag(bytearray(), number)
    for wrong in (lambda: split(b"x" * 55), lambda: Unanswered().take(b"x" * 57)):
        with pytest.raises(ValueError, match="whole number of answers"):
            wrong()
