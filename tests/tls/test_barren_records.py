"""Records that cost time and hold not one byte for us: KeyUpdates, empty ones, warnings. They count as commands do.

Goal: what a client may make the loop do by them is bounded as by commands. Method: a client that seals its records by
hand; counters say how many the server has looked at.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.poller_rig import LIVE, PONG, frame, head
from tests.support.tls_forger import ALERT, HANDSHAKE, Forger
from tests.support.tls_peer import SecureRig

BARREN_MAX, BURST = 32, 20
ABUSE = 10 * BURST  # refused, beyond the burst
KINDS: dict[str, Callable[[Forger], bytes]] = {
    "KeyUpdate": lambda peer: peer.sealer.key_update(),
    "KeyUpdate that asks for one": lambda peer: peer.sealer.key_update(ask=True),
    "empty": lambda peer: peer.sealer.seal(b""),
    "empty, padded": lambda peer: peer.sealer.seal(b"", padding=9_000),
}


def forger(rig: SecureRig, receive_bytes: int = 0) -> Forger:
    """A session after its hello whose client can forge."""
    peer = Forger(rig, receive_bytes=receive_bytes)
    peer.send(head())
    rig.until(lambda: b"\r\n\r\n" in peer.read().data)
    peer.data = peer.data.partition(b"\r\n\r\n")[2]
    peer.command("hello", token="t")
    rig.until(lambda: rig.commands)
    peer.session = rig.commands.pop()[0]
    rig.poller.identify(peer.session, 7, 1, 0, LIVE)
    return peer


def upgraded(peer: Forger) -> bool:
    return b"101 Switching" in peer.read().data


def gone(peer: Forger) -> bool:
    return bool(peer.read().ended)


def alive(rig: SecureRig, peer: Forger) -> bool:
    peer.send(frame(b"?", 9))
    return rig.until(lambda: any(kind == PONG for kind, _ in peer.frames()) or peer.ended) is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_are_taken(kind: str) -> None:
    """As many as a client of good will may send, commands in between."""
    with SecureRig() as rig:
        peer = forger(rig)
        for count in (1, 2, BARREN_MAX - 1):
            peer.raw(b"".join(KINDS[kind](peer) for _ in range(count)))
            assert alive(rig, peer)
        assert rig.poller.counters()["rate_limited_commands"] == 0


@pytest.mark.parametrize("kind", ["KeyUpdate", "KeyUpdate that asks for one"])
def test_a_flood_at_once_ends_the_session(kind: str) -> None:
    """As fast as it comes: no more than one over the limit is looked at, and the others are served."""
    with SecureRig() as rig:
        good, peer = rig.device(), forger(rig)
        peer.raw(b"".join(KINDS[kind](peer) for _ in range(1_000)))
        rig.until(lambda: rig.closed)
        assert peer.close_code() == 4505
        good.command("ping")
        assert rig.until(good.pushes)
        rig.until(lambda: peer.read().ended)


def test_a_flood_of_empty_records_ends_the_session() -> None:
    """The same count of them is too much for the library as well: it says so by an alert."""
    with SecureRig() as rig:
        peer = forger(rig)
        peer.raw(b"".join(peer.sealer.seal(b"") for _ in range(1_000)))
        rig.until(lambda: rig.closed)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            rig.until(lambda: peer.read().ended)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_in_small_pieces_counts_as_commands_do(kind: str) -> None:
    """Few at a time, with a byte of a frame in between: the rate, then what is refused, then the end."""
    with SecureRig(rate_per_s=1, rate_burst=BURST) as rig:
        peer = forger(rig)
        sent = 0
        while not rig.closed:
            peer.raw(b"".join(KINDS[kind](peer) for _ in range(5)) + peer.sealer.seal(frame(b"", 10)))
            sent += 5
            rig.quiet()
            assert sent < 2 * ABUSE
        assert peer.close_code() == 4505
        limited = rig.poller.counters()["rate_limited_commands"]
        assert ABUSE <= limited <= ABUSE + 6 and sent < ABUSE + BURST


def test_before_the_upgrade_few_are_taken() -> None:
    for count in (BARREN_MAX, BARREN_MAX + 1):
        with SecureRig() as rig:
            peer = Forger(rig)
            for _ in range(count):
                peer.raw(peer.sealer.key_update())
                rig.turn()
            if count <= BARREN_MAX:
                peer.send(head())
                rig.until(partial(upgraded, peer))
            else:
                rig.until(partial(gone, peer))
                rig.quiet()
                assert rig.table.open_count == 0


def test_warnings_end_by_the_library() -> None:
    """TLS 1.3 has two alerts that are no end by themselves; a third kind, and a handshake once more, break the link."""
    with SecureRig() as rig:
        peer = forger(rig)
        for _ in range(5):
            peer.raw(peer.sealer.seal(b"\x01\x5a", ALERT))  # user_canceled
            rig.quiet()
        rig.until(lambda: rig.closed)
    with SecureRig() as rig:
        peer = forger(rig)
        peer.raw(peer.sealer.seal(b"\x01\x01\xff\xfc", HANDSHAKE))  # a ClientHello of 131,068 bytes
        rig.until(lambda: rig.closed)
        rig.quiet()
        assert rig.poller.counters()["tls_failures"] == 1


def test_who_asks_for_updates_and_reads_none_is_ended() -> None:
    """Each is answered by one of ours; what the socket doesn't take waits in the link, and that is bounded."""
    with SecureRig(send_bytes=4_096, rate_per_s=100_000, rate_burst=100_000) as rig:
        peer = forger(rig, receive_bytes=4_096)
        before = rig.table.memory_bytes()
        most = sent = 0
        while not rig.closed and sent < 100_000:
            peer.raw(b"".join(peer.sealer.key_update(ask=True) for _ in range(BARREN_MAX)))
            sent += BARREN_MAX
            rig.quiet(0)
            most = max(most, rig.table.memory_bytes() - before)
        assert rig.closed and most < 2 * 65_536
