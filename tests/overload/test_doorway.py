"""Admission of connections: half-open ones are bounded, in all and for each address, without harm to the honest."""

from __future__ import annotations

import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.doorway import Doorway
from tests.support.poller_rig import Peer, Rig, command, head

LOCAL = bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.1")


def silent(rig: Rig, count: int) -> list[Peer]:
    """Connections that say nothing, taken in by the poller in this order."""
    peers = []
    for _ in range(count):
        peers.append(Peer(rig))
        come_in(rig)
    return peers


def come_in(rig: Rig) -> None:
    """Rounds until one more connection has come in, for whoever went."""

    def so_far() -> int:
        return rig.poller.counters()["put_out_connections"] + rig.table.open_count

    before = so_far()
    rig.until(lambda: rig.turn() and so_far() > before)


def ended(rig: Rig, peer: Peer) -> None:
    """Rounds until the connection is closed from our side."""
    rig.until(lambda: peer.read().ended)


def test_who_has_waited_longest_without_a_word_is_put_out() -> None:
    """A full doorway never keeps out who comes, nor puts out who has said hello."""
    doorway = Doorway(places_max=4)
    with Rig(doorway=doorway) as rig:
        honest = rig.upgraded()
        rig.handles = False  # its hello waits for Python
        honest.command("hello", token="t")
        rig.until(lambda: rig.commands)
        peers = silent(rig, 5)
        rig.until(lambda: all(peer.read().ended for peer in peers[:2]))
        rig.quiet()
        assert not honest.read().ended and not any(peer.read().ended for peer in peers[2:])
        assert doorway.count() == 4 and rig.poller.counters()["put_out_connections"] == 2
        rig.poller.identify(rig.commands[0][0], 7, 1, 0, 3)
        assert doorway.count() == 3


def test_sessions_after_hello_do_not_count_against_their_address() -> None:
    """Hundreds of people behind one address, one slow stranger among them."""
    doorway = Doorway(address_max=3, connects_burst=1, connects_per_s=1)
    with Rig(sessions_max=200, doorway=doorway) as rig:
        people = [rig.device(user=user) for user in range(1, 101)]
        strangers = silent(rig, 5)
        rig.until(lambda: strangers[0].read().ended and strangers[1].read().ended)
        late = rig.device(user=500)
        assert not any(person.read().ended for person in (*people, late))
        assert doorway.count() == doorway.count_of(LOCAL) == 2  # of the strangers: one made way for the late one
        for peer in strangers:
            peer.socket.close()
        rig.until(lambda: doorway.count() == 0)


def test_an_address_over_its_rate_is_refused_only_under_pressure() -> None:
    doorway = Doorway(connects_burst=2, connects_per_s=1)
    with Rig(doorway=doorway) as rig:
        for user in range(1, 5):
            rig.device(user=user)
        rig.poller.shed(True, False)
        peer = Peer(rig)
        peer.send(head())
        ended(rig, peer)
        assert peer.data.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in peer.data
        assert rig.poller.counters()["address_limited_connections"] == 1
        rig.poller.shed(False, False)
        rig.device(user=9)


def test_bad_tokens_count_strongly() -> None:
    doorway = Doorway(connects_burst=10, connects_per_s=1, failed_cost=8)
    with Rig(doorway=doorway) as rig:
        rig.poller.shed(True, False)
        peer = rig.upgraded()
        peer.command("hello", token="bad")
        rig.until(lambda: rig.commands)
        rig.poller.failed_hello(rig.commands[0][0])
        rig.upgraded()
        late = Peer(rig)
        late.send(head())
        ended(rig, late)
        assert late.data.startswith(b"HTTP/1.1 503 ")


def test_a_head_that_trickles_has_no_more_time_than_one_that_does_not_come() -> None:
    """Slowloris in the handshake, and byte by byte in hello: the clock runs from the connect."""
    with Rig(hello_timeout_ms=300) as rig:
        slow, hello = Peer(rig), rig.upgraded()
        began = time.monotonic()
        rest = [iter(head()), iter(command("msgpack", "hello", token="t" * 4_000))]

        def trickle() -> bool:
            for peer, data in zip((slow, hello), rest, strict=True):
                try:
                    peer.send(bytes([next(data)]))
                except OSError:
                    pass
            time.sleep(0.005)
            return bool(slow.read().ended) and hello.close_code() == 4005

        rig.until(trickle)
        assert time.monotonic() - began < 10  # all bytes would take 20 s


def test_ten_thousand_half_open_handshakes_take_no_more_than_was_set_aside() -> None:
    """In waves, for descriptors are few: the doorway stays at its limit, and an honest client gets in at once."""
    doorway = Doorway(places_max=256, address_max=128)
    with Rig(sessions_max=2_000, doorway=doorway) as rig:
        bytes_before = 0
        for wave in range(20):
            crowd = []
            for _ in range(500):
                half = socket.socket()
                half.setblocking(False)
                half.connect_ex(rig.address)
                crowd.append(half)
            rig.until(lambda: (rig.turn(), not rig.ready(1))[1])
            assert doorway.count() <= 128 + 1 and rig.table.open_count <= 200
            if wave == 2:
                bytes_before = rig.table.memory_bytes()
            rig.device(user=wave + 1)
            for half in crowd:
                half.close()
        rig.quiet()
        assert rig.table.memory_bytes() < bytes_before + 100_000
        assert rig.poller.counters()["put_out_connections"] > 5_000


def test_503_hints_are_spread() -> None:
    with Rig() as rig:
        rig.poller.shed(True, True)
        hints = set()
        for _ in range(40):
            peer = Peer(rig)
            peer.send(head())
            ended(rig, peer)
            hints.add(int(peer.data.split(b"Retry-After: ")[1].split(b"\r")[0]))
        assert len(hints) > 5 and min(hints) >= 5 and max(hints) <= 15
        assert rig.poller.counters()["shed_connections"] == 40
        rig.poller.shed(False, False)
        rig.upgraded()


@settings(derandomize=True, max_examples=60, deadline=None)
@given(steps=st.lists(st.integers(0, 5), max_size=60))
def test_the_books_agree_with_what_is_there(steps: list[int]) -> None:
    """Connects, handshakes, hellos, ends in any order: what is counted is what has not said hello."""
    doorway = Doorway(places_max=6, address_max=4)
    with Rig(doorway=doorway) as rig:
        known: list[Peer] = []
        unknown: list[Peer] = []
        for step in steps:
            if step <= 2:
                unknown += silent(rig, 1)
            elif step == 3 and unknown:
                unknown.pop(0).socket.close()
                rig.quiet()
            elif step == 4:
                known.append(rig.device(user=len(known) + 1))
            elif known:
                known.pop().socket.close()
                rig.quiet()
            unknown = [peer for peer in unknown if peer.socket.fileno() >= 0 and not peer.read().ended]
            assert doorway.count() == doorway.count_of(LOCAL) == len(unknown) <= 4
        for peer in (*known, *unknown):
            peer.socket.close()
        rig.until(lambda: rig.turn() and doorway.count() == 0)


def test_limits_that_can_not_be() -> None:
    for wrong in ({"places_max": 0}, {"address_max": 0}, {"connects_burst": 0}, {"addresses_max": 1}):
        with pytest.raises(ValueError):
            Doorway(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        Doorway(proxies=[])
    with pytest.raises(ValueError):
        Doorway(proxies=[(b"1234", 8)])
