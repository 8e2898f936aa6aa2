"""Before OpenSSL has a byte: what a client's first records may be, however they are cut.

Goal: nobody holds more memory than a handshake needs by what its headers claim. Method: the model against native code
over random streams, then real sockets: the alert that comes back, and what the table holds.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.tlsheaders import read_clear
from tests.support import naive_tls
from tests.support.naive_tls import MORE, OVERFLOW, TOO_LARGE, UNEXPECTED, VERSION, WHOLE
from tests.support.poller_rig import Peer
from tests.support.tls_peer import SecurePeer, SecureRig, client_hello


def record(body: bytes, kind: int = 22, version: int = 3) -> bytes:
    return bytes((kind, version, 1)) + len(body).to_bytes(2) + body


def message(size: int, kind: int = 1, come: int | None = None) -> bytes:
    """A handshake message that claims `size` bytes, of which `come` are there."""
    return bytes((kind,)) + size.to_bytes(3) + bytes(size if come is None else come)


def dust(data: bytes, size: int = 1) -> bytes:
    """The same bytes of the handshake in many small records."""
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))


def answered(peer: Peer) -> bool:
    """With more than an alert."""
    return len(peer.read().data) > 80


HELLO = record(message(200))
CASES = {
    "a ClientHello": (HELLO, WHOLE),
    "half of one": (HELLO[:100], MORE),
    "one of 16 KiB, in two records": (record(message(16_384)[:16_384]) + record(bytes(4)), WHOLE),
    "one byte more is claimed": (record(message(16_385, come=0)), TOO_LARGE),
    "131 KB are claimed": (record(message(131_068, come=0)), TOO_LARGE),
    "the same, a byte a record": (dust(message(131_068, come=0)), TOO_LARGE),
    "16 MB are claimed": (record(message(0xFFFFFF, come=0))[:7], TOO_LARGE),
    "a ClientHello in 200 records": (dust(message(196)), WHOLE),
    "... in more than 256": (dust(message(300)), UNEXPECTED),
    "an empty record": (record(b""), UNEXPECTED),
    "no ClientHello first": (record(message(10, 2)), UNEXPECTED),
    "application data first": (record(b"x", 23), UNEXPECTED),
    "an alert first": (record(b"\x02\x00", 21), UNEXPECTED),
    "the key exchange first": (record(message(10, 16)), UNEXPECTED),
    "no type of TLS": (b"\x18", UNEXPECTED),
    "SSL 2": (b"\x80\x2e\x01\x03\x01", UNEXPECTED),
    "version 2": (b"\x16\x02", VERSION),
    "a record over 16 KiB": (b"\x16\x03\x01\x40\x01", OVERFLOW),
    "data over 18 KiB": (HELLO + b"\x17\x03\x03\x48\x01", OVERFLOW),
    "a second ClientHello": (HELLO + record(b"\x01", 20) + HELLO, WHOLE),
    "a second one, too large, behind early data": (
        HELLO + record(bytes(50), 23) + record(message(99_999, come=0)),
        TOO_LARGE,
    ),
    "a third one": (HELLO * 3, UNEXPECTED),
    "TLS 1.2 to the end": (HELLO + record(message(66, 16)) + record(b"\x01", 20) + record(b"\x99" * 40), WHOLE),
    "another message of the clear": (HELLO + record(message(10, 11)), UNEXPECTED),
}


@pytest.mark.parametrize("name", CASES)
def test_cases_are_judged_the_same_in_any_pieces(name: str) -> None:
    data, verdict = CASES[name]
    assert naive_tls.read(data) == verdict
    for size in (1, 2, 3, 7, 1_000, 1 << 20):
        assert read_clear([data[at : at + size] for at in range(0, len(data), size)])[0] == verdict, size


PARTS = st.one_of(
    st.binary(max_size=12),
    st.builds(
        record,
        st.one_of(
            st.binary(max_size=40),
            st.builds(message, st.sampled_from((0, 1, 60, 16_384, 16_385, 65_536)), st.sampled_from((1, 1, 1, 16, 20))),
        ).map(lambda body: body[:16_390]),
        st.sampled_from((22, 22, 22, 22, 20, 21, 23, 24)),
        st.sampled_from((3, 3, 3, 3, 3, 2)),
    ),
    st.builds(dust, st.builds(message, st.sampled_from((1, 100, 254)), st.just(1)), st.integers(1, 5)),
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.booleans(), st.lists(PARTS, max_size=5), st.integers(1, 70))
def test_native_code_and_the_model_agree(begun: bool, parts: list[bytes], size: int) -> None:
    data = HELLO * begun + b"".join(parts)
    expected = naive_tls.read(data)
    assert read_clear([data])[0] == expected
    assert read_clear([data[at : at + size] for at in range(0, len(data), size)])[0] == expected


@pytest.mark.parametrize("name", [name for name, (data, verdict) in CASES.items() if verdict > WHOLE and data[0] == 22])
def test_what_is_refused_costs_nothing_and_is_told(name: str) -> None:
    data, verdict = CASES[name]  # those of another first byte: test_tls.py
    with SecureRig() as rig:
        peer = Peer(rig)
        peer.send(data)
        rig.until(lambda: peer.read() and peer.ended)
        rig.quiet()
        assert rig.table.open_count == 0 and rig.poller.counters()["tls_failures"] == 1
        if not data.startswith(HELLO):  # else OpenSSL has said something of its own before, or instead
            assert peer.data in (b"\x15\x03\x03\x00\x02\x02" + bytes((verdict,)), b"")  # a reset may overtake it


def test_nine_bytes_hold_no_memory() -> None:
    """The header of a ClientHello of 131,068 bytes, and nothing of it; then one of 512 bytes, which is waited for."""
    with SecureRig(sessions_max=64) as rig:
        rig.device()
        rig.quiet()
        before = rig.table.memory_bytes()
        peers = [Peer(rig) for _ in range(20)]
        for peer in peers:
            peer.send(record(message(131_068, come=0)))
        rig.until(lambda: all(peer.read().ended for peer in peers))
        rig.quiet()
        assert rig.table.open_count == 1 and rig.table.memory_bytes() < before + 20 * 250
        Peer(rig).send(record(message(512, come=0)))
        rig.quiet()
        assert rig.table.open_count == 2


def test_the_second_client_hello_is_judged_too() -> None:
    """A client that offers a key of a group that the server has none of is asked for another ClientHello."""
    hello = client_hello()
    place = hello.index(b"\x00\x1d\x00\x20")  # its share: X25519, 32 bytes
    for size, ends in ((131_068, True), (512, False)):
        with SecureRig() as rig:
            peer = Peer(rig)
            peer.send(hello[:place] + b"\x01\x00" + hello[place + 2 :])
            rig.until(partial(answered, peer))
            assert peer.data[5] == 2 and b"\x00\x33\x00\x02\x00" in peer.data, "no HelloRetryRequest"
            peer.send(record(b"\x01", 20) + record(message(size, come=0)))
            rig.quiet()
            assert bool(peer.read().ended) == ends and rig.table.open_count == (not ends)


def test_real_clients_pass() -> None:
    """Whole, in dust of records, and with TLS 1.2 where that is allowed (test_tls.py)."""
    with SecureRig() as rig:
        peer = SecurePeer(rig)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer.outgoing.read()
        pieces = dust(hello[5:], 11)
        assert pieces.count(b"\x16\x03\x01\x00\x0b") > 20
        peer.outgoing.write(pieces)
        peer.pump()
        peer.shake()
        assert peer.tls.version() == "TLSv1.3"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here: apt-get install openssl")
@pytest.mark.parametrize("more", [(), ("-groups", "P-521:X25519"), ("-groups", "P-521:P-256", "-no_middlebox")])
def test_a_client_that_is_asked_for_a_second_hello_passes(more: tuple[str, ...]) -> None:
    """Its first share is of a group that the server doesn't have; CCS in between or not."""
    with SecureRig() as rig:
        target = f"127.0.0.1:{rig.address[1]}"
        command = ["openssl", "s_client", "-connect", target, "-quiet", "-no_ign_eof", *more]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            assert client.stdin is not None
            client.stdin.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            client.stdin.flush()
            rig.until(lambda: rig.requests, 10)
            client.kill()
        assert rig.poller.counters()["tls_handshakes"] == 1 and rig.poller.counters()["tls_failures"] == 0
