"""The cold half of admission: conversations, members, roles, edits, deletions, reactions, the engine's own events.

Called by admitter.py for the proposals where ext/admission stops; a pure function of the proposal and of facts that
are in memory: no I/O, clock or randomness, so that every node that applies the same record decides alike. `keys_of`
says beforehand which facts a proposal needs; what isn't there is fetched first and the proposal waits for it.

The order of judgement: schema, conversation, membership, rights, closed, expected, then what the type asks. What one
may not see looks like what there isn't. Cost: some 20 µs a proposal, Python.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from engine import errors, schema
from engine.conversations import KIND_BY_NAME, KINDS, ROLE_BY_NAME, ROLE_NAMES, KindRow, Right, Role, role_row
from engine.state.saved import ConversationRow, MembershipRow


class Target(NamedTuple):
    """The event that an edit, a deletion or a reaction aims at."""

    conversation: int
    sender: int
    type: str


class Proposal(NamedTuple):
    """A proposal of a control event; `conversation` is 0 for a new one. `expected` is None if not conditional."""

    user: int
    conversation: int
    expected: int | None
    type: str
    payload: bytes


class Keys(NamedTuple):
    """Facts that deciding needs: conversations, memberships (user, conversation), targets with their tombstones."""

    conversation: int = 0
    members: tuple[tuple[int, int], ...] = ()
    target: int = 0


class Facts(Protocol):
    """What admission knows at this moment; every key of keys_of() is in memory."""

    def conversation(self, conversation: int) -> ConversationRow | None:
        """The conversation."""

    def conversation_sequence(self, conversation: int) -> int:
        """The conversation sequence of its last event."""

    def membership(self, user: int, conversation: int) -> MembershipRow | None:
        """A membership."""

    def target(self, sequence: int) -> Target | None:
        """The event at a sequence."""

    def tombstone(self, sequence: int) -> int:
        """Its deletion, 0 if it stands."""


class Decision(NamedTuple):
    """`status` 0: append `payload`, which is canonical. Else a refusal; `actual` is a conflict's sequence."""

    status: int
    payload: schema.Payload | None = None
    extra: int = 0
    actual: int = 0


class _Refused(Exception):
    def __init__(self, status: int, extra: int = 0, actual: int = 0) -> None:
        self.decision = Decision(status, None, extra, actual)


class Limits(NamedTuple):
    """Members of a kind, where configuration sets them lower than the table."""

    group_members_max: int

    def of(self, kind: KindRow) -> int:
        """0 = unlimited."""
        return min(kind.members_max, self.group_members_max) if kind.name == "group" else kind.members_max


def keys_of(proposal: Proposal) -> Keys:
    """The facts that decide() will ask for. An unreadable payload needs none."""
    if proposal.type not in schema.SCHEMA or proposal.type == schema.CREATED:
        return Keys()
    try:
        payload = schema.unpack(proposal.type, proposal.payload)
    except schema.BadPayload:
        return Keys()
    conversation = proposal.conversation
    members = [(proposal.user, conversation)] if proposal.type not in schema.SYSTEM else []
    subject = getattr(payload, "user", 0)
    if subject and subject != proposal.user:
        members.append((subject, conversation))
    return Keys(conversation, tuple(members), getattr(payload, "target", 0))


def decide(proposal: Proposal, facts: Facts, limits: Limits) -> Decision:
    """Judges one proposal."""
    if proposal.type not in schema.SCHEMA:
        return Decision(errors.BAD_TYPE)
    try:
        payload = schema.unpack(proposal.type, proposal.payload)
    except schema.BadPayload:
        return Decision(errors.BAD_PAYLOAD)
    try:
        if isinstance(payload, schema.Created):
            accepted: schema.Payload = _create(proposal, payload, limits)
        elif proposal.type in schema.SYSTEM:
            accepted = _system(proposal, payload, facts)
        else:
            accepted = _change(proposal, payload, facts, limits)
    except _Refused as refusal:
        return refusal.decision
    return Decision(errors.APPENDED, accepted)


