"""Proposals and answers as bytes: the one interface between gateway and sequencer, seen from the gateway.

Native code packs the hot publishes in the same layout; here are the proposals of cold commands, and the answers that
the gateway gives itself when the sequencer could not take a batch. Layouts are those of `engine/sequencer.py`.

Invariants: origin (generation << 32 | session index) comes back untouched; times and numbers are never invented here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gateway.load import RETRY_MS, spread

PROPOSAL = struct.Struct("<IIQQQQQQHHI")
ANSWER = struct.Struct("<QQQQQQHHI")
assert PROPOSAL.size == 64 and ANSWER.size == 56

TO_PERSON = 1  # flag: target is the other person of a dialog
HAS_EXPECTED = 2


def pack(
    origin: int,
    user: int,
    device: int,
    counter: int,
    target: int,
    type_name: str,
    payload: bytes,
    *,
    to_person: bool = False,
    expected: int | None = None,
) -> bytes:
    """One proposal."""
    name = type_name.encode()
    flags = (TO_PERSON if to_person else 0) | (HAS_EXPECTED if expected is not None else 0)
    return (
        PROPOSAL.pack(
            PROPOSAL.size + len(name) + len(payload),
            flags,
            origin,
            user,
            device,
            counter,
            target,
            expected or 0,
            len(name),
            0,
            len(payload),
        )
        + name
        + payload
    )


def answer(origin: int, counter: int, status: int, conversation: int = 0, extra: int = 0) -> bytes:
    """A refusal that admission never saw."""
    return ANSWER.pack(origin, counter, conversation, 0, 0, 0, status, 0, extra)


def refuse(batch: bytes, status: int) -> bytes:
    """The same refusal for every proposal of a batch that was not taken in; each with a hint of its own."""
    return b"".join(answer(origin, counter, status, 0, spread(RETRY_MS)) for origin, counter in _origins(batch))


def count(batch: bytes) -> int:
    """How many proposals a batch holds."""
    return sum(1 for _ in _origins(batch))


def _origins(batch: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(batch):
        size, _, origin, _, _, counter, _, _, _, _, _ = PROPOSAL.unpack_from(batch, at)
        yield origin, counter
        at += size
