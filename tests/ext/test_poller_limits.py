"""What bounds the poller, whatever clients do: rates, places, descriptors, memory; and plain HTTP beside sessions."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ext.poller import Poller
from ext.session_table import SESSION_BYTES, SessionTable
from tests.support.poller_rig import (
    BINARY,
    CLOSE,
    JSON,
    MSGPACK,
    PING,
    PONG,
    READER,
    SIGNAL,
    Peer,
    Rig,
    answer,
    command,
    frame,
    head,
    message,
    proposals,
)

both = pytest.mark.parametrize("encoding", [MSGPACK, JSON])

# ---- rates -----------------------------------------------------------------------------------------------------------


@both
def test_a_burst_is_allowed_then_the_rate(encoding: str) -> None:
    with Rig(rate_per_s=50, rate_burst=5) as rig:
        peer = rig.device(encoding)  # hello is a command too
        for counter in range(1, 9):
            peer.command("publish", counter=counter, conversation=5, payload=b"x")
        peer.command("typing", conversation=5, id="t")
        peer.command("members", conversation=5, id=2**53 - 1)
        rig.quiet()
        taken = len(proposals(rig.proposals))
        assert 4 <= taken <= 5 and not rig.signals and not rig.commands
        pushes = peer.pushes()
        receipts, errors = pushes[: 8 - taken], pushes[8 - taken :]
        for number, push in enumerate(receipts, taken + 1):
            fields = push[1] if encoding == MSGPACK else list(push.values())[1:]
            assert fields[:2] == [number, "rate_limited"] and 0 < fields[6] <= 20
        bodies = [push[1] if encoding == MSGPACK else push for push in errors]
        assert [(body["code"], body["id"], body["retryable"]) for body in bodies] == [
            ("rate_limited", "t", True),
            ("rate_limited", 2**53 - 1, True),
        ]
        assert rig.poller.counters()["rate_limited_commands"] == 10 - taken
        time.sleep(max(fields[6], bodies[0]["retry_after_ms"]) / 1_000)
        rig.turn()
        peer.command("publish", counter=50, conversation=5, payload=b"x")
        rig.quiet()
        assert proposals(rig.proposals)[-1][1] == 50 and rig.table.unanswered(peer.session) == taken + 1


def test_going_on_far_above_the_rate_ends_the_session() -> None:
    with Rig(rate_per_s=1, rate_burst=10) as rig:
        peer = rig.device()
        peer.send(command(MSGPACK, "ping") * (9 + 99))
        rig.quiet()
        assert rig.closed == [] and rig.poller.counters()["rate_limited_commands"] == 99
        peer.send(command(MSGPACK, "ping") * 50)
        rig.quiet()
        assert [session for session, _ in rig.closed] == [peer.session]
        *_, (kind, body) = peer.frames()
        assert (kind, body) == (CLOSE, (4505).to_bytes(2) + b"rate_abuse")


@both
def test_ids_that_are_unusual_do_not_get_into_native_errors(encoding: str) -> None:
    with Rig(rate_per_s=1, rate_burst=1) as rig:
        peer = rig.device(encoding)
        for id in ("x" * 5_000, [1], {"a": "b" * 900}, -1, 1.5, None, "é" * 40):
            peer.command("ping", id=id)
        peer.send(
            frame(
                b"\x82\xa2id\xd9\xffabc" if encoding == MSGPACK else b'{"id":"abc', BINARY if encoding == MSGPACK else 1
            )
        )
        rig.quiet()
        bodies = [push[1] if encoding == MSGPACK else push for push in peer.pushes()]
        assert len(bodies) == 8 and all(body["code"] == "rate_limited" and "id" not in body for body in bodies)


# ---- memory ----------------------------------------------------------------------------------------------------------


@both
def test_idle_sessions_hold_no_buffer(encoding: str) -> None:
    with Rig(sessions_max=100) as rig:
        peers = [rig.device(encoding, user=user) for user in range(1, 60)]
        for peer in peers:
            peer.command("publish", counter=1, conversation=5, payload=b"x" * 500)
            peer.command("ping")
            for byte in command(encoding, "typing", conversation=5):
                peer.send(bytes((byte,)))
                rig.turn()
        rig.quiet()
        for peer in peers:
            rig.poller.answer(answer(rig.table.origin(peer.session), 1))
        rig.flush()
        assert rig.table.held_buffers() == (0, 0)
        assert rig.table.memory_bytes() < (len(peers) + 2) * (SESSION_BYTES + 8) + 64 * 8


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"x" * 125, PING) * 500,
        command(MSGPACK, "ping", id="i" * 60) * 500,
        command(MSGPACK, "publish", counter=1, conversation=5, payload=b"") * 500,
    ],
)
def test_who_does_not_read_is_not_read_and_its_memory_is_bounded(sent: bytes) -> None:
    """Sending goes on until the kernel's buffers are full; the session's own share stays within a written sum."""
    with Rig(send_bytes=4_096, rate_per_s=1_000_000, rate_burst=1_000_000) as rig:
        peer, witness = rig.device(user=1, receive_bytes=4_096), rig.device(user=2)
        most = took = 0
        for _ in range(3_000):
            wrote = peer.send(sent)
            took += wrote
            rig.turn()
            most = max(most, rig.table.memory_bytes())
            if not wrote and not rig.ready():
                break
        else:
            raise AssertionError(f"{took} bytes were taken of a client that never reads")
        # 64 KiB may wait, one receive buffer may be answered on top, and out_data grows by half at a time.
        assert most < 400_000, most
        witness.command("ping")
        rig.quiet()
        assert len(witness.pushes()) == 1
        before = rig.poller.counters()["received_bytes"]
        rig.until(lambda: peer.read() and rig.poller.counters()["received_bytes"] > before)
        rig.until(lambda: peer.read() and rig.table.held_buffers()[1] == 0, 30)  # each of them is answered
        peer.data = b""
        assert rig.table.state(peer.session) == READER and rig.closed == []


@both
def test_each_write_has_a_receipt_however_slowly_they_are_read(encoding: str) -> None:
    """A turn's refusals are more than may wait for who takes nothing: none of them is left out."""
    with Rig(send_bytes=4_096, rate_per_s=1_000_000, rate_burst=1_000_000, unanswered_max=1) as rig:
        peer = rig.device(encoding, receive_bytes=4_096)
        numbers = range(1, 3_001)
        data = b"".join(command(encoding, "publish", counter=n, conversation=5, payload=b"") for n in numbers)
        counters, most = list[int](), 0
        while data or rig.ready(1):
            data = data[peer.send(data) :]
            rig.turn()
            most = max(most, rig.table.unsent_bytes(peer.session))
            if not rig.ready():  # it reads when nothing else moves
                counters += [push[1][0] if encoding == MSGPACK else push["counter"] for push in peer.pushes()]
        assert most > 1 << 16
        assert len(proposals(rig.proposals)) == 1 and counters == list(numbers[1:])


