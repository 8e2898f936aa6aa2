"""Cold commands: everything that native code does not decode itself, one function a command.

Called by server.py with a session and the bytes of its message. A write becomes a proposal, packed with the engine's
schema and submitted with the hot ones at the end of the step; its receipt comes natively after the sync. A question
is answered from the view at once, or, where the log must be read (history), by the pool.

Invariants: no handler blocks or touches the disk beyond a look-up; an error names what to change; the session that a
handler answers is the one that asked. Cost: pages are bounded, so that a handler stays within a slice of the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from engine import CallerError, Conversation, DataUntrusted, Membership, Right, limits, may, schema
from engine import errors as statuses
from engine import history as log_history
from ext.jsonevent import json_event
from gateway import close_codes, cursors, hello, load, proposals, pushes, requests
from gateway.session import OPEN, Door, log

# Short questions have long answers: who asks on without taking them is told to come again. What is under way then is
# a page at most, and the history jobs of the session. They are also what can wait longest when the server is busy.
QUESTIONS = (requests.Conversations, requests.Members, requests.History)
UNSENT_RETRY_MS = 1_000  # spread, as the other
QUESTION_RETRY_MS = 2_000
MEMBERS_A_COMMAND = 50  # of a new group: what they take of the session's rate
MEMBERS_FREE = 64  # groups up to this size are made at any time
CONVERSATION_SEQUENCE = slice(20, 28)  # of a stored record, see engine/LOG_FORMAT.md


def handle(door: Door, session: int, message: bytes) -> None:
    """One message of one session."""
    door.counters.cold_commands += 1
    try:
        request = requests.decode(door.sessions.encoding(session), message)
    except requests.Malformed as error:
        door.refuse(session, "bad_message", str(error))
        return
    except requests.BadRequest as error:
        _refuse_unreadable(door, session, error)
        return
    if door.sessions.state(session) == OPEN and not isinstance(request, requests.Hello):
        door.refuse(session, "hello_first", "nothing is served before hello", id=request.id)
        return
    if isinstance(request, QUESTIONS) and (why := _too_much(door, session)):
        text, retry_ms = why
        door.refuse(session, "overloaded", text, id=request.id, retry_after_ms=load.spread(retry_ms))
        return
    HANDLERS[type(request)](door, session, request)


def _too_much(door: Door, session: int) -> tuple[str, int] | None:
    """Why a question isn't answered now, and the milliseconds after which to ask again."""
    if door.load.sheds(load.QUESTIONS):
        door.counters.shed_question_commands += 1
        return "the server is busy", QUESTION_RETRY_MS
    waiting = door.sessions.unsent_bytes(session)
    if waiting <= limits.UNSENT_BYTES_MAX:
        return None
    return (
        f"{waiting} bytes of earlier answers have not been taken yet, over {limits.UNSENT_BYTES_MAX}",
        UNSENT_RETRY_MS,
    )


def _refuse_unreadable(door: Door, session: int, error: requests.BadRequest) -> None:
    """Names what was wrong. Before hello that is also the end: a client that can't say hello must be mended."""
    if door.sessions.state(session) != OPEN:
        door.refuse(session, error.code, error.message, id=error.id, counter=error.counter)
    elif error.op == requests.HELLO:
        door.counters.refused_hellos += 1
        door.refuse(session, error.code, error.message, id=error.id)
        door.end(session, close_codes.BAD_COMMAND)
    else:
        door.refuse(session, "hello_first", "nothing is served before hello; and: " + error.message, id=error.id)


# ---- writes ----------------------------------------------------------------------------------------------------------


def _propose(door: Door, session: int, counter: int, target: int, type_name: str, payload: bytes, **flags: Any) -> None:
    sessions = door.sessions
    if not door.poller.begin_unanswered(session, counter):
        return  # over the limit: the poller has answered too_many_unanswered
    door.pending += proposals.pack(
        sessions.origin(session),
        sessions.user(session),
        sessions.device(session),
        counter,
        target,
        type_name,
        payload,
        **flags,
    )


