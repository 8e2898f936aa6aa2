"""A server that takes nobody in says so before the handshake of TLS, which is what costs it most.

Full, under load, or over an address's rate: an alert in answer to the first record, no OpenSSL. Going down it still
shakes hands: a balancer asks /readyz, and few connect.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ext.doorway import Doorway
from gateway.client import Client
from tests.support.certificates import Authority
from tests.support.poller_rig import Peer, head
from tests.support.tls_peer import TURNED_AWAY, SecurePeer, SecureRig, client_hello
from tests.tls.conftest import secured

ALERT = b"\x15\x03\x03\x00\x02\x02\x50"


def turned_away(rig: SecureRig) -> None:
    """A library's client is told, and the bytes are those of the page."""
    peer = SecurePeer(rig)
    peer.shake()
    assert peer.ended == "alert"
    bare = Peer(rig)
    bare.send(client_hello())
    rig.until(lambda: bare.read().ended)
    assert bare.data == ALERT and bare.ended == "end"


def heard(rig: SecureRig, peer: Peer) -> bool:
    """Answered natively, or given to Python."""
    return bool(peer.read().ended or rig.requests)


def test_a_full_server() -> None:
    with SecureRig(sessions_max=2, close_timeout_ms=50) as rig:
        kept = [rig.device(user=user) for user in (1, 2)]
        shaken = rig.poller.counters()["tls_handshakes"]
        turned_away(rig)
        counters = rig.poller.counters()
        assert (counters["refused_sessions"], counters["shed_connections"]) == (2, 0)
        assert counters["tls_handshakes"] == shaken and counters["tls_failures"] == 0
        kept[0].socket.close()
        rig.until(lambda: rig.turn() and rig.table.open_count == 1)
        assert rig.device(user=3)


def test_a_server_under_load() -> None:
    with SecureRig() as rig:
        kept = rig.device()
        late = SecurePeer(rig)
        late.shake()
        rig.poller.shed(True, True)
        turned_away(rig)
        assert rig.poller.counters()["shed_connections"] == 2
        late.send(head())  # its handshake is paid for: it is told in HTTP, with the time to come again
        rig.until(lambda: late.read().ended)
        assert late.data.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in late.data
        kept.command("ping")
        assert rig.until(kept.pushes)
        rig.poller.shed(False, False)
        assert rig.device(user=2)


def test_an_address_over_its_rate() -> None:
    with SecureRig(doorway=Doorway(connects_burst=1, connects_per_s=1)) as rig:
        rig.device()
        rig.poller.shed(True, False)
        turned_away(rig)
        assert rig.poller.counters()["address_limited_connections"] == 2


def test_a_server_that_goes_down_still_answers() -> None:
    with SecureRig() as rig:
        rig.poller.refuse()
        for request, answer in ((head(), b"HTTP/1.1 503 "), (b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", b"")):
            peer = SecurePeer(rig)
            peer.shake()
            peer.send(request)
            rig.until(partial(heard, rig, peer))
            assert peer.data.startswith(answer)
        assert len(rig.requests) == 1


def test_many_are_turned_away_for_less_than_few_are_let_in() -> None:
    """No timing: what is counted is the memory that OpenSSL takes, none, and the handshakes, none."""
    with SecureRig(sessions_max=1) as rig:
        rig.device()
        rig.quiet()
        before = rig.table.memory_bytes()
        hello = client_hello()
        crowd = [Peer(rig) for _ in range(200)]
        for peer in crowd:
            peer.send(hello)
        most = 0
        while not all(peer.ended for peer in crowd):
            rig.turn(100)
            most = max(most, rig.table.memory_bytes())
            for peer in crowd:
                peer.read()
        assert {peer.data for peer in crowd} == {ALERT} and most - before < 200 * 1_000
        assert rig.poller.counters()["tls_handshakes"] == 1


def test_the_client_comes_again(data: Path, signer: Authority, new_user: Callable[[], int]) -> None:
    """`gateway.client` takes the alert for a connection that failed: it waits, and is let in when there is a place."""

    async def work(url: str, token: Callable[[int], str]) -> None:
        one, two = new_user(), new_user()
        first = Client(url, token(one), 1, trust=signer.client())
        await first.connect()
        with pytest.raises(ssl.SSLError) as refused:
            await Client(url, token(two), 1, trust=signer.client()).connect(attempts=1)
        assert refused.value.reason == TURNED_AWAY
        second = Client(url, token(two), 1, trust=signer.client())
        waiting = asyncio.create_task(second.connect(attempts=20))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await first.close()
        await asyncio.wait_for(waiting, 20)
        await second.close()

    with secured(data, signer, **{"gateway.sessions_max": 1}) as gateway:
        asyncio.run(work(gateway.url, gateway.token))
