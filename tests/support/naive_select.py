"""What a subscription wants, in plain Python over decoded records: the other implementation behind ext/select.

`wanted` answers for one record; `pick` goes over many, as a pass over a block does, by the words of ext/select.pyx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ext.record import Record

MASK = (1 << 64) - 1


def share_of(conversation: int) -> int:
    """SplitMix64 as its author gives it, of one step, and the low byte."""
    z = conversation + 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) & 255


def type_wanted(types: Sequence[bytes], name: bytes) -> bool:
    """By prefixes at a dot."""
    return any(name == one or name.startswith(one if one.endswith(b".") else one + b".") for one in types)


@dataclass
class Wanted:
    """A selection."""

    types: Sequence[bytes] = ()
    kinds_mask: int = 0
    conversations: Sequence[int] = ()
    senders: Sequence[int] = ()
    kinds: Mapping[int, int] = field(default_factory=dict)
    """Those that are known."""

    def but_for_kind(self, record: Record) -> bool:
        """Whether only its kind could speak against it."""
        return (
            (not self.types or type_wanted(self.types, record.type.encode()))
            and (not self.conversations or record.conversation in self.conversations)
            and (not self.senders or record.sender in self.senders)
        )

    def pick(
        self,
        records: Sequence[Record],
        after: int,
        upto: int,
        held: list[Record],
        *,
        shares: set[int] | None = None,
        events_max: int = MASK,
    ) -> tuple[int, int]:
        """(reached, missing); appends to `held`."""
        reached = after
        for record in records:
            if not after < record.sequence <= upto:
                continue
            if len(held) >= events_max:
                return record.sequence - 1, 0
            share = share_of(record.conversation)
            if (shares is None or share in shares) and self.but_for_kind(record):
                kind = self.kinds.get(record.conversation, 0)
                if self.kinds_mask and not kind:
                    return record.sequence - 1, record.conversation
                if not self.kinds_mask or self.kinds_mask >> kind & 1:
                    held.append(record)
            reached = record.sequence
        return reached, 0

    def unknown(self, records: Sequence[Record], after: int, upto: int) -> list[int]:
        """Conversations whose kind decides, and isn't known."""
        inside = (record for record in records if after < record.sequence <= upto)
        asked = {record.conversation for record in inside if self.but_for_kind(record)}
        return sorted(asked - self.kinds.keys()) if self.kinds_mask else []
