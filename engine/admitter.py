"""One pass of admission as a plain object: proposals in, a block, answers and missing keys out; no threads, no clock.

Between sequencer.py, which gives it batches, times and loaded rows, and the two halves of admission: ext/admission
(hot) and control.py (cold). Tests and simulations drive it directly: the same proposals, times and rows give the
same bytes.

Invariants: a block's records and the answers of its cut belong together and leave together; a proposal whose facts
are missing is deferred whole, with everything later of its device; deferred proposals are walked before newer ones.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from engine import errors, schema
from engine.answers import EXPECTED, PERSON, SYSTEM
from engine.control import Limits, Proposal, Target, decide, keys_of
from engine.conversations import GROUP_MEMBERS_MAX, KINDS, NUMBER_BITS, publish_rights, system_conversation
from engine.conversations import SYSTEM as SYSTEM_KIND
from engine.loader import Loaded, Missing
from engine.state.keys import KEYS_MAX
from engine.state.overlay import NUMBER_MASK, Overlay
from engine.state.saved import ConversationRow, MembershipRow, SavedState, key2
from ext.admission import CONTROL, DONE, Admission
from ext.block import BlockBuilder

BLOCK_BYTES_MAX: Final = 1 << 20
TARGETS_MAX: Final = 10_000  # facts about events never change; the cache only has a size


class Cut(NamedTuple):
    """What leaves together: `block` is None if nothing was appended. `last` is the newest sequence admitted."""

    block: bytes | None
    answers: bytes
    repeats: int
    last: int


class Admitter:
    """Owner: one thread at a time."""

    def __init__(
        self,
        saved: SavedState,
        *,
        shard: int,
        epoch: int,
        sequence: int,
        number: int,
        last_hash: bytes,
        block_events_max: int = 1 << 16,
        group_members_max: int = GROUP_MEMBERS_MAX,
        keys_max: int = KEYS_MAX,
    ) -> None:
        """`saved` stands at `sequence`."""
        self.overlay = Overlay(saved, admission=True)
        self._builder = BlockBuilder()
        assert self.overlay.members is not None
        assert self.overlay.keys is not None
        self._admission = Admission(
            self.overlay.heads,
            self.overlay.windows,
            self.overlay.members,
            self.overlay.dialogs,
            self.overlay.keys,
            self._builder,
            sequence,
            number,
            shard,
            publish_rights(),
            BLOCK_BYTES_MAX,
            block_events_max,
            keys_max,
        )
        self._shard, self._epoch = shard, epoch
        self._last_hash = last_hash
        self._block: bytes | None = None  # the newest, until its hash is taken
        self._first = sequence + 1
        self._limits = Limits(group_members_max)
        self._targets: dict[int, Target | None] = {}
        self._repeats = 0
        self._lack_rows: set[int] = set()
        self._lack_members: set[tuple[int, int]] = set()
        self._lack_targets: set[int] = set()
        self._lack_dialogs = b""

    # Walking.

    @property
    def sequence(self) -> int:
        """The newest sequence given."""
        return int(self._admission.sequence)

    @property
    def events(self) -> int:
        """Events in the open block."""
        return int(self._builder.count)

    @property
    def answered(self) -> int:
        """Proposals answered so far."""
        return int(self._admission.answered)

    @property
    def deferrals(self) -> int:
        """Times that a proposal was put aside."""
        return int(self._admission.deferrals)

    def limit_events(self, block_events_max: int) -> None:
        """How many events a block takes: for measuring commits of a given size."""
        self._admission.limit_events(block_events_max)

    def walk(self, batch: bytes, position: int, time_us: int) -> tuple[bool, int]:
        """Admits a batch from `position`: (True, its end), or (False, where to go on) when the block is full."""
        while True:
            verdict = self._admission.run(batch, position, time_us)
            if verdict != CONTROL:
                return verdict == DONE, int(self._admission.position)
            self._control(batch, time_us)
            position = self._admission.skip(batch)

    def cut(self) -> Cut:
        """Closes the open block and takes the answers that belong to it."""
        answers = self._admission.take_answers()
        repeats, self._repeats = int(self._admission.repeats) - self._repeats, int(self._admission.repeats)
        if not self._builder.count:
            return Cut(None, answers, repeats, self.sequence)
        self.take_hash()
        block = self._builder.finish(
            first_sequence=self._first, shard=self._shard, epoch=self._epoch, previous_hash=self._last_hash
        )
        self._first = self.sequence + 1
        self._block = block
        return Cut(block, answers, repeats, self.sequence)

    def take_hash(self) -> None:
        """Hashes the newest block, which the next one names: best called while the committer writes it."""
        if self._block is not None:
            self._last_hash = hashlib.sha256(self._block).digest()  # without the GIL
            self._block = None

    # Missing facts.

    def lacks(self) -> bool:
        """Whether proposals were put aside since the last take_missing()."""
        return bool(self._admission.deferred_bytes())

    @property
    def deferred_bytes(self) -> int:
        """Bytes of the proposals put aside since the last take_missing()."""
        return int(self._admission.deferred_bytes())

    def take_missing(self) -> tuple[bytes, Missing]:
        """The deferred proposals, in order, and the keys that they lack."""
        deferred, windows, heads, members, dialogs = self._admission.take_deferred()
        missing = Missing(
            windows,
            heads,
            members,
            dialogs + self._lack_dialogs,
            frozenset(self._lack_rows),
            frozenset(self._lack_members),
            frozenset(self._lack_targets),
        )
        self._lack_rows, self._lack_members, self._lack_targets, self._lack_dialogs = set(), set(), set(), b""
        return deferred, missing

    def take_loaded(self, loaded: Loaded) -> None:
        """Takes rows in. Walk the deferred proposals next, then what was deferred since, before anything newer."""
        loaded.into(self.overlay)
        if len(self._targets) > TARGETS_MAX:
            self._targets.clear()
        self._targets.update(loaded.targets)
        self._admission.release_waiting()

    # Control events.

    def _control(self, batch: bytes, time_us: int) -> None:
        """Decides the proposal at which native admission stopped."""
        proposed = self._admission.proposal(batch)
        flags, origin, user, device, counter, target, expected, type_name, payload, key = proposed
        name = type_name.decode("ascii")
        conversation = 0 if name == schema.CREATED else target
        if flags & SYSTEM:
            conversation = 0 if target else system_conversation(self._shard)
        elif flags & PERSON and name in schema.TARGETED:
            dialog = self.overlay.dialogs.get(min(user, target), max(user, target))
            if dialog is None:
                self._lack_dialogs += key2(min(user, target), max(user, target))
                self._admission.defer(batch)
                return
            conversation = dialog
        if refusal := self._misplaced(flags, name, conversation):
            self._admission.answer(origin, counter, 0, 0, 0, 0, refusal, 0)
            return
        proposal = Proposal(user, conversation, expected if flags & EXPECTED else None, name, payload)
        if self._lacks_facts(proposal):
            self._admission.defer(batch)
            return
        decision = decide(proposal, self, self._limits)
        if decision.payload is None:
            known = conversation if decision.status != errors.UNKNOWN_CONVERSATION else 0
            self._admission.answer(origin, counter, known, 0, decision.actual, 0, decision.status, decision.extra)
            return
        if name == schema.CREATED:
            conversation = self._admission.allocate()
        elif flags & SYSTEM and self.conversation(conversation) is None:
            self._begin_system(conversation, user, time_us)
        self.overlay.apply(self.sequence + 1, conversation, decision.payload)
        sequence, conversation_sequence = self._admission.emit(
            conversation, time_us, user, device, counter, type_name, schema.pack(decision.payload), key
        )
        self._admission.answer(
            origin, counter, conversation, sequence, conversation_sequence, time_us, errors.APPENDED, 0
        )

    def _misplaced(self, flags: int, name: str, conversation: int) -> int:
        """The refusal of a type that its proposer may not use, or of a conversation that is not of this shard; or 0."""
        if bool(flags & SYSTEM) != (name in schema.SYSTEM) or name not in schema.SCHEMA:
            return errors.BAD_TYPE
        return 0 if name == schema.CREATED or self._is_ours(conversation) else errors.UNKNOWN_CONVERSATION

    def _begin_system(self, conversation: int, user: int, time_us: int) -> None:
        """What is before the first event of the engine's own."""
        created = schema.Created(KINDS[SYSTEM_KIND].name)
        self.overlay.apply(self.sequence + 1, conversation, created)
        self._admission.emit(conversation, time_us, user, 0, 0, schema.CREATED.encode(), schema.pack(created))

    def _is_ours(self, conversation: int) -> bool:
        return conversation >> NUMBER_BITS == self._shard and conversation & NUMBER_MASK != 0

    def _lacks_facts(self, proposal: Proposal) -> bool:
        """Notes which facts aren't in memory; whether there are any."""
        keys = keys_of(proposal)
        if not keys.conversation:
            return False
        lacks = False
        entry = self.overlay.heads.get(keys.conversation)
        dialog = self.overlay.dialog_row(keys.conversation)
        if entry is None or not entry[8] or (dialog is None and keys.conversation not in self.overlay.conversations):
            self._lack_rows.add(keys.conversation)
            lacks = True
        for member in keys.members if dialog is None else ():
            if member not in self.overlay.memberships:
                self._lack_members.add(member)
                lacks = True
        if 0 < keys.target <= self.sequence and (
            keys.target not in self._targets or keys.target not in self.overlay.tombstones
        ):
            self._lack_targets.add(keys.target)
            lacks = True
        return lacks

    # Facts for control.decide: all in memory by now.

    def conversation(self, conversation: int) -> ConversationRow | None:
        """The conversation."""
        dialog = self.overlay.dialog_row(conversation)
        return dialog if dialog is not None else self.overlay.conversations[conversation]

    def conversation_sequence(self, conversation: int) -> int:
        """The conversation sequence of its last event."""
        entry = self.overlay.heads.get(conversation)
        return entry[2] if entry is not None else 0

    def membership(self, user: int, conversation: int) -> MembershipRow | None:
        """A membership."""
        dialog = self.overlay.dialog_row(conversation)
        if dialog is not None:
            return self.overlay.dialog_membership(dialog, user)
        return self.overlay.memberships[user, conversation]

    def target(self, sequence: int) -> Target | None:
        """The event at a sequence; None beyond the newest one given."""
        return self._targets[sequence] if sequence <= self.sequence else None

    def tombstone(self, sequence: int) -> int:
        """Its deletion, 0 if it stands."""
        return self.overlay.tombstones.get(sequence, 0)
