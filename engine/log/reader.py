"""A reader of the log: blocks in order, single records, and walks back along a conversation.

Everybody who delivers reads through this: the tail, resuming and slow sessions, history, the saver, verbs. It asks
the files each time ("what is there after N?") and keeps nothing between calls, so that it can't miss a roll.

Invariants: what is returned is a copy and has passed its checksums; blocks are contiguous; a sequence is looked for
in the one segment that can hold it. Cost: a transaction and a look-up a call, about 0.1 ms a megabyte of blocks, and
a few microseconds a hop of a walk.
"""

from __future__ import annotations

from typing import Any

from engine.errors import LogDamaged, RecordDamaged, Trimmed
from engine.log import format as fmt
from engine.log.segments import Segments
from ext import block as blocks

LAST = (1 << 64) - 2  # a key beyond all sequences

_CONVERSATION = slice(11, 19)  # engine/LOG_FORMAT.md, Record
_PREVIOUS = slice(29, 37)


class Reader:
    """One thread at a time; any number side by side."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    @property
    def first_sequence(self) -> int:
        """The first sequence that is kept now, though another process may have trimmed."""
        return self._segments.first_kept()

    def last_sequence(self) -> int:
        """The last synced sequence; one less than the first kept if there is none. Raises LogDamaged."""
        segments = self._segments
        first = segments.firsts[-1]
        while (following := segments.after(first)) is not None:
            first = following
        with segments.reading(first) as txn:
            segments.seek(first, LAST)
            cursor = txn.cursor()
            if not cursor.last() or bytes(cursor.key()) == fmt.HEADER_KEY:
                return first - 1
            return self._end(first, int.from_bytes(cursor.key(), "big"), cursor.value()) - 1

    def blocks_after(self, sequence: int, limit_bytes: int = 1 << 20) -> list[bytes]:
        """Contiguous blocks, the first one holding sequence + 1, until they hold limit_bytes or the next is damaged; []
        at the end.

        Raises Trimmed, LogDamaged where the first is damaged: `stretch` says what to pass over.
        """
        found: list[bytes] = []
        try:
            self._blocks_after(sequence, limit_bytes, found)
        except LogDamaged as error:
            self._segments.damage.note(error)
            if not found:
                raise
        return found

    def _blocks_after(self, sequence: int, limit_bytes: int, found: list[bytes]) -> None:
        wanted, held = sequence + 1, 0
        while True:
            first = self._segments.at(wanted)
            with self._segments.reading(first) as txn:
                while (block := self._block_in(txn, first, wanted, exactly=bool(found))) is not None:
                    found.append(block)
                    held += len(block)
                    head = blocks.header(block)
                    wanted = head.first_sequence + head.count
                    if held >= limit_bytes:
                        return
            following = self._segments.after(first)
            if following is None:
                return
            if following > wanted and self._ends_at(first, wanted):  # else it grew between the two looks: look again
                raise LogDamaged(
                    f"segment {self._segments.path(first).name} ends before sequence {wanted}, the next"
                    f" one begins with {following}"
                )

    def _ends_at(self, first: int, wanted: int) -> bool:
        with self._segments.reading(first) as txn:
            value, _, _ = self._found(txn, first, wanted)
            return value is None or not blocks.holds(value, wanted)

    def _found(self, txn: Any, first: int, sequence: int) -> tuple[Any, int, int | None]:
        """The last block that begins up to a sequence, its key, and the key that follows; None: there is none."""
        key, following = self._segments.seek(first, sequence)
        if not key:
            return None, 0, following
        value = txn.get(fmt.key_of(key))
        return value, key, None if value is None else following  # None: committed after this transaction began

    def _block_in(self, txn: Any, first: int, wanted: int, exactly: bool) -> bytes | None:
        """The block of a segment with `wanted` (exactly: that begins with it); None where the segment ends before."""
        value, key, following = self._found(txn, first, wanted)
        name = self._segments.path(first).name
        if value is None or (exactly and key != wanted) or not blocks.holds(value, wanted):
            if value is not None and not exactly:
                self._end(first, key, value)
            if following is None:
                return None
            words = (
                f"after sequence {wanted - 1} the" if exactly else f"block {key} does not hold sequence {wanted}, the"
            )
            raise LogDamaged(f"segment {name}: {words} next block begins with {following}")
        block, fault, index = blocks.copy_checked(value)
        if block is None:
            raise LogDamaged(fmt.fault_text(name, key, fault, index))
        if (begins := blocks.header(block).first_sequence) != key:
            raise LogDamaged(f"segment {name}, block {key}: it says that it begins with {begins}")
        return block

    def _end(self, first: int, key: int, value: Any) -> int:
        """The sequence after a block, whose header is checked for that: a damaged count must not look like the end of
        the log."""
        name = self._segments.path(first).name
        if fault := blocks.check_header(value):
            raise RecordDamaged(fmt.fault_text(name, key, fault))
        head = blocks.header(value)
        if head.first_sequence != key:
            raise RecordDamaged(f"segment {name}, block {key}: it says that it begins with {head.first_sequence}")
        return key + head.count

    def record(self, sequence: int) -> bytes | None:
        """One record, checked by itself; None beyond the end. Raises Trimmed, RecordDamaged, or LogDamaged where its
        segment can't be read."""
        try:
            return self._one(sequence)
        except LogDamaged as error:
            self._segments.damage.note(error)
            raise

    def _one(self, sequence: int) -> bytes | None:
        if sequence < 1:
            raise Trimmed(f"sequence {sequence}: sequences begin at 1")
        is_sealed = False
        while True:
            first = self._segments.at(sequence)
            record = self._record_in(first, sequence)
            if record is not None:
                return record
            following = self._segments.after(first)
            if following is None:
                return None
            if following > sequence:
                if is_sealed:  # it was rolled over before this look
                    raise self._no_block(first, sequence)
                is_sealed = True

    def _record_in(self, first: int, sequence: int) -> bytes | None:
        """One record of a segment; None where that ends before."""
        with self._segments.reading(first) as txn:
            value, key, following = self._found(txn, first, sequence)
            if value is not None:
                if blocks.holds(value, sequence):
                    return self._record(first, key, value, sequence)
                self._end(first, key, value)
            if following is not None:
                raise self._no_block(first, sequence)
            return None

    def _no_block(self, first: int, sequence: int) -> RecordDamaged:
        name = self._segments.path(first).name
        return RecordDamaged(f"segment {name}: no block holds sequence {sequence}, though later ones are there")

    def _record(self, first: int, key: int, value: Any, sequence: int) -> bytes:
        record, fault = blocks.find(value, sequence)
        if record is None:
            raise RecordDamaged(fmt.fault_text(self._segments.path(first).name, key, fault, sequence - key))
        return record

    def stretch(self, sequence: int) -> tuple[int, int | None]:
        """Where the block in which a sequence lies begins, and the next one, whether it can be read or not; the same of
        its segment where no block can be found there. None: nothing that is known follows."""
        first = self._segments.at(sequence)
        begins, following = first, self._segments.after(first)
        try:
            with self._segments.reading(first, believe=True):
                key, next_key = self._segments.seek(first, sequence)
                begins = key or first
                following = next_key or following
        except LogDamaged:
            pass
        return begins, following

    def shard(self) -> int:
        """The log's, by the first segment that says one; 0 where none can."""
        for first in self._segments.firsts:
            try:
                return self._segments.header(first).shard
            except LogDamaged:
                continue
        return 0

    def walk(self, head: int, conversation: int, after: int, limit: int) -> list[bytes]:
        """The chain from head back while sequence > after, newest first, at most `limit`.

        Raises Trimmed where it leads below what is kept, LogDamaged.
        """
        found: list[bytes] = []
        while head > after and len(found) < limit:
            first = self._segments.at(head)
            with self._segments.reading(first) as txn:
                previous = self._walk_in(txn, first, head, conversation, max(after, first - 1), limit, found)
            if previous == head:  # not here: in a segment that nobody has looked for yet?
                following = self._segments.after(first)
                if following is None or following > head:
                    raise self._no_block(first, head)
            head = previous
        return found

    def _walk_in(
        self, txn: Any, first: int, head: int, conversation: int, after: int, limit: int, found: list[bytes]
    ) -> int:
        """Walks inside one segment; where to go on."""
        value: Any = None
        key = 0
        while head > after and len(found) < limit:
            if value is None or not blocks.holds(value, head):
                value, key, _ = self._found(txn, first, head)
                if value is None or not blocks.holds(value, head):
                    break
            record = self._record(first, key, value, head)
            previous = int.from_bytes(record[_PREVIOUS], "big")
            if int.from_bytes(record[_CONVERSATION], "big") != conversation or previous >= head:
                raise RecordDamaged(
                    f"the chain of conversation {conversation} leads to sequence {head}, which is not of it"
                )
            found.append(record)
            head = previous
        return head
