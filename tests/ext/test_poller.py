"""The poller over real connections: what sessions send becomes one batch, however the bytes came; receipts go back.

Ends, timers and limits of memory are in test_poller_ends.py and test_poller_limits.py.
"""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.poller_rig import (
    BINARY,
    CLOSE,
    JSON,
    LIVE,
    MSGPACK,
    PING,
    PONG,
    SIGNAL,
    TEXT,
    Peer,
    Rig,
    answer,
    command,
    frame,
    head,
    message,
    proposals,
)

both = pytest.mark.parametrize("encoding", [MSGPACK, JSON])


@both
def test_hot_commands_become_proposals_signals_and_pongs(encoding: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding, user=9)
        peer.command("publish", counter=1, conversation=5, payload=b"\x00\xff")
        peer.command("publish", counter=2, user=6, text="é")
        peer.command("delivered", conversation=5, conversation_sequence=3)
        peer.command("read", conversation=5, conversation_sequence=2)
        peer.command("typing", conversation=5)
        peer.command("ping", id="p")
        rig.quiet()
        assert proposals(rig.proposals) == [(peer.session, 1, b"\x00\xff"), (peer.session, 2, "é".encode())]
        assert list(SIGNAL.iter_unpack(rig.signals)) == [
            (1, peer.session, 5, 3),
            (2, peer.session, 5, 2),
            (3, peer.session, 5, 0),
        ]
        (pong,) = peer.pushes()
        assert pong == ([11, {"id": "p"}] if encoding == MSGPACK else {"op": "pong", "id": "p"})
        assert rig.commands == [] and rig.table.unanswered(peer.session) == 2


@both
def test_what_is_unusual_is_pythons(encoding: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding)
        sent = [
            message(encoding, "create", counter=1, kind="group", title="x"),
            message(encoding, "publish", counter=1, conversation=0, text="bad id"),
            message(encoding, "publish", counter=0, conversation=5, text="bad counter"),
            message(encoding, "publish", counter=1, conversation=5, user=5, text="both"),
            b"",
            b"\xc1" if encoding == MSGPACK else b"[1",
        ]
        for body in sent:
            peer.send(frame(body, BINARY if encoding == MSGPACK else TEXT))
        rig.quiet()
        assert rig.commands == [(peer.session, body) for body in sent]
        peer.command("publish", counter=3, conversation=5, type="Bad", text="x")
        rig.quiet()
        (receipt,) = peer.pushes()
        assert "bad_type" in str(receipt) and rig.proposals == b""
        assert rig.table.unanswered(peer.session) == 0


# ---- however the bytes come ------------------------------------------------------------------------------------------


def stream(encoding: str, choices: random.Random) -> bytes:
    """What a client may send, in one piece: hot and cold, fragments, pings in between."""
    opcode = BINARY if encoding == MSGPACK else TEXT
    out = []
    for counter in range(1, choices.randrange(2, 14)):
        kind = choices.randrange(15)
        if kind < 6:
            size = choices.choice((0, 1, 100, 130, 900))
            out.append(
                command(
                    encoding,
                    "publish",
                    counter=counter,
                    conversation=choices.randrange(1, 9),
                    payload=choices.randbytes(size),
                )
            )
        elif kind < 8:
            out.append(command(encoding, "read", conversation=counter, conversation_sequence=counter))
        elif kind < 10:
            out.append(command(encoding, "ping", id=counter))
        elif kind < 12:
            out.append(frame(choices.randbytes(choices.randrange(126)), PING))
        elif kind < 14:
            body = message(encoding, "publish", counter=counter, conversation=3, text="long " * choices.randrange(60))
            cut = choices.randrange(len(body) + 1)
            out += [frame(body[:cut], opcode, fin=False), frame(b"between", PING), frame(body[cut:], 0)]
        else:
            out.append(command(encoding, "history", conversation=counter))
    return b"".join(out)


