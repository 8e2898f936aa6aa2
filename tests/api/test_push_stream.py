"""The push stream over a real WebSocket, in both of its forms: credit, answers, ends. Bytes as API.md has them."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from engine import Api, Definition, Subscription
from ext.record import encode
from gateway.api import wire
from gateway.api.door import Door
from gateway.api.ports import Service
from gateway.api.subscriptions import opened
from gateway.revocation import Revoked
from tests.support.api_site import TEAM, ApiSite
from tests.support.tree import ROOT

HEAD = struct.Struct("<B3xIQ")


@contextmanager
def stream(
    site: ApiSite, protocol: str = wire.PACKED, query: str = "?consumer=one", token: str | None = None
) -> Iterator[ClientConnection]:
    """A connection of a consumer of `mail`."""
    headers = {"Authorization": f"Bearer {site.token() if token is None else token}"}
    url = f"ws://127.0.0.1:{site.port}/v1/subscriptions/mail/stream{query}"
    subprotocols = [Subprotocol(protocol)]
    # Who has read nothing waits in vain for the server's word when it closes.
    with connect(url, additional_headers=headers, subprotocols=subprotocols, max_size=None, close_timeout=1) as socket:
        yield socket


def frame(socket: ClientConnection) -> tuple[int, int, int, bytes]:
    """(kind, tag, value, rest) of the next one."""
    data = socket.recv(timeout=10)
    assert isinstance(data, bytes)
    return *HEAD.unpack_from(data), data[HEAD.size :]


def records(data: bytes) -> dict[int, int]:
    """Sequence → deliveries of packed records, in their order."""
    found, at = {}, 0
    while at < len(data):
        size, deliveries = struct.unpack_from("<IH", data, at)
        found[msgpack.unpackb(data[at + 6 : at + 6 + size])[0]] = deliveries
        at += 6 + size
    return found


def say(socket: ClientConnection, kind: int, tag: int = 0, value: int = 0, rest: bytes = b"") -> None:
    """One frame."""
    socket.send(HEAD.pack(kind, tag, value) + rest)


def packed(*sequences: int) -> bytes:
    """Sequences as they go over the wire."""
    return struct.pack(f"<{len(sequences)}Q", *sequences)


def ended(socket: ClientConnection) -> int:
    """The close code, whatever came before."""
    with pytest.raises(ConnectionClosed):
        while True:
            socket.recv(timeout=10)
    assert socket.close_code is not None
    return socket.close_code


def test_packed_events_come_as_far_as_credit_reaches_and_answers_are_done(site: ApiSite) -> None:
    wanted = site.publish(site.group(7), 10)
    site.subscribe()
    with stream(site) as socket:
        kind, shard, generation, rest = frame(socket)
        assert (kind, shard) == (wire.JOINED, 0) and generation > 0
        assert json.loads(rest) == {
            "op": "joined", "consumer": "one", "generation": generation, "source": "/v1/shards/0", "shard": 0,
            "epochs": [[1, 1]],
        }  # fmt: skip
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.2)
        say(socket, wire.CREDIT, value=4)
        kind, count, _, rest = frame(socket)
        assert (kind, count) == (wire.EVENTS, 4) and list(records(rest).items()) == [(one, 1) for one in wanted[:4]]
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.2)
        say(socket, wire.ACK, 7, rest=packed(*wanted[:2]))
        assert frame(socket) == (wire.DONE, 7, 0, b"")
        say(socket, wire.RETRY, 8, 0, packed(wanted[2]))
        assert frame(socket) == (wire.DONE, 8, 0, b"")
        say(socket, wire.PARK, 9, 1, packed(wanted[3]) + "нет адреса".encode())
        assert frame(socket) == (wire.DONE, 9, 0, b"")
        say(socket, wire.EXTEND, 10, 5_000, packed(wanted[0]))
        kind, tag, status, rest = frame(socket)
        assert (kind, tag, status) == (wire.PROBLEM, 10, 409) and json.loads(rest)["code"] == "not_in_flight"
        say(socket, wire.CREDIT, value=100)
        got: dict[int, int] = {}
        while len(got) < 7:
            kind, count, _, rest = frame(socket)
            assert kind == wire.EVENTS and count == len(records(rest))
            got |= records(rest)
        assert got == {wanted[2]: 2} | dict.fromkeys(wanted[4:], 1)
        say(socket, wire.ACK_UP_TO, 11, wanted[-1])
        assert frame(socket) == (wire.DONE, 11, 0, b"")
        say(socket, wire.LEAVE)
        assert ended(socket) == 1000
    parked = site.ask("GET", "/v1/subscriptions/mail/parked").json["parked"]
    assert [(one["sequence"], one["reason"]) for one in parked] == [(wanted[3], "нет адреса")]
    standing = site.ask("GET", "/v1/subscriptions/mail").json
    assert standing["in_flight"] == 0 and standing["consumers"] == []


def test_json_says_the_same(site: ApiSite) -> None:
    wanted = site.publish(site.group(7), 3)
    site.subscribe()
    with stream(site, wire.TEXT) as socket:

        def answer() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(socket.recv(timeout=10))
            return found

        assert answer()["op"] == "joined"
        socket.send(json.dumps({"op": "credit", "events": 10}))
        given = answer()
        assert given["op"] == "events" and [int(event["sequence"]) for event in given["events"]] == wanted
        assert given["events"][0]["specversion"] == "1.0"
        socket.send(json.dumps({"op": "ack", "tag": 1, "sequences": wanted[:1]}))
        assert answer() == {"op": "done", "tag": 1}
        socket.send(json.dumps({"op": "retry", "tag": 2, "sequences": wanted[1:2], "delay_s": 0}))
        assert answer() == {"op": "done", "tag": 2}
        assert answer()["events"][0]["deliveries"] == 2
        socket.send(json.dumps({"op": "ack", "tag": 3, "sequences": [wanted[0], 4_711]}))
        refused = answer()
        assert refused["op"] == "problem" and refused["tag"] == 3 and refused["problem"]["code"] == "not_in_flight"
        socket.send(json.dumps({"op": "leave"}))
        assert ended(socket) == 1000


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "16"),
        (HEAD.pack(99, 0, 0), "kind 99"),
        (HEAD.pack(1, 0, 0), "credit"),
        (HEAD.pack(2, 0, 0) + b"abc", "8 bytes"),
        (HEAD.pack(2, 0, 0), "sequences"),
        (HEAD.pack(4, 0, 1 << 40) + packed(1), "delay"),
        (HEAD.pack(6, 0, 1) + packed(1) + b"\xff", "UTF-8"),
        (HEAD.pack(6, 0, 1 << 63) + packed(1), "number of sequences"),
        ("text", "text message"),
    ],
)
def test_a_message_that_can_not_be_read_ends_the_stream_with_a_reason(
    site: ApiSite, message: bytes | str, words: str
) -> None:
    site.subscribe()
    with stream(site) as socket:
        frame(socket)
        socket.send(message)
        kind, tag, status, rest = frame(socket)
        assert (kind, tag, status) == (wire.PROBLEM, 0, 400) and words in json.loads(rest)["detail"]
        assert ended(socket) == 4400


def test_a_fenced_consumer_is_told_and_closed(site: ApiSite) -> None:
    (sequence,) = site.publish(site.group(7))
    site.subscribe()
    with stream(site) as earlier, stream(site) as later:
        for socket in (earlier, later):
            frame(socket)
        say(earlier, wire.ACK, 1, rest=packed(sequence))
        kind, tag, status, rest = frame(earlier)
        assert (kind, tag, status) == (wire.PROBLEM, 0, 409) and json.loads(rest)["code"] == "fenced"
        assert ended(earlier) == 4409
        say(later, wire.CREDIT, value=5)
        assert records(frame(later)[3]) == {sequence: 1}


def test_a_revoked_token_ends_an_open_stream(site: ApiSite) -> None:
    site.subscribe()
    with stream(site, token=site.token(jti="t1")) as socket:
        frame(socket)
        begun = time.monotonic()
        site.revoked = Revoked(tokens=frozenset({"t1"}))
        kind, tag, status, rest = frame(socket)
        assert (kind, tag, status) == (wire.PROBLEM, 0, 401) and json.loads(rest)["code"] == "token_revoked"
        assert ended(socket) == 4401 and time.monotonic() - begun < 8


def test_a_token_ends_also_where_its_client_takes_nothing(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way fills every buffer between; nobody waits for it."""
    monkeypatch.setattr("gateway.api.stream.CLOSE_S", 0.3)
    conversation = site.group(7)
    large = {"type": "order.paid", "conversation": conversation, "data": "x" * 60_000}
    for _ in range(2):
        assert site.ask("POST", "/v1/events", [large] * 100).status == 200
    site.subscribe()
    with stream(site, token=site.token(jti="t1")) as socket:
        say(socket, wire.CREDIT, value=1_000)
        team = site.app.state.door.quotas.team(TEAM)
        time.sleep(0.5)
        assert team.streams == 1
        site.revoked = Revoked(tokens=frozenset({"t1"}))
        deadline = time.monotonic() + 15
        while team.streams:
            assert time.monotonic() < deadline, "its stream is still open"
            time.sleep(0.05)
    assert site.ask("GET", "/v1/subscriptions/mail").json["consumers"] == []


