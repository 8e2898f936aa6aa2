"""The written sum of memory against the heap: what the table says that sessions with TLS hold is what they hold.

Method: many connections in the same phase, malloc's own count before and after. The table may say more, never less: it
is what an operator reckons with.
"""

from __future__ import annotations

import gc
import re
import ssl
from collections.abc import Callable

import pytest

from tests.support.gateway import ROOT
from tests.support.held_memory import heap_bytes
from tests.support.poller_rig import LIVE, Peer
from tests.support.tls_peer import SecureRig, client_hello

COUNT = 20
UNFINISHED = b"\x17\x03\x03\x40\x00" + bytes(16_000)  # of a record of 16 KiB
RECORD = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(16_384 - 26)
PHASES: dict[str, Callable[[], bytes]] = {
    "a byte": lambda: b"\x16",
    "the head of a record": lambda: client_hello()[:5],
    "half a ClientHello": lambda: client_hello()[:200],
    "a ClientHello of 16 KiB but its end": lambda: RECORD,
    "a whole ClientHello": client_hello,
    "... and most of a record": lambda: client_hello() + UNFINISHED,
}


def written_bytes() -> int:
    """What SECURITY.md says that a connection holds until its handshake has ended."""
    found = re.search(r"TLS has ended a connection holds up to (\d+) KB", (ROOT / "SECURITY.md").read_text())
    assert found is not None
    return int(found[1]) * 1_000


@pytest.fixture
def in_use() -> Callable[[], int]:
    found = heap_bytes()
    if found is None:
        pytest.skip("this heap doesn't count")
    return found


@pytest.mark.parametrize("phase", PHASES)
def test_a_handshake_that_is_left_holds_what_is_written(phase: str, in_use: Callable[[], int]) -> None:
    data = PHASES[phase]()
    with SecureRig(sessions_max=2 * COUNT) as rig:
        rig.device()
        peers = [Peer(rig) for _ in range(COUNT)]
        rig.quiet()
        gc.collect()
        heap, said = in_use(), rig.table.memory_bytes()
        for peer in peers:
            Peer.send(peer, data)
        rig.quiet(5)
        heap, said = in_use() - heap, rig.table.memory_bytes() - said
        assert rig.table.open_count == COUNT + 1 and rig.poller.counters()["tls_failures"] == 0
        assert heap <= said <= 2 * heap + 1_000 * COUNT, (heap // COUNT, said // COUNT)
        assert said <= written_bytes() * COUNT, "SECURITY.md says less"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("more", [b"", UNFINISHED[:1], UNFINISHED])
def test_a_session_at_rest_and_in_a_record_holds_what_is_written(
    more: bytes, version: ssl.TLSVersion, in_use: Callable[[], int]
) -> None:
    with SecureRig(sessions_max=2 * COUNT) as rig:
        rig.use_only(version)
        rig.device()
        peers = [rig.device(user=2, state=LIVE) for _ in range(COUNT)]
        for peer in peers:
            Peer.send(peer, more)
        rig.quiet(5)
        gc.collect()
        heap, said = in_use(), rig.table.memory_bytes()
        for peer in peers:
            rig.poller.abort(peer.session)
        rig.turn()
        rig.turn()
        heap, said = heap - in_use(), said - rig.table.memory_bytes()
        assert rig.table.open_count == 1 and heap <= said <= 2 * heap, (heap // COUNT, said // COUNT)
