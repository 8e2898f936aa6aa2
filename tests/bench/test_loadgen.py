"""The native load generator against a naive gateway: what it counts is what happened, and damage is seen."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.clients import answered, command, context_for, create, fill_of, publish_template
from ext.loadgen import LoadGenerator
from tests.support.fake_gateway import FakeGateway
from tests.support.wide_gateway import OPEN, gateway_of_generators, port_of

PAYLOAD = 97


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """A naive gateway; clients leave before it does."""
    with gateway_of_generators() as server:
        yield server


def connected(server: FakeGateway, clients: int) -> LoadGenerator:
    """So many live clients, users 1, 2, …"""
    generator = LoadGenerator(clients)
    OPEN.append(generator)
    for user in range(1, clients + 1):
        generator.add(command("hello", token=str(user), device=1, protocol=1))
    generator.connect("127.0.0.1", port_of(server), deadline_s=10)
    return generator


def test_another_machine_is_reached_from_an_address_of_ours() -> None:
    """An address in 127.0.0.0/8 is no source towards another host; on loopback it is, so that ports are no limit."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(("192.0.2.1", 9))  # of documentation (RFC 5737): nothing is sent
            own = route.getsockname()[0]
        except OSError:
            own = "127.0.0.1"
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    for address, loopback in ((own, False), ("127.0.0.1", True)):
        with socket.create_server((address, 0)) as listening:
            listening.settimeout(5.0)
            generator = LoadGenerator(1)
            generator.add(command("hello", token="1", device=1, protocol=1))
            with pytest.raises(ConnectionError):  # nobody answers
                generator.connect(address, listening.getsockname()[1], deadline_s=0.2)
            connection, peer = listening.accept()
            connection.close()
            generator.close()
        assert peer[0].startswith("127.") is loopback and (loopback or peer[0] == own)


