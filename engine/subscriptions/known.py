"""What subscriptions ask about conversations and people, as ports, and the answers that a view of the state has.

Called on the loop by live.py and manager.py; a view is folded by the same loop before an event is handed out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from engine.conversations import KIND_BY_NAME
from engine.state.view import View

Presence = Callable[[Sequence[int]], Awaitable[set[int]]]
"""Of these users, those that have no live session."""


class Poster(Protocol):
    """Writes events of the system conversation."""

    def acting(self) -> int:
        """The service on whose behalf this task acts; ENGINE_ITSELF where none asked."""

    async def post(self, type: str, fields: dict[str, Any], by: int) -> int:
        """One event of this sender, its payload as plain values; its sequence, once it is in the log, synced."""


class Conversations(Protocol):
    """What was folded up to `sequence`."""

    @property
    def sequence(self) -> int:
        """Everything up to here has been folded."""

    def fold(self, block: bytes) -> Iterator[None]:
        """Takes the next block, step by step; one that was taken before changes nothing."""

    def kind_of(self, conversation: int) -> int:
        """Its kind's number, 0 = not known."""

    def members_of(self, conversation: int, limit: int) -> list[int]:
        """The first so many members."""

    def head_of(self, conversation: int) -> int:
        """The sequence of its last event, 0 = there is none."""


class ViewConversations:
    """A view as `Conversations`; whoever gives it away doesn't fold it any more."""

    def __init__(self, view: View) -> None:
        self._view = view

    @property
    def sequence(self) -> int:
        """As the view's."""
        return self._view.sequence

    def fold(self, block: bytes) -> Iterator[None]:
        """In steps of less than a millisecond."""
        return self._view.apply_steps(block, [])

    def kind_of(self, conversation: int) -> int:
        """A look-up in LMDB where it isn't new."""
        found = self._view.conversation(conversation)
        return 0 if found is None else KIND_BY_NAME[found.kind].number

    def members_of(self, conversation: int, limit: int) -> list[int]:
        """By id."""
        return [user for user, _ in self._view.members(conversation, 0, limit)]

    def head_of(self, conversation: int) -> int:
        """Of a system conversation too."""
        return self._view.head(conversation)[0]
