"""What delivering is made of: interest, and routing and flushing a block to sockets."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.fanout_micro import CONVERSATION, block_of_messages, drained, pairs
from bench.micro.measured import SEED, measure, measure_prepared
from engine import Fanout
from ext.interest import Interest
from ext.session_table import SessionTable
from ext.sessionprobe import bare_sends, probe_close, probe_open

CONVERSATIONS = 1_000_000
EACH = 100
LOOKUPS = 100_000
SESSIONS = 200
EVENTS = (1, 64)


@pytest.fixture(scope="module")
def interest() -> Iterator[tuple[Interest, SessionTable]]:
    """A million conversations of 100 a session."""
    table = SessionTable(CONVERSATIONS // EACH + 2)
    held = Interest(table)
    origins = [probe_open(table, -1, 1, 0, 0, True) for _ in range(CONVERSATIONS // EACH)]
    for number, origin in enumerate(origins):
        held.add_all(origin, range(number * EACH + 1, number * EACH + EACH + 1))
    yield held, table
    for origin in origins:
        held.drop(origin)
        probe_close(table, origin)


def bench_interest_found(benchmark: BenchmarkFixture, interest: tuple[Interest, SessionTable]) -> None:
    """Random conversations that somebody follows."""
    draw = random.Random(SEED)
    wanted = array("Q", (draw.randrange(1, CONVERSATIONS + 1) for _ in range(LOOKUPS)))
    assert measure(benchmark, LOOKUPS, lambda: interest[0].count_found(wanted)) == LOOKUPS


def bench_interest_missed(benchmark: BenchmarkFixture, interest: tuple[Interest, SessionTable]) -> None:
    """Random conversations that nobody follows."""
    draw = random.Random(SEED)
    wanted = array("Q", (CONVERSATIONS + draw.randrange(1, CONVERSATIONS) for _ in range(LOOKUPS)))
    assert measure(benchmark, LOOKUPS, lambda: interest[0].count_found(wanted)) == 0


def bench_interest_add_and_drop(benchmark: BenchmarkFixture, interest: tuple[Interest, SessionTable]) -> None:
    """One more session follows a thousand conversations that others do, and leaves."""
    held, table = interest
    origin = probe_open(table, -1, 1, 0, 0, True)
    wanted = range(1, CONVERSATIONS, CONVERSATIONS // 1_000)

    def run() -> int:
        held.add_all(origin, wanted)
        return held.drop(origin)

    assert measure(benchmark, len(wanted), run) == len(wanted)
    probe_close(table, origin)


@pytest.mark.parametrize("events", EVENTS)
def bench_fanout_flush(benchmark: BenchmarkFixture, events: int) -> None:
    """A block to 200 sockets; a delivery is an operation. Drained outside of the clock."""
    connected = pairs(SESSIONS)
    clients = array("i", (client.fileno() for _, client in connected))
    table = SessionTable(SESSIONS + 2)
    fanout = Fanout(table, sequence=0)
    origins = [probe_open(table, server.fileno(), 1, 0, 0, True) for server, _ in connected]
    for origin in origins:
        fanout.follow(CONVERSATION, origin)
    waiting = 0  # bytes at each client

    def prepare() -> tuple[bytes]:
        nonlocal waiting
        drained(clients, waiting)
        block, waiting = block_of_messages(fanout.sequence + 1, events, bytes(32))
        return (block,)

    def run(block: bytes) -> None:
        fanout.route(block, 0)
        while fanout.flush(1_000):
            pass

    measure_prepared(benchmark, SESSIONS * events, prepare, run)
    drained(clients, waiting)
    for origin, (server, client) in zip(origins, connected, strict=True):
        fanout.forget(origin)
        probe_close(table, origin)
        client.close()
        server.close()


@pytest.mark.parametrize("events", EVENTS)
def bench_bare_sends(benchmark: BenchmarkFixture, events: int) -> None:
    """The limit of the flush: a C loop of one send a socket, as many bytes."""
    connected = pairs(SESSIONS)
    servers = array("i", (server.fileno() for server, _ in connected))
    clients = array("i", (client.fileno() for _, client in connected))
    _, size = block_of_messages(1, events, bytes(32))
    filling, waiting = bytes(size), 0

    def prepare() -> tuple[()]:
        nonlocal waiting
        drained(clients, waiting)
        waiting = size
        return ()

    measure_prepared(benchmark, SESSIONS * events, prepare, lambda: bare_sends(servers, filling))
    drained(clients, waiting)
    for server, client in connected:
        client.close()
        server.close()
