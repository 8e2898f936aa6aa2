"""PROXY protocol: the native parser against a naive one, whole, cut anywhere, and with wrong bytes; then on sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from ext.doorway import Doorway
from ext.proxied import read_header
from tests.support import naive_proxied as naive
from tests.support.poller_rig import Peer, Rig, head
from tests.support.tls_peer import SecurePeer, SecureRig

LOOPBACK = [(bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 0]), 96 + 8)]

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str) | st.sampled_from(["::", "::1", "::ffff:1.2.3.4", "1::2::3", "::g", "1:2"])
odd = st.sampled_from(["", "01.2.3.4", "1.2.3", "256.1.1.1", "1.2.3.4.5", "a", "fe80::1%eth0", "1" * 40])
port = st.integers(0, 70_000).map(str) | st.sampled_from(["", "00", "-1", "+1", "1a"])
text = st.builds(
    lambda parts, gap, end: ("PROXY " + gap.join(parts)).encode() + end,
    st.tuples(st.sampled_from(["TCP4", "TCP6", "TCP5", "tcp4"]), ipv4 | ipv6 | odd, ipv4 | ipv6 | odd, port, port),
    st.sampled_from([" "] * 8 + ["  ", "\t"]),
    st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n", b" \r\n"]),
) | st.sampled_from(
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN what ever\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN" + b" x" * 60 + b"\r\n",
    ]
)
binary = st.builds(
    lambda command, family, length, body: (
        naive.SIGNATURE
        + bytes([command, family])
        + (length if length is not None else len(body)).to_bytes(2, "big")
        + body
    ),
    st.sampled_from([0x20, 0x21] * 4 + [0x10, 0x22]),
    st.sampled_from([0x00, 0x11, 0x21, 0x31] * 3 + [0x12, 0x22, 0x32, 0x41]),
    st.none() | st.integers(0, 65_535),
    st.binary(max_size=300),
)


@settings(derandomize=True, max_examples=1_500, deadline=None)
@given(header=text | binary, behind=st.binary(max_size=20))
def test_whole_headers_are_read_as_the_specification_says(header: bytes, behind: bytes) -> None:
    data = header + behind
    expected = naive.read(data)
    found = read_header(data)
    if expected[0] == naive.MORE:  # the naive one never gives up early
        assert found[0] in (naive.MORE, naive.BAD), data
    elif expected[0] == naive.BAD:
        assert found[0] == naive.BAD, data
    else:
        assert found == expected, data


@settings(derandomize=True, max_examples=300, deadline=None)
@given(header=text | binary)
def test_every_prefix_of_a_good_header_asks_for_more_and_a_bad_one_never_gets_good(header: bytes) -> None:
    verdict, size, _, _ = read_header(header)
    for cut in range(min(size if verdict == naive.DONE else len(header), 400)):
        found = read_header(header[:cut])[0]
        assert found == naive.MORE if verdict == naive.DONE else found != naive.DONE, header[:cut]


def ended(rig: Rig, peer: Peer) -> None:
    """Rounds until the connection is closed from our side."""
    rig.until(lambda: peer.read().ended)


def answered(rig: Rig, peer: Peer) -> None:
    """Rounds until the handshake has its answer."""
    rig.until(lambda: peer.read() and b"\r\n\r\n" in peer.data)


def proxied_rig(**doorway: object) -> Rig:
    return Rig(doorway=Doorway(proxies=LOOPBACK, **doorway))  # type: ignore[arg-type]


def v2(address: str, command: int = 0x21, more: bytes = b"") -> bytes:
    """A header of version 2 that brings this address."""
    packed = ipaddress.ip_address(address).packed
    body = packed + packed + b"\0\1\0\2" + more
    family = 0x11 if len(packed) == 4 else 0x21
    return naive.SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def test_headers_and_what_follows_arrive_in_any_pieces() -> None:
    """Byte by byte, and all at once with the handshake behind it: no byte of the client's is lost or taken twice."""
    for header in (
        b"PROXY TCP4 198.51.100.7 10.0.0.1 5 443\r\n",
        v2("2001:db8::7", more=b"\x04\0\3abc"),
        v2("192.0.2.9"),
    ):
        for step in (1, 7, 10_000):
            with proxied_rig() as rig:
                peer = Peer(rig)
                data = header + head()
                for at in range(0, len(data), step):
                    peer.send(data[at : at + step])
                    rig.turn()
                answered(rig, peer)
                assert peer.data.startswith(b"HTTP/1.1 101 ")


