"""Those who wait at the tail for something that they want: woken by a block that may have it, not by every block.

Between manager.py, which has folded a block, and live.py. Who has found nothing up to the tail lies down; each new
block is asked once, natively, for all who lie; whoever isn't wanted for it sleeps on, and costs some 0.1 µs. When
somebody gets up, for whatever reason, it is told how much of the log has nothing for it and passes over that in one
step. So ten thousand subscriptions that want little cost a block a millisecond, not ten thousand looks.

States of one who follows: awake → asleep from a place on → awake; whoever is awake is stirred by every block.
Invariant: between the place at which a sleeper lay down and the tail lies nothing that its selection picks.
Cost: see above; a few dictionary steps to lie down and to get up.
"""

from __future__ import annotations

from typing import Protocol

from engine.subscriptions.feed import Found
from ext.select import Selection, wanting


class Sleeper(Protocol):
    """A subscription that somebody consumes; see live.py."""

    selection: Selection

    def pass_over(self, after: int, upto: int) -> None:
        """Nothing in (after, upto] is wanted."""

    def stir(self) -> None:
        """Look again."""


class Watch:
    """One loop's. `last`: the tail, as far as it has been watched."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._awake: dict[Sleeper, None] = {}
        self._since: dict[Sleeper, int] = {}

    @property
    def asleep(self) -> int:
        """How many."""
        return len(self._since)

    def follow(self, sleeper: Sleeper) -> None:
        """It is there, and awake."""
        self._awake[sleeper] = None

    def forget(self, sleeper: Sleeper) -> None:
        """It is not there any more."""
        self._awake.pop(sleeper, None)
        self._since.pop(sleeper, None)

    def lie_down(self, sleeper: Sleeper) -> None:
        """It has looked at everything up to `last`, or can't go on before something else has happened."""
        if sleeper in self._awake:
            del self._awake[sleeper]
            self._since[sleeper] = self.last

    def catch_up(self, sleeper: Sleeper) -> None:
        """Takes it past what has nothing for it; asleep or not, it stays so."""
        if (since := self._since.get(sleeper, self.last)) < self.last:
            self._since[sleeper] = self.last
            sleeper.pass_over(since, self.last)

    def get_up(self, sleeper: Sleeper) -> None:
        """The same, and it is awake."""
        if sleeper in self._since:
            self.catch_up(sleeper)
            del self._since[sleeper]
            self._awake[sleeper] = None

    def came(self, found: Found) -> None:
        """The next block: stirs those who are awake or may want something of it."""
        if self._since:
            sleepers = list(self._since)
            for at in wanting([one.selection for one in sleepers], found):
                self.get_up(sleepers[at])
        self.last = found.last
        for one in self._awake:
            one.stir()
