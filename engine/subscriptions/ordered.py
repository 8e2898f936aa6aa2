"""An ordered subscription: each conversation's events come in order, to one consumer at a time.

Conversations fall into 256 shares; a share has one owner, and has been read up to a place for it. A consumer reads
from the lowest place of its shares up to where the next one stands; there they go on together. So a share that came
from another consumer, or was held back, catches up first, and nothing else has to know of it.

States of a share: free → owned → leaving (nothing more is handed out of it; moves once all is acked) → owned by
another; owned → held (an event of it is to be tried again later; what follows it waits) → owned.
Ignored: a retry of what waits already; the end of a consumer that is over.
Invariants: engine/SUBSCRIPTIONS.md, O1 to O4. Cost: a few µs a hand-out, whatever the number of events.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from engine.subscriptions.definition import Settings
from engine.subscriptions.group import FOREVER_US, Again, Group, GroupConsumer, InFlightEvent, Run
from engine.subscriptions.machine import END, Counts, Read
from ext.picks import SHARES

FREE: Final = 0
ALL: Final = (1 << SHARES) - 1
CURSOR_BYTES: Final = 8


@dataclass
class _Plan:
    """The shares that a consumer reads together, from `after`; until `_unplan` their places are behind."""

    shares: list[int]
    mask: bytes | None
    after: int
    upto: int


class Ordered(Group):
    """See the module and group.py."""

    def __init__(self, settings: Settings, cursors: array[int], counts: Counts) -> None:
        """`cursors`: of each share, everything up to there is acked."""
        super().__init__(settings, counts)
        self._read = array("Q", cursors)
        self._owner = [FREE] * SHARES
        self._leaving: dict[int, int] = {}  # share → who gets it
        self._held: dict[int, int] = {}  # share → when it goes on
        self._plans: dict[int, _Plan] = {}

    # ---- shares ----------------------------------------------------------------------------------------------------

    def joined_(self, consumer: GroupConsumer) -> None:
        """Gets its part of the shares."""
        self._balance()

    def ended_(self, consumer: GroupConsumer, events: list[InFlightEvent]) -> None:
        """Its shares are free, and go on behind what was acked of them."""
        self._unplan(consumer)
        for event in events:
            self._read[event.share] = min(self._read[event.share], event.sequence - 1)
        for sequence, again in list(self._again.items()):
            if again.share in consumer.shares and not again.replayed:
                self._read[again.share] = min(self._read[again.share], sequence - 1)
                self.take_again(sequence)
        for share in consumer.shares:
            self._owner[share] = FREE
        self._balance()

    def _balance(self) -> None:
        """Free shares go to whoever has fewest; whoever has too many then promises some. Nobody gives one away only to
        get another."""
        self._leaving.clear()
        for consumer in self._consumers.values():
            self._unplan(consumer)
        if not self._consumers:
            return
        holding = {generation: set(consumer.shares) for generation, consumer in self._consumers.items()}

        def by_count(generation: int) -> tuple[int, int]:
            return len(holding[generation]), generation

        for share in range(SHARES):
            if self._owner[share] == FREE:
                least = min(holding, key=by_count)
                holding[least].add(share)
                self._own(least, share)
        while True:
            least, most = min(holding, key=by_count), max(holding, key=by_count)
            if len(holding[most]) - len(holding[least]) <= 1:
                break
            share = max(holding[most])
            holding[most].discard(share)
            holding[least].add(share)
            self._leaving[share] = least
        self._move_left()

    def _own(self, generation: int, share: int) -> None:
        self._owner[share] = generation
        self._consumers[generation].shares.add(share)

    def _move_left(self) -> None:
        """Moves the promised shares of which nothing is in flight or waits."""
        for share, generation in list(self._leaving.items()):
            owner = self._consumers[self._owner[share]]
            is_busy = any(run.table.of_share(share) for run in owner.runs if not run.replayed)
            if is_busy or any(again.share == share and not again.replayed for again in self._again.values()):
                continue
            for consumer in (owner, self._consumers[generation]):
                self._unplan(consumer)
            owner.shares.discard(share)
            del self._leaving[share]
            self._own(generation, share)

    def settled_(self, consumer: GroupConsumer) -> None:
        """What is acked may have been all that kept a share."""
        if self._leaving:
            self._move_left()

    # ---- reading ---------------------------------------------------------------------------------------------------

    def may_have_(self, consumer: GroupConsumer, share: int) -> bool:
        """Its owner alone."""
        return share in consumer.shares

    def onward_(self, consumer: GroupConsumer, room: int, now_us: int) -> Read | None:
        """On from the lowest place."""
        if self._held:
            self._release_held(now_us)
        plan = self._plans.get(consumer.generation) or self._plan(consumer)
        return None if plan is None else Read(plan.after, plan.upto, room, plan.mask)

    def _plan(self, consumer: GroupConsumer) -> _Plan | None:
        ready = [share for share in consumer.shares if share not in self._held and share not in self._leaving]
        if not ready:
            return None
        low = min(self._read[share] for share in ready)
        upto = min((self._read[share] for share in ready if self._read[share] > low), default=END)
        shares = [share for share in ready if self._read[share] == low]
        bits = sum(1 << share for share in shares)
        mask = None if bits == ALL else bits.to_bytes(SHARES // 8, "little")
        plan = self._plans[consumer.generation] = _Plan(shares, mask, low, upto)
        return plan

    def _unplan(self, consumer: GroupConsumer) -> None:
        """Its shares, or what may be read of them, are about to change."""
        plan = self._plans.pop(consumer.generation, None)
        if plan is not None:
            for share in plan.shares:
                self._read[share] = plan.after

    def reached_(self, consumer: GroupConsumer, read: Read, reached: int) -> None:
        """Those of the plan stand there now; with whom they meet, they go on together."""
        plan = self._plans[consumer.generation]
        assert plan.after == read.after and reached <= plan.upto, (plan.after, read.after, reached, plan.upto)
        plan.after = max(plan.after, reached)
        if plan.after >= plan.upto:
            self._unplan(consumer)

    def pass_over(self, after: int, upto: int) -> None:
        """As group.py says, of each share."""
        for consumer in self._consumers.values():
            plan = self._plans.get(consumer.generation)
            if plan is None or plan.after < after:
                continue
            plan.after = max(plan.after, min(upto, plan.upto))
            if plan.after >= plan.upto:
                self._unplan(consumer)
        planned = {share for plan in self._plans.values() for share in plan.shares}
        if len(planned) < SHARES:
            for share in range(SHARES):
                if share not in planned and after <= self._read[share] < upto:
                    self._read[share] = upto

    # ---- what comes again ------------------------------------------------------------------------------------------

    def retried_(self, consumer: GroupConsumer, run: Run, sequence: int, due_us: int) -> None:
        """What was delivered of its share behind it comes again behind it, and nothing new of it until then."""
        found = run.table.find(sequence)
        assert found is not None
        share = found[0]
        run.table.retry(sequence, consumer.generation, due_us, share_too=True)
        for other in consumer.runs:
            first = other.table.floor_of(share, END) + 1
            if other is not run and not other.replayed and sequence < first <= END:
                other.table.retry(first, consumer.generation, due_us, share_too=True)
        for one, again in list(self._again.items()):
            if again.share == share and one > sequence and not again.replayed and again.due_us < due_us:
                self.put_again(one, again._replace(due_us=due_us))
        self._unplan(consumer)
        self._held[share] = max(due_us, self._held.get(share, 0))

    def _release_held(self, now_us: int) -> None:
        """Shares whose time has come, and of which nothing waits any more."""
        waiting = {again.share for again in self._again.values() if not again.replayed}
        for share, due_us in list(self._held.items()):
            if due_us <= now_us and share not in waiting:
                del self._held[share]
                if (owner := self._consumers.get(self._owner[share])) is not None:
                    self._unplan(owner)

    def held_until_(self) -> int:
        """The first share that is held."""
        return min(self._held.values(), default=FOREVER_US)

    def late_(self, consumer: GroupConsumer, run: Run, late: list[InFlightEvent]) -> None:
        """It may hang, and holds its shares from the others: it is over."""
        for event in late:
            if run.replayed:
                self.move_again(run, event.sequence, Again(event.share, 0, True))
            else:
                self._unplan(consumer)
                self._read[event.share] = min(self._read[event.share], event.sequence - 1)
        self.leave(consumer.generation)

    # ---- positions -------------------------------------------------------------------------------------------------

    def cursors(self) -> array[int]:
        """Of each share, everything up to there is acked or parked."""
        cursors = array("Q", self._read)
        for plan in self._plans.values():
            for share in plan.shares:
                cursors[share] = plan.after
        for consumer in self._consumers.values():
            for run in consumer.runs:
                if not run.replayed and len(run.table):
                    floors = array("Q", [END]) * SHARES
                    run.table.floors(floors)
                    cursors = array("Q", map(min, cursors, floors))
        for sequence, again in self._again.items():
            if not again.replayed:
                cursors[again.share] = min(cursors[again.share], sequence - 1)
        return cursors

    def cursor(self) -> int:
        """All wanted events up to it are acked or parked."""
        return min(self.cursors())

    def stored(self) -> bytes:
        """The cursors, or one if they are all alike."""
        if len(self._plans) == 1 and not self._again and not self.in_flight():
            (plan,) = self._plans.values()
            if len(plan.shares) == SHARES:  # mostly, where there is little to do
                return plan.after.to_bytes(CURSOR_BYTES, "little")
        cursors = self.cursors()
        first = cursors[0]
        alike = all(cursor == first for cursor in cursors)
        return b"".join(cursor.to_bytes(CURSOR_BYTES, "little") for cursor in (cursors[:1] if alike else cursors))

    def reset(self, position: int) -> None:
        """All consumers are over; it goes on behind this."""
        self.clear()
        self._held.clear()
        self._read = array("Q", [position]) * SHARES


def ordered_from(settings: Settings, stored: bytes, counts: Counts) -> Ordered:
    """As `stored` has left it."""
    cursors = array("Q", (int.from_bytes(stored[at : at + 8], "little") for at in range(0, len(stored), CURSOR_BYTES)))
    return Ordered(settings, cursors if len(cursors) == SHARES else array("Q", cursors[:1]) * SHARES, counts)
