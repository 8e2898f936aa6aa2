"""The OpenAPI 3.1 document, made from the operations and their structs: what is described is what is checked.

Made once when the door is made and served as it is. Nothing in it is written by hand but what no struct says: the
headers, the statuses that any request may get, the media types among which an operation chooses.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.api import conversations, events, problems, pulling, subscriptions
from gateway.api.operation import JSON, OPERATIONS, Answer, Operation
from gateway.api.problems import Problem
from gateway.api.shapes import EVENT_PATTERN
from gateway.api.sse import SSE
from gateway.api.wire import PACKED, TEXT

Document = dict[str, Any]
PARTS: Final = (events, conversations, subscriptions, pulling)  # importing them is what registers their operations
REF: Final = "#/components/schemas/{name}"
ANY_REQUEST: Final = (400, 401, 403, 413, 429, 500, 503)
TAGS: Final = {
    "events": "Publish events; read them by pages, one by one, or as server-sent events.",
    "conversations": "Conversations and their members.",
    "subscriptions": "Durable, named readers of the event stream that keep their place.",
    "consumers": f"Consumers that pull over HTTP. For push: the WebSocket /v1/subscriptions/NAME/stream with the"
    f" protocol {PACKED} or {TEXT}, described by /v1/asyncapi.json.",
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Final[dict[str, tuple[str, Document]]] = {
    "Idempotency-Key": ("makes a repeat harmless for at least 24 hours", {"type": "string", "maxLength": 256}),
    "Last-Event-ID": ("goes on behind this event", {"type": "string", "pattern": f"^$|{EVENT_PATTERN}"}),
}


def document(version: str) -> Document:
    """The whole document."""
    schemas = Schemas()
    for operation in OPERATIONS:
        schemas.want(operation)
    schemas.make()
    paths: Document = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    schemas.forget_parameters()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gonets for backends",
            "version": version,
            "summary": "The event stream: publish, read, subscribe.",
            "description": "Every refusal and failure is a problem as RFC 9457 has it; its `code` is for programs and"
            " explained on the page /v1/docs.",
        },
        "servers": [{"url": "/"}],
        "security": [{"service": []}],
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "service": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A service token: `team`, and a `scope` of words read:PREFIX, publish:PREFIX,"
                    " conversation:ID, subscriptions, audit.",
                }
            },
        },
    }


class Schemas:
    """JSON schemas of types, with shared components."""

    def __init__(self) -> None:
        self._types: list[Any] = [Problem]
        self._found: list[Document] = []
        self.components: Document = {}

    def want(self, operation: Operation) -> None:
        """All that an operation names."""
        kinds = [operation.path_type, operation.query_type, operation.body_type, operation.answer_type]
        bodies = [kind for held in operation.consumes.values() for kind in _each(held)]
        for kind in [*kinds, *bodies, *operation.produces.values(), *operation.also.values()]:
            if kind is not None and kind not in self._types and _is_described(kind):
                self._types.append(kind)

    def make(self) -> None:
        """After all that is wanted."""
        found, components = msgspec.json.schema_components(self._types, ref_template=REF)
        self._found, self.components = list(found), dict(components)

    def of(self, kind: Any) -> Document:
        """The schema of a type, or of several of which it is one."""
        if isinstance(kind, tuple):
            return {"anyOf": [self.of(one) for one in kind]}
        return self._found[self._types.index(kind)] if _is_described(kind) else {}

    def forget_parameters(self) -> None:
        """Structs of paths and queries are parameters by now, and no shapes of their own."""
        for operation in OPERATIONS:
            for kind in (operation.path_type, operation.query_type):
                if kind is not None:
                    self.components.pop(kind.__name__, None)

    def fields(self, kind: Any) -> tuple[Document, set[str]]:
        """Properties of a struct, and those that are required."""
        name = self.of(kind)["$ref"].rsplit("/", 1)[1]
        schema = self.components[name]
        return schema.get("properties", {}), set(schema.get("required", ()))


def _each(kind: Any) -> tuple[Any, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _is_described(kind: Any) -> bool:
    """Not the bytes of a payload, nor what an operation answers by itself or not at all."""
    return kind is not bytes and kind is not type(None) and kind != Answer


def _operation(operation: Operation, schemas: Schemas) -> Document:
    found: Document = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary.rstrip("."),
        "parameters": _parameters(operation, schemas),
        "responses": _responses(operation, schemas),
    }
    if operation.description:
        found["description"] = operation.description
    consumes = operation.consumes or ({JSON: operation.body_type} if operation.body_type is not None else {})
    if consumes:
        found["requestBody"] = {
            "required": True,
            "content": {media: {"schema": schemas.of(kind)} for media, kind in consumes.items()},
        }
    return found


def _parameters(operation: Operation, schemas: Schemas) -> list[Document]:
    found: list[Document] = []
    for kind, place in ((operation.path_type, "path"), (operation.query_type, "query")):
        if kind is None:
            continue
        properties, required = schemas.fields(kind)
        for name, schema in properties.items():
            plain = dict(schema)
            entry: Document = {"name": name, "in": place, "required": place == "path" or name in required}
            if words := plain.pop("description", ""):
                entry["description"] = words
            found.append({**entry, "schema": plain})
    for name in operation.headers:
        words, schema = _HEADERS[name]
        found.append({"name": name, "in": "header", "required": False, "description": words, "schema": schema})
    return found


def _responses(operation: Operation, schemas: Schemas) -> Document:
    found: Document = {}
    if operation.produces:
        content = {}
        for media, kind in operation.produces.items():
            content[media] = {"schema": {"type": "string"} if media == SSE else schemas.of(kind)}
        found[str(operation.status)] = {"description": "Done.", "content": content}
    elif operation.status == 204:
        found["204"] = {"description": "Done."}
    else:
        content = {JSON: {"schema": schemas.of(operation.answer_type)}}
        found[str(operation.status)] = {"description": "Done.", "content": content}
    for status, kind in operation.also.items():
        found[str(status)] = {"description": "Done.", "content": {JSON: {"schema": schemas.of(kind)}}}
    statuses = {*ANY_REQUEST, *operation.problems}
    if operation.body_type is not None or operation.consumes:
        statuses |= {408, 415}
    for status in sorted(statuses):
        codes = [code for code, row in problems.ROWS.items() if row.status == status]
        answer: Document = {
            "description": "Problem: " + ", ".join(codes),
            "content": {problems.MEDIA_TYPE: {"schema": schemas.of(Problem)}},
        }
        if status in (429, 503):
            answer["headers"] = _RETRY_AFTER
        found[str(status)] = answer
    return found
