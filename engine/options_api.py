"""The section [api]: limits of the backends' door, in all and for each team.

Part of engine/options.py, which puts the sections together; its address is [server] api. What the limits of a team are
about: gateway/api/quotas.py. A team that reaches one is answered 429 with its name, or waits where it has a stream.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from engine.options_admission import option


class Api(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The backends' door."""

    connections_max: Annotated[
        int, option("connections of all teams together; the next is answered 503", "connections", ge=8, le=100_000)
    ] = 2_000
    body_bytes_max: Annotated[
        int,
        option(
            "size of one request's body; 64 KiB of payload in base64 must fit, and a batch",
            "bytes",
            ge=131_072,
            le=256 << 20,
        ),
    ] = 8 << 20
    batch_events_max: Annotated[int, option("events of one batch that is published", "events", ge=1, le=100_000)] = (
        1_000
    )
    page_events_max: Annotated[int, option("events of one page, or of one pull", "events", ge=1, le=100_000)] = 1_000
    wait_s_max: Annotated[int, option("longest wait of a pull for events", "s", ge=1, le=600)] = 60
    frame_bytes_max: Annotated[
        int,
        option(
            "size of one WebSocket frame with packed events; an event that is larger comes alone",
            "bytes",
            ge=4_096,
            le=16 << 20,
        ),
    ] = 512 << 10
    consumer_idle_s: Annotated[
        int,
        option(
            "silence after which a consumer that pulls over HTTP has left; one with a WebSocket leaves when that ends",
            "s",
            ge=1,
            le=86_400,
        ),
    ] = 120
    consumers_max: Annotated[int, option("consumers of a team that pull over HTTP", "consumers", ge=1, le=100_000)] = (
        1_000
    )
    streams_max: Annotated[
        int, option("open streams (server-sent events, WebSockets) of a team", "streams", ge=1, le=100_000)
    ] = 1_000
    subscriptions_max: Annotated[int, option("subscriptions of a team", "subscriptions", ge=1, le=100_000)] = 100
    publishes_per_s_max: Annotated[
        int,
        option(
            "events a second that a team may publish for long; a second's worth at once, and what one request takes"
            " beyond that is owed",
            "1/s",
            ge=1,
            le=10**7,
        ),
    ] = 10_000
    publish_bytes_per_s_max: Annotated[int, option("the same in bytes of payload", "bytes/s", ge=1_024, le=10**11)] = (
        16 << 20
    )
    reads_per_s_max: Annotated[
        int,
        option("events a second that a team may be given for long; a second's worth at once", "1/s", ge=1, le=10**9),
    ] = 5_000_000
    read_bytes_per_s_max: Annotated[int, option("the same in bytes", "bytes/s", ge=65_536, le=10**12)] = 1 << 30
