"""The schedule of a fleet's generator, as stamps of what a naive gateway received tell it; slow readers; resumes."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.clients import command, create, fill_of, publish_template
from ext.loadfleet import FleetGenerator
from tests.support.fake_gateway import FakeGateway
from tests.support.wide_gateway import OPEN, gateway_of_generators, port_of

LARGEST = 400


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """Clients leave before it does."""
    with gateway_of_generators() as server:
        yield server


def connected(server: FakeGateway, clients: int, slow: tuple[int, ...] = ()) -> FleetGenerator:
    generator = FleetGenerator(clients)
    OPEN.append(generator)
    generator.place(1_000, "127.77.0.1")
    for user in range(1, clients + 1):
        generator.add(command("hello", token=str(user), device=1, protocol=1))
    for connection in slow:
        generator.slow(connection)
    generator.head("127.0.0.1", port_of(server), "/v1")
    while not generator.opening(0.1):
        pass
    return generator


def stream_of(generator: FleetGenerator, clients: int, rate_per_s: float, **draw: Any) -> int:
    """Everybody in one group; all write."""
    group = create(generator, 0, "group", "all", list(range(2, clients + 1)))
    stream = generator.stream(fill_of(LARGEST), in_flight=64, rate_per_s=rate_per_s)
    if draw:
        generator.draw(stream, **draw)
    target = generator.target(stream, *publish_template("conversation", group, LARGEST), clients)
    for connection in range(clients):
        generator.writer(stream, connection, target)
    return stream


def driven(generator: FleetGenerator, seconds: float) -> int:
    """Publishes for so long, then waits until all has arrived; when it began, in nanoseconds."""
    begin = time.monotonic_ns() + 10_000_000
    end = begin + int(seconds * 1e9)
    generator.start(begin, begin, end)
    generator.window(True)
    generator.advance(end)
    generator.window(False)
    generator.stop_publishing()
    assert generator.settle(5.0)
    return begin


def stamps(server: FakeGateway) -> list[tuple[int, int, int]]:
    """(connection, intended, bytes) of each message, in the order of the intended times."""
    found = []
    for event in server.events:
        if event["type"] == "message":
            payload = event["payload"]
            magic, _, connection, _, _, intended = struct.unpack_from("<4sIIIQQ", payload)
            assert magic == b"GNLG"
            found.append((connection, intended, len(payload)))
    return sorted(found, key=lambda stamp: stamp[1])


def test_even_arrivals_have_even_distances(gateway: FakeGateway) -> None:
    """And turns go round all writers."""
    generator = connected(gateway, 4)
    stream = stream_of(generator, 4, 200.0, arrivals="even")
    driven(generator, 0.5)
    found = stamps(gateway)
    assert 98 <= len(found) <= 101 and generator.stream_stats(stream)["deliveries"] == 4 * len(found)
    assert {b - a for (_, a, _), (_, b, _) in itertools.pairwise(found)} == {5_000_000}
    assert {connection for connection, _, _ in found} == {1_000, 1_001, 1_002, 1_003}


def test_a_profile_changes_the_rate_over_time(gateway: FakeGateway) -> None:
    """A standstill, a rise, then twice the rate; level behind the last point."""
    generator = connected(gateway, 4)
    stream_of(generator, 4, 200.0, arrivals="even", profile=((0.0, 0.0), (0.2, 0.0), (0.4, 2.0)))
    begin = driven(generator, 0.6)
    times = [(intended - begin) / 1e9 for _, intended, _ in stamps(gateway)]
    assert min(times) > 0.2
    rising, level = sum(one < 0.4 for one in times), sum(one >= 0.4 for one in times)
    assert 35 <= rising <= 45 and 76 <= level <= 84  # areas: 0.2 s × a mean of 1 × 200; 0.2 s × 2 × 200


def test_pauses_are_drawn_from_their_table_for_each_writer(gateway: FakeGateway) -> None:
    """Half of them are 1 ms, the other half lie between 50 and 60 ms: bursts with pauses."""
    generator = connected(gateway, 3)
    table = ((0.0, 0.001), (0.5, 0.001), (0.500001, 0.05), (1.0, 0.06))
    stream_of(generator, 3, 100.0, arrivals="pauses", pauses=table)
    driven(generator, 1.0)
    pauses = []
    for writer in (1_000, 1_001, 1_002):
        own = [intended for connection, intended, _ in stamps(gateway) if connection == writer]
        pauses += [b - a for a, b in itertools.pairwise(own)]
    short = [pause for pause in pauses if pause <= 1_100_000]
    long = [pause for pause in pauses if pause >= 49_000_000]
    assert len(short) + len(long) == len(pauses) >= 60
    assert 0.3 <= len(short) / len(pauses) <= 0.7 and max(long) <= 60_100_000


def test_writers_with_pauses_begin_as_if_they_had_always_been_writing(gateway: FakeGateway) -> None:
    """Nine of ten pauses are 2 ms, the tenth at least 200 ms: a moment lies in a long one, for nearly all of them."""
    generator = connected(gateway, 40)
    table = ((0.0, 0.002), (0.9, 0.002), (0.900001, 0.2), (1.0, 0.4))
    stream_of(generator, 40, 1_252.0, arrivals="pauses", pauses=table)
    begin = driven(generator, 0.5)
    first: dict[int, float] = {}
    for connection, intended, _ in stamps(gateway):
        first.setdefault(connection, (intended - begin) / 1e9)
    assert len(first) == 40
    assert sum(at < 0.003 for at in first.values()) <= 15  # 3 are expected; fresh pauses would bring 36


def test_sizes_are_drawn_by_weight_and_verified_whole(gateway: FakeGateway) -> None:
    """Only the sizes of the table, in their proportion; a payload that was cut is corrupted."""
    generator = connected(gateway, 2)
    stream = stream_of(generator, 2, 500.0, sizes=((32, 3.0), (LARGEST, 1.0)))
    cut: list[int] = []

    def tamper(session: Any, event: dict[str, Any]) -> list[dict[str, Any]]:
        if session.user == 2 and event["type"] == "message" and len(event["payload"]) == LARGEST and not cut:
            cut.append(event["sequence"])
            return [{**event, "payload": event["payload"][:-1]}]
        return [event]

    gateway.tamper = tamper
    driven(generator, 0.6)
    sizes = [size for _, _, size in stamps(gateway)]
    assert set(sizes) == {32, LARGEST} and 0.6 <= sizes.count(32) / len(sizes) <= 0.9
    assert cut and generator.stream_stats(stream)["corrupted"] == 1


def test_a_slow_reader_takes_what_it_is_given(gateway: FakeGateway) -> None:
    """As long as it reads slowly; then it gets all of it. The others have it meanwhile."""
    generator = connected(gateway, 3, slow=(2,))
    stream = stream_of(generator, 3, 200.0)
    generator.writer(stream, 0, 0)
    generator.read_slowly(500)
    begin = time.monotonic_ns()
    generator.start(begin, begin, begin + 10**9)
    generator.advance(begin + 10**9)
    generator.stop_publishing()
    generator.advance(time.monotonic_ns() + 200_000_000)
    counts = generator.stream_stats(stream)
    assert counts["slow_deliveries"] <= 3 and counts["deliveries"] - counts["slow_deliveries"] >= 200
    generator.read_slowly(0)
    assert generator.settle(5.0) and generator.stats()["disordered"] == 0
    counts = generator.stream_stats(stream)
    assert counts["slow_deliveries"] == counts["deliveries"] / 3
    assert sum(count for _, count in generator.histogram(stream, "deliver")) <= 2 * counts["deliveries"] / 3


@pytest.mark.parametrize("by_server", [False, True])
def test_who_drops_resumes_and_lacks_nothing(gateway: FakeGateway, by_server: bool) -> None:
    """By itself or because the server breaks it; a publish whose receipt was lost is said again."""
    swallowed: list[int] = []

    def swallow(said: dict[str, Any]) -> bool:
        if said["op"] == "publish" and len(gateway.events) > 40 and not swallowed and by_server:
            swallowed.append(said["counter"])
            return True
        return False

    gateway.swallow = swallow
    generator = connected(gateway, 4)
    stream = stream_of(generator, 4, 200.0)
    begin = time.monotonic_ns()
    generator.start(begin, begin, begin + 10**9)
    generator.expect_breaks(by_server, 0.1)
    generator.advance(begin + 400_000_000)
    if not by_server:
        assert [generator.drop(one, 0.1) for one in (1, 2)] == [True, True] and not generator.drop(1, 0.1)
    generator.advance(begin + 10**9)
    generator.stop_publishing()
    assert generator.settle(5.0)
    counts, stats = generator.stream_stats(stream), generator.stats()
    assert counts["deliveries"] == 4 * counts["receipts"] == 4 * counts["sent"]
    assert (stats["dropped"], stats["resumes"], stats["live"]) == ((1, 1, 4) if by_server else (2, 2, 4))
    assert stats["missing"] == stats["doubled"] == stats["disordered"] == stats["dead"] == 0
    assert sum(count for _, count in generator.histogram(0, "resume")) == stats["resumes"]
    assert all("positions" in hello for hello in gateway.hellos[4:]) and len(gateway.hellos) == 4 + stats["resumes"]


def test_what_a_resume_leaves_out_is_counted_as_a_gap(gateway: FakeGateway) -> None:
    """The server says so: it is not lost, and what is left out and what came make up all."""
    gateway.gap_over = 5
    generator = connected(gateway, 2)
    stream = stream_of(generator, 2, 200.0)
    generator.writer(stream, 0, 0)
    begin = time.monotonic_ns()
    generator.start(begin, begin, begin + 10**9)
    generator.advance(begin + 200_000_000)
    generator.drop(1, 0.3)
    generator.advance(begin + 10**9)
    generator.stop_publishing()
    generator.settle(0.3)
    counts, stats = generator.stream_stats(stream), generator.stats()
    assert stats["gaps"] == 1 and stats["gapped"] > 5 and stats["missing"] == 0
    assert counts["deliveries"] + stats["gapped"] == counts["expected"]


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        ({"arrivals": "sometimes"}, "arrivals 'sometimes'"),
        ({"arrivals": "pauses"}, "0 pauses"),
        ({"pauses": ((0.0, 1.0), (1.0, 2.0))}, "2 pauses"),
        ({"sizes": ((31, 1.0),)}, "31 bytes"),
        ({"sizes": ((LARGEST + 1, 1.0),)}, "401 bytes"),
        ({"profile": tuple((float(i), 1.0) for i in range(65))}, "65 rows"),
    ],
)
def test_tables_that_can_t_be_drawn_from_are_named(draw: dict[str, Any], words: str) -> None:
    """The value, and what it may be."""
    generator = FleetGenerator(1)
    stream = generator.stream(fill_of(LARGEST), in_flight=64)
    with pytest.raises(ValueError, match=words):
        generator.draw(stream, **draw)