def test_bad_headers_and_strangers_are_closed_and_counted() -> None:
    with proxied_rig() as rig:
        for bad in (b"GET / HTTP/1.1\r\n", b"PROXY TCP4 1.2.3.4\r\n", naive.SIGNATURE + b"\x31", b"\x16\x03\x01"):
            peer = Peer(rig)
            peer.send(bad)
            ended(rig, peer)
            assert peer.data == b""
        assert rig.poller.counters()["bad_proxy_headers"] == 4
    with Rig(doorway=Doorway(proxies=[(ipaddress.ip_address("2001:db8::").packed, 32)])) as rig:
        peer = Peer(rig)
        ended(rig, peer)
        assert rig.poller.counters()["untrusted_connections"] == 1


def test_a_header_that_does_not_end_is_ended_in_time() -> None:
    """However steadily its additions trickle; what is kept of it meanwhile is bounded by what a header may be."""
    header = iter(v2("192.0.2.1", more=bytes(4_000)))
    with Rig(doorway=Doorway(proxies=LOOPBACK), hello_timeout_ms=150) as rig:
        peer = Peer(rig)

        def trickle() -> str:
            with contextlib.suppress(OSError):
                peer.send(bytes([next(header)]))
            time.sleep(0.001)
            assert rig.table.memory_bytes() < 20_000
            return peer.read().ended

        rig.until(trickle)
        assert next(header, None) is not None, "the time came before the end"


def test_addresses_are_those_that_the_proxy_names() -> None:
    """Two behind one proxy are two addresses, two of one /64 one; LOCAL and UNKNOWN count for none."""
    doorway = Doorway(proxies=LOOPBACK)
    with Rig(doorway=doorway) as rig:
        for header in (
            v2("192.0.2.1"),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5 443\r\n",
            v2("2001:db8:0:7::1"),
            v2("2001:db8:0:7:ffff::2"),
            v2("192.0.2.1", command=0x20),
            b"PROXY UNKNOWN\r\n",
        ):
            Peer(rig).send(header)
        rig.until(lambda: doorway.count() == 6)
        rig.quiet()
        mapped = bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.1")
        assert doorway.count_of(mapped) == 2
        assert doorway.count_of(ipaddress.ip_address("2001:db8:0:7::abcd").packed) == 2
        assert doorway.count_of(ipaddress.ip_address("2001:db8:0:8::abcd").packed) == 0


def test_the_header_comes_before_tls() -> None:
    """In the clear, from the balancer; what follows it is the client's TLS, of which no byte is taken with it."""
    doorway = Doorway(proxies=LOOPBACK)
    with SecureRig(doorway=doorway) as rig:
        for pieces in (1, 7, 1 << 30):
            peer = SecurePeer(rig, pieces=pieces)
            peer.kept = v2("192.0.2.1", more=b"\x04\0\3abc")
            peer.shake()
            peer.send(head())
            answered(rig, peer)
            assert peer.data.startswith(b"HTTP/1.1 101 ")
        mapped = bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.1")
        assert doorway.count_of(mapped) == 3
        inside = SecurePeer(rig)
        inside.socket.send(b"\x16\x03\x01")
        ended(rig, inside)
        assert rig.poller.counters()["bad_proxy_headers"] == 1
