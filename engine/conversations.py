"""Kinds of conversation, their roles and what each role may do: the one table.

Asked by control.py (cold half of admission) and, packed into bytes by `publish_rights`, by ext/admission (hot half);
the gateway and the tests read names from it. A later kind (official, class) is another row here and nothing else.

Invariants: numbers are stored in the state and never reused; ext/tables knows three of them (no kind, dialog,
member), asserted by a test; who may give a role may also take it; nobody has a role in a system conversation, so
that no client reads it or writes to it.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

ENGINE_ITSELF: Final = 2**53 - 1  # the sender of system events that no service asked for; no service may be it


class Role(IntEnum):
    """What one is in a conversation; NONE is not a member."""

    NONE = 0
    OWNER = 1
    ADMIN = 2
    MEMBER = 3
    WRITER = 4
    FOLLOWER = 5


class Right(IntFlag):
    """What a role may do. PUBLISH is bit 0 because native code looks at it alone."""

    PUBLISH = 1
    REACT = 2
    EDIT_OWN = 4
    DELETE_OWN = 8
    DELETE_ANY = 16
    ADD = 32
    REMOVE = 64
    ASSIGN = 128
    RENAME = 256
    CLOSE = 512
    JOIN = 1024  # add oneself, in the kind's ordinary role
    LEAVE = 2048
    SEE_MEMBERS = 4096


class RoleRow(NamedTuple):
    """Rights of a role, and the roles that it may give and take."""

    rights: Right
    assigns: frozenset[Role] = frozenset()


class KindRow(NamedTuple):
    """One kind. `members_max` 0 = unlimited; `creatable`: by the create command."""

    number: int
    name: str
    creatable: bool
    ordinary: Role
    members_max: int
    roles: dict[Role, RoleRow]


_SPEAK = Right.PUBLISH | Right.REACT | Right.EDIT_OWN | Right.DELETE_OWN
_RUN = _SPEAK | Right.DELETE_ANY | Right.ADD | Right.REMOVE | Right.RENAME | Right.LEAVE | Right.SEE_MEMBERS
_OWN = _RUN | Right.ASSIGN | Right.CLOSE

DIALOG: Final = 1
GROUP: Final = 2
CHANNEL: Final = 3
SYSTEM: Final = 4  # a shard's one conversation of events of the engine's own, without members
GROUP_MEMBERS_MAX: Final = 5_000

KINDS: Final[dict[int, KindRow]] = {
    row.number: row
    for row in (
        KindRow(
            DIALOG,
            "dialog",
            False,
            Role.MEMBER,
            2,
            {
                Role.MEMBER: RoleRow(_SPEAK | Right.SEE_MEMBERS),
            },
        ),
        KindRow(
            GROUP,
            "group",
            True,
            Role.MEMBER,
            GROUP_MEMBERS_MAX,
            {
                Role.OWNER: RoleRow(_OWN, frozenset({Role.OWNER, Role.ADMIN, Role.MEMBER})),
                Role.ADMIN: RoleRow(_RUN, frozenset({Role.MEMBER})),
                Role.MEMBER: RoleRow(_SPEAK | Right.LEAVE | Right.SEE_MEMBERS),
            },
        ),
        KindRow(
            CHANNEL,
            "channel",
            True,
            Role.FOLLOWER,
            0,
            {
                Role.NONE: RoleRow(Right.JOIN),
                Role.OWNER: RoleRow(_OWN, frozenset({Role.OWNER, Role.ADMIN, Role.WRITER, Role.FOLLOWER})),
                Role.ADMIN: RoleRow(_RUN | Right.ASSIGN, frozenset({Role.WRITER, Role.FOLLOWER})),
                Role.WRITER: RoleRow(_SPEAK | Right.LEAVE),
                Role.FOLLOWER: RoleRow(Right.REACT | Right.LEAVE),
            },
        ),
        KindRow(SYSTEM, "system", False, Role.NONE, 0, {}),
    )
}
KIND_BY_NAME: Final[dict[str, KindRow]] = {row.name: row for row in KINDS.values()}
ROLE_BY_NAME: Final[dict[str, Role]] = {role.name.lower(): role for role in Role if role}
ROLE_NAMES: Final[dict[int, str]] = {role.value: role.name.lower() if role else "" for role in Role}
KIND_NAMES: Final[dict[int, str]] = {row.number: row.name for row in KINDS.values()}

NUMBER_BITS: Final = 40  # of a conversation's id; the shard is above them
SYSTEM_NUMBER: Final = (1 << NUMBER_BITS) - 1  # the highest there is: numbers given one after the other never reach it

_NOTHING = RoleRow(Right(0))


def role_row(kind: int, role: int) -> RoleRow:
    """Rights of a role in a kind; no rights if the kind has no such role."""
    return KINDS[kind].roles.get(Role(role), _NOTHING) if kind in KINDS else _NOTHING


def may(kind: str, role: str, right: Right) -> bool:
    """Whether a role ("" = not a member) of a kind has a right, by names."""
    row = KIND_BY_NAME.get(kind)
    return row is not None and right in role_row(row.number, ROLE_BY_NAME.get(role, Role.NONE)).rights


def system_conversation(shard: int) -> int:
    """The id of a shard's system conversation, which begins with its first event."""
    return shard << NUMBER_BITS | SYSTEM_NUMBER


def is_system(conversation: int) -> bool:
    """Whether an id is that of a system conversation."""
    return conversation & SYSTEM_NUMBER == SYSTEM_NUMBER


def publish_rights() -> bytes:
    """The low byte of the rights by kind × 8 + role, for native code."""
    roles = {role.value for role in Role}
    return bytes(
        int(role_row(kind, role).rights) & 0xFF if role in roles else 0 for kind in range(8) for role in range(8)
    )
