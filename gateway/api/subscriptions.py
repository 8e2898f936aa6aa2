"""Operations on subscriptions: made, looked at, paused, resumed, reset, deleted, and what of them is parked.

They are a team's: another team's don't exist here. Creating one, what of it is parked, and whatever hands out its
events needs a scope that covers its filter; changing one needs the word `subscriptions`. Each change is an event of the
engine, and counts for the team's rate of publishing.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine import Definition, Standing, Subscription
from gateway.api import shapes
from gateway.api.door import Door, time_of
from gateway.api.filters import filter_of, filter_shape, settings_of, settings_shape, start_of
from gateway.api.operation import Call, operation
from gateway.api.ports import Service
from gateway.api.problems import forbidden
from gateway.api.scopes import may_read

TAG = "subscriptions"
PARKED_MAX = 1_000


class SubscriptionPath(Struct):
    """Which subscription."""

    name: shapes.Name


class ParkedQuery(Struct, forbid_unknown_fields=True):
    """Which parked events."""

    after: Annotated[shapes.Number, Meta(description="those behind this sequence")] = 0
    limit: Annotated[int, Meta(ge=1, le=PARKED_MAX)] = 100


@operation("POST", "/v1/subscriptions", tag=TAG, status=201, problems=(409, 410))
async def create_subscription(call: Call, body: shapes.NewSubscription) -> shapes.SubscriptionView:
    """Create a subscription.

    Creating it again with the same definition changes nothing and is answered alike; with another one it is 409.
    """
    door = call.door
    door.administers(call.service, len(await call.body()))
    filter = filter_of(body.filter)
    source = door.source(call.service, filter)
    with door.quotas.creation(call.service.team, body.name, door.backend.subscription_names(call.service)):
        subscription = await source.create(
            body.name, body.kind, start=start_of(body.start), filter=filter, settings=settings_of(body.settings)
        )
    return view(await subscription.standing())


@operation("GET", "/v1/subscriptions", tag=TAG)
async def list_subscriptions(call: Call) -> shapes.Subscriptions:
    """List the team's subscriptions, by name."""
    found = await call.door.source(call.service).subscriptions()
    return shapes.Subscriptions(subscriptions=[view(standing) for standing in found])


@operation("GET", "/v1/subscriptions/{name}", tag=TAG, problems=(404,))
async def show_subscription(call: Call, path: SubscriptionPath) -> shapes.SubscriptionView:
    """Show a subscription as it stands now."""
    return view(await (await call.door.source(call.service).subscription(path.name)).standing())


@operation("DELETE", "/v1/subscriptions/{name}", tag=TAG, status=204, problems=(404,))
async def delete_subscription(call: Call, path: SubscriptionPath) -> None:
    """Delete a subscription, its cursor and what is parked."""
    call.door.administers(call.service)
    await call.door.source(call.service).delete(path.name)


@operation("POST", "/v1/subscriptions/{name}/pause", tag=TAG, problems=(404, 409))
async def pause_subscription(call: Call, path: SubscriptionPath) -> shapes.SubscriptionView:
    """Pause a subscription: nothing is handed out until it is resumed."""
    subscription = await _administered(call, path.name)
    await subscription.pause()
    return view(await subscription.standing())


@operation("POST", "/v1/subscriptions/{name}/resume", tag=TAG, problems=(404, 409))
async def resume_subscription(call: Call, path: SubscriptionPath) -> shapes.SubscriptionView:
    """Resume a subscription that was paused."""
    subscription = await _administered(call, path.name)
    await subscription.resume()
    return view(await subscription.standing())


@operation("POST", "/v1/subscriptions/{name}/reset", tag=TAG, problems=(404, 409, 410))
async def reset_subscription(call: Call, path: SubscriptionPath, body: shapes.Reset) -> shapes.SubscriptionView:
    """Reset a subscription: its cursor goes elsewhere, what is in flight is fenced."""
    subscription = await _administered(call, path.name)
    await subscription.reset(start_of(body.start))
    return view(await subscription.standing())


@operation("GET", "/v1/subscriptions/{name}/parked", tag=TAG, problems=(404,))
async def list_parked(call: Call, path: SubscriptionPath, query: ParkedQuery) -> shapes.ParkedPage:
    """List parked events, ascending by sequence."""
    subscription, _ = await opened(call.door, call.service, path.name)
    found = await subscription.parked(after=query.after, limit=query.limit)
    return shapes.ParkedPage(
        parked=[
            shapes.ParkedView(
                id=call.door.id_of(one.sequence),
                sequence=one.sequence,
                conversation=one.conversation,
                type=one.type,
                deliveries=one.deliveries,
                reason=one.reason,
                time=time_of(one.time),
            )
            for one in found
        ],
        next=found[-1].sequence if len(found) == query.limit else None,
    )


@operation("POST", "/v1/subscriptions/{name}/parked/replay", tag=TAG, problems=(404, 409))
async def replay_parked(call: Call, path: SubscriptionPath, body: shapes.SequenceList) -> shapes.Counted:
    """Deliver parked events again."""
    subscription = await _administered(call, path.name, len(await call.body()))
    return shapes.Counted(count=await subscription.replay(body.sequences))


@operation("POST", "/v1/subscriptions/{name}/parked/drop", tag=TAG, problems=(404, 409))
async def drop_parked(call: Call, path: SubscriptionPath, body: shapes.SequenceList) -> shapes.Counted:
    """Forget parked events."""
    subscription = await _administered(call, path.name, len(await call.body()))
    return shapes.Counted(count=await subscription.drop(body.sequences))


async def opened(door: Door, service: Service, name: str) -> tuple[Subscription, Definition]:
    """A subscription whose events the service may read, and what it is."""
    subscription = await door.source(service).subscription(name)
    definition = (await subscription.standing()).definition
    forbidden(may_read(service.scope, definition.filter))
    return subscription, definition


async def _administered(call: Call, name: str, size_bytes: int = 0) -> Subscription:
    call.door.administers(call.service, size_bytes)
    return await call.door.source(call.service).subscription(name)


def view(standing: Standing) -> shapes.SubscriptionView:
    """A subscription as it leaves."""
    definition = standing.definition
    return shapes.SubscriptionView(
        name=definition.name,
        kind=definition.kind,
        team=definition.team,
        position=definition.position,
        filter=filter_shape(definition.filter),
        settings=settings_shape(definition.settings),
        paused=standing.paused,
        created=standing.created,
        cursor=standing.cursor,
        lag_events=standing.lag_events,
        oldest_unacked_s=standing.oldest_unacked_s,
        in_flight=standing.in_flight,
        parked=standing.parked,
        consumers=list(standing.consumers),
    )
