"""What came since the state was saved, as tables and rows: full values, merged with the saved ones when asked for.

One class, three owners, each with its own: admission (speculative, applied as it admits), the saver (gathers a save,
then is thrown away; opening replays with it) and every view (committed events only). The hot part is native
(ext/tables, filled by ext/fold); conversations, memberships and tombstones that changed are rows here.

Invariants: applying an event twice changes nothing; an entry may be shed once changed_at ≤ the saved position, and
what is absent is read from the saved state; rows are values and never mutated.
Cost: nothing in Python per message; some 10 µs per control event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from engine import schema
from engine.conversations import KIND_BY_NAME, ROLE_BY_NAME, Role
from engine.errors import StateDamaged
from engine.state.keys import KEEP_US, load_keys
from engine.state.saved import ConversationRow, Intervals, MembershipRow, SavedState
from ext.fold import fold
from ext.keys import KeyTable
from ext.record import Record, decode
from ext.tables import DialogTable, HeadTable, MemberTable, WindowTable

ROW_BYTES = 400  # what a row costs here, index entries included, at most; an estimate for the memory bound
STEP_MEMBERS = 500  # of a new conversation, between two chances for whoever folds to do something else
SHED_ROWS = 200
NUMBER_MASK = (1 << 40) - 1
Payload = schema.Payload


class Overlay:
    """See the module. `members` exists for admission alone, `keys` not for views: of admission it is whole."""

    def __init__(
        self, saved: SavedState, *, admission: bool = False, indexed: bool = False, keyed: bool = False
    ) -> None:
        """`indexed`: to be asked for the conversations of a user and the users of a conversation; `keyed`: to gather
        the keys of publishes."""
        self.saved = saved
        self.heads = HeadTable()
        self.windows = WindowTable()
        self.dialogs = DialogTable()
        self.members = MemberTable() if admission else None
        self.keys = load_keys(saved) if admission else KeyTable(KEEP_US) if keyed else None
        self.conversations: dict[int, ConversationRow | None] = {}
        self.memberships: dict[tuple[int, int], MembershipRow | None] = {}
        self._indexed = indexed
        # Conversations of a user among `memberships`, and new dialogs; one alone is no set: most users have one here.
        self.users: dict[int, int | set[int]] = {}
        self.rosters: dict[int, set[int]] = {}  # users of a conversation among `memberships`
        self._new_rows = 0  # since the last shedding
        self.dialog_users: dict[int, tuple[int, int, int]] = {}  # new dialog → (created, its users), in order
        self.tombstones: dict[int, int] = {}  # message → its deletion; 0 = known to stand
        self.number = 0  # highest conversation number seen created

    # Folding.

    def fold(self, block: bytes, after: int, *, dialogs_too: bool = False) -> list[tuple[int, Record, Payload]]:
        """Applies the events of a block above `after`; its control events in order, with their payloads."""
        controls: list[tuple[int, Record, Payload]] = []
        for _ in self.fold_steps(block, after, controls, dialogs_too=dialogs_too):
            pass
        return controls

    def fold_steps(
        self, block: bytes, after: int, controls: list[tuple[int, Record, Payload]], *, dialogs_too: bool = False
    ) -> Iterator[None]:
        """The same in steps of less than a millisecond; in between, rows may be ahead of each other."""
        found, newest = fold(block, after, dialogs_too, self.heads, self.windows, self.dialogs, self.keys)
        self.number = max(self.number, newest & NUMBER_MASK)
        for index, data in found:
            record = decode(data)
            payload = schema.unpack(record.type, record.payload)
            if isinstance(payload, schema.Created):
                yield from self._created(record.sequence, record.conversation, payload)
            else:
                self.apply(record.sequence, record.conversation, payload)
            controls.append((index, record, payload))
            yield

    def apply(self, sequence: int, conversation: int, payload: Payload) -> None:
        """Applies one control event to rows (heads and windows are not touched)."""
        match payload:
            case schema.Created():
                for _ in self._created(sequence, conversation, payload):
                    pass
            case schema.Renamed():
                self._change(sequence, conversation, title=payload.title)
            case schema.Closed():
                self._change(sequence, conversation, closed=True)
                self.heads.close(conversation)
            case schema.Added():
                self._joined(sequence, conversation, payload.user, payload.role)
            case schema.Removed() | schema.Left():
                self._out(sequence, conversation, payload.user)
            case schema.Role():
                self._role(sequence, conversation, payload.user, payload.role)
            case schema.Deleted():
                self.tombstones[payload.target] = self.tombstones.get(payload.target) or sequence

    def _created(self, sequence: int, conversation: int, payload: schema.Created) -> Iterator[None]:
        kind = KIND_BY_NAME[payload.kind]
        if kind.name == "dialog":  # the tables have all of it; here only the way from its users to it
            first, second = (user for user, _ in payload.members)
            self.dialog_users[conversation] = (sequence, first, second)
            _enter(self.users, first, conversation)
            _enter(self.users, second, conversation)
            return
        known = self.conversations.get(conversation)
        if known is not None and known.changed_at >= sequence:
            return
        self.heads.create(conversation, kind.number, sequence, payload.history)
        self.conversations[conversation] = ConversationRow(
            kind.number, False, payload.history, len(payload.members), sequence, sequence, 0, 0, payload.title
        )
        intervals: Intervals = ((sequence, None),)
        rows = {
            name: MembershipRow(ROLE_BY_NAME[name], kind.number, intervals, sequence)
            for name in {name for _, name in payload.members}
        }
        for start in range(0, len(payload.members), STEP_MEMBERS):
            for user, name in payload.members[start : start + STEP_MEMBERS]:
                self._put(user, conversation, rows[name])
            yield

    def _change(self, sequence: int, conversation: int, **changes: object) -> None:
        row = self._known(conversation)
        if row.changed_at < sequence:
            self.conversations[conversation] = row._replace(changed_at=sequence, **changes)  # type: ignore[arg-type]

    def _count(self, sequence: int, conversation: int, step: int) -> None:
        row = self._known(conversation)
        self._change(sequence, conversation, member_count=row.member_count + step)

    def _joined(self, sequence: int, conversation: int, user: int, name: str) -> None:
        row, known = self._known(conversation), self.membership_row(user, conversation)
        if known is None:
            intervals: Intervals = ((row.created if row.history else sequence, None),)
        else:
            intervals = (*known.intervals, (sequence, None))
        if known is None or known.changed_at < sequence:
            self._put(user, conversation, MembershipRow(ROLE_BY_NAME[name], row.kind, intervals, sequence))
        self._count(sequence, conversation, 1)

    def _out(self, sequence: int, conversation: int, user: int) -> None:
        known = self.membership_row(user, conversation)
        if known is not None and known.changed_at < sequence:
            intervals = (*known.intervals[:-1], (known.intervals[-1][0], sequence))
            gone = known._replace(role=Role.NONE.value, intervals=intervals, changed_at=sequence)
            self._put(user, conversation, gone)
        self._count(sequence, conversation, -1)

    def _role(self, sequence: int, conversation: int, user: int, name: str) -> None:
        known = self.membership_row(user, conversation)
        if known is not None and known.changed_at < sequence:
            self._put(user, conversation, known._replace(role=ROLE_BY_NAME[name].value, changed_at=sequence))

    def _known(self, conversation: int) -> ConversationRow:
        row = self.conversation_row(conversation)
        if row is None:
            raise StateDamaged(f"an event changes conversation {conversation}, which was never created")
        return row

    def _put(self, user: int, conversation: int, row: MembershipRow | None) -> None:
        self.memberships[user, conversation] = row
        self._new_rows += 1
        if row is None:
            return
        if self._indexed:
            _enter(self.users, user, conversation)
            roster = self.rosters.get(conversation)
            if roster is None:
                roster = self.rosters[conversation] = set()
            roster.add(user)
        if self.members is not None:
            self.members.set(conversation, user, row.role, row.changed_at)

    # Reading: what is here, else what is saved.

    def dialog_row(self, conversation: int) -> ConversationRow | None:
        """The row of a dialog whose table entry is whole."""
        entry = self.heads.get(conversation)
        if entry is None or not entry[8] or entry[0] != KIND_BY_NAME["dialog"].number:
            return None
        kind, _, _, created, first, second, closed, history, _ = entry
        return ConversationRow(kind, closed, history, 2, created, created, first, second, "")

    def conversation_row(self, conversation: int) -> ConversationRow | None:
        """The conversation, without its head."""
        if conversation in self.conversations:
            return self.conversations[conversation]
        dialog = self.dialog_row(conversation)
        if dialog is not None:
            return dialog
        with self.saved.read() as reader:
            return reader.conversation(conversation)

    def membership_row(self, user: int, conversation: int) -> MembershipRow | None:
        """The user's membership."""
        key = (user, conversation)
        if key in self.memberships:
            return self.memberships[key]
        dialog = self.dialog_row(conversation)
        if dialog is not None:
            return self.dialog_membership(dialog, user)
        with self.saved.read() as reader:
            return reader.membership(user, conversation)

    @staticmethod
    def dialog_membership(row: ConversationRow, user: int) -> MembershipRow | None:
        """Both users of a dialog are members from its beginning, for ever."""
        if user not in (row.first, row.second):
            return None
        return MembershipRow(Role.MEMBER.value, row.kind, ((row.created, None),), row.created)

    def tombstones_of(self, sequences: list[int]) -> set[int]:
        """Those of the messages that were deleted."""
        known = self.tombstones
        found = {sequence for sequence in sequences if known.get(sequence)} if known else set()
        with self.saved.read() as reader:
            found.update(reader.tombstones([sequence for sequence in sequences if sequence not in known]))
        return found

    # Loading and shedding.

    def load_rows(
        self,
        conversations: dict[int, ConversationRow | None],
        memberships: dict[tuple[int, int], MembershipRow | None],
        tombstones: dict[int, int],
    ) -> None:
        """Takes saved rows in; never over what is known here."""
        for conversation, row in conversations.items():
            self.conversations.setdefault(conversation, row)
        for (user, conversation), membership in memberships.items():
            if (user, conversation) not in self.memberships:
                self.memberships[user, conversation] = membership
        for target, deletion in tombstones.items():
            self.tombstones.setdefault(target, deletion)

    def conversations_of(self, user: int) -> Iterable[int]:
        """Those of a user that are known here."""
        entries = self.users.get(user, ())
        return (entries,) if isinstance(entries, int) else entries

    @property
    def bytes(self) -> int:
        """Memory of tables and rows; rows estimated."""
        tables = self.heads.bytes + self.windows.bytes + self.dialogs.bytes
        tables += self.members.bytes if self.members is not None else 0
        return int(tables + (self.keys.bytes if self.keys is not None else 0)) + self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Of rows alone."""
        return (len(self.conversations) + len(self.memberships) + len(self.tombstones)) * ROW_BYTES

    def shed(self, position: int, *, slices: int = 1, keep_used: bool = True) -> None:
        """Drops, in slices of 1/256 of the tables, what the state saved at `position` holds; of rows some hundred a
        slice, or as many as came since the last time: dropping keeps up with what comes."""
        for _ in self.shed_steps(position, slices=slices, keep_used=keep_used):
            pass

    def shed_steps(self, position: int, *, slices: int, keep_used: bool) -> Iterator[None]:
        """The same in steps of less than a millisecond."""
        more, self._new_rows = 2 * self._new_rows, 0
        for _ in range(slices):
            self.heads.sweep(position, keep_used)
            self.windows.sweep(position, keep_used)
            self.dialogs.sweep(position, keep_used)
            if self.members is not None:
                self.members.sweep(position, keep_used)
            self._shed_rows(position, SHED_ROWS)
            yield
        for _ in range(more // SHED_ROWS):
            self._shed_rows(position, SHED_ROWS)
            yield

    def _shed_rows(self, position: int, limit: int) -> None:
        for conversation, row in list(islice(self.conversations.items(), limit)):
            del self.conversations[conversation]
            if row is not None and row.changed_at > position:
                self.conversations[conversation] = row  # to the end: looked at again after the others
        for key, membership in list(islice(self.memberships.items(), limit)):
            del self.memberships[key]
            if membership is not None and membership.changed_at > position:
                self.memberships[key] = membership
            else:
                _discard(self.users, key[0], key[1])
                roster = self.rosters.get(key[1])
                if roster is not None:
                    roster.discard(key[0])
                    if not roster:
                        del self.rosters[key[1]]
        for conversation, (created, first, second) in list(islice(self.dialog_users.items(), limit)):
            if created > position:
                break
            del self.dialog_users[conversation]
            _discard(self.users, first, conversation)
            _discard(self.users, second, conversation)
        for target, deletion in list(islice(self.tombstones.items(), limit)):
            del self.tombstones[target]
            if deletion > position:
                self.tombstones[target] = deletion


def _enter(index: dict[int, int | set[int]], key: int, value: int) -> None:
    entries = index.setdefault(key, value)
    if isinstance(entries, set):
        entries.add(value)
    elif entries != value:
        index[key] = {entries, value}


def _discard(index: dict[int, int | set[int]], key: int, value: int) -> None:
    entries = index.get(key)
    if isinstance(entries, set):
        entries.discard(value)
        if len(entries) == 1:
            index[key] = entries.pop()
    elif entries == value:
        del index[key]
