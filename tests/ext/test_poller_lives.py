"""Random lives of many sessions: whatever clients and Python do, each end is reported once and nothing is left."""

from __future__ import annotations

import random
import socket

import pytest

from tests.support.poller_rig import (
    CLOSE,
    CLOSING,
    JSON,
    MSGPACK,
    PING,
    PONG,
    READER,
    Peer,
    Rig,
    answer,
    command,
    frame,
    head,
    proposals,
)


class Lives:
    """A rig in which everybody acts at random, and what must hold meanwhile."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.peers: list[Peer] = []
        self.origins: set[int] = set()  # of sessions that said hello
        self.waiting: list[tuple[int, bytes]] = []

    def act(self) -> None:
        """One step of a client, of Python, or a round."""
        choose = self.random
        kind = choose.randrange(10)
        if kind == 0 and len(self.peers) < 24:
            self.peers.append(Peer(self.rig, choose.choice((MSGPACK, JSON)), choose.choice((0, 4_096))))
        elif kind < 6 and self.peers:
            self._client(choose.choice(self.peers))
        elif kind == 6 and self.origins:
            self._python(choose.choice(sorted(self.origins)))
        else:
            self._round()

    def _client(self, peer: Peer) -> None:
        choose, encoding = self.random, peer.encoding
        publish = command(encoding, "publish", counter=choose.randrange(99), conversation=5, payload=b"x" * 300)
        history, ping = command(encoding, "history"), command(encoding, "ping")
        many = (publish * 40, frame(b"z" * 90, PING) * 50, history + publish, frame(b"", PONG))
        data = choose.choice((publish, history, ping, *many))
        action = choose.randrange(60)
        if not peer.session:  # here: whether its handshake has been sent
            peer.session = 1
            beginning = head(encoding) + command(encoding, "hello", token="t")
            data = beginning if action else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        elif action == 0:
            data = choose.choice((choose.randbytes(40), frame((1000).to_bytes(2), CLOSE)))
        elif action == 1:
            data = data[: choose.randrange(len(data))]
        elif action == 2:
            if choose.random() < 0.5:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.socket.close()
            self.peers.remove(peer)
            return
        elif action < 15:
            peer.read(choose.choice((100, 1 << 20)))
            if peer.ended:
                peer.socket.close()
                self.peers.remove(peer)
            return
        try:
            peer.send(data)
        except ConnectionError:
            peer.socket.close()
            self.peers.remove(peer)

    def _python(self, origin: int) -> None:
        choose, poller = self.random, self.rig.poller
        action = choose.randrange(30)
        if action == 0:
            poller.close(origin, choose.choice((4000, 4500)), b"reason")
        elif action == 1:
            poller.abort(origin)
        elif action == 2:
            poller.extend(origin, choose.choice((0, 1, 2**40)))
        elif action < 18:
            poller.push(origin, b"p" * choose.choice((1, 500, 100_000)))
        elif action == 18:
            poller.begin_unanswered(origin, 5)
        else:
            poller.answer(answer(origin, choose.randrange(99)) * choose.randrange(3))

    def _round(self) -> None:
        rig, choose = self.rig, self.random
        batch = rig.turn(choose.choice((0, 100, 5_000)))
        self.waiting += batch.commands
        for session, origin in batch.closed:
            assert rig.table.state(session) == CLOSING and rig.table.origin(session) == origin
        for session, request in batch.requests:
            rig.poller.respond(session, b"HTTP/1.1 200 OK\r\n\r\n" + request)
        for session, _, _ in proposals(batch.proposals):
            assert rig.table.origin(session) in self.origins
        handled = self.waiting[: choose.randrange(len(self.waiting) + 1)]
        del self.waiting[: len(handled)]
        for session, body in handled:
            if b"hello" in body and rig.table.state(session) == 2:
                rig.poller.identify(session, choose.randrange(1, 6), session, choose.choice((0, 2**33)), READER)
                self.origins.add(rig.table.origin(session))
        rig.handle(handled)

    def finish(self) -> None:
        """Everybody goes; what must be so then."""
        rig = self.rig
        for peer in self.peers:
            peer.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        reported = [origin for _, origin in rig.closed]
        assert len(set(reported)) == len(reported) and self.origins <= set(reported)
        assert rig.table.held_buffers() == (0, 0) and rig.table.identified_count == 0
        assert all(rig.table.of_user(user) == [] for user in range(1, 6))
        counters = rig.poller.counters()
        assert counters["closed_sessions"] == counters["accepted_sessions"] == len(reported)
        assert counters["live_sessions"] == 0
        rig.quiet()
        assert not rig.ready(100)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_nothing_is_left(seed: int) -> None:
    options = {"close_timeout_ms": 20, "ping_interval_ms": 30, "idle_timeout_ms": 90, "slow_timeout_ms": 60}
    with Rig(16, 4_096, hello_timeout_ms=100, rate_burst=1_000, **options) as rig:
        rig.handles = False
        lives = Lives(rig, seed)
        for _ in range(1_500):
            lives.act()
        lives.finish()
