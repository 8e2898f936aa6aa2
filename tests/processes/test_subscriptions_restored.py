"""Backup and restore with subscriptions: places, counts and parked events come back, and nothing is skipped after it.

Real processes throughout: `gonets serve` with its door for backends, `gonets log backup` beside it, `restore`, and a
server on what was restored, whose new events have the sequences that lost ones had.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from engine import ConsumerLoop, Filter, Park, Settings, Start, StoredEvent
from engine.log.stat import stat_log
from engine.subscriptions.places import cursor_of
from engine.subscriptions.store import Store
from gateway import BackendClient
from tests.support.backends import Consumer, Feeder, wait_until_seen
from tests.support.gateway import GatewayProcess, running
from tests.support.log_command import log_command
from tests.support.supervised import until

pytestmark = pytest.mark.timeout(120)

ANY: Final = {"server.api": "127.0.0.1:0"}
MESSAGES: Final = Filter(types=("message",))
FIRST: Final = Start(first=True)
KINDS: Final = ("ordered", "competing")
ACKED, LEFT, LOST = 30, 20, 25
EVENT_BYTES: Final = 100  # about what one takes in the log


def gonets_log(*arguments: object) -> dict[str, Any]:
    """What a verb prints."""
    ran = log_command(*arguments, "--json")
    assert ran.status == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def client(server: GatewayProcess) -> BackendClient:
    """With everything allowed."""
    return BackendClient(server.api, server.service_token())


async def say(gonets: BackendClient, conversation: int, count: int, word: str) -> list[int]:
    """So many messages; their sequences."""
    return [
        (await gonets.publish("message", f"{word} {number}".encode(), conversation=conversation)).sequence
        for number in range(count)
    ]


async def consume(gonets: BackendClient, kind: str, wanted: set[int], park: int = 0) -> list[StoredEvent]:
    """Acks what comes until all that is wanted has; one event is parked."""
    found: list[StoredEvent] = []

    async def handle(event: StoredEvent) -> None:
        found.append(event)
        if not wanted - {one.sequence for one in found}:
            loop.stop()
        if event.sequence == park:
            raise Park("put aside")

    settings = Settings(deliveries_max=50)
    loop = ConsumerLoop(await gonets.create(kind, kind, start=FIRST, filter=MESSAGES, settings=settings), handle)
    async with asyncio.timeout(40):
        await loop.run()
    return found


def test_a_restored_subscription_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was acked before the backup comes no more, what wasn't and what is new comes; parked events are there."""
    data, folder, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"

    async def before(server: GatewayProcess) -> tuple[list[int], list[int], int]:
        async with client(server) as gonets:
            fields = {"kind": "group", "title": "a group", "members": []}
            conversation = (await gonets.command("conversation.created", 0, fields)).conversation
            acked = await say(gonets, conversation, ACKED, "acked")
            for kind in KINDS:
                await consume(gonets, kind, set(acked), park=acked[3])
            left = await say(gonets, conversation, LEFT, "left")
            made = await asyncio.to_thread(gonets_log, "backup", folder, "--data", data)
            assert made["last_sequence"] >= left[-1] and made["problems"] == []
            lost = await say(gonets, conversation, LOST, "lost")
            for kind in KINDS:
                await consume(gonets, kind, {*left, *lost})
            return acked, left, conversation

    async def after(server: GatewayProcess, acked: list[int], left: list[int], conversation: int) -> None:
        async with client(server) as gonets:
            new = await say(gonets, conversation, LOST + LEFT, "new")
            for kind in KINDS:
                subscription = await gonets.subscription(kind)
                (parked,) = await subscription.parked()
                assert (parked.sequence, parked.reason) == (acked[3], "put aside")
                found = await consume(gonets, kind, {*left, *new})
                assert [event.sequence for event in found if event.deliveries > 1] == []
                assert sorted(event.sequence for event in found) == left + new, "skipped, or acked and here again"
                assert {event.payload.split()[0] for event in found} == {b"left", b"new"}
                assert await subscription.replay([parked.sequence]) == 1
                (replayed,) = await consume(gonets, kind, {parked.sequence})
                assert replayed.payload == b"acked 3"
                assert await subscription.parked() == []

    with running(data, **ANY) as server:
        acked, left, conversation = asyncio.run(before(server))
        server.kill()
    assert gonets_log("verify", folder)["problems"] == []
    assert gonets_log("restore", folder, "--data", restored)["subscriptions"]
    with running(restored, **ANY) as server:
        asyncio.run(after(server, acked, left, conversation))
        assert server.terminate() == 0
        assert "rows of subscriptions were cut back" not in server.log(), "a backup is cut back to itself"
    assert gonets_log("check", "--data", restored)["problems"] == []


