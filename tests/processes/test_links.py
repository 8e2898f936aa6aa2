"""Links between workers and the sequencer's process: whose answers are whose, what is said on the way, how they end."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine import link, schema
from engine.answers import Answer, pack_proposal, unpack_answers
from engine.errors import APPENDED, BAD_TYPE, OVERLOADED, REPEAT, UNAVAILABLE
from engine.follower import Follower, SequencerAway, Status
from engine.link import ANSWERS, COMMITTED, COMMITTED_BODY, HEADER, NOTE, PROPOSALS, SIGNAL, STATUS
from tests.support.processes import Peer, SequencerProcess, config_of


@pytest.fixture
def sequencer(tmp_path: Path) -> Iterator[SequencerProcess]:
    started = SequencerProcess(config_of(tmp_path))
    yield started
    started.close()


def say(user: int, counter: int, origin: int = 7, payload: bytes = b"x") -> bytes:
    return pack_proposal(user, 1, counter, user + 1, "message", payload, person=True, origin=origin)


def test_answers_find_the_link_that_the_proposal_came_by(sequencer: SequencerProcess) -> None:
    """K1."""
    peers = [Peer(sequencer.link()) for _ in range(3)]
    for at, peer in enumerate(peers):  # the same origin on each
        peer.send(PROPOSALS, b"".join(say(10 * at + 1, counter, origin=99) for counter in (1, 2)))
    for at, peer in enumerate(peers):
        got = peer.answers(2)
        assert [(one.origin, one.counter, one.status) for one in got] == [(99, 1, APPENDED), (99, 2, APPENDED)]
        peer.send(PROPOSALS, say(10 * at + 1, 1, origin=99))
        assert peer.answers(1)[0] == got[0]._replace(status=REPEAT)


def test_a_wake_up_says_how_far_the_log_is_and_comes_after_the_answers(sequencer: SequencerProcess) -> None:
    """K2, K3."""
    peer, other = Peer(sequencer.link()), Peer(sequencer.link())
    for each in (peer, other):
        assert COMMITTED_BODY.unpack(each.take(COMMITTED))[0] == 0
    peer.send(PROPOSALS, say(1, 1))
    receipt = peer.answers(1)[0]
    for each in (peer, other):
        sequence, commits, sync_ns = COMMITTED_BODY.unpack(each.take(COMMITTED))
        assert sequence >= receipt.sequence
        assert commits >= 1
        assert sync_ns > 0


def test_notes_have_one_order_for_all_and_signals_are_for_the_others(sequencer: SequencerProcess) -> None:
    """K5."""
    peers = [Peer(sequencer.link()) for _ in range(3)]
    for peer in peers:
        peer.take(COMMITTED)  # the hub has seen all of them now
    for number in range(20):
        peers[number % 3].send(NOTE, bytes([number]))
    heard = [[peer.take(NOTE) for _ in range(20)] for peer in peers]
    orders = [[note[1:] for note in notes] for notes in heard]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == [bytes([number]) for number in range(20)]
    for at, notes in enumerate(heard):
        assert [note[0] for note in notes] == [int(note[1] % 3 == at) for note in notes]
    peers[0].send(SIGNAL, b"typing")
    assert [peer.take(SIGNAL) for peer in peers[1:]] == [b"typing"] * 2
    peers[1].send(SIGNAL, b"back")
    assert peers[0].take(SIGNAL) == b"back"  # and not its own before that


def test_a_worker_that_dies_takes_no_answer_of_another_and_its_publishes_stand(sequencer: SequencerProcess) -> None:
    """K8."""
    dying, other = Peer(sequencer.link()), Peer(sequencer.link())
    dying.send(PROPOSALS, b"".join(say(1, counter) for counter in range(1, 50)))
    dying.link.close()
    other.send(PROPOSALS, say(11, 1, origin=5))
    assert [one.origin for one in other.answers(1)] == [5]
    again = Peer(sequencer.link())
    again.send(PROPOSALS, b"".join(say(1, counter, origin=6) for counter in range(1, 50)))
    statuses = [one.status for one in again.answers(49)]
    assert statuses in ([REPEAT] * 49, [APPENDED] * 49)  # a batch is read whole or not at all


@pytest.mark.parametrize(
    "frame",
    [
        HEADER.pack(0, 9, 0),
        HEADER.pack(0, 0, 0),
        HEADER.pack(1 << 29, PROPOSALS, 0),
        HEADER.pack(0, PROPOSALS, 1),
        HEADER.pack(3, PROPOSALS, 0) + b"abc",
        HEADER.pack(len(say(1, 1, origin=0)), PROPOSALS, 0) + say(1, 1, origin=0),
        HEADER.pack(24, COMMITTED, 0) + bytes(24),
    ],
    ids=["kind 9", "kind 0", "too long", "not zero", "no proposal", "no origin", "wrong way"],
)
def test_what_is_no_frame_ends_that_link_alone(sequencer: SequencerProcess, frame: bytes) -> None:
    """K6."""
    end, other = sequencer.link(), Peer(sequencer.link())
    end.sendall(HEADER.pack(0, PROPOSALS, 0) + frame)
    assert Peer(end).is_over()
    other.send(PROPOSALS, say(1, 1))
    assert other.answers(1)[0].status == APPENDED


def page_bytes(name: str) -> bytes:
    """An annotated block of LINK_FORMAT.md."""
    page = (Path(link.__file__).parent / "LINK_FORMAT.md").read_text(encoding="utf-8")
    block = page.split(f"```{name}\n")[1].split("```")[0]
    return b"".join(bytes.fromhex(line[:28]) for line in block.splitlines())


def test_the_page_shows_the_bytes(sequencer: SequencerProcess) -> None:
    frame = page_bytes("proposals")
    batch = pack_proposal(5, 1, 1, 6, "message", b"\xc4\x03\x0ahi", origin=1 << 32 | 1, person=True)
    assert frame == HEADER.pack(len(batch), PROPOSALS, 0) + batch
    end = sequencer.link()
    end.sendall(frame)
    peer = Peer(end)
    assert COMMITTED_BODY.unpack(peer.take(COMMITTED))[0] == 0
    receipt = peer.answers(1)[0]
    assert (receipt.origin, receipt.status, receipt.sequence) == (1 << 32 | 1, APPENDED, 2)
    found = COMMITTED_BODY.unpack(peer.take(COMMITTED))
    assert page_bytes("committed") == HEADER.pack(24, COMMITTED, 0) + COMMITTED_BODY.pack(*found[:2], 1_000_000)


def test_the_page_lists_the_kinds() -> None:
    page = (Path(link.__file__).parent / "LINK_FORMAT.md").read_text(encoding="utf-8")
    for kind in link.KINDS:
        name = next(name for name, value in vars(link).items() if name.isupper() and value == kind and name != "KINDS")
        assert f"| {kind} | {name} |" in page


def test_a_frame_may_come_byte_by_byte(sequencer: SequencerProcess) -> None:
    end = sequencer.link()
    batch = say(1, 1)
    for byte in HEADER.pack(len(batch), PROPOSALS, 0) + batch:
        end.sendall(bytes([byte]))
    assert Peer(end).answers(1)[0].status == APPENDED


def test_a_full_intake_is_answered_at_once(tmp_path: Path) -> None:
    """K7."""
    sequencer = SequencerProcess(config_of(tmp_path, log={"intake_bytes_max": 1 << 17}))
    try:
        peer = Peer(sequencer.link())
        batches = [
            b"".join(say(user, counter, payload=bytes(40_000)) for counter in (1, 2, 3)) for user in range(1, 400, 2)
        ]
        for batch in batches:
            peer.link.send(PROPOSALS, batch)
        got: list[Answer] = []
        while len(got) < 3 * len(batches):
            peer.link.flush()
            got += peer.answers(1)
        statuses = {one.status for one in got}
        assert statuses == {APPENDED, OVERLOADED}
        assert all(200 <= one.extra <= 600 for one in got if one.status == OVERLOADED)
    finally:
        sequencer.close()


def test_what_waits_takes_little_more_memory_than_its_bytes_and_arrives_whole() -> None:
    """K7 counts bytes of frames: small ones must not cost many times as much."""
    near, far = socket.socketpair()
    sender, receiver = link.Link(near), link.Link(far)
    bodies = [bytes([at % 251]) * (at * 7 % 61 if at % 500 else 2 * link.GATHERED_BYTES) for at in range(20_000)]
    tracemalloc.start()
    for body in bodies:
        sender.send(NOTE, body)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert sender.waiting_bytes > 1 << 20
    assert held < 2 * sender.waiting_bytes
    got: list[link.Frame] = []
    while len(got) < len(bodies):
        got += receiver.receive() or []
        sender.flush()
    assert got == [(NOTE, body) for body in bodies]
    assert sender.waiting_bytes == 0
    sender.close()
    receiver.close()


def test_whoever_takes_nothing_is_not_read_and_hinders_nobody(sequencer: SequencerProcess) -> None:
    """K7."""
    deaf, other = sequencer.link(), Peer(sequencer.link())
    deaf.setblocking(False)
    batch = b"".join(say(1, counter) for counter in range(1, 65))
    frame = HEADER.pack(len(batch), PROPOSALS, 0) + batch
    sent = 0
    with pytest.raises(BlockingIOError):  # its answers pile up, so the hub stops reading it
        while sent < 1 << 28:
            sent += deaf.send(frame[sent % len(frame) :])
    for counter in range(1, 20):
        other.send(PROPOSALS, say(101, counter))
        assert other.answers(1)[0].status == APPENDED
    deaf.close()


def test_the_end_is_in_order(sequencer: SequencerProcess) -> None:
    peer = Peer(sequencer.link())
    peer.send(PROPOSALS, b"".join(say(1, counter) for counter in range(1, 60)))
    assert len(peer.answers(59)) == 59
    assert sequencer.stop() == 0
    assert peer.is_over()


def test_a_follower_tells_the_engines_own_events(sequencer: SequencerProcess, tmp_path: Path) -> None:
    """K4: none has a counter, so that each answer is found by its origin; the last one is refused."""
    answers: list[Answer] = []
    payload = schema.pack(schema.SubscriptionPaused("mail"))

    def tell(origin: int, type_name: str = schema.SUBSCRIPTION_PAUSED) -> bytes:
        return pack_proposal(7, 0, 0, 0, type_name, payload, origin=origin, system=True)

    async def story() -> None:
        follower = Follower.open(tmp_path, shard=0, wake=lambda data: answers.extend(unpack_answers(data or b"")))
        assert follower.submit(tell(1) + tell(2))
        assert [(one.origin, one.status) for one in answers] == [(1, UNAVAILABLE), (2, UNAVAILABLE)]
        answers.clear()
        follower.join(asyncio.get_running_loop(), sequencer.link())
        follower.submit(b"".join(tell(origin) for origin in range(1, 40)) + tell(40, "message"))
        async with asyncio.timeout(20):
            while len(answers) < 40:
                await asyncio.sleep(0.005)
        assert follower.stats()["unanswered_publishes"] == 0
        follower.close()

    asyncio.run(story())
    found = sorted(answers)
    assert [one.origin for one in found] == list(range(1, 41))
    assert [one.status for one in found] == [APPENDED] * 39 + [BAD_TYPE]
    assert [one.conversation_sequence for one in found[:39]] == list(range(2, 41))


def test_a_follower_answers_everything_once(sequencer: SequencerProcess, tmp_path: Path) -> None:
    """K4, K5: without a link, with one, and when the sequencer is killed in the middle; then on with the next."""
    answers: list[Answer] = []
    looks: list[bool] = []
    notes: list[tuple[bytes, bool]] = []

    def wake(data: bytes | None) -> None:
        looks.append(data is None)
        answers.extend(unpack_answers(data or b""))

    async def until(wanted: int) -> list[Answer]:
        async with asyncio.timeout(20):
            while len(answers) < wanted:
                await asyncio.sleep(0.005)
        found = answers[:]
        answers.clear()
        return found

    async def heard(note: bytes) -> None:
        async with asyncio.timeout(20):
            while not notes:
                await asyncio.sleep(0.005)
        assert notes == [(note, True)]
        notes.clear()

    async def story() -> None:
        nonlocal sequencer
        loop = asyncio.get_running_loop()
        follower = Follower.open(tmp_path, shard=0, wake=wake)
        follower.on_note = lambda body, ours: notes.append((body, ours))
        assert isinstance(follower.failure, SequencerAway)
        assert follower.submit(say(1, 1) + say(1, 2))
        assert [(one.counter, one.status) for one in await until(2)] == [(1, UNAVAILABLE), (2, UNAVAILABLE)]
        follower.join(loop, sequencer.link())
        follower.note(b"hello")
        follower.submit(say(1, 1))
        first = (await until(1))[0]
        assert first.status == APPENDED
        assert follower.failure is None
        assert follower.log.last_sequence >= first.sequence
        assert True in looks
        await heard(b"hello")
        for round_ in range(3):
            base = 100 * round_
            follower.submit(b"".join(say(1, base + counter) for counter in range(2, 60)))
            sequencer.kill()
            for counter in range(60, 65):
                follower.submit(say(1, base + counter))
            follower.note(b"again")
            got = await until(63)
            assert {one.status for one in got} <= {APPENDED, UNAVAILABLE}
            assert sorted(one.counter for one in got) == list(range(base + 2, base + 65))
            assert all(250 <= one.extra <= 750 for one in got if one.status == UNAVAILABLE)
            sequencer = SequencerProcess(config_of(tmp_path))
            follower.join(loop, sequencer.link())
            await heard(b"again")  # said anew to the next one
            follower.submit(b"".join(say(1, one.counter) for one in got))
            second = {one.counter: one for one in await until(63)}
            for one in got:  # what had a receipt is there; what had none is there now
                if one.status == APPENDED:
                    assert second[one.counter] == one._replace(status=REPEAT)
                assert second[one.counter].status in (APPENDED, REPEAT)
        follower.close()
        follower.close()

    try:
        asyncio.run(story())
    finally:
        sequencer.close()


@pytest.mark.parametrize("frame", [(COMMITTED, b"abc"), (STATUS, b"\xc1"), (ANSWERS, b"x" * 55), (PROPOSALS, b"")])
def test_a_follower_gives_up_a_link_with_what_is_no_frame(
    sequencer: SequencerProcess, tmp_path: Path, frame: tuple[int, bytes]
) -> None:
    """K4, K6: and whoever waited on it is answered."""
    answers: list[Answer] = []

    async def story() -> None:
        follower = Follower.open(tmp_path, shard=0, wake=lambda data: answers.extend(unpack_answers(data or b"")))
        ours, theirs = socket.socketpair()
        follower.join(asyncio.get_running_loop(), ours)
        follower.submit(say(1, 1))
        theirs.sendall(HEADER.pack(len(frame[1]), frame[0], 0) + frame[1])
        async with asyncio.timeout(20):
            while not answers:
                await asyncio.sleep(0.005)
        assert isinstance(follower.failure, SequencerAway)
        follower.close()
        theirs.close()

    asyncio.run(story())
    assert [(one.counter, one.status) for one in answers] == [(1, UNAVAILABLE)]


def test_the_status_travels(tmp_path: Path) -> None:
    """A disk with less than is to be left free: workers say so, too."""
    sequencer = SequencerProcess(config_of(tmp_path, log={"free_bytes_min": 1 << 50}))
    try:
        peer = Peer(sequencer.link())
        status = msgspec.msgpack.decode(peer.take(STATUS), type=Status)
        while not status.shortage:
            status = msgspec.msgpack.decode(peer.take(STATUS), type=Status)
        assert "free_bytes_min" in status.shortage
        assert not status.failure
    finally:
        sequencer.close()


def test_a_second_sequencer_says_why_it_can_not(sequencer: SequencerProcess, tmp_path: Path) -> None:
    second = SequencerProcess(config_of(tmp_path))
    try:
        assert "in use by process" in second.said.reason  # type: ignore[union-attr]
        assert second.process.wait(20) == 1
    finally:
        second.close()
    peer = Peer(sequencer.link())
    peer.send(PROPOSALS, say(1, 1))
    assert peer.answers(1)[0].status == APPENDED


def test_an_orphan_ends(tmp_path: Path) -> None:
    orphan = SequencerProcess(config_of(tmp_path))
    peer = Peer(orphan.link())
    peer.send(PROPOSALS, say(1, 1))
    assert peer.answers(1)[0].status == APPENDED
    orphan.channel.close()
    assert orphan.process.wait(20) == 0
    assert peer.is_over()
