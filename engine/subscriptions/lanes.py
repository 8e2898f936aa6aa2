"""What a ConsumerLoop holds: which event may be handled next, one at a time of each lane.

Under generation.py. A lane is a conversation where order counts (ordered subscriptions), else the event itself. Events
of a lane are begun in the order in which they came, the next one only when the one before is done. States of a lane:
ready → at work → ready, or barred (the event at work is to come again; what waits, waits for it) → ready → gone.

Invariants: an event is held once: what is delivered anew while it waits or is at work here is not added again; an
event that a lane is barred for is begun before all others of it. Cost: a deque and two dictionary steps an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from engine.subscriptions.ports import StoredEvent


class Lanes:
    """One task at a time."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._waiting: dict[int, deque[StoredEvent]] = {}  # by lane, also where one of it is at work
        self._ready: deque[int] = deque()
        self._barred: dict[int, int] = {}  # lane → the sequence that it waits for
        self.held: dict[int, StoredEvent] = {}  # by sequence, those at work too
        self.running: set[int] = set()

    def _lane(self, event: StoredEvent) -> int:
        return event.conversation if self._ordered else event.sequence

    def add(self, events: Iterable[StoredEvent]) -> int:
        """New events; how many weren't held yet."""
        before = len(self.held)
        for event in events:
            if event.sequence in self.held:
                continue
            self.held[event.sequence] = event
            lane = self._lane(event)
            waiting = self._waiting.get(lane)
            if waiting is None:
                self._waiting[lane] = deque((event,))
                self._ready.append(lane)
            elif self._barred.get(lane) == event.sequence:
                del self._barred[lane]
                waiting.appendleft(event)
                self._ready.append(lane)
            else:
                waiting.append(event)
        return len(self.held) - before

    def begin(self) -> StoredEvent | None:
        """The next one to be handled; None: all that is held waits for something."""
        if not self._ready:
            return None
        event = self._waiting[self._ready.popleft()].popleft()
        self.running.add(event.sequence)
        return event

    def kept(self) -> set[int]:
        """Sequences that are this loop's to answer for: not what waits behind one that is to come again, because that
        comes again with it."""
        given_back = {event.sequence for lane in self._barred for event in self._waiting[lane]}
        return self.held.keys() - given_back

    def done(self, event: StoredEvent) -> None:
        """It is no longer held; its lane goes on."""
        self._let_go(event)
        self._go_on(self._lane(event))

    def drop_behind(self, event: StoredEvent) -> None:
        """What waits behind one that is at work, in its lane, is no longer held: it comes again."""
        waiting = self._waiting[self._lane(event)]
        for later in waiting:
            del self.held[later.sequence]
        waiting.clear()

    def bar(self, event: StoredEvent) -> None:
        """It is no longer held, and comes again: where order counts, its lane waits for it."""
        if not self._ordered:
            self.done(event)
            return
        self._let_go(event)
        self._barred[self._lane(event)] = event.sequence

    def unbar(self, event: StoredEvent) -> None:
        """It won't come again after all."""
        lane = self._lane(event)
        if self._barred.get(lane) == event.sequence:
            del self._barred[lane]
            self._go_on(lane)

    def drop_waiting(self) -> int:
        """Lets go of all that isn't at work; how many."""
        dropped = [sequence for sequence in self.held if sequence not in self.running]
        for sequence in dropped:
            del self.held[sequence]
        busy = {self._lane(event) for event in self.held.values()}
        self._waiting = {lane: deque() for lane in busy}
        self._ready.clear()
        self._barred.clear()
        return len(dropped)

    def _let_go(self, event: StoredEvent) -> None:
        self.running.discard(event.sequence)
        self.held.pop(event.sequence, None)

    def _go_on(self, lane: int) -> None:
        if self._waiting.get(lane):
            self._ready.append(lane)
        else:
            self._waiting.pop(lane, None)
