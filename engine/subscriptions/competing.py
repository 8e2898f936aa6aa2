"""A competing subscription: any consumer takes the next event.

There is one place up to which the log was read, for all consumers; what was handed out is in flight with one of them,
or comes again, to anybody. Stored are that place and the events below it that are not acked, so that acks in any order
survive a restart.

Ignored: acks of what was acked before; ticks of what has time left.
Invariants: engine/SUBSCRIPTIONS.md, C1 to C3. Cost: as group.py; of what comes again some µs an event.
"""

from __future__ import annotations

from array import array
from typing import Final

from engine.subscriptions.definition import Settings
from engine.subscriptions.group import FOREVER_US, Again, Group, GroupConsumer, InFlightEvent, Run
from engine.subscriptions.machine import END, Counts, Read

HOLES_MAX: Final = 65_536  # unacked events that are stored one by one; behind them the place is stored lower


class Competing(Group):
    """See the module and group.py."""

    def __init__(self, settings: Settings, position: int, holes: array[int], counts: Counts) -> None:
        """`holes`: events up to `position` that are not acked, ascending."""
        super().__init__(settings, counts)
        self._position = position
        for sequence in holes:
            counts.known.setdefault(sequence, 1)
            self.put_again(sequence, Again(0, 0, False))

    def joined_(self, consumer: GroupConsumer) -> None:
        """It takes what comes."""

    def ended_(self, consumer: GroupConsumer, events: list[InFlightEvent]) -> None:
        """Others take it."""
        for event in events:
            self.put_again(event.sequence, Again(event.share, 0, False))

    def may_have_(self, consumer: GroupConsumer, share: int) -> bool:
        """Anybody may."""
        return True

    def onward_(self, consumer: GroupConsumer, room: int, now_us: int) -> Read | None:
        """The next ones, if no more than `in_flight_max` are unacked in all."""
        held = len(self._again) + sum(one.span() for one in self._consumers.values())
        room = min(room, self.settings.in_flight_max - held)
        return Read(self._position, END, room) if room > 0 else None

    def reached_(self, consumer: GroupConsumer, read: Read, reached: int) -> None:
        """Everybody goes on behind it."""
        assert read.after == self._position
        self._position = max(self._position, reached)

    def pass_over(self, after: int, upto: int) -> None:
        """As group.py says."""
        if self._position >= after:
            self._position = max(self._position, upto)

    def retried_(self, consumer: GroupConsumer, run: Run, sequence: int, due_us: int) -> None:
        """It alone."""
        run.table.retry(sequence, consumer.generation, due_us)

    def held_until_(self) -> int:
        """Nothing is held back."""
        return FOREVER_US

    def late_(self, consumer: GroupConsumer, run: Run, late: list[InFlightEvent]) -> None:
        """They come again, unless the consumer still acks them first."""
        for event in late:
            self.move_again(run, event.sequence, Again(event.share, 0, run.replayed, consumer.generation))
        self._settled(consumer)

    def settled_(self, consumer: GroupConsumer) -> None:
        """There may be room."""

    def holes(self) -> list[int]:
        """Events up to the place that are not acked."""
        found = [sequence for sequence, again in self._again.items() if not again.replayed]
        for consumer in self._consumers.values():
            for run in consumer.runs:
                if not run.replayed:
                    found += run.table.of_consumer(consumer.generation)
        return sorted(found)

    def cursor(self) -> int:
        """All wanted events up to it are acked or parked."""
        oldest = [run.table.oldest for one in self._consumers.values() for run in one.runs if not run.replayed]
        again = [sequence for sequence, one in self._again.items() if not one.replayed]
        return min([self._position + 1, *filter(None, oldest), *again]) - 1

    def stored(self) -> bytes:
        """The place, and the holes below it."""
        holes, position = self.holes(), self._position
        if len(holes) > HOLES_MAX:
            position = holes[HOLES_MAX] - 1
            holes = holes[:HOLES_MAX]
        return b"".join(number.to_bytes(8, "little") for number in (position, *holes))

    def reset(self, position: int) -> None:
        """All consumers are over; it goes on behind this."""
        self.clear()
        self._position = position


def competing_from(settings: Settings, stored: bytes, counts: Counts) -> Competing:
    """As `stored` has left it."""
    position, *holes = (int.from_bytes(stored[at : at + 8], "little") for at in range(0, len(stored), 8))
    return Competing(settings, position, array("Q", holes), counts)