def _create(proposal: Proposal, payload: schema.Created, limits: Limits) -> schema.Created:
    kind = KIND_BY_NAME.get(payload.kind)
    if kind is None or not kind.creatable:
        raise _Refused(errors.BAD_PAYLOAD)
    if proposal.expected:
        raise _Refused(errors.CONFLICT)
    assigns = role_row(kind.number, Role.OWNER).assigns
    members = {proposal.user: Role.OWNER}
    for user, name in payload.members:
        role = ROLE_BY_NAME.get(name) if name else kind.ordinary
        if role is None or role not in assigns:
            raise _Refused(errors.BAD_PAYLOAD)
        if role == Role.FOLLOWER:  # whoever follows later would read in this event who else does
            raise _Refused(errors.BAD_PAYLOAD)
        members.setdefault(user, role)
    most = limits.of(kind)
    if most and len(members) > most:
        raise _Refused(errors.MEMBER_LIMIT, most)
    created = schema.Created(
        payload.kind, payload.title, payload.history, [(user, ROLE_NAMES[role]) for user, role in members.items()]
    )
    if len(schema.pack(created)) > schema.PAYLOAD_BYTES_MAX:
        raise _Refused(errors.PAYLOAD_TOO_LARGE)
    return created


def _system(proposal: Proposal, payload: schema.Payload, facts: Facts) -> schema.Payload:
    """An event of the engine's own: whoever may propose one has been let through by its flag."""
    actual = facts.conversation_sequence(proposal.conversation)
    if proposal.expected is not None and proposal.expected != actual:
        raise _Refused(errors.CONFLICT, actual=actual)
    if len(schema.pack(payload)) > schema.PAYLOAD_BYTES_MAX:  # defaults left out by its proposer are written out
        raise _Refused(errors.PAYLOAD_TOO_LARGE)
    return payload


def _change(proposal: Proposal, payload: schema.Payload, facts: Facts, limits: Limits) -> schema.Payload:
    """Everything that happens in a conversation that there is."""
    row = facts.conversation(proposal.conversation)
    membership = facts.membership(proposal.user, proposal.conversation) if row is not None else None
    role = Role(membership.role) if membership is not None else Role.NONE
    if row is None or (role is Role.NONE and role not in KINDS[row.kind].roles):
        raise _Refused(errors.UNKNOWN_CONVERSATION)
    match payload:
        case schema.Added():
            return _added(proposal, payload, row, role, facts, limits)
        case schema.Removed():
            return _removed(proposal, payload, row, role, facts)
        case schema.Left():
            if payload.user != proposal.user:
                raise _Refused(errors.BAD_PAYLOAD)
            _allow(proposal, row, role, Right.LEAVE, facts, also_closed=True)
        case schema.Role():
            return _role(proposal, payload, row, role, facts)
        case schema.Renamed():
            _allow(proposal, row, role, Right.RENAME, facts)
            if payload.title == row.title:
                raise _Refused(errors.UNCHANGED)
        case schema.Closed():
            if row.closed and Right.CLOSE in role_row(row.kind, role).rights:
                raise _Refused(errors.UNCHANGED)
            _allow(proposal, row, role, Right.CLOSE, facts)
        case schema.Edited():
            _allow(proposal, row, role, Right.EDIT_OWN, facts)
            target = _target(proposal, payload.target, membership, facts)
            if target.sender != proposal.user:
                raise _Refused(errors.FORBIDDEN)
            if facts.tombstone(payload.target):
                raise _Refused(errors.BAD_TARGET)
        case schema.Deleted():
            _deleted(proposal, payload, row, role, membership, facts)
        case schema.Reaction():
            _allow(proposal, row, role, Right.REACT, facts)
            _target(proposal, payload.target, membership, facts)
            if facts.tombstone(payload.target):
                raise _Refused(errors.BAD_TARGET)
    return payload


def _allow(
    proposal: Proposal, row: ConversationRow, role: Role, right: Right, facts: Facts, *, also_closed: bool = False
) -> None:
    """Rights, then closed, then expected."""
    if right not in role_row(row.kind, role).rights:
        raise _Refused(errors.FORBIDDEN)
    if row.closed and not also_closed:
        raise _Refused(errors.CLOSED)
    if proposal.expected is not None:
        actual = facts.conversation_sequence(proposal.conversation)
        if proposal.expected != actual:
            raise _Refused(errors.CONFLICT, actual=actual)


