"""Operations of consumers that pull over HTTP: join, pull with a long poll, answer in batches, leave.

What they answer an event with is the engine's: ack, retry, extend, park. A pull that waits ends without events when
its client goes, so that nothing is handed to nobody; what was on its way then comes again after `ack_timeout_s`.

Invariants: an answer is synced when its response comes; a batch of retries or parkings stops at the first that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import msgspec
from litestar import Response
from msgspec import Struct

from engine import Consumer, StoredEvent
from gateway.api import shapes
from gateway.api.cloudevents import BATCH, CloudEvent, cloud_event
from gateway.api.consumers import Held
from gateway.api.operation import JSON, Answer, Call, operation
from gateway.api.problems import bad
from gateway.api.subscriptions import SubscriptionPath, opened

TAG = "consumers"
_ENCODER = msgspec.json.Encoder()


class ConsumerPath(Struct):
    """Which consumer of which subscription."""

    name: shapes.Name
    consumer: shapes.Name


class LeaveQuery(Struct, forbid_unknown_fields=True):
    """Which life of it."""

    generation: shapes.Generation


class Pulled(Struct, kw_only=True):
    """Events that are in flight with this consumer now; none if none came in time."""

    events: list[CloudEvent]


@operation("POST", "/v1/subscriptions/{name}/consumers", tag=TAG, status=201, problems=(404,))
async def join(call: Call, path: SubscriptionPath, body: shapes.NewConsumer) -> shapes.ConsumerView:
    """Join as a consumer that pulls.

    It lives as long as it sends something within `idle_s_max`, the first pull too: that is api.consumer_idle_s or the
    subscription's ack_timeout_s, whichever is less. One of the same name is fenced.
    """
    door, team = call.door, call.service.team
    subscription, definition = await opened(door, call.service, path.name)
    door.quotas.consumer_joins(team)
    try:
        consumer = await subscription.join(body.name, in_flight_max=body.in_flight_max)
    except BaseException:
        door.quotas.consumer_left(team)
        raise
    door.consumers.add(path.name, definition.filter, consumer, call.service)
    idle_s_max = min(float(door.consumers.idle_s), definition.settings.ack_timeout_s)  # the second is the engine's
    return shapes.ConsumerView(name=consumer.name, generation=consumer.generation, idle_s_max=idle_s_max)


@operation("DELETE", "/v1/subscriptions/{name}/consumers/{consumer}", tag=TAG, status=204, problems=(404, 409))
async def leave(call: Call, path: ConsumerPath, query: LeaveQuery) -> None:
    """Leave: what is in flight goes to others at once."""
    await call.door.consumers.leave(call.service, path.name, path.consumer, query.generation)


@operation(
    "POST",
    "/v1/subscriptions/{name}/consumers/{consumer}/pull",
    tag=TAG,
    problems=(404, 406, 409),
    produces={JSON: Pulled, BATCH: list[CloudEvent]},
)
async def pull(call: Call, path: ConsumerPath, body: shapes.Pull) -> Answer:
    """Pull the next events.

    Waits up to wait_s (at most api.wait_s_max) for the first. Each is to be answered before the subscription's
    ack_timeout_s is over.
    """
    media, door, team = call.accepts(JSON, BATCH), call.door, call.service.team
    door.quotas.check_reads(team)
    async with _use(call, path, body.generation) as held, held.pulling() as consumer:
        events = await call.while_connected(_take(call, consumer, body))
    shown = [cloud_event(door, event) for event in events]
    data = _ENCODER.encode(shown if media == BATCH else Pulled(events=shown))
    door.quotas.charge_reads(team, len(events), len(data))
    return Response(content=data, media_type=media)


async def _take(call: Call, consumer: Consumer, body: shapes.Pull) -> list[StoredEvent]:
    return await consumer.take(
        events_max=min(body.events_max, call.door.options.page_events_max),
        wait_s=min(body.wait_s, call.door.options.wait_s_max),
    )


@operation("POST", "/v1/subscriptions/{name}/consumers/{consumer}/ack", tag=TAG, status=204, problems=(404, 409))
async def ack(call: Call, path: ConsumerPath, body: shapes.Ack) -> None:
    """Ack events: these, or all that this consumer was given up to one."""
    if bool(body.sequences) == (body.up_to is not None):
        raise bad("an ack names either sequences or up_to")
    async with _use(call, path, body.generation) as held:
        if body.up_to is not None:
            await held.consumer.ack_up_to(body.up_to)
        else:
            await held.consumer.ack(body.sequences)


@operation("POST", "/v1/subscriptions/{name}/consumers/{consumer}/retry", tag=TAG, status=204, problems=(404, 409))
async def retry(call: Call, path: ConsumerPath, body: shapes.Retry) -> None:
    """Give events back, to be delivered again after a delay."""
    async with _use(call, path, body.generation) as held:
        for sequence in latest_first(body.sequences):
            await held.consumer.retry(sequence, delay_s=body.delay_s)


@operation("POST", "/v1/subscriptions/{name}/consumers/{consumer}/extend", tag=TAG, status=204, problems=(404, 409))
async def extend(call: Call, path: ConsumerPath, body: shapes.Extend) -> None:
    """Take longer for events: their time ends so much after now."""
    async with _use(call, path, body.generation) as held:
        await held.consumer.extend(body.sequences, body.extend_s)


@operation("POST", "/v1/subscriptions/{name}/consumers/{consumer}/park", tag=TAG, status=204, problems=(404, 409))
async def park(call: Call, path: ConsumerPath, body: shapes.Park) -> None:
    """Put events aside for people to look at, and go on."""
    async with _use(call, path, body.generation) as held:
        for sequence in body.sequences:
            await held.consumer.park(sequence, reason=body.reason)


def _use(call: Call, path: ConsumerPath, generation: int) -> AbstractAsyncContextManager[Held]:
    return call.door.consumers.use(call.service, path.name, path.consumer, generation)


def latest_first(sequences: Sequence[int]) -> list[int]:
    """As several are retried: of an ordered subscription a retry takes what came behind it along, which then is not in
    flight any more."""
    return sorted(set(sequences), reverse=True)
