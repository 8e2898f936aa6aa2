"""What a user has missed: which stretches of which conversations, found in the log by walking back or reading forward.

Asked by catchup.py. The question is put together on the loop, from the view (`chains_of`); it is answered by any
thread that has a LogReader (`gather`, `read_page`). A chain is one visible interval of one conversation, so that
hidden intervals are never walked: each closed interval ends in an event of the conversation, where a walk can begin.

Two ways, and when. Walking back finds a user's events among millions of others', but newest first: all of the backlog
must be walked before its oldest page is known. With B events missed of D in the log, pages of E events cost about
B hops each, against D·E/B records read forward. So a walk may take √(D·E·r) hops (r: a forward record costs about
0.15 of a hop); if it hasn't come to the end by then, B is so large that reading forward is the cheaper way, and
nothing but the position is kept between pages. Either way a page costs no more than twice the better choice. Resumes
read forward only where the stretch is short and the chains are many; over their budget they get a gap.

Invariants: sequences of a backlog ascend, lie in (after, upto], and are all that the user may see there, except in
conversations named by a gap. Memory: 8 bytes an event found, at most KEPT_BYTES_MAX of records; a block for a page.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import NamedTuple

from engine.access import may_see
from engine.errors import LogDamaged, RecordDamaged, Trimmed
from engine.ports import Gap, LogReader, StateView
from engine.state.rows import Membership
from ext.events import BlockEvents
from ext.record import decode
from ext.sift import block_span, sift

KEPT_BYTES_MAX = 256 << 10
WALK_RECORDS = 128  # hops between two looks at the budget; bounds what a walk holds to 8 MiB of the largest records
SCAN_BYTES_MAX = 32 << 20  # log bytes read forward by one job; the position moves on, the next job goes on
GAP_BYTES_MAX = 64 << 10
GAPS_BYTES_MAX = 4 << 20  # of all gaps of a resume, which wait in memory for the client to take them one by one
SLOW_HOPS_MIN = 512
PAGE_EVENTS_USUAL = 200
FORWARD_PAGES_MAX = 8
FORWARD_SCAN_BYTES_MAX = 4 << 20  # of one of them
DENSE, DENSE_SPAN = 16, 64  # so many that are owed among so many of the log: their block is read instead of each
RECORDS_A_HOP = 4  # read forward while one chain is begun and walked one hop, cautiously

_SEQUENCE = slice(2, 10)
_CONVERSATION = slice(11, 19)
_PREVIOUS = slice(29, 37)
_TYPE = 75


def sequence_of(record: bytes) -> int:
    """Its sequence, read in place."""
    return int.from_bytes(record[_SEQUENCE])


def previous_of(record: bytes) -> int:
    """The sequence of the event before it in its conversation, 0 = none."""
    return int.from_bytes(record[_PREVIOUS])


class Chain(NamedTuple):
    """Events of a conversation with after < sequence <= last (None: no end), to be walked from `head` back."""

    membership: Membership
    head: int
    after: int
    last: int | None


class Question(NamedTuple):
    """What a user may have missed in (after, upto]; chains of one conversation are neighbours, newest first."""

    after: int
    upto: int
    chains: list[Chain]


class Budget(NamedTuple):
    """How far a walk may go. `events` per conversation and `gap_events` hold for resumes, where being over the budget
    makes a gap; otherwise (`gaps` false) it means reading forward."""

    hops: int
    events: int
    gap_events: int
    gaps: bool


class Backlog:
    """Sequences found, and some of their records. `upto`: up to there nothing else is owed."""

    __slots__ = ("gaps", "kept", "sequences", "upto")

    def __init__(self, upto: int, sequences: array[int], kept: dict[int, bytes], gaps: list[Gap]) -> None:
        self.upto = upto
        self.sequences = sequences
        self.kept = kept
        self.gaps = gaps

    def after(self, position: int, limit: int) -> list[int]:
        """The next sequences above a position."""
        at = bisect_right(self.sequences, position)
        return list(self.sequences[at : at + limit])


def slow_hops(distance: int, hops_min: int = SLOW_HOPS_MIN) -> int:
    """The hops after which a slow session's walk gives up in favour of reading `distance` records forward."""
    return max(hops_min, isqrt(distance * PAGE_EVENTS_USUAL * 3 // 20))


def chains_of(
    view: StateView, memberships: list[Membership], after: int, upto: int, floors: Mapping[int, int]
) -> list[Chain]:
    """The stretches that may hold missed events. `floors`: below these sequences a gap was told instead.

    The view may be ahead of `upto`: a chain may begin beyond it, and the walk skips what lies there.
    """
    chains = []
    heads = view.heads([membership.conversation for membership in memberships])
    for membership, newest in zip(memberships, heads, strict=True):
        intervals = membership.intervals
        ends = intervals[-1][1]
        if (newest if ends is None else ends) <= after:  # nothing new, and all earlier intervals end before this one
            continue
        floor = max(after, floors.get(membership.conversation, 0))
        for first, last in reversed(intervals):
            if first > upto or (last is not None and last <= floor):
                continue
            head = newest if last is None else last
            if head > floor:
                chains.append(Chain(membership, head, max(floor, first - 1), last))
    return chains


def visible(membership: Membership, record: bytes) -> bool:
    """may_see for a record inside a visible interval: only member events of channels need a closer look."""
    if membership.kind != "channel" or record[_TYPE : _TYPE + 7] != b"member.":
        return True
    return may_see(membership, membership.kind, decode(record))


class ChainBroken(Exception):
    """A walk can't go on: what lies at `sequence` was trimmed, or is damaged. `found`: what lay on the way to it."""

    def __init__(self, found: list[bytes], sequence: int, trimmed: bool) -> None:
        self.found = found
        self.sequence = sequence
        self.trimmed = trimmed
        super().__init__(f"the chain ends at sequence {sequence}")


def walk(reader: LogReader, conversation: int, head: int, after: int, limit: int) -> list[bytes]:
    """LogReader.walk; where it meets trimmed or damaged records, ChainBroken with all that could be read."""
    try:
        return reader.walk(head, conversation, after, limit)
    except (Trimmed, LogDamaged):
        found: list[bytes] = []
        while head > after and len(found) < limit:
            try:
                record = reader.record(head)
            except (Trimmed, LogDamaged) as error:
                raise ChainBroken(found, head, isinstance(error, Trimmed)) from None
            if record is None:
                raise ChainBroken(found, head, trimmed=False) from None
            found.append(record)
            head = previous_of(record)
        return found


class _Gathering:
    """One walk over all chains, its budget and what it has found."""

    def __init__(self, reader: LogReader, question: Question, budget: Budget) -> None:
        self.reader = reader
        self.question = question
        self.budget = budget
        self.hops_left = budget.hops
        self.sequences: array[int] = array("Q")
        self.kept: dict[int, bytes] = {}
        self.kept_bytes = 0
        self.gaps: list[Gap] = []
        self.gap_bytes_left = GAPS_BYTES_MAX
        self.gap_hops_left = max(budget.hops, budget.gap_events)

    def run(self) -> Backlog | None:
        """The backlog, or None if it is over the budget and no gaps are allowed."""
        chains = self.question.chains
        start = 0
        while start < len(chains):
            end = start + 1
            while end < len(chains) and chains[end].membership is chains[start].membership:
                end += 1
            if not self._conversation(chains[start:end]):
                return None
            start = end
        ascending = array("Q", sorted(self.sequences))
        return Backlog(self.question.upto, ascending, self.kept, self.gaps)

    def _conversation(self, chains: list[Chain]) -> bool:
        """All chains of one conversation, or a gap for it; False if that is not allowed."""
        found: array[int] = array("Q")
        newest: list[bytes] = []
        for chain in chains:
            head: int = chain.head
            while head > chain.after:
                limit = min(WALK_RECORDS, self.hops_left, self.budget.events + 1 - len(found))
                if limit <= 0:
                    return self._gap(chains, found, newest, head)
                try:
                    records = walk(self.reader, chain.membership.conversation, head, chain.after, limit)
                except ChainBroken as broken:
                    self._take(chain, broken.found, found, newest)
                    self._give_gap(chain.membership.conversation, found, newest)
                    return True
                if not records:
                    break
                self.hops_left -= len(records)
                self._take(chain, records, found, newest)
                head = previous_of(records[-1])
        self.sequences.extend(found)
        return True

    def _take(self, chain: Chain, records: list[bytes], found: array[int], newest: list[bytes]) -> None:
        upto = self.question.upto
        for record in records:
            sequence = sequence_of(record)
            if sequence > upto or not visible(chain.membership, record):
                continue
            found.append(sequence)
            if len(newest) < self.budget.gap_events:
                newest.append(record)
            self.kept[sequence] = record
            self.kept_bytes += len(record)
            while self.kept_bytes > KEPT_BYTES_MAX:  # the first that were found are needed last
                self.kept_bytes -= len(self.kept.pop(next(iter(self.kept))))

    def _gap(self, chains: list[Chain], found: array[int], newest: list[bytes], head: int) -> bool:
        """The budget is used up with `head` still to be walked."""
        if not self.budget.gaps:
            return False
        want = min(self.budget.gap_events - len(newest), self.gap_hops_left)
        chain = chains[0]
        if not found and want > 0 and head == chain.head:
            self.gap_hops_left -= want
            try:
                records = walk(self.reader, chain.membership.conversation, head, chain.after, want)
            except ChainBroken as broken:
                records = broken.found
            self._take(chain, records, found, newest)
            if records:
                head = previous_of(records[-1])
                if head <= chain.after and len(chains) == 1:
                    self.sequences.extend(found)  # that was all: no gap is needed
                    return True
        self._give_gap(chain.membership.conversation, found, newest)
        return True

    def _give_gap(self, conversation: int, found: array[int], newest: list[bytes]) -> None:
        """A gap instead of all that was found of a conversation; history goes on where `newest` ends."""
        for sequence in found:
            record = self.kept.pop(sequence, None)
            if record is not None:
                self.kept_bytes -= len(record)
        held, count = 0, 0
        most = min(GAP_BYTES_MAX, self.gap_bytes_left)
        while count < len(newest) and held + len(newest[count]) <= most:
            held += len(newest[count])
            count += 1
        del newest[count:]
        self.gap_bytes_left -= held
        before = self.question.upto + 1
        following = sequence_of(newest[-1]) if newest else before
        self.gaps.append(Gap(conversation, self.question.after, before, newest, following))


def gather(reader: LogReader, question: Question, budget: Budget) -> Backlog | None:
    """Walks all chains, or reads forward where there are so many that this is quicker for certain; None: over the
    budget, and no gaps are allowed."""
    if len(question.chains) * RECORDS_A_HOP >= question.upto - question.after:
        backlog = _gathered_forward(reader, question, budget)
        if backlog is not None:
            return backlog
    return _Gathering(reader, question, budget).run()


def _gathered_forward(reader: LogReader, question: Question, budget: Budget) -> Backlog | None:
    """The backlog of a short stretch of the log with many chains in it; None where only a walk knows the answer: a
    conversation is over its budget, or something can't be read."""
    sequences: array[int] = array("Q")
    kept: dict[int, bytes] = {}
    kept_bytes, reached = 0, question.after
    counts: dict[bytes, int] = {}
    try:
        for _ in range(FORWARD_PAGES_MAX):
            page, further = read_forward(
                reader, question._replace(after=reached), KEPT_BYTES_MAX, FORWARD_SCAN_BYTES_MAX
            )
            if further <= reached:
                return None
            reached = further
            for record in page:
                sequence = sequence_of(record)
                sequences.append(sequence)
                of = record[_CONVERSATION]
                counts[of] = counts.get(of, 0) + 1
                if kept_bytes + len(record) <= KEPT_BYTES_MAX:  # those that are needed first
                    kept[sequence] = record
                    kept_bytes += len(record)
            if reached >= question.upto:
                break
        else:
            return None
    except (Trimmed, LogDamaged):
        return None
    if (counts and max(counts.values()) > budget.events) or len(sequences) > budget.hops:
        return None
    return Backlog(question.upto, sequences, kept, [])


def _is_dense(sequences: Sequence[int], number: int) -> bool:
    return number + DENSE < len(sequences) and sequences[number + DENSE] - sequences[number] <= DENSE_SPAN


def _near(reader: LogReader, sequences: Sequence[int], bytes_max: int) -> dict[int, bytes]:
    """The records of the block that holds the first of these ascending sequences, as far as they lie in it and fill a
    page; {} where it can't be read whole: then each is asked for by itself."""
    try:
        blocks = reader.blocks_after(sequences[0] - 1, 1)
    except (Trimmed, LogDamaged):
        return {}
    if not blocks:
        return {}
    first, count = block_span(blocks[0])
    wanted = set(sequences[: bisect_left(sequences, first + count)])
    found: dict[int, bytes] = {}
    held = 0
    for event in BlockEvents(blocks[0], sequences[0] - 1):
        if event.sequence in wanted:
            found[event.sequence] = event.record
            held += len(event)
            if held > bytes_max or len(found) == len(wanted):
                break
    return found


def read_page(reader: LogReader, backlog: Backlog, position: int, bytes_max: int) -> list[bytes]:
    """The next records above a position, at least one if there is one."""
    page: list[bytes] = []
    held = 0
    wanted = backlog.after(position, bytes_max // 80)
    near: dict[int, bytes] = {}
    whole = True  # no block that was read for its records was damaged
    for number, sequence in enumerate(wanted):
        record = backlog.kept.pop(sequence, None) or near.get(sequence)
        if record is None and whole and _is_dense(wanted, number):
            near = _near(reader, wanted[number:], bytes_max)
            record = near.get(sequence)
            whole = record is not None
        if record is None:
            record = reader.record(sequence)
        if record is None:
            raise RecordDamaged(f"record {sequence} was walked over, and now there is none")
        if page and held + len(record) > bytes_max:
            backlog.kept[sequence] = record
            break
        page.append(record)
        held += len(record)
    return page


def read_forward(
    reader: LogReader, question: Question, bytes_max: int, scan_bytes_max: int = SCAN_BYTES_MAX
) -> tuple[list[bytes], int]:
    """(a page of what is owed, sequence up to which it is all), from `question.after` on, at most scan_bytes_max."""
    by_conversation: dict[int, list[Chain]] = {}
    for chain in question.chains:
        by_conversation.setdefault(chain.membership.conversation, []).append(chain)
    wanted = array("Q", sorted(by_conversation))
    page: list[bytes] = []
    held, scanned, reached = 0, 0, question.after
    while reached < question.upto and held < bytes_max and scanned < scan_bytes_max:
        blocks = reader.blocks_after(reached, 1)
        if not blocks:
            break
        for block in blocks:
            scanned += len(block)
            records, reached = sift(block, wanted, reached, question.upto, bytes_max - held)
            for record in records:
                if _in_chains(by_conversation[int.from_bytes(record[_CONVERSATION])], record):
                    page.append(record)
                    held += len(record)
            if held >= bytes_max:
                break
    return page, reached


def _in_chains(chains: list[Chain], record: bytes) -> bool:
    sequence = sequence_of(record)
    for chain in chains:
        if chain.after < sequence and (chain.last is None or sequence <= chain.last):
            return visible(chain.membership, record)
    return False
