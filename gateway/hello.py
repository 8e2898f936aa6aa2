"""Hello: from a token to a session that receives.

Called by commands.py for the first message of a connection. In one step of the loop: token, protocol version, the
device's earlier session replaced, interest of all open memberships registered, welcome; then engine/catchup.py takes
the session from its position (a new device: the router's own) to live. Because all is one step, no event falls between.

Invariants: an identity never changes within a connection; a device has one session.
Cost: one signature check and one look-up of the user's memberships, whose number is the cost of the interest.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway import close_codes, pushes, requests
from gateway.auth import Identity, TokenRefused, TokenUnjudged, UnknownKey
from gateway.load import spread
from gateway.revocation import mark_of
from gateway.session import OPEN, READER, Door

if TYPE_CHECKING:
    from engine import Config

PROTOCOL = 1
PROTOCOL_MIN = 1
SERVER = "gonets"
BLIND_RETRY_MS = 30_000
CROWDED_RETRY_MS = 10_000  # spread: others have to leave first
UNKNOWN_RETRY_MS = 2_000  # for a refresh while the issuer is asked for the new token's key


def hello(door: Door, session: int, request: requests.Hello) -> None:
    """The first command of a connection."""
    if door.sessions.state(session) != OPEN:
        door.refuse(session, "hello_again", "this session has said hello already", id=request.id)
        return
    if request.protocol < PROTOCOL_MIN:
        door.counters.refused_hellos += 1
        door.refuse(
            session,
            "client_too_old",
            f"protocol {request.protocol}; this server speaks {PROTOCOL_MIN} to {PROTOCOL}",
            id=request.id,
        )
        return
    identity = identify(door, session, request.token, request.device, request.id)
    if identity is None or not _admit(door, session, identity.user, request):
        door.counters.refused_hellos += 1
        return
    start = _start_of(door, session, request)
    if start is None:
        return
    memberships = door.view.memberships(identity.user)
    if not door.fanout.has_room(len(memberships)):
        door.counters.refused_hellos += 1
        door.end(session, close_codes.OVERLOADED, spread(CROWDED_RETRY_MS))
        return
    door.poller.identify(session, identity.user, request.device, identity.expires_s, READER)
    door.poller.set_token(session, mark_of(identity.token_id), identity.issued_s)
    door.fanout.follow_all(session, memberships)
    door.counters.hellos += 1
    door.bus.hello(session, identity.user, request.device)
    door.push(session, pushes.WELCOME, welcome(door, identity, request))
    if start.replaced:
        log_of = door.engine.log
        door.push(session, pushes.RESET, {"shard": log_of.shard, "epoch": log_of.epoch, "sequence": start.sequence})
    door.catchup.begin(session, start.sequence, memberships)


class Start(NamedTuple):
    """The sequence after which a session is owed events; `replaced`: what it had beyond that is no more."""

    sequence: int
    replaced: bool


def _start_of(door: Door, session: int, request: requests.Hello) -> Start | None:
    """From the positions in a hello; None after the refusal has been said."""
    known = {door.engine.log.shard}
    shards = [position.shard for position in request.positions]
    if len(set(shards)) != len(shards) or not known.issuperset(shards):
        door.counters.refused_hellos += 1
        door.refuse(
            session,
            "bad_position",
            f"positions of shards {shards}; this server has {sorted(known)}, one position each",
            id=request.id,
        )
        return None
    if not request.positions:
        return Start(door.fanout.sequence, False)  # a new device: live from now on
    position = request.positions[0]
    # A block whose sync failed may be there all the same: the writer doesn't count it, but the tail has handed it on.
    last = max(door.engine.log.last_sequence, door.fanout.sequence)
    return resume_from(position.epoch, position.sequence, door.engine.log.epochs, last)


def resume_from(epoch: int, sequence: int, epochs: list[tuple[int, int]], last: int) -> Start:
    """What a position is worth: `epochs` lists (epoch, first sequence), ascending; `last` is the newest committed.

    The story: a device had 500 events, then the log was restored from a backup that ended at 400 and grew to 600 in a
    new epoch. Its events 401 to 500 are not the log's any more; without the epoch it would go on from 500, wrong twice.
    """
    if all(epoch != known for known, _ in epochs):
        return Start(0, True)  # of a history that this log has never had
    until = min([first - 1 for known, first in epochs if known > epoch] + [last])
    return Start(min(sequence, until), sequence > until)


def identify(door: Door, session: int, token: str, device: int, id: str | int | None) -> Identity | None:
    """The identity in a token, or None after the refusal has been said."""
    try:
        identity = door.verifier.verify(token)
    except UnknownKey as unknown:
        pause_ms = door.trust.ask_issuer(unknown.kid)
        if pause_ms == 0 and door.sessions.state(session) == OPEN:
            raise IssuerAsked from None
        if pause_ms is None:
            door.refuse(session, "bad_token", unknown.message, id=id)
        else:
            _later(door, session, "the token's key is not known yet", pause_ms or UNKNOWN_RETRY_MS, id)
        return None
    except TokenUnjudged as unjudged:
        _later(door, session, unjudged.message, unjudged.retry_after_ms, id)
        return None
    except TokenRefused as refusal:
        if not refusal.expired:
            door.poller.failed_hello(session)
        door.refuse(session, "token_expired" if refusal.expired else "bad_token", refusal.message, id=id)
        return None
    if identity.team:  # its scope would bind nobody here
        door.refuse(session, "bad_token", "the token is a service's, for the backends' door, not a person's", id=id)
        return None
    if identity.device not in (None, device):
        door.refuse(session, "bad_token", "the token is for another device", id=id)
        return None
    if door.trust.is_blind:
        _later(door, session, "what is revoked is not known now", BLIND_RETRY_MS, id)
        return None
    if door.trust.revoked.covers(identity, device):
        door.refuse(session, "token_revoked", "the token was revoked", id=id)
        return None
    return identity


class IssuerAsked(Exception):
    """The issuer is being asked for the token's key: the same hello again when it has answered."""


