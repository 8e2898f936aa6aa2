"""Who takes its time: in every phase of a connection there is a deadline, and what it ends with is the right answer."""

from __future__ import annotations

from itertools import chain, repeat

from tests.support.gateway import GatewayProcess
from tests.support.hostile import UPGRADE, Foe, command, connect, frame, hello, one_by_one, play, settled

HELLO_S, UNFINISHED_S, CLOSE_S = 1, 2, 2 * 2  # deadlines of the fixture; an end has two steps
LATE_S = 4.0  # a tick, a look, and a machine that does other things
PING, CONTINUATION, CLOSE = 9, 0, 8


def test_every_phase_has_its_deadline(gateway: GatewayProcess) -> None:
    """All of them at once, and somebody else is served meanwhile."""
    one, two = gateway.device(1), gateway.device(2, encoding="json")
    begun = frame(b"\x81\xa2op" + b"x" * 300)
    half = frame(b"x" * 100, fin=False)
    more = frame(b"", CONTINUATION, fin=False)
    ping = frame(b"", PING)
    scripts = {
        # before the upgrade
        "connects only": ([], 0, HELLO_S),
        "half a request line": ([b"GET /v"], 408, HELLO_S),
        "headers byte by byte": (one_by_one(UPGRADE[:-2], b"x"), 408, HELLO_S),
        "headers for ever": (chain([UPGRADE[:-2]], repeat(b"X: y\r\n")), 408, HELLO_S),
        "a body for ever": (
            chain([b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n"], repeat(b"x")),
            408,
            HELLO_S,
        ),
        # between upgrade and hello
        "no hello": ([UPGRADE], 4005, HELLO_S),
        "pings instead of hello": (chain([UPGRADE], repeat(ping)), 4005, HELLO_S),
        "a body behind the upgrade": (chain([UPGRADE], repeat(b"x")), 1002, 0),
        "half a head of a frame": ([UPGRADE, begun[:1]], 4005, HELLO_S),
        "hello byte by byte": (chain([UPGRADE], one_by_one(begun[:-1])), 4005, HELLO_S),
        "half a hello": ([UPGRADE + begun[:60]], 4005, HELLO_S),
        "a hello in endless fragments": (chain([UPGRADE, half], repeat(more)), 4005, HELLO_S),
        # after hello
        "half a head later": ([UPGRADE + hello(gateway, 3, 1), begun[:1]], 4002, UNFINISHED_S),
        "a payload byte by byte": (
            chain([UPGRADE + hello(gateway, 3, 2)], one_by_one(frame(b"x" * 60_000))),
            4002,
            UNFINISHED_S,
        ),
        "endless fragments": (chain([UPGRADE + hello(gateway, 3, 3), half], repeat(more)), 4002, UNFINISHED_S),
        "pings between fragments": (
            chain([UPGRADE + hello(gateway, 3, 4), half], repeat(ping)),
            4002,
            UNFINISHED_S,
        ),
        # the end
        "no answer to close": ([UPGRADE + hello(gateway, 3, 5), frame(b"x", 1)], 1003, CLOSE_S),
        "bytes instead of an answer": (
            chain([UPGRADE + hello(gateway, 3, 6), frame(b"x", 1)], repeat(ping)),
            1003,
            CLOSE_S,
        ),
        "closes and stays": (chain([UPGRADE + hello(gateway, 3, 7), frame(b"\x03\xe8", CLOSE)], repeat(b"x")), 1000, 2),
    }
    foes = [Foe(name, script, connect(gateway)) for name, (script, _, _) in scripts.items()]
    lively = Foe("lively", chain([UPGRADE + hello(gateway, 4)], repeat(command("ping"))), connect(gateway))
    play(foes, 0.3, beside=[lively])
    sent = one.write("publish", user=2, text="meanwhile")["sequence"]
    assert two.expect("event", sequence=sent)["payload"] == b"meanwhile"
    play(foes, UNFINISHED_S + 2 * LATE_S, beside=[lively])
    found = {foe.name: foe.outcome() for foe in foes}
    assert found == {name: outcome for name, (_, outcome, _) in scripts.items()}
    late = {foe.name: foe.ended_s for foe in foes if not 0 < foe.ended_s < scripts[foe.name][2] + LATE_S}
    assert not late
    assert not lively.ended_s
    assert {push["op"] for device in (one, two) for push in device.settled()} == {"live", "event"}
    settled(gateway, sessions=3)
    for foe in (*foes, lively):
        foe.connection.close()
    settled(gateway, sessions=2)
    assert gateway.metric("gonets_session_bytes") < 64_000
