"""Operations on conversations and their members: each change is an event like any other, published for the service.

Rights are the conversation's (engine/conversations.py): the service's user must have them, as a person must. The
token's scope must allow the types besides (`publish:conversation.`, `publish:member.`).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine import Conversation, Receipt, schema
from gateway.api import shapes
from gateway.api.door import time_of
from gateway.api.operation import Call, operation
from gateway.api.problems import Refusal, forbidden
from gateway.api.scopes import may_publish, may_see

TAG = "conversations"
MEMBERS_MAX = 1_000
KEYED = ("Idempotency-Key",)


class ConversationPath(Struct):
    """Which conversation."""

    conversation: shapes.Id


class MemberPath(Struct):
    """Which member of which conversation."""

    conversation: shapes.Id
    user: shapes.Id


class MembersQuery(Struct, forbid_unknown_fields=True):
    """Which page of members."""

    after: Annotated[shapes.Number, Meta(description="members above this user")] = 0
    limit: Annotated[int, Meta(ge=1, le=MEMBERS_MAX)] = 100


@operation("POST", "/v1/conversations", tag=TAG, status=201, problems=(409,), headers=KEYED)
async def create_conversation(call: Call, body: shapes.NewConversation) -> shapes.Published:
    """Create a group or a channel.

    The service's user owns it. The same key again gives the same conversation.
    """
    forbidden(may_publish(call.service.scope, schema.CREATED, 0))
    if body.kind == "channel" and body.members:
        raise Refusal("bad_argument", "members: a channel begins without followers; add them afterwards")
    key = header_key(call)
    call.door.quotas.charge_publishes(call.service.team, 1 + len(body.members), 16 * len(body.members))
    fields = {
        "kind": body.kind,
        "title": body.title,
        "history": body.history,
        "members": [(user, "") for user in body.members],
    }
    publisher = call.door.backend.publisher(call.service)
    return published(call, await publisher.command(schema.CREATED, 0, fields, key=body.key or key))


@operation("GET", "/v1/conversations/{conversation}", tag=TAG, problems=(404,))
async def show_conversation(call: Call, path: ConversationPath) -> shapes.ConversationView:
    """Show a conversation as it is now."""
    found = _seen(call, path.conversation)
    return shapes.ConversationView(
        conversation=found.conversation,
        kind=found.kind,
        title=found.title,
        history=found.history,
        closed=found.closed,
        members=found.member_count,
        sequence=found.head,
        conversation_sequence=found.conversation_sequence,
    )


@operation("GET", "/v1/conversations/{conversation}/members", tag=TAG, problems=(404,))
async def list_members(call: Call, path: ConversationPath, query: MembersQuery) -> shapes.Members:
    """List members, ascending by user."""
    _seen(call, path.conversation)
    found = call.door.backend.members(path.conversation, query.after, query.limit)
    return shapes.Members(
        members=[shapes.Member(user, role) for user, role in found],
        next=found[-1][0] if len(found) == query.limit else None,
    )


@operation("PUT", "/v1/conversations/{conversation}/members/{user}", tag=TAG, problems=(404, 409), headers=KEYED)
async def add_member(call: Call, path: MemberPath, body: shapes.NewMember) -> shapes.Published:
    """Add a member."""
    return await _command(call, schema.ADDED, path, {"user": path.user, "role": body.role})


@operation("DELETE", "/v1/conversations/{conversation}/members/{user}", tag=TAG, problems=(404, 409), headers=KEYED)
async def remove_member(call: Call, path: MemberPath) -> shapes.Published:
    """Remove a member."""
    return await _command(call, schema.REMOVED, path, {"user": path.user})


async def _command(call: Call, type: str, path: MemberPath, fields: dict[str, object]) -> shapes.Published:
    forbidden(may_publish(call.service.scope, type, path.conversation))
    call.door.quotas.charge_publishes(call.service.team, 1, 16)
    publisher = call.door.backend.publisher(call.service)
    return published(call, await publisher.command(type, path.conversation, fields, key=header_key(call)))


def _seen(call: Call, conversation: int) -> Conversation:
    forbidden(may_see(call.service.scope, conversation))
    found = call.door.backend.conversation(conversation)
    if found is None:
        raise Refusal("unknown_conversation", f"there is no conversation {conversation}")
    return found


def header_key(call: Call) -> str:
    """The Idempotency-Key of a request; "" for none."""
    key = call.request.headers.get("idempotency-key", "").strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':  # a structured field's string
        key = key[1:-1]
    if len(key) > 256:
        raise Refusal("bad_argument", f"Idempotency-Key has {len(key)} characters; at most 256")
    return key


def published(call: Call, receipt: Receipt) -> shapes.Published:
    """A receipt as it leaves."""
    return shapes.Published(
        id=call.door.id_of(receipt.sequence),
        sequence=receipt.sequence,
        conversation=receipt.conversation,
        conversation_sequence=receipt.conversation_sequence,
        time=time_of(receipt.time),
        repeat=receipt.repeat,
    )
