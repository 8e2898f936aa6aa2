"""Load: one number for how far this process is behind, and what is shed because of it, in a stated order.

Asked by server.py: `tick` every TICK_S, `room` and `slice_us` each round; read by signals.py, commands.py and the
metrics. What is measured is time, for time was promised: how long a publish waits to be read (the loop's own lateness,
sockets that are ready) and with the writer (beyond two commits), how long a cold command waits for Python. Pressure is
the mean of that over some ticks, by what it may be: a process that gets too little of the processor is late again and
again, one that was stopped once is not. How slowly clients read is no load: it harms nobody else.

The order, from the first to be shed: typing, presence, questions (history, conversations, members), new connections,
publishes; never what had a receipt. Levels fall one at a time, after FALL_S well below. Publishes are refused natively,
in the very round that reads them: from level 4 on only so many may be with the writer as keep what is accepted within
its time. That window is never below a part of what was carried lately: a wait that shedding doesn't shorten isn't worth
it. Cold commands alone never cost a publish. Cost: a few additions a tick, a subtraction a round.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ext.poller import Poller

TICK_S: Final = 0.02
FALL_S: Final = 0.25
TYPING, PRESENCE, QUESTIONS, CONNECTIONS, PUBLISHES = range(1, 6)
NAMES: Final = ("nothing", "typing", "presence", "questions", "connections", "publishes")
THRESHOLDS: Final = (0.0, 0.15, 0.2, 0.3, 0.4, 0.5)  # of pressure, by level
FALL: Final = 0.6  # of its threshold, below which a level is left
COLD_WAIT_S: Final = 1.0  # what a cold command may wait
COMMITS: Final = 2.5  # that a publish waits for in any case: the one under way, its own, and the way there and back
SMOOTH: Final = 0.2  # weight of the newest tick
SLOWER: Final = 0.004  # ... for commits that have become slower: for some seconds that is a wait, then it is the disk
PART: Final = 0.1  # of the wait: so much may pass before a publish is read, as much with the writer
LONGER: Final = 4  # so many times the usual time for a slice, from level 4 on
UNLIMITED: Final = 0x7FFFFFFF
WINDOW_MIN: Final = 512  # a few milliseconds of work: some always go on, or nobody would learn that the load is over
WINDOW_GAIN: Final = 0.1  # a tick, by how far a wait is beyond its part
WINDOW_FALL: Final = 0.85  # a tick, at most
WINDOW_RISE: Final = 1.03
CARRIED_SHARE: Final = 0.4
CARRIED_FORGET: Final = 0.9995  # a tick: half of it in half a minute
RETRY_MS: Final = 400


def spread(middle_ms: int) -> int:
    """A hint when to come again: from half to one and a half of it, different for each, lest all come at once."""
    return middle_ms // 2 + random.randrange(middle_ms + 1)


class Progress(NamedTuple):
    """What has come and what has been done with it, ever growing; commits with the seconds that they took."""

    publishes: int
    answers: int
    commands: int
    handled: int
    commits: int
    commit_s: float


class Queue:
    """The age of the oldest that is not done, of things that are done in order and only counted."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()  # (how many had come, when they were seen)

    def age_s(self, come: int, done: int, now_s: float) -> float:
        """To be asked often: what came between two calls counts from the second."""
        marks = self._marks
        if come > (marks[-1][0] if marks else done):
            marks.append((come, now_s))
        while marks and marks[0][0] <= done:
            marks.popleft()
        return now_s - marks[0][1] if marks else 0.0


