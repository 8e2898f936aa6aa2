"""How sessions end: close frames in both directions, timers, lost connections; reports, and when a slot is free."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from ext.closes import close_names
from gateway import close_codes
from tests.support.poller_rig import (
    BINARY,
    CLOSE,
    CLOSING,
    JSON,
    LIVE,
    MSGPACK,
    OPEN,
    PING,
    PONG,
    READER,
    TEXT,
    Peer,
    Rig,
    answer,
    command,
    frame,
    head,
)

both = pytest.mark.parametrize("encoding", [MSGPACK, JSON])
SHORT_MS = 70  # a timer of the tests; a tick of the wheel is 64 ms
AT_ONCE_S = 1.0  # far less than a closing session may take


def ended(peer: Peer) -> Callable[[], str]:
    """A condition: the server's end has come."""

    def condition() -> str:
        peer.read()
        return peer.ended

    return condition


# ---- close frames ----------------------------------------------------------------------------------------------------


def test_names_of_native_ends_are_those_of_the_table() -> None:
    names = close_names()
    assert names == {code: close_codes.BY_CODE[code].name for code in names} and len(names) == 13


@both
def test_a_client_that_closes_gets_its_code_back_and_the_end(encoding: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding)
        origin = rig.table.origin(peer.session)
        peer.send(
            command(encoding, "publish", counter=1, conversation=5, payload=b"x")
            + frame((3_000).to_bytes(2) + b"bye", CLOSE)
            + command(encoding, "typing", conversation=5)
        )
        rig.until(ended(peer), AT_ONCE_S)
        assert peer.frames() == [(CLOSE, (3_000).to_bytes(2))] and peer.ended == "end"
        assert rig.closed == [(peer.session, origin)] and rig.proposals and not rig.signals
        peer.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        assert rig.closed == [(peer.session, origin)]
        assert rig.poller.counters()["closed_sessions"] == 1 and rig.poller.counters()["live_sessions"] == 0


def test_a_close_frame_without_a_code_is_answered_by_one() -> None:
    with Rig() as rig:
        peer = rig.device()
        peer.send(frame(b"", CLOSE))
        rig.until(ended(peer))
        assert peer.frames() == [(CLOSE, b"")]


@both
@pytest.mark.parametrize("last", ["close", "broken"])
def test_an_end_waits_behind_what_python_has_not_handled(encoding: str, last: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding)
        rig.handles = False
        end = frame((1000).to_bytes(2) + b"bye", CLOSE) if last == "close" else frame(b"", 5)
        peer.send(command(encoding, "members", conversation=5) + end + command(encoding, "members", conversation=6))
        rig.until(lambda: rig.commands)
        peer.send(frame(b"x", PING))
        rig.quiet()
        assert len(rig.commands) == 1 and rig.closed == [] and peer.frames() == []
        rig.poller.push(peer.session, b"the answer")
        rig.handle(rig.commands)
        rig.until(ended(peer), AT_ONCE_S)
        code = (1000).to_bytes(2) if last == "close" else (1002).to_bytes(2) + b"protocol_error"
        opcode = BINARY if encoding == MSGPACK else TEXT
        assert peer.frames() == [(opcode, b"the answer"), (CLOSE, code)]
        rig.until(lambda: rig.closed)
        assert [session for session, _ in rig.closed] == [peer.session]


def test_an_end_that_waits_is_forgotten_with_its_session() -> None:
    with Rig() as rig:
        rig.handles = False
        gone, sent_away, stays = (rig.device(user=user) for user in (1, 2, 3))
        for peer in (gone, sent_away, stays):
            peer.send(command(MSGPACK, "members", conversation=5) + frame(b"", CLOSE))
            rig.until(lambda peer=peer: rig.commands and rig.commands[-1][0] == peer.session)  # type: ignore[misc]
        rig.poller.abort(gone.session)
        rig.poller.close(sent_away.session, 4500, b"replaced")
        rig.quiet()
        other = rig.upgraded()  # in the slot of the first
        other.command("hello", token="t")
        rig.until(lambda: len(rig.commands) == 4)
        other.session = rig.commands[3][0]
        assert other.session == gone.session
        rig.handle(rig.commands[:2])
        rig.quiet()
        assert len(rig.closed) == 2 and stays.frames() == []
        rig.handle(rig.commands[2:])
        rig.quiet()
        assert stays.frames() == [(CLOSE, b"")] and sent_away.close_code() == 4500
        assert len(rig.closed) == 3 and other.frames() == [] and rig.table.state(other.session) == OPEN


