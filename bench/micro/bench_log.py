"""The log's bytes: checksums, records, blocks, and the events that a reader is given."""

from __future__ import annotations

import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.measured import PAYLOAD_BYTES, RECORDS, SEED, block_of, measure, records_of
from ext import block as blocks
from ext.crc32c import crc32c, crc32c_portable
from ext.events import BlockEvents
from ext.record import decode, encode


@pytest.mark.parametrize("size", [300, 1 << 20])
def bench_crc32c(benchmark: BenchmarkFixture, size: int) -> None:
    """A record and a block; each byte is an operation."""
    data = random.Random(SEED).randbytes(size)
    assert crc32c(data) == crc32c_portable(data)
    times = max((1 << 20) // size, 1)

    def run() -> None:
        for _ in range(times):
            crc32c(data)

    measure(benchmark, times * size, run)


def bench_record_encode(benchmark: BenchmarkFixture) -> None:
    """From ten fields."""
    payload = bytes(PAYLOAD_BYTES)
    assert decode(encode(1, 2, 3, 4, 5, 6, 7, 8, "message", payload))[:8] == (1, 2, 3, 4, 5, 6, 7, 8)

    def run() -> None:
        for number in range(RECORDS):
            encode(number, 2, 3, 4, 5, 6, 7, 8, "message", payload)

    measure(benchmark, RECORDS, run)


def bench_record_decode(benchmark: BenchmarkFixture) -> None:
    """To a tuple of ten fields."""
    records = records_of(RECORDS)
    assert measure(benchmark, RECORDS, lambda: list(map(decode, records)))[-1].sequence == RECORDS


def bench_block_build(benchmark: BenchmarkFixture) -> None:
    """Records that are there already; each one added, checksummed, copied into the block."""
    records = records_of(RECORDS)
    assert blocks.check(measure(benchmark, RECORDS, lambda: block_of(records)))[0] == 0


def bench_block_check(benchmark: BenchmarkFixture) -> None:
    """The checksum, shape and number of each record."""
    block = block_of(records_of(RECORDS))
    assert measure(benchmark, RECORDS, lambda: blocks.check(block))[0] == 0


def bench_block_find(benchmark: BenchmarkFixture) -> None:
    """One record, checked by itself: a hop of a walk."""
    block = block_of(records_of(RECORDS))
    wanted = [random.Random(SEED).randrange(1, RECORDS + 1) for _ in range(RECORDS)]

    def run() -> list[tuple[bytes | None, int]]:
        return [blocks.find(block, sequence) for sequence in wanted]

    found = measure(benchmark, RECORDS, run)
    assert all(record is not None and not fault for record, fault in found)


def bench_events(benchmark: BenchmarkFixture) -> None:
    """An object for each, two fields read."""
    block = block_of(records_of(RECORDS))

    def run() -> int:
        return sum(event.sequence + event.conversation for event in BlockEvents(block))

    assert measure(benchmark, RECORDS, run) > 0


def bench_events_decoded(benchmark: BenchmarkFixture) -> None:
    """A tuple of all ten fields for each."""
    block = block_of(records_of(RECORDS))
    assert len(measure(benchmark, RECORDS, lambda: BlockEvents(block).decoded())) == RECORDS
