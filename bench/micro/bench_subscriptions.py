"""What a subscription's deliveries are made of: picking, packing, reading on the other side, and what is in flight."""

from __future__ import annotations

import random
from array import array
from typing import NamedTuple

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.measured import RECORDS, ROUNDS, SEED, block_of, measure, measure_prepared, records_of
from ext.block import check
from ext.inflight import InFlight
from ext.picks import Picks, unpack
from ext.record import decode
from ext.select import KindTable, Selection

SUBSCRIPTIONS = 100
CONVERSATIONS = 1_000_000
FILTER_IDS = 10_000
IN_FLIGHT = 10_000
LAST = 2**53 - 1

SELECTIONS = {
    "type": {"types": [b"notice.", b"message.deleted"]},
    "conversations": {"conversations": range(1_000, 1_000 + FILTER_IDS)},
    "senders": {"senders": range(20_000, 20_000 + FILTER_IDS)},
}


class Taken(NamedTuple):
    """An event as a consumer gets it."""

    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int
    time: int
    sender: int
    device: int
    counter: int
    type: str
    payload: bytes
    deliveries: int
    away: tuple[int, ...]


def everything_of(block: bytes) -> Picks:
    """All records of a block."""
    picks = Picks()
    Selection().pick(block, 0, LAST, picks)
    return picks


@pytest.mark.parametrize("by", SELECTIONS)
def bench_pick_unwanted(benchmark: BenchmarkFixture, by: str) -> None:
    """Records that a selection doesn't want."""
    block, picks = block_of(records_of(RECORDS)), Picks()
    selection = Selection(**SELECTIONS[by])  # type: ignore[arg-type]
    assert measure(benchmark, RECORDS, lambda: selection.pick(block, 0, LAST, picks)) == (RECORDS, 0) and not picks


def bench_pick_wanted(benchmark: BenchmarkFixture) -> None:
    """All of a block."""
    block, picks = block_of(records_of(RECORDS)), Picks()
    selection = Selection(types=[b"message"])

    def run() -> int:
        picks.clear()
        selection.pick(block, 0, LAST, picks)
        return len(picks)

    assert measure(benchmark, RECORDS, run) == RECORDS


def bench_pick_by_kind(benchmark: BenchmarkFixture) -> None:
    """Unwanted by kind, of any of a million conversations, numbered as they are created; the block was just checked."""
    draw, kinds = random.Random(SEED), KindTable()
    for conversation in range(1, CONVERSATIONS + 1):
        kinds.put(conversation, 1)
    selection, picks = Selection(kinds_mask=1 << 2, kinds=kinds), Picks()
    blocks = []
    for _ in range(ROUNDS + 2):
        records = records_of(RECORDS)
        for number, record in enumerate(records):  # the conversation is the second integer
            records[number] = record[:11] + draw.randrange(1, CONVERSATIONS + 1).to_bytes(8, "big") + record[19:]
        blocks.append(block_of(records))

    def prepare() -> tuple[bytes]:
        assert check(blocks[-1])[0] == 0
        return (blocks.pop(),)

    def run(block: bytes) -> None:
        assert selection.pick(block, 0, LAST, picks) == (RECORDS, 0)

    measure_prepared(benchmark, RECORDS, prepare, run)
    assert not picks


def bench_pick_hundred(benchmark: BenchmarkFixture) -> None:
    """A hundred subscriptions of one conversation each, one copy of the block; an operation is a record for one."""
    block, picks = block_of(records_of(RECORDS)), Picks()
    selections = [Selection(types=[b"message"], conversations=[n + 1]) for n in range(SUBSCRIPTIONS)]

    def run() -> int:
        found = 0
        for selection in selections:
            picks.clear()
            selection.pick(block, 0, LAST, picks)
            found += len(picks)
        return found

    assert measure(benchmark, SUBSCRIPTIONS * RECORDS, run) == RECORDS


def bench_picks_packed(benchmark: BenchmarkFixture) -> None:
    """A block's events for the wire."""
    picks = everything_of(block_of(records_of(RECORDS)))
    assert len(measure(benchmark, RECORDS, picks.packed)) == picks.bytes + 6 * RECORDS


def bench_picks_decoded(benchmark: BenchmarkFixture) -> None:
    """A block's events as tuples, in the same process."""
    picks = everything_of(block_of(records_of(RECORDS)))
    assert measure(benchmark, RECORDS, lambda: picks.decoded(Taken))[-1].sequence == RECORDS


def bench_unpack(benchmark: BenchmarkFixture) -> None:
    """The same on the client's side, each record checked."""
    records = records_of(RECORDS)
    packed = everything_of(block_of(records)).packed()
    found = measure(benchmark, RECORDS, lambda: unpack(packed, Taken))
    assert [event[:10] for event in found] == list(map(decode, records))


def bench_in_flight_in_order(benchmark: BenchmarkFixture) -> None:
    """Delivered and acked, a block at a time."""
    flights = InFlight()
    picks = everything_of(block_of(records_of(RECORDS)))

    def run() -> int:
        acked = 0
        for _ in range(10):
            flights.deliver(picks, 1, 1_000)
            acked += flights.ack_up_to(RECORDS, 1)
        return acked

    assert measure(benchmark, 10 * RECORDS, run) == 10 * RECORDS


def bench_in_flight_out_of_order(benchmark: BenchmarkFixture) -> None:
    """10,000 in flight, acked in random order, 100 at a time; the delivery is counted too."""
    draw = random.Random(SEED)
    picks = everything_of(block_of(records_of(IN_FLIGHT)))
    sequences = list(range(1, IN_FLIGHT + 1))
    draw.shuffle(sequences)
    acks = [array("Q", sequences[at : at + 100]) for at in range(0, IN_FLIGHT, 100)]

    def run() -> int:
        flights = InFlight()
        flights.deliver(picks, 1, 1_000)
        refused = sum(len(flights.ack(some, 1)) for some in acks)
        return refused + len(flights)

    assert measure(benchmark, IN_FLIGHT, run) == 0
