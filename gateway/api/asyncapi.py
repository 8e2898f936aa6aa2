"""The AsyncAPI 3.0 document of the push stream and of server-sent events, from the structs that wire.py sends."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.api import wire
from gateway.api.cloudevents import CloudEvent

Document = dict[str, Any]
SENT: Final = (wire.Joined, wire.Events, wire.Done, wire.Failed)
RECEIVED: Final = (wire.Credit, wire.Ack, wire.AckUpTo, wire.Retry, wire.Extend, wire.Park, wire.Leave)


def document(version: str) -> Document:
    """The whole document."""
    kinds: tuple[Any, ...] = (*SENT, *RECEIVED, CloudEvent)
    found, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    messages = {
        kind.__name__: {
            "name": kind.__name__,
            "summary": " ".join((kind.__doc__ or "").split()),
            "contentType": "application/cloudevents+json" if kind is CloudEvent else "application/json",
            "payload": schema,
        }
        for kind, schema in zip(kinds, found, strict=True)
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Gonets for backends: streams",
            "version": version,
            "description": f"The JSON form ({wire.TEXT}) of the push stream; {wire.PACKED} says the same in binary"
            " frames (gateway/api/API.md). Tokens as in the OpenAPI document, /v1/openapi.json.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "push": {
                "address": "/v1/subscriptions/{name}/stream",
                "description": "A consumer of a subscription, as long as the connection lasts.",
                "parameters": {"name": {"description": "the subscription"}},
                "bindings": {"ws": {"method": "GET", "query": _query(), "bindingVersion": "0.1.0"}},
                "messages": {kind.__name__: _message(kind) for kind in (*SENT, *RECEIVED)},
            },
            "events": {
                "address": "/v1/events",
                "description": "Server-sent events (Accept: text/event-stream); each one's data is such a message.",
                "messages": {CloudEvent.__name__: _message(CloudEvent)},
            },
        },
        "operations": {
            "pushed": _operation("send", "push", SENT),
            "answered": _operation("receive", "push", RECEIVED),
            "streamed": _operation("send", "events", (CloudEvent,)),
        },
        "components": {"schemas": dict(components), "messages": messages},
    }


def _message(kind: Any) -> Document:
    return {"$ref": f"#/components/messages/{kind.__name__}"}


def _operation(action: str, channel: str, kinds: tuple[Any, ...]) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{kind.__name__}"} for kind in kinds],
    }


def _query() -> Document:
    return {
        "type": "object",
        "properties": {
            "consumer": {"type": "string", "description": "its name; empty = a fresh one"},
            "in_flight_max": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
        },
    }