def outcome(encoding: str, pieces: list[bytes], handshake: bool) -> tuple[object, ...]:
    """Everything that a stream in these pieces leads to; cold commands stay unhandled, so that all behind is cold."""
    with Rig() as rig:
        peer = Peer(rig, encoding) if handshake else rig.device(encoding)
        rig.handles = False
        for piece in pieces:
            while piece:
                piece = piece[peer.send(piece) :]
                rig.until(rig.ready)
                rig.turn()
        rig.quiet(0)
        peer.read()
        if handshake:
            peer.data = peer.data.partition(b"\r\n\r\n")[2]
        frames = peer.frames()
        assert rig.table.held_buffers() == (0, 0) and peer.data == b""
        counters = rig.poller.counters()
        return (
            frames,
            proposals(rig.proposals),
            rig.signals,
            rig.commands,
            rig.closed,
            counters["received_messages"],
            counters["received_bytes"],
        )


@both
@settings(max_examples=80)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 4_000), max_size=12))
def test_segmentation_changes_nothing(encoding: str, seed: int, cuts: list[int]) -> None:
    data = stream(encoding, random.Random(seed))
    places = sorted({cut for cut in cuts if cut < len(data)})
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert outcome(encoding, pieces, False) == outcome(encoding, [data], False)


@both
@pytest.mark.parametrize("size", [1, 7])
def test_bytes_one_by_one_change_nothing(encoding: str, size: int) -> None:
    for seed in range(3):
        data = stream(encoding, random.Random(seed))
        chopped = [data[at : at + size] for at in range(0, len(data), size)]
        assert outcome(encoding, chopped, False) == outcome(encoding, [data], False)


@both
def test_a_handshake_in_pieces_and_frames_right_behind_it(encoding: str) -> None:
    data = head(encoding) + command(encoding, "hello", token="t") + frame(b"x", PING) + command(encoding, "ping")
    start = len(head(encoding))
    whole = outcome(encoding, [data], True)
    assert whole[0] == [(PONG, b"x")] and whole[5] == 2
    for size in (1, 2, 50, start - 1, start, start + 1):
        assert outcome(encoding, [data[at : at + size] for at in range(0, len(data), size)], True) == whole


def test_a_frame_larger_than_the_receive_buffer() -> None:
    with Rig(frame_bytes_max=200_000) as rig:
        peer = rig.device()
        body = message(MSGPACK, "publish", counter=1, conversation=5, payload=b"z" * 65_536, later="y" * 100_000)
        data = frame(body)
        while data:
            data = data[peer.send(data) :]
            rig.quiet(0)
        rig.until(lambda: rig.proposals)
        assert proposals(rig.proposals) == [(peer.session, 1, b"z" * 65_536)]
        assert rig.table.held_buffers() == (0, 0)


# ---- order -----------------------------------------------------------------------------------------------------------


@both
def test_what_follows_a_cold_command_waits_behind_it(encoding: str) -> None:
    """The rule of ext/inbound: cold until Python has handled what came before; others are not concerned."""
    with Rig() as rig:
        peer, other = rig.device(encoding, user=1), rig.device(encoding, user=2)
        rig.handles = False
        publish = {"conversation": 5, "payload": b"x"}
        peer.send(
            command(encoding, "publish", counter=1, **publish)
            + command(encoding, "history", conversation=5)
            + command(encoding, "publish", counter=2, **publish)
            + command(encoding, "ping")
            + command(encoding, "read", conversation=5, conversation_sequence=1)
        )
        rig.quiet()
        assert proposals(rig.proposals) == [(peer.session, 1, b"x")] and rig.signals == b""
        assert [session for session, _ in rig.commands] == [peer.session] * 4
        assert peer.pushes() == []
        peer.command("typing", conversation=5)
        other.command("publish", counter=1, **publish)
        rig.quiet()
        assert len(rig.commands) == 5 and proposals(rig.proposals)[1:] == [(other.session, 1, b"x")]
        rig.handle(rig.commands[:4])
        peer.command("typing", conversation=5)  # the typing before it still waits
        rig.quiet()
        assert len(rig.commands) == 6
        rig.handle(rig.commands[4:])
        peer.command("publish", counter=3, **publish)
        rig.quiet()
        assert len(rig.commands) == 6 and proposals(rig.proposals)[2:] == [(peer.session, 3, b"x")]


