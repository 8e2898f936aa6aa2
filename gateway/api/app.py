"""The door as an ASGI application: Litestar routes made of the operations, the documents, and what becomes of errors.

    app = make_app(backend, who_may, options)

It is handed the engine (ports.Backend) and who judges tokens (ports.WhoMay), and knows nothing of processes:
serve.py runs it. Its lifespan opens and closes the Door.

Invariants: everything that is refused or fails leaves as a problem, 404 and 405 too; the documents need no token.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
import structlog
from litestar import Litestar, Response, WebSocket, route, websocket
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler

from engine import Api
from gateway.api import asyncapi, openapi, page, problems
from gateway.api.door import Door
from gateway.api.operation import JSON, OPERATIONS, Answer, Ask, Operation
from gateway.api.ports import Backend, WhoMay
from gateway.api.stream import serve as serve_stream

log = structlog.get_logger("gonets.api")
ADDRESS_CHARACTERS_MAX: Final = 200
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 503: "unavailable"}


def make_app(backend: Backend, who_may: WhoMay, options: Api) -> Litestar:
    """The application. Its Door is `app.state.door`."""
    door = Door(backend, who_may, options)
    handlers: list[ControllerRouterHandler] = [_route(door, operation) for operation in OPERATIONS]
    app = Litestar(
        [*handlers, *_documents(), _stream(door)],
        exception_handlers={Exception: partial(_failed, options)},
        on_startup=[door.open],
        on_shutdown=[door.close],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=options.body_bytes_max,
    )
    app.state.door = door
    return app


def version_of_door() -> str:
    """Of the package; of a tree that was never installed "0"."""
    try:
        return version("gonets")
    except PackageNotFoundError:
        return "0"


def _route(door: Door, operation: Operation) -> ControllerRouterHandler:
    async def handle(request: Ask) -> Answer:
        return await operation.answer(door, request)

    path = operation.path.replace("}", ":str}")
    return route(path, http_method=[operation.method], status_code=200, name=operation.name)(handle)  # type: ignore[list-item]


def _stream(door: Door) -> ControllerRouterHandler:
    async def stream(socket: WebSocket[Any, Any, Any]) -> None:
        await serve_stream(door, socket)

    return websocket("/v1/subscriptions/{name:str}/stream")(stream)


def _documents() -> list[ControllerRouterHandler]:
    """What may be read without a token."""
    described, streams = openapi.document(version_of_door()), asyncapi.document(version_of_door())
    for_people = page.page(described, streams)
    return [
        _document("/v1/openapi.json", msgspec.json.encode(described), JSON, {}),
        _document("/v1/asyncapi.json", msgspec.json.encode(streams), JSON, {}),
        _document("/v1/docs", for_people, "text/html", page.HEADERS),
        _document("/", for_people, "text/html", page.HEADERS),
    ]


def _document(path: str, content: bytes, media_type: str, headers: dict[str, str]) -> ControllerRouterHandler:
    async def show() -> Response[bytes]:
        return Response(content=content, media_type=media_type, headers=headers)

    return route(path, http_method=["GET"], status_code=200)(show)


def _said(code: str, options: Api, request: Ask, detail: str, headers: dict[str, str]) -> tuple[str, str]:
    """Detail and hint of what the framework refuses, whose words name nothing."""
    asked = f"{request.scope.get('method', 'GET')} {request.scope['path'][:ADDRESS_CHARACTERS_MAX]!r}"
    if code == "not_found":
        return f"{asked}: there is no such address", "/v1/docs lists them"
    if code == "method_not_allowed":
        allowed = next(iter(headers.values()), "")
        return f"{asked}: the address takes {allowed or 'another method'}", "/v1/docs lists the methods of each"
    if code == "body_too_large":
        return (
            f"the body has more than api.body_bytes_max = {options.body_bytes_max:,} bytes",
            "send it in parts, or have the option raised",
        )
    return detail, ""


def _failed(options: Api, request: Ask, error: Exception) -> Answer:
    """What a client is told of any error."""
    if isinstance(error, HTTPException):
        headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
        code = _CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
        detail, hint = _said(code, options, request, error.detail, headers)
        problem = problems.make(code, detail, hint=hint)
    else:
        problem, headers = problems.problem_of(error)
        if problem.status == 500:
            log.error("a request failed", exc_info=error)
    return Response(
        content=problems.encode(problem), status_code=problem.status, media_type=problems.MEDIA_TYPE, headers=headers
    )
