"""Which subscriptions there are, as the log says: folded from the system events of the shard.

Between the log and manager.py, which starts and stops what runs. A definition is what its `subscription.created` says,
from that event on; the first of a name counts until it is deleted. The rows are saved with the position applied, and
what came since is folded again at the next start; without the rows, all of it.

Invariants: the same events give the same registry on every node; folding an event twice changes nothing; what does
not fit (a second creation, a word about one that there is not) is passed over.
Cost: a dictionary entry and some 500 bytes a subscription.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine import schema
from engine.subscriptions.definition import Definition
from engine.subscriptions.store import DEFINITION, Batch, DefinitionRow, encode, named
from ext.record import Record


class Change(NamedTuple):
    """What an event has done to a subscription. `row` None: it is gone; `position`: it goes on behind that; `replay`
    and `drop`: what becomes of parked events."""

    name: str
    row: DefinitionRow | None
    is_new: bool = False
    position: int | None = None
    replay: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()


class Registry:
    """See the module."""

    def __init__(self, rows: Iterable[DefinitionRow], applied: int, settled: int = 0) -> None:
        """As saved when everything up to `applied` was folded. Up to `settled` cursors and parked events are as they
        are to be: there definitions alone are folded."""
        self.rows: dict[str, DefinitionRow] = {}
        self.teams: dict[str, set[str]] = {}
        for row in rows:
            self._enter(row)
        self.applied, self._settled = applied, settled

    def fold(self, record: Record, batch: Batch) -> Change | None:
        """Takes an event of the system conversation; what it changed, which is put into `batch` too."""
        if record.sequence <= self.applied or record.type not in schema.OF_SUBSCRIPTIONS:
            return None
        try:
            payload = schema.unpack(record.type, record.payload)
        except schema.BadPayload:  # of a later version, which knows more than this one
            return None
        if isinstance(payload, schema.SubscriptionCreated):
            return self._created(record.sequence, payload, batch)
        row = self.rows.get(getattr(payload, "name", ""))
        if row is None or record.sequence < row.created:  # said of an earlier one of its name
            return None
        name = row.definition.name
        match payload:
            case schema.SubscriptionDeleted():
                del self.rows[name]
                self.teams[row.definition.team].discard(name)
                batch.erase(name)
                return Change(name, None)
            case schema.SubscriptionPaused() | schema.SubscriptionResumed():
                is_paused = isinstance(payload, schema.SubscriptionPaused)
                row = DefinitionRow(definition=row.definition, created=row.created, paused=is_paused)
                self._put(row, batch)
                return Change(name, row)
            case _ if record.sequence <= self._settled:
                return None
            case schema.SubscriptionReset():
                return Change(name, row, position=payload.position)
            case schema.SubscriptionReplayed():
                return Change(name, row, replay=tuple(payload.sequences))
            case schema.SubscriptionDropped():
                return Change(name, row, drop=tuple(payload.sequences))
        return None

    def _created(self, sequence: int, payload: schema.SubscriptionCreated, batch: Batch) -> Change | None:
        if payload.name in self.rows:
            return None
        definition = Definition(
            name=payload.name,
            kind=payload.kind,
            team=payload.team,
            position=payload.start,
            filter=payload.filter,
            settings=payload.settings,
        )
        row = DefinitionRow(definition=definition, created=sequence)
        self._put(row, batch)
        return Change(payload.name, row, is_new=True)

    def _enter(self, row: DefinitionRow) -> None:
        self.rows[row.definition.name] = row
        self.teams.setdefault(row.definition.team, set()).add(row.definition.name)

    def _put(self, row: DefinitionRow, batch: Batch) -> None:
        self._enter(row)
        batch.rows[named(DEFINITION, row.definition.name)] = encode(row)