@both
def test_nothing_is_judged_before_the_hello_in_front_of_it(encoding: str) -> None:
    with Rig() as rig:
        rig.handles = False
        peer = rig.upgraded(encoding)
        publish = message(encoding, "publish", counter=1, conversation=5, payload=b"x")
        peer.send(
            command(encoding, "hello", token="t")
            + command(encoding, "publish", counter=1, conversation=5, payload=b"x")
        )
        rig.quiet()
        assert [body for _, body in rig.commands][1:] == [publish] and rig.proposals == b""
        rig.poller.identify(rig.commands[0][0], 7, 1, 0, LIVE)
        rig.handle(rig.commands)
        peer.command("publish", counter=2, conversation=5, payload=b"y")
        rig.quiet()
        assert [found[1:] for found in proposals(rig.proposals)] == [(2, b"y")]


@both
@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("publish", {"counter": 1, "conversation": 5, "payload": b"x"}),
        ("ping", {}),
        ("typing", {"conversation": 1}),
        ("publish", {"counter": 1, "conversation": 0, "payload": b"x"}),
    ],
)
def test_before_hello_only_hello_is_heard(encoding: str, op: str, fields: dict[str, object]) -> None:
    with Rig() as rig:
        peer = rig.upgraded(encoding)
        peer.send(command(encoding, op, id=4, **fields) + command(encoding, "hello", token="t"))
        rig.quiet()
        (opcode, error), (last, body) = peer.frames()
        decoded = msgspec.json.decode(error) if encoding == JSON else msgspec.msgpack.decode(error)[1]
        assert (decoded["code"], decoded["id"], opcode) == ("hello_first", 4, TEXT if encoding == JSON else BINARY)
        assert last == CLOSE and body == (4503).to_bytes(2) + b"bad_command"
        assert rig.commands == [] and rig.proposals == b"" and len(rig.closed) == 1


def test_a_refused_hello_may_be_said_again_and_what_is_not_one_stays_pythons() -> None:
    with Rig() as rig:
        peer = rig.upgraded()
        for op in ("hello", "hello", "ping"):
            peer.command(op)
            rig.quiet()
        assert [msgspec.msgpack.decode(body)["op"] for _, body in rig.commands] == ["hello", "hello", "ping"]


# ---- receipts and pushes ---------------------------------------------------------------------------------------------


@both
def test_answers_become_receipts(encoding: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding)
        for counter in (1, 2):
            peer.command("publish", counter=counter, conversation=5, payload=b"x")
        rig.quiet()
        origin = rig.table.origin(peer.session)
        rig.poller.answer(answer(origin, 1, 0, sequence=33) + answer(origin, 2, 24, extra=50))
        assert rig.table.unanswered(peer.session) == 0
        rig.flush()
        receipts = [list(push[1]) if encoding == MSGPACK else list(push.values())[1:] for push in peer.pushes()]
        assert receipts == [[1, "appended", 5, 33, 1, 7, 0], [2, "rate_limited", 5, 0, 1, 7, 50]]


def test_answers_to_those_who_are_gone_go_nowhere() -> None:
    with Rig() as rig:
        first = rig.device()
        first.command("publish", counter=1, conversation=5, payload=b"x")
        rig.quiet()
        stale = rig.table.origin(first.session)
        first.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        second = rig.device()
        assert second.session == first.session and rig.table.origin(second.session) != stale
        second.command("publish", counter=1, conversation=5, payload=b"y")
        rig.quiet()
        rig.poller.answer(answer(stale, 1) + answer(second.session, 1) + answer(1 << 40 | 77, 1) + answer(0, 1))
        rig.flush()
        assert second.frames() == [] and rig.table.unanswered(second.session) == 1
        rig.poller.push(stale, b"for the first")
        rig.poller.close(stale, 4000, b"")
        rig.poller.abort(stale)
        rig.flush()
        assert second.frames() == [] and rig.table.state(second.session) == 3
        with pytest.raises(ValueError, match="whole number"):
            rig.poller.answer(b"x" * 57)


