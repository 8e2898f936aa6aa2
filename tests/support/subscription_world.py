"""A seeded world around one subscription: a naive log, consumers that join, die, ack late or twice, a server that is
killed between any two steps of a commit, and a model that knows which events may come again.

The machines, live.py and the store are the real ones; the log is a list, time is a number. The model is told what was
handed out and what was answered, and looks at sets only: nothing in it moves a cursor.
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from engine.subscriptions.definition import Definition, Filter, Settings
from engine.subscriptions.feed import Found
from engine.subscriptions.live import Context, Live, Tally
from engine.subscriptions.ports import Fenced, StoredEvent
from engine.subscriptions.store import Batch, Store
from engine.subscriptions.turns import Turns
from engine.subscriptions.watch import Watch
from ext.block import find
from ext.picks import unpack
from ext.select import KindTable, Selection, wanting
from tests.support.naive_block import mended
from tests.support.naive_log import NaiveLog
from tests.support.naive_select import share_of

CONVERSATIONS = range(1, 13)
SECOND_US = 1_000_000


class NaiveFeed:
    """All blocks, always."""

    def __init__(self, log: NaiveLog) -> None:
        self.log = log
        self._found: dict[int, Found] = {}

    @property
    def last(self) -> int:
        """Of the log."""
        return len(self.log.events)

    def skip(self, selection: Selection, after: int, upto: int) -> tuple[Found | None, int]:
        """As feed.py's."""
        upto = min(upto, self.last)
        while after < upto and (found := self.cached(after)) is not None:
            if wanting([selection], found):
                return found, after
            after = min(found.last, upto)
        return None, after

    def cached(self, after: int) -> Found | None:
        """As feed.py's."""
        if after >= self.last:
            return None
        first, following = self.log.stretch(after + 1)
        block = next(block for begins, block in self.log.blocks if begins == first)
        assert following is not None
        return self._found.setdefault(first, Found(first, following - 1, block))


@dataclass
class Taker:
    """A consumer as the model sees it: what it has, in the order of delivery."""

    name: str
    generation: int
    has: list[int] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)


