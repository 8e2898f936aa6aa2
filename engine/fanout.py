"""The fan-out stop: one worker's interest, ring and outboxes behind plain calls.

After the router, before the sockets. A thin layer over ext/fanout (routing and flushing) and ext/pages (readers and
signals), so that the rest of the engine and the gateway know one object; what may be seen is decided before, by the
router and by catch-up.

Invariants: `follow_all` takes into account that the state may be ahead of what was routed: a session follows exactly
the conversations in which its user is a member at `sequence`, and the router changes that at the events themselves.
What `ahead` names is counted as routed: a new conversation has no earlier event that could be sent too early.
Interest is bounded: whoever would make it larger is in `take_lost`; hello asks `has_room` first.
`forget` comes before a session's number can be used again: a session that stayed behind in interest would hand
someone's events to a stranger.
Cost: a method call over the native ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.state.rows import Membership
from ext.fanout import Fanout as Native
from ext.interest import Interest
from ext.pages import Pages
from ext.ring import Ring
from ext.session_table import SessionTable

RANGES_MAX = 4096  # of one outbox, 8 bytes each


class Fanout:
    """One for each worker, on its loop. Limits are plain ints, see engine/options.py."""

    def __init__(
        self,
        sessions: SessionTable,
        *,
        sequence: int,
        ring_bytes: int = 64 << 20,
        priority_recipients_max: int = 64,
        ranges_max: int = RANGES_MAX,
        signal_bytes_max: int = 2048,
        interest_entries_max: int = 10_000_000,
    ) -> None:
        self.interest = Interest(sessions)
        self.ring = Ring(ring_bytes)
        self.native = Native(sessions, self.interest, self.ring, sequence, priority_recipients_max, ranges_max)
        self.pages = Pages(self.native, signal_bytes_max)
        self._entries_max = interest_entries_max
        self._left_out: list[int] = []  # sessions that interest has no room for
        self.ahead = 0  # the event, next to be routed, whose followers are being entered

    @property
    def sequence(self) -> int:
        """The last sequence routed."""
        return self.native.sequence

    @property
    def congested(self) -> bool:
        """Whether the flush must catch up before more is routed."""
        return self.native.congested

    # interest

    def follow_all(self, session: int, memberships: Iterable[Membership]) -> int:
        """Follows everything that the session's user is a member of, as of `sequence`; how many."""
        sequence = max(self.native.sequence, self.ahead)
        return self.interest.add_all(
            session, [membership.conversation for membership in memberships if _member_at(membership, sequence)]
        )

    def follow(self, conversation: int, session: int) -> None:
        """From the next routed record on the session gets this conversation."""
        if self.interest.entries < self._entries_max:
            self.interest.add(conversation, session)
        else:
            self._left_out.append(session)

    def has_room(self, memberships: int) -> bool:
        """Whether interest takes a session with so many."""
        return self.interest.entries + memberships <= self._entries_max

    def unfollow(self, conversation: int, session: int) -> None:
        """The opposite."""
        self.interest.remove(conversation, session)

    def forget(self, session: int) -> None:
        """The session is closed: nothing leads to it any more."""
        self.interest.drop(session)

    # routing and flushing

    def route(self, block: bytes, start: int, end: int | None = None) -> None:
        """Records start … end-1 of a block to everyone who follows their conversations."""
        if end is None:
            self.native.route(block, start)
        else:
            self.native.route(block, start, end)

    def route_to(self, block: bytes, index: int, sessions: list[int]) -> None:
        """One record to these sessions alone."""
        self.native.route_to(block, index, sessions)

    def flush(self, budget_us: int) -> bool:
        """Sends for that long, small conversations first; True if more is left, or somebody fell behind."""
        return self.native.flush(budget_us)

    def take_behind(self) -> list[int]:
        """Sessions that became readers since the last call: give them to catch-up."""
        return self.native.take_behind()

    def take_lost(self) -> list[int]:
        """Sessions whose connection broke in a send, or for whom there is no room, since the last call: close them."""
        left_out, self._left_out = self._left_out, []
        return self.native.take_lost() + left_out

    # readers and signals

    def send_records(self, session: int, records: list[bytes]) -> int:
        """Sends a page to a reader until its socket is full; how many records were begun."""
        return self.pages.send_records(session, records)

    def signal(self, conversation: int, msgpack: bytes, json: bytes, except_session: int = 0) -> int:
        """An ephemeral message to the live sessions that follow a conversation; how many got it."""
        return self.pages.signal(conversation, msgpack, json, except_session)

    def signal_to(self, sessions: Iterable[int], msgpack: bytes, json: bytes, except_session: int = 0) -> int:
        """An ephemeral message to these sessions, as far as they are live and not busy; how many got it."""
        return self.pages.signal_to(sessions, msgpack, json, except_session)

    def counters(self) -> dict[str, int]:
        """For the metrics."""
        return {
            **self.native.counters(),
            "signals_shed": self.pages.signals_shed,
            "interest_entries": self.interest.entries,
            "interest_bytes": self.interest.memory_bytes(),
        }


def _member_at(membership: Membership, sequence: int) -> bool:
    """Whether the user is in at this sequence: what the router will still see happen does not count yet."""
    first, last = membership.intervals[-1]
    if last is None and first <= sequence:  # nearly always: who came and stayed
        return True
    return any(first <= sequence and (last is None or last > sequence) for first, last in membership.intervals)