def test_unanswered_writes_are_limited_for_both_kinds_together() -> None:
    with Rig(unanswered_max=3) as rig:
        peer = rig.device()
        assert rig.poller.begin_unanswered(peer.session, 100)
        for counter in range(1, 5):
            peer.command("publish", counter=counter, conversation=5, payload=b"x")
        rig.quiet()
        assert [counter for _, counter, _ in proposals(rig.proposals)] == [1, 2]
        assert not rig.poller.begin_unanswered(peer.session, 101)
        rig.flush()
        receipts = [push[1] for push in peer.pushes()]
        assert [(row[0], row[1]) for row in receipts] == [(n, "too_many_unanswered") for n in (3, 4, 101)]
        assert all(row[6] > 0 for row in receipts)
        rig.poller.answer(answer(rig.table.origin(peer.session), 1))
        assert rig.poller.begin_unanswered(peer.session, 102)


@both
def test_pushes_are_framed_for_the_encoding_whatever_their_size(encoding: str) -> None:
    with Rig() as rig:
        peer = rig.device(encoding)
        sent = [b"x" * size for size in (0, 1, 125, 126, 65_535, 65_536)]
        for body in sent:
            rig.poller.push(peer.session, body)
        rig.flush()
        received: list[tuple[int, bytes]] = []

        def all_there() -> bool:
            received.extend(peer.frames())
            return len(received) == len(sent)

        rig.until(all_there)
        assert received == [(BINARY if encoding == MSGPACK else TEXT, body) for body in sent]


def test_pings_are_answered_in_their_place() -> None:
    with Rig() as rig:
        peer = rig.device()
        peer.send(frame(b"", PING) + frame(b"p" * 125, PING) + command(MSGPACK, "ping") + frame(b"late", PONG))
        rig.quiet()
        kinds = [(kind, len(body)) for kind, body in peer.frames()]
        assert kinds[:2] == [(PONG, 0), (PONG, 125)] and kinds[2][0] == BINARY and len(kinds) == 3


# ---- turns -----------------------------------------------------------------------------------------------------------


def test_everybody_has_a_turn_however_small_the_budget() -> None:
    """Forty sessions that always have more to say, and rounds that end at the first look at the clock."""
    with Rig() as rig:
        peers = [rig.device(user=user) for user in range(1, 41)]
        served: dict[int, int] = {peer.session: 0 for peer in peers}
        for _ in range(30):
            for peer in peers:
                peer.command("typing", conversation=5)
            rig.signals = b""
            rig.turn(budget_us=0)
            for _, session, _, _ in SIGNAL.iter_unpack(rig.signals):
                served[session] += 1
        assert min(served.values()) > 0
        turns = sum(served.values())
        rig.quiet()
        assert turns < sum(served.values()) + len(rig.signals) // SIGNAL.size  # the budget did cut the rounds short


def test_the_descriptor_sleeps_when_nobody_is_there() -> None:
    with Rig() as rig:
        assert not rig.ready(150)
        peer = rig.device()
        assert rig.ready(150)  # the wheel turns
        peer.socket.close()
        rig.until(lambda: rig.table.open_count == 0)
        rig.quiet()
        assert not rig.ready(150)


def test_counters() -> None:
    with Rig() as rig:
        peer = rig.device()
        peer.command("ping")
        rig.quiet()
        peer.read()
        counters = rig.poller.counters()
        assert counters["accepted_sessions"] == counters["live_sessions"] == 1
        assert counters["received_messages"] == 2 and counters["loop_rounds"] >= 2
        assert counters["received_bytes"] == len(head()) + len(command(MSGPACK, "hello", token="t")) + len(
            command(MSGPACK, "ping")
        )
        assert counters["session_bytes"] == rig.table.memory_bytes()
        assert counters["refused_sessions"] == counters["closed_sessions"] == counters["rate_limited_commands"] == 0