def test_what_ends_gives_back_what_it_has(site: ApiSite) -> None:
    """The connection is the consumer: when it is cut, its events go to others at once, not after ack_timeout_s."""
    (sequence,) = site.publish(site.group(7))
    site.subscribe()
    with stream(site) as socket:
        frame(socket)
        say(socket, wire.CREDIT, value=5)
        assert records(frame(socket)[3]) == {sequence: 1}
        socket.socket.close()
        with stream(site, query="?consumer=two") as other:
            frame(other)
            say(other, wire.CREDIT, value=5)
            kind, _, _, rest = frame(other)
            assert kind == wire.EVENTS and list(records(rest)) == [sequence]


def test_a_server_that_ends_says_so(tmp_path: Path) -> None:
    with ApiSite(tmp_path) as site:
        site.subscribe()
        with stream(site) as socket:
            frame(socket)
            site.stop()
            assert ended(socket) == 1001


@pytest.mark.parametrize(
    ("query", "protocol", "scope", "status", "code"),
    [
        ("", "other", None, 400, "bad_argument"),
        ("?consumer=A%20b", wire.PACKED, None, 400, "bad_argument"),
        ("?in_flight_max=0", wire.PACKED, None, 400, "bad_argument"),
        ("?x=1", wire.PACKED, None, 400, "bad_argument"),
        ("", wire.PACKED, "read:message", 403, "forbidden"),
    ],
)
def test_what_is_wrong_before_the_handshake_is_a_problem_over_http(
    site: ApiSite,
    caplog: pytest.LogCaptureFixture,
    query: str,
    protocol: str,
    scope: str | None,
    status: int,
    code: str,
) -> None:
    site.subscribe()
    with pytest.raises(InvalidStatus) as refused:
        with stream(site, protocol, query, None if scope is None else site.token(scope)):
            pass
    answer = refused.value.response
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body or b"{}")["code"] == code
    assert site.ask("GET", "/v1/subscriptions").status == 200  # by then the server has said what it had to say
    assert not [record for record in caplog.records if "handshake" in record.getMessage()], "anybody can be refused"


