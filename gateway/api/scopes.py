"""What a service token allows: the words of its `scope`, and the questions that the door asks of them.

    read:PREFIX      events of these types; `read:*` all but the engine's record of what was done
    publish:PREFIX   likewise for writing; conversations and members are events too (`publish:member.`)
    conversation:ID  only these conversations, if there is any such word
    subscriptions    create, delete, pause, resume and reset subscriptions, replay and drop what is parked
    audit            read what was done to subscriptions (`subscription.*`) and by operators (`admin.*`)

A prefix ends at a dot: `message` allows message and message.edited, `member.` all below member. Words of other servers
are passed over. A filter that could bring more than the token allows is refused, never narrowed in silence.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from engine import Filter

EVERYTHING: Final = "*"
SYSTEM_KIND: Final = "system"
SYSTEM_TYPES: Final = ("subscription.", "admin.")
_CONVERSATION = re.compile(r"[1-9][0-9]{0,15}\Z")
_SYSTEM_PART: Final = (1 << 40) - 1  # of a shard's own conversation; see engine/subscriptions


class Scope(NamedTuple):
    """A parsed scope."""

    read: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    conversations: frozenset[int] = frozenset()
    """Empty = all."""
    is_limited: bool = False
    """Whether conversations were named at all: one that can't be an id allows none, instead of all."""
    subscriptions: bool = False
    audit: bool = False


def parse_scope(text: str) -> Scope:
    """The scope of a token."""
    words = text.split()
    named = [word.removeprefix("conversation:") for word in words if word.startswith("conversation:")]
    return Scope(
        tuple(word.removeprefix("read:") for word in words if word.startswith("read:")),
        tuple(word.removeprefix("publish:") for word in words if word.startswith("publish:")),
        frozenset(int(word) for word in named if _CONVERSATION.match(word)),
        bool(named),
        "subscriptions" in words,
        "audit" in words,
    )


def covers(prefix: str, wanted: str) -> bool:
    """Whether a prefix allows all that another one, or a type, names."""
    if not prefix:
        return False
    return prefix in (EVERYTHING, wanted) or wanted.startswith(prefix if prefix.endswith(".") else prefix + ".")


def may_publish(scope: Scope, type: str, conversation: int) -> str:
    """Why it may not; "" if it may. `conversation` 0: one that is still to be made."""
    if not any(covers(prefix, type) for prefix in scope.publish):
        return f"the token's scope allows no publishing of {type!r}: it needs publish:{type}"
    if scope.is_limited and conversation not in scope.conversations:
        return "the token's scope is limited to other conversations"
    return ""


def may_see(scope: Scope, conversation: int) -> str:
    """Why a service may not look at a conversation and its members; "" if it may."""
    if not any(covers(prefix, "conversation.") or covers(prefix, "member.") for prefix in scope.read):
        return "the token's scope allows no look at conversations: it needs read:conversation. or read:member."
    if scope.is_limited and conversation not in scope.conversations:
        return "the token's scope is limited to other conversations"
    return ""


def may_read(scope: Scope, filter: Filter) -> str:
    """Why a service may not read all that a filter lets through; "" if it may."""
    is_record = scope.audit and set(filter.kinds) == {SYSTEM_KIND}  # all of it is what `audit` is for
    for wanted in filter.types or (EVERYTHING,):
        if wanted == EVERYTHING or not wanted:
            if EVERYTHING not in scope.read and not is_record:
                return "the filter names no types: the token needs read:*, or name the types that it allows"
        elif not (any(covers(prefix, wanted) for prefix in scope.read) or (scope.audit and _is_system(wanted))):
            return f"the token's scope allows no reading of {wanted!r}: it needs read:{wanted}"
    if not scope.audit and _reaches_system(filter):
        return (
            "the filter lets the record of what was done through, which takes the scope `audit`: name types, or kinds"
            " without system (dialog, group, channel)"
        )
    if scope.is_limited:
        beyond = sorted(set(filter.conversations) - scope.conversations)
        if not filter.conversations or beyond:
            named = f", not {beyond[0]}" if beyond else ""
            return f"the token's scope is limited to some conversations: the filter must name only these{named}"
    return ""


def _is_system(wanted: str) -> bool:
    return any(wanted == known[:-1] or wanted.startswith(known) for known in SYSTEM_TYPES)


def _reaches_system(filter: Filter) -> bool:
    if filter.kinds and SYSTEM_KIND not in filter.kinds:
        return False
    if filter.conversations and all(one & _SYSTEM_PART != _SYSTEM_PART for one in filter.conversations):
        return False
    return not filter.types or any(_is_system(wanted) for wanted in filter.types)