def test_a_name_is_found_and_asked_for() -> None:
    """The request's Host is what the URL said, and with TLS the ClientHello names it: proxies choose by both."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5.0)
        port = listening.getsockname()[1]
        for context, expected in (
            (None, f"\r\nHost: localhost:{port}\r\n".encode()),
            (context_for("localhost"), b"localhost"),
        ):
            generator = LoadGenerator(1)
            generator.add(command("hello", token="1", device=1, protocol=1))
            with pytest.raises(ConnectionError):
                generator.connect("localhost", port, deadline_s=0.2, tls=context)
            connection, _ = listening.accept()
            assert expected in connection.recv(4_096)
            connection.close()
            generator.close()


def in_group(server: FakeGateway, clients: int, **stream: Any) -> tuple[LoadGenerator, int]:
    """Everybody in one group; the first publishes."""
    generator = connected(server, clients)
    group = create(generator, 0, "group", "all", list(range(2, clients + 1)))
    number = generator.stream(fill_of(PAYLOAD), recipients=clients, **stream)
    generator.publisher(number, 0, *publish_template("conversation", group, PAYLOAD))
    return generator, number


def test_every_receipt_and_every_delivery_is_counted(gateway: FakeGateway) -> None:
    """Closed loop with a limit: the generator's counts are the server's."""
    generator, stream = in_group(gateway, 5, in_flight=8, per_send=4, limit=100)
    assert generator.run(5.0)
    counts, stats = generator.stream_stats(stream), generator.stats()
    assert counts["sent"] == counts["receipts"] == 100 and counts["deliveries"] == 500
    assert stats["broken"] == stats["disordered"] == stats["unmatched"] == counts["corrupted"] == 0
    assert stats["others"] == 5  # the group's creation
    publishes = [event for event in gateway.events if event["type"] == "message"]
    assert [event["counter"] for event in publishes] == list(range(2, 102))
    assert len({event["payload"] for event in publishes}) == 100
    assert sum(count for _, count in generator.histogram(stream, "deliver")) == 500
    assert [generator.events_of(one) for one in range(5)] == [101] * 5


def test_a_broadcast_goes_on_when_everybody_has_it(gateway: FakeGateway) -> None:
    """One at a time: never more than one event on its way."""
    generator, stream = in_group(gateway, 4, in_flight=1, limit=20, broadcast=True)
    assert generator.run(5.0)
    assert generator.stream_stats(stream)["completed"] == 20


def test_an_open_loop_keeps_its_rate_and_counts_from_the_intended_time(gateway: FakeGateway) -> None:
    """The server holds answers back; the latency shows it, though sending went on."""
    generator, stream = in_group(gateway, 2, in_flight=64, rate_per_s=2_000.0, limit=60)
    assert generator.run(10.0)
    counts = generator.stream_stats(stream)
    assert counts["sent"] == counts["receipts"] == 60 and counts["deliveries"] == 120


def changed(field: str) -> Callable[[Any, dict[str, Any]], list[dict[str, Any]]]:
    """Every tenth message to the second user arrives with another value."""

    def tamper(session: Any, event: dict[str, Any]) -> list[dict[str, Any]]:
        if session.user == 2 and event["type"] == "message" and event["sequence"] % 10 == 0:
            if field == "payload":
                return [{**event, "payload": event["payload"][:-1] + b"\x00"}]
            return [{**event, field: event[field] + 1}]
        return [event]

    return tamper


@pytest.mark.parametrize("field", ["payload", "counter"])
def test_a_changed_event_is_corrupted(gateway: FakeGateway, field: str) -> None:
    """Bytes of the payload, and the counter that belongs to it."""
    gateway.tamper = changed(field)
    generator, stream = in_group(gateway, 3, limit=30)
    assert generator.run(5.0)  # as many arrived as should have
    assert generator.stream_stats(stream)["corrupted"] == 3


def test_copies_of_a_broadcast_must_be_equal_in_every_byte(gateway: FakeGateway) -> None:
    """The sender is nothing that the payload tells; only the comparison with the first copy sees it. Where that one is
    the changed one, both others differ."""
    gateway.tamper = changed("sender")
    generator, stream = in_group(gateway, 3, limit=30, broadcast=True, rate_per_s=500.0)
    generator.run(5.0, drain_s=0.5)
    assert generator.stream_stats(stream)["corrupted"] in range(3, 2 * 3 + 1)


def test_doubles_and_disorder_are_no_deliveries(gateway: FakeGateway) -> None:
    """A double has a sequence that does not ascend."""
    gateway.tamper = lambda session, event: [event, event] if event["type"] == "message" else [event]
    generator, stream = in_group(gateway, 2, limit=10)
    assert generator.run(5.0)
    assert generator.stream_stats(stream)["deliveries"] == 20
    generator.run(0.1)
    assert generator.stats()["doubled"] > 0 and not generator.stats()["disordered"]


def test_what_is_refused_is_not_waited_for(gateway: FakeGateway) -> None:
    """It is an answer, but no event follows."""
    gateway.refuse = lambda command: ("forbidden", 0) if command["op"] == "publish" else None
    generator, stream = in_group(gateway, 2, limit=5)
    assert generator.run(5.0)
    assert generator.stream_stats(stream)["refused"] == 5


def test_what_is_lost_is_waited_for_until_the_deadline(gateway: FakeGateway) -> None:
    """The second user gets nothing."""
    gateway.tamper = lambda session, event: [] if session.user == 2 else [event]
    lost, stream = in_group(gateway, 2, limit=3)
    assert not lost.run(0.3, drain_s=0.2)
    assert lost.stream_stats(stream)["deliveries"] == 3


def test_a_close_is_noticed_with_its_code(gateway: FakeGateway) -> None:
    """Closed sessions are dead, and the error says why."""
    generator = connected(gateway, 2)
    gateway.close_all(4001, "drain; retry_after_ms=5")
    generator.run(0.2)
    stats = generator.stats()
    assert (stats["dead"], stats["last_close"]) == (2, 4001) and "drain" in stats["last_words"]
    with pytest.raises(ConnectionError, match="4001"):
        generator.command(0, command("ping"), counted=False)


def test_pings_are_sent_and_answered(gateway: FakeGateway) -> None:
    """One ping a client and interval."""
    generator = connected(gateway, 4)
    generator.run(0.5, ping_interval_s=0.1)
    assert generator.stats()["frames"][11] >= 16


def test_receipts_of_commands_come_back_by_counter(gateway: FakeGateway) -> None:
    """Several commands of one client at once."""
    generator = connected(gateway, 1)
    for title in "abc":
        generator.command(
            0,
            command("create", counter=generator.next_counter(0), kind="group", title=title, members=[], history=False),
        )
    assert answered(generator, 3) == [1, 2, 3]


def test_servers_that_are_none() -> None:
    """Nobody listens; somebody speaks another language; somebody says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            other, _ = listening.accept()
            with other:
                other.recv(4096)
                other.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        generator = LoadGenerator(1)
        generator.add(b"\xc0")
        with pytest.raises(ConnectionError, match="503"):
            generator.connect("127.0.0.1", port, deadline_s=5)
        thread.join()
        silent = LoadGenerator(1)
        silent.add(b"\xc0")
        with pytest.raises(ConnectionError, match="0 of 1 connections"):
            silent.connect("127.0.0.1", port, deadline_s=0.2)
    nobody = LoadGenerator(1)
    nobody.add(b"\xc0")
    with pytest.raises(ConnectionError, match="1 dead"):
        nobody.connect("127.0.0.1", port, deadline_s=5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: LoadGenerator(0), "connections_max is 0"),
        (lambda: LoadGenerator(1).stream(b"", in_flight=65), "in_flight 65"),
        (lambda: LoadGenerator(1).stream(b"", in_flight=2, per_send=3), "per_send 3"),
        (lambda: LoadGenerator(1).stream(b"", rate_per_s=-1.0), "rate_per_s is -1"),
        (lambda: LoadGenerator(1).events_of(0), "connection 0 is unknown"),
        (lambda: LoadGenerator(1).stream_stats(0), "stream 0 is unknown"),
        (lambda: LoadGenerator(1).publisher(0, 0, b"", 0, 0), "connection 0 is unknown"),
    ],
)
def test_bad_arguments_are_named(wrong: Callable[[], object], words: str) -> None:
    """The value, and what it may be."""
    with pytest.raises(ValueError, match=words):
        wrong()


def test_a_template_must_hold_what_is_written_into_it() -> None:
    """Stamps outside of it would be somebody else's memory."""
    generator = LoadGenerator(1)
    generator.add(b"\xc0")
    stream = generator.stream(fill_of(PAYLOAD))
    template = publish_template("user", 2, PAYLOAD)
    for counter_at, payload_at in ((len(template.body) - 7, 0), (0, len(template.body) - 31)):
        with pytest.raises(ValueError, match="does not fit"):
            generator.publisher(stream, 0, template.body, counter_at, payload_at)
    generator.publisher(stream, 0, *template)
    other = generator.stream(fill_of(PAYLOAD))
    with pytest.raises(ValueError, match="already publishes"):
        generator.publisher(other, 0, *template)
