"""What is in flight, as a dict that is searched from end to end each time: the model of ext/inflight.

An event that is acked while an older one isn't stays here as "acked", so that it isn't handed out twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.naive_select import share_of

NEVER = (1 << 64) - 1
CODES = {"in flight": 1, "waiting": 2, "ready": 3, "acked": 4}


@dataclass
class Entry:
    """One event. `conversation` tells its share."""

    conversation: int
    deliveries: int
    consumer: int
    at_us: int
    state: str

    @property
    def share(self) -> int:
        """Of its conversation."""
        return share_of(self.conversation)


class NaiveInFlight:
    """By sequence; every question goes over all of it."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.position = 0

    def unacked(self) -> list[int]:
        """Ascending."""
        return sorted(sequence for sequence, one in self.entries.items() if one.state != "acked")

    def in_state(self, state: str) -> list[int]:
        """Ascending."""
        return sorted(sequence for sequence, one in self.entries.items() if one.state == state)

    @property
    def floor(self) -> int:
        """Everything up to here is acked."""
        return self.unacked()[0] - 1 if self.unacked() else self.position

    def tidy(self) -> None:
        """Acked ones before the first that isn't are of no more interest."""
        first = self.unacked()[0] if self.unacked() else NEVER
        self.entries = {sequence: one for sequence, one in self.entries.items() if sequence >= first}

    def deliver(
        self, events: Iterable[tuple[int, int]], consumer: int, deadline_us: int, known: dict[int, int]
    ) -> list[tuple[int, int]]:
        """Events are (sequence, conversation); what is sent, as (sequence, deliveries)."""
        sent = []
        for sequence, conversation in events:
            self.position = max(self.position, sequence)
            one = self.entries.get(sequence)
            if one is None:
                one = Entry(conversation, known.get(sequence, 0), 0, 0, "ready")
                self.entries[sequence] = one
            if one.state in ("waiting", "ready"):
                one.deliveries, one.consumer, one.at_us, one.state = (
                    one.deliveries + 1,
                    consumer,
                    deadline_us,
                    "in flight",
                )
                sent.append((sequence, one.deliveries))
        return sent

    def ack(self, sequences: Iterable[int], consumer: int) -> list[int]:
        """Refused ones."""
        refused, floor = [], self.floor
        for sequence in sequences:
            one = self.entries.get(sequence)
            if sequence <= floor or (one and one.state == "acked"):
                continue
            if one and one.consumer == consumer and one.state in ("in flight", "ready"):
                one.state = "acked"
            else:
                refused.append(sequence)
        self.tidy()
        return refused

    def ack_up_to(self, upto: int, consumer: int) -> int:
        """How many."""
        acked = [sequence for sequence in self.of_consumer(consumer) if sequence <= upto]
        for sequence in acked:
            self.entries[sequence].state = "acked"
        self.tidy()
        return len(acked)

    def settle(self, sequence: int) -> bool:
        """Acked, whoever has it."""
        if sequence not in self.unacked():
            return False
        self.entries[sequence].state = "acked"
        self.tidy()
        return True

    def extend(self, sequences: Iterable[int], consumer: int, deadline_us: int) -> list[int]:
        """Refused ones."""
        refused = []
        for sequence in sequences:
            if sequence in self.of_consumer(consumer):
                self.entries[sequence].at_us = deadline_us
            else:
                refused.append(sequence)
        return refused

    def retry(self, sequence: int, consumer: int, due_us: int, share_too: bool) -> int:
        """Deliveries so far."""
        one = self.entries.get(sequence)
        if one is None or one.consumer != consumer or one.state not in ("in flight", "ready"):
            return 0
        one.state, one.at_us = "waiting", due_us
        for later in self.unacked() if share_too else ():
            other = self.entries[later]
            if later > sequence and other.share == one.share:
                other.at_us = max(other.at_us, due_us) if other.state == "waiting" else due_us
                other.state = "waiting"
        return one.deliveries

    def expire(self, now_us: int, limit: int) -> list[tuple[int, int, int, int]]:
        """The first so many whose deadline is over."""
        over = [sequence for sequence in self.in_state("in flight") if self.entries[sequence].at_us <= now_us][:limit]
        found = []
        for sequence in over:
            one = self.entries[sequence]
            one.state = "ready"
            found.append((sequence, one.share, one.deliveries, one.consumer))
        return found

    def due(self, now_us: int, limit: int) -> list[int]:
        """The first so many that can be delivered again."""
        for sequence in self.in_state("waiting"):
            if self.entries[sequence].at_us <= now_us:
                self.entries[sequence].state = "ready"
        return self.in_state("ready")[:limit]

    def of_consumer(self, consumer: int) -> list[int]:
        """Ascending."""
        return [sequence for sequence in self.in_state("in flight") if self.entries[sequence].consumer == consumer]

    def of_share(self, share: int) -> list[int]:
        """Those not acked, ascending."""
        return [sequence for sequence in self.unacked() if self.entries[sequence].share == share]

    def find(self, sequence: int) -> tuple[int, int, int, int, int] | None:
        """As ext/inflight shows it."""
        if (one := self.entries.get(sequence)) is None:
            return None
        return one.share, one.deliveries, one.consumer, one.at_us, CODES[one.state]

    def earliest(self) -> int:
        """When something expires or comes due."""
        return min((one.at_us for one in self.entries.values() if one.state in ("in flight", "waiting")), default=NEVER)