def test_a_backup_under_load_has_no_place_ahead_of_its_log(tmp_path: Path) -> None:
    """While events are published and acked, and the copying takes its time; restored, the rest comes."""
    data = tmp_path / "data"
    with running(data, **ANY) as server:

        async def make() -> int:
            async with client(server) as gonets:
                fields = {"kind": "group", "title": "a group", "members": []}
                return (await gonets.command("conversation.created", 0, fields)).conversation

        conversation = asyncio.run(make())
        with Feeder(server, [conversation]) as feeder:
            consumer = Consumer(server, "mail", tmp_path, "--start", "first", "--type", "message")
            until(lambda: len(consumer.seen()) > 10, "the first events", 30)
            backups = []
            for number in range(2):
                seen = len(consumer.seen())
                rate = EVENT_BYTES * stat_log(data)["last_sequence"]  # the events of about a second come meanwhile
                made = gonets_log("backup", tmp_path / f"backup{number}", "--data", data, "--bytes-per-s", rate)
                backups.append((tmp_path / f"backup{number}", made["last_sequence"]))
                until(lambda seen=seen: len(consumer.seen()) > seen, "more events", 30)  # type: ignore[misc]
        assert feeder.failure is None
        consumer.stop()
    for number, (folder, last) in enumerate(backups):
        restored = tmp_path / f"restored{number}"
        gonets_log("restore", folder, "--data", restored)
        store = Store.open(restored / "subscriptions")
        (row,) = store.definitions()
        cursor = cursor_of(store, row.definition)
        store.close()
        assert 0 < cursor <= last
    with running(restored, **ANY) as server:
        again = Consumer(server, "mail", tmp_path)
        with Feeder(server, [conversation], keys="new") as feeding:
            until(lambda: len(feeding.sequences) > 10, "receipts", 30)
        assert feeding.failure is None
        assert min(feeding.sequences) > last
        left = {one for one in feeder.sequences if cursor < one <= last}
        wait_until_seen([again], left | set(feeding.sequences))
        assert min(again.seen()) > cursor
        assert again.stop() == 0, again.said()


@pytest.mark.parametrize("kind", KINDS)
def test_places_beyond_an_older_log_are_cut_back(tmp_path: Path, kind: str) -> None:
    """Somebody restores the log and keeps the places of the lost one: the sequences they name are other events now."""
    data, folder, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"

    async def before(server: GatewayProcess) -> tuple[int, int]:
        async with client(server) as gonets:
            fields = {"kind": "group", "title": "a group", "members": []}
            conversation = (await gonets.command("conversation.created", 0, fields)).conversation
            acked = await say(gonets, conversation, ACKED, "acked")
            await consume(gonets, kind, set(acked))
            made = await asyncio.to_thread(gonets_log, "backup", folder, "--data", data)
            lost = await say(gonets, conversation, LOST, "lost")
            await consume(gonets, kind, set(lost), park=lost[5])
            return conversation, made["last_sequence"]

    async def after(server: GatewayProcess, conversation: int, last: int) -> None:
        async with client(server) as gonets:
            subscription = await gonets.subscription(kind)
            assert (await subscription.standing()).cursor == last
            assert await subscription.parked() == []
            new = await say(gonets, conversation, LEFT, "new")
            found = await consume(gonets, kind, set(new))
            assert sorted(event.sequence for event in found) == new
            assert {event.payload.split()[0] for event in found} == {b"new"}

    with running(data, **ANY) as server:
        conversation, last = asyncio.run(before(server))
        assert server.terminate() == 0
    gonets_log("restore", folder, "--data", restored)
    shutil.rmtree(restored / "subscriptions")
    shutil.copytree(data / "subscriptions", restored / "subscriptions")
    with running(restored, **ANY) as server:
        asyncio.run(after(server, conversation, last))
        assert server.terminate() == 0
        assert "rows of subscriptions were cut back" in server.log()
    with running(restored, **ANY) as server:
        assert server.terminate() == 0
    assert server.log().count("rows of subscriptions were cut back") == 1