def test_cold_commands_that_python_can_not_keep_up_with_stay_in_the_sockets() -> None:
    with Rig(rate_per_s=1_000_000, rate_burst=1_000_000) as rig:
        rig.handles = False
        peer, other = rig.device(user=1), rig.device(user=2)
        body = message(MSGPACK, "create", counter=1, kind="group", title="x" * 60_000)
        data, begun = b"", 0
        deadline = time.monotonic() + 3
        while sum(len(held) for _, held in rig.commands) < 8 << 20 or rig.ready(1):
            begun += not data
            data = data or frame(body)
            data = data[peer.send(data) :]
            rig.turn()
            assert time.monotonic() < deadline
        held = len(rig.commands)
        assert held * len(body) < (8 << 20) + 4 * 65_536 + len(body)
        other.command("publish", counter=1, conversation=5, payload=b"x")
        rig.quiet()
        assert proposals(rig.proposals) == [(other.session, 1, b"x")] and len(rig.commands) == held
        rig.handle(rig.commands)
        rig.handles = True
        while data:
            data = data[peer.send(data) :]
            rig.quiet()
        rig.until(lambda: peer.pump() and len(rig.commands) == begun)
        assert {found for _, found in rig.commands} == {body}
        peer.command("typing", conversation=9)
        rig.until(lambda: rig.signals)
        assert [row[1] for row in SIGNAL.iter_unpack(rig.signals)] == [peer.session]
        with pytest.raises(ValueError, match="more than wait"):
            rig.poller.handled(1, 1)


