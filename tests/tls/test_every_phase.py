"""Slow, stalled and broken clients in every phase of a connection with TLS, beside others who are served.

Goal: each ends by its deadline with the right last word, holds no more than is written, and leaves nothing. Method: a
client brought up to a phase, whose next bytes then come one at a time, not at all, or as a reset.
"""

from __future__ import annotations

import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.support.poller_rig import LIVE, Peer, command, frame, head
from tests.support.tls_peer import SecurePeer, SecureRig, client_hello

HELLO_MS, SLOW_MS, CLOSE_MS = 300, 200, 50
LATE_S = 3.0  # ticks of 64 ms, and a machine that does other things
SHAKING_BYTES = 76_000  # most that a connection holds, before the handshake's end
HALF_OPEN = 2_000

Sender = Callable[[SecurePeer], bytes]
"""Brings a peer to its phase; what it goes on with, as ciphertext."""


def begin(peer: SecurePeer) -> bytes:
    """Its ClientHello."""
    with suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    return peer.outgoing.read()


def finish(peer: SecurePeer) -> bytes:
    """Its Finished, once the server's flight has come."""
    Peer.send(peer, begin(peer))

    def answered() -> bool:
        peer._fetch(1 << 18)
        with suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
            return True
        return False

    peer.rig.until(answered)
    return peer.outgoing.read()


def sealed(peer: SecurePeer, data: bytes) -> bytes:
    peer.tls.write(data)
    return peer.outgoing.read()


def ask(peer: SecurePeer) -> bytes:
    """The head of its request."""
    peer.shake()
    return sealed(peer, head())


def ask_in_small_records(peer: SecurePeer) -> bytes:
    """... a byte a record: whole for TLS, unfinished for HTTP."""
    peer.shake()
    return b"".join(sealed(peer, bytes((byte,))) for byte in head()[:-1])


def upgraded(peer: SecurePeer) -> None:
    peer.shake()
    peer.send(head())
    peer.rig.until(lambda: b"\r\n\r\n" in peer.read().data)
    peer.data = b""


def say_hello(peer: SecurePeer) -> bytes:
    upgraded(peer)
    return sealed(peer, command("msgpack", "hello", token="t" * 3_000))


def lived(peer: SecurePeer) -> None:
    upgraded(peer)
    peer.command("hello", token="t")
    rig = peer.rig
    rig.until(lambda: rig.commands)
    peer.session = rig.commands.pop()[0]
    rig.poller.identify(peer.session, 7, peer.session, 0, LIVE)


def send_record(peer: SecurePeer) -> bytes:
    """A message in one record."""
    lived(peer)
    return sealed(peer, command("msgpack", "ping", id="x" * 3_000))


def send_frame(peer: SecurePeer) -> bytes:
    """A message whose records are whole and which is not: a byte each."""
    lived(peer)
    return b"".join(sealed(peer, bytes((byte,))) for byte in frame(b"x" * 3_000)[:-1])


# phase → (sender, the last word: an HTTP status, a close code or 0 for none, whether hello's deadline counts)
PHASES: dict[str, tuple[Sender, int, int]] = {
    "ClientHello": (begin, 0, HELLO_MS),
    "Finished": (finish, 0, HELLO_MS),
    "a record of the request": (ask, 0, HELLO_MS),
    "the request": (ask_in_small_records, 408, HELLO_MS),
    "a record of hello": (say_hello, 4005, HELLO_MS),
    "a record of a message": (send_record, 4002, SLOW_MS),
    "a message": (send_frame, 4002, SLOW_MS),
}


def secure(**more: int) -> SecureRig:
    return SecureRig(
        hello_timeout_ms=HELLO_MS,
        slow_timeout_ms=SLOW_MS,
        close_timeout_ms=CLOSE_MS,
        ping_interval_ms=40,  # what trickles counts as a sign of life: it is the message that must end
        idle_timeout_ms=60_000,
        rate_per_s=100_000,
        rate_burst=100_000,
        **more,
    )


def last_word(peer: SecurePeer) -> int:
    """What the server said in the end."""
    if peer.data.startswith(b"HTTP/1.1 "):
        return int(peer.data[9:12])
    return peer.close_code()


@dataclass
class Slow:
    """A client in its phase, and what is seen of it."""

    phase: str
    peer: SecurePeer
    data: bytes
    at: int
    began_s: float
    ended_s: float = 0.0

    def trickle(self) -> None:
        """One byte more, of all but the last."""
        if self.at < len(self.data) - 1:
            with suppress(OSError):
                self.at += Peer.send(self.peer, self.data[self.at : self.at + 1])


