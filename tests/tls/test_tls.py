"""TLS below the parser: what send promises while sockets are blocked, and how bad clients end.

Goal: nothing lost, doubled or held without limit, whatever pieces the ciphertext comes and goes in. Method: the
poller's rig with a client whose every byte of ciphertext is the test's.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
from pathlib import Path

import pytest

from ext.tls import Context
from tests.support.certificates import Authority
from tests.support.poller_rig import BINARY, CLOSING, LIVE, READER, Peer, command, frame, head
from tests.support.tls_peer import SecurePeer, SecureRig, authority

ONE_RECORD = 17_000


@pytest.mark.parametrize(("most", "taken"), [(ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "")])
def test_only_tls_1_3_unless_told_otherwise(most: ssl.TLSVersion, taken: str, tmp_path: Path) -> None:
    signer = Authority(tmp_path)
    pair = signer.pair()
    for minimum in ("1.3", "1.2"):
        with SecureRig() as rig:
            rig.poller.use_tls(Context(*pair, minimum))
            peer = SecurePeer(rig)
            peer.tls = signer.client(most).wrap_bio(peer.incoming, peer.outgoing, server_hostname="localhost")
            if minimum == "1.2" or taken:
                peer.shake()
                assert peer.tls.version() == (taken or "TLSv1.2")
                continue
            with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version|unsupported protocol"):
                peer.shake()
            rig.quiet()
            assert rig.poller.counters()["tls_failures"] == 1 and rig.table.open_count <= 1


def test_old_sessions_keep_their_certificate_and_new_ones_get_the_new(tmp_path: Path) -> None:
    signer = Authority(tmp_path)
    with SecureRig() as rig:
        found = []
        devices = []
        for name in ("old", "new"):
            rig.poller.use_tls(Context(*signer.pair(name)))
            peer = SecurePeer(rig)
            peer.tls = signer.client().wrap_bio(peer.incoming, peer.outgoing, server_hostname="localhost")
            peer.shake()
            devices.append(peer)
            found.append(peer.tls.getpeercert(True))
        assert found[0] != found[1]
        devices[0].send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        rig.until(lambda: rig.requests)


def test_alpn_is_http_1_1_or_an_end() -> None:
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)):
        with SecureRig() as rig:
            peer = SecurePeer(rig)
            context = authority().client()
            if offered:
                context.set_alpn_protocols(offered)
            peer.tls = context.wrap_bio(peer.incoming, peer.outgoing, server_hostname="localhost")
            if offered == ["h2"]:
                with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                    peer.shake()
            else:
                peer.shake()
                assert peer.tls.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("pieces", [1, 7, 1_000])
def test_ciphertext_may_come_in_any_pieces(pieces: int) -> None:
    """Handshake and records byte by byte; messages over several records."""
    with SecureRig(rate_per_s=10_000, rate_burst=10_000) as rig:
        peer = SecurePeer(rig, pieces=pieces)
        peer.shake()
        peer.send(head())
        rig.until(lambda: peer.read() and b"\r\n\r\n" in peer.data)
        peer.data = peer.data.partition(b"\r\n\r\n")[2]
        peer.command("hello", token="t")
        rig.until(lambda: rig.commands)
        rig.poller.identify(rig.commands[-1][0], 7, 1, 0, LIVE)
        if pieces > 1:
            body = random.Random(pieces).randbytes(50_000)
            peer.send(command("msgpack", "publish", conversation=5, counter=1, payload=body))
            rig.until(lambda: body in rig.proposals)
        peer.command("ping", id=1)
        assert rig.until(peer.pushes)[-1][0] == 11


@pytest.mark.parametrize("seed", range(4))
def test_what_a_blocked_session_is_sent_arrives_exactly_and_little_waits(seed: int) -> None:
    """Tiny buffers, a reader that takes a few bytes now and then: every push once, in order, whole."""
    random_ = random.Random(seed)
    with SecureRig(send_bytes=4_096) as rig:
        peer = rig.device(state=READER, receive_bytes=4_096)
        assert isinstance(peer, SecurePeer)
        sent: list[bytes] = []
        received: list[bytes] = []
        for number in range(120):
            body = b"%d:" % number + random_.randbytes(random_.choice((10, 3_000, 16_384, 40_000)))
            rig.poller.push(peer.session, body)
            sent.append(body)
            rig.turn()
            if random_.random() < 0.7:
                peer.read(random_.choice((1, 100, 5_000, 60_000)))

        def all_received() -> bool:
            received.extend(body for kind, body in peer.frames() if kind == BINARY)
            return len(received) == len(sent)

        rig.until(all_received, 20)
        assert received == sent, f"seed {seed}"
        rig.quiet()
        assert rig.table.held_buffers()[1] == 0


def test_a_session_that_reads_nothing_holds_one_record_of_ciphertext() -> None:
    with SecureRig(send_bytes=4_096) as rig:
        peer = rig.device(state=LIVE, receive_bytes=4_096)
        rig.quiet()
        before = rig.table.memory_bytes()
        rig.poller.push(peer.session, b"x" * 60_000)
        rig.quiet()
        waits = rig.table.memory_bytes() - before
        assert 0 < waits <= 60_000 + 60_000 // 2 + ONE_RECORD + 512


def test_close_frames_and_close_notify_come_in_order() -> None:
    with SecureRig() as rig:
        peer = rig.device()
        assert isinstance(peer, SecurePeer)
        rig.poller.close(peer.session, 4001, b"drain")
        peer.send(frame(struct.pack(">H", 4001), 8))
        rig.until(lambda: peer.read() and peer.ended)
        assert peer.close_code() == 4001 and peer.said_end


def test_a_client_that_says_its_end_is_answered_and_gone() -> None:
    with SecureRig() as rig:
        peer = rig.device()
        assert isinstance(peer, SecurePeer)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        peer.pump()
        rig.until(lambda: peer.read() and peer.ended)
        assert peer.said_end and len(rig.closed) == 1
        rig.until(lambda: rig.turn() and rig.table.open_count == 0)


def test_plain_http_on_the_tls_port_is_told_where_it_is() -> None:
    with SecureRig() as rig:
        peer = Peer(rig)
        peer.send(b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n")
        rig.until(lambda: peer.read() and peer.ended)
        assert peer.data.startswith(b"HTTP/1.1 400 ") and b"wss://" in peer.data
        assert rig.poller.counters()["tls_failures"] == 1


@pytest.mark.parametrize(
    "first", [b"\x00", b"\x80\x2e\x01\x03", b"\x16\x03\x01", b"\x16" * 40_000, b"hello", b"\xff" * 9]
)
def test_garbage_ends_its_own_connection_only(first: bytes) -> None:
    with SecureRig(hello_timeout_ms=400, close_timeout_ms=100) as rig:
        good = rig.device()
        peer = Peer(rig)
        peer.send(first)
        rig.until(lambda: peer.read() and peer.ended)
        good.command("ping", id=1)
        assert rig.until(good.pushes)


def test_a_bad_record_ends_an_open_session() -> None:
    with SecureRig() as rig:
        peer = rig.device()
        Peer.send(peer, b"\x17\x03\x03\x00\x20" + bytes(32))
        rig.until(lambda: rig.closed)
        assert rig.table.state(peer.session) in (0, CLOSING)


def test_resets_and_silence_in_the_middle_of_handshakes() -> None:
    """A hundred clients go at every point of the handshake; those that stay are ended by the deadline."""
    with SecureRig(sessions_max=256, hello_timeout_ms=500) as rig:
        for number in range(100):
            peer = SecurePeer(rig)
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            hello = peer.outgoing.read()
            Peer.send(peer, hello[: len(hello) * number // 99])
            rig.turn()
            if number % 2:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.socket.close()
                peer.ended = "reset"
        rig.until(lambda: rig.turn() and rig.table.open_count == 0, 5)
        assert rig.device()


def test_a_pair_that_does_not_fit_is_named(tmp_path: Path) -> None:
    signer = Authority(tmp_path)
    (one, one_key), (_, other_key) = signer.pair("one"), signer.pair("other")
    with pytest.raises(ValueError, match=r"is not the key|OpenSSL can't use"):
        Context(one, other_key)
    with pytest.raises(ValueError, match=r"tls\.certificate"):
        Context(one_key, one_key)
    with pytest.raises(ValueError, match="minimum"):
        Context(one, one_key, "1.1")
