"""The native clients of other servers against naive ones: what they count is what happened, whatever the pieces.

Each protocol is spoken by a server in Python that was written from its description (tests/support/naive_peers.py). It
loses, doubles, swaps, changes or misdelivers messages on demand; bytes arrive in pieces of any size.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.peers import drive
from bench.peers.centrifugo import JsonSpeech
from bench.peers.jobs import JOBS, MESSAGE_BYTES, SMOKE
from bench.peers.mosquitto import MqttSpeech
from bench.peers.nats import CoreSpeech
from bench.peers.redis import PubSubSpeech
from ext.peerload import PROTOCOLS, STAMP, PeerLoad
from tests.support.naive_peers import PROTOCOLS as NAIVE
from tests.support.naive_peers import NaiveServer, Spoil, honest

SPEECHES = {"resp": PubSubSpeech, "nats": CoreSpeech, "mqtt": MqttSpeech, "json": JsonSpeech}
LISTENERS = 3
each_protocol = pytest.mark.parametrize("protocol", sorted(SPEECHES))


def run(
    protocol: str, spoil: Spoil, at_once: int = 5, messages: int = 15, stall_s: float = 5.0
) -> tuple[dict[str, float], NaiveServer]:
    """A short fan-out to three listeners; the clients' counts. stall_s: after which what hasn't come is lost."""
    speech: Any = SPEECHES[protocol]()
    clients = drive.load(protocol, MESSAGE_BYTES, LISTENERS + 1)
    for _ in range(LISTENERS):
        drive.add(clients, speech.listening("all"))
    pack = drive.packed(lambda payload: speech.message("all", payload), MESSAGE_BYTES, at_once, speech.answers)
    drive.add_publisher(clients, speech.publishing(), pack)
    with NaiveServer(protocol, spoil) as server:
        clients.connect(server.host, server.port)
        clients.run(20.0, recipients=LISTENERS, limit=messages, stall_s=stall_s)
        counts = clients.stats()
        clients.close()
    return counts, server


@each_protocol
def test_an_honest_server_delivers_everything(protocol: str) -> None:
    """What the naive server took apart is what the client says that it sent, and all of it came three times."""
    counts, server = run(protocol, honest)
    assert counts["sent"] == len(server.published) == 15
    assert counts["deliveries"] == LISTENERS * counts["sent"]
    indexes = [int(payload[4:20], 16) for payload in server.published]
    assert indexes == list(range(1, len(indexes) + 1))
    assert all(payload[len(STAMP) :] == drive.fill_of(MESSAGE_BYTES) for payload in server.published)
    for fault in ("corrupted", "disordered", "strays", "broken", "refused", "given_up"):
        assert counts[fault] == 0, fault


@each_protocol
@pytest.mark.parametrize("fault", ["lost", "doubled", "swapped", "changed"])
def test_each_fault_is_counted(protocol: str, fault: str) -> None:
    """Exactly the deliveries that the server spoilt are missing, and are counted as what they were.

    A double is of a pack's last message, and leaves before the delivery that settles the pack, which may be read first.
    """
    spoilt: list[int] = []
    held: list[bytes] = []

    def spoil(listener: int, number: int, payload: bytes) -> list[bytes]:
        if listener != 1 or number % 5 not in ((0,) if fault == "doubled" else (2, 3)):
            return [payload]
        if fault == "swapped" and number % 5 == 2:
            held.append(payload)
            return []
        if fault == "swapped":
            spoilt.append(number)
            return [payload, held.pop()]
        if number % 5 == 3:
            return [payload]
        spoilt.append(number)
        changed = payload[:-1] + (b"!" if fault == "changed" else payload[-1:])
        return {"lost": [], "doubled": [payload, payload], "changed": [changed]}[fault]

    messages = 500 if fault == "doubled" else 15  # nothing is waited for where nothing is missing
    counts, server = run(protocol, spoil, messages=messages, stall_s=5.0 if fault == "doubled" else 0.1)
    assert counts["sent"] == len(server.published) == messages == 5 * len(spoilt) and not held
    missing = 0 if fault == "doubled" else len(spoilt)
    assert counts["deliveries"] == LISTENERS * messages - missing
    assert counts["corrupted"] == (len(spoilt) if fault == "changed" else 0)
    assert counts["disordered"] == (len(spoilt) if fault in ("doubled", "swapped") else 0)


def test_what_is_late_is_not_given_up() -> None:
    """The next pack leaves when nothing has come for so long; what comes then is a delivery like all others."""

    def spoil(listener: int, number: int, payload: bytes) -> list[bytes]:
        if (listener, number) == (1, 3):
            time.sleep(0.6)
        return [payload]

    counts, _ = run("resp", spoil, stall_s=0.2)
    assert counts["deliveries"] == LISTENERS * counts["sent"] == LISTENERS * 15 and counts["given_up"] == 0


@each_protocol
def test_a_message_for_somebody_else_is_a_stray(protocol: str) -> None:
    """Two pairs on one name: each listener gets the other's messages too."""
    speech: Any = SPEECHES[protocol]()
    clients = drive.load(protocol, MESSAGE_BYTES, 4)
    for number in range(2):
        drive.add(clients, speech.listening("same"), follows=2 + number)
    for _ in range(2):
        pack = drive.packed(lambda payload: speech.message("same", payload), MESSAGE_BYTES, 1, speech.answers)
        drive.add_publisher(clients, speech.publishing(), pack)
    with NaiveServer(protocol) as server:
        clients.connect(server.host, server.port)
        clients.run(0.2, recipients=1, rate_per_s=500.0, drain_s=0.1)
        counts = clients.stats()
        clients.close()
    assert counts["deliveries"] == counts["sent"] > 5
    assert 5 < counts["strays"] <= counts["sent"] and not counts["disordered"]
    assert len(clients.waits_ns()) == 8 * counts["deliveries_in_window"]


