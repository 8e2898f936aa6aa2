"""Publishes over many dialogs, made before the clock runs: batches of proposals as the gateway would hand them over.

For append and open. Users and dialogs are drawn from a fixed seed; conversations are chosen with Zipf's law (exponent
1), so that a few are hot and most are rare; each device counts its own publishes. Records have a given size.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from engine import Engine

RECORD_OVERHEAD: Final = 80  # fixed part of a record; type and payload come on top
ANSWER: Final = np.dtype(
    [
        ("origin", "<u8"),
        ("counter", "<u8"),
        ("conversation", "<u8"),
        ("sequence", "<u8"),
        ("conversation_sequence", "<u8"),
        ("time", "<u8"),
        ("status", "<u2"),
        ("zero", "<u2"),
        ("extra", "<u4"),
    ]
)
Array = np.ndarray[Any, Any]
TYPE: Final = b"message"
PERSON: Final = 1


class Listener:
    """Counts answers; keeps them for checking afterwards. `wait` until so many have come since the last reset."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._event = threading.Event()
        self.bytes = 0

    def hear(self, answers: bytes) -> None:
        """The engine's on_answers."""
        self._parts.append(answers)
        self.bytes += len(answers)
        self._event.set()

    def wait(self, count: int, engine: Engine) -> None:
        """Blocks until `count` answers have come; RuntimeError if the writer fails meanwhile."""
        while self.bytes < count * ANSWER.itemsize:
            self._event.clear()
            if self.bytes < count * ANSWER.itemsize and not self._event.wait(5) and engine.sequencer.failure:
                raise RuntimeError(f"the writer failed: {engine.sequencer.failure}")

    def take(self) -> Array:
        """The answers since the last take."""
        parts, self._parts, self.bytes = self._parts, [], 0
        return np.frombuffer(b"".join(parts), ANSWER)


class DialogLoad:
    """`users` people with `dialogs` dialogs among them."""

    def __init__(self, dialogs: int, users: int, *, record_bytes: int = 300, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)
        payload = record_bytes - RECORD_OVERHEAD - len(TYPE)
        self.layout = np.dtype(
            [
                ("length", "<u4"),
                ("flags", "<u4"),
                ("origin", "<u8"),
                ("user", "<u8"),
                ("device", "<u8"),
                ("counter", "<u8"),
                ("target", "<u8"),
                ("expected", "<u8"),
                ("type_bytes", "<u2"),
                ("zero", "<u2"),
                ("payload_bytes", "<u4"),
                ("type", f"S{len(TYPE)}"),
                ("payload", f"V{payload}"),
            ]
        )
        first, second = self._pairs(dialogs, users)
        self.first, self.second = first, second
        self.conversations = np.zeros(dialogs, "<u8")
        self._counters = np.zeros(users + 1, "<u8")
        weights = np.cumsum(1.0 / np.arange(1, dialogs + 1))
        self._chances = weights / weights[-1]
        self._ranks = self.random.permutation(dialogs)

    def _pairs(self, dialogs: int, users: int) -> tuple[Array, Array]:
        """Distinct pairs of distinct users."""
        if dialogs > users * (users - 1) // 4:
            raise ValueError(f"{users} users have too few pairs for {dialogs} dialogs")
        numbers = np.zeros(0, "<u8")
        while len(numbers) < dialogs:
            a = self.random.integers(1, users + 1, dialogs).astype("<u8")
            b = self.random.integers(1, users + 1, dialogs).astype("<u8")
            pairs = (np.minimum(a, b) << np.uint64(32) | np.maximum(a, b))[a != b]
            numbers = np.unique(np.concatenate([numbers, pairs]))
        numbers = self.random.permutation(numbers)[:dialogs]
        return numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)

    def _count(self, users: Array) -> Array:
        """The next counter of each publish's device, in order."""
        order = np.argsort(users, kind="stable")
        ordered = users[order]
        starts = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1]
        sizes = np.diff(np.r_[starts, len(ordered)])
        counters = np.empty(len(users), "<u8")
        counters[order] = np.arange(len(ordered)) - np.repeat(starts, sizes) + 1
        counters += self._counters[users]
        self._counters[ordered[starts]] += sizes.astype("<u8")
        return counters

    def _proposals(self, users: Array, targets: Array, flags: int) -> Array:
        out = np.zeros(len(users), self.layout)
        out["length"], out["flags"], out["type_bytes"] = self.layout.itemsize, flags, len(TYPE)
        out["origin"], out["device"] = np.arange(len(users)), 1
        out["payload_bytes"] = self.layout["payload"].itemsize
        out["user"], out["counter"], out["target"], out["type"] = users, self._count(users), targets, TYPE
        out["payload"] = np.frombuffer(self.random.bytes(self.layout["payload"].itemsize), self.layout["payload"])
        return out

    def first_messages(self) -> Array:
        """One publish to a person for each dialog: creates them all."""
        return self._proposals(self.first, self.second, PERSON)

    def learn(self, answers: Array) -> None:
        """Which conversation each dialog has become, from the answers to first_messages()."""
        self.conversations[answers["origin"]] = answers["conversation"]

    def messages(self, count: int) -> Array:
        """Publishes to conversations by Zipf's law, either side speaking."""
        chosen = self._ranks[np.searchsorted(self._chances, self.random.random(count))]
        users = np.where(self.random.integers(0, 2, count) == 0, self.first[chosen], self.second[chosen])
        return self._proposals(users, self.conversations[chosen], 0)


def record_bytes_of(payload_bytes: int) -> int:
    """Size of the record that a message with such a payload becomes."""
    return RECORD_OVERHEAD + len(TYPE) + payload_bytes


def batches(proposals: Array, each: int) -> list[bytes]:
    """Cuts proposals into batches of bytes."""
    return [proposals[at : at + each].tobytes() for at in range(0, len(proposals), each)]
