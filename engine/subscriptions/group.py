"""The consumers of a subscription and what is in flight with them: the half that both kinds share.

What was handed to a consumer lies in runs (ext/inflight), each ascending, one behind the other in the order of
delivery. What is to be delivered again (retried, too late, replayed) has left them and waits in `_again` until it is
due. Which events come next, and to whom, is the other half's: ordered.py, competing.py.

States of an event: unread → in flight ⇄ again; in flight → acked or parked; again → parked.
States of a consumer: joined → over (left; another of its name; silent for `ack_timeout_s` with nothing in flight; of
an ordered one also: an event's time is over). Whatever names one that is over raises Fenced.
Invariants: engine/SUBSCRIPTIONS.md, S1 to S6. Cost: some µs a hand-out and an ack; natively some 20 ns an event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple

from engine.subscriptions.definition import Settings
from engine.subscriptions.machine import PARKED_MAX, SECOND_US, Counts, Parked, Read, sieve
from engine.subscriptions.ports import Fenced
from ext.inflight import IN_FLIGHT, InFlight
from ext.picks import Picks

AGAIN_MAX: Final = 1_000  # events that are looked up at once
RUNS_MAX: Final = 64  # of a consumer: each retry that comes back begins one; beyond it, it waits for acks
LATE_MAX: Final = 1_000  # of a run and tick
FOREVER_US: Final = 2**63


class Again(NamedTuple):
    """An event that is to be delivered again. `replayed`: it was parked, the cursor has passed it. `late_of`: the
    consumer whose time was over, and whose ack still counts."""

    share: int
    due_us: int
    replayed: bool
    late_of: int = 0


class InFlightEvent(NamedTuple):
    """What was in flight, as ext/inflight names it."""

    sequence: int
    share: int
    deliveries: int
    consumer: int


@dataclass
class Run:
    """What was handed out, ascending."""

    replayed: bool
    last: int = 0
    table: InFlight = field(default_factory=InFlight)


@dataclass
class GroupConsumer:
    """One consumer. `is_alone`: what it has in flight must be answered before anything else goes out to it."""

    generation: int
    name: str
    in_flight_max: int
    heard_us: int
    runs: list[Run] = field(default_factory=list)
    shares: set[int] = field(default_factory=set)
    is_alone: bool = False

    def in_flight(self) -> int:
        """Events delivered to it and not acked."""
        return sum(len(run.table) for run in self.runs)

    def span(self) -> int:
        """What they take, with those that were acked out of order."""
        return sum(run.table.span for run in self.runs)

    def run_of(self, sequence: int) -> Run | None:
        """The one in which an event is in flight."""
        for run in self.runs:
            found = run.table.find(sequence)
            if found is not None and found[4] == IN_FLIGHT:
                return run
        return None


class Group(ABC):
    """See the module. What `live.py` drives; the methods that end in an underscore are the other half's."""

    def __init__(self, settings: Settings, counts: Counts) -> None:
        self.counts = counts
        self.parked = 0  # how many; moved by whoever keeps them
        self.replayed: list[int] = []  # acked since somebody looked: no longer parked
        self.settings = settings
        self._timeout_us = int(settings.ack_timeout_s * SECOND_US)
        self._consumers: dict[int, GroupConsumer] = {}
        self._again: dict[int, Again] = {}
        self._ready: list[int] = []  # of `_again`, those that are due
        self._waiting: list[tuple[int, int]] = []  # the others: a heap of (due, sequence)
        self._replays_out: set[int] = set()  # in flight

    # ---- the other half --------------------------------------------------------------------------------------------

    @abstractmethod
    def joined_(self, consumer: GroupConsumer) -> None:
        """It is among `_consumers`."""

    @abstractmethod
    def ended_(self, consumer: GroupConsumer, events: list[InFlightEvent]) -> None:
        """It is not any more; what was in flight with it in order, counted."""

    @abstractmethod
    def onward_(self, consumer: GroupConsumer, room: int, now_us: int) -> Read | None:
        """What comes next in the log."""

    @abstractmethod
    def reached_(self, consumer: GroupConsumer, read: Read, reached: int) -> None:
        """It was read up to there."""

    @abstractmethod
    def pass_over(self, after: int, upto: int) -> None:
        """Nothing in (after, upto] is wanted: what was read up to `after` or further is read up to `upto`."""

    @abstractmethod
    def may_have_(self, consumer: GroupConsumer, share: int) -> bool:
        """Whether it may be handed an event of this share again."""

    @abstractmethod
    def retried_(self, consumer: GroupConsumer, run: Run, sequence: int, due_us: int) -> None:
        """Has this event wait until it is due, and what else has to."""

    @abstractmethod
    def late_(self, consumer: GroupConsumer, run: Run, late: list[InFlightEvent]) -> None:
        """The time of these is over, and they are counted."""

    @abstractmethod
    def held_until_(self) -> int:
        """When the first thing that is held back need not be any more; FOREVER_US if nothing is."""

    @abstractmethod
    def cursor(self) -> int:
        """All wanted events up to it are acked or parked."""

    @abstractmethod
    def stored(self) -> bytes:
        """Its positions, as engine/SUBSCRIPTIONS.md says."""

    @abstractmethod
    def reset(self, position: int) -> None:
        """All consumers are over; it goes on behind this."""

    @abstractmethod
    def settled_(self, consumer: GroupConsumer) -> None:
        """Something of it was acked."""

    # ---- consumers -------------------------------------------------------------------------------------------------

    def join(self, generation: int, name: str, in_flight_max: int, now_us: int) -> None:
        """A new consumer; one of the same name is over. Generations are given rising."""
        for other in [one for one in self._consumers.values() if one.name == name]:
            self.leave(other.generation)
        consumer = self._consumers[generation] = GroupConsumer(generation, name, in_flight_max, now_us)
        self.joined_(consumer)

    def leave(self, generation: int) -> None:
        """It is over, if it wasn't before; what it held goes to others."""
        consumer = self._consumers.pop(generation, None)
        if consumer is None:
            return
        events = []
        for run in consumer.runs:
            for event in map(InFlightEvent._make, run.table.expire(FOREVER_US, len(run.table))):
                self.counts.note(event.sequence, event.deliveries)
                if run.replayed:
                    self._replays_out.discard(event.sequence)
                    self.put_again(event.sequence, Again(event.share, 0, True))
                else:
                    events.append(event)
        self.ended_(consumer, events)

    def heard(self, generation: int, now_us: int) -> None:
        """It is alive. Raises Fenced."""
        self.of(generation).heard_us = now_us

    def is_over(self, generation: int) -> bool:
        """Whether this one is not a consumer any more."""
        return generation not in self._consumers

    def of(self, generation: int) -> GroupConsumer:
        """The consumer. Raises Fenced."""
        consumer = self._consumers.get(generation)
        if consumer is None:
            raise _over(generation, self._timeout_us)
        return consumer

    def consumers(self) -> list[str]:
        """Their names."""
        return sorted(consumer.name for consumer in self._consumers.values())

    def in_flight(self) -> int:
        """Events delivered and not acked."""
        return sum(consumer.in_flight() for consumer in self._consumers.values())

    # ---- handing out -----------------------------------------------------------------------------------------------

    def next_read(self, generation: int, now_us: int, limit: int) -> Read | None:
        """What a consumer would get next, at most `limit` events; None: it waits for acks or for time to pass."""
        consumer = self.of(generation)
        room = min(limit, consumer.in_flight_max - consumer.span())
        if consumer.is_alone:
            if consumer.in_flight():
                return None
            consumer.is_alone = False
        if room <= 0:
            return None
        if (self._ready or self._waiting) and len(consumer.runs) < RUNS_MAX:
            again = self._due(consumer, now_us, min(room, AGAIN_MAX))
            if again:
                return Read(again[0] - 1, again[-1], room, again=again)
        return self.onward_(consumer, room, now_us)

    def _due(self, consumer: GroupConsumer, now_us: int, limit: int) -> array[int]:
        """Of one kind: replays come in runs of their own."""
        while self._waiting and self._waiting[0][0] <= now_us:
            due_us, sequence = heappop(self._waiting)
            again = self._again.get(sequence)
            if again is not None and again.due_us == due_us:
                self._enter_ready(sequence)
        found = array("Q")
        replayed = False
        for sequence in self._ready:
            again = self._again[sequence]
            if self.may_have_(consumer, again.share) and (not found or again.replayed == replayed):
                replayed = again.replayed
                found.append(sequence)
                if len(found) == limit:
                    break
        return found

    def hand(self, generation: int, read: Read, picks: Picks, reached: int, now_us: int) -> list[Parked]:
        """Takes what was found up to `reached` for the read that `next_read` gives in this very moment. Afterwards
        `picks` holds what goes out, with its counts; what is given back is parked as soon as it is stored."""
        consumer = self.of(generation)
        consumer.heard_us = now_us
        is_full, is_busy = self.parked >= PARKED_MAX, consumer.in_flight() > 0
        found = set(picks.sequences()) if read.again is not None else set()
        sieved = sieve(picks, reached, self.counts, self.settings.deliveries_max, is_full=is_full, is_busy=is_busy)
        consumer.is_alone = sieved.is_alone
        replayed = False
        if read.again is None:
            self.reached_(consumer, read, sieved.reached)
        else:
            replayed = self._again[read.again[0]].replayed
            out = set(picks.sequences()) | {parked.sequence for parked in sieved.parked}
            for sequence in read.again:
                if sequence <= reached and (sequence in out or sequence not in found):
                    self.take_again(sequence)
                    if sequence not in out:  # it isn't where it was, or isn't wanted any more
                        self.counts.forget(sequence)
        if len(picks):
            self._deliver(consumer, picks, replayed, now_us)
        for parked in sieved.parked:
            self.counts.forget(parked.sequence)
        return sieved.parked

    def _deliver(self, consumer: GroupConsumer, picks: Picks, replayed: bool, now_us: int) -> None:
        sequences = picks.sequences()
        run = consumer.runs[-1] if consumer.runs else None
        if run is None or run.replayed != replayed or sequences[0] <= run.last:
            consumer.runs = [one for one in consumer.runs if len(one.table)]
            run = Run(replayed)
            consumer.runs.append(run)
        run.table.deliver(picks, consumer.generation, now_us + self._timeout_us, self.counts.known)
        run.last = sequences[-1]
        run.table.advance(run.last)
        if replayed:
            self._replays_out.update(sequences)

    # ---- answers ---------------------------------------------------------------------------------------------------

    def deliveries_of(self, generation: int, sequence: int) -> int:
        """How often an event was delivered that is in flight with a consumer; 0: it isn't."""
        run = self.of(generation).run_of(sequence)
        found = None if run is None else run.table.find(sequence)
        return 0 if found is None else found[1]

    def ack(self, generation: int, sequences: array[int]) -> list[int]:
        """Those that are not in flight with the consumer; the others are handled."""
        consumer = self.of(generation)
        # A table takes what lies before its first event for acked before, which this is not: it came to another since.
        elsewhere = {one for one in sequences if one in self.counts.known and consumer.run_of(one) is None}
        refused: set[int] | None = None
        for run in consumer.runs:
            these = run.table.ack(sequences, generation)
            refused = set(these) if refused is None else refused.intersection(these)
        refused = set(sequences) if refused is None else refused | elsewhere
        if self._again or self.counts.known:
            self._acked_again(generation, sequences, refused)
        self._settled(consumer)
        return sorted(refused)

    def _acked_again(self, generation: int, sequences: array[int], refused: set[int]) -> None:
        """What is to come again counts as acked only by the consumer that was late with it."""
        for sequence in sequences:
            again = self._again.get(sequence)
            if again is not None and again.late_of != generation:
                refused.add(sequence)
                continue
            if again is not None:
                self.take_again(sequence)
                refused.discard(sequence)
                if again.replayed:
                    self.replayed.append(sequence)
            if sequence not in refused:
                self.counts.forget(sequence)

    def ack_up_to(self, generation: int, sequence: int) -> int:
        """How many are acked: what was delivered to the consumer before and with this event. 0 if nothing is known of
        that any more: a word that comes twice must not count for what was delivered since."""
        consumer = self.of(generation)
        held = (run for run in consumer.runs if run.table.find(sequence) is not None)
        last = consumer.run_of(sequence) or next(held, None)
        if last is None:
            return 0
        acked = 0
        for run in consumer.runs:
            upto = sequence if run is last else run.last
            for counted in [one for one in self.counts.known if one <= upto]:
                found = run.table.find(counted)
                if found is not None and found[4] == IN_FLIGHT:
                    self.counts.forget(counted)
            acked += run.table.ack_up_to(upto, generation)
            if run is last:
                break
        self._settled(consumer)
        return acked

    def _settled(self, consumer: GroupConsumer) -> None:
        if len(consumer.runs) > 1:
            consumer.runs = [run for run in consumer.runs[:-1] if len(run.table)] + consumer.runs[-1:]
        for sequence in list(self._replays_out):
            if not self._is_out(sequence):
                self._replays_out.discard(sequence)
                if sequence not in self._again:
                    self.replayed.append(sequence)
        self.settled_(consumer)

    def _is_out(self, sequence: int) -> bool:
        return any(one.run_of(sequence) is not None for one in self._consumers.values())

    def retry(self, generation: int, sequence: int, due_us: int) -> bool:
        """To be delivered again once it is due; False if it is not in flight with the consumer."""
        consumer = self.of(generation)
        run = consumer.run_of(sequence)
        if run is None:
            return False
        if run.replayed:
            run.table.retry(sequence, generation, due_us)
        else:
            self.retried_(consumer, run, sequence, due_us)
        for one in consumer.runs:
            for waiting in one.table.due(FOREVER_US, one.table.waiting):
                found = one.table.find(waiting)
                assert found is not None
                self.counts.note(waiting, found[1])
                self.move_again(one, waiting, Again(found[0], due_us, one.replayed))
        self._settled(consumer)
        return True

    def extend(self, generation: int, sequences: array[int], deadline_us: int) -> list[int]:
        """Those that are not in flight with the consumer; the others have time until then."""
        consumer = self.of(generation)
        refused = set(sequences)
        for run in consumer.runs:
            refused.intersection_update(run.table.extend(sequences, generation, deadline_us))
        return sorted(refused)

    # ---- what comes again ------------------------------------------------------------------------------------------

    def move_again(self, run: Run, sequence: int, again: Again) -> None:
        """Out of a run, until it is due."""
        run.table.settle(sequence)
        self._replays_out.discard(sequence)
        self.put_again(sequence, again)

    def put_again(self, sequence: int, again: Again) -> None:
        """To be delivered once it is due."""
        self.take_again(sequence)
        self._again[sequence] = again
        if again.due_us:
            heappush(self._waiting, (again.due_us, sequence))
        else:
            self._enter_ready(sequence)

    def take_again(self, sequence: int) -> Again | None:
        """It waits no longer."""
        again = self._again.pop(sequence, None)
        at = bisect_left(self._ready, sequence)
        if at < len(self._ready) and self._ready[at] == sequence:
            del self._ready[at]
        return again

    def _enter_ready(self, sequence: int) -> None:
        at = bisect_left(self._ready, sequence)
        if at == len(self._ready) or self._ready[at] != sequence:
            insort(self._ready, sequence)

    def replay(self, sequences: Iterable[int], shares: Iterable[int]) -> list[int]:
        """Parked events are to be delivered again, beside the order; their counts begin anew. Which of them: not those
        that are being delivered as it is."""
        taken = []
        for sequence, share in zip(sequences, shares, strict=True):
            if sequence not in self._again and not self._is_out(sequence):
                self.counts.forget(sequence)
                self.put_again(sequence, Again(share, 0, True))
                taken.append(sequence)
        return taken

    def drop(self, sequences: Iterable[int]) -> None:
        """What is being replayed is not any more, unless it is in flight."""
        for sequence in sequences:
            if (again := self._again.get(sequence)) is not None and again.replayed:
                self.take_again(sequence)
                self.counts.forget(sequence)

    def lose_below(self, first: int) -> int:
        """What is to come again and isn't kept any more is given up; how many."""
        lost = [sequence for sequence in self._again if sequence < first]
        for sequence in lost:
            self.take_again(sequence)
            self.counts.forget(sequence)
        return len(lost)

    # ---- time ------------------------------------------------------------------------------------------------------

    def tick(self, now_us: int) -> bool:
        """Ends what has run out; True if there may be something to hand out that was not before."""
        changed = (bool(self._waiting) and self._waiting[0][0] <= now_us) or self.held_until_() <= now_us
        for consumer in list(self._consumers.values()):
            for run in list(consumer.runs):
                if run.table.next_us <= now_us and consumer.generation in self._consumers:
                    late = list(map(InFlightEvent._make, run.table.expire(now_us, LATE_MAX)))
                    for event in late:
                        self.counts.note(event.sequence, event.deliveries)
                    if late:
                        self.late_(consumer, run, late)
                        changed = True
            is_silent = now_us - consumer.heard_us > self._timeout_us
            if is_silent and consumer.generation in self._consumers and not consumer.in_flight():
                self.leave(consumer.generation)
                changed = True
        return changed

    def next_us(self) -> int:
        """Before that, `tick` changes nothing."""
        nexts = [self.held_until_()] + ([self._waiting[0][0]] if self._waiting else [])
        for consumer in self._consumers.values():
            nexts.append(consumer.heard_us + self._timeout_us)
            nexts += [run.table.next_us for run in consumer.runs if len(run.table)]
        return min(nexts)

    def is_at_rest(self) -> bool:
        """Whether nothing waits for its time, so that what is stored is all there is to know."""
        return not self._waiting

    def oldest_us(self) -> int | None:
        """The earliest deadline of what is in flight; None if nothing is."""
        nexts = [run.table.next_us for consumer in self._consumers.values() for run in consumer.runs if len(run.table)]
        return min(nexts, default=None)

    def clear(self) -> None:
        """All consumers are over, nothing comes again but replays; for a reset."""
        for generation in list(self._consumers):
            self.leave(generation)
        for sequence, again in list(self._again.items()):
            if not again.replayed:
                self.take_again(sequence)
        self.counts.clear()


def _over(generation: int, timeout_us: int) -> Fenced:
    return Fenced(
        f"generation {generation} is over: it left, another of its name joined, or it was silent or late for"
        f" ack_timeout_s = {timeout_us / 1e6:g}"
    )
