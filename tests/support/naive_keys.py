"""The keys of publishes as a plain list: the second implementation beside ext/keys and what admission does with it."""

from __future__ import annotations

from typing import NamedTuple


class Keyed(NamedTuple):
    """One event with a key."""

    key: bytes
    sequence: int
    time_us: int


class NaiveKeys:
    """All of them, for ever; each question looks at all."""

    def __init__(self, keep_us: int) -> None:
        self.keep_us = keep_us
        self.events: list[Keyed] = []

    def note(self, key: bytes, sequence: int, time_us: int) -> None:
        """One more."""
        self.events.append(Keyed(key, sequence, time_us))

    def kept(self, time_us: int) -> list[Keyed]:
        """Those that count at that time."""
        return [event for event in self.events if time_us - event.time_us <= self.keep_us]

    def known(self, key: bytes, time_us: int) -> tuple[int, int] | None:
        """(sequence, time) of the first of them with this key."""
        return next(((event.sequence, event.time_us) for event in self.kept(time_us) if event.key == key), None)
