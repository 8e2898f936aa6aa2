"""Events as CloudEvents 1.0: out in structured, batched and binary mode, in likewise.

`id` is shard-epoch:sequence, `source` the shard's log; both together never change, not by a restore either, so that a
consumer can tell a double by them. `subject` is the conversation. Numbers that may pass 2³¹ are text, as the
specification has no larger integer. Payloads are the senders' own bytes and leave as `data_base64`; those of the
engine's types are JSON.

Invariants: what comes in as JSON is stored as the bytes that were sent; source and id of what comes in are its
idempotency key. Cost: a struct and one JSON encoding an event; a stream of millions takes packed records (API.md).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, unquote

from msgspec import UNSET, Meta, MsgspecError, Raw, Struct, UnsetType, convert, json

from engine import ENGINE_ITSELF, StoredEvent, schema
from gateway.api import shapes
from gateway.api.door import Door, time_of
from gateway.api.problems import Refusal, bad

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
OPAQUE: Final = "application/octet-stream"
_SUBJECT = re.compile(r"(user/)?([1-9][0-9]{0,15})\Z")
_NUMBER = re.compile(r"[0-9]{1,16}\Z")


class CloudEvent(Struct, kw_only=True, omit_defaults=True):
    """A stored event (CloudEvents 1.0, JSON format)."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: Annotated[str, Meta(description="the conversation")]
    time: str
    datacontenttype: str
    sequence: Annotated[str, Meta(description="the event's number in its shard")]
    conversationsequence: Annotated[str, Meta(description="its number in its conversation")]
    previous: Annotated[str, Meta(description="sequence of the one before it in its conversation; 0 = none")]
    sender: Annotated[str, Meta(description=f"a user, or a service's; {ENGINE_ITSELF} = the engine itself")]
    device: Annotated[str, Meta(description="0 = a service, or the engine")]
    deliveries: Annotated[int, Meta(description="how often it was delivered, if more than once")] = 1
    away: Annotated[str, Meta(description="members without a live session, where the filter asks for that")] = ""
    data: Any = UNSET
    data_base64: str | UnsetType = UNSET


class NewCloudEvent(Struct, kw_only=True):
    """A CloudEvent to publish. `subject` is the conversation, or user/ID for the dialog with a person."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(min_length=1, max_length=127)]
    source: Annotated[str, Meta(min_length=1, max_length=127, pattern=r"^[^|]*$", description="a URI: without |")]
    type: shapes.EventType
    subject: Annotated[str, Meta(pattern=r"^(user/)?[1-9][0-9]{0,15}$", max_length=32)]
    datacontenttype: Annotated[str, Meta(max_length=256)] = "application/json"
    expected: Annotated[
        str | int, Meta(description="extension: the conversation's last conversation sequence, or it is refused")
    ] = ""
    data: Raw | UnsetType = UNSET
    data_base64: Annotated[str, Meta(max_length=87_400)] | UnsetType = UNSET


# ---- out -------------------------------------------------------------------------------------------------------------


def source_of(door: Door) -> str:
    """Where events come from."""
    return f"/v1/shards/{door.backend.place().shard}"


def cloud_event(door: Door, event: StoredEvent) -> CloudEvent:
    """A stored event as it leaves."""
    content_type, data = content(event)
    return CloudEvent(
        specversion="1.0",
        id=door.id_of(event.sequence),
        source=source_of(door),
        type=event.type,
        subject=str(event.conversation),
        time=time_of(event.time),
        datacontenttype=content_type,
        sequence=str(event.sequence),
        conversationsequence=str(event.conversation_sequence),
        previous=str(event.previous),
        sender=str(event.sender),
        device=str(event.device),
        deliveries=event.deliveries,
        away=",".join(map(str, event.away)),
        data=UNSET if data is None else data,
        data_base64=base64.b64encode(event.payload).decode() if data is None else UNSET,
    )


def content(event: StoredEvent) -> tuple[str, dict[str, object] | None]:
    """The content type of a payload, and its fields if it is the engine's."""
    if event.type in schema.SCHEMA:
        try:
            return "application/json", schema.as_map(schema.unpack(event.type, event.payload))
        except schema.BadPayload:
            pass  # of a version that is not ours: its bytes are still true
    return OPAQUE, None


def binary(door: Door, event: StoredEvent) -> tuple[dict[str, str], bytes]:
    """Headers and body of binary mode."""
    found = cloud_event(door, event)
    content_type, data = content(event)
    headers = {
        f"ce-{name}": quote(str(value), safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~ ")
        for name in CloudEvent.__struct_fields__
        if not name.startswith("data") and (value := getattr(found, name)) not in ("", UNSET)
    }
    return {**headers, "content-type": content_type}, event.payload if data is None else json.encode(data)


# ---- in --------------------------------------------------------------------------------------------------------------


def new_event(found: NewCloudEvent) -> shapes.NewEvent:
    """What a CloudEvent asks to publish."""
    subject = _SUBJECT.match(found.subject)
    if subject is None or int(subject[2]) > shapes.ID_MAX:
        raise bad(f"subject {found.subject!r} must be a conversation's id, or user/ID for a dialog")
    expected = str(found.expected)
    if expected and not (_NUMBER.match(expected) and int(expected) <= shapes.ID_MAX):
        raise bad(f"expected {expected!r} must be a conversation sequence")
    person = bool(subject[1])
    return shapes.NewEvent(
        type=found.type,
        conversation=None if person else int(subject[2]),
        person=int(subject[2]) if person else None,
        data=found.data,
        data_base64=found.data_base64,
        key=f"{found.source}|{found.id}",
        expected=int(expected) if expected else None,
    )


def from_binary(headers: Mapping[str, str], body: bytes) -> tuple[shapes.NewEvent, bytes]:
    """What a request in binary mode asks to publish, and its payload."""
    attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    known = {name: value for name, value in attributes.items() if name in NewCloudEvent.__struct_fields__}
    try:
        return new_event(convert(known, NewCloudEvent)), body
    except MsgspecError as error:
        raise bad(f"headers ce-…: {error}") from None


def payload_of(event: shapes.NewEvent) -> bytes:
    """The bytes that are stored."""
    if event.data_base64 is UNSET:
        return b"" if event.data is UNSET else bytes(event.data)
    if event.data is not UNSET:
        raise bad("data and data_base64: only one of them can be the payload")
    try:
        return base64.b64decode(event.data_base64, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("bad_argument", "data_base64 is no base64 (standard alphabet, padded)") from None
