"""Resume and history over a range that was trimmed: a gap where something was missed, `trimmed` where it ends."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Client, Incomplete
from tests.support.gateway import GatewayProcess, running
from tests.support.log_command import log_command

LARGE = "x" * 60_000
NOTICED_S = 6.0  # a second, on a machine that has other things to do; a save would notice too, in ten
OPTIONS: dict[str, object] = {"log.segment_bytes": 1 << 20}


class Told:
    """A log whose first segments are gone, trimmed beside a running server; what user 2 was owed of it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with running(data, **OPTIONS) as gateway:
            one, two = gateway.device(1), gateway.device(2)
            self.positions = two.welcome["shards"]
            self.group = one.group(2, 3)
            self.dialog = one.write("publish", user=2, text="quiet")["conversation"]
            self.sent = [self._large(one) for _ in range(20)]
        self._verb("snapshot")
        with running(data, **OPTIONS) as gateway:
            one = gateway.device(1)
            self.sent += [self._large(one) for _ in range(20)]
        self._verb("snapshot")
        with running(data, **OPTIONS) as gateway:
            one, self.live = gateway.device(1), gateway.device(2, 5, positions=self.positions)
            self.live.expect("live")
            self.first = self._verb("trim", "--keep-bytes", "1")["first_sequence"]
            self.sent.append(self._large(one))
            self.live.expect("event", sequence=self.sent[-1])
            self.late = gateway.device(2, 6, positions=self.positions)
            self.late.expect("live")
            self.late_history = self.later_history = pages(self.late, self.group, None)
            until_s = time.monotonic() + NOTICED_S
            while not self.later_history[1] and time.monotonic() < until_s:
                time.sleep(0.2)
                self.later_history = pages(self.late, self.group, None)
        self.kept = [sequence for sequence in self.sent if sequence >= self.first]
        assert self.sent[0] < self.first < self.sent[-1]
        self.end = self.sent[-1]

    def _large(self, device: Any) -> int:
        """One large message; a server that is busy asks for it again."""
        receipt = device.write("publish", conversation=self.group, text=LARGE)
        while receipt["status"] in ("overloaded", "rate_limited"):
            time.sleep(receipt["extra"] / 1_000)
            receipt = device.write("publish", conversation=self.group, text=LARGE, counter=device.counter)
        assert receipt["status"] == "appended", receipt
        return int(receipt["sequence"])

    def _verb(self, *arguments: str) -> dict[str, Any]:
        ran = log_command(*arguments, "--data", self.data, "--json")
        assert ran.status == 0, ran.err
        found: dict[str, Any] = json.loads(ran.out)
        return found

    def position(self, sequence: int) -> list[dict[str, int]]:
        """As a client stores it."""
        return [{**self.positions[0], "sequence": sequence}]


@pytest.fixture(name="told", scope="module")
def _told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("trimmed") / "data")


@pytest.fixture(name="gateway", scope="module")
def _gateway(told: Told) -> Any:
    with running(told.data, **OPTIONS) as gateway:
        yield gateway


def pages(device: Any, conversation: int, before: int | None) -> tuple[list[int], bool]:
    """All that history gives back from a sequence on, and whether it says that older events are gone."""
    found: list[int] = []
    while True:
        device.send("history", id="page", conversation=conversation, before=before, limit=7)
        page = device.expect("history", id="page")
        found += [event["sequence"] for event in page["events"]]
        before = page["next"]
        if before is None:
            return found, bool(page["trimmed"])


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_a_resume_from_below_what_is_kept(told: Told, gateway: GatewayProcess, encoding: str) -> None:
    """A gap for each conversation in which something was missed; what is kept can be had, and no more is said to be."""
    device = gateway.device(2, 7, encoding, positions=told.positions)
    live = device.expect("live")
    assert live["positions"] == told.position(told.end)
    gaps = {push["conversation"]: push for push in device.backlog if push["op"] == "gap"}
    assert set(gaps) == {told.group, told.dialog}
    assert [push for push in device.backlog if push["op"] in ("event", "reset")] == []
    for conversation, kept in ((told.group, told.kept), (told.dialog, [])):
        gap = gaps[conversation]
        assert (gap["after"], gap["before"]) == (told.positions[0]["sequence"], told.end + 1)
        newest = [event["sequence"] for event in gap["newest"]]
        older, is_trimmed = pages(device, conversation, gap["next"])
        assert newest + older == kept[::-1]
        assert is_trimmed
    device.close()


def test_a_resume_within_what_is_kept(told: Told, gateway: GatewayProcess) -> None:
    """Exactly the events after it, no gap; so at the first kept one."""
    for after in (told.first - 1, told.kept[len(told.kept) // 2]):
        device = gateway.device(2, 8, positions=told.position(after))
        device.expect("live")
        assert [push["op"] for push in device.backlog] == ["event"] * len(device.backlog)
        assert [push["sequence"] for push in device.backlog] == [one for one in told.kept if one > after]
        device.close()


def test_history_of_a_new_device_ends_with_trimmed(told: Told, gateway: GatewayProcess) -> None:
    device = gateway.device(3, 1)
    assert pages(device, told.group, None) == (told.kept[::-1], True)
    assert pages(device, told.group, told.first) == ([], True)
    device.send("conversations", id="list")
    rows = device.expect("conversations", id="list")["items"]
    assert [row["conversation"] for row in rows] == [told.group]  # the state knows what the log no longer holds
    device.close()


def test_the_client_is_told_once_and_goes_on(told: Told, gateway: GatewayProcess) -> None:
    """`Incomplete` with the gap and the reason, then what is kept, then what is new."""

    async def use() -> None:
        async with (
            Client(gateway.url, gateway.token(2), 9, positions=told.positions) as client,
            Client(gateway.url, gateway.token(1), 9) as sender,
        ):
            receipt = await sender.publish(conversation=told.group, payload=b"new")
            said: list[tuple[int, str]] = []
            events: list[int] = []
            while receipt.sequence not in events:
                try:
                    events.append((await anext(client)).sequence)
                except Incomplete as incomplete:
                    said.append((incomplete.gap.conversation, incomplete.code))
            assert sorted(said) == sorted([(told.group, "trimmed"), (told.dialog, "trimmed")])
            told.kept.append(receipt.sequence)
            told.end = receipt.sequence
            assert events == told.kept

    asyncio.run(asyncio.wait_for(use(), 30))


def test_trimmed_beside_a_running_server(told: Told) -> None:
    """Who is live goes on; who resumes gets all of it, while the server still reads it, or a gap; never a part."""
    gaps = [push for push in told.late.backlog if push["op"] == "gap" and push["conversation"] == told.group]
    events = [push for push in told.late.backlog if push["op"] == "event" and push["conversation"] == told.group]
    found, is_trimmed = told.late_history
    if gaps:
        assert not events and found == [one for one in told.sent if one >= told.first][::-1] and is_trimmed
    else:
        assert [event["sequence"] for event in events][1:] == told.sent
    assert told.later_history == ([one for one in told.sent if one >= told.first][::-1], True), "a second later"