class Budget:
    """So much a second, for the whole process; half a second of it at once."""

    def __init__(self, per_s: int) -> None:
        self.per_s = per_s
        self._left, self._at_s = 0.0, 0.0

    def wait_ms(self, count: int, now_s: float) -> int:
        """0 and they are taken, or how long to wait. One that is larger than the budget waits until that is whole."""
        most = self.per_s / 2
        self._left = min(most, self._left + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        needed = min(count, most)
        if self._left < needed:
            return int((needed - self._left) / self.per_s * 1_000) + 1
        self._left -= count
        return 0


class Load:
    """One for each worker, on its loop."""

    def __init__(self, poller: Poller, progress: Callable[[], Progress], wait_s_max: float, members_per_s: int) -> None:
        self._poller, self._progress = poller, progress
        self.wait_s_max = wait_s_max
        self.members = Budget(members_per_s)
        self.level = 0
        self.pressure = 0.0
        self.window = float(WINDOW_MIN)  # publishes that may be under way, from level 4 on
        self._publishes, self._commands = Queue(), Queue()
        self._tick_s = self._calm_since_s = 0.0
        self._late_s = self._unread_s = self._engine_s = self._commit_s = 0.0  # smoothed
        self._answers_per_s = self._carried = 0.0
        self._under_way = self._rounds = 0  # since the last tick: a sum, and of how many
        self._is_idle = False  # ... the writer had nothing to do
        self._shed, self._is_shedding = 0, False
        self._seen = Progress(0, 0, 0, 0, 0, 0.0)

    def sheds(self, level: int) -> bool:
        """Whether this kind of thing is refused now."""
        return self.level >= level

    def room(self, under_way: int) -> int:
        """How many more publishes may go on to the writer, that has so many."""
        self._under_way += under_way
        self._rounds += 1
        self._is_idle |= under_way == 0
        return UNLIMITED if self.level < CONNECTIONS else max(0, int(self.window) - under_way)

    def slice_us(self, budget_us: int) -> int:
        """How long a slice of reading or sending is: longer when refusing, for who is not read can't be told, and what
        lies between two slices is paid for each."""
        return budget_us if self.level < CONNECTIONS else budget_us * LONGER

    def tick(self, now_s: float) -> None:
        """Measures, decides, tells the poller."""
        since_s = now_s - self._tick_s if self._tick_s else TICK_S
        self._tick_s = now_s
        found, most = self._progress(), self.wait_s_max
        self._note_commits(found)
        late_s, unread_s = max(0.0, since_s - TICK_S), self._poller.waited_us() / 1e6
        engine_s = self._publishes.age_s(found.publishes, found.answers, now_s) - COMMITS * self._commit_s
        self._late_s += (min(late_s, most) - self._late_s) * SMOOTH
        self._unread_s += (min(unread_s, most) - self._unread_s) * SMOOTH
        self._engine_s += (min(max(0.0, engine_s), most) - self._engine_s) * SMOOTH
        self._step_window(found.answers - self._seen.answers, since_s)
        self._seen = found
        cold = self._commands.age_s(found.commands, found.handled, now_s) / COLD_WAIT_S
        publish = (self._late_s + self._unread_s + self._engine_s) / most
        self.pressure = max(publish, cold)
        self._step_level(max(publish, min(cold, THRESHOLDS[PUBLISHES] - 0.01)), now_s)
        self._poller.shed(self.level > 0, self.level >= CONNECTIONS)

    def _step_window(self, answers: int, since_s: float) -> None:
        """How many publishes may be with the writer: fewer while one of the two waits is over its part, more while
        some are shed for nothing."""
        part_s = self.wait_s_max * PART
        shed, self._shed = self._shed, self._poller.shed_publishes()
        self._is_shedding = self._shed != shed
        under_way = self._under_way / self._rounds if self._rounds else 0.0
        self._under_way = self._rounds = 0
        is_idle, self._is_idle = self._is_idle, False
        self._answers_per_s += (answers / since_s - self._answers_per_s) * SMOOTH
        carried = self._answers_per_s * (part_s + COMMITS * self._commit_s)
        self._carried = max(carried, self._carried * CARRIED_FORGET)
        if self.level < CONNECTIONS:
            self.window = self._carried
        else:
            writer_s = under_way / max(self._answers_per_s, 1.0) - COMMITS * self._commit_s
            beyond = max(0.0 if is_idle else writer_s, self._unread_s) / part_s - 1
            if beyond > 0 or self._is_shedding:
                self.window *= min(WINDOW_RISE, max(WINDOW_FALL, 1 - WINDOW_GAIN * beyond))
            self.window = max(self.window, self._carried * CARRIED_SHARE)
        self.window = max(float(WINDOW_MIN), self.window)

    def _note_commits(self, found: Progress) -> None:
        """What a commit takes at best: a disk is not overloaded because it is slow. It follows what is quicker at once,
        what is slower in some seconds: commits that have become slow since then wait for something."""
        commits = found.commits - self._seen.commits
        if commits:
            mean_s = (found.commit_s - self._seen.commit_s) / commits
            weight = SMOOTH if mean_s < self._commit_s or not self._commit_s else SLOWER
            self._commit_s += (mean_s - self._commit_s) * weight

    def _step_level(self, pressure: float, now_s: float) -> None:
        risen = max(level for level, threshold in enumerate(THRESHOLDS) if pressure >= threshold)
        if self._is_shedding:
            risen = PUBLISHES
        if risen > self.level:
            self.level = risen
        if self.level == 0 or risen == self.level or pressure >= THRESHOLDS[self.level] * FALL:
            self._calm_since_s = now_s
        elif now_s - self._calm_since_s >= FALL_S:
            self.level -= 1
            self._calm_since_s = now_s

    @property
    def text(self) -> str:
        """What /readyz adds: a process under load is ready, or all of its load would fall on the others."""
        if not self.level:
            return ""
        return f"; under load, shedding {', '.join(NAMES[1 : self.level + 1])}"