def _later(door: Door, session: int, message: str, retry_after_ms: int, id: str | int | None) -> None:
    """The token may be good: come again. A session that is open goes on meanwhile."""
    door.refuse(session, "unavailable", message, id=id, retry_after_ms=retry_after_ms)
    if door.sessions.state(session) == OPEN:
        door.end(session, close_codes.UNAVAILABLE, retry_after_ms)


def _admit(door: Door, session: int, user: int, request: requests.Hello) -> bool:
    """Makes room: the device's half-open session goes; other devices only up to the limit."""
    earlier = door.sessions.find_device(user, request.device)
    if earlier:
        door.end(earlier, close_codes.REPLACED)
        return True
    limit = door.config.gateway.sessions_per_user_max
    if door.sessions.count_of_user(user) < limit:
        return True
    door.refuse(session, "too_many_sessions", f"{limit} devices of this user are connected, the limit", id=request.id)
    return False


def welcome(door: Door, identity: Identity, request: requests.Hello) -> dict[str, Any]:
    """What a client needs to know of the server, and of itself."""
    body: dict[str, Any] = {
        "user": identity.user,
        "device": request.device,
        "protocol": min(PROTOCOL, request.protocol),
        "server": SERVER,
        "durability": door.engine.durability,
        "shards": door.positions(),
        "counter": door.view.last_counter(identity.user, request.device),
        "time": time.time_ns() // 1_000,
        "expires": identity.expires_s,
        "ping_interval_s": door.config.gateway.ping_interval_s,
        "limits": limits(door.config),
    }
    if request.id is not None:
        body["id"] = request.id
    return body


@lru_cache(maxsize=4)  # a configuration is one object until a reload; each hello asks
def limits(config: Config) -> dict[str, int]:
    """The limits that a client can run into, under the names of their options."""
    gateway, conversations = config.gateway, config.conversations
    return {
        "frame_bytes_max": gateway.frame_bytes_max,
        "payload_bytes_max": 65_536,
        "type_bytes_max": 64,
        "unanswered_max": gateway.unanswered_max,
        "rate_per_s": gateway.rate_per_s,
        "rate_burst": gateway.rate_burst,
        "idle_timeout_s": gateway.idle_timeout_s,
        "sessions_per_user_max": gateway.sessions_per_user_max,
        "group_members_max": conversations.group_members_max,
        "cursor_members_max": conversations.cursor_members_max,
        "typing_members_max": conversations.typing_members_max,
        "history_page_max": gateway.history_page_max,
        "conversations_page_max": gateway.conversations_page_max,
        "members_page_max": gateway.members_page_max,
    }


def refresh(door: Door, session: int, request: requests.Refresh) -> None:
    """A fresh token inside the connection: the same person, a later end."""
    identity = identify(door, session, request.token, door.sessions.device(session), request.id)
    if identity is None:
        return
    if identity.user != door.sessions.user(session):
        door.refuse(session, "bad_token", "the token is of another user", id=request.id)
        return
    door.poller.extend(session, identity.expires_s)
    door.poller.set_token(session, mark_of(identity.token_id), identity.issued_s)
    body: dict[str, Any] = {"expires": identity.expires_s}
    if request.id is not None:
        body["id"] = request.id
    door.push(session, pushes.REFRESHED, body)
