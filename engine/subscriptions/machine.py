"""What both kinds of subscription have in common: what they want read, and how often an event was delivered already.

A machine (group.py with ordered.py or competing.py) knows consumers, positions and what is in flight. It does no I/O
and has no clock: live.py asks it what to read (`Read`) and shows it what was found (`Picks`), of which it takes what
may go out. Times are µs of a monotonic clock, given with each call, so that a simulation can drive it by a seed.

Invariants: an event that was delivered before is counted in `Counts` until it is acked or parked; from half of
`deliveries_max` on it goes out alone, so that a crash is counted for what crashed the consumer and not for all that
it held; at `deliveries_max` it is parked. Cost: nothing an event while no event is delivered twice.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from engine.subscriptions.definition import Settings
from ext.picks import Picks

END: Final = 2**53 - 1  # a sequence behind all
SECOND_US: Final = 1_000_000
BACKOFF_DOUBLINGS_MAX: Final = 40  # more than any retry_max needs
DELIVERIES_COUNTED_MAX: Final = 65_535
PARKED_MAX: Final = 100_000  # of a subscription; beyond it events go on being delivered, until people have looked


class Read(NamedTuple):
    """What is to be read next: events with after < sequence ≤ upto, of some shares (None: all), at most so many. Or
    `again`: of these events, which were handed out before, those that lie in the block behind `after`."""

    after: int
    upto: int
    events_max: int
    shares: bytes | None = None
    again: array[int] | None = None


class Parked(NamedTuple):
    """An event that is put aside instead of going out."""

    sequence: int
    deliveries: int


class Counts:
    """How often events were delivered that will be again. `known` has nothing of those that are in flight for the first
    time; what has changed waits in `take_moved`."""

    def __init__(self, known: dict[int, int] | None = None) -> None:
        self.known = known or {}
        self._stored = set(self.known)
        self._moved: set[int] = set()

    def note(self, sequence: int, deliveries: int) -> None:
        """It was delivered so often, and is not in flight any more."""
        self.known[sequence] = min(deliveries, DELIVERIES_COUNTED_MAX)
        if deliveries > 1:  # a first delivery is not worth a row: a whole batch has it whenever a consumer goes
            self._moved.add(sequence)

    def forget(self, sequence: int) -> None:
        """It is acked or parked."""
        if self.known.pop(sequence, None) is not None:
            self._moved.add(sequence)

    def clear(self) -> None:
        """Of all."""
        self._moved.update(self.known)
        self.known.clear()

    def take_moved(self) -> Iterator[tuple[int, int]]:
        """What is to be written: sequence and deliveries, 0 = the row goes."""
        moved, self._moved = self._moved, set()
        for sequence in sorted(moved):
            deliveries = self.known.get(sequence, 0)
            if deliveries > 1:
                self._stored.add(sequence)
                yield sequence, deliveries
            elif sequence in self._stored:
                self._stored.discard(sequence)
                yield sequence, 0


def backoff_us(settings: Settings, deliveries: int, jitter: float) -> int:
    """Before the next delivery: twice as long each time; `jitter` (0 to 1) takes away up to half of it, so that what
    failed together doesn't come back together."""
    doubled = settings.retry_min_s * 2.0 ** min(max(deliveries - 1, 0), BACKOFF_DOUBLINGS_MAX)
    return int(min(settings.retry_max_s, doubled) * SECOND_US * (1 - jitter / 2))


class Sieved(NamedTuple):
    """What `sieve` has done to picks: how far what is left of them reaches, what is to be parked, and whether the
    consumer gets nothing else until this is answered."""

    reached: int
    parked: list[Parked]
    is_alone: bool


def sieve(picks: Picks, reached: int, counts: Counts, deliveries_max: int, *, is_full: bool, is_busy: bool) -> Sieved:
    """Throws out what has been delivered too often, and cuts off before or behind what must go out alone. `is_full`:
    no more can be parked; `is_busy`: the consumer has something in flight."""
    known = counts.known
    if not known or not deliveries_max:
        return Sieved(reached, [], False)
    sequences = picks.sequences()
    alone_from = max(1, deliveries_max // 2)
    wanted = bytearray(b"\1") * len(sequences)
    parked: list[Parked] = []
    is_alone = taken = False
    for at, sequence in enumerate(sequences):
        deliveries = known.get(sequence, 0)
        if deliveries >= deliveries_max and not is_full:
            wanted[at] = 0
            parked.append(Parked(sequence, deliveries))
        elif deliveries >= alone_from:
            cut = at if taken or is_busy else at + 1
            wanted[cut:] = bytes(len(sequences) - cut)
            reached, is_alone = sequence - (cut == at), True
            break
        else:
            taken = True
    if parked or is_alone:
        picks.keep(bytes(wanted))
    return Sieved(reached, parked, is_alone)
