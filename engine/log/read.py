"""`gonets log read`: events as they are stored, from any sequence on. Can be used while a server runs.

Payloads of messages are not shown, only their size: what people write is nobody's business here. Control events and
those of subscriptions, whose schema is the engine's, are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.conversations import is_system
from engine.errors import BadArgument, LogDamaged
from engine.log.damage import events_after, last_known
from engine.log.reader import Reader
from engine.log.verbs import opened
from ext.record import decode

SEQUENCE_MAX = 2**53 - 1
SHOWN = ("conversation.", "member.")


def read_log(data: Path, from_sequence: int, limit: int) -> Iterator[dict[str, Any]]:
    """At most `limit` events, ascending, as fields by name; of one that can't be read, why (`damaged`). Raises
    EngineError."""
    if from_sequence < 1:
        raise BadArgument(f"--from {from_sequence}: sequences begin at 1")
    if from_sequence > SEQUENCE_MAX:
        raise BadArgument(f"--from {from_sequence}: sequences are at most {SEQUENCE_MAX} (2^53-1)")
    if limit < 1:
        raise BadArgument(f"--limit {limit}: must be at least 1")
    with opened(data) as segments:
        reader = Reader(segments)
        position, left = from_sequence - 1, limit
        try:
            for found in events_after(reader, position, last_known(reader), 1):
                if found.record is None:
                    yield {"sequence": found.sequence, "damaged": found.problem}
                else:
                    yield _shown(decode(found.record)._asdict(), len(found.record))
                position, left = found.sequence, left - 1
                if not left:
                    return
        except LogDamaged as error:  # and nothing that is known follows
            yield {"sequence": position + 1, "damaged": error.detail}


def _shown(event: dict[str, Any], size: int) -> dict[str, Any]:
    """An event for people and programs: the payload by its size, or as data where the engine made it."""
    payload = event.pop("payload")
    event["payload_bytes"], event["record_bytes"] = len(payload), size
    if event["type"].startswith(SHOWN) or is_system(event["conversation"]):
        try:
            event["data"] = msgspec.msgpack.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event["data"] = None
    return event
