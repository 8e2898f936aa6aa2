"""History: a page of a conversation, newest first, from any sequence back.

Asked by the gateway for the `history` command. Put together on the loop (`ask`), read by a thread of the pool
(`read`), finished on the loop again (`finish`, because tombstones are the view's).

Invariants: only what the user may see, hidden intervals are jumped; `next` is the sequence of an event of the
conversation, from which going on costs one look-up, or None at the beginning. A page may hold fewer events than asked
for, even none, and still have a `next`: where a channel's member events are hidden, looking ends after HOPS_MAX.
Damage ends a page, which says so; the next one begins beneath it.
Cost: a hop an event. A `before` that is no event of the conversation is searched from the newest one back.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from engine.backlog import (
    WALK_RECORDS,
    Chain,
    ChainBroken,
    chains_of,
    previous_of,
    sequence_of,
    visible,
    walk,
)
from engine.beneath import beneath
from engine.errors import BadArgument, LogDamaged, Trimmed
from engine.ports import LogReader, StateView
from engine.readers import Again
from engine.tombstones import with_tombstones

HOPS_MAX = 5_000
SEARCH_HOPS_MAX = 500_000
BENEATH_TURNS_MAX = 256  # of looking for what lies beneath damage: 2 GiB of log
SEARCH_TURN_HOPS = 10_000  # of a search, before others have their turn at the thread
BYTES_MAX = 256 << 10


class HistoryQuestion(NamedTuple):
    """A page's worth of what the loop knew: chains, newest first."""

    conversation: int
    chains: list[Chain]
    before: int
    limit: int
    searched: int = 0  # hops of the search for `before` so far, and where it stands
    search_head: int = 0
    beneath: int = 0  # everything from here up to `before` was searched beneath damage, in so many turns
    turns: int = 0


class HistoryPage(NamedTuple):
    """Stored records, newest first. `trimmed`: older ones were removed by retention; `damaged`: the next older ones
    can't be read, and `next` leads to what lies beneath them."""

    events: list[bytes]
    next: int | None
    trimmed: bool
    damaged: bool


def ask(view: StateView, user: int, conversation: int, before: int | None, limit: int) -> HistoryQuestion | None:
    """On the loop. None: unknown, or never theirs (the two are not told apart)."""
    membership = view.membership(user, conversation)
    if membership is None or not membership.intervals:
        return None
    # The saved state may be ahead of the view, and with it heads: what the view has not come to is not in the page.
    beyond = view.sequence + 1
    chains = chains_of(view, [membership], 0, view.sequence, {})
    return HistoryQuestion(conversation, chains, min(before or beyond, beyond), limit)


def read(reader: LogReader, question: HistoryQuestion) -> HistoryPage | Again:
    """In any thread with a reader; Again where `before` has to be searched for long."""
    events: list[bytes] = []
    held, hops = 0, 0
    older = [chain for chain in question.chains if chain.after + 1 < question.before]
    try:
        for place, chain in enumerate(older):
            start = _start(reader, question, chain)
            if isinstance(start, HistoryQuestion):
                return Again(partial(read, question=start))
            head = start
            while head > chain.after:
                wanted = min(WALK_RECORDS, max(question.limit - len(events), 1))
                for record in walk(reader, question.conversation, head, chain.after, wanted):
                    hops += 1
                    head = previous_of(record)
                    if visible(chain.membership, record):
                        events.append(record)
                        held += len(record)
                    if len(events) >= question.limit or held >= BYTES_MAX or hops >= HOPS_MAX:
                        more = head > chain.after or place + 1 < len(older)
                        return HistoryPage(events, sequence_of(record) if more else None, False, False)
    except ChainBroken as broken:
        events.extend(
            record
            for record in broken.found
            if sequence_of(record) < question.before and visible(chain.membership, record)
        )
        following = None if broken.trimmed or broken.sequence <= older[-1].after else broken.sequence
        return _broken_page(events, question.limit, broken.trimmed, following)
    except Trimmed:  # while looking beneath damage
        return HistoryPage(events, None, trimmed=True, damaged=False)
    return HistoryPage(events, None, False, False)


def _broken_page(events: list[bytes], limit: int, trimmed: bool, following: int | None) -> HistoryPage:
    """A page of a chain that leads into what can't be read; what lies beneath damage begins below `following`. More
    than a page may have been found, by a search for `before`: then the end is a later page's to tell."""
    held = 0
    for place, record in enumerate(events, 1):
        held += len(record)
        if place < len(events) and (place >= limit or held >= BYTES_MAX):
            return HistoryPage(events[:place], sequence_of(record), False, False)
    return HistoryPage(events, following, trimmed, not trimmed)


def _start(reader: LogReader, question: HistoryQuestion, chain: Chain) -> int | HistoryQuestion:
    """The newest event of the chain before `question.before`, at or below chain.after if there is none; or the question
    with which the search goes on: only in the first chain, the others lie before it."""
    if chain.head < question.before:
        return chain.head
    if question.beneath:
        return _beneath(reader, question, chain)
    if not question.searched:
        try:
            record = reader.record(question.before)
        except Trimmed:
            record = None
        except LogDamaged:
            return _beneath(reader, question, chain)
        if record is not None and int.from_bytes(record[11:19]) == question.conversation:
            return previous_of(record)
    head = question.search_head or chain.head
    hops = 0
    while question.searched + hops < SEARCH_HOPS_MAX:
        if hops >= SEARCH_TURN_HOPS:
            return question._replace(searched=question.searched + hops, search_head=head)
        hops += WALK_RECORDS
        try:
            records = walk(reader, question.conversation, head, chain.after, WALK_RECORDS)
        except ChainBroken as broken:
            if broken.trimmed:
                raise
            return _beneath(reader, question, chain)
        for found in records:
            head = previous_of(found)
            if head < question.before:
                return head
        if head <= chain.after:
            return head
    raise BadArgument(
        f"before = {question.before}: not an event of conversation {question.conversation}, and more than"
        f" {SEARCH_HOPS_MAX} events older than its newest",
        hint="page from the newest event, or give the sequence of one of its events",
    )


def _beneath(reader: LogReader, question: HistoryQuestion, chain: Chain) -> int | HistoryQuestion:
    """`_start` where damage lies between the chain's newest event and `before`."""
    found, searched = beneath(reader, question.conversation, question.beneath or question.before, chain.after)
    if found is not None:
        return found
    if searched <= chain.after + 1:
        return chain.after
    if question.turns >= BENEATH_TURNS_MAX:
        raise ChainBroken([], chain.after, trimmed=False)
    return question._replace(beneath=searched, turns=question.turns + 1)


def finish(view: StateView, page: HistoryPage) -> HistoryPage:
    """On the loop: what was deleted becomes a tombstone."""
    return page._replace(events=with_tombstones(view, page.events))
