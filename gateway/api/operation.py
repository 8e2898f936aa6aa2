"""What an operation is: a function whose signature is its schema, made into a route and into a part of the document.

Each function of events.py, conversations.py, subscriptions.py and pulling.py is one; its parameters `path`, `query` and
`body` are decoded and checked by their types before it runs, its return type is what it answers. app.py makes Litestar
routes of them, openapi.py describes the same objects: what is documented is what is checked.

Invariants: a request is admitted before it is read; whatever is wrong with it is a problem that names the field.
Cost: one decoding and one encoding by msgspec.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from litestar import Request, Response
from msgspec import Struct

from gateway.api.door import Door
from gateway.api.mistakes import mistake
from gateway.api.ports import Service
from gateway.api.problems import Refusal, bad

Answer = Response[Any]
Ask = Request[Any, Any, Any]
T = TypeVar("T")
JSON: Final = "application/json"
BODY_S: Final = 30.0
_ENCODER = msgspec.json.Encoder()

OPERATIONS: Final[list[Operation]] = []


class Call(NamedTuple):
    """One request to an operation."""

    door: Door
    service: Service
    request: Ask

    def accepts(self, *offers: str) -> str:
        """The first of these media types that the client accepts. Raises 406."""
        wanted = [part.split(";")[0].strip().lower() for part in self.request.headers.get("accept", "*/*").split(",")]
        for offer in offers:
            if offer in wanted:
                return offer
        for offer in offers:
            if {"", "*/*", f"{offer.split('/')[0]}/*"}.intersection(wanted):
                return offer
        raise Refusal("not_acceptable", f"Accept {', '.join(wanted)[:80]!r} names none of {', '.join(offers)}")

    @property
    def content_type(self) -> str:
        """Of the body, without parameters."""
        return self.request.headers.get("content-type", "").split(";")[0].strip().lower()

    async def body(self) -> bytes:
        """The body as it came. Raises 413 beyond api.body_bytes_max (app.py), 408 if it takes too long."""
        try:
            async with asyncio.timeout(BODY_S):
                return await self.request.body()
        except TimeoutError:
            raise Refusal("too_slow", f"the body did not come within {BODY_S:g} s", retryable=True) from None

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives; it is cancelled when the client goes, so that nothing is taken for nobody."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_gone(self.request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Refusal("bad_request", "the client went away")
        finally:
            gone.cancel()
            task.cancel()
            # What it held is free again before anybody else may ask. How it ended, for one who went, nobody must hear.
            await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Ask) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Operation(NamedTuple):
    """One method of one address."""

    method: str
    path: str
    tag: str
    status: int
    run: Callable[..., Awaitable[Any]]
    name: str
    summary: str
    description: str
    path_type: type[Struct] | None
    query_type: type[Struct] | None
    body_type: type[Struct] | None
    answer_type: Any
    problems: tuple[int, ...]
    """Statuses besides those that any request may get."""
    headers: tuple[str, ...]
    """Headers that it looks at, besides those that any request may have."""
    consumes: dict[str, Any]
    """Media types of a body that the operation reads itself → what they hold; a tuple = one of these."""
    produces: dict[str, Any]
    """Media types that it chooses among → what they hold; empty = the answer as JSON."""
    also: dict[int, Any]
    """Other good statuses → what their JSON holds."""

    async def answer(self, door: Door, request: Ask) -> Answer:
        """One request."""
        service = door.admit(request.headers)
        arguments: dict[str, Any] = {}
        if self.path_type is not None:
            arguments["path"] = _convert(dict(request.path_params), self.path_type, "path")
        if self.query_type is not None:
            arguments["query"] = _query(request, self.query_type)
        elif request.query_params:
            raise bad(f"query parameter {next(iter(request.query_params))!r}: this address takes none")
        call = Call(door, service, request)
        if self.body_type is not None:
            arguments["body"] = await _body(call, self.body_type)
        found = await self.run(call, **arguments)
        if isinstance(found, Response):
            return found
        if found is None:
            return Response(content=None, status_code=self.status)
        return Response(content=_ENCODER.encode(found), status_code=self.status, media_type=JSON)


def operation(
    method: str,
    path: str,
    *,
    tag: str,
    status: int = 200,
    problems: Sequence[int] = (),
    headers: Sequence[str] = (),
    consumes: dict[str, Any] | None = None,
    produces: dict[str, Any] | None = None,
    also: dict[int, Any] | None = None,
) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Makes a function an operation of the door."""

    def register(run: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        hints = get_type_hints(run, include_extras=True)
        summary, _, description = inspect.cleandoc(run.__doc__ or "").partition("\n\n")
        OPERATIONS.append(
            Operation(
                method,
                path,
                tag,
                status,
                run,
                run.__name__,
                " ".join(summary.split()),
                " ".join(description.split()),
                hints.get("path"),
                hints.get("query"),
                hints.get("body"),
                hints.get("return"),
                tuple(problems),
                tuple(headers),
                consumes or {},
                produces or {},
                also or {},
            )
        )
        return run

    return register


def decode(data: bytes, kind: Any, where: str = "body") -> Any:
    """JSON of a shape. Raises a problem that names the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise mistake(error, kind, where) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("bad_request", f"{where} is no JSON: {error}") from None


async def _body(call: Call, kind: type[Struct]) -> Any:
    if call.content_type != JSON:
        raise Refusal(
            "unsupported_media_type",
            f"content-type {call.content_type[:80]!r}: the body must be {JSON}",
            headers={"accept": JSON},
        )
    return decode(await call.body(), kind)


def _query(request: Ask, kind: type[Struct]) -> Any:
    lists = {name for name, hint in get_type_hints(kind, include_extras=True).items() if is_list(hint)}
    found: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getall(name)
        if name not in lists and len(values) > 1:
            raise bad(f"query parameter {name!r} is given {len(values)} times")
        found[name] = values if name in lists else values[0]
    return _convert(found, kind, "query")


def _convert(values: dict[str, Any], kind: type[Struct], where: str) -> Any:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise mistake(error, kind, where, values) from None


def is_list(hint: Any) -> bool:
    """Whether a field takes several values."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) is list
