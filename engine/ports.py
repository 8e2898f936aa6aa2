"""What the engine's stops need from those around them, as interfaces with their guarantees and nothing else.

The engine never imports the gateway: gateway classes fit these shapes, and gonets.py puts them together. A session is
an int for the engine: its index, or its origin (generation << 32 | index), which no later session ever has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from engine.state.rows import Control, Conversation, Membership


class Gap(NamedTuple):
    """What a resume does not send: events of `conversation` with after < sequence < before. `newest` holds the newest
    of them as stored records, newest first; `next` is the `before` of the history page that goes on, None = no more."""

    conversation: int
    after: int
    before: int
    newest: list[bytes]
    next: int | None


class LogReader(Protocol):
    """Committed blocks and records; one thread at a time."""

    def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
        """Contiguous blocks, the first one holding sequence + 1; [] at the end. Copies. Raises Trimmed, LogDamaged."""
        ...

    def stretch(self, sequence: int) -> tuple[int, int | None]:
        """Where the block of a sequence begins, readable or not, and the next one, None if that is not known."""
        ...

    def record(self, sequence: int) -> bytes | None:
        """One record, checked; None beyond the end. Raises Trimmed, LogDamaged."""
        ...

    def walk(self, head: int, conversation: int, after: int, limit: int) -> list[bytes]:
        """The chain from head back while sequence > after, newest first. Raises Trimmed, LogDamaged."""
        ...


class StateView(Protocol):
    """Committed state as routing, catch-up and history need it (engine/state/view.py). The loop's thread only."""

    sequence: int
    """The last one folded by apply(); what the other methods say may be ahead of it."""

    def apply(self, block: bytes) -> list[Control]:
        """Folds a block; its control events in order."""
        ...

    def apply_steps(self, block: bytes, controls: list[Control]) -> Iterator[None]:
        """The same in short steps; meanwhile values may be ahead of what was applied whole."""
        ...

    def conversation(self, conversation: int) -> Conversation | None:
        """None if there is none."""
        ...

    def head(self, conversation: int) -> tuple[int, int]:
        """(sequence, conversation sequence) of its last event; may be ahead of what was routed."""
        ...

    def heads(self, conversations: list[int]) -> list[int]:
        """The first half of head() for each."""
        ...

    def membership(self, user: int, conversation: int) -> Membership | None:
        """Also a closed one; may be ahead of what was routed."""
        ...

    def memberships(self, user: int) -> list[Membership]:
        """All of a user, closed ones too."""
        ...

    def tombstoned_among(self, targets: list[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those (conversation, sequence) whose message was deleted."""
        ...


class Door(Protocol):
    """Where catch-up tells a client about itself. Called on the loop; must not block."""

    def gap(self, session: int, gap: Gap) -> None:
        """Push one gap frame; it goes out before all events that follow."""
        ...

    def live(self, session: int, resumed: bool) -> None:
        """The session has all there is and gets what follows as it comes; `resumed`: this ends a resume."""
        ...

    def failed(self, session: int, error: Exception) -> None:
        """What the session is owed can't be read: tell it and close it."""
        ...


class SessionsOfUser(Protocol):
    """Who is connected. Called on the loop."""

    def of_user(self, user: int) -> list[int]:
        """The identified sessions of a user on this worker."""
        ...


Post = Callable[[Callable[[], None]], None]
"""Runs a callable on the loop's thread, from any thread, in order (asyncio's call_soon_threadsafe), and has the loop
take a round of catch-up and flush after it: what it runs pushes frames and makes sessions ready."""

OnProgress = Callable[[str, int, int], None]
"""Told by long pieces of work: (what, how much is done, of how much), in bytes or events."""