def test_who_is_away_is_said_in_json_only(site: ApiSite) -> None:
    site.publish(site.group(7))
    site.subscribe(filter={"types": ["order"], "recipient_away": True})
    with pytest.raises(InvalidStatus) as refused:
        with stream(site):
            pass
    assert b"away" in (refused.value.response.body or b"")
    with stream(site, wire.TEXT) as socket:
        socket.recv(timeout=10)
        socket.send('{"op": "credit", "events": 10}')
        (event,) = json.loads(socket.recv(timeout=10))["events"]
        assert event["away"] == "7"


def test_the_page_shows_the_bytes_that_are_sent() -> None:
    """The frame of API.md: its head, and the beginning of its record."""
    page = (ROOT / "gateway" / "api" / "API.md").read_text()
    shown = re.findall(r"^    ((?:[0-9a-f]{2} *)+)", page, re.MULTILINE)
    data = bytes.fromhex("".join(shown))
    record = encode(42, 7, 1, 0, 1, 9, 3, 1, "a", b"")
    assert data == (HEAD.pack(wire.EVENTS, 1, 0) + struct.pack("<IH", len(record), 1) + record)[: len(data)]
    table = dict(re.findall(r"^\| (\d+) \| ([a-z_]+) \|", page, re.MULTILINE))
    named = {str(getattr(wire, name.upper())): name for name in table.values() if hasattr(wire, name.upper())}
    assert {number: name for number, name in table.items() if name in named.values()} == named and len(named) == 11


def test_two_who_come_at_once_do_not_both_get_the_last_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question and the answer others come: the one that is refused is told so, and fences nobody."""
    arrived: list[str] = []

    async def slow(door: Door, service: Service, name: str) -> tuple[Subscription, Definition]:
        arrived.append(name)
        until_s = time.monotonic() + 1
        while len(arrived) < 2 and time.monotonic() < until_s:
            await asyncio.sleep(0.005)
        return await opened(door, service, name)

    with ApiSite(tmp_path, Api(streams_max=1)) as site, ThreadPoolExecutor(2) as threads:
        site.subscribe()
        monkeypatch.setattr("gateway.api.stream.opened", slow)

        def come() -> int:
            try:
                with stream(site) as socket:
                    frame(socket)
                    time.sleep(1)
                    return 101
            except InvalidStatus as refused:
                return refused.response.status_code

        assert sorted(threads.map(lambda _: come(), range(2))) == [101, 429]
