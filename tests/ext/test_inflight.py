"""What is in flight: whatever is delivered, acked, retried and forgotten, the native array says what the model says."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ext.inflight import ACKED, IN_FLIGHT, READY, WAITING, InFlight
from ext.picks import Picks, share_of
from tests.support.naive_block import block_bytes
from tests.support.naive_inflight import NEVER, NaiveInFlight
from tests.support.naive_log import record_bytes

CONVERSATIONS = (1, 2, 3, 4)
SHARES = sorted({share_of(conversation) for conversation in CONVERSATIONS})
LAST = 24  # sequences of the block
OF = {sequence: CONVERSATIONS[sequence * 7 % 11 % 4] for sequence in range(1, LAST + 1)}
BLOCK = block_bytes([record_bytes(n, OF[n], 1, 0, 5, 1, 1, 1, "message", b"") for n in OF], 1)

sequences = st.integers(1, LAST)
consumers = st.integers(1, 2)
times = st.integers(0, 40)
limits = st.integers(0, 5) | st.just(1_000)


def picked(wanted: list[int]) -> Picks:
    """These sequences of the block, in this order."""
    picks = Picks()
    for sequence in wanted:
        picks.add(BLOCK, array("Q", [sequence]))
    return picks


def sent(picks: Picks) -> list[tuple[int, int]]:
    """(sequence, deliveries) as they go over the wire."""
    data, at, found = picks.packed(), 0, []
    for sequence in picks.sequences():
        size = int.from_bytes(data[at : at + 4], "little")
        found.append((sequence, int.from_bytes(data[at + 4 : at + 6], "little")))
        at += 6 + size
    return found


class Machine(RuleBasedStateMachine):
    """One rule a method; what each returns is compared, and all that can be seen after each."""

    def __init__(self) -> None:
        super().__init__()
        self.native, self.naive, self.now_us = InFlight(), NaiveInFlight(), 0

    @rule(
        wanted=st.sets(sequences),
        consumer=consumers,
        wait_us=times,
        known=st.dictionaries(sequences, st.integers(1, 9)),
    )
    def deliver(self, wanted: set[int], consumer: int, wait_us: int, known: dict[int, int]) -> None:
        self._deliver(sorted(wanted), consumer, wait_us, known)

    @rule(count=st.integers(1, 8), consumer=consumers, wait_us=times)
    def deliver_the_next(self, count: int, consumer: int, wait_us: int) -> None:
        first = self.naive.position + 1
        self._deliver(list(range(first, min(first + count, LAST + 1))), consumer, wait_us, {})

    def _deliver(self, wanted: list[int], consumer: int, wait_us: int, known: dict[int, int]) -> None:
        picks = picked(wanted)
        count = self.native.deliver(picks, consumer, self.now_us + wait_us, known or None)
        expected = self.naive.deliver([(n, OF[n]) for n in wanted], consumer, self.now_us + wait_us, known)
        assert sent(picks) == expected and count == len(expected)

    @rule(position=st.integers(0, LAST))
    def advance(self, position: int) -> None:
        self.native.advance(position)
        self.naive.position = max(self.naive.position, position)

    @rule(wanted=st.lists(sequences, max_size=12), consumer=consumers)
    def ack(self, wanted: list[int], consumer: int) -> None:
        assert self.native.ack(array("Q", wanted), consumer) == self.naive.ack(wanted, consumer)

    @rule(sequence=sequences, consumer=consumers)
    def ack_up_to(self, sequence: int, consumer: int) -> None:
        assert self.native.ack_up_to(sequence, consumer) == self.naive.ack_up_to(sequence, consumer)

    @rule(sequence=sequences)
    def settle(self, sequence: int) -> None:
        assert self.native.settle(sequence) == self.naive.settle(sequence)

    @rule(wanted=st.lists(sequences, max_size=5), consumer=consumers, wait_us=times)
    def extend(self, wanted: list[int], consumer: int, wait_us: int) -> None:
        until = self.now_us + wait_us
        assert self.native.extend(array("Q", wanted), consumer, until) == self.naive.extend(wanted, consumer, until)

    @rule(sequence=sequences, consumer=consumers, wait_us=times, share_too=st.booleans())
    def retry(self, sequence: int, consumer: int, wait_us: int, share_too: bool) -> None:
        found = self.native.retry(sequence, consumer, self.now_us + wait_us, share_too=share_too)
        assert found == self.naive.retry(sequence, consumer, self.now_us + wait_us, share_too)

    @rule(passed_us=times)
    def time_passes(self, passed_us: int) -> None:
        self.now_us += passed_us

    @rule(limit=limits)
    def expire(self, limit: int) -> None:
        assert self.native.expire(self.now_us, limit) == self.naive.expire(self.now_us, limit)

    @rule(limit=limits)
    def due(self, limit: int) -> None:
        assert list(self.native.due(self.now_us, limit)) == self.naive.due(self.now_us, limit)

    @rule()
    def all_that_time_does(self) -> None:
        """Then nothing is left to do before the time that it names."""
        self.expire(1_000)
        self.due(1_000)
        assert self.native.next_us > self.now_us

    @precondition(lambda self: self.naive.position > LAST // 2)
    @rule()
    def begin_anew(self) -> None:
        self.native, self.naive = InFlight(), NaiveInFlight()

    @invariant()
    def says_what_the_model_says(self) -> None:
        native, naive = self.native, self.naive
        unacked = naive.unacked()
        assert len(native) == len(unacked) and native.span == len(naive.entries)
        assert (native.position, native.floor) == (naive.position, naive.floor)
        assert native.oldest == (unacked[0] if unacked else 0)
        assert native.ready == len(naive.in_state("ready"))
        assert native.waiting == native.ready + len(naive.in_state("waiting"))
        assert native.next_us <= naive.earliest() and (naive.entries or native.next_us == NEVER)
        assert [native.find(sequence) for sequence in OF] == [naive.find(sequence) for sequence in OF]
        for consumer in (1, 2):
            assert list(native.of_consumer(consumer)) == naive.of_consumer(consumer)
        floors = array("Q", [7] * 256)
        native.floors(floors)
        for share in range(256):
            theirs = naive.of_share(share) if share in SHARES else []
            floor = theirs[0] - 1 if theirs else 7
            assert (native.of_share(share), native.floor_of(share, 7), floors[share]) == (len(theirs), floor, floor)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40)


def test_the_states_have_their_numbers() -> None:
    assert (IN_FLIGHT, WAITING, READY, ACKED) == (1, 2, 3, 4)


def test_a_life_of_an_event() -> None:
    """Delivered, not acked in time, a late ack refused to others, delivered to another, retried, acked."""
    flights = InFlight()
    assert flights.deliver(picked([5, 9]), 1, 100) == 2
    assert flights.next_us == 100 and flights.expire(99, 10) == []
    assert flights.expire(100, 10) == [(5, share_of(OF[5]), 1, 1), (9, share_of(OF[9]), 1, 1)]
    assert flights.ack(array("Q", [9, 5]), 2) == [9, 5]
    assert flights.ack(array("Q", [9]), 1) == [] and flights.find(9) == (share_of(OF[9]), 1, 1, 100, ACKED)
    picks = picked([5, 9])
    assert flights.deliver(picks, 2, 200) == 1 and sent(picks) == [(5, 2)]
    assert flights.retry(5, 1, 300) == 0 and flights.retry(5, 2, 300) == 2
    assert flights.ack(array("Q", [5]), 2) == [5], "it was given back: whoever gets it next acks it"
    assert list(flights.due(299, 10)) == [] and list(flights.due(300, 10)) == [5]
    picks = picked([5])
    assert flights.deliver(picks, 1, 400) == 1 and sent(picks) == [(5, 3)]
    assert flights.ack(array("Q", [5]), 1) == [] and flights.floor == 9 and len(flights) == flights.span == 0


def test_time_may_be_taken_away_too() -> None:
    """An extension that ends earlier is seen at that time, and not at the one before."""
    flights = InFlight()
    flights.deliver(picked([5, 9]), 1, 100)
    assert flights.extend(array("Q", [9, 7]), 1, 50) == [7] and flights.extend(array("Q", [5]), 1, 150) == []
    assert flights.next_us == 50 and [one[0] for one in flights.expire(60, 10)] == [9]
    assert flights.expire(149, 10) == [] and [one[0] for one in flights.expire(150, 10)] == [5]


def test_a_share_waits_for_its_first_at_least() -> None:
    """Whoever waits longer goes on waiting; other shares, and what came before, go on. Sent early, none waits."""
    flights = InFlight()
    first, *others = [sequence for sequence in OF if OF[sequence] == OF[1]]
    assert first == 1 and len(others) >= 3
    flights.deliver(picked(list(OF)), 1, 100)
    assert flights.retry(others[1], 1, 70) == 1 and flights.retry(others[2], 1, 20) == 1
    assert flights.retry(others[0], 1, 50, share_too=True) == 1
    due_us = {sequence: found[3] for sequence in OF if (found := flights.find(sequence)) and found[4] == WAITING}
    assert due_us == {**dict.fromkeys(others, 50), others[1]: 70}
    assert list(flights.due(50, 100)) == [sequence for sequence in others if sequence != others[1]]
    picks = picked([1, others[1]])
    assert flights.deliver(picks, 2, 200) == 1 and sent(picks) == [(others[1], 2)]


def test_counts_of_deliveries_end_at_what_two_bytes_hold() -> None:
    for known, count in ((65_533, 65_534), (65_534, 65_535), (65_535, 65_535), (1 << 40, 65_535)):
        flights, picks = InFlight(), picked([1])
        flights.deliver(picks, 1, 10, {1: known})
        assert sent(picks) == [(1, count)]
    flights = InFlight()
    flights.deliver(picked([1]), 1, 10, {1: 65_534})
    assert len(flights.expire(10, 1)) == 1
    picks = picked([1])
    flights.deliver(picks, 1, 10)
    assert sent(picks) == [(1, 65_535)]


def test_memory_is_given_back() -> None:
    """Room follows what is held; a large one is let go when it is empty, and small steps need little."""
    flights = InFlight()
    block = block_bytes([record_bytes(n, 1, 1, 0, 5, 1, 1, 1, "m", b"") for n in range(1, 101)], 1)
    for number in range(2_000):
        first = number * 100
        picks = Picks()
        picks.add(
            block[:16] + (first + 1).to_bytes(8, "little") + block[24:], array("Q", range(first + 1, first + 101))
        )
        flights.deliver(picks, 1, 10)
        if number < 1_000:
            assert flights.ack_up_to(first + 50, 1) == (100 if number else 50)
    assert len(flights) == 100_050 and flights.bytes < 24 * 4 * 100_050
    assert flights.ack_up_to(200_000, 1) == 100_050
    assert flights.bytes == 0 and flights.floor == 200_000


def test_bad_input_is_named() -> None:
    flights = InFlight()
    for wanted in ([2, 1], [1, 1]):
        with pytest.raises(ValueError, match=r"1 is picked behind [12]: picks ascend"):
            flights.deliver(picked(wanted), 1, 1)
    with pytest.raises(ValueError, match="3 floors: one for each of 256 shares"):
        flights.floors(array("Q", [1, 2, 3]))
    with pytest.raises(OverflowError):
        flights.deliver(picked([1]), 1, 1, {1: -1})
    for call in (lambda: flights.of_share(256), lambda: flights.floor_of(-1, 0), lambda: flights.of_consumer(1 << 32)):
        with pytest.raises(OverflowError):
            call()
    assert len(flights) == 0 and flights.next_us == NEVER