def _refuse_write(door: Door, session: int, counter: int, status: int, extra: int = 0) -> None:
    """A receipt for a write that admission never needs to see."""
    if door.poller.begin_unanswered(session, counter):
        door.poller.answer(proposals.answer(door.sessions.origin(session), counter, status, 0, extra))


def publish(door: Door, session: int, request: requests.Publish) -> None:
    """What native code left over: text, expected, target, types of edits; and mistakes."""
    if (request.conversation is None) == (request.user is None):
        door.refuse(session, "bad_field", "name either conversation or user", id=request.id, counter=request.counter)
        return
    if request.payload is not None and request.text is not None:
        door.refuse(session, "bad_field", "give either payload or text", id=request.id, counter=request.counter)
        return
    body = request.text.encode() if request.text is not None else request.payload or b""
    if len(body) > schema.PAYLOAD_BYTES_MAX:
        _refuse_write(door, session, request.counter, statuses.PAYLOAD_TOO_LARGE, schema.PAYLOAD_BYTES_MAX)
        return
    if request.type in schema.TARGETED:
        if request.target is None:
            _refuse_write(door, session, request.counter, statuses.BAD_TARGET)
            return
        body = schema.pack(_targeted(request.type, request.target, body))
    elif engines_own(request.type):
        _refuse_write(door, session, request.counter, statuses.BAD_TYPE)
        return
    target = request.conversation if request.user is None else request.user
    assert target is not None
    _propose(
        door,
        session,
        request.counter,
        target,
        request.type,
        body,
        to_person=request.user is not None,
        expected=request.expected,
    )


def _targeted(type_name: str, target: int, body: bytes) -> schema.Payload:
    if type_name == schema.EDITED:
        return schema.Edited(target, body)
    if type_name == schema.REACTION:
        return schema.Reaction(target, body)
    return schema.Deleted(target)


def engines_own(type_name: str) -> bool:
    """Whether clients may not publish a type by name: the commands for it judge and pack it."""
    return type_name.startswith(schema.RESERVED) or len(type_name.encode()) > schema.TYPE_BYTES_MAX


def create(door: Door, session: int, request: requests.Create) -> None:
    """A group or channel; whoever creates it owns it."""
    if request.kind == "channel" and request.members:
        words = "members: a channel begins without followers, they follow by themselves or are added"
        door.refuse(session, "bad_field", words, id=request.id, counter=request.counter)
        return
    if not _affords(door, session, request):
        return
    payload = schema.Created(request.kind, request.title, request.history, [(user, "") for user in request.members])
    _propose(door, session, request.counter, 0, schema.CREATED, schema.pack(payload))


