"""The Python client (asyncio): a connected device that publishes, receives, and survives breaks.

    async with Client("ws://127.0.0.1:8800/v1", token, device=7) as client:
        receipt = await client.publish(conversation=42, text="hello")
        async for event in client:
            await store(event, client.positions)

What tests, the tour and backend teams use; the protocol behind it is PROTOCOL.md. client_link.py keeps the connection,
client_codec.py knows the encodings, client_types.py the values and exceptions.

Invariants: an event is handed over once and in order of its conversation; `positions` covers only what was handed
over; a write that returned a receipt is in the log (P1), and one that raised Refused is not.
Cost: one task a client and a bounded queue (`queue_events`): a slow application makes the server wait, not remember.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from gateway import client_codec as codec
from gateway.client_link import Link, TokenSource
from gateway.client_stream import Item
from gateway.client_types import (
    Busy,
    ClientError,
    CommandFailed,
    Conflict,
    Conversation,
    ConversationClosed,
    Event,
    Forbidden,
    Gap,
    HandshakeRefused,
    HistoryPage,
    HistoryReplaced,
    Incomplete,
    Live,
    Member,
    MemberLimit,
    Positions,
    Receipt,
    Refused,
    Reset,
    Resuming,
    SessionEnded,
    Signal,
    TooOld,
    Trouble,
    Unchanged,
    UnknownConversation,
    positions_of,
)

__all__ = [
    "Busy",
    "Client",
    "ClientError",
    "CommandFailed",
    "Conflict",
    "Conversation",
    "ConversationClosed",
    "Event",
    "Forbidden",
    "Gap",
    "HandshakeRefused",
    "HistoryPage",
    "HistoryReplaced",
    "Incomplete",
    "Member",
    "MemberLimit",
    "Receipt",
    "Refused",
    "Reset",
    "SessionEnded",
    "Signal",
    "TokenSource",
    "TooOld",
    "Trouble",
    "Unchanged",
    "UnknownConversation",
]

ID_MAX = 2**53 - 1
PAYLOAD_BYTES_MAX = 65_536
HISTORY_PAGE_MAX = 100


class Client:
    """One device of one user.

    `token` is a JWT, or a callable (plain or async) that fetches one: with a callable the session's token is renewed
    before it expires and a fresh one is used for each reconnect. `positions` is what an earlier run stored of
    `client.positions`: the stream resumes there; without it the device is new, and live from now on.
    """

    def __init__(
        self,
        url: str,
        token: str | TokenSource,
        device: int,
        *,
        encoding: codec.Encoding = "msgpack",
        positions: Iterable[Mapping[str, int]] | None = None,
        name: str = "gonets-python",
        receive: bool = True,
        queue_events: int = 1_000,
        gap_events_max: int = 100_000,
        retry_timeout_s: float = 60.0,
        open_timeout_s: float = 10.0,
        on_signal: Callable[[Signal], None] | None = None,
        on_trouble: Callable[[Trouble], None] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """`receive=False` drops events at once: for programs that only publish.

        `queue_events` bounds what waits for the application; `gap_events_max` what is fetched to fill one gap;
        `retry_timeout_s` how long a write that is refused for a passing reason is tried again. `on_signal` is called
        with cursors, typing, presence and advice as they come; it must return at once; so must `on_trouble`, which
        hears of what is survived: a refused write, a lost connection. `trust` says whose certificates a wss:// gateway
        is believed by; None: the system's authorities.
        """
        if encoding not in codec.SUBPROTOCOLS:
            raise ValueError(f"encoding {encoding!r}: must be one of {', '.join(codec.SUBPROTOCOLS)}")
        _check_id("device", device)
        self._given = positions_of(positions)
        self._link = Link(
            url,
            token,
            device,
            encoding,
            None if self._given is None else dict(self._given),
            name=name,
            receive=receive,
            queue_events=queue_events,
            retry_timeout_s=retry_timeout_s,
            open_timeout_s=open_timeout_s,
            on_signal=on_signal,
            on_trouble=on_trouble,
            trust=trust,
        )
        self._encoding: codec.Encoding = encoding
        self._gap_events_max = gap_events_max
        self._handed: Positions | None = self._given
        self._handed_live = self._given is None
        self._ahead: dict[int, int] = {}  # conversation → last sequence handed over in a resume not complete yet
        self._filled: deque[Event] = deque()

    # ---- life ----------------------------------------------------------------------------------------------------

    async def connect(self, attempts: int = 1) -> None:
        """Opens the session; OSError or TimeoutError if the gateway can't be reached in so many attempts.

        Once open, the client reconnects by itself until close(), or until the server says that it must not
        (SessionEnded, raised by whatever is being awaited).
        """
        await self._link.open(attempts)
        if self._handed is None:
            self._handed = {p["shard"]: (p["epoch"], p["sequence"]) for p in self._link.welcome["shards"]}

    async def close(self) -> None:
        """Ends the session; iteration ends, whoever waits for an answer gets ClientError("closed")."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def welcome(self) -> Mapping[str, Any]:
        """What the server said at the last hello: user, limits, durability, shards…"""
        return self._link.welcome

    @property
    def positions(self) -> list[dict[str, int]]:
        """Where to resume after a restart: store it together with what you did with the events handed over so far.

        It stands still while a resume is under way (from hello until all that was missed has been handed over),
        because a gap may still be announced: a program that dies in between gets those events again.
        """
        return [
            {"shard": shard, "epoch": epoch, "sequence": sequence}
            for shard, (epoch, sequence) in sorted((self._handed or {}).items())
        ]

    # ---- receiving -----------------------------------------------------------------------------------------------

    async def stream(self) -> AsyncIterator[Event | Gap | Reset]:
        """Events as they come, gaps and resets shown instead of acted upon: for clients that fill gaps at leisure."""
        while True:
            try:
                item = await self._next()
            except ClientError as error:
                if error.code == "closed":
                    return
                raise
            if not isinstance(item, (Live, Resuming)):
                yield item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event. A gap is filled from history first; a reset raises HistoryReplaced once."""
        while True:
            if self._filled:
                return self._filled.popleft()
            try:
                item = await self._next()
                if isinstance(item, Gap):
                    await self._fill(item)
            except ClientError as error:
                if error.code == "closed":
                    raise StopAsyncIteration from None
                raise
            if isinstance(item, Event):
                return item
            if isinstance(item, Reset):
                raise HistoryReplaced(item)

    async def _next(self) -> Item:
        """The next item; positions move with its hand-over."""
        item = await self._link.stream.next()
        assert self._handed is not None
        if isinstance(item, Event):
            if self._handed_live:
                self._handed[item.shard] = (self._handed.get(item.shard, (1, 0))[0], item.sequence)
            else:
                self._ahead[item.conversation] = item.sequence
        elif isinstance(item, Reset):
            self._handed[item.shard] = (item.epoch, item.sequence)
            self._handed_live = False
            self._ahead.clear()
        elif isinstance(item, Live):
            for shard, epoch, sequence in item.positions:
                self._handed[shard] = (epoch, max(sequence, self._handed.get(shard, (0, 0))[1]))
            self._handed_live = True
            self._ahead.clear()
        else:
            self._handed_live = False
        return item

    async def _fill(self, gap: Gap) -> None:
        """Fetches what the gap left out and puts it where iteration takes from, oldest first."""
        least = max(gap.after, self._ahead.get(gap.conversation, 0))
        found = [event for event in gap.newest if least < event.sequence < gap.before]
        before, trimmed, damaged = gap.next, False, False
        while before is not None and before > least + 1 and len(found) <= self._gap_events_max:
            page = await self.history(gap.conversation, before=before, limit=HISTORY_PAGE_MAX)
            found += [event for event in page.events if least < event.sequence < gap.before]
            trimmed = trimmed or page.trimmed
            damaged = damaged or (page.damaged and (page.next is None or page.next > least))
            before = page.next
            if page.events and page.events[-1].sequence <= least:
                trimmed = False  # what was trimmed is older than the gap
                break
        found.sort(key=lambda event: event.sequence)
        self._filled.extend(found)
        if found:
            self._ahead[gap.conversation] = found[-1].sequence
        if len(found) > self._gap_events_max or trimmed or damaged:
            raise Incomplete(gap, "damaged" if damaged else "trimmed" if trimmed else "gap_too_large")

    # ---- publishing ----------------------------------------------------------------------------------------------

    async def publish(
        self,
        *,
        conversation: int | None = None,
        user: int | None = None,
        payload: bytes | None = None,
        text: str | None = None,
        type: str = "message",
        expected: int | None = None,
        target: int | None = None,
        counter: int | None = None,
    ) -> Receipt:
        """Stores an event in a conversation, or in the dialog with a user; returns after the sync.

        Breaks are survived: it is sent again with the same counter, and stored once. `expected` refuses (Conflict)
        unless it is the conversation's last conversation sequence. Edits, deletions and reactions name the message's
        sequence as `target`. `counter` is for programs that repeat a write across their own restarts.
        """
        if (conversation is None) == (user is None):
            raise ValueError("say either conversation= or user=")
        if payload is not None and text is not None:
            raise ValueError("say either payload= or text=")
        if target is None and type in codec.SCHEMA_TYPES:
            raise ValueError(f"{type} needs target=, the sequence of the message aimed at")
        body = text.encode() if text is not None else payload if payload is not None else b""
        if len(body) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a payload of {len(body)} bytes; at most {PAYLOAD_BYTES_MAX}, larger things by reference")
        _check_id("conversation or user", conversation if user is None else user)
        return await self._link.write(
            {
                "op": "publish",
                "conversation": conversation,
                "user": user,
                "payload": body,
                "type": type,
                "expected": expected,
                "target": target,
            },
            counter,
        )

    async def edit(self, conversation: int, target: int, payload: bytes) -> Receipt:
        """A new body for one's message."""
        return await self.publish(conversation=conversation, payload=payload, type="message.edited", target=target)

    async def delete(self, conversation: int, target: int) -> Receipt:
        """Takes a message back: it is served as a tombstone everywhere."""
        return await self.publish(conversation=conversation, type="message.deleted", target=target)

    async def react(self, conversation: int, target: int, payload: bytes) -> Receipt:
        """A reaction to a message."""
        return await self.publish(conversation=conversation, payload=payload, type="message.reaction", target=target)

    # ---- conversations and members -------------------------------------------------------------------------------

    async def create(
        self, kind: str, title: str, members: Iterable[int] = (), *, history: bool = True, counter: int | None = None
    ) -> Receipt:
        """A new group or channel; its id is in the receipt. `history`: new members see what came before."""
        return await self._link.write(
            {"op": "create", "kind": kind, "title": title, "members": list(members), "history": history}, counter
        )

    async def add(
        self, conversation: int, user: int, role: str | None = None, *, counter: int | None = None
    ) -> Receipt:
        """Makes somebody a member."""
        return await self._member("add", conversation, counter, user=user, role=role)

    async def remove(self, conversation: int, user: int, *, counter: int | None = None) -> Receipt:
        """Removes a member: the removal is the last event that they see."""
        return await self._member("remove", conversation, counter, user=user)

    async def leave(self, conversation: int, *, counter: int | None = None) -> Receipt:
        """Leaves a group or channel."""
        return await self._member("leave", conversation, counter)

    async def role(self, conversation: int, user: int, role: str, *, counter: int | None = None) -> Receipt:
        """Gives a member another role."""
        return await self._member("role", conversation, counter, user=user, role=role)

    async def rename(self, conversation: int, title: str, *, counter: int | None = None) -> Receipt:
        """Gives a conversation another title."""
        return await self._member("rename", conversation, counter, title=title)

    async def close_conversation(self, conversation: int, *, counter: int | None = None) -> Receipt:
        """Nothing can be written to it after this; what was written stays."""
        return await self._member("close", conversation, counter)

    async def follow(self, conversation: int, *, counter: int | None = None) -> Receipt:
        """Follows a channel."""
        return await self._member("follow", conversation, counter)

    async def unfollow(self, conversation: int, *, counter: int | None = None) -> Receipt:
        """Stops following a channel."""
        return await self._member("unfollow", conversation, counter)

    async def _member(self, op: str, conversation: int, counter: int | None, **fields: Any) -> Receipt:
        _check_id("conversation", conversation)
        return await self._link.write({"op": op, "conversation": conversation, **fields}, counter)

    # ---- asking --------------------------------------------------------------------------------------------------

    async def conversations(self, *, former: bool = False) -> list[Conversation]:
        """All conversations of this user with heads, unread counts and own marks: what a new device starts from."""
        items = await self._pages({"op": "conversations", "former": former or None})
        return [codec.conversation(item) for item in items]

    async def members(self, conversation: int) -> list[Member]:
        """All members of a conversation, in ascending user."""
        _check_id("conversation", conversation)
        return [codec.member(item) for item in await self._pages({"op": "members", "conversation": conversation})]

    async def _pages(self, command: dict[str, Any]) -> list[Any]:
        items: list[Any] = []
        after: int | None = None
        while True:
            page = await self._link.ask({**command, "after": after})
            items += page["items"]
            after = page["next"]
            if after is None:
                return items

    async def history(self, conversation: int, *, before: int | None = None, limit: int = 50) -> HistoryPage:
        """A page of events before a sequence, newest first."""
        _check_id("conversation", conversation)
        body = await self._link.ask({"op": "history", "conversation": conversation, "before": before, "limit": limit})
        return codec.history_page(self._encoding, body)

    async def delivered(self, conversation: int, conversation_sequence: int) -> None:
        """Tells the senders that this user's devices have everything up to here."""
        await self._mark("delivered", conversation, conversation_sequence)

    async def read(self, conversation: int, conversation_sequence: int) -> None:
        """Tells the senders that the person has read everything up to here."""
        await self._mark("read", conversation, conversation_sequence)

    async def _mark(self, op: str, conversation: int, conversation_sequence: int) -> None:
        await self._link.tell({"op": op, "conversation": conversation, "conversation_sequence": conversation_sequence})

    async def typing(self, conversation: int) -> None:
        """Shows the other members that are connected that one is writing; never stored."""
        await self._link.tell({"op": "typing", "conversation": conversation})

    async def presence(self, conversation: int, status: str) -> None:
        """Shows the other members that are connected a status of up to 32 characters; never stored."""
        await self._link.tell({"op": "presence", "conversation": conversation, "status": status})

    async def ping(self) -> None:
        """Returns when the server has answered."""
        await self._link.ask({"op": "ping"})


def _check_id(name: str, value: int | None) -> None:
    if type(value) is not int or not 1 <= value <= ID_MAX:
        raise ValueError(f"{name} {value!r}: must be an integer from 1 to {ID_MAX}")
