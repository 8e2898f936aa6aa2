"""The memory that all sessions share for what is not whole and not taken: nobody takes it all, nobody finds none."""

from __future__ import annotations

from tests.support.poller_rig import CLOSE, MSGPACK, Peer, Rig, frame, message, proposals

SHARED = 1 << 20
OVERLOADED = (4004).to_bytes(2) + b"overloaded"
BODY = message(MSGPACK, "publish", counter=1, conversation=5, payload=b"x" * 20_000)


def begun(rig: Rig, user: int, size: int) -> Peer:
    """A device that has sent so much of a message that never ends."""
    peer = rig.device(user=user)
    left = frame(b"z" * (size + 1_000))[:size]
    while left:
        left = left[peer.send(left) :]
        rig.quiet()
    return peer


def test_messages_that_are_not_whole_stay_within_what_all_may_hold() -> None:
    """Those who would hold more than an eighth of the rest are closed with 4004; the others lose nothing."""
    with Rig(buffers_bytes_max=SHARED) as rig:
        small = [begun(rig, user, 2_000) for user in range(1, 20)]
        large = [begun(rig, user, 80_000) for user in range(100, 130)]
        assert rig.table.buffers_bytes <= SHARED
        ended = [peer for peer in large if (CLOSE, OVERLOADED) in peer.read().frames()]
        assert 10 < len(ended) < len(large) and rig.poller.counters()["overfull_sessions"] == len(ended)
        late = rig.device(user=50)
        whole = frame(BODY)
        for start in range(0, len(whole), 5_000):
            late.send(whole[start : start + 5_000])
            rig.quiet()
        assert [found[0] for found in proposals(rig.proposals)] == [late.session]
        assert not any(peer.read().ended for peer in small)


def test_output_that_is_not_taken_stays_within_what_all_may_hold() -> None:
    """A session that reads nothing is cut off at the push that would take it beyond, and its memory is free at once."""
    with Rig(buffers_bytes_max=SHARED, send_bytes=4_096) as rig:
        deaf = [rig.device(user=user, receive_bytes=4_096) for user in range(1, 9)]
        reads = rig.device(user=20)
        for _ in range(200):
            for peer in deaf:
                rig.poller.push(peer.session, b"y" * 10_000)
                assert rig.table.buffers_bytes <= SHARED
            rig.poller.push(reads.session, b"y" * 100)
            rig.quiet()
            reads.read()
        assert rig.poller.counters()["overfull_sessions"] == len(deaf)
        assert not reads.ended and rig.table.buffers_bytes < 10_000


def test_what_is_weighed_is_what_is_held() -> None:
    """After much coming and going the sum is that of the buffers themselves."""
    with Rig(sessions_max=64, send_bytes=4_096) as rig:
        empty = rig.table.memory_bytes()
        peers = [rig.device(user=user, receive_bytes=4_096) for user in range(1, 30)]
        idle = rig.table.memory_bytes()
        for turn in range(20):
            for number, peer in enumerate(peers):
                if number % 3 == 0:
                    peer.send(frame(b"z" * 50_000)[: 500 * (turn + 1)])
                elif number % 3 == 1:
                    rig.poller.push(peer.session, b"y" * 3_000)
                else:
                    peer.command("ping", id=turn)
            rig.quiet()
            assert rig.table.memory_bytes() - idle == rig.table.buffers_bytes
        assert rig.table.buffers_bytes > 100_000 and idle >= empty
        for peer in peers:
            peer.socket.close()
        rig.quiet()
        rig.turn()
        assert rig.table.buffers_bytes == 0
