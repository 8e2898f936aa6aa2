"""Who may see which event: the one function that live routing, resume, slow readers and history all ask.

A membership is a list of intervals of shard sequences. The story behind intervals: A is removed at 100 and comes
back at 200; what was said in between must stay hidden for ever, also in a history page fetched years later.

Invariants: the event of one's own removal is seen (it is the interval's last), nothing after it; in channels,
member events are seen by their subject and their sender alone, so that followers stay unknown to each other.
Cost: a few integer comparisons; the payload is looked at only for member events of channels.
"""

from __future__ import annotations

from engine.schema import unpack
from engine.state.rows import Membership
from ext.record import Record

MEMBER_PREFIX = "member."


def interval_holds(membership: Membership, sequence: int) -> bool:
    """Whether a shard sequence lies in a visible interval."""
    return any(first <= sequence and (last is None or sequence <= last) for first, last in membership.intervals)


def subject_of(record: Record) -> int:
    """The user whom a member event is about."""
    return int(getattr(unpack(record.type, record.payload), "user", 0))


def may_see(membership: Membership | None, kind: str, record: Record) -> bool:
    """Whether the membership's user may see this record of its conversation."""
    if membership is None or not interval_holds(membership, record.sequence):
        return False
    if kind != "channel" or not record.type.startswith(MEMBER_PREFIX):
        return True
    return membership.user in (record.sender, subject_of(record))
