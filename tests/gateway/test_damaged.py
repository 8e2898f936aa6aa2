"""P7 at the gateway: a server over a damaged log starts, serves the rest, and says in history where it is not whole."""

from __future__ import annotations

from pathlib import Path

from tests.support.backends import Consumer, wait_until_seen
from tests.support.gateway import GatewayProcess
from tests.support.log_rig import rows_of, segment_files
from tests.support.supervised import until


def flip(data: Path) -> None:
    """A bit of the third message."""
    (path,) = segment_files(data)
    block = next(value for value in rows_of(path).values() if b"message 2" in value)
    path.write_bytes(path.read_bytes().replace(block, block.replace(b"message 2", b"message 3")))


def test_history_goes_on_beneath_damage_and_publishing_goes_on(tmp_path: Path) -> None:
    """The disk flips a bit of one message while the server is down."""
    data = tmp_path / "data"
    with GatewayProcess(data) as server:
        one = server.device(1)
        receipts = [one.write("publish", user=2, text=f"message {number}") for number in range(6)]
    flip(data)
    with GatewayProcess(data) as server:
        two = server.device(2)
        got, damaged, before = [], 0, None
        for request in range(10):
            more: dict[str, int] = {} if before is None else {"before": before}
            two.send("history", id=request, conversation=receipts[0]["conversation"], **more)
            page = two.expect("history")
            got += [event["sequence"] for event in page["events"]]
            damaged += bool(page.get("damaged"))
            before = page["next"]
            if before is None:
                break
        assert damaged == 1
        lost = receipts[2]["sequence"]
        assert got == [one for one in range(receipts[5]["sequence"], 0, -1) if one != lost]
        assert two.write("publish", user=1, text="goes on")["status"] in ("appended", 0)
        assert server.metric("gonets_damage_places") == 1
        assert server.metric("gonets_damage_reads_total") > 0
    assert "damaged, the rest is served" in server.log() and "block" in server.log()


def test_a_subscription_passes_over_damage_and_says_so(tmp_path: Path) -> None:
    """The disk flips the same bit before a consumer has come that far."""
    data, api = tmp_path / "data", {"server.api": "127.0.0.1:0"}
    with GatewayProcess(data, **api) as server:
        one = server.device(1)
        sequences = [int(one.write("publish", user=2, text=f"message {number}")["sequence"]) for number in range(6)]
        first = Consumer(server, "mail", tmp_path, "--start", "first", "--type", "message", "--count", "1")
        assert first.process.wait(30) == 0 and first.seen() == sequences[:1]
    flip(data)
    with GatewayProcess(data, **api) as server:
        consumer = Consumer(server, "mail", tmp_path)
        two = server.device(2)
        new = int(two.write("publish", user=1, text="goes on")["sequence"])
        wanted = [*sequences[1:2], *sequences[3:], new]
        wait_until_seen([consumer], set(wanted))
        assert consumer.seen() == wanted
        assert consumer.stop() == 0, consumer.said()
        until(lambda: server.metric("gonets_subscription_damaged_events_total") >= 1, "the count")
        assert server.metric("gonets_damage_places") == 1
