"""Two questions about the fan-out alone: what interest look-ups cost, and how far its flush is from a bare send loop.

No gateway, no log, no generator: blocks are made before the clock starts, sockets are loopback pairs of this process,
drained between the rounds. What it leaves out: a receiver that takes its share of the processor meanwhile, and
publishing; `gonets bench fanout` measures with both.

Each function returns plain numbers of interleaved rounds; the bare limit sends the same bytes to the same sockets.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from array import array
from typing import NamedTuple

import numpy as np

from engine import Fanout
from ext.interest import Interest
from ext.session_table import SessionTable
from ext.sessionprobe import bare_drain, bare_sends, probe_close, probe_open

CONVERSATION = 7


class Lookups(NamedTuple):
    """Interest: how much memory, how fast."""

    entries: int
    bytes_per_entry: float
    hits_per_s: float
    misses_per_s: float
    adds_per_s: float
    drops_per_s: float
    process_bytes_per_entry: float  # that the process has grown by: the sessions' own lists too


class Flush(NamedTuple):
    """One size: seconds a round, ours and bare, in the order in which they were measured."""

    sessions: int
    events: int
    ours_s: list[float]
    bare_s: list[float]

    @property
    def ratio(self) -> float:
        """Bare time over ours; 1 is a bare loop."""
        return statistics.median(self.bare_s) / statistics.median(self.ours_s)

    @property
    def deliveries_per_s(self) -> float:
        """Events to sessions a second."""
        return self.sessions * self.events / statistics.median(self.ours_s)


def interest_lookups(
    entries: int = 10_000_000, lookups: int = 2_000_000, seed: int = 1, sessions_each: int = 1
) -> Lookups:
    """100 conversations a session, `entries` pairs in all, each conversation followed by `sessions_each` of the
    sessions; random look-ups, all hits, then all misses."""
    each = 100
    sessions = entries // each // sessions_each * sessions_each
    conversations = sessions * each // sessions_each
    table = SessionTable(sessions + 2)
    interest = Interest(table)
    origins = [probe_open(table, -1, 1, 0, 0, True) for _ in range(sessions)]
    drawn = np.random.default_rng(seed).integers(1, conversations + 1, lookups).astype("<u8")
    present, absent = array("Q", drawn.tobytes()), array("Q", (drawn + np.uint64(conversations)).tobytes())
    before = anonymous_bytes()
    began = time.perf_counter()
    for number, origin in enumerate(origins):
        first = number * each % conversations + 1
        interest.add_all(origin, range(first, first + each))
    added = time.perf_counter()
    memory, grown = interest.memory_bytes(), anonymous_bytes() - before
    looking = time.perf_counter()
    hits = interest.count_found(present)
    hit = time.perf_counter()
    misses = interest.count_found(absent)
    missed = time.perf_counter()
    for origin in origins:
        interest.drop(origin)
    dropped = time.perf_counter()
    for origin in origins:
        probe_close(table, origin)
    if (hits, misses, interest.entries) != (lookups, 0, 0):
        raise AssertionError(f"{hits} of {lookups} found, {misses} of none, {interest.entries} left")
    total = sessions * each
    return Lookups(
        total,
        memory / total,
        lookups / (hit - looking),
        lookups / (missed - hit),
        total / (added - began),
        total / (dropped - missed),
        grown / total,
    )


def anonymous_bytes() -> int:
    """Of this process: heap, stacks, what it has mapped that is no file's."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def fanout_flush(sessions: int, events: int, rounds: int = 20, payload_bytes: int = 32) -> Flush:
    """Blocks of `events` records to as many sessions: routed and flushed, against one bare send of the same bytes."""
    connected = pairs(sessions)
    servers = array("i", (server.fileno() for server, _ in connected))
    clients = array("i", (client.fileno() for _, client in connected))
    table = SessionTable(sessions + 2)
    fanout = Fanout(table, sequence=0)
    origins = [probe_open(table, server, 1, 0, 0, True) for server in servers]
    for origin in origins:
        fanout.follow(CONVERSATION, origin)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        block, frame_bytes = block_of_messages(1 + number * events, events, bytes(payload_bytes))
        filling = bytes(frame_bytes)
        began = time.perf_counter()
        fanout.route(block, 0)
        while fanout.flush(1_000):
            pass
        ours.append(time.perf_counter() - began)
        drained(clients, frame_bytes)
        began = time.perf_counter()
        bare_sends(servers, filling)
        bare.append(time.perf_counter() - began)
        drained(clients, frame_bytes)
    for origin in origins:
        fanout.forget(origin)
        probe_close(table, origin)
    for server, client in connected:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset: no port stays taken
        client.close()
        server.close()
    return Flush(sessions, events, ours, bare)


def drained(clients: array[int], frame_bytes: int) -> None:
    if bare_drain(clients, frame_bytes) != frame_bytes * len(clients):
        raise AssertionError(f"less than {frame_bytes} bytes came at one of {len(clients)} sockets")


def pairs(count: int) -> list[tuple[socket.socket, socket.socket]]:
    """TCP connections over loopback: (non-blocking sender, receiver)."""
    found = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(count):
            client = socket.create_connection(listener.getsockname())
            client.settimeout(None)
            server, _address = listener.accept()
            server.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.append((server, client))
    return found


def block_of_messages(first: int, count: int, payload: bytes) -> tuple[bytes, int]:
    """A block of messages, and the bytes of their frames. Checksums are left out: nobody here reads them."""
    records = [
        b"\x9a"
        + b"".join(
            b"\xcf" + struct.pack(">Q", number)
            for number in (first + k, CONVERSATION, first + k, first + k - 1, 1, 2, 3, first + k)
        )
        + b"\xd9\x07message\xc6"
        + struct.pack(">I", len(payload))
        + payload
        for k in range(count)
    ]
    size = len(records[0])
    head_bytes = 2 if size + 2 < 126 else 4 if size + 2 < 65_536 else 10
    table = b"".join(struct.pack("<II", k * size, 0) for k in range(count))
    head = struct.pack("<4sHHIIQII32sqII", b"GNB1", 1, 0, count, size * count, first, 0, 1, bytes(32), -1, 0, 0)
    return head + table + b"".join(records), count * (head_bytes + 2 + size)
