"""What a value that fits no shape is answered with: where it stands, what was given, what would fit.

msgspec says what it expected and where. This adds what its sender would else look up: a value out of an address, the
names of the fields or the words that are known, and what the shape says of the field.

Invariants: a request's body is never quoted, it may be a payload; a mistake costs a walk over types, not over data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from msgspec import inspect

from gateway.api.problems import Refusal, bad

VALUE_CHARACTERS_MAX: Final = 80
_AT: Final = re.compile(r" - at `(key in )?\$(?P<path>[^`]*)`\Z")
_STEP: Final = re.compile(r"\.(?P<field>\w+)|\[(?P<index>[^\]]*)\]")


def mistake(error: Exception, kind: Any, where: str, given: Mapping[str, Any] | None = None) -> Refusal:
    """The refusal; `given`: the values of an address, which may be quoted."""
    at = _AT.search(str(error))
    steps = [(found["field"], found["index"]) for found in _STEP.finditer(at["path"])] if at else []
    return bad(f"{where}: {error}{_quoted(steps, given or {})}", hint=_hint(kind, tuple(field for field, _ in steps)))


def _quoted(steps: list[tuple[Any, Any]], given: Mapping[str, Any]) -> str:
    value: Any = given.get(steps[0][0]) if steps else None
    if isinstance(value, list) and len(steps) > 1 and (steps[1][1] or "").isdigit():
        value = value[int(steps[1][1])]
    return "" if value is None else f"; given was {str(value)[:VALUE_CHARACTERS_MAX]!r}"


@cache
def _hint(kind: Any, fields: tuple[str | None, ...]) -> str:  # without indices, which a caller chooses
    at, says = inspect.type_info(kind), ""
    for field in fields:
        at, own = _step(at, field)
        says = own or says
        if at is None:
            return says
    at, own = _plain(at)
    return own or says if not isinstance(at, inspect.StructType | inspect.LiteralType) else _known(at)


def _known(at: inspect.StructType | inspect.LiteralType) -> str:
    if isinstance(at, inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in at.values)}"
    return f"{at.cls.__name__} has the fields {', '.join(field.encode_name for field in at.fields)}: see /v1/docs"


def _step(at: Any, field: str | None) -> tuple[Any, str]:
    """The type a step further, and what its field says of itself."""
    at, _ = _plain(at)
    if field is None:
        return getattr(at, "item_type", None), ""
    for known in getattr(at, "fields", ()):
        if known.encode_name == field:
            return known.type, _plain(known.type)[1]
    return None, ""


def _plain(at: Any) -> tuple[Any, str]:
    """Without what says more of a type, and without null; and what is said."""
    says = ""
    while True:
        if isinstance(at, inspect.Metadata):
            says = says or (at.extra_json_schema or {}).get("description", "")
            at = at.type
        elif isinstance(at, inspect.UnionType):
            several = [one for one in at.types if not isinstance(one, inspect.NoneType)]
            if len(several) != 1:
                return at, says
            at = several[0]
        else:
            return at, says
