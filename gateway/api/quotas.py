"""What a team may take: events and bytes a second, both ways, and how much of what lasts.

Asked by the door's operations and streams. A request over a rate is answered 429 with the pause and the option's
name; a stream waits instead, because it has nothing to lose by that. What lasts (streams, consumers) is counted.

Invariants: rates are of a team, whatever its tokens and connections; a request is never refused for its size alone:
while anything is left of a second's worth it is taken whole, and what it took beyond that is owed. Until the rate has
paid for it nothing more is taken. Cost: a dictionary and two subtractions.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Final

from engine import Api
from gateway.api.problems import Refusal

TEAMS_MAX: Final = 10_000  # remembered; who has nothing open and was quiet longest is forgotten, with a full bucket
COUNT_RETRY_S: Final = 30.0


class Bucket:
    """So much a second, and a second's worth at once."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s, self._level, self._at = per_s, per_s, now

    def pause_s(self, now: float) -> float:
        """How long until more may be taken; 0 = now."""
        self._level = min(self._per_s, self._level + (now - self._at) * self._per_s)
        self._at = now
        return 0.0 if self._level > 0 else -self._level / self._per_s + 1e-3

    def take(self, amount: float) -> None:
        """After pause_s has said 0."""
        self._level -= amount


class Team:
    """One team's use."""

    def __init__(self, options: Api, now: float) -> None:
        self.publishes = Bucket(options.publishes_per_s_max, now)
        self.publish_bytes = Bucket(options.publish_bytes_per_s_max, now)
        self.reads = Bucket(options.reads_per_s_max, now)
        self.read_bytes = Bucket(options.read_bytes_per_s_max, now)
        self.streams = self.consumers = 0
        self.creating: list[str] = []  # names of subscriptions that may be there in a moment

    @property
    def is_idle(self) -> bool:
        """Nothing of it is open."""
        return not self.streams and not self.consumers and not self.creating


class Quotas:
    """All teams."""

    def __init__(self, options: Api, now: Callable[[], float] = time.monotonic) -> None:
        self._options, self._now = options, now
        self._teams: OrderedDict[str, Team] = OrderedDict()

    def team(self, name: str) -> Team:
        """The use of a team."""
        found = self._teams.get(name)
        if found is None:
            found = self._teams[name] = Team(self._options, self._now())
            if len(self._teams) > TEAMS_MAX:
                self._forget()
        else:
            self._teams.move_to_end(name)
        return found

    def _forget(self) -> None:
        for name, team in self._teams.items():
            if team.is_idle:
                del self._teams[name]
                return

    # ---- rates -----------------------------------------------------------------------------------------------------

    def charge_publishes(self, name: str, events: int, size_bytes: int) -> None:
        """Raises if the team has published too much lately."""
        team, now = self.team(name), self._now()
        _refuse(name, team.publishes.pause_s(now), "publishes_per_s_max", self._options.publishes_per_s_max)
        _refuse(name, team.publish_bytes.pause_s(now), "publish_bytes_per_s_max", self._options.publish_bytes_per_s_max)
        team.publishes.take(events)
        team.publish_bytes.take(size_bytes)

    def check_reads(self, name: str) -> None:
        """Raises if the team has been given too much lately."""
        team, now = self.team(name), self._now()
        _refuse(name, team.reads.pause_s(now), "reads_per_s_max", self._options.reads_per_s_max)
        _refuse(name, team.read_bytes.pause_s(now), "read_bytes_per_s_max", self._options.read_bytes_per_s_max)

    def charge_reads(self, name: str, events: int, size_bytes: int) -> float:
        """The team was given so much; what a stream waits before the next, in seconds."""
        team, now = self.team(name), self._now()
        team.reads.take(events)
        team.read_bytes.take(size_bytes)
        return max(team.reads.pause_s(now), team.read_bytes.pause_s(now))

    # ---- what lasts ------------------------------------------------------------------------------------------------

    def check_streams(self, name: str) -> None:
        """Raises if the team may not open one more."""
        if self.team(name).streams >= self._options.streams_max:
            raise _full(name, "streams_max", self._options.streams_max)

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """An open stream counts while it lasts."""
        self.check_streams(name)
        team = self.team(name)
        team.streams += 1
        try:
            yield
        finally:
            team.streams -= 1

    def consumer_joins(self, name: str) -> None:
        """Raises if the team has too many; else it counts until consumer_left."""
        team = self.team(name)
        if team.consumers >= self._options.consumers_max:
            raise _full(name, "consumers_max", self._options.consumers_max)
        team.consumers += 1

    def consumer_left(self, name: str) -> None:
        """Undoes consumer_joins."""
        self.team(name).consumers -= 1

    @contextmanager
    def creation(self, team_name: str, name: str, known: Set[str]) -> Iterator[None]:
        """While a subscription is created beside those that are `known`: others that are being created count too.
        Raises if the team may not have one more."""
        team = self.team(team_name)
        coming = len({name, *team.creating} - known)
        if name not in known and len(known) + coming > self._options.subscriptions_max:
            raise _full(team_name, "subscriptions_max", self._options.subscriptions_max)
        team.creating.append(name)
        try:
            yield
        finally:
            team.creating.remove(name)


def _refuse(team: str, pause_s: float, option: str, value: int) -> None:
    if pause_s:
        raise Refusal(
            "limit_reached",
            f"team {team!r} has had more than its api.{option} = {value:,} a second; the next in {pause_s:.3f} s",
            hint="wait for `retry_after_s`, or have the option raised; what was taken beyond a second's worth is owed",
            limit=f"api.{option}",
            retryable=True,
            retry_after_s=pause_s,
        )


def _full(team: str, option: str, value: int) -> Refusal:
    return Refusal(
        "limit_reached",
        f"team {team!r} has its api.{option} = {value:,} already",
        hint="end or delete what isn't needed, or have the option raised",
        limit=f"api.{option}",
        retryable=True,
        retry_after_s=COUNT_RETRY_S,
    )