def test_a_blocked_reader_is_reported_when_it_can_go_on() -> None:
    with Rig(send_bytes=4_096) as rig:
        peer = rig.device(receive_bytes=4_096)
        rig.poller.push(peer.session, b"x" * 500_000)
        rig.flush()
        rig.quiet()
        assert rig.writable == []
        rig.until(lambda: peer.read() and rig.writable)
        assert rig.writable == [peer.session]
        rig.quiet()
        assert peer.frames() == [(BINARY, b"x" * 500_000)] and rig.table.held_buffers() == (0, 0)


# ---- places ----------------------------------------------------------------------------------------------------------


def test_over_the_limit_connections_are_told_so_and_health_is_still_answered() -> None:
    with Rig(sessions_max=2) as rig:
        kept = [rig.device(user=user) for user in (1, 2)]
        third, health = Peer(rig), Peer(rig)
        third.send(head())
        health.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        rig.until(lambda: third.read() and third.ended)
        assert third.data.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in third.data and third.ended == "end"
        rig.until(lambda: rig.requests)
        rig.poller.respond(rig.requests[0][0], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        rig.until(lambda: health.read() and health.ended)
        assert health.data.startswith(b"HTTP/1.1 200 ")
        for peer in (third, health, kept[0]):
            peer.socket.close()
        rig.until(lambda: rig.table.open_count == 1)
        rig.device(user=3)
        counters = rig.poller.counters()
        assert (counters["accepted_sessions"], counters["refused_sessions"], len(rig.closed)) == (3, 1, 1)


def test_more_than_can_be_told_are_dropped_and_the_others_do_not_notice() -> None:
    with Rig(sessions_max=1) as rig:
        kept = rig.device()
        crowd = [Peer(rig) for _ in range(260)]
        rig.quiet()
        ends = sum(peer.read().ended != "" for peer in crowd)
        assert ends == 260 - 256 and rig.table.open_count == 257
        kept.command("ping")
        rig.quiet()
        assert len(kept.pushes()) == 1


def test_accepting_is_paced() -> None:
    with Rig(connects_per_s_max=20) as rig:
        began = time.monotonic()
        peers = [Peer(rig) for _ in range(6)]
        rig.quiet()
        assert rig.table.open_count <= 3
        assert not rig.ready(1), "who waits in the kernel's queue must not keep the loop awake"
        rig.until(lambda: rig.table.open_count == len(peers))
        assert time.monotonic() - began > 0.15


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """The process may open that many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.open(os.devnull, os.O_RDONLY)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_connections_wait_and_the_loop_does_not_spin() -> None:
    with Rig() as rig:
        peers = [Peer(rig) for _ in range(3)]
        with descriptors_left(1):
            rig.quiet()
            assert rig.table.open_count == 1
            turns, deadline = 0, time.monotonic() + 0.2
            while time.monotonic() < deadline:
                if rig.ready(20):
                    turns += 1
                    rig.turn()
            assert turns < 20 and rig.table.open_count == 1
        rig.until(lambda: rig.table.open_count == 3)
        for peer in peers:
            peer.send(head())
        rig.until(lambda: rig.poller.counters()["accepted_sessions"] == 3)


def test_unlisten_takes_no_more_and_keeps_the_others() -> None:
    with Rig() as rig:
        kept = rig.device()
        rig.poller.unlisten()
        late = Peer(rig)
        late.send(head())
        rig.quiet()
        assert rig.table.open_count == 1
        kept.command("ping")
        rig.quiet()
        assert len(kept.pushes()) == 1
        rig.poller.listen(rig.listener.fileno())
        with pytest.raises(ValueError, match="already"):
            rig.poller.listen(rig.listener.fileno())
        rig.until(lambda: late.read() and late.data)


def test_arguments_and_descriptors_that_can_not_be() -> None:
    impossible: list[dict[str, Any]] = [
        {"ping_interval_ms": 5, "idle_timeout_ms": 5},
        {"rate_per_s": 0},
        {"unanswered_max": 65},
        {"hello_timeout_ms": 0},
    ]
    for wrong in impossible:
        with pytest.raises(ValueError):
            Poller(SessionTable(1), **wrong)
    with Rig() as rig:
        rig.poller.unlisten()
        with pytest.raises(OSError):
            rig.poller.listen(99_999)
        rig.poller.listen(rig.listener.fileno())
        peer = rig.upgraded()
        peer.command("hello")
        rig.until(lambda: rig.commands)
        with pytest.raises(ValueError):
            rig.poller.identify(rig.commands[0][0], 1, 1, 0, 2)


# ---- plain HTTP ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_plain_request_is_pythons_and_ends_with_its_answer(half_closed: bool) -> None:
    with Rig() as rig:
        peer = Peer(rig)
        request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
        peer.send(request[:9])
        rig.quiet()
        peer.send(request[9:] + b"GET /more HTTP/1.1\r\n")
        if half_closed:
            peer.socket.shutdown(socket.SHUT_WR)
        rig.quiet()
        ((session, found),) = rig.requests
        assert found == request and not peer.ended
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        rig.poller.respond(session, body)
        rig.poller.respond(session, b"again")
        rig.until(lambda: peer.read() and peer.ended)
        assert (peer.data, peer.ended) == (body, "end")
        peer.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        assert rig.closed == [] and rig.table.held_buffers() == (0, 0)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(path="/v2"), 404),
        (head("chat"), 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"\x16\x03\x01\x02", 400),
        (b"GET /" + b"a" * 20_000, 431),
        (head().replace(b": 13", b": 8"), 426),
    ],
)
def test_a_refused_handshake_is_told_why_though_more_is_sent(data: bytes, status: int) -> None:
    with Rig(close_timeout_ms=300) as rig:
        peer = Peer(rig)
        rest = data + b"z" * 200_000
        while rest:
            rest = rest[peer.send(rest) :]
            rig.quiet(0)
        rig.until(lambda: peer.read() and peer.ended)
        assert peer.data.startswith(f"HTTP/1.1 {status} ".encode()) and peer.ended == "end"
        peer.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        assert rig.poller.counters()["refused_sessions"] == 1 and rig.closed == []


def test_closing_a_connection_that_is_no_session_yet() -> None:
    with Rig() as rig:
        peer, asking = Peer(rig), Peer(rig)
        asking.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        rig.until(lambda: rig.requests)
        for origin in rig.table.origins():
            rig.poller.close(origin, 4001, b"drain")
        rig.until(lambda: peer.read() and peer.ended)
        assert peer.data.startswith(b"HTTP/1.1 503 ") and not asking.ended
        rig.poller.respond(rig.requests[0][0], b"HTTP/1.1 200 OK\r\n\r\n")
        rig.until(lambda: asking.read() and asking.ended)
        assert asking.data.startswith(b"HTTP/1.1 200 ") and rig.closed == []


def test_pongs_are_shed_before_memory_grows() -> None:
    with Rig(send_bytes=4_096) as rig:
        peer = rig.device(receive_bytes=4_096)
        rig.poller.push(peer.session, b"x" * 200_000)
        rig.flush()
        peer.send(frame(b"p", PING) * 20)
        rig.until(lambda: peer.read() and rig.table.held_buffers()[1] == 0)
        kinds = rig.until(lambda: [kind for kind, _ in peer.frames()])  # the kernel may hold some still
        assert kinds[0] == BINARY and set(kinds[1:]) <= {PONG}
