"""The event stream as one team sees it: its own subscriptions, under names that are one for all teams.

Between the door and engine.Subscriptions, which knows all teams; made for each request. A subscription of another team
is answered as one that there is not, but its name is taken.

Invariants: no answer shows another team's definition, cursor or events; `read` is the log's, as the door's scopes
allow it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

from engine import (
    Filter,
    Settings,
    Standing,
    Start,
    StoredEvent,
    Subscription,
    Subscriptions,
    UnknownSubscription,
)

AT_LAST: Final = Start()
EVERYTHING: Final = Filter()
DEFAULTS: Final = Settings()


class TeamSource:
    """`EventSource` of one team."""

    def __init__(self, subscriptions: Subscriptions, team: str) -> None:
        self._subscriptions, self._team = subscriptions, team

    async def create(
        self,
        name: str,
        kind: Literal["ordered", "competing"],
        *,
        start: Start = AT_LAST,
        filter: Filter = EVERYTHING,
        settings: Settings = DEFAULTS,
    ) -> Subscription:
        """As the port says."""
        return await self._subscriptions.create(
            name, kind, start=start, filter=filter, settings=settings, team=self._team
        )

    async def subscription(self, name: str) -> Subscription:
        """As the port says."""
        found = await self._subscriptions.subscription(name)
        if name not in self._subscriptions.names_of(self._team):
            raise UnknownSubscription(f"there is no subscription {name!r}")
        return found

    async def subscriptions(self) -> list[Standing]:
        """As the port says."""
        return await self._subscriptions.subscriptions(self._team)

    async def delete(self, name: str) -> None:
        """As the port says."""
        await self.subscription(name)
        await self._subscriptions.delete(name)

    def read(
        self,
        *,
        after: int,
        filter: Filter = EVERYTHING,
        live: bool = False,
        on_reached: Callable[[int], None] | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """As the port says."""
        return self._subscriptions.read(after=after, filter=filter, live=live, on_reached=on_reached)
