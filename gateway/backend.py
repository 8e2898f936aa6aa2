"""The event stream and publishing for a backend team, over the door for backends (gateway/api/API.md).

    async with BackendClient("http://127.0.0.1:8802", token) as gonets:
        subscription = await gonets.create("index", "ordered", filter=Filter(types=("message",)))
        await ConsumerLoop(subscription, handle).run()

Fits `EventSource` and `Publisher` of engine/subscriptions/ports.py: who is handed one can't tell whether the engine is
in its process, and the tests of the contract run against both. What can't be the same: `read` gives no counter of
devices and asks for nobody who is away; a `take` that finds a subscription paused says so only when its time is over;
new conversations have members with the ordinary role.

Invariants: nothing is kept here that a restart would miss. Cost: a request each; backend_consumer.py for events.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import NoneType, TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec
from msgspec import Struct

from engine import (
    Definition,
    EngineError,
    Filter,
    ParkedEvent,
    Receipt,
    Settings,
    Standing,
    Start,
    StoredEvent,
    check_target,
    errors,
    refusal,
    schema,
)
from gateway.api import shapes
from gateway.backend_consumer import RemoteConsumer
from gateway.backend_link import Link, Problem, error_of_problem
from gateway.backend_wire import CloudEvent, stored_event, time_us
from gateway.client_link import TokenSource

__all__ = ["BackendClient"]

PAGE_EVENTS: Final = 1_000
PARKED_MAX: Final = 1_000  # of one page
SEQUENCES_MAX: Final = 10_000  # of one request
RECONNECT_S: Final = 1.0
TYPE: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
AT_LAST: Final = Start()
EVERYTHING: Final = Filter()
DEFAULTS: Final = Settings()


class _Page(Struct):
    events: list[CloudEvent]
    next: str
    at_end: bool


class BackendClient:
    """One service of one team. `token` is a service token, or a callable (plain or async) that fetches one."""

    def __init__(
        self,
        url: str,
        token: str | TokenSource,
        *,
        timeout_s: float = 30.0,
        retry_s_max: float = 30.0,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """`retry_s_max`: how long what may be said twice is said again while the server can't be reached or is busy.
        `trust` says whose certificates an https:// door is believed by; None: the system's authorities."""
        if not url.startswith(("http://", "https://")):
            raise errors.BadArgument(f"url {url!r}: it begins with http:// or https://")
        self._link = Link(url, token, timeout_s=timeout_s, retry_s_max=retry_s_max, trust=trust)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connections; consumers have theirs until they leave."""
        await self._link.close()

    # ---- EventSource -----------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        kind: str,
        *,
        start: Start = AT_LAST,
        filter: Filter = EVERYTHING,
        settings: Settings = DEFAULTS,
    ) -> RemoteSubscription:
        """Creates it, or gives the one that is defined alike."""
        body = {
            "name": name,
            "kind": kind,
            "start": msgspec.to_builtins(start),
            "filter": msgspec.to_builtins(filter),
            "settings": msgspec.to_builtins(settings),
        }
        await self._link.ask("POST", "/v1/subscriptions", shapes.SubscriptionView, body=body)
        return RemoteSubscription(self._link, name)

    async def subscription(self, name: str) -> RemoteSubscription:
        """One that there is."""
        found = RemoteSubscription(self._link, name)
        await found.standing()
        return found

    async def subscriptions(self) -> list[Standing]:
        """The team's, by name."""
        found = await self._link.ask("GET", "/v1/subscriptions", shapes.Subscriptions)
        return [_standing(view) for view in found.subscriptions]

    async def delete(self, name: str) -> None:
        """It and its cursor, parked events too."""
        await self._link.ask("DELETE", _path(name), NoneType, repeatable=False)

    async def read(
        self,
        *,
        after: int,
        filter: Filter = EVERYTHING,
        live: bool = False,
        on_reached: Callable[[int], None] | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Events behind a sequence, to the end of the log, or on and on. `on_reached` hears the ends of pages."""
        query = _filter_query(filter)
        last = str(_checked(after))
        while True:
            page = await self._link.ask(
                "GET", "/v1/events", _Page, query=[*query, ("after", last), ("limit", str(PAGE_EVENTS))]
            )
            for event in page.events:
                yield stored_event(event)
            last = page.next
            if on_reached is not None:
                on_reached(int(last.rpartition(":")[2]))
            if page.at_end:
                break
        while live:
            try:
                async with aclosing(self._live(query, last)) as events:
                    async for event in events:
                        last = event.id
                        yield stored_event(event)
            except OSError:
                await asyncio.sleep(RECONNECT_S)

    async def _live(self, query: Sequence[tuple[str, str]], last: str) -> Any:
        """Server-sent events behind an id, until the connection ends. Raises OSError, what a problem says."""
        async with self._link.lines("/v1/events", query, last) as lines:
            kind = ""
            async for line in lines:
                field, _, value = line.rstrip(b"\r\n").partition(b":")
                value = value.removeprefix(b" ")
                if field == b"event":
                    kind = value.decode()
                elif field == b"data" and kind == "problem":
                    raise error_of_problem(msgspec.json.decode(value, type=Problem))
                elif field == b"data":
                    yield msgspec.json.decode(value, type=CloudEvent)
                elif not field:
                    kind = ""

    # ---- Publisher -------------------------------------------------------------------------------------------------

    async def publish(
        self,
        type: str,
        payload: bytes,
        *,
        conversation: int = 0,
        person: int = 0,
        key: str = "",
        expected: int | None = None,
    ) -> Receipt:
        """One event; without a key a broken connection is the caller's to judge."""
        check_target(conversation, person)
        if not TYPE.fullmatch(type) or len(type) > schema.TYPE_BYTES_MAX:
            raise refusal(errors.BAD_TYPE, f"type {type[:80]!r}")
        body: dict[str, Any] = {"type": type, "data_base64": base64.b64encode(payload).decode(), "key": key}
        if conversation:
            body["conversation"] = conversation
        if person:
            body["person"] = person
        if expected is not None:
            body["expected"] = expected
        return await self._published("/v1/events", body, key)

    async def command(self, type: str, conversation: int, fields: dict[str, Any], *, key: str = "") -> Receipt:
        """A control event."""
        kind: Any = schema.SCHEMA.get(type)
        if type not in schema.CONTROL:
            raise refusal(errors.BAD_TYPE, f"type {type!r} is no command")
        if unknown := sorted(set(fields) - set(kind.__struct_fields__)):
            raise schema.BadPayload(f"{type}: unknown field {unknown[0]!r}")
        try:
            payload = msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            raise schema.BadPayload(f"{type}: {error}") from None
        members = f"/v1/conversations/{conversation}/members"
        match payload:
            case schema.Created():
                return await self._created(payload, key)
            case schema.Added():
                return await self._published(f"{members}/{payload.user}", {"role": payload.role}, key, "PUT")
            case schema.Removed():
                return await self._published(f"{members}/{payload.user}", None, key, "DELETE")
        body = {"type": type, "conversation": conversation, "data": msgspec.to_builtins(payload), "key": key}
        return await self._published("/v1/events", body, key)

    async def _created(self, payload: schema.Created, key: str) -> Receipt:
        if any(role for _, role in payload.members):
            raise errors.BadArgument(
                "members of a new conversation begin with its ordinary role", hint="give another by member.role"
            )
        body = {
            "kind": payload.kind,
            "title": payload.title,
            "history": payload.history,
            "members": [user for user, _ in payload.members],
            "key": key,
        }
        return await self._published("/v1/conversations", body, key)

    async def _published(self, path: str, body: dict[str, Any] | None, key: str, method: str = "POST") -> Receipt:
        found = await self._link.ask(method, path, shapes.Published, body=body, key=key, repeatable=bool(key))
        return Receipt(
            found.sequence, found.conversation, found.conversation_sequence, time_us(found.time), found.repeat
        )


class RemoteSubscription:
    """A handle. Fits `Subscription`."""

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self._link = link

    async def standing(self) -> Standing:
        """As it stands now."""
        return _standing(await self._link.ask("GET", _path(self.name), shapes.SubscriptionView))

    async def join(self, consumer: str = "", *, in_flight_max: int | None = None) -> RemoteConsumer:
        """A consumer begins; it is its connection."""
        if in_flight_max is not None and in_flight_max < 1:
            raise errors.BadArgument(f"in_flight_max {in_flight_max}: must be 1 or more")
        filter = (await self.standing()).definition.filter
        return await RemoteConsumer.join(
            self._link,
            self.name,
            consumer,
            in_flight_max,
            packed=not filter.recipient_away,
            is_paused=self._is_paused,
        )

    async def pause(self) -> None:
        """Nothing is handed out until `resume`."""
        await self._post("pause")

    async def resume(self) -> None:
        """Goes on."""
        await self._post("resume")

    async def reset(self, start: Start) -> None:
        """The cursor goes there."""
        await self._post("reset", {"start": msgspec.to_builtins(start)})

    async def parked(self, *, after: int = 0, limit: int = 100) -> list[ParkedEvent]:
        """Those behind a sequence, ascending."""
        found: list[ParkedEvent] = []
        while len(found) < limit:
            most = min(limit - len(found), PARKED_MAX)
            query = [("after", str(_checked(after))), ("limit", str(most))]
            page = await self._link.ask("GET", f"{_path(self.name)}/parked", shapes.ParkedPage, query=query)
            found += [_parked(view) for view in page.parked]
            if page.next is None:
                break
            after = page.next
        return found

    async def replay(self, sequences: Sequence[int]) -> int:
        """Parked events are delivered again."""
        return await self._unpark("replay", sequences)

    async def drop(self, sequences: Sequence[int]) -> int:
        """Parked events are forgotten."""
        return await self._unpark("drop", sequences)

    async def _is_paused(self) -> bool:
        try:
            return (await self.standing()).paused
        except (EngineError, OSError):
            return False  # the next call finds out why

    async def _post(self, verb: str, body: dict[str, Any] | None = None) -> None:
        await self._link.ask("POST", f"{_path(self.name)}/{verb}", shapes.SubscriptionView, body=body)

    async def _unpark(self, verb: str, sequences: Sequence[int]) -> int:
        count = 0
        for at in range(0, len(sequences), SEQUENCES_MAX):
            body = {"sequences": list(sequences[at : at + SEQUENCES_MAX])}
            path = f"{_path(self.name)}/parked/{verb}"
            count += (await self._link.ask("POST", path, shapes.Counted, body=body, repeatable=False)).count
        return count


def _path(name: str) -> str:
    return f"/v1/subscriptions/{quote(name, safe='')}"


def _checked(sequence: int) -> int:
    if not 0 <= sequence <= shapes.ID_MAX:
        raise errors.BadArgument(f"sequence {sequence}: must be 0 to {shapes.ID_MAX} (2^53-1)")
    return sequence


def _filter_query(filter: Filter) -> list[tuple[str, str]]:
    if filter.recipient_away:
        raise errors.BadArgument("who is away is known of a subscription's events only, over HTTP")
    return [
        (name, str(value)) for name in ("types", "kinds", "conversations", "senders") for value in getattr(filter, name)
    ]


def _standing(view: shapes.SubscriptionView) -> Standing:
    filter, settings = msgspec.to_builtins(view.filter), msgspec.to_builtins(view.settings)
    return Standing(
        definition=Definition(
            name=view.name,
            kind=view.kind,  # type: ignore[arg-type]  # the server checks it
            team=view.team,
            position=view.position,
            filter=msgspec.convert(filter, Filter),
            settings=msgspec.convert(settings, Settings),
        ),
        paused=view.paused,
        created=view.created,
        cursor=view.cursor,
        lag_events=view.lag_events,
        oldest_unacked_s=view.oldest_unacked_s,
        in_flight=view.in_flight,
        parked=view.parked,
        consumers=tuple(view.consumers),
    )


def _parked(view: shapes.ParkedView) -> ParkedEvent:
    return ParkedEvent(
        sequence=view.sequence,
        conversation=view.conversation,
        type=view.type,
        deliveries=view.deliveries,
        reason=view.reason,
        time=time_us(view.time),
    )
