"""Load: one number for how far this process is behind, and what is shed because of it, in a stated order.

Asked by server.py every TICK_S; read by signals.py, commands.py and the metrics. What is measured is time, for time is
what was promised: how long a publish waits before the writer takes it (ready sockets, the loop's own lag, the engine
beyond two commits) and how long a cold command waits for Python. Pressure is that wait by what it may be.

The order, from the first to be shed: typing, presence, questions (history, conversations, members), new connections,
publishes. Nothing is ever shed that had a receipt. Levels rise at once, after two ticks that agree, and fall one at
a time, after FALL_S well below, so that nothing flickers. Publishes are refused natively and by share: the share
that goes on falls while they wait too long and grows slowly again, so that what is accepted keeps its time and the
rest is told at once to come again. Cold commands alone never cost a publish: they wait in another queue.

Cost: a few additions a tick.
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
SHARE_ALL: Final = 1024
SHARE_MIN: Final = 32  # some always go on, or nobody would learn that the load is over
SHARE_STEP: Final = 12
SHARE_FALL: Final = 0.85
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
        self.share = SHARE_ALL
        self._publishes, self._commands = Queue(), Queue()
        self._due_s = 0.0
        self._wanted = 0
        self._calm_since_s = 0.0
        self._commit_s = 0.0
        self._seen = Progress(0, 0, 0, 0, 0, 0.0)

    def sheds(self, level: int) -> bool:
        """Whether this kind of thing is refused now."""
        return self.level >= level

    def tick(self, now_s: float) -> None:
        """Measures, decides, tells the poller."""
        lag_s = max(0.0, now_s - self._due_s) if self._due_s else 0.0
        self._due_s = now_s + TICK_S
        found = self._progress()
        self._note_commits(found)
        engine_s = self._publishes.age_s(found.publishes, found.answers, now_s)
        wait_s = lag_s + self._poller.waited_us() / 1e6 + max(0.0, engine_s - COMMITS * self._commit_s)
        cold = self._commands.age_s(found.commands, found.handled, now_s) / COLD_WAIT_S
        publish = wait_s / self.wait_s_max
        self.pressure = max(publish, cold)
        self._step_share(publish)
        self._step_level(max(publish, min(cold, THRESHOLDS[PUBLISHES] - 0.01)), now_s)
        self._poller.shed(self.level > 0, self.level >= CONNECTIONS, self.share)

    def _note_commits(self, found: Progress) -> None:
        """The mean of the commits of the last ticks, smoothed: a disk is not overloaded because it is slow."""
        commits = found.commits - self._seen.commits
        if commits:
            mean_s = (found.commit_s - self._seen.commit_s) / commits
            self._commit_s += (mean_s - self._commit_s) * 0.2
        self._seen = found

    def _step_level(self, pressure: float, now_s: float) -> None:
        wanted = max(level for level, threshold in enumerate(THRESHOLDS) if pressure >= threshold)
        risen, self._wanted = min(wanted, self._wanted), wanted
        if self.share < SHARE_ALL:
            risen = PUBLISHES
        if risen > self.level:
            self.level = risen
        if self.level == 0 or risen == self.level or pressure >= THRESHOLDS[self.level] * FALL:
            self._calm_since_s = now_s
        elif now_s - self._calm_since_s >= FALL_S:
            self.level -= 1
            self._calm_since_s = now_s

    def _step_share(self, publish: float) -> None:
        if publish >= THRESHOLDS[PUBLISHES] and self._wanted == PUBLISHES:
            self.share = max(SHARE_MIN, int(self.share * (SHARE_FALL if publish < 1 else SHARE_FALL**3)))
        elif publish < THRESHOLDS[CONNECTIONS] and self.share < SHARE_ALL:
            self.share = min(SHARE_ALL, self.share + SHARE_STEP)

    @property
    def text(self) -> str:
        """What /readyz adds: a process under load is ready, or all of its load would fall on the others."""
        if not self.level:
            return ""
        return f"; under load, shedding {', '.join(NAMES[1 : self.level + 1])}"
