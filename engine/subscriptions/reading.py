"""Reading the event stream without a subscription: from a place on, filtered, to the log's end or on and on.

Behind `Subscriptions.read`; shares the blocks of feed.py with all subscriptions. Keeps no place: whoever reads
remembers the last sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from engine.errors import BadArgument, Trimmed
from engine.subscriptions.definition import Definition, Filter, checked
from engine.subscriptions.live import NO_KIND, Context, selection_of
from engine.subscriptions.ports import OnReached, StoredEvent, check_end
from ext.picks import Picks

EVENTS_MAX: Final = 1_000  # decoded at once


async def read_on(
    context: Context,
    after: int,
    wanted: Filter,
    live: bool,
    moved: set[asyncio.Future[None]],
    on_reached: OnReached,
) -> AsyncIterator[StoredEvent]:
    """Events behind a sequence. `moved`: futures that are resolved when the log has gone on. Raises BadArgument,
    BeyondEnd, Trimmed, LogDamaged."""
    if wanted.recipient_away:
        raise BadArgument("recipient_away is for subscriptions: reading doesn't ask who is there")
    selection = selection_of(
        checked(Definition(name="read", kind="competing", team="", position=0, filter=wanted)), context.kinds
    )
    feed, picks = context.feed, Picks()
    first, end = await feed.run(lambda reader: (reader.first_sequence, reader.last_sequence()))
    feed.forget(first)
    check_end(after, end)
    if after + 1 < first:
        raise _trimmed(after, first)
    # All up to the end is read, folded yet or not.
    while True:
        if after >= feed.last:
            if not live and after >= end:
                return
            future = asyncio.get_running_loop().create_future()
            moved.add(future)
            try:
                await future
            finally:
                moved.discard(future)
            continue
        found = feed.cached(after)
        if found is None:
            await _fetch(context, after)
            continue
        if wanted.is_narrow:
            skipped, after = feed.skip(selection, after, feed.last)
            on_reached(after)
            if skipped is None:
                await asyncio.sleep(0)
                continue
            found = skipped
        picks.clear()
        reached, lacking = selection.pick(found.block, after, found.last, picks, events_max=EVENTS_MAX)
        if not lacking and len(picks) < EVENTS_MAX:
            reached = found.last
        for event in picks.decoded(StoredEvent):
            yield event
        after = max(after, reached)
        on_reached(after)
        if lacking:
            context.kinds.put(lacking, context.conversations.kind_of(lacking) or NO_KIND)
        await asyncio.sleep(0)


async def _fetch(context: Context, after: int) -> None:
    try:
        await context.feed.fetch(after)
    except Trimmed as error:
        first = await context.feed.first()
        raise _trimmed(after, first) from error


def _trimmed(after: int, first: int) -> Trimmed:
    return Trimmed(
        f"position {after}: the log begins at {first}", hint=f"read from {first - 1} or later", first_available=first
    )
