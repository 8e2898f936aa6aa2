"""`Subscriptions` over a real log in this process: what tests append is committed, synced and read back by it.

System events are appended as any other; conversations and who is away are dictionaries. `restarted` is a new process
as far as files can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.conversations import KIND_BY_NAME, system_conversation
from engine.log.writer import Log
from engine.subscriptions.manager import Subscriptions
from ext.block import BlockBuilder
from ext.record import encode

START_US = 1_795_515_000_000_000
STEP_US = 1_000
Event = tuple[int, str, int, bytes]  # conversation, type, sender, payload


class EventRig:
    """See the module. `kinds` and `members` are what is known of conversations; others are groups of 1 and 2."""

    def __init__(self, data: Path, **options: Any) -> None:
        self.data = data
        self.log = Log.open(data, **options)
        self.heads: dict[int, tuple[int, int]] = {}
        self.kinds: dict[int, str] = {}
        self.members: dict[int, list[int]] = {}
        self.gone: set[int] = set()
        self.asked: list[int] = []  # conversations whose kind was asked for
        self.sequence = 0  # that has been folded
        self.posted: list[str] = []
        self.subscriptions: Subscriptions

    def append(self, *events: Event) -> int:
        """One block; its last sequence."""
        builder, sequence = BlockBuilder(), self.log.last_sequence
        for conversation, type_name, sender, payload in events:
            sequence += 1
            previous, count = self.heads.get(conversation, (0, 0))
            self.heads[conversation] = (sequence, count + 1)
            time_us = START_US + STEP_US * sequence
            builder.add(
                encode(sequence, conversation, count + 1, previous, time_us, sender, 1, sequence, type_name, payload)
            )
        self.log.append(
            builder.finish(
                first_sequence=self.log.last_sequence + 1, shard=0, epoch=1, previous_hash=self.log.last_hash
            )
        )
        if hasattr(self, "subscriptions"):
            self.subscriptions.wake()
        return sequence

    def say(self, count: int, *, conversations: int = 10, type_name: str = "message", sender: int = 1) -> int:
        """So many events; the last sequence."""
        return self.append(*((1 + at % conversations, type_name, sender, b"%d" % at) for at in range(count)))

    async def read_back(self) -> None:
        """Once all that was appended can be taken."""
        while self.subscriptions.feed.last < self.log.last_sequence:
            await asyncio.sleep(0.002)

    def acting(self) -> int:
        """As the host's: always the same service."""
        return 99

    async def post(self, type_name: str, fields: dict[str, Any], by: int) -> int:
        """As the host's: a system event, in the log when this returns."""
        await asyncio.sleep(0)
        self.posted.append(type_name)
        return self.append((system_conversation(0), type_name, by, msgspec.msgpack.encode(fields)))

    async def away(self, users: Sequence[int]) -> set[int]:
        """Those that are."""
        await asyncio.sleep(0)
        return self.gone.intersection(users)

    # What `Conversations` asks.

    def fold(self, block: bytes) -> Iterator[None]:
        """Nothing is folded: the dictionaries know all beforehand."""
        yield

    def kind_of(self, conversation: int) -> int:
        """By name, a group if nothing is said."""
        self.asked.append(conversation)
        return KIND_BY_NAME[self.kinds.get(conversation, "group")].number

    def members_of(self, conversation: int, limit: int) -> list[int]:
        """The first so many."""
        return self.members.get(conversation, [1, 2])[:limit]

    def head_of(self, conversation: int) -> int:
        """Of the events appended so far."""
        return self.heads.get(conversation, (0, 0))[0]

    # The process.

    async def open(self) -> Subscriptions:
        """Opens the subscriptions."""
        self.sequence = self.log.last_sequence
        self.subscriptions = await Subscriptions.open(
            self.data,
            new_reader=self.log.reader,
            conversations=self,
            poster=self,
            away=self.away,
            shard=0,
            epochs=self.log.epochs,
        )
        return self.subscriptions

    async def restarted(self) -> Subscriptions:
        """Closes and opens them."""
        await self.subscriptions.close()
        return await self.open()


def with_rig(data: Path, story: Callable[[EventRig], Awaitable[None]], *, opened: bool = True, **options: Any) -> None:
    """Runs a story, and closes everything."""

    async def run() -> None:
        rig = EventRig(data, **options)
        try:
            if opened:
                await rig.open()
            await asyncio.wait_for(story(rig), 40)
        finally:
            if hasattr(rig, "subscriptions"):
                await rig.subscriptions.close()
            rig.log.close()

    asyncio.run(run())
