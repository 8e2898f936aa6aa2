"""What a client has received: positions, what of an unfinished resume has come, and the queue for the application.

Filled by client_link.py with the pushes that move the stream, emptied by client.py. Knows no socket.

Invariants: an event is put into the queue once, whatever the server repeats; positions never pass an event that might
not have come: they stand still from welcome until `live`, because a gap may still follow.
Cost: one integer an event of an unfinished resume.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.client_types import SHARD_SHIFT, Event, Gap, Live, Positions, Reset, Resuming

Item = Event | Gap | Reset | Live | Resuming


class Stream:
    """Of one device, over all its connections. `on_space` is called when the queue has become half empty."""

    def __init__(
        self, positions: Positions | None, *, receive: bool, queue_events: int, on_space: Callable[[], None]
    ) -> None:
        self.positions = positions
        self.live = False
        self.queue: deque[Item] = deque()
        self._receive, self._queue_events, self._on_space = receive, queue_events, on_space
        self._ahead: set[int] = set()  # sequences got in a resume that is not complete yet
        self._gaps: dict[int, int] = {}  # conversation → `before` of the gap already queued in that resume
        self._stirred = asyncio.Event()  # something for the consumer
        self._ended: Exception | None = None

    @property
    def full(self) -> bool:
        """Whether the application has enough to do."""
        return len(self.queue) >= self._queue_events

    def welcomed(self, stands: Positions) -> None:
        """Hello was accepted by a server that stands there."""
        if self.positions is None:
            self.positions, self.live = stands, True  # a new device: nothing to resume
        else:
            self._put(Resuming())
        for shard, position in stands.items():  # a shard that is new since
            self.positions.setdefault(shard, position)

    def take(self, item: Event | Gap | Reset | Live) -> None:
        """One push of the stream."""
        if isinstance(item, Event):
            self._event(item)
        elif isinstance(item, Gap):
            self._gap(item)
        elif isinstance(item, Reset):
            self._reset(item)
        else:
            self._went_live(item)

    def _event(self, event: Event) -> None:
        assert self.positions is not None
        shard, sequence = event.conversation >> SHARD_SHIFT, event.sequence
        epoch, position = self.positions.get(shard, (0, 0))
        if sequence <= position or sequence in self._ahead:
            return
        if self.live:
            self.positions[shard] = (epoch, sequence)
        else:
            self._ahead.add(sequence)
        self._put(event)

    def _gap(self, item: Gap) -> None:
        known = self._gaps.get(item.conversation, item.after)  # of a resume that broke off before `live`
        self._gaps[item.conversation] = item.before
        if item.before - 1 > known:
            after = max(item.after, known - 1 if known > item.after else known)
            newest = tuple(event for event in item.newest if event.sequence > after)
            self._put(Gap(item.conversation, after, item.before, newest, item.next))

    def _reset(self, item: Reset) -> None:
        assert self.positions is not None
        self.positions[item.shard] = (item.epoch, item.sequence)
        self._ahead.clear()
        self._gaps.clear()
        kept = [
            x for x in self.queue if not (isinstance(x, Event) and x.shard == item.shard and x.sequence > item.sequence)
        ]
        self.queue.clear()
        self.queue.extend(kept)
        self._put(item)

    def _went_live(self, item: Live) -> None:
        assert self.positions is not None
        for shard, epoch, sequence in item.positions:
            self.positions[shard] = (epoch, max(sequence, self.positions.get(shard, (0, 0))[1]))
        self.live = True
        self._ahead.clear()
        self._gaps.clear()
        self._put(item)

    def _put(self, item: Item) -> None:
        if self._receive:
            if isinstance(item, Live):  # a resume that brought nothing leaves nothing but its end
                while self.queue and isinstance(self.queue[-1], (Live, Resuming)):
                    self.queue.pop()
            self.queue.append(item)
            self._stirred.set()

    def end(self, error: Exception) -> None:
        """Nothing more will come; what is in the queue can still be taken."""
        self._ended = error
        self._stirred.set()

    async def next(self) -> Item:
        """The next thing of the stream; raises what ended it once the queue is empty."""
        while not self.queue:
            if self._ended is not None:
                raise self._ended
            self._stirred.clear()
            await self._stirred.wait()
        item = self.queue.popleft()
        if len(self.queue) < self._queue_events // 2:
            self._on_space()
        return item
