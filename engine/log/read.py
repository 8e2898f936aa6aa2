"""`gonets log read`: events as they are stored, from any sequence on. Can be used while a server runs.

Payloads of messages are not shown, only their size: what people write is nobody's business here. Control events, whose
schema is the engine's, are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import BadArgument
from engine.log.reader import Reader
from engine.log.verbs import opened
from ext import block as blocks
from ext.record import decode

SEQUENCE_MAX = 2**53 - 1
SHOWN = ("conversation.", "member.")


def read_log(data: Path, from_sequence: int, limit: int) -> Iterator[dict[str, Any]]:
    """At most `limit` events, ascending, as fields by name. Raises EngineError."""
    if from_sequence < 1:
        raise BadArgument(f"--from {from_sequence}: sequences begin at 1")
    if from_sequence > SEQUENCE_MAX:
        raise BadArgument(f"--from {from_sequence}: sequences are at most {SEQUENCE_MAX} (2^53-1)")
    if limit < 1:
        raise BadArgument(f"--limit {limit}: must be at least 1")
    with opened(data) as segments:
        reader = Reader(segments)
        position, left = from_sequence - 1, limit
        while left and (found := reader.blocks_after(position, 1)):
            for block in found:
                for record in blocks.records(block):
                    event = decode(record)
                    if event.sequence <= position or not left:
                        continue
                    position, left = event.sequence, left - 1
                    yield _shown(event._asdict(), len(record))


def _shown(event: dict[str, Any], size: int) -> dict[str, Any]:
    """An event for people and programs: the payload by its size, or as data where the engine made it."""
    payload = event.pop("payload")
    event["payload_bytes"], event["record_bytes"] = len(payload), size
    if event["type"].startswith(SHOWN):
        try:
            event["data"] = msgspec.msgpack.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event["data"] = None
    return event
