"""Catch-up: the one way in which a session that is behind gets what it is owed, resuming or slow.

A reader (S_READER) has a position and nothing else; the router adds nothing to its outbox. Each step: ask what its
user may see in (position, routed], send a page of it, oldest first, move the position. When the position is the
routed sequence the session flips to live in that very step, on the loop, so nothing falls between. A full socket ends
the step; `writable` begins the next. A position beyond the routed sequence waits for the tail.

Small questions are answered on the loop, from blocks that have just been written; the others by the pool. A resume's
first question may answer with gaps, which go out before any later event; slow sessions get everything.

Invariants: at most one job a session; what is sent ascends and starts above the position (ext/pages holds that too).
Memory: nothing for a slow session but its position; gaps that wait, up to GAPS_HELD_BYTES_MAX; sequences of found
backlogs, up to PLANNED_MAX, the one not used for longest is forgotten and found again. See backlog.py for its pages.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import partial

from engine.backlog import (
    SLOW_HOPS_MIN,
    Backlog,
    Budget,
    Question,
    chains_of,
    gather,
    read_forward,
    read_page,
    slow_hops,
)
from engine.errors import EngineError, EngineUnable, LogDamaged, Trimmed
from engine.fanout import Fanout
from engine.ports import Door, Gap, LogReader, StateView
from engine.readers import ReaderPool
from engine.state.rows import Membership
from engine.tombstones import with_tombstones

PLANNED_MAX = 1 << 20  # sequences in all kept backlogs: 8 MiB
GAPS_HELD_BYTES_MAX = 64 << 20  # of all sessions, not taken yet: beyond it gaps come bare, beyond twice it not at all
GAP_BYTES = 400  # what a gap takes beside its events
INLINE_HOPS_MAX = 48
INLINE_CHAINS_MAX = 12
INLINE_ROUNDS_MAX = 4
INLINE_DISTANCE_MAX = 65_536  # events behind the tail: their blocks are in memory for certain


class Resume:
    """What is remembered of a session between its hello and its flip."""

    __slots__ = ("asked", "floors", "gap_bytes", "gaps", "known", "known_at", "wanted")

    def __init__(self, wanted: bool, known: list[Membership] | None = None, known_at: int = 0) -> None:
        self.wanted = wanted  # False: a slow session that met trimmed or damaged records
        self.known, self.known_at = known, known_at  # its user's memberships, as the view had them at that sequence
        self.asked = False
        self.floors: dict[int, int] = {}
        self.gaps: deque[Gap] = deque()
        self.gap_bytes = 0


Answer = tuple[Backlog | None, list[bytes], int]
"""A backlog to go on with (None: read forward), a page, the sequence up to which the page is all."""


class CatchUp:
    """One for each worker, on its loop."""

    def __init__(
        self,
        view: StateView,
        fanout: Fanout,
        reader: LogReader,
        pool: ReaderPool,
        door: Door,
        *,
        page_bytes: int = 64 << 10,
        resume_events_max: int = 1_000,
        resume_hops_max: int = 20_000,
        gap_newest_events: int = 30,
        inline_hops_max: int = INLINE_HOPS_MAX,
        slow_hops_min: int = SLOW_HOPS_MIN,
    ) -> None:
        self._view = view
        self._fanout = fanout
        self._pages = fanout.pages
        self._reader = reader
        self._pool = pool
        self._door = door
        self._page_bytes = page_bytes
        self._inline_hops_max, self._slow_hops_min = inline_hops_max, slow_hops_min
        self._resume_budget = Budget(resume_hops_max, resume_events_max, gap_newest_events, gaps=True)
        self._ready: deque[int] = deque()
        self._queued: set[int] = set()
        self._working: set[int] = set()
        self._beyond: set[int] = set()
        self._resumes: dict[int, Resume] = {}
        self._backlogs: OrderedDict[int, Backlog] = OrderedDict()
        self._planned = self._gap_bytes = 0
        self.resumes = self.jobs = self.walked_pages = self.forward_pages = 0

    # what happens to sessions

    def begin(self, session: int, position: int, memberships: list[Membership] | None = None) -> bool:
        """A resume: its interest is registered, its `welcome` pushed. False if the session is gone. `memberships`: its
        user's, where they were just read; they are asked for again if more was folded by the time they are needed."""
        origin = self._pages.origin_of(session)
        if not origin or not self._pages.read_on(origin, position):
            return False
        self._forget(origin)
        self._resumes[origin] = Resume(True, memberships, self._view.sequence)
        self._queue(origin)
        self.resumes += 1
        return True

    def fell_behind(self, sessions: Iterable[int]) -> None:
        """What fanout.take_behind reported."""
        for session in sessions:
            self._queue(session)

    def writable(self, sessions: Iterable[int]) -> None:
        """Readers whose sockets can take more."""
        for session in sessions:
            self._queue(self._pages.origin_of(session))

    def tail_moved(self) -> None:
        """More was routed: readers that waited for it go on."""
        for origin in self._beyond:
            self._queue(origin)
        self._beyond.clear()

    def forget(self, session: int) -> None:
        """The session is closed (tell before its number is free again)."""
        origin = self._pages.origin_of(session)
        self._forget(origin)
        self._beyond.discard(origin)

    def counters(self) -> dict[str, int]:
        """For the metrics."""
        return {
            "resumes": self.resumes,
            "catchup_jobs": self.jobs,
            "walked_pages": self.walked_pages,
            "forward_pages": self.forward_pages,
            "planned_sequences": self._planned,
        }

    def reading(self) -> int:
        """Sessions that wait for a turn or for a page."""
        return len(self._queued) + len(self._working) + len(self._beyond)

    # steps

    def run(self, budget_us: int) -> bool:
        """Steps for about that long; True if more is ready."""
        until = time.monotonic_ns() + budget_us * 1_000
        while self._ready:
            origin = self._ready.popleft()
            self._queued.discard(origin)
            if origin not in self._working:
                self._step(origin)
            if time.monotonic_ns() >= until:
                break
        return bool(self._ready)

    def _queue(self, origin: int) -> None:
        if origin and origin not in self._queued:
            self._queued.add(origin)
            self._ready.append(origin)

    def _step(self, origin: int) -> None:
        """As far as this session gets without waiting: nothing is routed meanwhile, so the flip can't be outrun."""
        for _ in range(INLINE_ROUNDS_MAX):
            if not self._pages.can_send(origin):
                if self._pages.position_of(origin) is None:
                    self._forget(origin)
                return
            resume = self._resumes.get(origin)
            if resume is not None and not self._push_gaps(origin, resume):
                return
            position = self._pages.position_of(origin)
            if position is None:
                return
            if position > self._fanout.sequence:
                self._beyond.add(origin)
                return
            if self._pages.go_live(origin):
                self._forget(origin)
                self._door.live(origin, resume is not None and resume.wanted)
                return
            try:
                if not self._ask(origin, position, resume):
                    return
            except EngineError as error:
                self._failed(origin, error)
                return
        self._queue(origin)

    def _push_gaps(self, origin: int, resume: Resume) -> bool:
        """One gap at a time, so that a client that doesn't read holds at most one; True when none is left."""
        while resume.gaps:
            if not self._pages.send_control(origin):
                return False
            gap = resume.gaps.popleft()
            self._count_gap(resume, -1, gap)
            self._door.gap(origin, gap._replace(newest=with_tombstones(self._view, gap.newest)))
        return True

    def _ask(self, origin: int, position: int, resume: Resume | None) -> bool:
        """Finds what comes next; True if it was sent at once, False if it has to be waited for."""
        backlog = self._take_backlog(origin)
        if backlog is not None and backlog.upto <= position:
            backlog = None
        if backlog is not None:
            question = Question(position, backlog.upto, [])
        else:
            routed = self._fanout.sequence
            memberships = self._memberships(origin, resume)
            chains = chains_of(self._view, memberships, position, routed, resume.floors if resume else {})
            if not chains:
                self._pages.skip_to(origin, routed)
                return True
            question = Question(position, routed, chains)
            if self._answer_inline(origin, question, resume):
                return True
        budget = self._budget(question, resume)
        self._working.add(origin)
        self.jobs += 1
        job = partial(answer, question=question, backlog=backlog, budget=budget, page_bytes=self._page_bytes)
        self._pool.submit(job, partial(self._answered, origin), origin)
        return False

    def _memberships(self, origin: int, resume: Resume | None) -> list[Membership]:
        if resume is not None and resume.known is not None:
            known, resume.known = resume.known, None
            if resume.known_at == self._view.sequence:
                return known
        return self._view.memberships(self._pages.user_of(origin))

    def _budget(self, question: Question, resume: Resume | None) -> Budget:
        if resume is not None and not resume.asked:
            resume.asked = True
            if self._gap_bytes > 2 * GAPS_HELD_BYTES_MAX:
                raise EngineUnable(f"{self._gap_bytes} bytes of gaps wait for others to take them")
            bare = self._gap_bytes > GAPS_HELD_BYTES_MAX
            return self._resume_budget._replace(gap_events=0) if bare else self._resume_budget
        hops = slow_hops(question.upto - question.after, self._slow_hops_min)
        return Budget(hops, hops, 0, gaps=False)

    def _answer_inline(self, origin: int, question: Question, resume: Resume | None) -> bool:
        """Answers on the loop if that is quick for certain."""
        if len(question.chains) > INLINE_CHAINS_MAX or question.upto - question.after > INLINE_DISTANCE_MAX:
            return False
        events = self._inline_hops_max
        if resume is not None and not resume.asked:
            events = min(events, self._resume_budget.events)
        backlog = gather(self._reader, question, Budget(self._inline_hops_max, events, 0, gaps=False))
        if backlog is None or len(backlog.kept) < len(backlog.sequences) or backlog.gaps:
            return False
        if resume is not None:
            resume.asked = True
        page = read_page(self._reader, backlog, question.after, self._page_bytes)
        self._send(origin, (backlog, page, question.upto))
        return True

    def _answered(self, origin: int, outcome: Answer | Exception) -> None:
        """A job's answer: send it, and go on."""
        self._working.discard(origin)
        if self._pages.position_of(origin) is None:
            self._forget(origin)
        elif isinstance(outcome, Exception):
            self._failed(origin, outcome)
        else:
            if outcome[0] is not None and outcome[0].gaps:
                self._note_gaps(origin, outcome[0])
            resume = self._resumes.get(origin)
            if resume is None or self._push_gaps(origin, resume):
                self._send(origin, outcome)
            else:
                self._keep(origin, outcome[0])
            self._queue(origin)

    def _send(self, origin: int, found: Answer) -> None:
        """Sends a page as far as the socket takes it, and moves the position over what needn't be sent."""
        backlog, page, upto = found
        if backlog is None:
            self.forward_pages += 1
        else:
            self.walked_pages += 1
        taken = self._fanout.send_records(origin, with_tombstones(self._view, page)) if page else 0
        position = self._pages.position_of(origin)
        if taken == len(page) and position is not None and (backlog is None or not backlog.after(position, 1)):
            self._pages.skip_to(origin, upto)
        self._keep(origin, backlog)

    def _failed(self, origin: int, error: Exception) -> None:
        """Trimmed or damaged where it reads: the next question may answer with gaps. Anything else ends the session."""
        resume = self._resumes.get(origin)
        if isinstance(error, (Trimmed, LogDamaged)) and (resume is None or resume.asked):
            if resume is None:
                resume = self._resumes[origin] = Resume(wanted=False)
            resume.asked = False
            self._queue(origin)
            return
        self._forget(origin)
        self._door.failed(origin, error)

    def _note_gaps(self, origin: int, backlog: Backlog) -> None:
        resume = self._resumes.setdefault(origin, Resume(wanted=False))
        for gap in backlog.gaps:
            self._count_gap(resume, 1, gap)
        resume.gaps.extend(backlog.gaps)
        resume.floors.update((gap.conversation, gap.before - 1) for gap in backlog.gaps)
        backlog.gaps = []

    def _count_gap(self, resume: Resume, sign: int, gap: Gap) -> None:
        size = sign * (GAP_BYTES + sum(map(len, gap.newest)))
        resume.gap_bytes += size
        self._gap_bytes += size

    # backlogs kept between pages

    def _keep(self, origin: int, backlog: Backlog | None) -> None:
        position = self._pages.position_of(origin)
        if backlog is None or position is None or not backlog.after(position, 1):
            return
        if not self._pages.can_send(origin):
            backlog.kept.clear()  # a slow session keeps no records
        self._backlogs[origin] = backlog
        self._planned += len(backlog.sequences)
        while self._planned > PLANNED_MAX:
            self._planned -= len(self._backlogs.popitem(last=False)[1].sequences)

    def _take_backlog(self, origin: int) -> Backlog | None:
        backlog = self._backlogs.pop(origin, None)
        if backlog is not None:
            self._planned -= len(backlog.sequences)
        return backlog

    def _forget(self, origin: int) -> None:
        resume = self._resumes.pop(origin, None)
        if resume is not None:
            self._gap_bytes -= resume.gap_bytes
        self._take_backlog(origin)


def answer(
    reader: LogReader, *, question: Question, backlog: Backlog | None, budget: Budget, page_bytes: int
) -> Answer:
    """In a thread of the pool: the next page of a question, by walking back if the budget allows, else forward."""
    if backlog is None:
        backlog = gather(reader, question, budget)
    if backlog is None:
        page, reached = read_forward(reader, question, page_bytes)
        return None, page, reached
    return backlog, read_page(reader, backlog, question.after, page_bytes), backlog.upto