@both
def test_close_lets_what_was_pushed_go_first_and_waits_for_the_client(encoding: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding, user=3)
        session, origin = peer.session, rig.table.origin(peer.session)
        rig.poller.push(session, b"last words")
        rig.poller.close(session, 4001, b"drain; retry_after_ms=5")
        assert rig.table.state(session) == CLOSING and rig.table.user(session) == 0
        assert rig.table.find_device(3, session) == 0
        assert rig.ready(100), "the report must not wait for the client"
        assert rig.turn().closed == [(session, origin)]
        opcode = BINARY if encoding == MSGPACK else TEXT
        assert peer.frames() == [(opcode, b"last words"), (CLOSE, (4001).to_bytes(2) + b"drain; retry_after_ms=5")]
        rig.poller.push(session, b"too late, like what follows")
        rig.poller.close(session, 4000, b"idle")
        rig.poller.answer(answer(origin, 1))
        rig.poller.extend(session, 9)
        rig.poller.identify(session, 4, 4, 0, LIVE)
        assert not rig.poller.begin_unanswered(session, 1)
        peer.command("publish", counter=1, conversation=5, payload=b"x")
        peer.command("history", conversation=5)
        rig.quiet()
        assert peer.frames() == [] and not peer.ended and not rig.proposals and not rig.commands
        peer.send(frame((4001).to_bytes(2), CLOSE))
        rig.until(ended(peer), AT_ONCE_S)
        peer.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        assert rig.closed == [(session, origin)]


@pytest.mark.parametrize("answers", [False, True])
def test_an_end_is_bounded_whether_or_not_the_client_does_its_part(answers: bool) -> None:
    with Rig(close_timeout_ms=SHORT_MS) as rig:
        peer = rig.device()
        rig.poller.close(peer.session, 4000, b"idle")
        if answers:
            peer.send(frame((4000).to_bytes(2), CLOSE))
        rig.until(lambda: rig.table.open_count == 0)
        assert peer.close_code() == 4000 and peer.ended == "end" and len(rig.closed) == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x", 3), 1002),
        (frame(b"x", TEXT), 1003),
        (frame(b"x" * 3_000), 1009),
        (b"\x82\x01x", 1002),
        (frame(b"x", CLOSE), 1002),
        (frame((1000).to_bytes(2) + b"\xff", CLOSE), 1007),
    ],
)
def test_the_close_code_reaches_a_client_that_is_still_sending(data: bytes, code: int) -> None:
    """A reset for bytes that nobody reads would destroy the close frame on its way."""
    with Rig(frame_bytes_max=2_000, close_timeout_ms=300) as rig:
        peer = rig.device()
        peer.send(data)
        rest = frame(b"z" * 1_000) * 2_000
        for _ in range(200):
            rest = rest[peer.send(rest) :]
            rig.quiet(0)
        rig.until(ended(peer))
        assert peer.close_code() == code and len(rig.closed) == 1
        assert rig.commands == []


def test_a_partly_sent_frame_is_finished_before_the_close_frame() -> None:
    with Rig(send_bytes=4_096) as rig:
        peer = rig.device(receive_bytes=4_096)
        rig.poller.push(peer.session, b"x" * 300_000)
        rig.flush()
        rig.poller.close(peer.session, 4001, b"drain")
        rig.until(lambda: peer.read() and CLOSE in [peer.data[at] & 15 for at in (300_010,) if len(peer.data) > at])
        assert [(kind, len(body)) for kind, body in peer.frames()] == [(BINARY, 300_000), (CLOSE, 7)]


# ---- slots -----------------------------------------------------------------------------------------------------------


def test_a_slot_is_not_used_again_before_the_report_of_its_end_was_handled() -> None:
    with Rig() as rig:
        first = rig.device(user=5)
        origin = rig.table.origin(first.session)
        second = Peer(rig)
        second.send(head() + command(MSGPACK, "hello", token="t"))
        rig.poller.abort(origin)
        batch = rig.turn()  # takes the second in, reports the first
        assert batch.closed == [(first.session, origin)] and rig.table.state(first.session) == CLOSING
        rig.until(lambda: rig.commands)
        assert rig.commands[0][0] != first.session
        third = rig.device()
        assert third.session == first.session and rig.table.origin(third.session) != origin


def test_the_last_signals_of_a_session_have_its_user_but_nobody_finds_it() -> None:
    with Rig() as rig:
        peer = rig.device(user=5)
        peer.send(command(MSGPACK, "read", conversation=5, conversation_sequence=3) + frame(b"", CLOSE))
        time.sleep(0.01)
        batch = rig.turn()
        assert batch.signals and batch.closed and rig.table.user(peer.session) == 5
        assert rig.table.of_user(5) == [] and rig.table.count_of_user(5) == 0 and rig.table.identified_count == 0
        rig.turn()
        assert rig.table.user(peer.session) == 0


