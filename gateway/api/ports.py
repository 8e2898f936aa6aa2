"""What the backends' door needs of whoever runs it: somebody to ask who may, and the engine as one service sees it.

tokens.py is the `WhoMay` of a server; a `Backend` comes from the process that holds the log. The door keeps nothing of
its own that must survive it.

Invariants: a `Service` never changes; what a token allows is judged here at the door (scopes.py), which events and
subscriptions there are is the engine's to say.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple, Protocol

from engine import Conversation, EventSource, Publisher
from gateway.api.scopes import Scope
from gateway.auth import Identity


class Service(NamedTuple):
    """Who calls: the user id that its events are sent under, its team, what its token allows."""

    user: int
    team: str
    scope: Scope
    identity: Identity
    """As the token says it: expiry, and what a revocation may name."""


class WhoMay(Protocol):
    """Judges tokens."""

    def admit(self, token: str) -> Service:
        """The service of a good token. Raises problems.Refusal: 401, or 503 where it can't be judged now."""
        ...

    def still(self, service: Service) -> str:
        """Why a service that was admitted may not go on; "" if it may. Asked every second of open connections."""
        ...


class Place(NamedTuple):
    """Where the log ends: its shard, its epochs as (epoch, first sequence) ascending, its last event's sequence."""

    shard: int
    epochs: list[tuple[int, int]]
    sequence: int


class Backend(Protocol):
    """The engine behind the door. Called on the door's loop; what isn't async doesn't block for long."""

    def source(self, service: Service) -> EventSource:
        """The event stream with the subscriptions of the service's team."""
        ...

    def subscription_names(self, service: Service) -> Set[str]:
        """Of the team's subscriptions, as of now."""
        ...

    def publisher(self, service: Service) -> Publisher:
        """Writes as the service's user."""
        ...

    def place(self) -> Place:
        """The end of the log as of now, committed and synced."""
        ...

    def conversation(self, conversation: int) -> Conversation | None:
        """None if there is none."""
        ...

    def members(self, conversation: int, after: int, limit: int) -> list[tuple[int, str]]:
        """Members above user `after`, ascending: (user, role)."""
        ...
