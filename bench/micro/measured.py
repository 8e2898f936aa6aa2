"""What the files bench_*.py share: a benchmark says how many operations a round has, and inputs are made from a seed.

A round is a call that does its operation many times, so that the call itself does not count; what comes out is checked
once, before the clock. Figures are of one thread, caches warm, nothing beside: they find a part that has become slower,
and say nothing of a system.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from pytest_benchmark.fixture import BenchmarkFixture

from ext.block import BlockBuilder
from ext.record import encode

SEED: Final = 1
PAYLOAD_BYTES: Final = 213  # records of 300 bytes
RECORDS: Final = 1_000  # of a block
ROUNDS: Final = 50  # where each needs a preparation of its own


def measure(benchmark: BenchmarkFixture, operations: int, function: Callable[[], Any]) -> Any:
    """As many rounds as fit the time; what the last one returned."""
    benchmark.extra_info["operations"] = operations
    return benchmark(function)


def measure_prepared(
    benchmark: BenchmarkFixture, operations: int, prepare: Callable[[], Sequence[Any]], function: Callable[..., Any]
) -> None:
    """Rounds of one call each, before which `prepare` gives its arguments, outside of the clock."""
    benchmark.extra_info["operations"] = operations
    pedantic: Callable[..., Any] = cast(Any, benchmark).pedantic
    pedantic(function, setup=lambda: (prepare(), {}), rounds=ROUNDS, warmup_rounds=2)


def records_of(count: int, first: int = 1) -> list[bytes]:
    """Messages of 100 conversations."""
    draw = random.Random(SEED)
    return [
        encode(
            first + number,
            draw.randrange(1, 101),
            number + 1,
            max(number - 100, 0),
            1_700_000_000_000_000 + number,
            draw.randrange(1, 10_000),
            1,
            number + 1,
            "message",
            draw.randbytes(PAYLOAD_BYTES),
        )
        for number in range(count)
    ]


def block_of(records: list[bytes], first: int = 1) -> bytes:
    """As a commit writes them."""
    builder = BlockBuilder()
    for record in records:
        builder.add(record)
    return builder.finish(first_sequence=first, shard=0, epoch=1, previous_hash=bytes(32))
