"""Operations on events: publishing one or many, reading pages, one event, or all that comes (server-sent events).

Reading keeps no place: the client does, by the ids of events. Whoever wants the server to keep it takes a subscription
(subscriptions.py). What reaches a reader is chosen on the server by the same filter.

Invariants: events of a batch are handed to the publisher in their order; each has its own fate, and none waits for
another's. Cost of an event that is read: one CloudEvent as JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from litestar import Response
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from engine import BeyondEnd, EngineError, Filter, StoredEvent, schema
from gateway.api import cloudevents, shapes
from gateway.api.cloudevents import BATCH, STRUCTURED, CloudEvent, NewCloudEvent, cloud_event
from gateway.api.conversations import header_key, published
from gateway.api.filters import FilterQuery, filter_of
from gateway.api.operation import JSON, Answer, Call, decode, operation
from gateway.api.problems import Problem, Refusal, bad, forbidden, problem_of
from gateway.api.scopes import may_publish, may_read
from gateway.api.sse import SSE, stream

TAG = "events"
PAYLOAD_BYTES_MAX = 65_536
PAGE_S = 5.0  # then a page ends with what it has, and the next one goes on
PAGE_BYTES_MAX = 4 << 20  # of payloads; what goes beyond comes with the next page
_ENCODER = msgspec.json.Encoder()


class Outcome(Struct, kw_only=True):
    """The fate of one event of a batch: a receipt or a problem."""

    status: int
    published: shapes.Published | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class Outcomes(Struct, kw_only=True):
    """Of all events of a batch, in their order."""

    outcomes: list[Outcome]


class _Batch(Struct):
    """Tells a batch from one event."""

    events: Raw | UnsetType = UNSET


_BATCHES = msgspec.json.Decoder(_Batch)


class EventsQuery(FilterQuery, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    after: Annotated[shapes.EventId, Meta(description="events behind this id or sequence; 0 = from the first")] = "0"
    limit: Annotated[int, Meta(ge=1, le=100_000)] = 100


class EventPath(Struct):
    """Which event."""

    event: shapes.EventId


class Page(Struct, kw_only=True):
    """Events in the order of the log."""

    events: list[CloudEvent]
    next: str
    """`after` of the next page."""
    at_end: bool
    """Nothing more is there for now."""


# ---- publishing ------------------------------------------------------------------------------------------------------


@operation(
    "POST",
    "/v1/events",
    tag=TAG,
    status=201,
    problems=(404, 409, 413, 415),
    headers=("Idempotency-Key",),
    # Objects only: a client made from the document chooses the media type by the class of what it is given, and for a
    # list generators fail at that (openapi-python-client asks isinstance of list[…], for whatever it is given).
    consumes={JSON: (shapes.NewEvent, shapes.NewEvents), STRUCTURED: NewCloudEvent},
    produces={JSON: shapes.Published},
    also={200: Outcomes},
)
async def publish_events(call: Call) -> Answer:
    """Publish one event, or a batch.

    One event is answered 201 when it is in the log, synced; a batch is answered 200 with the fate of each. The header
    Idempotency-Key (or the field key; of a CloudEvent its source and id) makes a repeat harmless. A plain JSON list of
    events is a batch too, and so is a list of CloudEvents as `application/cloudevents-batch+json`. In the binary mode
    of CloudEvents the headers ce-… describe the event and the body is its payload.
    """
    events, is_batch = await _events_of(call)
    if len(events) > call.door.options.batch_events_max:
        raise bad(
            f"a batch of {len(events):,} events; at most api.batch_events_max = {call.door.options.batch_events_max:,}",
            hint="send it in parts, or have the option raised",
        )
    call.door.quotas.charge_publishes(call.service.team, len(events), sum(len(payload) for _, payload in events))
    key = header_key(call)
    if not is_batch:
        receipt = await _publish(call, *events[0], key)
        return Response(content=_ENCODER.encode(receipt), status_code=201, media_type=JSON)
    keys = [f"{key}:{number}" if key else "" for number in range(len(events))]
    fates = await asyncio.gather(*(_fate(call, *event, own) for event, own in zip(events, keys, strict=True)))
    return Response(content=_ENCODER.encode(Outcomes(outcomes=list(fates))), status_code=200, media_type=JSON)


async def _events_of(call: Call) -> tuple[list[tuple[shapes.NewEvent, bytes]], bool]:
    """Events with their payloads, and whether they came as a batch."""
    data, content_type = await call.body(), call.content_type
    if "ce-specversion" in call.request.headers and content_type not in (STRUCTURED, BATCH):
        return [cloudevents.from_binary(call.request.headers, data)], False
    if content_type in (JSON, STRUCTURED, BATCH):
        events, is_batch = _ours(data) if content_type == JSON else _of_cloudevents(data, content_type == BATCH)
        return [(event, cloudevents.payload_of(event)) for event in events], is_batch
    raise Refusal(
        "unsupported_media_type",
        f"content-type {content_type[:80]!r}: events come as {JSON}, {STRUCTURED}, {BATCH}, or with headers ce-…",
        headers={"accept": f"{JSON}, {STRUCTURED}, {BATCH}"},
    )


def _ours(data: bytes) -> tuple[list[shapes.NewEvent], bool]:
    """One event, an object with several, or a plain list of them."""
    if data.lstrip()[:1] == b"[":
        return decode(data, list[shapes.NewEvent]), True
    try:
        is_batch = _BATCHES.decode(data).events is not UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # what is wrong says whoever reads it for good
        is_batch = False
    return (decode(data, shapes.NewEvents).events, True) if is_batch else ([decode(data, shapes.NewEvent)], False)


def _of_cloudevents(data: bytes, is_batch: bool) -> tuple[list[shapes.NewEvent], bool]:
    found = decode(data, list[NewCloudEvent]) if is_batch else [decode(data, NewCloudEvent)]
    return [cloudevents.new_event(one) for one in found], is_batch


async def _publish(call: Call, event: shapes.NewEvent, payload: bytes, key: str) -> shapes.Published:
    if (event.conversation is None) == (event.person is None):
        raise bad("an event goes into a conversation or to a person: exactly one of them must be given")
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Refusal(
            "payload_too_large",
            f"the payload has {len(payload):,} bytes; at most {PAYLOAD_BYTES_MAX:,}",
            hint="send larger things by reference",
        )
    forbidden(may_publish(call.service.scope, event.type, event.conversation or 0))
    publisher = call.door.backend.publisher(call.service)
    if event.type in schema.CONTROL:  # its payload is of the engine's schema, here as JSON
        if event.expected is not None or event.person is not None:
            raise bad(f"{event.type} takes neither expected nor person: the engine would not look at them")
        fields = decode(payload or b"{}", dict[str, Any])
        return published(
            call, await publisher.command(event.type, event.conversation or 0, fields, key=event.key or key)
        )
    receipt = await publisher.publish(
        event.type,
        payload,
        conversation=event.conversation or 0,
        person=event.person or 0,
        key=event.key or key,
        expected=event.expected,
    )
    return published(call, receipt)


async def _fate(call: Call, event: shapes.NewEvent, payload: bytes, key: str) -> Outcome:
    try:
        return Outcome(status=201, published=await _publish(call, event, payload, key))
    except (Refusal, EngineError) as error:
        problem, _ = problem_of(error)
        return Outcome(status=problem.status, problem=problem)


# ---- reading ---------------------------------------------------------------------------------------------------------


@operation(
    "GET",
    "/v1/events",
    tag=TAG,
    problems=(406, 409, 410),
    headers=("Last-Event-ID",),
    produces={JSON: Page, BATCH: list[CloudEvent], SSE: CloudEvent},
)
async def read_events(call: Call, query: EventsQuery) -> Answer:
    """Read a page of events, or all that comes.

    A page may have fewer events than `limit`, or none, before the log's end: it ends at 4 MiB of payloads or after
    5 s, and the next one goes on at `next`.
    With `Accept: text/event-stream` the answer is an endless stream of server-sent events whose data are CloudEvents;
    it goes on behind the header Last-Event-ID, which goes before `after`. Else it is a page, as an object or as a
    CloudEvents batch. Behind a position that is no longer kept the answer is 410 with the first one that is; behind one
    that the log has not reached it is 409.
    """
    media = call.accepts(JSON, BATCH, SSE)
    last = call.request.headers.get("last-event-id", "")
    after = call.door.sequence_of(_id(last) if last else query.after)
    filter = filter_of(query)
    source = call.door.source(call.service, filter)
    if media == SSE:
        return await stream(call, source.read(after=after, filter=filter, live=True))
    call.door.quotas.check_reads(call.service.team)
    limit = min(query.limit, call.door.options.page_events_max)
    end = call.door.backend.place().sequence
    found = PageRead(after)
    coming = source.read(after=after, filter=filter, on_reached=found.reached)
    await call.while_connected(found.fill(coming, limit))
    events, at_end = found.events, found.at_end
    next = max(found.position, end) if at_end else found.position  # what the filter passed over isn't looked at again
    shown = [cloud_event(call.door, event) for event in events]
    if media == BATCH:
        headers = {"link": f'</v1/events?after={next}>; rel="next"'}
        data = _ENCODER.encode(shown)
    else:
        headers = {}
        data = _ENCODER.encode(Page(events=shown, next=call.door.id_of(next), at_end=at_end))
    call.door.quotas.charge_reads(call.service.team, len(events), len(data))
    return Response(content=data, media_type=media, headers=headers)


class PageRead:
    """A page as it fills, and up to where it has come: a rare filter brings nothing from much of the log."""

    def __init__(self, after: int) -> None:
        self.position = after
        self.events: list[StoredEvent] = []
        self.at_end = False

    def reached(self, position: int) -> None:
        """All that is wanted up to there has come."""
        self.position = max(self.position, position)

    async def fill(self, events: AsyncIterator[StoredEvent], limit: int, page_s: float = PAGE_S) -> None:
        """So many events, fewer if they are large or the time is over, or all there are."""
        held_bytes = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(page_s):
                async for event in events:
                    self.events.append(event)
                    self.reached(event.sequence)
                    held_bytes += len(event.payload)
                    if len(self.events) >= limit or held_bytes >= PAGE_BYTES_MAX:
                        return
                self.at_end = True


def _id(text: str) -> str:
    try:
        return msgspec.convert(text, shapes.EventId)
    except msgspec.ValidationError:
        raise bad(f"Last-Event-ID {text[:40]!r} is no id of an event") from None


@operation(
    "GET",
    "/v1/events/{event}",
    tag=TAG,
    problems=(404, 406, 410),
    produces={STRUCTURED: CloudEvent, JSON: CloudEvent, cloudevents.OPAQUE: bytes},
)
async def show_event(call: Call, path: EventPath) -> Answer:
    """Show one event.

    As a structured CloudEvent; with `Accept: application/octet-stream` in binary mode: headers ce-… and the payload.
    """
    media = call.accepts(STRUCTURED, JSON, cloudevents.OPAQUE)
    sequence = call.door.sequence_of(path.event)
    absent = Refusal("unknown_event", f"there is no event {path.event!r} that this token may see")
    call.door.quotas.check_reads(call.service.team)
    if not sequence:
        raise absent
    source = call.door.source(call.service)
    try:
        event = await anext(aiter(source.read(after=sequence - 1)), None)
    except BeyondEnd:
        raise absent from None
    if event is not None and event.sequence != sequence:
        event = None
    if event is None or may_read(call.service.scope, Filter(types=(event.type,), conversations=(event.conversation,))):
        raise absent
    call.door.quotas.charge_reads(call.service.team, 1, len(event.payload))
    if media == cloudevents.OPAQUE:
        headers, body = cloudevents.binary(call.door, event)
        return Response(content=body, media_type=headers.pop("content-type"), headers=headers)
    return Response(content=_ENCODER.encode(cloud_event(call.door, event)), media_type=media)