def in_phase(rig: SecureRig, phase: str) -> Slow:
    sender, _, deadline_ms = PHASES[phase]
    began_s = time.monotonic()
    peer = SecurePeer(rig)
    data = sender(peer)
    if deadline_ms != HELLO_MS:  # hello's counts from the connect
        began_s = time.monotonic()
    half = len(data) // 2
    Peer.send(peer, data[:half])
    return Slow(phase, peer, data, half, began_s)


@pytest.mark.parametrize("pace", ["byte by byte", "stalled"])
def test_who_is_slow_ends_by_the_deadline(pace: str) -> None:
    """One in each phase, all at once; somebody else is served meanwhile."""
    with secure() as rig:
        good = rig.device(user=1, state=LIVE)
        rig.quiet()
        before = rig.table.memory_bytes()
        crowd = [in_phase(rig, phase) for phase in PHASES]
        most = 0
        while not all(slow.ended_s for slow in crowd):
            for slow in crowd:
                if pace == "byte by byte" and not slow.ended_s:
                    slow.trickle()
                if not slow.ended_s and slow.peer.read().ended:
                    slow.ended_s = time.monotonic()
                late_s = PHASES[slow.phase][2] / 1_000 + LATE_S
                assert slow.ended_s or time.monotonic() - slow.began_s < late_s, f"{slow.phase} is still there"
            if rig.ready(2):
                rig.turn()
            most = max(most, rig.table.memory_bytes() - before)
            good.command("ping", id=1)
            assert rig.until(good.pushes)
        for slow in crowd:
            assert slow.ended_s - slow.began_s > PHASES[slow.phase][2] / 1_000 * 0.9, f"{slow.phase}: too early"
            assert last_word(slow.peer) == PHASES[slow.phase][1], slow.phase
        assert most <= len(crowd) * SHAKING_BYTES
        rig.until(lambda: rig.turn() and rig.table.open_count == 1)
        assert rig.table.memory_bytes() <= before + 4_000


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("phase", PHASES)
def test_a_reset_in_the_middle_leaves_nothing(phase: str, share: float) -> None:
    with secure() as rig:
        good = rig.device(user=1)
        rig.quiet()
        before = rig.table.memory_bytes()
        peer = SecurePeer(rig)
        data = PHASES[phase][0](peer)
        sessions = rig.table.identified_count
        Peer.send(peer, data[: int(len(data) * share)])
        if share > 0.1:
            rig.turn()
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()
        rig.until(lambda: rig.turn() and rig.table.open_count == 1)
        assert rig.table.memory_bytes() <= before + 2_000 and rig.table.identified_count == 1
        assert len(rig.closed) <= 1 and (sessions == 1 or len(rig.closed) == 1)
        good.command("ping", id=1)
        assert rig.until(good.pushes)


def test_a_reset_while_output_waits_leaves_nothing() -> None:
    """In mid-record of ours: the socket is full, ciphertext waits in the link."""
    with SecureRig(send_bytes=4_096) as rig:
        peer = rig.device(state=LIVE, receive_bytes=4_096)
        rig.quiet()
        rig.poller.push(peer.session, b"x" * 100_000)
        rig.quiet()
        assert rig.table.held_buffers()[1] == 1
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()
        rig.until(lambda: rig.turn() and rig.table.open_count == 0)
        assert rig.table.held_buffers() == (0, 0) and len(rig.closed) == 1


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_thousand_half_open_handshakes_beside_others() -> None:
    """They stop behind their ClientHello; a session is served all the time, newcomers too; then they are gone."""
    hello = client_hello()
    with descriptors(2 * HALF_OPEN + 500), SecureRig(HALF_OPEN + 50, hello_timeout_ms=1_500) as rig:
        good = rig.device(user=1, state=LIVE)
        before = rig.table.memory_bytes()
        crowd = []
        for number in range(HALF_OPEN):
            crowd.append(socket.create_connection(rig.address))
            crowd[-1].send(hello[: len(hello) // 2] if number % 3 == 0 else hello)
            if number % 250 == 249:
                good.command("ping", id=number)
                rig.until(good.pushes)
                rig.device(user=2 + number)
        top = rig.table.memory_bytes() - before
        served = 8
        rig.until(lambda: rig.turn() and rig.table.open_count == 1 + served, 10)
        assert not any(peer.read().ended for peer in rig.peers)
        good.command("ping", id=0)
        assert rig.until(good.pushes)
        assert top <= HALF_OPEN * SHAKING_BYTES
        assert rig.table.memory_bytes() - before < served * 30_000 + HALF_OPEN * 200
        for one in crowd:
            one.close()