def _affords(door: Door, session: int, request: requests.Create) -> bool:
    """Whether session and process have time for so many members; the refusal has been said if not."""
    count = len(request.members)
    wait_ms = door.poller.charge(session, count // MEMBERS_A_COMMAND)
    if wait_ms:
        _refuse_write(door, session, request.counter, statuses.RATE_LIMITED, wait_ms)
        return False
    if count > MEMBERS_FREE and (wait_ms := door.load.members.wait_ms(count, time.monotonic())):
        _refuse_write(door, session, request.counter, statuses.OVERLOADED, wait_ms + load.spread(wait_ms))
        return False
    return True


def add(door: Door, session: int, request: requests.Add) -> None:
    """A member, in the kind's ordinary role unless one is named."""
    _control(door, session, request, schema.ADDED, schema.Added(request.user, request.role or ""))


def follow(door: Door, session: int, request: requests.Follow) -> None:
    """Adding oneself to a channel."""
    _control(door, session, request, schema.ADDED, schema.Added(door.sessions.user(session), ""))


def remove(door: Door, session: int, request: requests.Remove) -> None:
    """Somebody else's leaving."""
    _control(door, session, request, schema.REMOVED, schema.Removed(request.user))


def leave(door: Door, session: int, request: requests.Leave | requests.Unfollow) -> None:
    """One's own leaving; unfollow is the word for channels."""
    _control(door, session, request, schema.LEFT, schema.Left(door.sessions.user(session)))


def role(door: Door, session: int, request: requests.SetRole) -> None:
    """Another role for a member."""
    _control(door, session, request, schema.ROLE, schema.Role(request.user, request.role))


def rename(door: Door, session: int, request: requests.Rename) -> None:
    """Another title."""
    _control(door, session, request, schema.RENAMED, schema.Renamed(request.title))


def close(door: Door, session: int, request: requests.Close) -> None:
    """No events after this."""
    _control(door, session, request, schema.CLOSED, schema.Closed())


def _control(door: Door, session: int, request: Any, type_name: str, payload: schema.Payload) -> None:
    _propose(door, session, request.counter, request.conversation, type_name, schema.pack(payload))


# ---- questions -------------------------------------------------------------------------------------------------------


def conversations(door: Door, session: int, request: requests.Conversations) -> None:
    """One page of the user's conversations with heads, unread counts and own marks."""
    user = door.sessions.user(session)
    limit = min(request.limit, door.config.gateway.conversations_page_max)
    wanted = [
        membership
        for membership in door.view.memberships(user)
        if membership.conversation > request.after and (request.former or membership.role)
    ]
    items = []
    for membership in wanted[:limit]:
        row = door.view.conversation(membership.conversation)
        if row is not None:
            items.append(_conversation_item(door, user, membership, row))
    following = wanted[limit - 1].conversation if len(wanted) > limit else None
    _reply(door, session, request, pushes.CONVERSATIONS, {"items": items, "next": following})


def _conversation_item(door: Door, user: int, membership: Membership, row: Conversation) -> dict[str, Any]:
    delivered, read = door.cursors.store.get(row.conversation, user)
    item: dict[str, Any] = {
        "conversation": row.conversation,
        "kind": row.kind,
        "title": row.title,
        "role": membership.role or "former",
        "member_count": row.member_count,
        "head": row.head,
        "conversation_sequence": row.conversation_sequence,
        "unread": 0,
        "delivered": delivered,
        "read": read,
        "history": row.history,
        "closed": row.closed,
    }
    if membership.role:
        item["unread"] = max(0, row.conversation_sequence - max(read, _hidden_before(door, membership, row)))
    else:
        # What came after is not theirs to know: neither events nor a new title, nor who is there now.
        item.update(title="", member_count=0, closed=False)
        item["head"] = membership.intervals[-1][1] or 0
        item["conversation_sequence"] = _conversation_sequence(door, item["head"])
    if row.peers is not None:
        first, second = row.peers
        item["peer"] = second if first == user else first
    return item


def _hidden_before(door: Door, membership: Membership, row: Conversation) -> int:
    """The conversation sequence before the member's own first event; 0 where everything is visible."""
    first = membership.intervals[-1][0]
    if first <= row.created:
        return 0
    return max(0, _conversation_sequence(door, first) - 1)  # unknown: the count is that of the whole conversation


def _conversation_sequence(door: Door, sequence: int) -> int:
    """That of the event at a sequence; 0 if it can't be known: trimmed or damaged."""
    try:
        record = door.reader.record(sequence)
    except (CallerError, DataUntrusted):
        return 0
    return int.from_bytes(record[CONVERSATION_SEQUENCE]) if record is not None else 0


def members(door: Door, session: int, request: requests.Members) -> None:
    """One page of members, with their marks where members may see them."""
    user = door.sessions.user(session)
    membership = door.view.membership(user, request.conversation)
    row = door.view.conversation(request.conversation)
    if membership is None or not membership.role or row is None:
        door.refuse(session, "unknown_conversation", f"conversation {request.conversation}", id=request.id)
        return
    if not may(row.kind, membership.role, Right.SEE_MEMBERS):
        door.refuse(session, "forbidden", f"the role {membership.role} is not told of the members", id=request.id)
        return
    limit = min(request.limit, door.config.gateway.members_page_max)
    found = door.view.members(request.conversation, request.after, limit + 1)
    shown = door.cursors.shown(row)
    items = []
    for member, member_role in found[:limit]:
        item: dict[str, Any] = {"user": member, "role": member_role}
        if shown:
            item["delivered"], item["read"] = door.cursors.store.get(request.conversation, member)
        items.append(item)
    following = found[limit - 1][0] if len(found) > limit else None
    _reply(
        door,
        session,
        request,
        pushes.MEMBERS,
        {"conversation": request.conversation, "items": items, "next": following},
    )


def history(door: Door, session: int, request: requests.History) -> None:
    """A page of the log, newest first, read by the pool."""
    origin = door.sessions.origin(session)
    question = log_history.ask(
        door.view,
        door.sessions.user(session),
        request.conversation,
        request.before,
        min(request.limit, door.config.gateway.history_page_max),
    )
    if question is None:
        door.refuse(session, "unknown_conversation", f"conversation {request.conversation}", id=request.id)
        return
    if door.pool.waiting >= limits.WAITING_JOBS_MAX:
        door.counters.shed_question_commands += 1
        retry_after_ms = load.spread(QUESTION_RETRY_MS)
        door.refuse(session, "overloaded", "too much is being read", id=request.id, retry_after_ms=retry_after_ms)
        return
    if not door.begin_job(origin):
        limit = door.config.gateway.jobs_per_session_max
        door.refuse(
            session, "too_many_jobs", f"{limit} history commands are under way", id=request.id, retry_after_ms=100
        )
        return
    job, done = partial(log_history.read, question=question), partial(_history_answer, door, origin, request)
    door.pool.submit(job, done, ("user", door.sessions.user(session)))


def _history_answer(
    door: Door, origin: int, request: requests.History, outcome: log_history.HistoryPage | Exception
) -> None:
    """On the loop again, with a page or what went wrong."""
    door.end_job(origin)
    session = door.sessions.resolve(origin)
    if not session:
        return
    if isinstance(outcome, Exception):
        if isinstance(outcome, CallerError):
            door.refuse(session, "bad_field", str(outcome), id=request.id)
        else:
            log.error("history failed", error=type(outcome).__name__, detail=str(outcome))
            door.refuse(session, "internal", "the page can't be read", id=request.id)
        return
    page = log_history.finish(door.view, outcome)
    events = pushes.records(door.sessions.encoding(session), page.events, json_event)
    body = {"conversation": request.conversation, "events": events, "next": page.next, "trimmed": page.trimmed}
    if page.damaged:
        body["damaged"] = True
    _reply(door, session, request, pushes.HISTORY, body)


def mark(door: Door, session: int, request: requests.Delivered | requests.Read) -> None:
    """delivered and read in the rare shape that native code leaves over."""
    kind = cursors.READ if isinstance(request, requests.Read) else cursors.DELIVERED
    user = door.sessions.user(session)
    code = door.cursors.move(session, user, request.conversation, kind, request.conversation_sequence)
    if code:
        door.refuse(
            session,
            code,
            f"conversation {request.conversation}, conversation_sequence {request.conversation_sequence}",
            id=request.id,
        )


def typing(door: Door, session: int, request: requests.Typing) -> None:
    """Typing in the rare shape."""
    door.signals.typing(session, door.sessions.user(session), request.conversation)


def presence(door: Door, session: int, request: requests.Presence) -> None:
    """A status for the others of a conversation."""
    door.signals.presence(session, door.sessions.user(session), request.conversation, request.status)


def ping(door: Door, session: int, request: requests.Ping) -> None:
    """A sign of life above WebSocket's own."""
    _reply(door, session, request, pushes.PONG, {})


def _reply(door: Door, session: int, request: requests.Request, number: int, body: dict[str, Any]) -> None:
    if request.id is not None:
        body["id"] = request.id
    door.push(session, number, body)


HANDLERS: dict[type[requests.Request], Callable[[Door, int, Any], None]] = {
    requests.Hello: hello.hello,
    requests.Refresh: hello.refresh,
    requests.Publish: publish,
    requests.Create: create,
    requests.Add: add,
    requests.Remove: remove,
    requests.Leave: leave,
    requests.SetRole: role,
    requests.Rename: rename,
    requests.Close: close,
    requests.Follow: follow,
    requests.Unfollow: leave,
    requests.Conversations: conversations,
    requests.Members: members,
    requests.History: history,
    requests.Delivered: mark,
    requests.Read: mark,
    requests.Typing: typing,
    requests.Presence: presence,
    requests.Ping: ping,
}