class World:
    """See the module. `doubles`: deliveries of what had been delivered before; each must have been allowed."""

    def __init__(self, path: Path, kind: str, seed: int, *, types: tuple[str, ...] = ()) -> None:
        self.random = random.Random(seed)
        self.log = NaiveLog()
        self.path = path
        self.now_us = 10 * SECOND_US
        settings = Settings(ack_timeout_s=5, deliveries_max=6, retry_min_s=0.5, retry_max_s=8, in_flight_max=12)
        self.definition = Definition(
            name="world",
            kind="ordered" if kind == "ordered" else "competing",
            team="",
            position=0,
            settings=settings,
            filter=Filter(types=types),
        )
        self.types = types
        self.store: Store | None = None
        self.generation = 0
        self.takers: list[Taker] = []
        self.ended: list[Taker] = []
        self.delivered: dict[int, int] = {}
        self.acked: set[int] = set()  # parked ones too
        self.aside: set[int] = set()  # those that were parked
        self.was_aside: set[int] = set()  # and came again since, as what is acked behind an unacked one may
        self.unsynced: set[int] = set()
        self.may_repeat: set[int] = set()
        self.doubles = self.kills = self.fenced = self.slept = 0
        self.open()

    # ---- the server ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Starts it from what the disk holds."""
        if self.store is not None:
            self.store.close()
        self.store = Store.open(self.path)
        self.feed, self.watch = NaiveFeed(self.log), Watch(len(self.log.events))
        context = Context(
            feed=self.feed,  # type: ignore[arg-type]  # as much of it as live.py asks
            store=self.store,
            kinds=KindTable(),
            conversations=None,  # type: ignore[arg-type]  # the filter doesn't ask
            away=None,  # type: ignore[arg-type]
            now_us=lambda: self.now_us,
            time_us=lambda: self.random.randrange(1 << 50),  # the wall clock jumps as it likes
            tally=Tally(),
            turns=Turns(0.001),
            watch=self.watch,
        )
        self.live = Live(context, self.definition, paused=False)
        self.watch.follow(self.live)

    def kill(self) -> None:
        """kill -9: what was not written is gone."""
        self.kills += 1
        self._allow(self.takers, also=self.unsynced)
        for taker in self.takers:
            self.ended.append(taker)
        self.takers.clear()
        self.acked -= self.unsynced
        self.aside -= self.unsynced
        self.unsynced.clear()
        self.open()

    def commit(self, *, dies: str = "") -> None:
        """A group commit, cut short before or after the writing."""
        assert self.store is not None
        batch = Batch()
        self.live.gather(batch)
        if dies == "before":
            return self.kill()
        self.store.write(batch)
        self.unsynced.clear()
        if dies == "after":
            self.kill()

    # ---- the model -------------------------------------------------------------------------------------------------

    def wanted(self, event_type: str) -> bool:
        """By the filter."""
        return not self.types or any(event_type == one or event_type.startswith(one + ".") for one in self.types)

    def share(self, sequence: int) -> int:
        """Of an event."""
        return share_of(self.log.events[sequence - 1].conversation)

    def _allow(self, takers: list[Taker], also: set[int]) -> None:
        """What may come again when these are over: what they have; of an ordered share also what was acked behind
        something that was not."""
        out = {sequence for taker in takers for sequence in taker.has} | also
        self.may_repeat |= out
        if self.definition.kind == "ordered":
            open_ones = {one for one in self.delivered if one not in self.acked} | also
            low: dict[int, int] = {}
            for sequence in open_ones:
                share = self.share(sequence)
                low[share] = min(low.get(share, sequence), sequence)
            self.may_repeat |= {one for one in self.acked if one > low.get(self.share(one), one)}

    def sweep(self) -> None:
        """Takes note of the consumers that the machine has ended."""
        over = [taker for taker in self.takers if self.live.machine.is_over(taker.generation)]
        self._allow(over, set())
        for taker in over:
            self.takers.remove(taker)
            self.ended.append(taker)

    def parked(self) -> set[int]:
        """As rows and as what is to be written say."""
        return set(self.live.parked_among(range(1, len(self.log.events) + 1)))

    def _took(self, taker: Taker, events: list[StoredEvent]) -> None:
        for event in events:
            sequence = event.sequence
            assert self.wanted(event.type), "not wanted"
            if sequence in self.delivered:
                assert sequence in self.may_repeat, f"{sequence} came again, and nobody had lost it"
                self.may_repeat.discard(sequence)
                self.doubles += 1
            for other in self.takers:
                assert sequence not in other.has, f"{sequence} is with {other.name} too"
            if self.definition.kind == "ordered":
                self._check_order(taker, sequence)
            self.delivered[sequence] = self.delivered.get(sequence, 0) + 1
            self.acked.discard(sequence)
            self.was_aside |= self.aside & {sequence}
            self.aside.discard(sequence)
            taker.has.append(sequence)
            taker.got.append(sequence)

    def _check_order(self, taker: Taker, sequence: int) -> None:
        """Everything before it in its conversation is acked, parked, or with the same consumer."""
        conversation = self.log.events[sequence - 1].conversation
        parked = self.parked()
        for before in self.log.events[: sequence - 1]:
            if before.conversation == conversation and self.wanted(before.type):
                one = before.sequence
                assert one in self.acked or one in parked or one in taker.has, f"{sequence} came before {one}"

    # ---- steps -----------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """A block."""
        types = ["message", "message", "message.edited", "poll.vote"]
        self.log.append(
            [
                (self.random.choice(CONVERSATIONS), self.random.choice(types), 7, b"x")
                for _ in range(self.random.randrange(1, 12))
            ]
        )
        first, block = self.log.blocks[-1]
        self.log.blocks[-1] = first, mended(block)  # with the checksums that one record is found by
        found = self.feed.cached(first - 1)
        assert found is not None
        was_asleep = self.watch.asleep
        self.watch.came(found)
        self.slept += was_asleep and self.watch.asleep

    def join(self) -> None:
        """Sometimes under a name that somebody has."""
        self.generation += 1
        name = self.random.choice("abcd")
        self.live.join(self.generation, name, self.random.choice([3, 12]))
        self.sweep()
        self.takers.append(Taker(name, self.generation))

    async def take(self) -> None:
        """One takes what there is."""
        if not self.takers:
            return self.join()
        taker = self.random.choice(self.takers)
        await self.take_of(taker, self.random.choice([1, 3, 100]))

    async def take_of(self, taker: Taker, events_max: int) -> int:
        """This one; how many events."""
        parked_before = self.parked()
        handout = await self.live.take(taker.generation, events_max, 0)
        for sequence in self.parked() - parked_before:
            self.acked.add(sequence)
            self.aside.add(sequence)
            self.unsynced.add(sequence)
        if handout is None:
            return 0
        events = unpack(handout.packed, StoredEvent)
        assert len(events) == handout.events <= events_max
        self._took(taker, events)
        return len(events)

    def _done(self, taker: Taker, sequences: list[int]) -> None:
        for sequence in sequences:
            taker.has.remove(sequence)
            taker.answered.append(sequence)
            self.acked.add(sequence)
            self.unsynced.add(sequence)

    def ack(self) -> None:
        """Some of what one has, in any order, sometimes with what it acked before or never had."""
        if not self.takers:
            return
        taker = self.random.choice(self.takers)
        chosen = self.random.sample(taker.has, self.random.randint(0, len(taker.has)))
        strange = [self.random.choice(taker.answered)] if taker.answered and self.random.random() < 0.3 else []
        self.live.machine.ack(taker.generation, array("Q", [*chosen, *strange]))
        self._done(taker, chosen)

    def ack_up_to(self) -> None:
        """Up to one of what it has; or a word that comes late or twice, which must ack nothing."""
        if not self.takers:
            return
        taker = self.random.choice(self.takers)
        if taker.answered and self.random.random() < 0.3:
            sequence = self.random.choice(taker.answered)
            if sequence not in taker.has:
                self._up_to_what_is_answered(taker, sequence)
                return
        if taker.has:
            at = self.random.randrange(len(taker.has))
            upto = taker.has[: at + 1]
            assert self.live.machine.ack_up_to(taker.generation, upto[-1]) == len(upto)
            self._done(taker, upto)

    def _up_to_what_is_answered(self, taker: Taker, sequence: int) -> None:
        """Acks nothing that was delivered since."""
        machine = self.live.machine
        acked = machine.ack_up_to(taker.generation, sequence)
        gone = [one for one in taker.has if not machine.deliveries_of(taker.generation, one)]
        assert len(gone) == acked
        order = {one: at for at, one in enumerate(taker.got)}
        assert all(order[one] < order[sequence] for one in gone), "acked by a word that was older"
        self._done(taker, gone)

    def retry(self) -> None:
        """One event again after a while; of an ordered share what is behind it too."""
        taker = self.random.choice(self.takers) if self.takers else None
        if taker is None or not taker.has:
            return
        sequence = self.random.choice(taker.has)
        due_us = self.now_us + self.random.choice([0, 1, 7]) * SECOND_US
        assert self.live.machine.retry(taker.generation, sequence, due_us)
        again = [sequence]
        if self.definition.kind == "ordered":
            again += [one for one in taker.has if one > sequence and self.share(one) == self.share(sequence)]
        for one in again:
            taker.has.remove(one)
        self.may_repeat.update(again)

    def park(self) -> None:
        """By its consumer."""
        taker = self.random.choice(self.takers) if self.takers else None
        if taker is None or not taker.has:
            return
        sequence = self.random.choice(taker.has)
        deliveries = self.live.machine.deliveries_of(taker.generation, sequence)
        assert deliveries > 0
        assert not self.live.machine.ack(taker.generation, array("Q", [sequence]))
        record, _ = find(self.feed.cached(sequence - 1).block, sequence)  # type: ignore[union-attr]
        assert record is not None
        self.live.park(record, deliveries, "by hand")
        self.aside.add(sequence)
        self._done(taker, [sequence])

    def leave(self) -> None:
        """In good order, or because its connection broke: the machine can't tell."""
        if self.takers:
            taker = self.random.choice(self.takers)
            self.live.machine.leave(taker.generation)
            self.sweep()

    def stale(self) -> None:
        """A word of somebody who is over."""
        if self.ended:
            taker = self.random.choice(self.ended)
            before = self.live.machine.stored()
            try:
                self.live.machine.ack(taker.generation, array("Q", [*taker.has, 1]))
            except Fenced:
                self.fenced += 1
            else:
                raise AssertionError(f"{taker.name} is over, and was heard")
            assert self.live.machine.stored() == before

    def wait(self) -> None:
        """Time passes: a little, or at a jump."""
        self.now_us += self.random.choice([1_000, 300_000, SECOND_US, 2 * SECOND_US, 60 * SECOND_US])
        late = {one for taker in self.takers for one in taker.has}
        self.live.machine.tick(self.now_us)
        self.sweep()
        if self.definition.kind == "competing":
            for taker in self.takers:
                for one in list(taker.has):
                    if not self.live.machine.deliveries_of(taker.generation, one):
                        assert one in late
                        taker.has.remove(one)
                        self.may_repeat.add(one)

    async def drain(self) -> None:
        """Everybody is gone but one, who acks all that it gets; with the server, or without, so that what it has in
        memory alone must do."""
        if self.random.random() < 0.5:
            self.kill()
        for taker in list(self.takers):
            self.live.machine.leave(taker.generation)
        self.sweep()
        self.join()
        taker = self.takers[0]
        for _ in range(10_000):
            if not await self.take_of(taker, 100) and not taker.has:
                self.now_us += 2 * SECOND_US
                self.live.machine.tick(self.now_us)
                self.live.machine.heard(taker.generation, self.now_us)
                if self.live.cursor() == len(self.log.events):
                    break
            self.live.machine.ack(taker.generation, array("Q", taker.has))
            self._done(taker, list(taker.has))
        self.commit()