def test_an_abort_is_reported_once() -> None:
    with Rig() as rig:
        peer = rig.device()
        origin = rig.table.origin(peer.session)
        rig.poller.abort(origin)
        rig.poller.abort(origin)
        rig.quiet()
        assert rig.closed == [(peer.session, origin)] and rig.table.open_count == 0
        assert ended(peer)() == "reset"


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_connection_that_breaks_is_reported(how: str) -> None:
    with Rig() as rig:
        peer, silent = rig.device(), Peer(rig)
        rig.quiet()
        for one in (peer, silent):
            if how == "reset":
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if how == "half":
                one.socket.shutdown(socket.SHUT_WR)
            else:
                one.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        assert [session for session, _ in rig.closed] == [peer.session]  # the other was never a session


def test_shut_says_goodbye() -> None:
    with Rig() as rig:
        peer, fresh = rig.device(), Peer(rig)
        rig.quiet()
        rig.poller.shut()
        assert ended(peer)() == "end" and peer.close_code() == 1001
        assert ended(fresh)() == "end"
        batch = rig.poller.run(1_000)
        assert (batch.closed, batch.commands, batch.proposals) == ([], [], b"") and rig.table.open_count == 0
        rig.poller.push(peer.session, b"x")
        rig.poller.close(peer.session, 4000, b"")
        rig.poller.shut()


# ---- timers ----------------------------------------------------------------------------------------------------------


def test_hello_must_come_in_time() -> None:
    with Rig(hello_timeout_ms=SHORT_MS) as rig:
        silent, half, upgraded, fragment, device = (Peer(rig), Peer(rig), rig.upgraded(), rig.upgraded(), rig.device())
        half.send(head()[:30])
        fragment.send(frame(b"never ends", fin=False))
        rig.until(lambda: len(rig.closed) == 2)
        assert upgraded.close_code() == fragment.close_code() == 4005
        rig.until(lambda: all(ended(peer)() for peer in (silent, half)))
        assert silent.data == b"" and half.data.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        device.command("ping")
        rig.quiet()
        assert len(device.pushes()) == 1


def test_a_hello_that_python_has_not_handled_is_waited_for() -> None:
    with Rig(hello_timeout_ms=SHORT_MS) as rig:
        rig.handles = False
        peer = rig.upgraded()
        peer.command("hello", token="t")
        deadline = time.monotonic() + 0.25
        while time.monotonic() < deadline:
            if rig.ready(20):
                rig.turn()
        assert rig.closed == [] and len(rig.commands) == 1


def test_silence_is_pinged_and_then_ended() -> None:
    with Rig(ping_interval_ms=SHORT_MS, idle_timeout_ms=3 * SHORT_MS) as rig:
        dead, alive = rig.device(user=1), rig.device(user=2)
        pings = 0

        def answered() -> bool:
            nonlocal pings
            for kind, _ in alive.frames():
                assert kind == PING
                pings += 1
                alive.send(frame(b"", PONG))
            return len(rig.closed) == 1

        rig.until(answered)
        assert dead.frames()[0] == (PING, b"") and [session for session, _ in rig.closed] == [dead.session]
        rig.until(lambda: answered() and pings > 4)


def test_a_session_ends_with_its_token_unless_it_is_extended() -> None:
    with Rig(ping_interval_ms=10_000) as rig:
        now = int(time.time())
        expired, extended, never = (
            rig.device(user=user, expires_s=expires_s) for user, expires_s in ((1, now), (2, now + 100), (3, 2**60))
        )
        rig.until(lambda: rig.closed)
        assert expired.close_code() == 4003
        rig.poller.extend(extended.session, now - 1)
        rig.until(lambda: len(rig.closed) == 2)
        assert extended.close_code() == 4003 and rig.table.state(never.session) == READER


def test_who_takes_nothing_is_ended_and_who_is_only_slow_is_not() -> None:
    with Rig(
        send_bytes=8_192,
        slow_timeout_ms=3 * SHORT_MS,
        close_timeout_ms=SHORT_MS,
        ping_interval_ms=60_000,
        idle_timeout_ms=61_000,
    ) as rig:
        stuck, slow = rig.device(user=1, receive_bytes=8_192), rig.device(user=2, receive_bytes=8_192)
        for peer in (stuck, slow):
            rig.poller.push(peer.session, b"x" * 2_000_000)
        rig.flush()

        def gone() -> bool:
            slow.read(4_000)
            return rig.table.open_count == 1

        rig.until(gone)
        assert [session for session, _ in rig.closed] == [stuck.session]
        assert rig.table.state(slow.session) == READER and 0 < len(slow.data) < 2_000_000
        rig.until(lambda: slow.read() and len(slow.data) > 2_000_000)
        assert slow.frames() == [(BINARY, b"x" * 2_000_000)] and rig.writable == [slow.session]
        stuck.read()
        assert stuck.ended == "reset"  # the kernel does not keep megabytes for it