def _subject_role(user: int, conversation: int, facts: Facts) -> Role:
    membership = facts.membership(user, conversation)
    return Role(membership.role) if membership is not None else Role.NONE


def _added(
    proposal: Proposal, payload: schema.Added, row: ConversationRow, role: Role, facts: Facts, limits: Limits
) -> schema.Added:
    kind = KINDS[row.kind]
    wanted = ROLE_BY_NAME.get(payload.role) if payload.role else kind.ordinary
    if wanted is None or wanted not in kind.roles:
        raise _Refused(errors.BAD_PAYLOAD)
    if payload.user == proposal.user and role is not Role.NONE:
        raise _Refused(errors.UNCHANGED)
    if payload.user == proposal.user:
        _allow(proposal, row, role, Right.JOIN, facts)
        if wanted is not kind.ordinary:
            raise _Refused(errors.FORBIDDEN)
    else:
        _allow(proposal, row, role, Right.ADD, facts)
        if wanted not in role_row(row.kind, role).assigns:
            raise _Refused(errors.FORBIDDEN)
        if _subject_role(payload.user, proposal.conversation, facts) is not Role.NONE:
            raise _Refused(errors.UNCHANGED)
    most = limits.of(kind)
    if most and row.member_count >= most:
        raise _Refused(errors.MEMBER_LIMIT, most)
    return schema.Added(payload.user, ROLE_NAMES[wanted])


def _removed(
    proposal: Proposal, payload: schema.Removed, row: ConversationRow, role: Role, facts: Facts
) -> schema.Removed:
    _allow(proposal, row, role, Right.REMOVE, facts)
    subject = _subject_role(payload.user, proposal.conversation, facts)
    if subject is Role.NONE:
        raise _Refused(errors.UNCHANGED)
    if payload.user == proposal.user or subject not in role_row(row.kind, role).assigns:
        raise _Refused(errors.FORBIDDEN)
    return payload


def _role(proposal: Proposal, payload: schema.Role, row: ConversationRow, role: Role, facts: Facts) -> schema.Role:
    wanted = ROLE_BY_NAME.get(payload.role)
    if wanted is None or wanted not in KINDS[row.kind].roles:
        raise _Refused(errors.BAD_PAYLOAD)
    _allow(proposal, row, role, Right.ASSIGN, facts)
    subject = _subject_role(payload.user, proposal.conversation, facts)
    assigns = role_row(row.kind, role).assigns
    if subject is Role.NONE:
        raise _Refused(errors.BAD_TARGET)
    if subject is wanted:
        raise _Refused(errors.UNCHANGED)
    if subject not in assigns or wanted not in assigns:
        raise _Refused(errors.FORBIDDEN)
    return payload


def _deleted(
    proposal: Proposal,
    payload: schema.Deleted,
    row: ConversationRow,
    role: Role,
    membership: MembershipRow | None,
    facts: Facts,
) -> None:
    rights = role_row(row.kind, role).rights
    _allow(proposal, row, role, Right.DELETE_ANY if Right.DELETE_ANY in rights else Right.DELETE_OWN, facts)
    target = _target(proposal, payload.target, membership, facts)
    if target.sender != proposal.user and Right.DELETE_ANY not in rights:
        raise _Refused(errors.FORBIDDEN)
    if facts.tombstone(payload.target):
        raise _Refused(errors.UNCHANGED)


def _target(proposal: Proposal, sequence: int, membership: MembershipRow | None, facts: Facts) -> Target:
    """A published message of this conversation that the proposer may see."""
    target = facts.target(sequence)
    if target is None or target.conversation != proposal.conversation or is_engine_type(target.type):
        raise _Refused(errors.BAD_TARGET)
    if membership is None or not any(
        first <= sequence and (last is None or sequence <= last) for first, last in membership.intervals
    ):
        raise _Refused(errors.BAD_TARGET)
    return target


def is_engine_type(name: str) -> bool:
    """Whether a type has a schema of the engine's, hence is nothing that can be edited, deleted or reacted to."""
    return name in schema.SCHEMA