@each_protocol
def test_a_server_that_goes_ends_the_run(protocol: str) -> None:
    """The run doesn't wait for its time."""

    def spoil(listener: int, number: int, payload: bytes) -> list[bytes]:
        if number == 5:
            raise ConnectionError  # the naive server drops the publisher
        return [payload]

    counts, _ = run(protocol, spoil, at_once=1, messages=1_000_000)
    assert counts["dead"] == 1 and counts["window_s"] < 10


# ---- pieces ----------------------------------------------------------------------------------------------------------

CHATTER = {
    "resp": [b":5\r\n", b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b"*2\r\n$3\r\nabc\r\n*1\r\n:1\r\n", b"-ERR no\r\n"],
    "nats": [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a":1}\r\n', b"-ERR 'x'\r\n", b"MSG a 1 r 2\r\nhi\r\n"],
    "mqtt": [b"\xd0\x00", b"\x40\x02\x00\x07", b"\x30\x05\x00\x01ahi", b"\x32\x07\x00\x01a\x00\x01hi"],
    "json": [b"\x81\x02{}", b'\x81\x08{"id":7}'],
}
BROKEN = {
    "resp": [b"?what\r\n", b"$x\r\n", b"*-2\r\n", b"\n"],
    "nats": [b"HELLO\r\n", b"MSG a 1 x\r\n", b"MSG a 1 -3\r\n", b"\n"],
    "mqtt": [b"\x00\x00", b"\x30\x01\x00", b"\x30\x03\x00\x09a", b"\x30\xff\xff\xff\xff\xff"],
    "json": [b"\x82\x01a", b"\x81\x81aaaa!", b"nonsense"],
}


def payload_of(index: int, changed: bool) -> bytes:
    fill = drive.fill_of(MESSAGE_BYTES)
    stamp = b"GNPL%016x%016x" % (index, 7)
    return stamp + (fill[:-1] + b"?" if changed else fill)


def parts_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for first, last in pairwise(places):
        yield data[first:last]


@each_protocol
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_tokens_in_pieces(protocol: str, data: st.DataObject) -> None:
    """Payloads, other things and at last perhaps nonsense, cut anywhere: the counts are those of the whole."""
    naive = NAIVE[protocol]()
    wanted = dict.fromkeys(("deliveries", "corrupted", "disordered", "broken"), 0)
    stream, last = b"", 0
    for _ in range(data.draw(st.integers(0, 12))):
        kind = data.draw(st.sampled_from(["next", "again", "jump", "changed", "chatter"]))
        if kind == "chatter":
            stream += data.draw(st.sampled_from(CHATTER[protocol]))
            continue
        index = {"next": last + 1, "again": max(last, 1), "jump": last + 3, "changed": last + 1}[kind]
        stream += naive.delivery("name", payload_of(index, kind == "changed"))
        right = "deliveries" if index == last + 1 else "disordered"
        wanted["corrupted" if kind == "changed" else right] += 1
        last = max(last, index)
    if data.draw(st.booleans()):
        stream += data.draw(st.sampled_from(BROKEN[protocol]))
        wanted["broken"] = 1
    clients = drive.load(protocol, MESSAGE_BYTES, 1)
    clients.add(b"")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        clients.connect(*listening.getsockname())
        connection, _ = listening.accept()
        with connection:
            for part in parts_of(stream, data.draw(st.lists(st.integers(0, 5_000), max_size=8))):
                connection.sendall(part)
                clients.collect(1_000, deadline_s=0.001)
            connection.shutdown(socket.SHUT_WR)
            clients.collect(1_000, deadline_s=10.0)
            counts = clients.stats()
            clients.close()
    assert {name: counts[name] for name in wanted} == wanted


def test_bad_arguments() -> None:
    """Each says the value and the limit."""
    with pytest.raises(ValueError, match="payload_bytes is 20; it must be 36 to 4096"):
        PeerLoad(PROTOCOLS["resp"], 20, 1, b"")
    with pytest.raises(ValueError, match="connections_max is 0"):
        PeerLoad(PROTOCOLS["resp"], 128, 0, drive.fill_of(128))
    with pytest.raises(ValueError, match="protocol 9 is unknown"):
        PeerLoad(9, 128, 1, drive.fill_of(128))
    with pytest.raises(ValueError, match="a fill of 3 bytes"):
        PeerLoad(PROTOCOLS["resp"], 128, 1, b"abc")
    clients = drive.load("resp", 128, 1)
    number = clients.add(b"")
    with pytest.raises(ValueError, match="all 1 connections are in use"):
        clients.add(b"")
    with pytest.raises(ValueError, match="connection 5 is unknown"):
        clients.publisher(5, b"x" * 200, [0])
    with pytest.raises(ValueError, match="no room for its payloads"):
        clients.publisher(number, b"x" * 200, [100])
    with pytest.raises(ValueError, match="nobody publishes"):
        clients.run(0.1)
    with pytest.raises(ValueError, match="a follow-up of 0 bytes"):
        clients.follow_up(number, b"")


def test_nobody_there_is_told() -> None:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    clients = drive.load("resp", 128, 1)
    clients.add(b"")
    with pytest.raises(ConnectionError, match="0 of 1 connections are live"):
        clients.connect("127.0.0.1", port)


def test_a_job_over_a_naive_server() -> None:
    """drive.py from end to end, the server a Python one: faults come out in words."""

    def spoil(listener: int, number: int, payload: bytes) -> list[bytes]:
        return [] if number == 3 and listener == 0 else [payload]

    with NaiveServer("resp", spoil) as server:
        found = drive.fanout(PubSubSpeech(), server, JOBS[0], replace(SMOKE, warmup_s=0.0))  # type: ignore[arg-type]
    assert found.faults == {"lost": 1} and found.faults_text == f"lost 1 of {found.expected:,}"
    assert found.value > 0
