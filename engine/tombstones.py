"""How deleted messages are served: the same record without its payload, of type `message.tombstone`.

Asked for every page that comes from the log (resume, slow sessions, history, gaps); live events never need it, because
the deletion comes after them. Edits of a deleted message are tombstones too. The bytes stay in the log until it is
trimmed.

Cost: one question to the view for a page, a key of it for each message or edit; on the loop, because the view belongs
to it.
"""

from __future__ import annotations

from engine.errors import CallerError
from engine.ports import StateView
from engine.schema import EDITED, SCHEMA, unpack

TOMBSTONE = "message.tombstone"

_TEN_FIELDS = b"\x9a"
_TYPE_SIZE = 74
_TYPE = 75
_TAIL = bytes([len(TOMBSTONE)]) + TOMBSTONE.encode() + b"\xc6\0\0\0\0"
_EDITED = EDITED.encode()
_ENGINES = frozenset(name.encode() for name in SCHEMA) - {_EDITED}


def entombed(record: bytes) -> bytes:
    """The record as a tombstone: who, when and where stay; type, payload and what is behind them go."""
    return _TEN_FIELDS + record[1:_TYPE_SIZE] + _TAIL


def with_tombstones(view: StateView, records: list[bytes]) -> list[bytes]:
    """The records as they may be served now."""
    targets = [_target(record) for record in records]
    deleted = view.tombstoned_among([target for target in targets if target is not None])
    if not deleted:
        return records
    return [entombed(record) if target in deleted else record for record, target in zip(records, targets, strict=True)]


def _target(record: bytes) -> tuple[int, int] | None:
    """The message (conversation, sequence) with whose deletion the record goes; None: nothing deletes it."""
    end = _TYPE + record[_TYPE_SIZE]
    type_name = record[_TYPE:end]
    if type_name in _ENGINES:
        return None
    conversation = int.from_bytes(record[11:19])
    if type_name != _EDITED:
        return conversation, int.from_bytes(record[2:10])
    try:
        target = unpack(EDITED, record[end + 5 : end + 5 + int.from_bytes(record[end + 1 : end + 5])])
    except CallerError:
        return None  # a foreign payload that admission would not let in: nothing is aimed at
    return conversation, int(getattr(target, "target", 0))
